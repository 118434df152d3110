"""Step "gap": what a drop tears open."""

from __future__ import annotations

import gradio as gr
import numpy as np

import svl_core as svl
from svl_core import figures
from svl_core.analysis.ranking import top_p_of
from svl_core.service.derived import importance_of, tokens_key
from svl_core.ui import headings
from svl_core.ui.drawing import View, figure, gap_of
from svl_core.ui.figure import ANSWERS, PLAN, plot
from svl_core.ui.wiring import Page

TITLE = "What a drop tears open"
LEDE = (
    "Take layers out and the next one receives features it was never trained on. The gap says how"
    " far off they are; compensation tries to close it."
)
PCA_TOKENS = 512  # drawn at most, evenly spaced among the important ones


# --------------------------------------------------------------------------------- figures
def draw_gap(shown: View) -> dict:
    gap, drop = gap_of(shown), shown.strip["drop"]
    runs = {(run.first, run.last): run.relative for run in gap.runs}
    return figure(
        figures.gap_curve(gap.per_layer, drop, runs, ids=shown.layer_ids),
        f"Relative feature gap of {len(shown.layer_ids)} layers; the dropped ones are hatched.",
    )


def draw_pca(shown: View) -> dict | None:
    """The plan's widest run: what the next layer receives, what it expects and, once the answers
    ran, the repair.
    """
    drop, analysis, settings = shown.strip["drop"], shown.analysis, shown.settings
    if not drop:
        return None
    first, last = figures.widest_run(drop)
    importance = importance_of(analysis, settings)
    important = svl.token_positions(analysis.trace, importance, "important", top_p_of(settings))[0]
    count = min(len(important), PCA_TOKENS)
    positions = important[np.linspace(0, len(important) - 1, count).astype(int)]
    features = analysis.trace.samples[0].features
    repaired = shown.pruned_trace if settings.fits else None

    def project():
        before, target = _rows(features, first, positions), _rows(features, last + 1, positions)
        return svl.pca_view(before, target)

    view = analysis.memoized(("pca", first, last, tokens_key(settings)), project)
    if repaired is not None:
        view = view.with_after(repaired.bridged[positions].float().cpu().numpy())
    ids = shown.layer_ids
    receives = f"layer {ids[first - 1]}" if first else f"into layer {ids[first]}"
    where = f"after kept {receives}" if first else receives
    names = (f"now ({receives})", f"wanted (layer {ids[last]})", "compensated")
    of_all = "" if count == len(important) else f" of the {len(important)}"
    return figure(
        figures.pca_scatter(view.before, view.target, view.after, view.explained, names=names),
        f"Features of {count}{of_all} important tokens {where} and after dropped layer"
        f" {ids[last]}, in two principal components.",
    )


def _rows(features, layer: int, positions: np.ndarray) -> np.ndarray:
    """(N, D) hidden states that enter a layer, at the given positions."""
    return features[layer][positions].float().cpu().numpy()


GAP = plot(
    "gap",
    draw=draw_gap,
    redrawn=(PLAN,),
    report=True,
    heading="Feature gap, layer by layer",
    reading=(
        "<strong>Tall bars change the features a lot.</strong> Hatched bars are dropped; the orange"
        " line is the gap of a whole dropped run."
    ),
    why=(
        "The relative gap of layer l is |H[l+1] - H[l]| / |H[l+1]| over the important tokens; for a"
        " run a..b it is |H[b+1] - H[a]| / |H[b+1]|. The next layer expects H[b+1] and now receives"
        " H[a]."
    ),
)
PCA = plot(
    "pca",
    wait="Appears once the image is analyzed and a layer is dropped.",
    draw=draw_pca,
    redrawn=(PLAN, ANSWERS),
    late=True,  # the server's first one waits for scikit-learn
    report=True,
    heading="Retained and dropped features",
    reading=(
        "<strong>Circles</strong>: what the next layer now receives. <strong>Diamonds</strong>:"
        " what it was trained on. Compensation should move the marks onto the diamonds."
    ),
    why=(
        "Both sets of features of the important tokens are projected onto their two principal"
        " components. SCP takes the leading right singular vectors V of H[b+1] - H[a] and edits the"
        " retained layer's output weights, W ← (I + strength · V Vᵀ) W; least squares fits the"
        " output weights to the features that are missing."
    ),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    headings.step(4, TITLE, LEDE)
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            page.show(GAP)
        with gr.Column(scale=4):
            page.show(PCA)


def wire(page: Page) -> None:
    """The plan redraws both figures, and the answers the second one; nothing here is clicked."""
