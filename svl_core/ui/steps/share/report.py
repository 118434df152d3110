"""Fold of step "share": the analysis as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

from svl_core.errors import InputError
from svl_core.ui import parts, texts
from svl_core.ui.drawing import Update, View
from svl_core.ui.figure import Figure, Measured
from svl_core.ui.gradio_patches import front_page
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import evidence, halves, words
from svl_core.ui.steps.answers import draw_full, draw_metrics, draw_pruned, sources_in_words
from svl_core.ui.steps.answers.variants import section
from svl_core.ui.wiring import SETTINGS, Page
from svl_core.ui.work.answering import NOT_ANALYSED

STYLES = parts.STATIC / "report.css"


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("report", gr.Button("Download the report (HTML)", elem_id="report"))
    page.add_file("report", "Report")


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs = ["cards", "truth", "state", "strip", SETTINGS, *evidence.EVIDENCE]
    page.writes_file("report", write, inputs)


# -------------------------------------------------------------------------------- handlers
def write(
    page: Page,
    cards: Sequence[Mapping],
    truth: Mapping | None,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    *shown: object,
    request: gr.Request | None = None,
) -> Update:
    """The report as a file.

    truth: right answers by question. cards: the kept variants. shown: what the folds of the
    evidence hold.
    """
    if not state or not strip:
        raise InputError(NOT_ANALYSED)
    view = page.view(
        state,
        settings,
        strip,
        truth=truth,
    )
    values = (
        dict(
            zip(
                evidence.EVIDENCE,
                shown,
                strict=False,
            )
        )
        if shown
        else {}
    )
    values = dict.fromkeys(evidence.EVIDENCE) | values
    text = exports.report(
        texts.TITLE,
        exports.in_words(
            state,
            strip,
            settings,
            sources_in_words(view),
        ),
        [_section(figure, view) for figure in reported(page)]
        + [_of_measured(found) for found in halves.measured(view)]
        + [_of_measured(found) for found in words.measured(view)]
        + [
            _of_measured(found)
            for found in evidence.measured(
                page,
                state,
                strip,
                values,
            )
        ],
        _answers(view) + section(cards),
        links(view, request),
        STYLES.read_text(encoding="utf-8"),
    )
    path = page.new_file(
        "short-lvlm-report.html",
        text.encode(),
        request,
    )
    return {"report-file": str(path)}


def links(
    view: View,
    request: gr.Request | None,
) -> list[tuple[str, str]]:
    """Where to read on, and this very state of the page, where its address is known and a link
    can carry it.
    """
    address = front_page.address_of(request.request.scope) if hasattr(request, "request") else ""
    query = exports.query(
        view.state,
        view.strip,
        view.settings,
    )
    here = [("This page", f"{address}?{query}")] if address and view.state.get("origin") else []
    return [*texts.SOURCES, *here]


def _of_measured(found: Measured) -> exports.Section:
    figure = found.figure
    return exports.Section(
        figure.heading,
        _read(figure),
        found.value,
        said=found.said,
    )


def _read(figure: Figure) -> str:
    """How a figure is read: nothing is clicked in a report."""
    return figure.reading.split(" Click")[0]


def reported(page: Page) -> list[Figure]:
    """The figures that declare themselves part of the report, in the page's order."""
    figures = [shown for shown in page.shown.values() if isinstance(shown, Figure)]
    return [figure for figure in figures if figure.report]


def _section(
    figure: Figure,
    view: View,
) -> exports.Section:
    heading = figure.report_heading(view) if figure.report_heading else figure.heading
    scale = next((shown.draw(view) for shown in figure.beside if shown.name == "scale"), "")
    return exports.Section(
        heading,
        _read(figure),
        figure.draw(view),
        scale,
    )


def _answers(view: View) -> str:
    """Both answers and what separates them, empty before they are there."""
    if view.comparison is None:
        return ""
    return (
        f'<div class="two">{draw_full(view)}{draw_pruned(view)}</div>'
        f'<section class="card">{draw_metrics(view)}</section>'
    )
