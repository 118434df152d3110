"""The controls of `Settings`, made from what its fields accept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from svl_core.recipe import Option
from svl_core.ui.drawing import View
from svl_core.ui.state.settings import ACCEPTED, DEFAULTS

LOOKS = "looks"
"""Moving it changes how importance is displayed."""
PLANS = "plans"
"""Moving it changes the pruned model of the layers that go."""
RANKS = "ranks"
"""Moving it may change which layers go; the ranking is quick."""
RANKS_ANEW = "ranks anew"
"""Moving it may change which layers go; a ranking that still runs is ended for it."""
ALONE = ""
"""Its step says what moving it does."""


@dataclass(frozen=True)
class Control:
    """A component whose value is a field of `Settings`.

    name: the field's.
    moves: what moving it changes, one of the words above.
    bounded: its bounds by the analysis (a gr.update), where they depend on the model.
    shows, reads: the field's value as the component's, and back, where they are not the same.
    """

    name: str
    component: Component
    moves: str
    bounded: Callable[[View], object] | None = None
    shows: Callable[[Any], Any] | None = None
    reads: Callable[[Any], Any] | None = None

    @property
    def settles(self) -> bool:
        """Whether it is a slider that starts work only once it came to rest."""
        return isinstance(self.component, gr.Slider) and self.moves in (PLANS, RANKS, RANKS_ANEW)


def make(
    name: str,
    *,
    moves: str,
    component: type[Component] | None = None,
    bounded: Callable[[View], object] | None = None,
    shows: Callable[[Any], Any] | None = None,
    reads: Callable[[Any], Any] | None = None,
    **given: Any,
) -> Control:
    """The control of a field, at its default, with the bounds or the choices that it accepts.

    component: its class, by default what suits the field.
    given: what the component takes besides, or instead.
    moves, bounded, shows, reads: as in `Control`.
    """
    option = ACCEPTED[name]
    kind = component or _suits(option)
    value = getattr(DEFAULTS, name)
    arguments = {
        "value": value if shows is None else shows(value),
        **_accepted(kind, option),
        "elem_id": name.replace("_", "-"),
        **given,
    }
    if kind is gr.State:
        arguments = {"value": arguments["value"]}
    if kind is gr.Slider and option.kind is int:
        reads = reads or int  # what is typed beside it may have a fraction
    return Control(name, kind(**arguments), moves, bounded, shows, reads)


def _suits(option: Option) -> type[Component]:
    if option.kind is bool:
        return gr.Checkbox
    if option.kind in (int, float):
        return gr.Slider
    return gr.Radio if option.choices else gr.Dropdown


def _accepted(kind: type[Component], option: Option) -> dict[str, Any]:
    """What a component of this kind is told of the field."""
    label = {"label": option.label.removeprefix("the ").capitalize()}
    if kind is gr.Slider:
        step = 1 if option.kind is int else 0.05
        return {"minimum": option.low, "maximum": option.high, "step": step, **label}
    if kind in (gr.Radio, gr.Dropdown):
        return {"choices": [(word, word) for word in option.choices], **label}
    return label
