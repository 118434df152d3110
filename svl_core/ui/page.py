"""The page: its steps, one after the other."""

from __future__ import annotations

import gradio as gr
from gradio.utils import get_upload_folder

from svl_core.service.deployment import models_for
from svl_core.service.limits import HOME, Limits, on_zero_gpu
from svl_core.service.start import libraries
from svl_core.service.workspace import Workspace
from svl_core.ui import api, parts, texts
from svl_core.ui.gradio_patches import begun_uploads, environment, undecoded_images, unplotted
from svl_core.ui.serving import launch_options, serve
from svl_core.ui.steps import answers, ask, evidence, gap, head, hero, layers, look, share, words
from svl_core.ui.wiring import Page

__all__ = ["build", "launch_options"]

STEPS = (head, hero, ask, look, layers, gap, answers, words, evidence, share)

FIRST = (head, hero)
"""What is built at once; the other steps are built when they come near, or when there is time."""
SHOWN = "() => ({ __type__: 'update', visible: true })"


def build(
    model: object = "demo", *, knows_scenes: bool | None = None, limits: Limits = HOME
) -> gr.Blocks:
    """The page as gr.Blocks, its first model loading in the background.

    model: "demo", a Hub id, a local folder, or a ready LVLM.
    knows_scenes: whether that model knows the bundled scenes, so that compensation is fitted on
        them (default: only "demo" does).
    limits: what a visitor may ask for.
    """
    if not isinstance(model, str) or on_zero_gpu():
        libraries()
    environment.apply()
    undecoded_images.apply()
    begun_uploads.apply()
    unplotted.apply()
    models = models_for(model, limits)
    if knows_scenes is None:
        knows_scenes = model == "demo"
    scene_models = frozenset({"demo", models.first} if knows_scenes else {"demo"})
    workspace = Workspace(models, scene_models, limits, get_upload_folder)
    with gr.Blocks(
        title=texts.TITLE,
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(min(limits.keep_s, 600), limits.keep_s),
    ) as blocks:
        page = lay_out(blocks, workspace)
        api.publish(blocks, workspace)
        serve(page)
    # last: its thread imports torch and transformers, which nothing above needs
    models.request(models.first)
    return blocks


def lay_out(blocks: gr.Blocks, workspace: Workspace) -> Page:
    """Every step with its events; call inside `blocks`."""
    page = Page(blocks, workspace)
    for step in STEPS:
        name = step.__name__.rsplit(".", 1)[-1]
        if step in FIRST:
            step.layout(page)
            continue
        with gr.Column(visible=False, elem_id=f"section-{name}") as section:
            step.layout(page)
        page.sections[name] = section
    page.add("bridge", parts.bridge(page.settling, list(page.sections)))
    for name, section in page.sections.items():
        near = getattr(page["bridge"], f"near_{name}")
        near(None, None, section, js=SHOWN, show_progress="hidden", api_visibility="private")
    for step in STEPS:
        step.wire(page)
    return page
