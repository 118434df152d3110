"""Figures of the page's lesson: what skipping each layer costs, and accuracy against the number of
dropped layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from svl_core.figures.plot import Plot
from svl_core.figures.style import (
    COLOUR_BAR,
    DROPPED,
    INK,
    REPAIRED,
    RETAINED,
    SEQUENTIAL,
    drawn,
    layer_axis,
)

LINES = (
    (RETAINED, "solid", "circle"),
    (DROPPED, "dash", "square"),
    (REPAIRED, "dot", "diamond"),
    ("#CC79A7", "dashdot", "triangle-up"),
    (INK, "longdash", "x"),
)

MOST_LOST = 50  # points at which the colours end: all is lost without the first layers


def skipped_heatmap(
    lost: Mapping[str, Sequence[float]],
    block: int = 1,
    *,
    height: int = 340,
) -> Plot:
    """Accuracy (0..1) that each kind of question loses with `block` neighbouring layers skipped:
    {kind: (L - block + 1,), by the first of them}.

    Bright cells are layers that a kind cannot do without, as in `evidence.ablation_map`.
    """
    kinds = list(lost)
    table = np.array(list(lost.values()), dtype=float)
    count = table.shape[1]
    names = [f"layer {k}" if block == 1 else f"layers {k}-{k + block - 1}" for k in range(count)]
    cells = {
        "type": "heatmap",
        "z": np.round(100 * table, 1),
        "x": list(range(count)),
        "y": kinds,
        "customdata": [names] * len(kinds),
        "colorscale": SEQUENTIAL,
        "zmin": 0,
        "zmax": MOST_LOST,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, without %{customdata}: %{z:.0f} points lost<extra></extra>",
        "colorbar": COLOUR_BAR,
    }
    return drawn(
        [cells],
        x="skipped layer" if block == 1 else f"first of {block} skipped layers",
        y="",
        height=height,
        colours="points lost",
        xaxis={**layer_axis(list(range(count))), "showgrid": False},
        yaxis={
            "showgrid": False,
            "autorange": "reversed",
            "dtick": 1,
            "tickfont": {"size": 12},
        },
    )


def kept_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    drops: Sequence[int] | None = None,
    height: int = 300,
) -> Plot:
    """Accuracy (0..1) against the number of dropped layers, a line for each recipe.

    curves: {name: a value for each number of dropped layers}.
    drops: these numbers, by default 0, 1, 2 and so on.
    """
    traces = [
        {
            "type": "scatter",
            "x": list(range(len(values)) if drops is None else drops),
            "y": [100 * v for v in values],
            "name": name,
            "mode": "lines+markers",
            "line": {"color": colour, "dash": dash, "width": 2.5},
            "marker": {"symbol": symbol, "size": 8},
            "hovertemplate": "%{x} dropped: %{y:.1f} % right<extra>" + name + "</extra>",
        }
        for (name, values), (colour, dash, symbol) in zip(curves.items(), LINES, strict=False)
    ]
    least = min(100 * value for values in curves.values() for value in values)
    low = 10 * math.floor(min(least, 90) / 10)
    return drawn(
        traces,
        x="layers dropped",
        y="% of the questions right",
        height=height,
        legend=True,
        xaxis={"dtick": 1},
        yaxis={"range": [low, 102]},
    )
