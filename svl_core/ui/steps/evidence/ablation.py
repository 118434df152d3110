"""Fold of step "evidence": what each layer is for, read off by taking it out alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import gradio as gr

from svl_core import figures
from svl_core.errors import InputError
from svl_core.recipe import OWN, THIS
from svl_core.service import calibration
from svl_core.service.workspace import EVIDENCE
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update, figure
from svl_core.ui.figure import Measured, plot
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Page, session_of
from svl_core.ui.work.answering import NOT_ANALYSED, then_live
from svl_core.ui.work.ranking import PLAN_IN, start_redrawing

FOLD = "What is each layer for? Every layer taken out alone"
STATUS = "ablation-status"
SCENES, SAMPLES = "world", "samples"
KINDS = 13  # of questions about scenes
PER_KIND = 6  # questions of a kind, where the map is measured here
SOURCES = [
    ("Every kind of question of the bundled world", SCENES),
    ("This image, or your set", SAMPLES),
]
MEASURES = {
    SCENES: (("Accuracy", "accuracy"), ("Agreement", "agreement"), ("KL", "kl")),
    SAMPLES: (("Loss of each word", "loss"), ("Agreement", "agreement"), ("KL", "kl")),
}
BLOCKS = [("one layer", 1), ("2", 2), ("3", 3), ("4", 4)]

ABLATION = plot(
    "ablation",
    wait="Appears once the map is measured.",
    heading="What is each layer for?",
    reading=(
        "<strong>Bright: lost without it.</strong> Each column is a layer (or a block of layers)"
        " taken out alone, each row a kind of question, a sample or a word. Click a cell to drop"
        " that layer besides those of the plan; click it again to keep it."
    ),
    why=(
        "The model without the block reads the full model's own answers token by token. A layer"
        " that is bright in one row only holds one skill; a dark column is a layer that nothing"
        " here needs, although what needs it may not have been asked."
    ),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("ablation-map", gr.State(None))
    with page.add("ablation", gr.Accordion(FOLD, open=False, elem_id="ablation")):
        with gr.Row():
            _radio(page, "ablation-source", SOURCES, SCENES, "Ask")
            measures = list(MEASURES[SCENES])
            _radio(page, "ablation-measure", measures, "accuracy", "What is lost")
            _radio(page, "ablation-block", BLOCKS, 1, "Taken out together")
        with gr.Row(elem_id="ablation-go"):
            page.add("ablation-run", gr.Button("Measure the map", elem_id="ablation-run"))
            page.add("ablation-stop", gr.Button("Stop", elem_id="ablation-stop"))
        page.add(STATUS, parts.view(STATUS))
        page.show(ABLATION)


def _radio(page: Page, name: str, choices: list, value: object, label: str) -> None:
    page.add(name, gr.Radio(choices, value=value, label=label, elem_id=name))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs = ["ablation-source", "ablation-measure", "ablation-block", *PLAN_IN]
    outputs = [STATUS, "ablation-map", "ablation-measure", ABLATION.name]
    page.on(
        page.halt(page["ablation-run"].click, EVIDENCE).then,
        run,
        inputs,
        outputs,
        trigger_mode="multiple",
        **page.evidence,
    )
    page.halt(page["ablation-stop"].click, EVIDENCE)
    for event in (page["ablation"].expand, page["ablation-source"].input):
        page.on(event, show_known, inputs, outputs, **QUICK)
    shown = ["ablation-map", "ablation-measure", "ablation-block", "strip"]
    for event in (page["ablation-measure"].input, page["ablation-block"].input):
        page.on(event, drawn, shown, [ABLATION.name], **QUICK)
    outputs = [STATUS, "strip", ABLATION.name]
    picked = page.on(page[ABLATION.name].pick, load, shown, outputs, **QUICK)
    then_live(page, start_redrawing(page, picked.success))


# -------------------------------------------------------------------------------- handlers
def key_of(page: Page, source: str, state: dict, settings: Settings) -> tuple:
    """The key of the map that is asked for.

    A model that does not know the bundled scenes has only samples.
    """
    model = state["model"]
    if source == SCENES and model in page.workspace.scene_models:
        return "ablation", model, SCENES, ""
    own = page.workspace.sources(model, settings).rank == OWN
    return "ablation", model, SAMPLES, settings.own if own else state["key"]


def known_map(page: Page, key: tuple):
    """The map of a key: measured before, or shipped beside the bundled model's weights."""
    sweeps = page.workspace.sweeps
    known = sweeps.get(key)
    if known is None and key[1:3] == ("demo", SCENES):
        known = _shipped_map()
        if known is not None:
            sweeps.put(key, known)
    return known


@cache
def _shipped_map():
    from svl_core.comparison.ablation import stored_map
    from svl_core.lvlm.catalogue import DEMO_PLACES

    return next(filter(None, map(stored_map, DEMO_PLACES)), None)


def show_known(
    page: Page,
    source: str,
    measure: str,
    block: int,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
) -> Update:
    """The map if there is one already; else what to do for it."""
    if not state or not strip:
        return {}
    key = key_of(page, source, state, settings)
    known = known_map(page, key)
    choices = list(MEASURES[key[2]])
    measure = measure if measure in dict(choices).values() else choices[0][1]
    update: Update = {"ablation-measure": gr.update(choices=choices, value=measure)}
    if known is None:
        sentence = (
            "Not measured yet: each layer and each block of two to four is taken out in turn. Press"
            " “Measure the map”."
        )
        return {
            **update,
            "ablation-map": None,
            ABLATION.name: None,
            STATUS: views.progress(sentence),
        }
    return {
        **update,
        "ablation-map": key,
        STATUS: views.progress(_in_words(known, key)),
        **drawn(page, key, measure, block, strip),
    }


def _in_words(known, key: tuple) -> str:
    if key[2] == SCENES:
        kinds = len(known.columns["accuracy"])
        asked = f"{known.n} questions of {kinds} kinds on fresh scenes"
    else:
        plural = "s" if known.n > 1 else ""
        asked = f"{known.n} sample{plural} against the full model's own answers"
    return f"{len(known.blocks)} blocks of one to four layers, {asked}."


def run(
    page: Page,
    source: str,
    measure: str,
    block: int,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """Measures the map anew."""
    if not state or not strip:
        raise InputError(NOT_ANALYSED)
    workspace, model = page.workspace, state["model"]
    key = key_of(page, source, state, settings)

    def work(task) -> Update:
        samples, options = _asked(page, key, state, settings, task.silent())
        options = {"max_new_tokens": settings.max_new_tokens, **options}
        measured = workspace.backend.ablate(model, samples, options, task).map()
        workspace.sweeps.put(key, measured)
        workspace.uploads.hold(session_of(request), key)
        return show_known(page, source, measure, block, state, strip, settings)

    yield {STATUS: views.progress("Preparing …", 0.0)}
    ended: Update = {STATUS: ""}
    try:
        for update in page.run(work, request, EVIDENCE, place=STATUS):
            if ABLATION.name in update:
                ended = {}
            yield update
    except Exception:
        yield {STATUS: ""}
        raise
    yield ended


def _asked(
    page: Page, key: tuple, state: dict, settings: Settings, task
) -> tuple[Sequence, Mapping]:
    """The samples that a map is measured on, and what `ablate` is told of them."""
    workspace, model = page.workspace, state["model"]
    if key[2] == SCENES:
        from svl_core.demo.evaluation import questions

        asked = questions("scenes", PER_KIND * KINDS, calibration.SEED)
        lvlm = workspace.load_model(model, task)
        samples = [lvlm.encode(question.image, question.question) for question in asked]
        return samples, {"questions": asked, "data": "scenes"}
    source = OWN if key[3] == settings.own else THIS
    analysis = workspace.analysis_of(state)
    return workspace.samples(model, source, analysis, settings, task), {}


def drawn(page: Page, key: tuple | None, measure: str, block: int, strip: dict | None) -> Update:
    """The map of a key, of blocks of so many layers."""
    known = page.workspace.sweeps.get(tuple(key)) if key else None
    if known is None or measure not in known.tables:
        return {}
    block, ids, columns = int(block), strip["ids"], known.columns[measure]
    title, unit, factor = figures.LOST[measure]
    alt = (
        f"{title} without each {'layer' if block == 1 else f'block of {block} layers'}, on"
        f" {len(columns)} rows."
    )
    worst = _worst(known.of(measure, block), columns)
    if worst is not None:
        lost, first, name = worst
        last = f" to {ids[first + block - 1]}" if block > 1 else ""
        alt += f" Most: {factor * lost:.3g} {unit} on {name!r} without layer {ids[first]}{last}."
    return {
        ABLATION.name: figure(
            figures.ablation_map(
                known, measure, block, strip["drop"], ids=ids, scale_on=strip["ranking"]
            ),
            alt,
        )
    }


REPORTED = ["ablation-map", "ablation-measure", "ablation-block"]


def measured(
    page: Page, state: Mapping, strip: dict, key: tuple | None, measure: str, block: int
) -> list[Measured]:
    """The map for the report, where one of the model that is on the page is shown."""
    update = drawn(page, key, measure, block, strip)
    if not update or key[1] != state["model"]:
        return []
    said = _in_words(page.workspace.sweeps.get(tuple(key)), tuple(key))
    return [Measured(ABLATION, update[ABLATION.name], said)]


def _worst(table, columns: Sequence[str]) -> tuple[float, int, str] | None:
    """The largest loss, the first layer of its block and what is asked; None for an empty table."""
    losses = [
        (float(value), first, name)
        for first, row in enumerate(table if table.size else ())
        for name, value in zip(columns, row, strict=False)
        if value == value
    ]
    return max(losses, default=None)


def load(
    page: Page,
    key: tuple | None,
    measure: str,
    block: int,
    strip: dict | None,
    event: gr.EventData,
) -> Update:
    """The layers of a clicked cell go besides those of the plan, or stay again where all of them
    go; never those that always stay.
    """
    cell = getattr(event, "data", None)
    if not strip or not cell:
        return {}
    first, size = int(cell[0]), int(cell[1])
    picked = {layer for layer in strip["ranking"] if first <= layer < first + size}
    if not picked:
        raise InputError(
            f"Found layer {strip['ids'][first]}, which is protected; expected one that may go;"
            " untick “Protect the first and the last layer” under Method settings, or choose"
            " another."
        )
    before = set(strip["drop"])
    stays = picked <= before
    after = sorted(before - picked if stays else before | picked)
    strip = {**strip, "drop": after}
    return {
        STATUS: views.progress(_change_in_words(strip["ids"], sorted(picked), stays, len(after))),
        "strip": strip,
        **drawn(page, key, measure, block, strip),
    }


def _change_in_words(ids: Sequence[int], picked: Sequence[int], stays: bool, count: int) -> str:
    """What a click on a cell changed."""
    layers = ", ".join(str(ids[layer]) for layer in picked)
    plural = "s" if len(picked) > 1 else ""
    change = f"Layer{plural} {layers} {'kept again' if stays else 'added to the plan'}"
    return f"{change}, which drops {count} layer{'' if count == 1 else 's'} now."
