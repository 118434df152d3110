"""What handlers take and give: a page of a model, events, and updates put together."""

from types import SimpleNamespace

import gradio as gr
from gradio.utils import get_upload_folder

from svl_core.service.limits import HOME
from svl_core.service.stores import Models
from svl_core.service.workspace import Workspace
from svl_core.ui.page import lay_out

LINK = ("", None)  # origin of the image, layers that a link asks for


def page_of(model, scene_models=frozenset(), limits=HOME):
    """A page with all its steps, which nobody serves."""
    workspace = Workspace(Models(model), frozenset(scene_models), limits, get_upload_folder)
    with gr.Blocks() as blocks:
        return lay_out(blocks, workspace)


def event(**values):
    """What an event brings, by name."""
    return SimpleNamespace(**values)


def last(updates):
    """All updates of a generator, later ones over earlier ones."""
    joined = {}
    for update in updates:
        joined |= update
    return joined
