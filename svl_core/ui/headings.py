"""What every section of the page is headed by: a numbered heading, a figure's heading with its
reading, and the "why" that unfolds.
"""

from __future__ import annotations

import gradio as gr

from svl_core.ui import views


def step(number: int, title: str, lede: str) -> None:
    """The heading of a step of the page."""
    gr.HTML(views.step_head(number, title, lede), padding=False)


def figure_head(heading: str, reading: str) -> None:
    """What stands above a figure. reading: the page's own markup."""
    gr.HTML(views.figure_head(heading, reading), padding=False)


def why(key: str, text: str) -> None:
    """The reasons behind a figure, folded. key: names the fold, so that it stays open."""
    gr.HTML(views.why(key, text), padding=False)
