"""What the page shows and redraws: each declared once, in the step that shows it.

A declaration says what a component is called, how it is made, how it is drawn and when it is drawn
anew. The layout, the outputs of events, the report and the tests are all made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from gradio.components import Component

from svl_core.ui import parts
from svl_core.ui.drawing import View

ANALYSED = "analysed"
"""An image and a prompt were analysed: what depends on the model's size is bounded anew."""
LOOK = "look"
"""Another layer, opacity, patch or word is looked at."""
PLAN = "plan"
"""The layers that go, or what closes their gap, changed."""
ANSWERS = "answers"
"""Both models answered."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A component that events redraw.

    name: of the component.
    make: makes it, from its elem_id.
    draw: its value, None where its own section draws it from what it measured.
    redrawn: after which of the events above.
    late: whether it is drawn behind everything else, for it takes long the first time.
    """

    name: str
    make: Callable[[str], Component]
    draw: Callable[[View], object] | None = None
    redrawn: tuple[str, ...] = ()
    late: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure(Shown):
    """A component with a heading, a sentence on how to read it and the reasons, folded, above it.

    reading: one or two sentences of the page's own markup.
    why: plain text that unfolds.
    beside: what is shown right below the figure.
    report: whether the report has it.
    report_heading: the heading there, where it says more than the page's.
    """

    heading: str
    reading: str
    why: str
    beside: tuple[Shown, ...] = ()
    report: bool = False
    report_heading: Callable[[View], str] | None = None

    @property
    def key(self) -> str:
        return self.name.removeprefix("plot-")


@dataclass(frozen=True)
class Measured:
    """A figure that its section drew from what it measured, for the report.

    value: of `parts.plot`. said: a sentence on what was measured.
    """

    figure: Figure
    value: Mapping
    said: str


def plot(name: str, *, wait: str = parts.WAIT, **declared) -> Figure:
    """A plotly figure `plot-<name>`. wait: what stands in its place until it is drawn."""
    make = partial(parts.plot, wait=wait)
    return Figure(name=f"plot-{name}", make=make, **declared)


def view(name: str, *, wait: str = "", classes: str = "", **declared) -> Shown:
    """Markup without a heading."""
    make = partial(parts.view, wait=wait, classes=classes)
    return Shown(name=name, make=make, **declared)


def card(name: str, *, wait: str = parts.WAIT, **declared) -> Figure:
    """A figure that is drawn as markup."""
    return Figure(name=name, make=partial(parts.view, classes="card", wait=wait), **declared)
