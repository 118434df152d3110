"""Fold of step "share": the analysis as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from svl_core.errors import InputError
from svl_core.ui import parts, texts
from svl_core.ui.drawing import Update, View
from svl_core.ui.figure import Figure
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.answers import draw_full, draw_metrics, draw_pruned, sources_in_words
from svl_core.ui.steps.answers.variants import section
from svl_core.ui.wiring import QUICK, SETTINGS, Page
from svl_core.ui.work.answering import NOT_ANALYSED

STYLES = parts.STATIC / "report.css"


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("report", gr.Button("Download the report (HTML)", elem_id="report"))
    file = gr.DownloadButton("Report", visible="hidden", elem_id="report-file")
    page.add("report-file", file)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs = ["cards", "truth", "state", "strip", SETTINGS]
    options = {**QUICK, "show_progress": "full"}
    clicked = page["report"].click
    written = page.on(clicked, write, inputs, ["report-file"], **options)
    page.download(written, "report-file")


# -------------------------------------------------------------------------------- handlers
def write(
    page: Page,
    cards: Sequence[Mapping],
    truth: Mapping | None,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Update:
    """The report as a file. truth: right answers by question. cards: the kept variants."""
    if not state or not strip:
        raise InputError(NOT_ANALYSED)
    view = page.view(state, settings, strip, truth=truth)
    text = exports.report(
        texts.TITLE,
        exports.in_words(state, strip, settings, sources_in_words(view)),
        [_section(shown, view) for shown in reported(page)],
        _answers(view) + section(cards),
        parts.PLOTLY.read_text(encoding="utf-8"),
        STYLES.read_text(encoding="utf-8"),
    )
    path = page.new_file("short-lvlm-report.html", text.encode(), request)
    return {"report-file": str(path)}


def reported(page: Page) -> list[Figure]:
    """The figures that declare themselves part of the report, in the page's order."""
    figures = [shown for shown in page.shown.values() if isinstance(shown, Figure)]
    return [figure for figure in figures if figure.report]


def _section(figure: Figure, view: View) -> exports.Section:
    """A figure as a section: nothing is clicked in a report."""
    heading = figure.report_heading(view) if figure.report_heading else figure.heading
    reading = figure.reading.split(" Click")[0]
    scale = next((shown.draw(view) for shown in figure.beside if shown.name == "scale"), "")
    return exports.Section(heading, reading, figure.draw(view), scale)


def _answers(view: View) -> str:
    """Both answers and what separates them, empty before they are there."""
    if view.comparison is None:
        return ""
    return (
        f'<div class="two">{draw_full(view)}{draw_pruned(view)}</div>'
        f'<section class="card">{draw_metrics(view)}</section>'
    )
