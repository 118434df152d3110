"""The dock: the drop slider, the layers and both answers in brief, in reach wherever one reads."""

from __future__ import annotations

import gradio as gr

from svl_core.ui import parts, photo, views
from svl_core.ui.drawing import View
from svl_core.ui.figure import ANALYSED, ANSWERS, PLAN, Shown, view
from svl_core.ui.state import exports
from svl_core.ui.state.strip import droppable, in_words
from svl_core.ui.wiring import Page, stop_all
from svl_core.ui.work.answering import start_comparison, then_live
from svl_core.ui.work.ranking import LATEST, PLAN_IN, redraw_plan, start_redrawing

MOST = 14  # droppable layers of the bundled model, until another one is analysed

# The strip follows the slider in the browser, without a round trip.
FROM_RANKING = "(count, strip) => strip ? svl.dropping(strip, svl.chosen(strip, count)) : strip"


# --------------------------------------------------------------------------------- figures
def bound_drop(shown: View) -> object:
    most, count = max(1, droppable(shown.strip)), len(shown.strip["drop"])
    return gr.update(maximum=most, value=count, interactive=True)


def draw_plan_line(shown: View) -> str:
    return views.plan_line(in_words(shown.strip))


def draw_glance(shown: View) -> str:
    comparison = shown.comparison
    if comparison is None:
        return ""
    return views.glance(
        comparison.full.text,
        comparison.pruned.text,
        len(shown.strip["ids"]),
        len(shown.strip["drop"]),
        outside=photo.is_outside(shown.workspace, shown.state),
    )


def draw_address(shown: View) -> str:
    return exports.query(shown.state, shown.strip, shown.settings)


def _drop_slider(name: str) -> gr.Slider:
    return gr.Slider(0, MOST, 0, step=1, label="Layers to drop", elem_id=name, interactive=True)


DROP = Shown(name="drop", make=_drop_slider, draw=bound_drop, redrawn=(ANALYSED,))
PLAN_LINE = view("plan-line", draw=draw_plan_line, redrawn=(PLAN,))
ADDRESS = Shown(name="address", make=parts.address, draw=draw_address, redrawn=(PLAN,))
GLANCE = view("glance", draw=draw_glance, redrawn=(ANSWERS,))


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Column(elem_id="dock"):
        with gr.Column(elem_id="bar"):
            page.settle(page.show(DROP))
            with gr.Row(elem_classes="go"):
                run = gr.Button("Compare answers", variant="primary", elem_id="run", min_width=0)
                page.add("run", run)
                page.add("stop", gr.Button("Stop", elem_id="stop", min_width=0))
                parts.sheet("sheet")
                parts.view("share-below", views.share())  # where the hero's answers are hidden
            page.show(GLANCE)
        with gr.Column(elem_id="layer-bar"):
            page.add("strip", parts.strip("strip"))
            page.show(PLAN_LINE)
            page.show(ADDRESS)
    opening = page.opening
    if opening:
        page["drop"].value = opening.example.count
        page["strip"].value = opening.strip_value()
        page["glance"].value = opening.glance(opening.example.count)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    start_comparison(page, page.halt(page["run"].click).then)
    page.on(page["stop"].click, stop_all, [], ["status"], queue=False)
    page["drop"].input(
        None,
        [page["drop"], page["strip"]],
        page["strip"],
        js=FROM_RANKING,
        show_progress="hidden",
        api_visibility="private",
    )
    settled, drawn = page.settled(page["drop"]), page.redrawn(PLAN)
    then_live(page, page.on(settled, redraw_plan, PLAN_IN, drawn, **LATEST))
    then_live(page, start_redrawing(page, page["strip"].toggle, **LATEST))
