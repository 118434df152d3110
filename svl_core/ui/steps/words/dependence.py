"""Which patches the chosen word depends on: on request, for it costs a backward pass, and never
without its check.
"""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import numpy as np

from svl_core import figures
from svl_core.errors import InputError
from svl_core.service.words import Dependence, Dependences
from svl_core.service.workspace import READING
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update, View, places_in
from svl_core.ui.figure import ANSWERS, Shown, card
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.words import heads
from svl_core.ui.steps.words.chosen import chosen
from svl_core.ui.wiring import SETTINGS, Page
from svl_core.ui.work.answering import NOT_ANALYSED

SMALL = 320  # pixels of each picture
STATUS = "dependence-status"
NOT_ANSWERED = (
    "Found no answers to this plan yet; expected those of both models; press Compare answers first."
)
TITLES = "Full model", "Pruned model"


# --------------------------------------------------------------------------------- figures
def draw_dependence(shown: View) -> str:
    """The maps of both models and their difference on one scale, each map with its check."""
    word = chosen(shown)
    found = shown.words.known_dependences(word) if word else None
    if found is None:
        return ""
    both = [side for side in found if side is not None]
    strongest = max(float(np.abs(side.relevance.values).max(initial=0)) for side in both)
    sample = shown.analysis.sample
    image = figures.sized(sample.images[0], SMALL)
    places = places_in(sample.geometry)
    token = found.full.relevance.token.strip()

    def picture(title: str, values: np.ndarray) -> str:
        overlay = figures.relevance_overlay(
            image,
            places,
            values,
            scale=strongest,
            opacity=max(shown.settings.opacity, 0.75),
            width=SMALL,
        )
        alt = f"{title}: how much each patch speaks for “{token}”."
        return views.picture(
            title,
            overlay,
            alt,
        )

    pictures = [
        picture(title, side.relevance.values)
        for title, side in zip(
            TITLES,
            found,
            strict=True,
        )
        if side is not None
    ]
    if found.pruned is not None:
        change = found.full.relevance.values - found.pruned.relevance.values
        pictures.append(picture("Full minus pruned", change))
    return (
        f'<p class="small-title">{views.esc(f"Patches that speak for “{token}”")}</p>'
        f'<div class="pictures">{"".join(pictures)}</div>'
        f"{views.scale(-strongest, strongest, 'diverging')}{_checks(found)}"
    )


def _checks(found: Dependences) -> str:
    """What covering the patches did, and how far the maps follow the patches' order."""
    lines = []
    for title, side in zip(
        TITLES,
        found,
        strict=True,
    ):
        if side is None:
            continue
        markup = views.read if side.check.holds else views.note
        lines.append(markup(f"{title}: {side.check.in_words()} {_in_words(side)}"))
    return "".join(lines)


def _in_words(side: Dependence) -> str:
    bias = side.relevance.place_bias
    if np.isnan(bias):
        return ""
    believed = "" if side.check.holds else " So do not rely on this map."
    return f"Rank correlation of the map with the patches' order: {bias:.2f}.{believed}"


DEPENDENCE = card(
    "dependence",
    wait="Appears at the press of the button: it takes a step backwards through both models.",
    draw=draw_dependence,
    redrawn=(ANSWERS,),
    heading="Which patches the word depends on",
    reading=(
        "<strong>Blue with +</strong>: the patch speaks for the word; <strong>orange with"
        " −</strong>: against it. All maps are on one scale. The sentences below say whether to"
        " believe them."
    ),
    why=(
        "Gradient x input: how the word's score would change with the patches' embeddings, by one"
        " step backwards. A gradient knows small changes only, so the map is checked: the most"
        " relevant tenth of the patches is covered by the mean of all, and the word's probability"
        " is held against 20 random choices of as many patches. Where these do as much, the map"
        " says nothing. Both models read all visual tokens here."
    ),
)
SHOWN: tuple[Shown, ...] = (DEPENDENCE,)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            page.show(heads.SPLIT)
        with gr.Column(scale=4):
            page.show(DEPENDENCE)
            with gr.Row(elem_id="dependence-go"):
                title = "Which patches does it depend on?"
                page.add("dependence-run", gr.Button(title, elem_id="dependence-run"))
                page.add("dependence-stop", gr.Button("Stop", elem_id="dependence-stop"))
            page.add(STATUS, parts.view(STATUS))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    asked = page.halt(
        page["dependence-run"].click,
        READING,
        replaced=True,
    ).then
    inputs, outputs = ["state", "strip", SETTINGS], [STATUS, DEPENDENCE.name]
    page.on(
        asked,
        run,
        inputs,
        outputs,
        trigger_mode="multiple",
        **page.heavy,
    )
    page.halt(page["dependence-stop"].click, READING)


# -------------------------------------------------------------------------------- handlers
def run(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """One backward pass of each model and the check of both maps. Raises a gradio error before
    both models answered.
    """

    def work(task) -> Update:
        if not state or not strip:
            raise InputError(NOT_ANALYSED)
        shown = page.view(
            state,
            settings,
            strip,
        )
        words = shown.words
        if words is None:
            raise InputError(NOT_ANSWERED)
        words.lenses(task.silent())
        words.dependences(chosen(shown), task)
        return {STATUS: "", DEPENDENCE.name: draw_dependence(shown)}

    yield {STATUS: views.progress("One step backwards …", 0.0)}
    yield from page.run(
        work,
        request,
        READING,
        undone={STATUS: ""},
        place=STATUS,
    )
