"""Ranking the layers and redrawing the plan: the handlers, and how events start them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import gradio as gr

import svl_core as svl
from svl_core.errors import InputError
from svl_core.recipe import OWN
from svl_core.service.stores import Analysis
from svl_core.service.workspace import RANKING
from svl_core.ui.controls import LOOKS, PLANS, RANKS, RANKS_ANEW, Control
from svl_core.ui.drawing import Update
from svl_core.ui.figure import LOOK, PLAN
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import droppable, strip_value
from svl_core.ui.wiring import QUICK, SETTINGS, STATUS, Page
from svl_core.ui.work.answering import then_live

LOOK_IN = ["state", "focus", SETTINGS]
PLAN_IN = ["state", "strip", SETTINGS]
SELECT_IN = ["state", "strip", "focus", SETTINGS]
LATEST = {"trigger_mode": "always_last", **QUICK}


# -------------------------------------------------------------------------------- handlers
def look(page: Page, state: dict | None, focus: dict | None, settings: Settings) -> Update:
    """Layer, opacity or focus moved: the image and the words."""
    if not state:
        return {}
    return page.redraw(LOOK, page.view(state, settings, focus=focus))


def redraw_plan(page: Page, state: dict | None, strip: dict | None, settings: Settings) -> Update:
    """What closes the gap changed: the figures that show the plan."""
    if not state or not strip:
        return {}
    return page.redraw(PLAN, page.view(state, settings, strip))


def plan_changed(page: Page, state: dict | None, strip: dict | None, settings: Settings) -> Update:
    """Layers were dropped or put back: how many, and the figures that show the plan."""
    if not state or not strip:
        return {}
    count = gr.update(value=len(strip["drop"]))
    return {"drop": count, **redraw_plan(page, state, strip, settings)}


def select(
    page: Page,
    state: dict | None,
    strip: dict | None,
    focus: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """What ranks the layers changed, so the ranking may change; as many layers go as before.

    Only criteria that need it run the model.
    """
    if not state:
        return

    def work(task) -> Update:
        if settings.calibration == OWN and not settings.own:
            raise InputError(
                "Found no files of yours; expected at least one image; bring some under"
                " “Calibration set” first."
            )
        count = len(strip["drop"])
        analysis = page.workspace.analysis_of(state)
        ranked = ranked_on(page, analysis, settings, task)
        scores = page.workspace.rank_for_count(ranked, settings, count, task)
        chosen = scores.chosen(min(count, scores.most))
        new_strip = strip_of(analysis, scores, chosen, settings)
        return ranked_anew(page, state, focus, settings, new_strip)

    followed = {name: strip[name] for name in ("criterion", "calibration") if name in strip}
    yield from page.run(work, request, RANKING, followed)


def ranked_on(page: Page, analysis: Analysis, settings: Settings, task) -> Analysis:
    """What the layers of an analysis are ranked on, traced where it is not yet."""
    source = page.workspace.sources(analysis.model, settings).rank
    return page.workspace.analysis_of_source(analysis.model, source, analysis, settings, task)


def strip_of(
    analysis: Analysis, scores: svl.LayerScores, drop: Sequence[int], settings: Settings
) -> dict:
    """The strip's value for a ranking and the layers that go."""
    return strip_value(
        analysis.trace.layer_ids,
        scores.ranking,
        scores.protected,
        drop,
        blocks=scores.blocks,
        criterion=scores.criterion,
        calibration=settings.calibration,
        rounds=scores.settings.get("rounds"),
    )


def ranked_anew(
    page: Page, state: dict, focus: dict | None, settings: Settings, strip: dict
) -> Update:
    """A new ranking, and all that follows from it."""
    view = page.view(state, settings, strip, focus)
    most, count = max(1, droppable(strip)), len(strip["drop"])
    return {
        "strip": strip,
        "drop": gr.update(maximum=most, value=count),
        **page.redraw(LOOK, view),
        **page.redraw(PLAN, view),
    }


# -------------------------------------------------------------------------------- starting
def ranking_outputs(page: Page, *more: str) -> list[str]:
    """What a new ranking writes."""
    return [STATUS, "strip", "drop", *more, *page.redrawn(LOOK), *page.redrawn(PLAN)]


def start_ranking(page: Page, trigger: Callable, **options):
    """Ranks the layers by the settings and drops as many as before."""
    outputs = ranking_outputs(page, "criterion", "calibration")
    options = {**QUICK, "trigger_mode": "multiple", **options}
    return page.on(trigger, select, SELECT_IN, outputs, **options)


def halt_ranking(page: Page, trigger: Callable):
    """Ends a ranking that still runs, for another one is wanted."""
    return page.halt(trigger, RANKING, replaced=True)


def start_redrawing(page: Page, trigger: Callable, **options):
    """Redraws the plan, with the number of layers that go."""
    outputs = ["drop", *page.redrawn(PLAN)]
    return page.on(trigger, plan_changed, PLAN_IN, outputs, **{**QUICK, **options})


def wire_controls(page: Page) -> None:
    """Every control does what its `moves` says."""
    for control in page.controls.values():
        moved = _moved(page, control)
        if control.moves == LOOKS:
            page.on(moved, look, LOOK_IN, page.redrawn(LOOK), **LATEST)
        elif control.moves == PLANS:
            then_live(page, page.on(moved, redraw_plan, PLAN_IN, page.redrawn(PLAN), **LATEST))
        elif control.moves == RANKS:
            then_live(page, start_ranking(page, moved, trigger_mode="always_last"))
        elif control.moves == RANKS_ANEW:
            then_live(page, start_ranking(page, halt_ranking(page, moved).then))


def _moved(page: Page, control: Control) -> Callable | None:
    """The event of a control that was moved, None where it holds what nobody moves by hand."""
    if control.settles:
        return page.settled(control.component)
    return getattr(control.component, "input", None)
