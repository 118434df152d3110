"""Where both models look while they write one word: every head's share on the image, one head's
map, and how attention splits.
"""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr
import numpy as np

import svl_core as svl
from svl_core import figures
from svl_core.errors import InputError
from svl_core.service.words import Looks
from svl_core.ui import texts, views
from svl_core.ui.drawing import Update, View, figure, places_in
from svl_core.ui.figure import ANSWERS, Shown, card, plot
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.words.chosen import chosen
from svl_core.ui.wiring import QUICK, SETTINGS, Page

WAIT = "Appears once a word is chosen."
PICKED = "words-picked"
SMALL = 320  # pixels of each picture
OFFERED = 5  # heads that are offered as buttons
GONE = (
    "Found a head of a word that is not kept any more; expected one that is; click its word again."
)


# --------------------------------------------------------------------------------- figures
def known(shown: View) -> Looks | None:
    """Where both models look for the chosen word, if it was read."""
    word = chosen(shown)
    return shown.words.known_looks(word) if word else None


def draw_grid(shown: View) -> dict | None:
    looks = known(shown)
    if looks is None:
        return None
    layers, heads = looks.full.image_share.shape
    both = "" if looks.pruned is None else ", and of those of the pruned model on the same scale"
    alt = (
        f"Share of the attention on the image of {layers} layers of {heads} heads while the full"
        f" model writes “{looks.full.token.strip()}”{both}."
    )
    return figure(figures.attention_grid(looks.full, looks.pruned), alt)


def said(shown: View) -> str:
    """Which word the figures are about."""
    looks = known(shown)
    return f"The word is “{looks.full.token.strip()}”." if looks else ""


def draw_split(shown: View) -> dict | None:
    looks = known(shown)
    if looks is None:
        return None
    both = "" if looks.pruned is None else ", and in the pruned model to its right"
    alt = (
        f"How the attention of “{looks.full.token.strip()}” splits over image, prompt, earlier"
        f" answer and first token in each layer of the full model{both}."
    )
    return figure(figures.attention_split(looks.full, looks.pruned), alt)


def draw_head(shown: View) -> str:
    """One head's map over the image, of both models on one scale, and the heads that look at the
    image most.
    """
    looks = known(shown)
    sample = shown.analysis.sample if looks else None
    if looks is None or sample is None:
        return ""
    if not sample.images or not len(sample.visual):
        return views.read(texts.NO_PLACES_NOTE if sample.images else texts.NO_IMAGE_NOTE)
    layer, head = picked_head(shown.picked, looks)
    maps = [
        _map_of(
            attention,
            layer,
            head,
        )
        for attention in (looks.full, looks.pruned)
    ]
    most = max(float(found.max()) for found in maps if found is not None and found.size)
    image = figures.sized(sample.images[0], SMALL)
    pictures = []
    titles = "Full model", "Pruned model"
    for title, values, geometry in zip(
        titles,
        maps,
        looks.places,
        strict=True,
    ):
        if values is None:
            continue
        overlay = figures.overlay(
            image,
            places_in(geometry),
            values,
            opacity=max(shown.settings.opacity, 0.6),
            scale=(0, most or 1e-9),
            width=SMALL,
        )
        alt = f"Attention of layer {layer}, head {head} to each patch, {title.lower()}."
        pictures.append(
            views.picture(
                title,
                overlay,
                alt,
            )
        )
    lacks = ""
    if looks.pruned is not None and layer not in looks.pruned.layer_ids:
        lacks = views.read(f"The pruned model has no layer {layer}.")
    heading = f"Layer {layer}, head {head}, writing “{looks.full.token.strip()}”"
    return (
        f'<p class="small-title">{views.esc(heading)}</p>'
        f'<div class="pictures">{"".join(pictures)}</div>{views.scale(0, most)}{lacks}'
        f"{_offered(looks, layer, head)}"
    )


def _map_of(
    attention: svl.WordAttention | None,
    layer: int,
    head: int,
) -> np.ndarray | None:
    """(V,) one head's attention to the patches; None where there is no such layer."""
    if attention is None or layer not in attention.layer_ids:
        return None
    found = attention.on_image(layer, head)
    return None if np.isnan(found).all() else found


def picked_head(picked: Mapping | None, looks: Looks) -> tuple[int, int]:
    """Layer, by its number in the original model, and head: those that were clicked, else those
    that look at the image most.
    """
    layer, head = (picked or {}).get("head") or (None, None)
    heads = looks.full.rows.shape[1]
    if layer in looks.full.layer_ids and 0 <= head < heads:
        return layer, head
    return _strongest(looks)[0]


def _strongest(looks: Looks) -> list[tuple[int, int]]:
    """Layer and head of those that look at the image most in the full model, the most first; of
    layers that both models have.
    """
    ids = looks.full.layer_ids
    both = ids if looks.pruned is None else looks.pruned.layer_ids
    shares = np.nan_to_num(looks.full.image_share).copy()
    shares[~np.isin(ids, both)] = -1
    order = np.argsort(
        -shares,
        axis=None,
        kind="stable",
    )[:OFFERED]
    rows, heads = np.unravel_index(order, shares.shape)
    return [
        (ids[row], int(head))
        for row, head in zip(
            rows,
            heads,
            strict=True,
        )
    ]


def _offered(
    looks: Looks,
    layer: int,
    head: int,
) -> str:
    """The heads that look at the image most, as buttons."""
    shares, ids = looks.full.image_share, looks.full.layer_ids
    buttons = []
    for place, number in _strongest(looks):
        share = shares[ids.index(place), number]
        shown = f"{place}.{number}: {share:.0%}"
        told = f"Layer {place}, head {number}: {share:.0%} of its attention on the image"
        buttons.append((f"{place}-{number}", shown, told))
    title = "The heads that look at the image most (layer.head)"
    return views.choices(
        title,
        buttons,
        f"{layer}-{head}",
    )


GRID = plot(
    "heads",
    wait=WAIT,
    draw=draw_grid,
    redrawn=(ANSWERS,),
    heading="How much each head looks at the image",
    reading=(
        "<strong>Bright</strong>: most of what this head looks at, while the word is predicted, is"
        " the image. Blank rows are dropped layers. Click a cell to see where in the image."
    ),
    why=(
        "The attention of the one query in whose place the word is predicted, of every layer and"
        " head, computed beside the model's own. Both models stand on one scale. High attention"
        " does not say that the word depends on what is looked at; the figure below asks that."
    ),
)
HEAD = card(
    "head-map",
    wait=WAIT,
    draw=draw_head,
    redrawn=(ANSWERS,),
    heading="What one head looks at",
    reading=(
        "<strong>Bright</strong> patches get most of this head's attention, in both models on one"
        " scale."
    ),
    why=(
        "What a head looks at in the pruned model may move although the head itself is untouched:"
        " what reaches it has changed. Many heads look at one and the same patch or at the first"
        " token whatever is asked, for they put there what they need nowhere else."
    ),
)
SPLIT = plot(
    "split",
    wait=WAIT,
    draw=draw_split,
    redrawn=(ANSWERS,),
    heading="Where the attention goes, layer by layer",
    reading=(
        "A bar is a layer, mean of its heads: how much goes to the <strong>image</strong>, to the"
        " other words of the prompt, to the answer's earlier words and to the first token. Blank"
        " places are dropped layers."
    ),
    why=(
        "The four parts fill a bar, or less of it in models with attention sinks. The first token"
        " is counted for itself alone, for many heads rest there. Both models stand on one scale,"
        " and layers are numbered as in the full model."
    ),
)
SHOWN: tuple[Shown, ...] = (GRID, HEAD, SPLIT)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            page.show(GRID)
        with gr.Column(scale=4):
            page.show(HEAD)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs = ["state", "strip", PICKED, SETTINGS]
    outputs = [PICKED, HEAD.name]
    options = {**QUICK, "trigger_mode": "always_last"}
    page.on(
        page[GRID.name].pick,
        pick_cell,
        inputs,
        outputs,
        **options,
    )
    page.on(
        page[HEAD.name].pick,
        pick_button,
        inputs,
        outputs,
        **options,
    )


# -------------------------------------------------------------------------------- handlers
def pick_cell(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    event: gr.EventData,
) -> Update:
    """A cell of the grid was clicked; both models' columns stand for the same heads."""
    if not state or not strip:
        return {}
    looks = _looks(
        page,
        state,
        strip,
        settings,
    )
    heads = looks.full.rows.shape[1]
    head = int(event.x) % (heads + 1)  # one column is empty between both models
    return _show(
        page,
        state,
        strip,
        picked,
        settings,
        [int(event.y), head],
    )


def pick_button(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    event: gr.EventData,
) -> Update:
    """One of the offered heads was clicked."""
    if not state or not strip:
        return {}
    _looks(
        page,
        state,
        strip,
        settings,
    )
    layer, _, head = str(event.value).partition("-")
    if not (layer.isdecimal() and head.isdecimal()):
        return {}
    return _show(
        page,
        state,
        strip,
        picked,
        settings,
        [int(layer), int(head)],
    )


def _looks(
    page: Page,
    state: dict,
    strip: dict,
    settings: Settings,
) -> Looks:
    """Raises InputError where what was read of the word is gone."""
    looks = known(
        page.view(
            state,
            settings,
            strip,
        )
    )
    if looks is None:
        raise InputError(GONE)
    return looks


def _show(
    page: Page,
    state: dict,
    strip: dict,
    picked: dict | None,
    settings: Settings,
    head: list[int],
) -> Update:
    both = {**(picked or {}), "head": head}
    shown = page.view(
        state,
        settings,
        strip,
        picked=both,
    )
    return {PICKED: both, HEAD.name: draw_head(shown)}
