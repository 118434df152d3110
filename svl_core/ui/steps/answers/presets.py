"""Fold of step "answers": whole recipes by name, one choice for all the controls of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import gradio as gr

import svl_core as svl
from svl_core.service.presets import preset_values
from svl_core.service.workspace import RANKING
from svl_core.ui import views
from svl_core.ui.drawing import Update, View
from svl_core.ui.figure import PLAN, Shown, view
from svl_core.ui.state import presets
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Page
from svl_core.ui.work.answering import then_live
from svl_core.ui.work.ranking import (
    SELECT_IN,
    halt_ranking,
    ranked_anew,
    ranked_on,
    ranking_outputs,
    strip_of,
)


# --------------------------------------------------------------------------------- figures
def current_preset(shown: View) -> str:
    """The preset that the controls and the plan are."""
    workspace = shown.workspace
    return presets.current(
        shown.state["model"],
        workspace.scene_models,
        shown.settings,
        shown.strip,
        workspace.limits.calibration_samples,
    )


def draw_note(shown: View) -> str:
    return views.read(presets.in_words(current_preset(shown), shown.strip))


def _choice(name: str) -> gr.Radio:
    return gr.Radio(
        list(presets.CHOICES),
        value="as-published",
        label="Preset",
        info="Sets criterion, compensation and their settings at once",
        elem_id=name,
    )


PRESET = Shown(name="preset", make=_choice, draw=current_preset, redrawn=(PLAN,))
NOTE = view("preset-note", draw=draw_note, redrawn=(PLAN,))


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with gr.Column(elem_id="preset-section"):  # a Group would take the id twice
        page.show(PRESET)
        page.show(NOTE)


def wire(page: Page) -> None:
    chosen = page.on(
        halt_ranking(page, page["preset"].input).then,
        choose,
        ["preset", *SELECT_IN],
        ranking_outputs(page, *page.recipe_controls),
        **{**QUICK, "trigger_mode": "multiple"},
    )
    then_live(page, chosen)


# -------------------------------------------------------------------------------- handlers
def choose(
    page: Page,
    name: str,
    state: dict | None,
    strip: dict | None,
    focus: Mapping | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """The preset's settings and, at the strip's number of layers, its plan.

    Where criteria compete this runs the model on the calibration set.
    """
    if not state or not strip:
        return
    before = current_preset(page.view(state, settings, strip))
    if name not in svl.PRESETS:
        yield {"preset": before}
        return
    workspace, preset, model = page.workspace, svl.PRESETS[name], state["model"]
    most = workspace.limits.calibration_samples
    values = preset_values(preset, model, workspace.scene_models, settings, most)
    changed = replace(settings, **values)

    def work(task) -> Update:
        count = len(strip["drop"])
        analysis = workspace.analysis_of(state)
        ranked = ranked_on(page, analysis, changed, task)
        if preset.rivals:
            task.emit({"preset-note": views.read(_announced(preset, len(ranked.samples)))})
            scores = workspace.competed(preset, ranked, changed, count, task)
        else:
            scores = workspace.rank(ranked, changed, task)
        used = replace(changed, criterion=scores.criterion)
        chosen = scores.chosen(min(count, scores.most))
        new_strip = strip_of(analysis, scores, chosen, used)
        if preset.rivals:
            new_strip["preset"] = [preset.name, *new_strip["drop"]]
        controls = {field: value for field, value in values.items() if field in page.controls}
        return {
            **controls,
            "criterion": scores.criterion,
            **ranked_anew(page, state, focus, used, new_strip),
        }

    undone = {"preset": before, "preset-note": views.read(presets.in_words(before, strip))}
    yield from page.run(work, request, RANKING, undone)


def _announced(preset: svl.Preset, count: int) -> str:
    return (
        f"{preset.title} is being found: criteria rank the layers on {count} samples, and the plan"
        " that leaves the answers nearest wins. Until then everything below is of the plan before."
    )
