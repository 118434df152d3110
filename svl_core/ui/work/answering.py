"""Letting both models answer: the handler, and how events start it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import gradio as gr

import svl_core as svl
from svl_core.errors import InputError
from svl_core.service.stores import Analysis
from svl_core.service.workspace import READING
from svl_core.ui import prepared, views
from svl_core.ui.drawing import Update
from svl_core.ui.figure import ANSWERS
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.wiring import SETTINGS, STATUS, Page, session_of

COMPARE_IN = ["state", "strip", "truth", SETTINGS]
NOT_ANALYSED = (
    "Found nothing analysed yet; expected an analysed image and prompt; press Analyze first."
)
ANSWERING = "Both models are answering …"
READING_ANEW = (
    "Both models read the whole question and answer; the caches of this family's layers cannot be"
    " shared …"
)


def compare(
    page: Page,
    state: dict | None,
    strip: dict | None,
    truth: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """The plan of the strip -> both answers as they grow, then what separates them."""
    page.workspace.checked_settings(settings)
    page.workspace.stop(session_of(request), READING, replaced=True)  # of answers that go

    def work(task) -> Update:
        if not state or not strip:
            raise InputError(NOT_ANALYSED)
        workspace = page.workspace
        task.report(None, "Preparing the pruned model …")
        analysis = workspace.analysis_of(state)
        lvlm = workspace.load_model(analysis.model, task)
        plan = plan_of(strip, lvlm)
        counts = lvlm.num_layers, len(plan.drop)
        sides = sides_of(*counts, settings)

        status = views.status(ANSWERING if _is_read(analysis) else READING_ANEW)

        ready = prepared.known(state, strip, settings)
        at_once = ready.at_once(len(plan.drop)) if ready else {}

        def show(answers: Sequence, live: Sequence[int]) -> None:
            task.emit({STATUS: status, **growing(answers, sides, live, *counts), **at_once})

        compared = workspace.compare(analysis, plan, settings, task, show)
        workspace.keep_comparison(analysis, strip, settings, compared)
        view = page.view(state, settings, strip, truth=truth, at_hand=analysis)
        return page.redraw(ANSWERS, view)

    yield from page.run(work, request)


def _is_read(analysis: Analysis) -> bool:
    """Whether the analysis left what both answers begin with."""
    return analysis.trace.samples[0].prompt is not None


def plan_of(strip: dict, lvlm: svl.LVLM) -> svl.DropPlan:
    """The plan that the strip shows."""
    plan = svl.manual_plan(strip["drop"], lvlm.num_layers, strip["protected"])
    return replace(plan, criterion=ranked_by(strip))


# ------------------------------------------------------------------------------- markup
def sides_of(layers: int, dropped: int, settings: Settings) -> tuple[str, str]:
    """What each model is, in a few words: how many layers, and what closes the gap."""
    pruned = f"{layers - dropped} layers"
    if dropped:
        title = svl.COMPENSATIONS[settings.compensation].title
        pruned += f", {title if settings.fits else 'no compensation'}"
    return f"{layers} layers", pruned


def growing(
    answers: Sequence,
    sides: tuple[str, str],
    live: Sequence[int],
    layers: int,
    dropped: int,
) -> Update:
    """Both answers so far. live: 0 and 1 for the models that still write."""
    update: Update = {}
    names = (("answer-full", "Full model"), ("answer-pruned", "Pruned model"))
    for number, (name, title) in enumerate(names):
        answer = answers[number]
        if answer is not None:
            update[name] = views.answer(
                title, sides[number], answer.text, timing(answer), growing=number in live
            )
    texts = [answer.text if answer else "" for answer in answers]
    counts = layers, dropped
    return {
        **update,
        "glance": views.glance(*texts, *counts, growing=True),
        "hero-answers": views.hero_answers(*texts, *counts, growing=True),
    }


def finished(
    title: str, side: str, answer: svl.Answer, spans: Sequence[tuple[int, int, str]]
) -> str:
    """An answer that is whole, with the words marked that differ from the other one."""
    return views.answer(title, side, answer.text, timing(answer), spans)


def timing(answer: svl.Answer) -> str:
    """How fast an answer came, in a line."""
    later = ""
    if answer.per_token_ms is not None:
        later = f", then {views.milliseconds(answer.per_token_ms)} a token"
    cut = " Cut at the answer length." if answer.stopped == "length" else ""
    first = views.milliseconds(answer.prefill_ms)
    return f"{len(answer.token_ids)} tokens; first after {first}{later}.{cut}"


# ------------------------------------------------------------------------------- starting
def start_comparison(
    page: Page,
    trigger: Callable,
    handler: Callable = compare,
    inputs: Sequence[str] = COMPARE_IN,
):
    """Lets both models answer."""
    outputs = [STATUS, *page.redrawn(ANSWERS)]
    return page.on(trigger, handler, inputs, outputs, trigger_mode="multiple", **page.heavy)


def compare_live(
    page: Page, live: bool, *values, request: gr.Request | None = None
) -> Iterator[Update]:
    """`compare` where the page's checkbox says so."""
    if live and values[0]:  # before the first analysis there is nothing to compare
        yield from compare(page, *values, request=request)


def then_live(page: Page, event):
    """After `event`, both models answer again where the page's checkbox says so."""
    halted = page.halt(event.then)
    return start_comparison(page, halted.then, compare_live, ["live", *COMPARE_IN])
