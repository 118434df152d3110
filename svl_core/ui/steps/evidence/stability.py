"""Fold of step "evidence": how far a ranking can be trusted, over resampled sets and against this
image alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.analysis.ranking import top_p_of
from svl_core.service import calibration
from svl_core.service.derived import importance_of, scores_key
from svl_core.service.stores import Analysis
from svl_core.service.workspace import EVIDENCE
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update, figure
from svl_core.ui.figure import Measured, plot
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Page
from svl_core.ui.work.ranking import PLAN_IN

FOLD = "How sure is the ranking? Many sets instead of one"
WAIT = "Appears once the set is resampled."
NOTE = "stability-note"
KEPT = "stability-kept"  # what was measured, for the report

STABILITY = plot(
    "stability",
    wait=WAIT,
    heading="How sure is the ranking?",
    reading=(
        "Bars are 95 % intervals over resampled sets. <strong>Where bars of a kept and a dropped"
        " layer overlap, another set might choose otherwise.</strong> Green diamonds: this image"
        " alone."
    ),
    why=(
        "The samples of the set are drawn again with replacement, 1,000 times, and the layers are"
        " ranked anew each time; no sample is measured twice for it. A criterion that re-scores"
        " after every drop (SLEB, greedy KL) is resampled round by round, each given the layers"
        " that the whole set dropped before it, for without others the model was never run; its"
        " bars are those of the first round, in which each layer is skipped alone. A random order"
        " has nothing to resample; for it SVL's own is shown."
    ),
)
OVERLAP = plot(
    "overlap",
    wait=WAIT,
    heading="This image against the set",
    reading=(
        "At each number of layers: how many of them both would drop. <strong>On the dotted"
        " line</strong> the image says no more than a draw of lots."
    ),
    why=(
        "Dropping most layers makes any two choices agree, so chance rises with the number. What"
        " counts is the distance above the dotted line at the number that you drop."
    ),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add(KEPT, gr.State(None))
    with page.add("stability", gr.Accordion(FOLD, open=False, elem_id="stability")):
        page.add("stability-run", gr.Button("Resample the set", elem_id="stability-run"))
        page.add(NOTE, parts.view(NOTE))
        with gr.Row(elem_classes="pair"):
            with gr.Column(scale=6):
                page.show(STABILITY)
            with gr.Column(scale=4):
                page.show(OVERLAP)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    outputs = [NOTE, KEPT, STABILITY.name, OVERLAP.name]
    options = {**QUICK, "trigger_mode": "multiple"}
    opened = partial(resample, wanted=False)
    page.on(page["stability"].expand, opened, PLAN_IN, outputs, **options)
    page.on(page["stability-run"].click, resample, PLAN_IN, outputs, **options)


# -------------------------------------------------------------------------------- handlers
def resample(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    wanted: bool = True,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """Error bars of the criterion's scores on the calibration set, and how much of its choice this
    image shares.

    wanted: whether a criterion that has to run the model for it may do so.
    """
    if not state or not strip:
        return
    workspace = page.workspace
    name = settings.criterion
    if not svl.CRITERIA[name].is_mean:
        name = "svl"  # a random order has nothing to resample

    def work(task) -> Update:
        analysis = workspace.analysis_of(state)
        source = workspace.evidence_source(state, settings)
        whole = workspace.analysis_of_source(state["model"], source, analysis, settings, task)
        of_set = calibration.words(source, len(whole.samples))
        if not wanted and not _is_ranked(page, settings, name, analysis, whole):
            return _waiting(name, of_set)
        ours = workspace.rank(analysis, settings, task, name)
        theirs = workspace.rank(whole, settings, task, name)
        count = min(len(strip["drop"]), theirs.most)
        resampled = whole.memoized(
            ("stability", scores_key(name, settings), count),
            lambda: svl.stability(
                whole.trace,
                importance_of(whole, settings),
                name,
                drop=count,
                top_p=top_p_of(settings),
                protect_ends=settings.protect_ends,
                measured=theirs.measured,
                run=task,
            ),
        )
        shares = svl.overlap_curve(ours, theirs)
        agreeing = round(float(shares[min(count, len(shares) - 1)]) * count)
        instead = "" if name == settings.criterion else _instead(settings.criterion, name)
        sentence = (
            f"{resampled.draws:,} resamples of {of_set}: {_in_words(resampled, count)}. This image"
            f" alone would drop {agreeing} of the same {count} layers.{instead}"
        )
        ids = analysis.trace.layer_ids
        drawn = {
            STABILITY.name: figure(
                figures.stability_curve(
                    resampled.scores.scores,
                    resampled.interval,
                    resampled.dropped,
                    resampled.scores.chosen(count),
                    ours.scores,
                    ids=ids,
                ),
                f"{svl.CRITERIA[name].title}: scores of {len(ids)} layers on {of_set} with 95 %"
                " intervals, and those of this image.",
            ),
            OVERLAP.name: figure(
                figures.overlap_figure(shares, len(theirs.ranking), count),
                "Layers that this image and the set both drop, in percent, for 1 to"
                f" {len(shares) - 1} layers; {agreeing} of {count} at the plan.",
            ),
        }
        kept = {"of": (state["model"], state["key"]), "said": sentence, **drawn}
        return {NOTE: views.read(sentence), KEPT: kept, **drawn}

    yield {NOTE: views.progress("Resampling …", 0.0)}
    yield from page.run(work, request, EVIDENCE, undone={NOTE: ""}, place=NOTE)


def _is_ranked(page: Page, settings: Settings, name: str, *analyses: Analysis) -> bool:
    """Whether the criterion need not run the model for any of them."""
    ranked = (page.workspace.cached_ranking(a, settings, name) for a in analyses)
    return all(ranked)


def _waiting(name: str, of_set: str) -> Update:
    """Nothing old stays under a new criterion's name."""
    sentence = (
        f"{svl.CRITERIA[name].title} runs the model many times over {of_set}. Press “Resample the"
        " set”."
    )
    return {NOTE: views.read(sentence), KEPT: None, STABILITY.name: None, OVERLAP.name: None}


REPORTED = [KEPT]


def measured(state: Mapping, kept: Mapping | None) -> list[Measured]:
    """Both figures for the report, where they are about the picture that is on the page."""
    if not kept or tuple(kept["of"]) != (state["model"], state["key"]):
        return []
    return [
        Measured(STABILITY, kept[STABILITY.name], kept["said"]),
        Measured(OVERLAP, kept[OVERLAP.name], ""),
    ]


def _in_words(resampled: svl.Stability, count: int) -> str:
    """How much of the choice of `count` layers other samples would share."""
    share, correlation = 100 * resampled.overlap, resampled.rank_correlation
    if resampled.by_round is None:
        return (
            f"on average {share:.0f} % of the {count} dropped layers are those of the whole set,"
            f" and the orders' rank correlation is {correlation:.2f}"
        )
    rounds = ", ".join(f"{100 * part:.0f}" for part in resampled.by_round)
    return (
        f"in each round, given the layers dropped before it, on average {share:.0f} % of them drop"
        f" the same layer as the whole set ({rounds} %), and the first round's orders have a rank"
        f" correlation of {correlation:.2f}"
    )


def _instead(wanted: str, used: str) -> str:
    titles = svl.CRITERIA[wanted].title, svl.CRITERIA[used].title
    return f" {titles[0]} cannot be resampled, so this is {titles[1]}."
