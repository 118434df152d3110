"""Step "layers": which layers are redundant, and other ways to choose them."""

from __future__ import annotations

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.service.derived import scores_key, scores_of
from svl_core.ui import headings, texts, views
from svl_core.ui.controls import ALONE
from svl_core.ui.drawing import Update, View, figure, matrix_of
from svl_core.ui.figure import PLAN, card, plot
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.steps import halves
from svl_core.ui.wiring import QUICK, Page, picked
from svl_core.ui.work.answering import then_live
from svl_core.ui.work.ranking import PLAN_IN, start_ranking, start_redrawing

TITLE = "Which layers are redundant"
LEDE = (
    "A layer whose output points the same way as its input did little. The closer its cosine is to"
    " 1, the safer it is to drop."
)
CURVES = {
    "important": "svl",
    "all": "svl-all",
    "visual": "svl-visual",
    "textual": "svl-textual",
    "last": "svl-last",
}
"""The token sets of the redundancy figure, and the criterion that averages over each."""


# --------------------------------------------------------------------------------- figures
def draw_redundancy(shown: View) -> dict:
    ids, ranked, settings = shown.layer_ids, shown.ranked, shown.settings
    curves = {
        tokens: scores_of(ranked, settings, criterion).scores
        for tokens, criterion in CURVES.items()
    }
    first = scores_of(ranked, settings, "svl").ranking[:3]
    best = ", ".join(str(ids[layer]) for layer in first)
    return figure(
        figures.redundancy_curve(
            curves, shown.strip["drop"], ids=ids, focus=shown.strip["ranking"]
        ),
        f"Redundancy of {len(ids)} layers on five token sets. Most redundant on important tokens:"
        f" layers {best}.",
    )


def draw_similarity(shown: View) -> dict:
    matrix = matrix_of(shown.analysis, shown.settings, shown.settings.token_set)
    drop = shown.strip["drop"] if shown.strip else ()
    return figure(
        figures.similarity_heatmap(matrix, drop, ids=shown.layer_ids),
        "Cosine similarity between the features after every two of"
        f" {shown.analysis.trace.num_layers} layers, on {shown.settings.token_set} tokens.",
    )


def draw_blocks(shown: View) -> dict:
    matrix = matrix_of(shown.analysis, shown.settings, shown.settings.token_set)
    ranking, drop = shown.strip["ranking"], shown.strip["drop"]
    return figure(
        figures.block_heatmap(matrix, ranking, drop, ids=shown.layer_ids),
        "Cosine between what enters and what leaves every block of droppable layers.",
    )


def draw_criteria(shown: View) -> str:
    """Every criterion's choice; None for one that would have to run the model."""
    strip, rows = shown.strip, []
    for name, criterion in svl.CRITERIA.items():
        if criterion.needs == "layers":
            continue
        if criterion.needs == "trace":
            scores = scores_of(shown.ranked, shown.settings, name)
        else:
            scores = shown.ranked.memo.get(scores_key(name, shown.settings))
        chosen = None
        if scores is not None:
            chosen = scores.chosen(min(len(strip["drop"]), scores.most))
        rows.append((name, criterion.title, f"{criterion.formula} ({criterion.source})", chosen))
    layers, protected = len(strip["ids"]), strip["protected"]
    return views.criteria(rows, layers, protected, ranked_by(strip), strip["drop"])


def _with_tokens(shown: View) -> str:
    """The similarity's heading in the report, where no control tells its tokens."""
    tokens = {name: title for title, name in texts.TOKEN_SETS}
    return f"{SIMILARITY.heading}: {tokens[shown.settings.token_set]}"


REDUNDANCY = plot(
    "redundancy",
    draw=draw_redundancy,
    redrawn=(PLAN,),
    report=True,
    heading="Redundancy of every layer",
    reading=(
        "<strong>Higher is more redundant.</strong> Crosses mark the dropped layers, arrows"
        " protected ones far below. Where the lines part, the choice of tokens decides which layers"
        " go."
    ),
    why=(
        "For every layer l the figure shows the mean of cos(H[l], H[l+1]) over the tokens of a set,"
        " where H[l] is what enters the layer and H[l+1] what leaves it, before the final norm."
        " Averaging over all tokens lets the many unimportant ones decide; Short-LVLM averages over"
        " the important ones."
    ),
)
SIMILARITY = plot(
    "similarity",
    draw=draw_similarity,
    redrawn=(PLAN,),
    report=True,
    report_heading=_with_tokens,
    heading="Similarity between layers",
    reading=(
        "<strong>Bright blocks on the diagonal</strong> are stretches of layers that change little."
        " Orange frames mark what you drop."
    ),
    why=(
        "The cell in row i and column j is the mean cosine between the features after layers i and"
        " j. A bright square of several layers can often go as one block."
    ),
)
BLOCKS = plot(
    "blocks",
    draw=draw_blocks,
    redrawn=(PLAN,),
    heading="Blocks of layers",
    reading=(
        "Each cell is a block: where it starts, how many layers it has. <strong>Bright blocks"
        " change little; click one to drop it.</strong>"
    ),
    why=(
        "The cell compares what enters the block with what leaves it: cos(H[s], H[s+n]), averaged"
        " over the tokens chosen for the heatmap. Methods such as PruneMe and LLM-Streamline drop"
        " one whole block; Short-LVLM may drop layers here and there."
    ),
)
CRITERIA = card(
    "criteria",
    draw=draw_criteria,
    redrawn=(PLAN,),
    heading="Every criterion's choice",
    reading=(
        "One row a criterion, at the same number of layers: gaps are dropped. <strong>Click a row"
        " to take its plan.</strong>"
    ),
    why=(
        "All criteria see the same forward pass, but for those that run the model again with layers"
        " skipped. Where their rows differ, they disagree about which layers do little; the answers"
        " tell who was right."
    ),
)
HEATMAPS = (SIMILARITY, BLOCKS)
FOLDED = (BLOCKS, CRITERIA)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    headings.step(3, TITLE, LEDE)
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            page.show(REDUNDANCY)
        with gr.Column(scale=4):
            page.show(SIMILARITY)
            page.control(
                "token_set",
                component=gr.Dropdown,
                choices=list(texts.TOKEN_SETS),
                label="Tokens of the heatmaps",
                moves=ALONE,
            )
    fold = "Choose otherwise: whole blocks, other criteria"
    with page.add("choose", gr.Accordion(fold, open=False, elem_id="choose")):
        with gr.Row(elem_classes="pair"):
            with gr.Column(scale=5):
                page.show(BLOCKS)
            with gr.Column(scale=5):
                page.show(CRITERIA)
    halves.layout(page)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    # what a closed fold is sent, it loses
    folded = [shown.name for shown in FOLDED]
    page.on(page["choose"].expand, redraw_folded, PLAN_IN, folded, **QUICK)
    heatmaps = [shown.name for shown in HEATMAPS]
    page.on(page["token_set"].input, redraw_heatmaps, PLAN_IN, heatmaps, **QUICK)
    block = page.on(page["plot-blocks"].pick, pick_block, ["strip"], ["strip"], **QUICK)
    then_live(page, start_redrawing(page, block.then))
    handler = picked(pick_criterion, str)
    criterion = page.on(page["criteria"].pick, handler, [], ["criterion"], **QUICK)
    then_live(page, start_ranking(page, criterion.then))
    halves.wire(page)


# -------------------------------------------------------------------------------- handlers
def redraw_folded(page: Page, state: dict | None, strip: dict | None, settings: Settings) -> Update:
    """The fold was opened: its figures."""
    if not state or not strip:
        return {}
    view = page.view(state, settings, strip)
    return {shown.name: shown.draw(view) for shown in FOLDED}


def redraw_heatmaps(
    page: Page, state: dict | None, strip: dict | None, settings: Settings
) -> Update:
    """Other tokens were chosen: the figures of their cosines."""
    if not state:
        return {}
    view = page.view(state, settings, strip)
    return {shown.name: shown.draw(view) for shown in HEATMAPS}


def pick_criterion(page: Page, name: str) -> Update:
    return {"criterion": name}


def pick_block(page: Page, strip: dict | None, event: gr.EventData) -> Update:
    """A cell of the block heatmap: x the first layer, y the number of layers."""
    if not strip:
        return {}
    first, size = int(event.x), int(event.y)
    block = sorted(layer for layer in strip["ranking"] if first <= layer < first + size)
    return {"strip": {**strip, "drop": block}}
