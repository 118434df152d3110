"""Fold of step "share": the result as a picture."""

from __future__ import annotations

import gradio as gr

from svl_core.errors import InputError
from svl_core.ui import card, photo, views
from svl_core.ui.drawing import Update, View, visual_kept
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import Page
from svl_core.ui.work.answering import NOT_ANALYSED
from svl_core.ui.work.ranking import PLAN_IN


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("card", gr.Button("Download the result card (PNG)", elem_id="card"))
    page.add_file("card", "Card")


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    page.writes_file("card", write, PLAN_IN)


# -------------------------------------------------------------------------------- handlers
def write(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Update:
    """The card as a file. Raises InputError before both models answered."""
    if not state or not strip:
        raise InputError(NOT_ANALYSED)
    content = card.png(result_of(page.view(state, settings, strip)))
    path = page.new_file("short-lvlm-result.png", content, request)
    return {"card-file": str(path)}


def result_of(view: View) -> card.Result:
    """What the page shows. Raises InputError before both models answered."""
    comparison, strip = view.comparison, view.strip
    if comparison is None:
        raise InputError(
            "Found no answers to this plan yet; expected those of both models; press Compare"
            " answers first."
        )
    kept = visual_kept(view.analysis, view.settings)
    layers, dropped = len(strip["ids"]), len(strip["drop"])
    figures = f"KL {comparison.kl:.3f}, agreement {100 * comparison.agreement:.0f} %."
    outside = photo.is_outside(view.workspace, view.state)
    verdict = views.verdict(comparison, dropped, layers, kept, outside)
    images = view.analysis.sample.images
    return card.Result(
        images[0] if images else None,
        view.state["prompt"],
        strip["ids"],
        strip["drop"],
        strip["protected"],
        comparison.full.text,
        comparison.pruned.text,
        f"{verdict} {figures}",
    )
