"""What the patches of the image read as: which name an object, and one patch layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import numpy as np

from svl_core import figures
from svl_core.service.workspace import READING
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update, View, figure, patch_at, places_in
from svl_core.ui.figure import ANSWERS, Figure, Shown, plot, view
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.words.chosen import word_of, words_of
from svl_core.ui.wiring import SETTINGS, Page
from svl_core.ui.work.ranking import LATEST

PICKED = "words-picked"
STATUS = "patches-status"
RUN = "patches-run"
MOST_NAMES = 6  # told in the sentence
HINT = "Click a patch, or use the arrow keys, for what it reads as layer by layer"
PATCHES_IN = ["state", "strip", PICKED, SETTINGS]


# --------------------------------------------------------------------------------- figures
def _is_read(shown: View) -> bool:
    """Whether this section shows these answers already, and there are patches."""
    words = shown.words
    if words is None or not shown.analysis.sample.images:
        return False
    known = words.known_patches() or words.known_lenses()
    return known is not None and len(shown.analysis.sample.visual) > 0


def draw_names(shown: View) -> dict | None:
    """The picture, its patches tinted by how early they name an object."""
    if not _is_read(shown):
        return None
    sample = shown.analysis.sample
    patches = shown.words.known_patches()
    picture = figures.sized(sample.images[0], 640)
    alt = "The picture; none of its patches was read yet."
    if patches is not None and patches.named is not None:
        picture = figures.named_overlay(
            picture,
            places_in(sample.geometry),
            patches.named,
            len(shown.layer_ids),
        )
        alt = said(shown)
    rows, columns = sample.geometry.grid or (0, 0)
    return {
        "src": views.data_url(picture),
        "rows": rows,
        "columns": columns,
        "alt": alt,
        "hint": HINT,
    }


def said(shown: View) -> str:
    """Which objects the patches name, how many do, and from which layer on."""
    patches = shown.words.known_patches() if shown.words else None
    named = patches.named if patches else None
    if named is None:
        return ""
    found = np.bincount(named.name[named.name >= 0], minlength=len(named.names))
    order = np.argsort(-found, kind="stable")
    told = []
    for number in order[:MOST_NAMES]:
        if not found[number]:
            break
        told.append(f"{named.names[number]} ({found[number]})")
    count, patches_read = int(found.sum()), len(named.patches)
    if not told:
        return f"None of {patches_read} patches names an object."
    more = ", and others" if np.count_nonzero(found) > len(told) else ""
    first = int(np.nanmin(named.layer))
    return (
        f"{count} of {patches_read} patches name an object, the first of them behind layer {first}:"
        f" {', '.join(told)}{more}."
    )


def draw_note(shown: View) -> str:
    return views.read(said(shown)) if _is_read(shown) else ""


def draw_words(shown: View) -> dict | None:
    """One patch, layer by layer."""
    patch = _patch(shown)
    found = shown.words.known_patch(patch) if patch is not None else None
    if found is None:
        return None
    words, _ = found.seen.of_patch(patch)
    last = str(words[-1, 0]).strip()
    alt = f"What patch {patch} reads as in {len(words)} layers; “{last}” behind the last one."
    return figure(figures.patch_words(found.seen, patch), alt)


def _patch(shown: View) -> int | None:
    """The patch that was clicked, else the first one to name what the chosen word says, or any
    object.
    """
    if not _is_read(shown):
        return None
    picked = (shown.picked or {}).get("patch")
    if picked is not None and picked < len(shown.analysis.sample.visual):
        return picked
    patches = shown.words.known_patches()
    named = patches.named if patches else None
    if named is None or not (named.name >= 0).any():
        return None
    layers, word = named.layer, word_of(shown)
    if word in named.names:
        of_word = named.name == named.names.index(word)
        layers = (
            np.where(
                of_word,
                layers,
                np.nan,
            )
            if of_word.any()
            else layers
        )
    return int(named.patches[np.nanargmin(layers)])


def _is_offered(shown: View) -> object:
    """The button is for models of which all patches take long."""
    unread = _is_read(shown) and shown.words.known_patches() is None
    return gr.update(visible=unread)


def _button(name: str) -> gr.Button:
    return gr.Button(
        "Read every patch",
        visible=False,
        elem_id=name,
    )


NAMES = Figure(
    name="patch-names",
    make=parts.picture,
    draw=draw_names,
    redrawn=(ANSWERS,),
    heading="Which patches name what they show",
    reading=(
        "<strong>The brighter, the earlier</strong> the layer behind which the patch's likeliest"
        " word is the name of an object; patches that never name one are left as they are. Click a"
        " patch to read it layer by layer."
    ),
    why=(
        "The model's head reads what the full model's layers hand on in the place of a patch, as it"
        " does in the place of a word. Most models are never trained to predict anything there, so"
        " expect many patches that name nothing; the bundled model's image side was taught to name"
        " its patches. Only the likeliest word counts, and only the names of the bundled world, or"
        " the words of the question and the answer for other models."
    ),
    beside=(
        view(
            "patch-note",
            draw=draw_note,
            redrawn=(ANSWERS,),
        ),
    ),
)
READ = plot(
    "patch-words",
    wait="Click a patch for what it reads as.",
    draw=draw_words,
    redrawn=(ANSWERS,),
    heading="What one patch reads as",
    reading=(
        "Each row is a layer, the first one at the foot, with its likeliest words from left to"
        " right. <strong>Bright</strong>: likely."
    ),
    why=(
        "The words show in which direction of the vocabulary the patch's features lie. In models"
        " that were trained on words alone in these places they often are no name until the middle"
        " layers."
    ),
)
ALL = Shown(
    name=RUN,
    make=_button,
    draw=_is_offered,
    redrawn=(ANSWERS,),
)
SHOWN: tuple[Shown, ...] = (NAMES, *NAMES.beside, READ, ALL)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            page.show(NAMES)
            page.show(ALL)
            page.add(STATUS, parts.view(STATUS))
        with gr.Column(scale=4):
            page.show(READ)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    pick = page.on(
        page[NAMES.name].pick,
        pick_patch,
        PATCHES_IN,
        [PICKED],
        **LATEST,
    )
    options = {"trigger_mode": "multiple", **page.heavy}
    page.on(
        pick.success,
        read_patch,
        PATCHES_IN,
        [STATUS, READ.name],
        **options,
    )
    asked = page.halt(
        page[RUN].click,
        READING,
        replaced=True,
    ).then
    outputs = [STATUS, *(part.name for part in SHOWN)]
    page.on(
        asked,
        read_all,
        PATCHES_IN,
        outputs,
        **options,
    )


# -------------------------------------------------------------------------------- handlers
def pick_patch(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    event: gr.EventData,
) -> Update:
    """Where the image was clicked (x, y in 0..1): the patch there."""
    if not state:
        return {}
    geometry = page.workspace.analysis_of(state).sample.geometry
    patch = patch_at(
        places_in(geometry),
        event.x,
        event.y,
    )
    return {PICKED: {**(picked or {}), "patch": patch}}


def read_patch(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """What the clicked patch reads as, from the hidden states that the analysis left behind."""
    shown, words = words_of(page, state, strip, picked, settings)
    patch = _patch(shown) if words else None
    if shown is None or words is None or patch is None:
        yield {}
        return

    def work(task) -> Update:
        words.patch(patch, task)
        return {STATUS: "", READ.name: draw_words(shown)}

    yield from page.run(
        work,
        request,
        READING,
        undone={STATUS: ""},
        place=STATUS,
    )


def read_all(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """What every patch reads as, which takes a large model a while."""
    shown, words = words_of(page, state, strip, picked, settings)
    if shown is None or words is None:
        yield {}
        return

    def work(task) -> Update:
        words.patches(task)
        return {STATUS: "", **{part.name: part.draw(shown) for part in SHOWN if part.draw}}

    yield {STATUS: views.progress("Reading the patches …", 0.0)}
    yield from page.run(
        work,
        request,
        READING,
        undone={STATUS: ""},
        place=STATUS,
    )
