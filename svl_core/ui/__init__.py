"""The page: layout, handlers, parts and theme. No maths."""

from svl_core.ui.service.start import briskly, patiently, without_stubs

with briskly(), without_stubs():
    from svl_core.ui.page import build, launch_options
    from svl_core.ui.service.guests import upload_folder
    from svl_core.ui.service.heap import few_arenas
    from svl_core.ui.service.limits import from_environment
    from svl_core.ui.service.logs import structured

__all__ = [
    "build",
    "few_arenas",
    "from_environment",
    "launch_options",
    "patiently",
    "structured",
    "upload_folder",
]
