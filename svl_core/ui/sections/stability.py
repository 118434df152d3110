"""Page section: how far a ranking can be trusted, over resampled sets and against this image alone."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.service import calibration
from svl_core.service.workspace import EVIDENCE
from svl_core.ui import drawing, headings, parts, views
from svl_core.ui.handlers import Desk
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Wiring

WRITES = ["stability-note", "plot-stability", "plot-overlap"]


def layout(c: dict) -> None:
    with gr.Accordion(
        "How sure is the ranking? Many sets instead of one", open=False, elem_id="stability"
    ) as c["stability"]:
        c["stability-run"] = gr.Button("Resample the set", elem_id="stability-run")
        c["stability-note"] = parts.view("stability-note")
        with gr.Row(elem_classes="pair"):
            with gr.Column(scale=6):
                headings.plot("stability", c, "Appears once the set is resampled.")
            with gr.Column(scale=4):
                headings.plot("overlap", c, "Appears once the set is resampled.")


def wire(w: Wiring) -> None:
    def resampled(*values, request: gr.Request | None = None):
        yield from resample(w.desk, *values, request=request)

    def at_once(*values, request: gr.Request | None = None):
        yield from resample(w.desk, *values, wanted=False, request=request)

    for event, method in (
        (w.c["stability"].expand, at_once),
        (w.c["stability-run"].click, resampled),
    ):
        w.on(event, method, w.plan_in, WRITES, **{**QUICK, "trigger_mode": "multiple"})


def resample(
    desk: Desk,
    state: dict | None,
    strip: dict | None,
    *settings,
    wanted: bool = True,
    request: gr.Request | None = None,
) -> Iterator[dict]:
    """Error bars of the criterion's scores on the calibration set, and how much of its choice this
    image shares. A criterion that has to run the model for it waits until it is wanted.
    """
    if not state or not strip:
        return
    now = Settings.of(settings)

    def work(task):
        task = task.showing(lambda text, share: {"stability-note": views.progress(text, share)})
        analysis, which = desk.analysis_of(state), desk.evidence_source(state, now)
        ground = desk.analysis_of_source(state["model"], which, analysis, now, task)
        name = now.criterion if svl.CRITERIA[now.criterion].measure is not None else "svl"
        title, said = svl.CRITERIA[name].title, calibration.words(which, len(ground.samples))
        if not wanted and not all(
            desk.cached_ranking(each, now, name) for each in (analysis, ground)
        ):
            return {
                "stability-note": views.read(
                    f"{title} runs the model many times over {said}. Press “Resample the set”."
                ),
                "plot-stability": None,
                "plot-overlap": None,
            }  # nothing old stays under a new criterion's name
        own, whole = (desk.rank(each, now, task, name) for each in (analysis, ground))
        count = min(len(strip["drop"]), whole.most)
        found = ground.memoized(
            ("stability", drawing.scores_key(name, now), count),
            lambda: svl.stability(
                ground.trace,
                drawing.importance_of(ground, now),
                name,
                drop=count,
                top_p=drawing.top_p_of(now),
                protect_ends=now.protect_ends,
                measured=whole.measured,
                run=task,
            ),
        )
        shares, ids = svl.overlap_curve(own, whole), analysis.trace.layer_ids
        mine = round(float(shares[min(count, len(shares) - 1)]) * count)
        if found.by_round is None:
            alike = (
                f"on average {100 * found.overlap:.0f} % of the {count} dropped layers are those of"
                f" the whole set, and the orders' rank correlation is {found.rank_correlation:.2f}"
            )
        else:
            rounds = ", ".join(f"{100 * share:.0f}" for share in found.by_round)
            alike = (
                "in each round, given the layers dropped before it, on average"
                f" {100 * found.overlap:.0f} % of them drop the same layer as the whole set"
                f" ({rounds} %), and the first round's orders have a rank correlation of"
                f" {found.rank_correlation:.2f}"
            )
        other = (
            ""
            if name == now.criterion
            else f" {svl.CRITERIA[now.criterion].title} cannot be resampled, so this is {title}."
        )
        return {
            "stability-note": views.read(
                f"{found.draws:,} resamples of {said}: {alike}. This image alone would drop {mine}"
                f" of the same {count} layers.{other}"
            ),
            "plot-stability": drawing.figure(
                figures.stability_curve(
                    found.scores.scores,
                    found.interval,
                    found.dropped,
                    found.scores.chosen(count),
                    own.scores,
                    ids=ids,
                ),
                f"{title}: scores of {len(ids)} layers on {said} with 95 % intervals, and those of"
                " this image.",
            ),
            "plot-overlap": drawing.figure(
                figures.overlap_figure(shares, len(whole.ranking), count),
                "Layers that this image and the set both drop, in percent, for 1 to"
                f" {len(shares) - 1} layers; {mine} of {count} at the plan.",
            ),
        }

    yield {"stability-note": views.progress("Resampling …", 0.0)}
    try:
        yield from desk._guard(work, request, EVIDENCE)
    except Exception:
        yield {"stability-note": ""}
        raise
