"""Figures of the page's lesson: what skipping each layer costs, and accuracy against the number of
dropped layers.
"""

from __future__ import annotations

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


def skipped_heatmap(
    accuracy: Mapping[str, Sequence[float]],
    block: int = 1,
    *,
    height: int = 340,
) -> Plot:
    """Accuracy (0..1) on each kind of question with `block` neighbouring layers skipped: {kind: (L
    - block + 1,), by the first of them}.

    Dark cells are layers that a kind cannot do without.
    """
    kinds = list(accuracy)
    table = np.array(list(accuracy.values()), dtype=float)
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
        "zmax": 100,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, without %{customdata}: %{z:.0f} % right<extra></extra>",
        "colorbar": COLOUR_BAR,
    }
    return drawn(
        [cells],
        x="skipped layer" if block == 1 else f"first of {block} skipped layers",
        y="",
        height=height,
        colours="% right",
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
    mark: int | None = None,
    height: int = 300,
) -> Plot:
    """Accuracy (0..1) against the number of dropped layers, a line for each recipe: {name: (0
    dropped, 1 dropped, ...)}. mark: a drop count to point at.
    """
    traces = [
        {
            "type": "scatter",
            "x": list(range(len(values))),
            "y": [100 * v for v in values],
            "name": name,
            "mode": "lines+markers",
            "line": {"color": colour, "dash": dash, "width": 2.5},
            "marker": {"symbol": symbol, "size": 8},
            "hovertemplate": "%{x} dropped: %{y:.1f} % right<extra>" + name + "</extra>",
        }
        for (name, values), (colour, dash, symbol) in zip(curves.items(), LINES, strict=False)
    ]
    cliff = (
        {}
        if mark is None
        else {
            "shapes": [
                {
                    "type": "line",
                    "x0": mark,
                    "x1": mark,
                    "xref": "x",
                    "y0": 0,
                    "y1": 1,
                    "yref": "y domain",
                    "line": {"color": INK, "dash": "dot", "width": 2},
                }
            ],
            "annotations": [
                {
                    "x": mark,
                    "y": 1,
                    "yref": "paper",
                    "text": " the cliff",
                    "showarrow": False,
                    "xanchor": "left",
                    "yanchor": "top",
                }
            ],
        }
    )
    low = min(0, *(100 * v for values in curves.values() for v in values))
    return drawn(
        traces,
        x="layers dropped",
        y="% of the questions right",
        height=height,
        legend=True,
        xaxis={"dtick": 1},
        yaxis={"range": [low, 104]},
        **cliff,
    )
