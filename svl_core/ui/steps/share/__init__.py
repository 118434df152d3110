"""Step "share": a link, a picture, a report, a checkpoint, and the code and the plan to repeat."""

from __future__ import annotations

from functools import partial

import gradio as gr

from svl_core.ui import headings, parts, texts, views
from svl_core.ui.drawing import View
from svl_core.ui.figure import PLAN, Shown
from svl_core.ui.state import exports
from svl_core.ui.steps.share import card, checkpoint, report
from svl_core.ui.wiring import Page

TITLE = "Take it with you"
LEDE = "A link to this very state, a report that needs no network, and the code that repeats it."


# --------------------------------------------------------------------------------- figures
def draw_link(shown: View) -> dict:
    return {
        "query": exports.query(shown.state, shown.strip, shown.settings),
        "own": not shown.state.get("origin"),
        "path": shown.state["path"],
    }


def draw_python(shown: View) -> str:
    return exports.snippet(shown.state, shown.strip, shown.settings, shown.sources)


def draw_plan(shown: View) -> str:
    return exports.plan_json(shown.state, shown.strip, shown.settings, shown.sources)


def draw_mergekit(shown: View) -> str:
    return exports.mergekit(shown.state, shown.strip, shown.analysis.model_type)


def _code(name: str, *, label: str, language: str) -> gr.Code:
    return gr.Code(label=label, language=language, elem_id=name, interactive=False, wrap_lines=True)


PLAN_LABEL = "Plan (JSON), for svl prune --from plan.json"
LINK = Shown(name="link", make=parts.link, draw=draw_link, redrawn=(PLAN,))
CODES = (
    Shown(
        name="code-python",
        make=partial(_code, label="Python", language="python"),
        draw=draw_python,
        redrawn=(PLAN,),
    ),
    Shown(
        name="code-plan",
        make=partial(_code, label=PLAN_LABEL, language="json"),
        draw=draw_plan,
        redrawn=(PLAN,),
    ),
    Shown(
        name="code-mergekit",
        make=partial(_code, label="mergekit (YAML)", language="yaml"),
        draw=draw_mergekit,
        redrawn=(PLAN,),
    ),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    headings.step(8, TITLE, LEDE)
    page.show(LINK)
    with gr.Row(elem_id="take"):
        card.layout(page)
        report.layout(page)
        checkpoint.layout(page)
    with gr.Accordion("Code and plan", open=False, elem_id="code"):
        for code in CODES:
            page.show(code)
    with gr.Accordion("Glossary", open=False, elem_id="glossary"):
        words = views.glossary(texts.GLOSSARY) + views.sources(texts.SOURCES)
        gr.HTML(words, padding=False)


def wire(page: Page) -> None:
    card.wire(page)
    checkpoint.wire(page)
    report.wire(page)
