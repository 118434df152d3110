"""Page parts made of gr.HTML: a plot without remount, a safe HTML view, the layer strip, the
composer, the overlay.

The scripts live in static/page.js; templates here are constant, so no user or model text is ever
evaluated.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import gradio as gr

from svl_core.ui.theme import SANS_FILES

WAIT = "Appears after the analysis."  # what stands in a figure's place until it is drawn
STATIC = Path(__file__).with_name("static")
PLOTLY = Path(importlib.util.find_spec("plotly").origin).with_name("package_data") / "plotly.min.js"


SENT_AS_TEXT = ("plot", "picture", "link")
"""Parts whose values are sent as JSON. gradio's script changes a value that is an object where it
lies when a later step of the same event leaves it out, so a part that is built after that would
find it empty; it cannot change text.
"""


def _part(
    kind: str,
    value: object,
    elem_id: str,
    *,
    classes: str = "",
    wait: str = WAIT,
    **more: object,
) -> gr.HTML:
    # The names in quotes are the events that Python may listen to.
    script = (
        f"/* 'pick' 'toggle' 'compose' 'step' 'remove' */ svl.mount('{kind}', element, props,"
        " watch, trigger);"
    )
    made = gr.HTML(
        value,
        html_template=f'<div class="svl-{kind}" data-wait="{wait}"></div>',
        js_on_load=script,
        elem_id=elem_id,
        elem_classes=["svl-part", *classes.split()],
        apply_default_css=False,
        padding=False,
        **more,
    )
    made.is_sent_as_text = kind in SENT_AS_TEXT
    return made


def sent(component: object, value: object) -> object:
    """A value as it travels to a component; see `SENT_AS_TEXT`."""
    as_text = getattr(component, "is_sent_as_text", False)
    if not as_text or not isinstance(value, dict) or "__type__" in value:
        return value
    return json.dumps(value, separators=(",", ":"))


def view(elem_id: str, value: str = "", *, classes: str = "", wait: str = "") -> gr.HTML:
    """Markup made by `views` (escaped there); buttons with data-pick raise `pick`, or what
    data-event names, with their data. wait: shown while it is empty.
    """
    return _part("view", value, elem_id, classes=classes, wait=wait)


def plot(elem_id: str, wait: str = WAIT) -> gr.HTML:
    """A plotly figure drawn in place, in the page's ink; the value is {"figure": JSON, "alt": str}
    or None.

    A click on a point raises `pick` with x, y.
    """
    return _part("plot", None, elem_id, classes="card", wait=wait)


def strip(elem_id: str) -> gr.HTML:
    """The decoder layers as buttons: click or Space toggles, arrow keys move; see
    `strip.strip_value` for the value.
    """
    return _part("strip", None, elem_id)


def asked(elem_id: str) -> gr.HTML:
    """The picture with what matters in it, and the question; see `hero.draw_asked`."""
    return _part("asked", None, elem_id)


def decoder(elem_id: str) -> gr.HTML:
    """The layers as they stand between question and answer, those of the strip's plan fallen out;
    see `hero.draw_layers`. A click is one on the strip.
    """
    return _part("decoder", None, elem_id)


def sheet(elem_id: str) -> gr.HTML:
    """A button that unfolds the settings on a narrow screen, where they are hidden else."""
    return _part("sheet", None, elem_id)


def picture(elem_id: str) -> gr.HTML:
    """An image with a place to pick: the value is {"src", "alt", "rows", "columns"}, and "hint"
    for what a pick does; `pick` gives x, y in 0..1.
    """
    return _part("picture", None, elem_id, classes="card")


def address(elem_id: str) -> gr.HTML:
    """Nothing to be seen: the page's address keeps what is shown. The value is its query."""
    return _part("address", "", elem_id)


def sight(elem_id: str) -> gr.HTML:
    """Nothing to be seen: raises `pick` once its section is in sight and whenever the value is
    another one then. The value names what there is to read, "" for nothing.
    """
    return _part("sight", "", elem_id, wait="")


def link(elem_id: str) -> gr.HTML:
    """The page's address with its state in the query: {"query", "own": the image is the visitor's,
    so a link cannot carry it, "path": of the analysed image}.
    """
    return _part("link", None, elem_id, classes="card")


def stale(elem_id: str, text: str) -> gr.HTML:
    """A note that shows while the image or the prompt on the page is not the analysed one, and
    nothing runs.
    """
    return _part("stale", text, elem_id)


def lesson(elem_id: str) -> gr.HTML:
    """The guided lesson: raises `step` with {"step": 0-based or -1 to leave, "do": what to try};
    the value is `lesson.content`.
    """
    return _part("lesson", None, elem_id)


def large_type(elem_id: str) -> gr.HTML:
    """A toggle of larger type, kept in the page's address."""
    return _part("type", None, elem_id)


def bridge(sliders: list[str], sections: list[str]) -> gr.HTML:
    """Invisible; raises `settle_<id>` a moment after a slider came to rest, moved by mouse, touch
    or keyboard, and `near_<name>` once for each section, when it comes near or there is time.
    """
    events = [f"settle_{name.replace('-', '_')}" for name in sliders]
    events += [f"near_{name}" for name in sections]
    names = " ".join(f"'{name}'" for name in events)
    script = f"/* {names} */ svl.settle({sliders}, trigger); svl.unfold({sections}, trigger);"
    return gr.HTML(
        "",
        html_template="<div></div>",
        js_on_load=script,
        elem_id="bridge",
        apply_default_css=False,
        padding=False,
    )


def composer(
    elem_id: str, groups: list[tuple[str, list[str]]], places: list[str], items: dict[str, str]
) -> gr.HTML:
    """Nine native pickers, one a place; a change raises `compose` with {"items": {place: name}}."""
    return _part("composer", {"groups": groups, "places": places, "items": items}, elem_id)


HEAD_STYLES = ("frame", "hero")
"""Sheets for the document's head: gradio would confine them to its own part of the page."""


def head(started: float, first_screen: dict | None = None) -> str:
    """Markup for the document's head: the page's scripts (`page.js` first), the frame's styles, the
    address of the bundled plotly and which start of the server this is.

    The first screen's fonts are asked for with the document: found later, in the style sheet, they
    would change the lines of what already stands there.

    first_screen: what is drawn before anything else, see `Prepared.for_browser`.
    """
    gr.set_static_paths([PLOTLY])
    fonts = "".join(
        f"<link rel='preload' as='font' type='font/woff2' crossorigin href='{file}'>"
        for file in SANS_FILES.values()
    )
    scripts = sorted(STATIC.glob("*.js"), key=lambda file: (file.stem != "page", file.stem))
    styles = "".join(_text(STATIC / f"{name}.css") for name in HEAD_STYLES)
    return (
        f"<meta name='svl-plotly' content='{PLOTLY}'><meta name='svl-started'"
        f" content='{started}'>{fonts}<link rel='stylesheet' href='./theme.css'>"
        f"<style>{styles}</style>"
        f"{_as_data(first_screen)}" + "".join(f"<script>{_text(file)}</script>" for file in scripts)
    )


def _as_data(first_screen: dict | None) -> str:
    """The first screen as data that no markup in it can end."""
    if first_screen is None:
        return ""
    text = json.dumps(first_screen, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="svl-prepared">{text}</script>'


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def css() -> str:
    """The page's styles: every sheet but the head's and the report's own, `page.css` first."""
    sheets = sorted(
        (file for file in STATIC.glob("*.css") if file.stem not in (*HEAD_STYLES, "report")),
        key=lambda file: (file.stem != "page", file.stem),
    )
    return "\n".join(_text(file) for file in sheets)
