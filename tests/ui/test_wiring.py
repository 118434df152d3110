"""The page put together: names that must be known, and figures that are declared once."""

import inspect
import re
from pathlib import Path

import gradio as gr
import pytest

from svl_core.ui import drawing, figure, views
from svl_core.ui.state.settings import ACCEPTED, DEFAULTS, Settings
from svl_core.ui.steps.share import report
from svl_core.ui.wiring import SETTINGS, Page, mapped

EVENTS = {figure.ANALYSED, figure.LOOK, figure.PLAN, figure.ANSWERS}


def answer_nothing(page):
    return {"status": "", "no such component": 1}


def yield_nothing(page):
    yield {"status": ""}
    yield {"no such component": 1}


def answer_elsewhere(page):
    return {"prompt": "what?"}


def test_a_name_that_is_no_component_raises(page):
    """What a handler returns by a wrong name would otherwise be dropped in silence."""
    for handler in (answer_nothing, yield_nothing):
        run = mapped(page, handler, [], ["status", "prompt"])
        with pytest.raises(LookupError, match=f"no such component.*{handler.__name__}.*component"):
            made = run(None, None)
            list(made) if inspect.isgenerator(made) else made


def test_a_component_that_the_event_does_not_write_raises(page):
    run = mapped(page, answer_elsewhere, [], ["status"])
    with pytest.raises(LookupError, match="'prompt'.*answer_elsewhere.*an output of its event"):
        run(None, None)


def test_names_are_known_and_taken_once(page):
    with pytest.raises(LookupError, match="no such component"):
        page["no such component"]
    with pytest.raises(LookupError, match="no such component"):
        page.on(page["analyze"].click, answer_nothing, ["no such component"], ["status"])
    with gr.Blocks(), pytest.raises(LookupError, match="second component 'prompt'"):
        page.add("prompt", gr.Textbox())


def test_controls_are_fields_and_go_there_and_back(page):
    assert set(page.controls) <= set(ACCEPTED)
    assert page.settings_of([None] * len(page.controls)) == DEFAULTS
    changed = Settings(rank=8, targets=("mlp", "attention"), top_p=0.3, layer=2)
    shown = []
    for name, value in page.values_of(changed).items():
        run = mapped(page, lambda page, name=name, value=value: {name: value}, [], [name])
        shown.append(run(None, None))
    assert shown[list(page.controls).index("targets")] is True  # a checkbox on the page
    assert page.settings_of(shown) == changed
    run = mapped(page, lambda page, settings: {"status": settings.rank}, [SETTINGS], ["status"])
    assert run(None, None, *shown) == 8
    typed = list(shown)
    typed[list(page.controls).index("rank")] = 8.7  # beside the slider anything can be typed
    assert page.settings_of(typed) == changed


def test_every_figure_is_declared_once(page):
    """Heading, reading and reasons; a component of its name; drawn after an event that exists, or
    by its own section; in the report or not.
    """
    figures = [shown for shown in page.shown.values() if isinstance(shown, figure.Figure)]
    assert len(figures) >= 14 and len({shown.heading for shown in figures}) == len(figures)
    for shown in figures:
        assert shown.heading and shown.reading and shown.why and shown.name in page.components
        assert set(shown.redrawn) <= EVENTS and bool(shown.redrawn) == (shown.draw is not None)
        assert page[shown.name].elem_id == shown.name
        assert not shown.report or shown.redrawn  # a report is drawn from the page's state alone
    for shown in page.shown.values():
        assert set(shown.redrawn) <= EVENTS and shown.name in page.components
    reported = {shown.key for shown in report.reported(page)}
    assert {"overlay", "redundancy", "similarity", "gap", "pca"} <= reported


def test_the_page_and_the_report_say_what_is_declared(page, analysed):
    markup = [
        str(block.value) for block in page.blocks.blocks.values() if isinstance(block, gr.HTML)
    ]
    state, strip = analysed["state"], analysed["strip"]
    written = report.write(page, [], None, state, strip, Settings())["report-file"]
    headings = re.findall(r"<h2>(.*?)</h2>", Path(written).read_text(encoding="utf-8"))
    for shown in page.shown.values():
        if isinstance(shown, figure.Figure):
            head = views.figure_head(shown.heading, shown.reading)
            why = views.why(shown.key, shown.why)  # at one place everywhere: under the reading
            assert markup.count(head + why) == 1, shown.name
            in_report = any(heading.startswith(shown.heading) for heading in headings)
            assert in_report == shown.report, shown.name


def test_what_an_event_redraws_is_what_it_writes(page, analysed):
    view = page.view(analysed["state"], DEFAULTS, analysed["strip"])
    assert isinstance(view, drawing.View) and isinstance(page, Page)
    for event in EVENTS:
        update = page.redraw(event, view)
        assert set(update) == set(page.redrawn(event)) and update
        early, late = (page.redraw(event, view, late=late) for late in (False, True))
        names = set(early) | set(late)
        assert names == set(update) and "plot-pca" not in early
