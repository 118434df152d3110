"""A plotly figure as plain values: what the page and the report are sent, made without plotly's
objects, which take ten times as long.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from plotly.io import to_json

from svl_core.notebook import Shown

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTLY_TYPE = "application/vnd.plotly.v1+json"
TYPED = {"float64": "f8", "float32": "f4"}
"""Kinds of numbers that plotly.js reads from their bytes."""
AS_WRITTEN = ("range",)
"""What plotly.js takes as a list alone."""


@dataclass(frozen=True, eq=False, repr=False)
class Plot(Shown):
    """A plotly figure.

    traces, looks: its "data" and its "layout", as plotly.js takes them, but for numpy arrays.
    """

    traces: Sequence[Mapping[str, Any]]
    looks: Mapping[str, Any]

    def brief(self) -> dict[str, Any]:
        names = tuple(str(trace.get("name") or trace.get("type", "")) for trace in self.traces)
        return {"traces": names, "height": self.looks.get("height")}

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The figure itself, where a notebook draws plotly's."""
        return {PLOTLY_TYPE: json.loads(self.to_json()), "text/plain": repr(self)}

    def to_json(self) -> str:
        """As plotly.js takes it, in the words of `figure.to_json()`."""
        made = {"data": _sent(list(self.traces)), "layout": _sent(self.looks)}
        return to_json(made, validate=False)

    @cached_property
    def figure(self) -> go.Figure:
        """As plotly's own object, for a notebook.

        Plotly would check every value, which takes 20 times what drawing takes; a test checks all
        figures instead.
        """
        import plotly.graph_objects as go

        made = {"data": list(self.traces), "layout": dict(self.looks)}
        return go.Figure(made, _validate=False)

    @property
    def data(self) -> tuple[Any, ...]:
        """The traces as plotly's objects."""
        return self.figure.data

    @property
    def layout(self) -> go.Layout:
        """The layout as plotly's object."""
        return self.figure.layout


def _sent(value: Any, name: str = "") -> Any:
    """The value with arrays of numbers as plotly.js reads them fastest."""
    if isinstance(value, Mapping):
        return {key: _sent(part, key) for key, part in value.items()}
    if isinstance(value, np.ndarray) and name not in AS_WRITTEN:
        return _typed(value)
    if isinstance(value, list) and value and isinstance(value[0], (dict, np.ndarray)):
        return [_sent(part) for part in value]
    return value


def _typed(array: np.ndarray) -> Any:
    kind = TYPED.get(str(array.dtype))
    if kind is None or not array.size:
        return array.tolist()
    written = base64.b64encode(np.ascontiguousarray(array)).decode("ascii")
    shape = {"shape": ", ".join(map(str, array.shape))} if array.ndim > 1 else {}
    return {"dtype": kind, "bdata": written, **shape}
