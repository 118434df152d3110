"""What every section of the page is headed by: a numbered heading, a figure's heading with its
reading, and the "why" that unfolds.
"""

from __future__ import annotations

import gradio as gr

from svl_core.ui import views


def step(number: int, title: str, lede: str) -> None:
    """The heading of a step of the page."""
    gr.HTML(views.step_head(number, title, lede), padding=False)


def figure_head(heading: str, reading: str, key: str = "", why: str = "") -> None:
    """What stands above a figure: its heading, how to read it and, folded, the reasons behind it.

    reading: the page's own markup.
    key: names the fold, so that it stays open.
    why: the reasons as plain text, "" where there are none to tell.
    """
    folded = views.why(key, why) if why else ""
    gr.HTML(views.figure_head(heading, reading) + folded, padding=False)
