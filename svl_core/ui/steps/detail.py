"""Part of step "ask": how closely the image is looked at, and what the page chose by itself."""

from __future__ import annotations

import gradio as gr

import svl_core as svl
from svl_core import recipe
from svl_core.ui import views
from svl_core.ui.controls import ALONE
from svl_core.ui.drawing import Update, View
from svl_core.ui.figure import ANALYSED, Shown, view
from svl_core.ui.wiring import QUICK, Page
from svl_core.ui.work.analysing import start_analysis

CHOICES = [
    ("Automatic", recipe.AUTO),
    ("Full", recipe.FULL),
    ("Balanced", recipe.BALANCED),
    ("Quick", recipe.QUICK),
]
INFO = "How closely the image is looked at; more visual tokens take longer"


# --------------------------------------------------------------------------------- figures
def bound_detail(shown: View) -> object:
    """How many visual tokens each choice gives for this image."""
    sample = shown.analysis.sample
    extents = _lvlm(shown).reader.sizes.extents(_pictures(shown))
    if extents:
        counts = ", ".join(f"{name} {extent.tokens:,}" for name, extent in extents.items())
        info = f"Visual tokens of this image: {counts}"
    elif sample.images:
        counted = f": {len(sample.visual):,} visual tokens" if len(sample.visual) else ""
        info = f"This model reads every image in one size{counted}"
    else:
        info = INFO
    return gr.update(info=info, interactive=bool(extents))


def draw_note(shown: View) -> str:
    """Which detail the page chose, and why."""
    if not _chose_less(shown):
        return ""
    why = _lvlm(shown).detail_for(_pictures(shown)).reason
    return views.note(f"{shown.state['detail'].capitalize()} detail was chosen. {why}".strip())


def draw_full(shown: View) -> object:
    return gr.update(visible=_chose_less(shown))


def _chose_less(shown: View) -> bool:
    """Whether the page chose less than full detail."""
    read = shown.state.get("detail", recipe.FULL)
    return shown.settings.detail == recipe.AUTO and read != recipe.FULL


def _pictures(shown: View) -> list:
    """The sizes of the images as they were given; those that are kept may be smaller."""
    from svl_core.lvlm.detail import Size

    return [Size(*size) for size in shown.analysis.sample.image_sizes]


def _lvlm(shown: View) -> svl.LVLM:
    return shown.workspace.load_model(shown.state["model"])


def _full_button(name: str) -> gr.Button:
    return gr.Button("Show full detail", visible=False, elem_id=name, size="sm")


NOTE = view("detail-note", draw=draw_note, redrawn=(ANALYSED,))
FULL = Shown(name="full-detail", make=_full_button, draw=draw_full, redrawn=(ANALYSED,))


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.control(
        "detail",
        choices=CHOICES,
        label="Visual detail",
        info=INFO,
        moves=ALONE,
        bounded=bound_detail,
    )
    page.show(NOTE)
    page.show(FULL)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    start_analysis(page, page.halt(page["detail"].input).then)
    full = page.on(page["full-detail"].click, full_detail, [], ["detail"], **QUICK)
    start_analysis(page, page.halt(full.then).then)


# -------------------------------------------------------------------------------- handlers
def full_detail(page: Page) -> Update:
    """What one click on the page's note asks for."""
    return {"detail": recipe.FULL}
