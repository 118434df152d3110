"""What every section of the page is built of: a numbered heading, a figure's heading with its
reading, and the "why" that unfolds.
"""

from __future__ import annotations

import gradio as gr

from svl_core.ui import parts, texts, views


def step(number: int, key: str) -> None:
    """The heading of a step of `texts.STEPS`."""
    gr.HTML(views.step_head(number, *texts.STEPS[key]), padding=False)


def figure_head(key: str) -> None:
    """Heading and reading of a figure of `texts.FIGURES`."""
    heading, reading, _ = texts.FIGURES[key]
    gr.HTML(views.figure_head(heading, reading), padding=False)


def why(key: str) -> None:
    gr.HTML(views.why(key, texts.FIGURES[key][2]), padding=False)


def plot(key: str, c: dict, wait: str = "Appears after the analysis.") -> None:
    """A plotly figure under its heading, as `plot-<key>` of the page's components. wait: shown
    until it is there.
    """
    figure_head(key)
    c[f"plot-{key}"] = parts.plot(f"plot-{key}", wait)
    why(key)
