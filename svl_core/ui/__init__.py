"""The page: layout, handlers, parts and theme. No maths."""

from svl_core.errors import InputError
from svl_core.service.address import checked_port
from svl_core.service.start import briskly
from svl_core.ui.gradio_patches import stubs

with briskly(), stubs.apply():
    from svl_core.service.heap import few_arenas
    from svl_core.service.limits import from_environment
    from svl_core.service.logs import structured
    from svl_core.service.uploads import upload_folder
    from svl_core.ui.page import build, launch_options
    from svl_core.ui.serving import until_told

__all__ = [
    "InputError",
    "build",
    "checked_port",
    "few_arenas",
    "from_environment",
    "launch_options",
    "structured",
    "until_told",
    "upload_folder",
]
