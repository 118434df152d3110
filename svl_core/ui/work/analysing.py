"""Analysing an image and a prompt: the handler, and how events start it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import gradio as gr

import svl_core as svl
from svl_core.service.presets import contest_key
from svl_core.service.stores import Analysis
from svl_core.ui import photo, prepared
from svl_core.ui.drawing import Update
from svl_core.ui.figure import ANALYSED, ANSWERS, LOOK, PLAN
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import SETTINGS, STATUS, Page, session_of
from svl_core.ui.work.answering import COMPARE_IN, compare, start_comparison
from svl_core.ui.work.ranking import ranked_on, strip_of

FIRST_SHARE = 0.25  # of the droppable layers, dropped at first
ANALYSE_IN = ["model", "image", "prompt", "state", "drop", "origin", "wanted", SETTINGS]
WRITTEN = [STATUS, "model", "state", "strip", "focus", "wanted", "photo-note"]


def analyse(
    page: Page,
    name: str,
    path: str | None,
    prompt: str,
    state: dict | None,
    drop: int | None,
    origin: str,
    wanted: list[int] | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """Image and prompt -> every figure.

    The number of dropped layers stays for the same model; the `wanted` layers of a link are dropped
    instead.
    """
    page.workspace.checked_settings(settings)

    def work(task) -> Update:
        analysis = _analysed(page, name, path, prompt, state, settings, task)
        page.workspace.uploads.hold(session_of(request), (analysis.model, analysis.sample.key))
        page.hold_upload(path, request)
        task.report(0.95, "Drawing …")
        dropped = int(drop) if _is_for(page, state, analysis) and drop is not None else None
        strip = _first_strip(page, analysis, settings, dropped, wanted, task)
        analysed = {
            "model": analysis.model,
            "key": analysis.sample.key,
            "path": path,
            "prompt": prompt,
            "origin": origin,
            "detail": analysis.detail,
        }
        view = page.view(analysed, settings, strip, at_hand=analysis)
        ready = prepared.known(analysed, strip, settings)
        task.emit(
            {
                "state": analysed,
                "strip": strip,
                "focus": None,
                "wanted": None,
                **page.redraw(ANALYSED, view),
                **page.redraw(ANSWERS, replace(view, answered=False), late=False),
                **page.redraw(LOOK, view),
                **page.redraw(PLAN, view, late=False),
                **(ready.at_once(len(strip["drop"])) if ready else {}),
            }
        )
        late = page.redraw(PLAN, view, late=True)
        if path and not origin:
            late["photo-note"] = photo.note(page.workspace, analysis.model, path)
        return late

    yield from page.run(work, request)


def _is_for(page: Page, state: dict | None, analysis: Analysis) -> bool:
    """Whether the number of dropped layers on the page is meant for this model."""
    if state is None:
        return page.opening is not None and analysis.model == page.workspace.models.first
    return state["model"] == analysis.model


def _analysed(
    page: Page,
    name: str,
    path: str | None,
    prompt: str,
    state: dict | None,
    settings: Settings,
    task,
) -> Analysis:
    models = page.workspace.models
    try:
        asked = (name or "").strip() or models.first
        read = page.workspace.settled(asked, path, settings, task)
        most = settings.max_visual_tokens
        return page.workspace.analyse(asked, path, prompt, task, read.detail, most)
    except Exception:
        if state and name != state["model"] and not models.ready(name):
            task.emit({"model": state["model"]})  # back to the model that works
        raise


def _first_strip(
    page: Page,
    analysis: Analysis,
    settings: Settings,
    dropped: int | None,
    wanted: list[int] | None,
    task,
) -> dict:
    """The ranking of a new analysis with the layers that go at first.

    dropped: how many went before, None for another model. wanted: the layers that a link asks for.
    """
    ranked = ranked_on(page, analysis, settings, task)
    expected = 1 if dropped is None else dropped
    if wanted is not None:
        expected = len(wanted)
    scores = page.workspace.rank_for_count(ranked, settings, expected, task)
    count = round(FIRST_SHARE * len(scores.ranking)) if dropped is None else dropped
    chosen = scores.chosen(max(0, min(count, scores.most)))
    may_go = [layer for layer in wanted or () if layer in scores.ranking]
    if may_go or wanted == []:
        chosen = may_go
    strip = strip_of(analysis, scores, chosen, settings)
    preset = page.workspace.contest(analysis.model, settings)
    if preset and _has_won(preset, ranked, scores, strip, settings):
        strip["preset"] = [preset.name, *strip["drop"]]
    return strip


def _has_won(
    preset: svl.Preset,
    ranked: Analysis,
    scores: svl.LayerScores,
    strip: dict,
    settings: Settings,
) -> bool:
    """Whether the strip's layers are those that won when the preset's criteria competed."""
    count = len(strip["drop"])
    won = ranked.memo.get(contest_key(preset, count, settings))
    if won is None or won.criterion != scores.criterion:
        return False
    return sorted(won.chosen(count)) == strip["drop"]


def analyse_picture(
    page: Page, name: str, path: str | None, *values, request: gr.Request | None = None
) -> Iterator[Update]:
    """`analyse` where there is a picture."""
    if not path:
        yield {}  # a generator without values would empty what it writes
        return
    yield from analyse(page, name, path, *values, request=request)


def compare_picture(
    page: Page, path: str | None, *values, request: gr.Request | None = None
) -> Iterator[Update]:
    """`compare` where there is a picture."""
    if not path:
        yield {}
        return
    yield from compare(page, *values, request=request)


def start_analysis(page: Page, trigger: Callable, picture: bool = False):
    """Analyses, then lets both models answer. picture: does nothing where there is none."""
    drawn = [name for event in (ANALYSED, ANSWERS, LOOK, PLAN) for name in page.redrawn(event)]
    outputs = list(dict.fromkeys([*WRITTEN, *drawn]))
    options = {"trigger_mode": "multiple", **page.heavy}
    handler = analyse_picture if picture else analyse
    analysed = page.on(trigger, handler, ANALYSE_IN, outputs, **options)
    if picture:
        asked = ["image", *COMPARE_IN]
        return start_comparison(page, analysed.success, compare_picture, asked)
    return start_comparison(page, analysed.success)
