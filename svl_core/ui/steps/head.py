"""The head of the page: its title and the lesson; and what an address asks for."""

from __future__ import annotations

import gradio as gr

from svl_core.ui import examples, parts, texts, views
from svl_core.ui.drawing import Update
from svl_core.ui.state import exports
from svl_core.ui.steps import lesson
from svl_core.ui.steps.ask import SCENE, scene_update
from svl_core.ui.wiring import QUICK, Page, session_of
from svl_core.ui.work.analysing import start_analysis


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    for name in ("status", "visit"):
        page.add(name, parts.view(name))
    for name in ("state", "focus", "wanted"):
        page.add(name, gr.State(None))
    with gr.Row(elem_id="head"):
        with gr.Column(scale=5, min_width=300):
            gr.HTML(views.header(texts.TITLE, texts.LEDE), elem_id="title", padding=False)
        with gr.Column(scale=3, min_width=340):
            with gr.Row(elem_id="head-tools"):
                lesson.layout(page)
                parts.large_type("type")


MOST_REFUSED = 3  # sentences about an address that are shown


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    outputs = [*SCENE, "model", "wanted", "visit", *page.controls]
    opened = page.on(page.blocks.load, open_address, [], outputs, **QUICK)
    start_analysis(page, opened.then)
    lesson.wire(page)


# -------------------------------------------------------------------------------- handlers
def open_address(page: Page, request: gr.Request | None = None) -> Update:
    """The state that the page's address asks for, if it asks for any."""
    query = str(getattr(request, "query_params", "") or "")
    asked = exports.read_query(query)
    settings = asked["settings"]
    update: Update = {name: value for name, value in settings.items() if name in page.controls}
    update["visit"] = views.visit(session_of(request))
    if examples.from_origin(asked.get("image", "")):
        update |= scene_update(asked["image"])
    if asked.get("prompt"):
        update["prompt"] = asked["prompt"]
    if asked.get("model") and _is_offered(page, asked["model"]):
        update["model"] = asked["model"]
    if "drop" in asked:
        update["wanted"] = asked["drop"]
    refused = exports.refused_in(query)
    if refused:
        update["photo-note"] = views.note(" ".join(refused[:MOST_REFUSED]))
    return update


def _is_offered(page: Page, model: str) -> bool:
    limits = page.workspace.limits
    return limits.any_model or model in {entry.id for entry in limits.offered()}
