"""Step "look": which patches and words matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import gradio as gr
import numpy as np

from svl_core import figures
from svl_core.analysis.importance import SCORED, SINK_AWARE
from svl_core.analysis.ranking import top_p_of
from svl_core.service.derived import baseline_of, importance_of, patches_of, tokens_key
from svl_core.ui import headings, parts, texts, views
from svl_core.ui.controls import ALONE, LOOKS, RANKS
from svl_core.ui.drawing import Update, View, figure, patch_at, places_of, range_of
from svl_core.ui.figure import LOOK, Figure, Shown, card, view
from svl_core.ui.state.settings import CORRECTED, PUBLISHED, Settings
from svl_core.ui.wiring import QUICK, Page, picked
from svl_core.ui.work.ranking import LATEST, LOOK_IN, look

MAPS = (("Corrected for position", CORRECTED), ("Scores as published", PUBLISHED))
TITLE = "Which patches and words matter"
LEDE = (
    "Token importance scores tell which patches and words the model's attention relies on."
    " Short-LVLM judges layers on these tokens only."
)


# --------------------------------------------------------------------------------- figures
def _patches(shown: View) -> tuple[np.ndarray, tuple[float, float]]:
    """(V,) what the map shows of each patch, and the colours' range."""
    layers = _every_layer(shown)
    if shown.settings.all_layers:
        average = np.nanmean(layers, axis=0)
        return average, range_of(average)
    return layers[_layer(shown)], range_of(layers)


def _every_layer(shown: View) -> np.ndarray:
    """(L, V) what the map shows of each patch."""
    return patches_of(shown.analysis, shown.settings, _is_corrected(shown))


def _is_corrected(shown: View) -> bool:
    return shown.settings.map == CORRECTED


def _words(shown: View) -> np.ndarray:
    """(T,) scores of the words that are looked at."""
    importance = importance_of(shown.analysis, shown.settings)
    if shown.settings.all_layers:
        return importance.averaged(0)[1]
    return importance.layer(0, _layer(shown))[1]


def _counting(shown: View) -> tuple[np.ndarray, np.ndarray]:
    """(V,) and (T,): whether a patch and a word count as important."""
    visual, text = importance_of(shown.analysis, shown.settings).averaged(0)
    top_p = top_p_of(shown.settings)
    return top_p.select(visual), top_p.select_text(text)


def _layer(shown: View) -> int:
    return min(shown.settings.layer, shown.analysis.trace.num_layers - 1)


def _has_picture(shown: View) -> bool:
    sample = shown.analysis.sample
    return bool(sample.images) and len(sample.visual) > 0


def draw_overlay(shown: View) -> dict | None:
    """The image with its importance; the last one alone is stored, for many would push out rankings
    that took passes.
    """
    if not _has_picture(shown):
        return None
    analysis, settings, patch = shown.analysis, shown.settings, shown.of_focus("patch")
    scores, span = _patches(shown)
    counting, _ = _counting(shown)
    layer = None if settings.all_layers else _layer(shown)
    wanted = tokens_key(settings), layer, settings.opacity, settings.map, patch
    drawn, source = analysis.memo.get("overlay") or (None, "")
    if drawn != wanted:
        image = figures.overlay(
            analysis.sample.images[0],
            places_of(analysis.sample),
            scores,
            counting,
            opacity=settings.opacity,
            scale=span,
            focus=patch,
        )
        source = views.data_url(image)
        analysis.memo.put("overlay", (wanted, source))
    rows, columns = analysis.sample.geometry.grid or (0, 0)
    where = "averaged over all layers"
    if layer is not None:
        where = f"in layer {shown.layer_ids[layer]}"
    if _is_corrected(shown):
        where += ", corrected for position"
    counted = f"{int(counting.sum())} count"
    return {
        "src": source,
        "rows": rows,
        "columns": columns,
        "alt": f"Importance of {len(scores)} image patches {where}; {counted}.",
    }


def draw_scale(shown: View) -> str:
    return views.scale(*_patches(shown)[1]) if _has_picture(shown) else ""


def draw_map_note(shown: View) -> str:
    """What was taken out of the map, and whether outlines and ranking use the same scores."""
    if not _has_picture(shown):
        return ""
    scores = "as published"
    if shown.settings.causal_correction:
        scores = "divided by the number of queries that see each token"
    users = "The outline uses"
    if shown.settings.criterion == "svl":
        users = "The outline and the ranking of the layers use"
    if _is_corrected(shown):
        left_out = baseline_of(shown.analysis, shown.settings).in_words
        return views.read(
            f"Corrected for position: 0 is {left_out}. {users} other scores, {scores}."
        )
    return views.read(
        f"{users} these scores, {scores}. Early patches, at the top left, get more whatever the"
        " image shows."
    )


def draw_overlay_note(shown: View) -> str:
    sample = shown.analysis.sample
    if not sample.images:
        return views.note(texts.NO_IMAGE_NOTE)
    if np.isnan(sample.geometry.rects).all():
        return views.note(texts.NO_PLACES_NOTE)
    return ""


def draw_tokens(shown: View) -> str:
    sample = shown.analysis.sample
    return views.words(
        [sample.tokens[position] for position in sample.textual],
        _words(shown),
        _counting(shown)[1],
        np.isin(sample.textual, sample.prompt_positions),
        shown.of_focus("word"),
    )


def draw_token_curve(shown: View) -> dict | None:
    """The picked patch or word, layer by layer."""
    importance, sample = importance_of(shown.analysis, shown.settings), shown.analysis.sample
    patch, word = shown.of_focus("patch"), shown.of_focus("word")
    if patch is not None:
        label = f"patch {patch}{', corrected' if _is_corrected(shown) else ''}"
        values = _every_layer(shown)[:, patch]
    elif word is not None:
        token = sample.tokens[sample.textual[word]].strip()
        values, label = importance.text[0][:, word], f"“{token}”"
    else:
        return None
    ids = shown.layer_ids
    largest = ids[int(np.argmax(values))]
    return figure(
        figures.token_curve(values, label, ids=ids),
        f"Importance of {label} in each layer; largest in layer {largest}.",
    )


OVERLAY = Figure(
    name="overlay",
    make=parts.picture,
    draw=draw_overlay,
    redrawn=(LOOK,),
    report=True,
    heading="Importance over the image",
    reading=(
        "<strong>Bright</strong>: the model's attention falls on this patch more than its place in"
        " the image alone explains. The <strong>teeth</strong> of the white outline point at the"
        " patches that count when layers are ranked. Click a patch for its layer-by-layer curve."
    ),
    why=(
        "A visual token's score is the mean of two averages: the attention it receives from the"
        " other patches and the attention it receives from the words, averaged over heads (and over"
        " layers unless you pick one). Under a causal mask an early patch is seen by more tokens,"
        " and each of them has fewer others to look at, so published scores mostly fall from the"
        " first patch to the last. The map takes that out; the method ranks layers with it in."
        " Top-p keeps the best share p of the patches and of the words, each on its own."
    ),
    beside=(
        view("scale", draw=draw_scale, redrawn=(LOOK,)),
        view("map-note", draw=draw_map_note, redrawn=(LOOK,)),
        view("overlay-note", draw=draw_overlay_note, redrawn=(LOOK,)),
    ),
)
TOKENS = card(
    "tokens",
    draw=draw_tokens,
    redrawn=(LOOK,),
    heading="Importance over the prompt",
    reading=(
        "The <strong>bar</strong> under a token is its score, as published; solid frames count,"
        " dashed ones do not. Italic tokens belong to the chat template."
    ),
    why=(
        "A text token's score is the mean of how much it looks at the image and how much attention"
        " it receives from the other text tokens."
    ),
)
TOKEN_CURVE = Shown(
    name="token-curve",
    make=partial(parts.plot, wait="Click a patch or a token for its importance layer by layer."),
    draw=draw_token_curve,
    redrawn=(LOOK,),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    headings.step(2, TITLE, LEDE)
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=4):
            page.show(OVERLAY)
            page.control("map", label="The map shows", choices=list(MAPS), moves=LOOKS)
        with gr.Column(scale=5):
            page.show(TOKENS)
            with gr.Group():
                page.control("all_layers", label="All layers (average)", moves=LOOKS)
                page.control(
                    "layer",
                    info="Moving it shows one layer alone, all layers on one colour scale",
                    maximum=15,
                    moves=ALONE,
                    bounded=_bound_layer,
                )
                page.control(
                    "top_p",
                    label="Top-p",
                    info="Share of the patches, and of the words, that count",
                    minimum=0.05,
                    moves=RANKS,
                )
                page.control(
                    "text_ends",
                    label="First and last word",
                    info="Attention rests on the first whatever it says; the answer begins at the"
                    " last",
                    choices=[
                        ("count by their scores", SCORED),
                        ("first never, last always", SINK_AWARE),
                    ],
                    moves=RANKS,
                )
                page.control("opacity", label="Overlay opacity", moves=LOOKS)
            page.show(TOKEN_CURVE)


def _bound_layer(shown: View) -> object:
    last = len(shown.layer_ids) - 1
    return gr.update(maximum=max(1, last), value=min(shown.settings.layer, last))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    outputs = page.redrawn(LOOK)
    page.on(page["layer"].input, look_at_layer, LOOK_IN, [*outputs, "all_layers"], **LATEST)
    patch = page.on(page["overlay"].pick, pick_patch, ["state"], ["focus"], **LATEST)
    word = page.on(page["tokens"].pick, picked(pick_word, int), [], ["focus"], **LATEST)
    for focused in (patch, word):
        page.on(focused.then, look, LOOK_IN, outputs, **QUICK)


# -------------------------------------------------------------------------------- handlers
def look_at_layer(
    page: Page, state: dict | None, focus: Mapping | None, settings: Settings
) -> Update:
    """The layer slider moved: that layer alone."""
    if not state:
        return {}
    alone = replace(settings, all_layers=False)
    return {"all_layers": False, **look(page, state, focus, alone)}


def pick_word(page: Page, index: int) -> Update:
    return {"focus": {"kind": "word", "index": index}}


def pick_patch(page: Page, state: dict | None, event: gr.EventData) -> Update:
    """Where the image was clicked (x, y in 0..1) -> the smallest patch there, as the focus."""
    if not state:
        return {"focus": None}
    rects = page.workspace.analysis_of(state).sample.geometry.rects
    patch = patch_at(rects, event.x, event.y)
    return {"focus": None if patch is None else {"kind": "patch", "index": patch}}
