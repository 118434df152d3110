"""The page: layout, handlers, parts and theme. No maths."""

from svl_core.ui.page import build, launch_options

__all__ = ["build", "launch_options"]
