"""Page section: what a drop does to the importance of the patches; drawn by `drawing.difference`."""

from __future__ import annotations

import gradio as gr

from svl_core.ui import drawing, headings, parts
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Wiring


def layout(c: dict) -> None:
    with gr.Column(elem_id="difference-section"):
        headings.figure_head("difference")
        c["difference"] = parts.view("difference", classes="card", wait="Appears with the answers.")
        headings.why("difference")


def wire(w: Wiring) -> None:
    """The layer controls of step 2 hold here too."""

    def redraw(state, strip, *settings):
        return (
            {
                "difference": drawing.difference(
                    w.desk.analysis_of(state), Settings.of(settings), strip
                )
            }
            if state and strip
            else {}
        )

    for moved in (w.c["layer"].input, w.c["all_layers"].input):
        w.on(moved, redraw, w.plan_in, ["difference"], trigger_mode="always_last", **QUICK)
