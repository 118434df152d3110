"""A guided lesson in six short steps beside the page: each puts the page into a state worth looking
at, asks for a guess, and then shows.

Every number told comes from static/lesson.json (made by tests/benchmarks/lesson.py) or from the
page itself. Leaving brings back what the page showed before.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.ui import parts
from svl_core.ui.drawing import Update
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import snapshots
from svl_core.ui.wiring import QUICK, SETTINGS, Page
from svl_core.ui.work.analysing import start_analysis

STEPS = 6
GUESSES = 4  # layers to guess in the first step
GROUPS = {
    "names": ("what-at", "which", "caption"),
    "places": ("where", "is-at", "relation", "side"),
    "numbers": ("count-all", "count-category", "count-object"),
}
REPAIRS = {"none": "none", "scp": "SCP", "lstsq": "least squares", "refit": "refit"}
FALL = 0.1  # of accuracy from one drop count to the next: a cliff


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("before", gr.State(None))
    page.add("lesson", parts.lesson("lesson"))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs = ["before", "state", "strip", SETTINGS]
    outputs = [*snapshots.restored(page), "drop", "before", "lesson"]
    options = {"trigger_mode": "multiple", **QUICK}
    stepped = page.on(page["lesson"].step, go, inputs, outputs, **options)
    start_analysis(page, page.halt(stepped.then).then)


# -------------------------------------------------------------------------------- handlers
def go(
    page: Page,
    before: Mapping | None,
    state: Mapping | None,
    strip: Mapping | None,
    settings: Settings,
    event: gr.EventData,
) -> Update:
    """The page as a step (0-based `event.step`) wants it; step -1 leaves.

    before: what the page showed before the lesson. event.do: a compensation to try, or layers to
    drop.
    """
    step = int(getattr(event, "step", -1))
    if step < 0:
        restored = snapshots.restore(page, before, state) if before else {}
        return {**restored, "before": None}
    if before is None and state and strip:
        before = snapshots.take(page, state, strip, settings)
    origin, prompt, drop, changes = PAGES[min(step, STEPS - 1)]
    tried = str(getattr(event, "do", None) or "")
    if tried in svl.COMPENSATIONS:
        changes = {**changes, "compensation": tried}
    if tried.isdecimal():
        drop = int(tried)
    wanted = None if isinstance(drop, int) else list(drop)
    workspace = page.workspace
    model = "demo" if "demo" in workspace.scene_models else workspace.models.first
    taken = {
        "model": model,
        "key": None,
        "path": None,
        "origin": origin,
        "prompt": prompt,
        "drop": wanted or [],
        "settings": page.values_of(Settings(**changes)),
    }
    if state and state["origin"] == origin and state["model"] == model:
        taken |= {"key": state["key"], "path": state["path"]}  # the picture is there already
    return {
        **snapshots.restore(page, taken, state),
        "wanted": wanted,
        "drop": gr.skip() if wanted is not None else drop,
        "before": before,
        "lesson": {**content(), "at": step},
    }


# What the page shows in each step: image, prompt, layers dropped (how many, or which), settings.
PAGES = (
    ("example:0", "describe the picture.", 0, {"compensation": "none"}),
    ("example:0", "where is the apple?", 0, {"compensation": "none"}),
    ("example:0", "describe the picture.", 5, {"compensation": "none"}),
    ("example:0", "describe the picture.", (11, 12, 13), {"compensation": "none"}),
    ("example:0", "describe the picture.", 7, {"compensation": "none"}),
    ("example:1", "how many animals are there?", 4, {"compensation": "none"}),
)


# ---------------------------------------------------------------------- words and figures
@functools.cache
def measured() -> dict:
    return json.loads((parts.STATIC / "lesson.json").read_text(encoding="utf-8"))


@functools.cache
def content() -> dict:
    """The steps as the page's script takes them: headings and texts of ours, questions with their
    answers, figures.
    """
    data = measured()
    return {
        "at": None,
        "steps": [
            _guess(data),
            _skipped(data),
            _tokens(data),
            _gap(data),
            _repair(data),
            _cliff(data),
        ],
    }


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _option(label: str, right: bool, say: str) -> dict:
    return {"label": label, "right": right, "say": say}


def _guess(data: Mapping) -> dict:
    return {
        "title": "Guess the layers that do little",
        "anchor": "#plot-redundancy",
        "text": (
            f"This model has {data['layers']} decoder layers and nothing is dropped yet. Some"
            f" layers hardly turn the features that pass through them. Which ones? Pick {GUESSES},"
            " then look."
        ),
        "guess": GUESSES,
        "do": str(GUESSES),
        "after": (
            f"That is for this picture; over {data['calibration'][0]} calibration scenes it is"
            f" {', '.join(map(str, sorted(data['rankings']['svl'][:GUESSES])))}. A layer is"
            " redundant where its output points the same way as its input: the higher its point in"
            f" the figure, the less it turned. The page now drops those {GUESSES}: compare both"
            " answers further down."
        ),
    }


def losses(data: Mapping, group: str) -> list[float]:
    """Accuracy (0..1) that a group of questions loses without each block of layers, by the block's
    first layer.
    """
    kinds = GROUPS[group]
    return [
        sum(data["full"]["by_kind"][kind] - data["ablation"][kind][first] for kind in kinds)
        / len(kinds)
        for first in range(data["layers"] - data["block"] + 1)
    ]


def worst(data: Mapping, group: str) -> tuple[int, float]:
    """(first layer, loss) of the block that a group misses most, those with the first and the last
    layer aside: everything needs them.
    """
    lost = losses(data, group)
    first = max(range(1, len(lost) - 1), key=lost.__getitem__)
    return first, lost[first]


def block(data: Mapping, first: int) -> str:
    return f"{first} to {first + data['block'] - 1}"


def _skipped(data: Mapping) -> dict:
    size = data["block"]
    missed = {group: worst(data, group) for group in GROUPS}
    lost = [losses(data, group) for group in GROUPS]
    most_lost = [max(of_block) for of_block in zip(*lost, strict=True)]
    quiet = min(range(1, len(most_lost) - 1), key=most_lost.__getitem__)
    right = missed["places"][0]
    says = {
        missed["names"][0]: "Those hold names: what a thing is called.",
        missed["numbers"][0]: "Those hurt counting most.",
        quiet: "Without those nearly everything is still right.",
    }
    options = [
        _option(
            f"Layers {block(data, first)}",
            first == right,
            "" if first == right else says.get(first, ""),
        )
        for first in sorted({right, *says})
    ]
    needs = "; ".join(
        f"<strong>{group}</strong> miss layers {block(data, first)} most (−{100 * lost:.0f} points)"
        for group, (first, lost) in missed.items()
    )
    return {
        "title": "What each layer is for",
        "anchor": "#prompt",
        "text": (
            f"Skip {size} neighbouring layers at a time and ask {data['questions']} questions of"
            " thirteen kinds: names (what is there), places (where, left of), numbers (how many)."
            " Some kinds break, others do not notice."
        ),
        "question": "Which layers bind things to places: “where is the apple?”",
        "options": options,
        "plot": {
            "figure": figures.skipped_heatmap(data["ablation"], size).to_json(),
            "alt": (
                f"Share of right answers for {len(data['ablation'])} kinds of question with every"
                f" {size} neighbouring layers skipped. Places miss layers {block(data, right)}"
                " most."
            ),
        },
        "after": (
            "Read a row from left to right: a dark cell is a place that this kind of question"
            f" cannot do without. Nothing works without layer 0, and without the last {size}"
            f" captions fall to {_percent(data['ablation']['caption'][-1])}. Of the layers between,"
            f" {needs}. Hardly missed: layers {block(data, quiet)}. Redundant is not useless: for"
            " these questions the other layers cope."
        ),
    }


def _tokens(data: Mapping) -> dict:
    important, everything = data["curves"]["svl, none"], data["curves"]["svl-all, none"]
    gaps = [a - b for a, b in zip(important, everything, strict=True)]
    at = max(range(len(gaps)), key=lambda k: abs(gaps[k]))
    ours, theirs = (sorted(data["rankings"][name][:at]) for name in ("svl", "svl-all"))
    same = next((k - 1 for k, gap in enumerate(gaps) if abs(gap) >= 0.02), len(gaps) - 1)
    verdict = f"Up to {same} dropped layers both choices keep the same within two points."
    if gaps[at] >= 0.02:
        verdict += (
            f" With {at} dropped, {_percent(important[at])} of the answers are right when the"
            f" important tokens choose, and {_percent(everything[at])} when all tokens do."
        )
    elif gaps[at] <= -0.02:
        verdict += (
            f" With {at} dropped all tokens even choose better here ({_percent(everything[at])}"
            f" against {_percent(important[at])}). On large models, where hundreds of patches are"
            " background, the paper finds the opposite: a choice is worth what it keeps on your"
            " model, so measure it."
        )
    return {
        "title": "Why not average over all tokens?",
        "anchor": "#plot-redundancy",
        "text": (
            "Most tokens are background patches and template words. Averaging the cosine over all"
            " of them lets the crowd decide which layer is redundant, although the answer hangs on"
            " a few. In the redundancy figure, compare the solid line (important tokens) with the"
            " dashed one (all tokens)."
        ),
        "question": "Does it matter for the answers which tokens have the say?",
        "options": [
            _option("Yes, a lot", abs(gaps[at]) >= 0.05, ""),
            _option("A little", 0.01 <= abs(gaps[at]) < 0.05, ""),
            _option("No", abs(gaps[at]) < 0.01, ""),
        ],
        "plot": {
            "figure": (
                figures.kept_curves(
                    {"important tokens": important, "all tokens": everything}
                ).to_json()
            ),
            "alt": (
                "Share of right answers against dropped layers, for layers chosen on important and"
                f" on all tokens. {verdict}"
            ),
        },
        "after": (
            f"{verdict} At {at} dropped, the important tokens choose layers"
            f" {', '.join(map(str, ours))}; all tokens choose {', '.join(map(str, theirs))}."
        ),
    }


def _gap(data: Mapping) -> dict:
    return {
        "title": "What the gap is",
        "anchor": "#plot-gap",
        "text": (
            "Layers 11, 12 and 13 are gone, without compensation. Layer 14 was trained on what"
            " layer 13 hands over, written H[14]. The orange line in the gap figure says how far"
            " off its new input is."
        ),
        "question": "What does layer 14 receive now?",
        "options": [
            _option(
                "H[14], as ever", False, "That is what it expects; the layer that made it is gone."
            ),
            _option("H[11], what layer 10 handed over", True, ""),
            _option(
                "Nothing",
                False,
                "A decoder is a chain: what the last kept layer wrote goes straight to the next"
                " one.",
            ),
        ],
        "after": (
            "The gap is |H[14] − H[11]| / |H[14]|: one jump instead of three steps. It is shorter"
            " than the three steps together, because they do not all point the same way. Click"
            " layer 12 in the strip to put it back, and watch the line fall apart into two shorter"
            " ones."
        ),
    }


def _repair(data: Mapping) -> dict:
    drop = PAGES[4][2]
    curves = {title: data["curves"][f"svl, {name}"] for name, title in REPAIRS.items()}
    right = {title: curve[drop] for title, curve in curves.items()}
    best = " and ".join(
        name for name, value in right.items() if _percent(value) == _percent(max(right.values()))
    )
    shares = ", ".join(f"{name} {_percent(value)}" for name, value in right.items())
    return {
        "title": "What compensation repairs",
        "anchor": "#metrics",
        "text": (
            f"Now {drop} of {data['layers']} layers are gone. Compensation edits weights of the"
            " layers that stay, so that they cover part of the gap, without training. Try each and"
            " read the KL divergence: 0 would be the full model's own predictions."
        ),
        "tries": [{"label": svl.COMPENSATIONS[name].title, "do": name} for name in REPAIRS],
        "plot": {
            "figure": (figures.kept_curves(curves).to_json()),
            "alt": (
                f"Share of right answers against dropped layers, for four compensations. At {drop}:"
                f" {shares}."
            ),
        },
        "reveal": "Show all questions",
        "after": (
            f"One picture proves little. Over {data['questions']} questions, with {drop} dropped,"
            f" right answers are: {shares}. Best here: {best}. A repair that fits the features can"
            " still miss the answers, so judge it by answers."
        ),
    }


def cliff(values: list[float]) -> int | None:
    """The first drop count that loses at least FALL of accuracy over the one before."""
    return next((k for k in range(1, len(values)) if values[k - 1] - values[k] >= FALL), None)


def _cliff(data: Mapping) -> dict:
    values = data["curves"]["svl, none"]
    at = cliff(values)
    fair = next(
        (k - 1 for k in range(1, len(values)) if values[k] < 0.95 * values[0]), len(values) - 1
    )
    fell = (
        f"The cliff comes at {at}: from {_percent(values[at - 1])} to {_percent(values[at])} right."
        " One more layer, and whole skills go. Drag the slider past it and read."
        if at
        else (
            "There is no single cliff: accuracy slides from step to step. Drag the slider and see"
            " which skill goes first."
        )
    )
    return {
        "title": "How many layers can go",
        "anchor": "#dock",
        "text": (
            "The first dropped layers cost little, later ones more. Before you drag the slider: how"
            " many layers can go while at least 95 % of what the full model gets right stays right?"
        ),
        "question": "How many?",
        "options": [
            _option(str(k), k == fair, f"{_percent(values[k])} are right with {k} dropped.")
            for k in range(1, min(len(values), 10))
        ],
        "plot": {
            "figure": figures.kept_curves({"no compensation": values}, mark=at).to_json(),
            "alt": (
                f"Share of right answers against the number of dropped layers. {fair} layers can go"
                " before 5 % are lost."
            ),
        },
        "after": f"{fair} of {data['layers']}. {fell}",
        "do": str(at or fair + 1),
    }
