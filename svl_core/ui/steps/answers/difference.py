"""Fold of step "answers": what a drop does to the importance of the patches."""

from __future__ import annotations

import gradio as gr
import numpy as np

import svl_core as svl
from svl_core import figures
from svl_core.service.derived import importance_of
from svl_core.ui import texts, views
from svl_core.ui.drawing import Update, View, places_of, range_of
from svl_core.ui.figure import ANSWERS, card
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import Page
from svl_core.ui.work.ranking import LATEST, PLAN_IN

SMALL = 320  # pixels of each picture


# --------------------------------------------------------------------------------- figures
def draw_difference(shown: View) -> str:
    """Markup of the three pictures once both answers ran with this plan; a sentence where there is
    nothing to compare, empty before.
    """
    if not shown.answered:
        return ""
    sample = shown.analysis.sample
    if not sample.images or not len(sample.visual):
        return views.read(texts.NO_PLACES_NOTE if sample.images else texts.NO_IMAGE_NOTE)
    if not shown.strip["drop"]:
        return views.read("No layer is dropped, so both maps are the same.")
    if shown.pruned_trace is None:
        return ""
    kept = [layer for layer in range(len(shown.layer_ids)) if layer not in shown.strip["drop"]]
    if not shown.settings.all_layers and shown.settings.layer not in kept:
        last = len(shown.layer_ids) - 1
        layer = shown.layer_ids[min(shown.settings.layer, last)]
        return views.note(
            f"Layer {layer} is dropped, so there is nothing to compare in it; choose another layer"
            " in step 2, or all of them."
        )
    return _pictures(shown, kept)


def _pictures(shown: View, kept: list[int]) -> str:
    full, pruned = _maps(shown, kept)
    where = f"averaged over the {len(kept)} layers that both models have"
    if not shown.settings.all_layers:
        where = f"in layer {shown.layer_ids[shown.settings.layer]}"
    change = full - pruned
    span = range_of(np.concatenate([full, pruned]))
    most = float(np.nanmax(np.abs(change))) or 1e-9
    most_changed = int(np.argmax(np.abs(change)))
    sample, opacity = shown.analysis.sample, max(shown.settings.opacity, 0.6)
    image, places = figures.sized(sample.images[0], SMALL), places_of(sample)

    def overlay(scores: np.ndarray, **drawn):
        settings = {"opacity": opacity, "scale": span, "width": SMALL, **drawn}
        return figures.overlay(image, places, scores, **settings)

    diverging = {"opacity": max(opacity, 0.75), "scale": (-most, most), "diverging": True}
    pictures = [
        views.picture(
            "Full model",
            overlay(full),
            f"Importance of {len(full)} patches in the full model, {where}.",
        ),
        views.picture(
            "Pruned model",
            overlay(pruned),
            f"Importance of the same patches in the pruned model, {where}, on the same scale.",
        ),
        views.picture(
            "Full minus pruned",
            overlay(change, **diverging),
            f"Full minus pruned: from {-most:.3f} to {most:.3f}; patch {most_changed} changes"
            " most.",
        ),
    ]
    scales = views.scale(*span) + views.scale(-most, most, "diverging")
    reading = f"{moved_share(full, pruned)} {where[0].upper()}{where[1:]}."
    return (
        f'<p class="read">{reading}</p><div class="three">{"".join(pictures)}</div>'
        f'<div class="three">{scales}</div>{_numbers(full, pruned)}'
    )


def _maps(shown: View, kept: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(V,), (V,) importance of the patches in the full and in the pruned model, of the layer that
    is looked at or averaged over the layers that both have.
    """
    settings = shown.settings
    full = importance_of(shown.analysis, settings).visual[0][kept]
    pruned = svl.importance(
        shown.pruned_trace.trace,
        causal_correction=settings.causal_correction,
        text_self=settings.text_self,
    ).visual[0]
    if not settings.all_layers:
        place = kept.index(settings.layer)
        full, pruned = full[place : place + 1], pruned[place : place + 1]
    return np.nanmean(full, axis=0), np.nanmean(pruned, axis=0)


def _numbers(full: np.ndarray, pruned: np.ndarray) -> str:
    rows = [("patch", "full", "pruned", "difference")]
    for patch, (ours, theirs) in enumerate(zip(full, pruned, strict=True)):
        rows.append((str(patch), f"{ours:.4f}", f"{theirs:.4f}", f"{ours - theirs:+.4f}"))
    return views.numbers("difference", rows)


def moved_share(full: np.ndarray, pruned: np.ndarray) -> str:
    """(V,), (V,) scores -> how much of the importance went to other patches: half the sum of
    |differences| of the normed maps.
    """
    if not np.nansum(full) or not np.nansum(pruned):
        return ""
    change = full / np.nansum(full) - pruned / np.nansum(pruned)
    moved = 0.5 * float(np.nansum(np.abs(change)))
    return f"<strong>{100 * moved:.1f} %</strong> of the importance went to other patches."


DIFFERENCE = card(
    "difference",
    wait="Appears with the answers.",
    draw=draw_difference,
    redrawn=(ANSWERS,),
    heading="Importance, full minus pruned",
    reading=(
        "Scores as published, full and pruned model on one colour scale. On the right, <strong>blue"
        " with +</strong>: the full model relies on the patch more; <strong>orange with −</strong>:"
        " the pruned one does."
    ),
    why=(
        "Both maps are averaged over the layers that both models have, so that a dropped layer's"
        " own taste does not count as a change. Where the map moves although the answer stays, the"
        " model found another way to the same word; where it moves to the wrong object, the drop"
        " cost it the binding."
    ),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Column(elem_id="difference-section"):
        page.show(DIFFERENCE)


def wire(page: Page) -> None:
    """The layer controls of step "look" hold here too."""
    for moved in (page["layer"].input, page["all_layers"].input):
        page.on(moved, redraw, PLAN_IN, [DIFFERENCE.name], **LATEST)


# -------------------------------------------------------------------------------- handlers
def redraw(page: Page, state: dict | None, strip: dict | None, settings: Settings) -> Update:
    """Another layer is looked at."""
    if not state or not strip:
        return {}
    return {DIFFERENCE.name: draw_difference(page.view(state, settings, strip))}
