"""Page section: every number of dropped layers with chosen criteria and compensations, measured,
with its cliff and its best trades.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core import figures
from svl_core.comparison.calibration import encode_all, split
from svl_core.errors import InputError
from svl_core.progress import Run
from svl_core.recipe import DEMO, OWN, THIS
from svl_core.service.tasks import in_percent
from svl_core.service.workspace import EVIDENCE, RANKING
from svl_core.ui import drawing, headings, parts, views
from svl_core.ui.handlers import Desk, session_of
from svl_core.ui.state.settings import RECIPE, Settings
from svl_core.ui.wiring import QUICK, Wiring

SHOWN = ["sweep-status", "sweep", "sweep-measure", "plot-sweep", "plot-pareto"]
CLICK = (
    "() => { setTimeout(() => (document.querySelector('#sweep-file a') ??"
    " document.querySelector('#sweep-file')).click(), 300) }"
)


def layout(c: dict, most: int) -> None:
    """most: samples to measure on, at most."""
    c["sweep"] = gr.State(None)
    with gr.Accordion(
        "Sweep: fidelity and speed at every number of layers", open=False, elem_id="sweep"
    ):
        with gr.Row():
            c["sweep-criteria"] = gr.CheckboxGroup(
                [
                    (each.title, name)
                    for name, each in svl.CRITERIA.items()
                    if each.needs != "layers"
                ],
                value=["svl", "shortgpt", "random"],
                label="Criteria",
                info="Greedy ones and ShortV run the model many times before the first point",
                elem_id="sweep-criteria",
            )
        with gr.Row():
            c["sweep-compensations"] = gr.CheckboxGroup(
                [(each.title, name) for name, each in svl.COMPENSATIONS.items()],
                value=["none", "scp"],
                label="Compensations",
                elem_id="sweep-compensations",
                min_width=260,
            )
            c["sweep-most"] = gr.Slider(
                1,
                14,
                8,
                step=1,
                label="Layers to drop, at most",
                elem_id="sweep-most",
                min_width=260,
            )
            c["sweep-size"] = gr.Slider(
                2,
                min(most, 64),
                min(most, 16),
                step=1,
                label="Scenes to measure on",
                info="Of the bundled world; your own files are split in halves instead",
                elem_id="sweep-size",
                min_width=260,
            )
        with gr.Row(elem_id="sweep-go"):
            c["sweep-run"] = gr.Button("Run the sweep", elem_id="sweep-run")
            c["sweep-stop"] = gr.Button("Stop, keep what is there", elem_id="sweep-stop")
            c["sweep-measure"] = gr.Radio(
                [
                    ("Agreement", "agreement"),
                    ("KL", "kl"),
                    ("Equal answers", "exact"),
                    ("Right answers", "accuracy"),
                ],
                value="agreement",
                label="Fidelity as",
                info="Right answers are known of bundled scenes only",
                elem_id="sweep-measure",
            )
        c["sweep-status"] = parts.view("sweep-status")
        with gr.Row(elem_classes="pair"):
            with gr.Column():
                headings.plot("sweep", c, "Appears with the sweep’s first points.")
            with gr.Column():
                headings.plot("pareto", c, "Appears with the sweep’s first points.")
        with gr.Row():
            c["sweep-json"] = gr.Button("Download JSON", elem_id="sweep-json")
            c["sweep-csv"] = gr.Button("Download CSV", elem_id="sweep-csv")
            c["sweep-file"] = gr.DownloadButton("Sweep", visible="hidden", elem_id="sweep-file")


def wire(w: Wiring) -> None:
    c, desk = w.c, w.desk

    def running(*values, request: gr.Request | None = None):
        yield from run(desk, *values, request=request)

    def loaded(*values, event: dict, request: gr.Request | None = None):
        yield from load(desk, *values, event=event, request=request)

    asked = [
        c["sweep-criteria"],
        c["sweep-compensations"],
        c["sweep-most"],
        c["sweep-size"],
        c["sweep-measure"],
        *w.plan_in,
    ]
    w.on(
        w.on(
            c["sweep-run"].click,
            lambda request: desk.stop(request, EVIDENCE),
            [],
            ["status"],
            queue=False,
        ).then,
        running,
        asked,
        SHOWN,
        concurrency_id="evidence",
        concurrency_limit=desk.limits.heavy_jobs,
        trigger_mode="multiple",
    )
    w.on(
        c["sweep-stop"].click,
        lambda request: desk.stop(request, EVIDENCE),
        [],
        ["status"],
        queue=False,
    )
    w.on(
        c["sweep-measure"].input,
        lambda measure, shown: drawn(desk, shown, measure),
        [c["sweep-measure"], c["sweep"]],
        SHOWN[2:],
        **QUICK,
    )
    for plot in (c["plot-sweep"], c["plot-pareto"]):
        w.then_live(
            w.on(
                plot.pick,
                loaded,
                [c["sweep"], *w.select_in],
                ["status", "strip", "drop", *RECIPE, *w.look, *w.figures],
                **{**QUICK, "trigger_mode": "multiple"},
            )
        )
    for kind in ("json", "csv"):
        w.on(
            c[f"sweep-{kind}"].click,
            lambda shown, request, kind=kind: written(desk, shown, kind, request),
            [c["sweep"]],
            ["sweep-file"],
            **QUICK,
        ).success(None, js=CLICK, show_progress="hidden", api_visibility="private")


def sides(
    desk: Desk, state: dict, now: Settings, size: int, task
) -> tuple[tuple, tuple, list | None, str]:
    """Samples to fit and to measure on, never the same ones unless the sentence says so; the
    measured ones' questions where their answers are known; a sentence about them.
    """
    name, used, analysis = (
        state["model"],
        desk.sources(state["model"], now),
        desk.analysis_of(state),
    )
    if OWN in (used.rank, used.fit):
        fit, measured = split(desk.samples(name, OWN, analysis, now, task), 0.5)
        return (
            tuple(fit),
            tuple(measured),
            None,
            (
                f"Ranked and fitted on {len(fit)} of your samples, measured on the other"
                f" {len(measured)}."
            ),
        )
    if used.fit == THIS:
        return (
            analysis.samples,
            analysis.samples,
            None,
            (
                "Ranked, fitted and measured on this very image and prompt: the curves flatter"
                " compensation. A calibration set of two or more separates them."
            ),
        )
    desk.limits.check("calibration_samples", size, "samples to measure on")
    from svl_core.demo.questions import measured_questions

    asked = measured_questions(size)
    fit, key = (
        desk.samples(name, DEMO, analysis, now, task),
        (
            name,
            "measured",
            size,
        ),
    )
    measured = desk.encoded_sets.get(key)
    if measured is None:
        measured = tuple(
            encode_all(
                desk.load_model(name, task),
                asked,
                run=in_percent(task, "Reading the scenes"),
            )
        )
        desk.encoded_sets.put(key, measured)
    return (
        fit,
        measured,
        asked,
        (
            f"Ranked and fitted on the bundled set ({len(fit)} scenes), measured on {len(measured)}"
            " other scenes."
        ),
    )


def run(
    desk: Desk,
    criteria: Sequence[str],
    compensations: Sequence[str],
    most: int,
    size: int,
    measure: str,
    state: dict | None,
    strip: dict | None,
    *settings,
    request: gr.Request | None = None,
) -> Iterator[dict]:
    """The sweep row by row; a stopped one keeps its rows, and the same one asked for again goes on
    behind them.
    """
    if not state or not strip:
        raise InputError(
            "Found nothing analysed yet; expected an analysed image and prompt; press Analyze"
            " first."
        )
    if not criteria or not compensations:
        raise InputError(
            "Found no criterion or no compensation ticked; expected at least one of each; tick"
            " some."
        )
    now, model, shown = Settings.of(settings), state["model"], {}

    def work(task):
        fit, measured, asked, sentence = sides(desk, state, now, int(size), task.silent())
        free = [k for k in range(len(strip["ids"])) if k not in strip["protected"]]
        drops = list(range(min(int(most), len(free)) + 1))
        total = len(criteria) * len(compensations) * len(drops)
        desk.limits.check("sweep_points", total, "pruned models in the sweep")
        key = (
            "sweep",
            model,
            tuple(s.key for s in fit),
            tuple(s.key for s in measured),
            now.key_tokens,
            now.rank,
            now.strength,
            now.attention_target,
            now.protect_ends,
            now.max_new_tokens,
        )
        used = desk.sources(model, now)
        made = {name: getattr(now, name) for name in RECIPE} | {
            "visual_share": 1.0,
            "calibration": now.calibration if used.rank == used.fit else used.fit,
        }  # a sweep ranks on what it fits on
        shown.update(
            key=key,
            criteria=list(criteria),
            compensations=list(compensations),
            most=drops[-1],
            sentence=sentence,
            total=total,
            made=made,
        )
        desk.uploads.hold(session_of(request), key)
        kept = desk.sweeps.get(key)
        shown_here = task.showing(lambda text, share: {"sweep-status": views.progress(text, share)})

        def each(sweep):
            desk.sweeps.put(key, sweep)
            task.emit({"sweep": dict(shown), **drawn(desk, shown, measure)})

        def counted(share, what):
            done = len(chosen(desk.sweeps.get(key), shown).rows) if desk.sweeps.get(key) else 0
            shown_here.report(done / total, f"{done} of {total}: {what}")

        if kept:
            task.emit({"sweep": dict(shown), **drawn(desk, shown, measure)})
        options = {
            "criteria": tuple(criteria),
            "compensations": tuple(compensations),
            "drops": drops,
            "max_new_tokens": now.max_new_tokens,
            "questions": asked,
            "resume": kept,
            "allow_shared": fit == measured,
        }
        done = desk.backend.sweep(
            model, measured, fit, now, options, each, Run(counted, task.cancel)
        )
        if not kept or len(done.rows) > len(kept.rows):
            desk.sweeps.put(
                key,
                replace(
                    done,
                    rows=tuple(
                        {
                            (r.criterion, r.compensation, r.drop): r
                            for r in (*(kept.rows if kept else ()), *done.rows)
                        }.values()
                    ),
                ),
            )

    yield {"sweep-status": views.progress("Preparing …", 0.0)}
    try:
        yield from desk._guard(work, request, EVIDENCE)
    except Exception:
        yield _ended(desk, shown, measure)
        raise
    yield _ended(desk, shown, measure)


def _ended(desk: Desk, shown: dict, measure: str) -> dict:
    kept = desk.sweeps.get(shown.get("key"))
    if kept is None:
        return {"sweep-status": ""}
    done, total = len(chosen(kept, shown).rows), shown["total"]
    said = (
        f"{total} pruned models measured."
        if done == total
        else f"Stopped after {done} of {total}; run it again to go on from there."
    )
    return {
        "sweep-status": views.progress(f"{said} {shown['sentence']}"),
        "sweep": dict(shown),
        **drawn(desk, shown, measure),
    }


def chosen(sweep, shown: dict):
    """The rows that were asked for, in order."""
    order = {
        (a, b, d): (k, d)
        for k, (a, b) in enumerate(
            (a, b) for a in shown["criteria"] for b in shown["compensations"]
        )
        for d in range(shown["most"] + 1)
    }
    rows = [row for row in sweep.rows if (row.criterion, row.compensation, row.drop) in order]
    return replace(
        sweep,
        rows=tuple(sorted(rows, key=lambda row: order[row.criterion, row.compensation, row.drop])),
    )


def _sweep(desk: Desk, shown: dict | None):
    kept = desk.sweeps.get(shown["key"]) if shown else None
    return chosen(kept, shown) if kept else None


def drawn(desk: Desk, shown: dict | None, measure: str) -> dict:
    """Both figures; where right answers are asked for and unknown, of agreement, and the choice
    says so.
    """
    found = _sweep(desk, shown)
    if found is None or not found.rows:
        return {}
    known = all(getattr(row, measure) is not None for row in found.rows)
    measure = measure if known else "agreement"
    titles = {
        name: each.title
        for registry in (svl.CRITERIA, svl.COMPENSATIONS)
        for name, each in registry.items()
    } | {"none": "no compensation"}
    cliffs, best = found.cliffs(measure), found.pareto(measure)
    at = (
        "; ".join(
            f"{titles[a]} + {titles[b]} at {drop} layers"
            for (a, b), drop in cliffs.items()
            if drop is not None
        )
        or "none so far"
    )
    top = best[-1]
    return {
        **({} if known else {"sweep-measure": measure}),
        "plot-sweep": drawing.figure(
            figures.sweep_curves(
                {recipe: found.curve(*recipe) for recipe in found.recipes},
                cliffs,
                measure,
                titles=titles,
            ),
            f"{figures.MEASURES[measure]} of {len(found.rows)} pruned models by number of dropped"
            f" layers. Cliffs: {at}.",
        ),
        "plot-pareto": drawing.figure(
            figures.pareto_figure(found.rows, best, measure, titles=titles),
            f"{figures.MEASURES[measure]} against speed-up; {len(best)} models are beaten by none,"
            f" the fastest {top.speedup:.2f} times as fast at {getattr(top, measure):.3f}.",
        ),
    }


def load(
    desk: Desk,
    shown: dict | None,
    state: dict | None,
    strip: dict | None,
    focus: dict | None,
    *settings,
    event: dict,
    request: gr.Request | None = None,
) -> Iterator[dict]:
    """A clicked point: its layers into the strip, what it was made with into the controls.

    The layers are ranked by its criterion, so that the slider goes on along its curve.
    """
    found, point = _sweep(desk, shown), event.get("data")
    row = (
        next(
            (row for row in found.rows if [row.criterion, row.compensation, row.drop] == point),
            None,
        )
        if found
        else None
    )
    if row is None or not state or not strip:
        return
    _, model, fit, *_ = shown["key"]
    if model != state["model"]:
        raise InputError(
            f"Found a sweep of {model!r}; expected one of the model that is on the page; run the"
            " sweep again, or go back to that model."
        )
    before = Settings.of(settings)
    made = {**shown["made"], "criterion": row.criterion, "compensation": row.compensation}
    if made["calibration"] == OWN and not before.own:
        made["calibration"] = before.calibration
    now = replace(before, **made)
    desk.stop(request, RANKING, replaced=True)

    def work(task):
        analysis = desk.analysis_of(state)
        ground = desk.analysis_of_source(model, desk.sources(model, now).rank, analysis, now, task)
        if (
            svl.CRITERIA[row.criterion].needs == "model"
            and tuple(sample.key for sample in ground.samples) == fit
        ):
            ground.memo.put(
                drawing.scores_key(row.criterion, now), found.rankings[row.criterion]
            )  # the sweep ran the model for it
        return {
            **made,
            **desk.redrawn(
                analysis,
                now,
                focus,
                desk.strip(analysis, desk.rank(ground, now, task), row.layers, now),
                state,
            ),
        }

    yield from desk._guard(work, request, RANKING)


def written(desk: Desk, shown: dict | None, kind: str, request: gr.Request | None) -> dict:
    """The rows as a file. Raises InputError where there are none."""
    found = _sweep(desk, shown)
    if found is None:
        raise InputError("Found no sweep yet; expected some rows; run the sweep first.")
    path = Path(get_upload_folder()) / secrets.token_hex(16) / f"short-lvlm-sweep.{kind}"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps(found.to_json(), indent=1) + "\n" if kind == "json" else found.to_csv(),
        encoding="utf-8",
    )
    desk.uploads.hold(session_of(request), path)
    return {"sweep-file": str(path)}
