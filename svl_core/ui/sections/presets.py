"""Page section: whole recipes beside "as published", one choice for all the controls of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

import svl_core as svl
from svl_core.errors import InputError
from svl_core.ui import parts, views
from svl_core.ui.handlers import RANKING, Desk
from svl_core.ui.state import recipes
from svl_core.ui.state.settings import RECIPE, Settings
from svl_core.ui.wiring import QUICK, Wiring


def layout(c: dict) -> None:
    with gr.Column(elem_id="preset-section"):  # a Group would take the id twice
        c["preset"] = gr.Radio(
            list(recipes.CHOICES),
            value="as-published",
            label="Preset",
            info="Sets criterion, compensation and their settings at once",
            elem_id="preset",
        )
        c["preset-note"] = parts.view("preset-note")


def wire(w: Wiring) -> None:
    c, desk = w.c, w.desk
    outputs = ["status", "strip", "drop", *RECIPE, *w.look, *w.figures]

    def chosen(name, *values, request: gr.Request | None = None):
        yield from choose(desk, name, *values, request=request)

    w.then_live(
        w.on(
            w.halt_ranking(c["preset"].input).then,
            chosen,
            [c["preset"], *w.select_in],
            outputs,
            **{**QUICK, "trigger_mode": "multiple"},
        )
    )


def choose(
    desk: Desk,
    name: str,
    state: dict | None,
    strip: dict | None,
    focus: dict | None,
    *settings,
    request: gr.Request | None = None,
) -> Iterator[dict]:
    """The preset's settings and, at the strip's number of layers, its plan.

    Where criteria compete this runs the model on the calibration set.
    """
    if not state or not strip:
        return
    before = Settings.of(settings)
    if name not in svl.PRESETS:
        yield {
            "preset": recipes.current(
                state["model"], desk.scene_models, before, strip, desk.limits.calibration_samples
            )
        }
        return
    preset, model = svl.PRESETS[name], state["model"]
    made = recipes.values(preset, model, desk.scene_models, before, desk.limits.calibration_samples)
    now = replace(before, **made)

    def work(task):
        analysis = desk.analysis_of(state)
        ground = desk.analysis_of_source(model, desk.sources(model, now).rank, analysis, now, task)
        count, won = len(strip["drop"]), None
        if preset.rivals:
            task.emit(
                {
                    "preset-note": views.read(
                        f"{preset.title} is being found: criteria rank the layers on"
                        f" {len(ground.samples)} samples, and the plan that leaves the answers"
                        " nearest wins. Until then everything below is of the plan before."
                    )
                }
            )
            scores = competed(desk, preset, ground, now, count, task)
            won = preset.name
        else:
            scores = desk.rank(ground, now, task)
        used = replace(now, criterion=scores.criterion)
        new = desk.strip(analysis, scores, scores.chosen(min(count, scores.most)), used)
        if won:
            new["preset"] = [won, *new["drop"]]
        return {
            **made,
            "criterion": scores.criterion,
            **desk.redrawn(analysis, used, focus, new, state),
        }

    current = recipes.current(
        model, desk.scene_models, before, strip, desk.limits.calibration_samples
    )
    yield from desk._guard(
        work,
        request,
        RANKING,
        {"preset": current, "preset-note": views.read(recipes.told(current, strip))},
    )


def competed(
    desk: Desk, preset: svl.Preset, ground, now: Settings, count: int, task
) -> svl.LayerScores:
    """The ranking whose `count` layers leave the answers nearest once compensated: the preset's
    criterion and its rivals, fitted and tried on different samples of the set.
    """
    if len(ground.samples) < 2:
        raise InputError(
            f"Found {len(ground.samples)} sample for the preset {preset.title!r}; expected at least"
            " two, some to fit on and others to try; bring files of your own as the calibration"
            " set below."
        )
    key = recipes.contest_key(preset, count, now)
    found = ground.memo.get(key)
    if found is None:
        rankings = [
            desk.rank(ground, now, task, each, rounds=max(count, 1), most=preset.ranked_on)
            for each in preset.criteria
        ]
        plans = [svl.plan(each, min(count, each.most)) for each in rankings]
        found = rankings[
            plans.index(desk.backend.choose(ground.model, preset.name, ground.samples, plans, task))
        ]
        ground.memo.put(key, found)
    return found
