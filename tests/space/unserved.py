"""The page with all its steps, which nobody serves."""


def unserved(models, scene_models=frozenset(), limits=None):
    """`Page` over a workspace of `models`, within `limits` (default: the public ones)."""
    import gradio as gr  # here: on a lent GPU, `spaces` is imported first
    from gradio.utils import get_upload_folder

    from svl_core.service.limits import PUBLIC
    from svl_core.service.workspace import Workspace
    from svl_core.ui.page import lay_out

    workspace = Workspace(models, frozenset(scene_models), limits or PUBLIC, get_upload_folder)
    with gr.Blocks() as blocks:
        return lay_out(blocks, workspace)
