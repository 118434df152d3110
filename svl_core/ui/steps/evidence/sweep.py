"""Fold of step "evidence": every number of dropped layers with chosen criteria and compensations,
measured, with its cliff and its best trades.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.comparison.calibration import encode_all, split
from svl_core.errors import InputError
from svl_core.progress import Run
from svl_core.recipe import DEMO, OWN, THIS, UNTHINNED
from svl_core.service import calibration
from svl_core.service.derived import scores_key
from svl_core.service.tasks import in_percent
from svl_core.service.workspace import EVIDENCE, RANKING
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update, View, figure
from svl_core.ui.figure import ANALYSED, Measured, Shown, plot
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import droppable
from svl_core.ui.wiring import QUICK, Page, session_of, stop
from svl_core.ui.work.answering import NOT_ANALYSED, then_live
from svl_core.ui.work.ranking import (
    PLAN_IN,
    SELECT_IN,
    ranked_anew,
    ranked_on,
    ranking_outputs,
    strip_of,
)

FOLD = "Sweep: fidelity and speed at every number of layers"
WAIT = "Appears with the sweep’s first points."
STATUS = "sweep-status"
MOST_MEASURED, USUALLY_MEASURED = 64, 16  # scenes
MEASURES = [
    ("Agreement", "agreement"),
    ("KL", "kl"),
    ("Equal answers", "exact"),
    ("Right answers", "accuracy"),
]

SWEEP = plot(
    "sweep",
    wait=WAIT,
    heading="Where is the cliff?",
    reading=(
        "<strong>Higher is better for agreement, lower for KL.</strong> A triangle marks the"
        " steepest fall of a line, if it is at least a tenth. Click a point to load its plan and"
        " settings."
    ),
    why=(
        "Each point is a pruned model: layers ranked and compensation fitted on one set of samples,"
        " fidelity measured on others under teacher forcing on the full model's own greedy answers."
        " Random is drawn three times; its bars are standard deviations."
    ),
)
PARETO = plot(
    "pareto",
    wait=WAIT,
    heading="Fidelity against speed",
    reading=(
        "<strong>Up and to the right is better.</strong> The orange line joins the models that no"
        " other beats in both. Click a point to load its plan and settings."
    ),
    why=(
        "Speed-ups are measured here: full and pruned model answer in turn, five times, and medians"
        " are compared. A hollow point's was noise, for the machine had other work: it stands where"
        " the work of the layers kept lets one expect it. Which layers are gone makes no difference"
        " to the work, so a size is timed once."
    ),
)


def _most(name: str) -> gr.Slider:
    label = "Layers to drop, at most"
    return gr.Slider(1, 14, 8, step=1, label=label, elem_id=name, min_width=260)


def _bound_most(shown: View) -> object:
    return gr.update(maximum=max(1, droppable(shown.strip)))


MOST = Shown(name="sweep-most", make=_most, draw=_bound_most, redrawn=(ANALYSED,))
DRAWN = ["sweep-measure", SWEEP.name, PARETO.name]


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("sweep", gr.State(None))
    with gr.Accordion(FOLD, open=False, elem_id="sweep"):
        with gr.Row():
            criteria = gr.CheckboxGroup(
                [
                    (criterion.title, name)
                    for name, criterion in svl.CRITERIA.items()
                    if criterion.needs != "layers"
                ],
                value=["svl", "shortgpt", "random"],
                label="Criteria",
                info="Greedy ones and ShortV run the model many times before the first point",
                elem_id="sweep-criteria",
            )
            page.add("sweep-criteria", criteria)
        with gr.Row():
            _lay_out_extent(page)
        with gr.Row(elem_id="sweep-go"):
            _lay_out_buttons(page)
        page.add(STATUS, parts.view(STATUS))
        with gr.Row(elem_classes="pair"):
            with gr.Column():
                page.show(SWEEP)
            with gr.Column():
                page.show(PARETO)
        with gr.Row():
            page.add("sweep-json", gr.Button("Download JSON", elem_id="sweep-json"))
            page.add("sweep-csv", gr.Button("Download CSV", elem_id="sweep-csv"))
            file = gr.DownloadButton("Sweep", visible="hidden", elem_id="sweep-file")
            page.add("sweep-file", file)


def _lay_out_extent(page: Page) -> None:
    compensations = gr.CheckboxGroup(
        [(row.title, name) for name, row in svl.COMPENSATIONS.items()],
        value=["none", "scp"],
        label="Compensations",
        elem_id="sweep-compensations",
        min_width=260,
    )
    page.add("sweep-compensations", compensations)
    page.show(MOST)
    allowed = page.workspace.limits.calibration_samples
    size = gr.Slider(
        2,
        min(allowed, MOST_MEASURED),
        min(allowed, USUALLY_MEASURED),
        step=1,
        label="Scenes to measure on",
        info="Of the bundled world; your own files are split in halves instead",
        elem_id="sweep-size",
        min_width=260,
    )
    page.add("sweep-size", size)


def _lay_out_buttons(page: Page) -> None:
    page.add("sweep-run", gr.Button("Run the sweep", elem_id="sweep-run"))
    page.add("sweep-stop", gr.Button("Stop, keep what is there", elem_id="sweep-stop"))
    measure = gr.Radio(
        MEASURES,
        value="agreement",
        label="Fidelity as",
        info="Right answers are known of bundled scenes only",
        elem_id="sweep-measure",
    )
    page.add("sweep-measure", measure)


# ---------------------------------------------------------------------------------- events
ASKED = ["sweep-criteria", "sweep-compensations", "sweep-most", "sweep-size", "sweep-measure"]


def wire(page: Page) -> None:
    page.on(
        page.halt(page["sweep-run"].click, EVIDENCE).then,
        run,
        [*ASKED, *PLAN_IN],
        [STATUS, "sweep", *DRAWN],
        trigger_mode="multiple",
        **page.evidence,
    )
    page.halt(page["sweep-stop"].click, EVIDENCE)
    measure = page["sweep-measure"].input
    page.on(measure, redraw, ["sweep-measure", "sweep"], DRAWN, **QUICK)
    outputs = ranking_outputs(page, *page.recipe_controls)
    for shown in (SWEEP, PARETO):
        options = {**QUICK, "trigger_mode": "multiple"}
        picked = page[shown.name].pick
        then_live(page, page.on(picked, load, ["sweep", *SELECT_IN], outputs, **options))
    for kind in ("json", "csv"):
        handler = partial(write, kind=kind)
        clicked = page[f"sweep-{kind}"].click
        page.download(page.on(clicked, handler, ["sweep"], ["sweep-file"], **QUICK), "sweep-file")


# -------------------------------------------------------------------------------- handlers
def samples_for(
    page: Page, state: dict, settings: Settings, size: int, task
) -> tuple[tuple, tuple, list | None, str]:
    """Samples to fit and to measure on, never the same ones unless the sentence says so; the
    measured ones' questions where their answers are known; a sentence about them.
    """
    workspace, model = page.workspace, state["model"]
    sources, analysis = workspace.sources(model, settings), workspace.analysis_of(state)
    if OWN in (sources.rank, sources.fit):
        own = workspace.samples(model, OWN, analysis, settings, task)
        fit, measured = split(own, 0.5)
        sentence = (
            f"Ranked and fitted on {len(fit)} of your samples, measured on the other"
            f" {len(measured)}."
        )
        return tuple(fit), tuple(measured), None, sentence
    if sources.fit == THIS:
        sentence = (
            "Ranked, fitted and measured on this very image and prompt: the curves flatter"
            " compensation. A calibration set of two or more separates them."
        )
        return analysis.samples, analysis.samples, None, sentence
    fit = workspace.samples(model, DEMO, analysis, settings, task)
    measured, questions = _scenes(page, model, analysis.detail, size, task)
    sentence = (
        f"Ranked and fitted on {calibration.words(DEMO, len(fit))}, measured on"
        f" {len(measured)} other scenes."
    )
    return fit, measured, questions, sentence


def _scenes(page: Page, model: str, detail: str, size: int, task) -> tuple[tuple, list]:
    """Labelled scenes that nothing is fitted on, as the model reads them."""
    from svl_core.demo.questions import measured_questions

    workspace = page.workspace
    workspace.limits.check("calibration_samples", size, "samples to measure on")
    questions = measured_questions(size)
    key = model, "measured", size, detail
    measured = workspace.encoded_sets.get(key)
    if measured is None:
        lvlm = workspace.load_model(model, task).reading(detail)
        reading = in_percent(task, "Reading the scenes")
        measured = tuple(encode_all(lvlm, questions, run=reading))
        workspace.encoded_sets.put(key, measured)
    return measured, questions


def run(
    page: Page,
    criteria: Sequence[str],
    compensations: Sequence[str],
    most: int,
    size: int,
    measure: str,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """The sweep row by row; a stopped one keeps its rows, and the same one asked for again goes on
    behind them.
    """
    if not state or not strip:
        raise InputError(NOT_ANALYSED)
    if not criteria or not compensations:
        raise InputError(
            "Found no criterion or no compensation ticked; expected at least one of each; tick"
            " some."
        )
    workspace, model, shown = page.workspace, state["model"], {}

    def work(task) -> None:
        silent = task.silent()
        fit, measured, questions, sentence = samples_for(page, state, settings, int(size), silent)
        drops = list(range(min(int(most), len(strip["ids"]) - len(strip["protected"])) + 1))
        total = len(criteria) * len(compensations) * len(drops)
        workspace.limits.check("sweep_points", total, "pruned models in the sweep")
        key = _key(model, fit, measured, settings)
        shown.update(
            key=key,
            criteria=list(criteria),
            compensations=list(compensations),
            most=drops[-1],
            sentence=sentence,
            total=total,
            recipe=_recipe_of_rows(page, model, settings),
        )
        workspace.uploads.hold(session_of(request), key)
        known = workspace.sweeps.get(key)

        def show(swept) -> None:
            workspace.sweeps.put(key, swept)
            task.emit({"sweep": dict(shown), **drawn(page, shown, measure)})

        def count(share: float | None, what: str) -> None:
            rows = shown_rows(page, shown)
            done = len(rows.rows) if rows else 0
            task.report(done / total, f"{done} of {total}: {what}")

        if known:
            task.emit({"sweep": dict(shown), **drawn(page, shown, measure)})
        options = {
            "criteria": tuple(criteria),
            "compensations": tuple(compensations),
            "drops": drops,
            "max_new_tokens": settings.max_new_tokens,
            "questions": questions,
            "resume": known,
            "allow_shared": fit == measured,
        }
        counting = Run(count, task.cancel)
        swept = workspace.backend.sweep(
            model, measured, fit, settings.recipe.changed(**UNTHINNED), options, show, counting
        )
        if not known or len(swept.rows) > len(known.rows):
            workspace.sweeps.put(key, _joined(known, swept))

    yield {STATUS: views.progress("Preparing …", 0.0)}
    try:
        yield from page.run(work, request, EVIDENCE, place=STATUS)
    except Exception:
        yield _ended(page, shown, measure)
        raise
    yield _ended(page, shown, measure)


def _key(model: str, fit: Sequence, measured: Sequence, settings: Settings) -> tuple:
    """Under which a sweep is stored: all that its rows share."""
    return (
        "sweep",
        model,
        tuple(sample.key for sample in fit),
        tuple(sample.key for sample in measured),
        settings.key_sweep,
    )


def _recipe_of_rows(page: Page, model: str, settings: Settings) -> dict[str, object]:
    """The controls that all rows of a sweep share: it ranks on what it fits on, and its pruned
    models read every visual token.
    """
    sources = page.workspace.sources(model, settings)
    same = sources.rank == sources.fit
    values = {name: getattr(settings, name) for name in page.recipe_controls}
    unthinned = {name: value for name, value in UNTHINNED.items() if name in values}
    return {
        **values,
        **unthinned,
        "calibration": settings.calibration if same else sources.fit,
    }


def _joined(known, swept):
    """A sweep with the rows that were there before it."""
    rows = {row.key: row for row in (*(known.rows if known else ()), *swept.rows)}
    return replace(swept, rows=tuple(rows.values()))


def _ended(page: Page, shown: dict, measure: str) -> Update:
    rows = shown_rows(page, shown) if shown else None
    if rows is None:
        return {STATUS: ""}
    done, total = len(rows.rows), shown["total"]
    sentence = f"{total} pruned models measured."
    if done < total:
        sentence = f"Stopped after {done} of {total}; run it again to go on from there."
    return {
        STATUS: views.progress(f"{sentence} {shown['sentence']}"),
        "sweep": dict(shown),
        **drawn(page, shown, measure),
    }


def shown_rows(page: Page, shown: Mapping | None):
    """The sweep with the rows that were asked for; None where there is no sweep."""
    swept = page.workspace.sweeps.get(shown["key"]) if shown else None
    return None if swept is None else chosen(swept, shown)


def chosen(swept, shown: Mapping):
    """A sweep with the rows that were asked for alone, in order."""
    order = {}
    for criterion in shown["criteria"]:
        for compensation in shown["compensations"]:
            for drop in range(shown["most"] + 1):
                order[criterion, compensation, drop] = len(order)
    rows = [row for row in swept.rows if row.key in order]
    return replace(swept, rows=tuple(sorted(rows, key=lambda row: order[row.key])))


def redraw(page: Page, measure: str, shown: dict | None) -> Update:
    """Fidelity is shown as something else."""
    return drawn(page, shown, measure)


def drawn(page: Page, shown: Mapping | None, measure: str) -> Update:
    """Both figures; where right answers are asked for and unknown, of agreement, and the choice
    says so.
    """
    swept = shown_rows(page, shown)
    if swept is None or not swept.rows:
        return {}
    known = all(getattr(row, measure) is not None for row in swept.rows)
    update: Update = {} if known else {"sweep-measure": "agreement"}
    measure = measure if known else "agreement"
    titles = _titles()
    curves = {recipe: swept.curve(*recipe) for recipe in swept.recipes}
    whole = [recipe for recipe, rows in curves.items() if len(rows) == shown["most"] + 1]
    cliffs, best = swept.cliffs(measure), swept.pareto(measure)
    cliffs = {recipe: drop for recipe, drop in cliffs.items() if recipe in whole}
    falls = [
        f"{titles[criterion]} + {titles[compensation]} at {drop} layers"
        for (criterion, compensation), drop in cliffs.items()
        if drop is not None
    ]
    fastest, named = best[-1], figures.MEASURES[measure]
    return {
        **update,
        SWEEP.name: figure(
            figures.sweep_curves(curves, cliffs, measure, titles=titles),
            f"{named} of {len(swept.rows)} pruned models by number of dropped layers. Cliffs:"
            f" {'; '.join(falls) or 'none so far'}.",
        ),
        PARETO.name: figure(
            figures.pareto_figure(swept.rows, best, measure, titles=titles),
            f"{named} against speed-up; {len(best)} models are beaten by none, the fastest"
            f" {fastest.likely_speedup:.2f} times as fast at {getattr(fastest, measure):.3f}.",
        ),
    }


REPORTED = ["sweep", "sweep-measure"]


def measured(page: Page, state: Mapping, shown: Mapping | None, measure: str) -> list[Measured]:
    """Both figures for the report, where there is a sweep of the model that is on the page."""
    swept = shown_rows(page, shown)
    if swept is None or not swept.rows or shown["key"][1] != state["model"]:
        return []
    figures = drawn(page, shown, measure)
    said = f"{len(swept.rows)} of {shown['total']} pruned models measured. {shown['sentence']}"
    return [Measured(figure, figures[figure.name], said) for figure in (SWEEP, PARETO)]


def _titles() -> dict[str, str]:
    titles = {name: row.title for name, row in {**svl.CRITERIA, **svl.COMPENSATIONS}.items()}
    return titles | {"none": "no compensation"}


def load(
    page: Page,
    shown: dict | None,
    state: dict | None,
    strip: dict | None,
    focus: Mapping | None,
    settings: Settings,
    event: gr.EventData,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """A clicked point: its layers into the strip, what it was made with into the controls.

    The layers are ranked by its criterion, so that the slider goes on along its curve.
    """
    row = _row_at(page, shown, getattr(event, "data", None))
    if row is None or not state or not strip:
        return
    swept = shown_rows(page, shown)
    _, model, fit, *_ = shown["key"]
    if model != state["model"]:
        raise InputError(
            f"Found a sweep of {model!r}; expected one of the model that is on the page; run the"
            " sweep again, or go back to that model."
        )
    values = {
        **shown["recipe"],
        "criterion": row.criterion,
        "compensation": row.compensation,
        "detail": settings.detail,  # of the analysis that the page shows
    }
    if values["calibration"] == OWN and not settings.own:
        values["calibration"] = settings.calibration
    changed = replace(settings, **values)
    stop(page, request, lane=RANKING, replaced=True)

    def work(task) -> Update:
        analysis = page.workspace.analysis_of(state)
        ranked = ranked_on(page, analysis, changed, task)
        runs_model = svl.CRITERIA[row.criterion].needs == "model"
        if runs_model and tuple(sample.key for sample in ranked.samples) == fit:
            key = scores_key(row.criterion, changed)  # the sweep ran the model for it
            ranked.memo.put(key, swept.rankings[row.criterion])
        scores = page.workspace.rank(ranked, changed, task)
        new_strip = strip_of(analysis, scores, row.layers, changed)
        return {**values, **ranked_anew(page, state, focus, changed, new_strip)}

    yield from page.run(work, request, RANKING)


def _row_at(page: Page, shown: dict | None, point: Sequence | None):
    """The row of a clicked point: [criterion, compensation, drop]."""
    swept = shown_rows(page, shown)
    if swept is None or not point:
        return None
    return next((row for row in swept.rows if list(row.key) == list(point)), None)


def write(page: Page, shown: dict | None, kind: str, request: gr.Request | None = None) -> Update:
    """The rows as a file. Raises InputError where there are none.

    kind: "json" or "csv".
    """
    swept = shown_rows(page, shown)
    if swept is None:
        raise InputError("Found no sweep yet; expected some rows; run the sweep first.")
    text = swept.to_csv() if kind == "csv" else json.dumps(swept.to_json(), indent=1) + "\n"
    path = page.new_file(f"short-lvlm-sweep.{kind}", text.encode(), request)
    return {"sweep-file": str(path)}
