"""The hero: the picture, the decoder and both answers on one screen, with the slider below."""

from __future__ import annotations

import gradio as gr
import numpy as np
from PIL import Image

import svl_core as svl
from svl_core.analysis.ranking import top_p_of
from svl_core.service.derived import importance_of, patches_of, scores_of
from svl_core.ui import examples, parts, photo, prepared, views
from svl_core.ui.drawing import Update, View, gap_of, places_of, range_of
from svl_core.ui.figure import ANSWERS, LOOK, PLAN, Shown
from svl_core.ui.state.settings import CORRECTED
from svl_core.ui.steps import dock
from svl_core.ui.steps.ask import SCENE, scene_update
from svl_core.ui.wiring import QUICK, Page
from svl_core.ui.work.analysing import start_analysis

PICTURE = 420  # pixels of the longer side
MOST_PATCHES = 400  # that are veiled one by one; more are left to the figure below
MOST_WORDS = 40
THUMBNAIL = 160  # pixels of an example's side
LEAST_CHANGE = 0.04  # of a layer's bar, so that it stays visible


# --------------------------------------------------------------------------------- figures
def draw_asked(shown: View) -> dict:
    """The picture with what matters in it, and the question word by word."""
    sample = shown.analysis.sample
    text = importance_of(shown.analysis, shown.settings).averaged(0)[1]
    top_p = top_p_of(shown.settings)
    own = np.isin(sample.textual, sample.prompt_positions)
    return {
        "src": _picture(shown) if sample.images else "",
        "alt": "The image that is asked about",
        "patches": _patches(shown) if sample.images else [],
        "words": _words(sample, text, top_p.select_text(text), own),
    }


def _picture(shown: View) -> str:
    def small() -> str:
        image = shown.analysis.sample.images[0].convert("RGB")
        image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
        return views.data_url(image)

    return shown.analysis.memoized(("hero-picture",), small)


def _patches(shown: View) -> list[list[float]]:
    """Rectangle and share of the highest score, on the map's own scores, of every patch that has a
    place.
    """
    rects = places_of(shown.analysis.sample)
    placed = np.flatnonzero(~np.isnan(rects).any(axis=1))
    if not len(placed) or len(placed) > MOST_PATCHES:
        return []
    corrected = shown.settings.map == CORRECTED
    scores = patches_of(shown.analysis, shown.settings, corrected).mean(axis=0)
    low, high = range_of(scores[placed])
    shares = np.clip((scores - low) / (high - low), 0, 1)
    return [[*np.round(rects[k], 4).tolist(), round(float(shares[k]), 3)] for k in placed]


def _words(
    sample: svl.Sample, scores: np.ndarray, counts: np.ndarray, own: np.ndarray
) -> list[list]:
    """The person's own tokens with their share of the highest score, and whether they count."""
    top = max((float(score) for score in scores[own]), default=0.0) or 1.0
    shown = np.flatnonzero(own)[:MOST_WORDS]
    return [
        [sample.tokens[sample.textual[k]], round(float(scores[k]) / top, 3), int(counts[k])]
        for k in shown
    ]


def draw_layers(shown: View) -> dict:
    """How much every layer changes the features, and how wide the gaps of the plan are."""
    scores = scores_of(shown.ranked, shown.settings, "svl")
    return {
        "change": change_of(scores.scores, shown.strip["protected"]),
        "cosines": [round(float(score), 4) for score in scores.scores],
        "drop": shown.strip["drop"],
        "gaps": [round(float(run.relative), 3) for run in gap_of(shown).runs],
    }


def change_of(cosines: np.ndarray, protected: list[int]) -> list[float]:
    """1 - cosine of each layer as a share of the largest among those that may go, 0..1."""
    change = np.clip(1 - np.asarray(cosines, dtype=float), 0, None)
    may_go = [k for k in range(len(change)) if k not in protected]
    most = float(change[may_go].max()) if may_go else 0.0
    shares = np.clip(change / most, LEAST_CHANGE, 1) if most else np.full(len(change), LEAST_CHANGE)
    return np.round(shares, 3).tolist()


def draw_answers(shown: View) -> str:
    layers, dropped = len(shown.strip["ids"]), len(shown.strip["drop"])
    if shown.comparison is None:
        return views.hero_answers("", "", layers, dropped)
    comparison = shown.comparison
    saved = 1 - comparison.parameters_pruned / comparison.parameters_full
    return views.hero_answers(
        comparison.full.text,
        comparison.pruned.text,
        layers,
        dropped,
        saved,
        shown.correct,
        outside=photo.is_outside(shown.workspace, shown.state),
    )


ASKED = Shown(name="hero-asked", make=parts.asked, draw=draw_asked, redrawn=(LOOK,))
LAYERS = Shown(name="hero-decoder", make=parts.decoder, draw=draw_layers, redrawn=(PLAN,))
HERO_ANSWERS = Shown(name="hero-answers", make=parts.view, draw=draw_answers, redrawn=(ANSWERS,))
EXAMPLES = "examples"


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Row(elem_id="hero"):
        for shown in (ASKED, LAYERS, HERO_ANSWERS):
            page.show(shown)
    dock.layout(page)
    opening = page.opening
    if opening:
        page["hero-asked"].value = opening.asked_value()
        page["hero-decoder"].value = opening.layers_value()
        page["hero-answers"].value = opening.answers(opening.example.count)
    shown = [_thumbnail(example, told=bool(opening)) for example in examples.SHIPPED]
    page.add(EXAMPLES, parts.view(EXAMPLES, views.examples(shown)))


def _thumbnail(example: examples.Shipped, told: bool) -> tuple[str, str, str]:
    """(image address, question, caption) of an example. told: what happens to it is known."""
    small = examples.picture_of(example.origin).resize((THUMBNAIL, THUMBNAIL))
    return views.data_url(small, small=True), example.question, example.caption if told else ""


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    dock.wire(page)
    outputs = [*SCENE, "drop", "hero-asked", "hero-answers"]
    picked_one = page.on(page[EXAMPLES].pick, pick_example, ["model"], outputs, **QUICK)
    start_analysis(page, picked_one.then)


# -------------------------------------------------------------------------------- handlers
def pick_example(page: Page, model: str, event: gr.EventData) -> Update:
    """A shipped example: its scene and question, and for the model that it was computed with also
    how many layers go and what was found.
    """
    example = examples.SHIPPED[int(event.value)]
    update = scene_update(example.origin) | {"prompt": example.question}
    update["truth"] = {**update["truth"], example.question: example.truth}
    ready = prepared.prepared().get(example.origin)
    if ready is None or model != prepared.MODEL:
        return update
    return update | {
        "drop": gr.update(value=example.count),
        "hero-asked": ready.asked_value(),
        "hero-answers": ready.answers(example.count),
    }
