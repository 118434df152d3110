"""Page section: what each layer is for, read off by taking it out alone."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from svl_core import figures
from svl_core.errors import InputError
from svl_core.recipe import OWN, THIS
from svl_core.service import calibration
from svl_core.service.workspace import EVIDENCE
from svl_core.ui import drawing, headings, parts, views
from svl_core.ui.handlers import Desk, session_of
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Wiring

WORLD, SAMPLES = "world", "samples"
PER_KIND = 6  # questions of a kind, where the map is measured here
MEASURES = {
    WORLD: (("Accuracy", "accuracy"), ("Agreement", "agreement"), ("KL", "kl")),
    SAMPLES: (("Loss of each word", "loss"), ("Agreement", "agreement"), ("KL", "kl")),
}
SHOWN = ["ablation-status", "ablation-map", "ablation-measure", "plot-ablation"]


def layout(c: dict) -> None:
    c["ablation-map"] = gr.State(None)
    with gr.Accordion(
        "What is each layer for? Every layer taken out alone", open=False, elem_id="ablation"
    ) as c["ablation"]:
        with gr.Row():
            c["ablation-source"] = gr.Radio(
                [
                    ("Every kind of question of the bundled world", WORLD),
                    ("This image, or your set", SAMPLES),
                ],
                value=WORLD,
                label="Ask",
                elem_id="ablation-source",
            )
            c["ablation-measure"] = gr.Radio(
                list(MEASURES[WORLD]),
                value="accuracy",
                label="What is lost",
                elem_id="ablation-measure",
            )
            c["ablation-block"] = gr.Radio(
                [("one layer", 1), ("2", 2), ("3", 3), ("4", 4)],
                value=1,
                label="Taken out together",
                elem_id="ablation-block",
            )
        with gr.Row(elem_id="ablation-go"):
            c["ablation-run"] = gr.Button("Measure the map", elem_id="ablation-run")
            c["ablation-stop"] = gr.Button("Stop", elem_id="ablation-stop")
        c["ablation-status"] = parts.view("ablation-status")
        headings.plot("ablation", c, "Appears once the map is measured.")


def wire(w: Wiring) -> None:
    c, desk = w.c, w.desk

    def running(*values, request: gr.Request | None = None):
        yield from run(desk, *values, request=request)

    asked = [c["ablation-source"], c["ablation-measure"], c["ablation-block"], *w.plan_in]
    w.on(
        w.on(
            c["ablation-run"].click,
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
        c["ablation-stop"].click,
        lambda request: desk.stop(request, EVIDENCE),
        [],
        ["status"],
        queue=False,
    )
    for event in (c["ablation"].expand, c["ablation-source"].input):
        w.on(event, lambda *values: at_once(desk, *values), asked, SHOWN, **QUICK)
    for event in (c["ablation-measure"].input, c["ablation-block"].input):
        w.on(
            event,
            lambda shown, measure, block, strip: drawn(desk, shown, measure, block, strip),
            [c["ablation-map"], c["ablation-measure"], c["ablation-block"], c["strip"]],
            ["plot-ablation"],
            **QUICK,
        )
    w.then_live(
        w.on(
            w.on(
                c["plot-ablation"].pick,
                lambda strip, event: load(strip, event),
                [c["strip"]],
                ["strip"],
                **QUICK,
            ).success,
            desk.plan_changed,
            w.plan_in,
            ["drop", *w.figures],
            **QUICK,
        )
    )


def asked_of(desk: Desk, source: str, state: dict, now: Settings) -> tuple:
    """The key of the map that is asked for.

    A model that does not know the bundled world has only samples.
    """
    if source == WORLD and state["model"] in desk.scene_models:
        return "ablation", state["model"], WORLD, ""
    used = desk.sources(state["model"], now)
    which = used.rank if used.rank == OWN else THIS
    return "ablation", state["model"], SAMPLES, now.own if which == OWN else state["key"]


def stored(desk: Desk, key: tuple):
    """The map of a key: measured before, or shipped beside the bundled model's weights."""
    found = desk.sweeps.get(key)
    if found is None and key[1:3] == ("demo", WORLD):
        from svl_core.comparison.ablation import stored_map
        from svl_core.lvlm.catalogue import DEMO_PLACES

        found = next(filter(None, map(stored_map, DEMO_PLACES)), None)
        if found is not None:
            desk.sweeps.put(key, found)
    return found


def at_once(
    desk: Desk,
    source: str,
    measure: str,
    block: int,
    state: dict | None,
    strip: dict | None,
    *settings,
) -> dict:
    """The map if there is one already; else what to do for it."""
    if not state or not strip:
        return {}
    key = asked_of(desk, source, state, Settings.of(settings))
    found = stored(desk, key)
    choices = MEASURES[key[2]]
    measure = measure if measure in dict(choices).values() else choices[0][1]
    if found is None:
        return {
            "ablation-map": None,
            "plot-ablation": None,
            "ablation-measure": gr.update(choices=list(choices), value=measure),
            "ablation-status": views.progress(
                "Not measured yet: each layer and each block of two to four is taken out in turn."
                " Press “Measure the map”."
            ),
        }
    return {
        "ablation-map": key,
        "ablation-measure": gr.update(choices=list(choices), value=measure),
        "ablation-status": views.progress(_sentence(found, key)),
        **drawn(desk, key, measure, block, strip),
    }


def _sentence(found, key: tuple) -> str:
    asked = (
        f"{found.n} questions of {len(found.columns['accuracy'])} kinds on fresh scenes"
        if key[2] == WORLD
        else f"{found.n} sample{'s' if found.n > 1 else ''} against the full model's own answers"
    )
    return f"{len(found.blocks)} blocks of one to four layers, {asked}."


def run(
    desk: Desk,
    source: str,
    measure: str,
    block: int,
    state: dict | None,
    strip: dict | None,
    *settings,
    request: gr.Request | None = None,
) -> Iterator[dict]:
    """Measures the map anew."""
    if not state or not strip:
        raise InputError(
            "Found nothing analysed yet; expected an analysed image and prompt; press Analyze"
            " first."
        )
    now = Settings.of(settings)
    key, model = asked_of(desk, source, state, now), state["model"]

    def work(task):
        analysis, options = desk.analysis_of(state), {"max_new_tokens": now.max_new_tokens}
        if key[2] == WORLD:
            from svl_core.demo.evaluation import questions

            asked = questions("scenes", PER_KIND * 13, calibration.SEED)
            lvlm = desk.load_model(model, task)
            samples, options = (
                [lvlm.encode(one.image, one.question) for one in asked],
                {
                    **options,
                    "questions": asked,
                    "data": "scenes",
                },
            )
        else:
            samples = desk.samples(
                model,
                OWN if key[3] == now.own else THIS,
                analysis,
                now,
                task.silent(),
            )
        found = desk.backend.ablate(
            model,
            samples,
            options,
            task.showing(lambda text, share: {"ablation-status": views.progress(text, share)}),
        ).map()
        desk.sweeps.put(key, found)
        desk.uploads.hold(session_of(request), key)
        return at_once(desk, source, measure, block, state, strip, *settings)

    yield {"ablation-status": views.progress("Preparing …", 0.0)}
    ended = {"ablation-status": ""}
    try:
        for update in desk._guard(work, request, EVIDENCE):
            ended = {} if "plot-ablation" in update else ended
            yield update
    except Exception:
        yield {"ablation-status": ""}
        raise
    yield ended


def drawn(desk: Desk, key: tuple | None, measure: str, block: int, strip: dict | None) -> dict:
    found = desk.sweeps.get(tuple(key)) if key else None
    if found is None or measure not in found.tables:
        return {}
    block, ids = int(block), strip["ids"]
    title, unit, factor = figures.LOST[measure]
    table = found.of(measure, block)
    worst = (
        []
        if not table.size
        else sorted(
            (
                (float(value), k, name)
                for k, row in enumerate(table)
                for name, value in zip(found.columns[measure], row)
                if value == value
            ),
            reverse=True,
        )[:1]
    )
    most = (
        f" Most: {factor * worst[0][0]:.3g} {unit} on {worst[0][2]!r} without layer"
        f" {ids[worst[0][1]]}{f' to {ids[worst[0][1] + block - 1]}' if block > 1 else ''}."
        if worst
        else ""
    )
    return {
        "plot-ablation": drawing.figure(
            figures.ablation_map(
                found, measure, block, strip["drop"], ids=ids, scale_on=strip["ranking"]
            ),
            f"{title} without each {'layer' if block == 1 else f'block of {block} layers'}, on"
            f" {len(found.columns[measure])} rows.{most}",
        )
    }


def load(strip: dict | None, event: dict) -> dict:
    """The layers of a clicked cell into the strip, but for those that always stay."""
    cell = event.get("data")
    if not strip or not cell:
        return {}
    first, size = int(cell[0]), int(cell[1])
    block = [k for k in range(first, first + size) if k in strip["ranking"]]
    if not block:
        raise InputError(
            f"Found layer {strip['ids'][first]}, which is protected; expected one that may go;"
            " untick “Protect the first and the last layer” under Method settings, or choose"
            " another."
        )
    return {"strip": {**strip, "drop": block}}
