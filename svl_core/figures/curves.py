"""Plotly figures of the analysis: redundancy, similarity, feature gap, PCA and token importance.

Every function takes plain numbers and returns a figure; nothing is computed here beyond what
drawing needs. Layer indices are 0-based; `ids` gives the labels of the layers (their indices in the
original model).
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from svl_core.figures.plot import Plot
from svl_core.figures.style import (
    COLOUR_BAR,
    DROPPED,
    EDGE,
    INK,
    REPAIRED,
    RETAINED,
    SEQUENTIAL,
    TOKEN_SETS,
    drawn,
    frame,
    layer_axis,
)


def _ids(ids: Sequence[int] | None, count: int) -> list[int]:
    return list(ids) if ids is not None else list(range(count))


def redundancy_curve(
    curves: Mapping[str, Sequence[float]],
    drop: Sequence[int] = (),
    *,
    lead: str = "important",
    ids: Sequence[int] | None = None,
    focus: Sequence[int] | None = None,
    height: int = 340,
) -> Plot:
    """Redundancy of every layer, one line per token set.

    curves: {token set: (L,) mean cosine between a layer's input and its output}; NaN leaves a gap.
    drop: layers of the plan, marked by crosses on the line `lead`.
    focus: layers that set the range of the axis (default all); a lower value elsewhere is an arrow
        at the foot.
    """
    labels = _ids(ids, len(next(iter(curves.values()))))
    traces = []
    for name, values in curves.items():
        look = TOKEN_SETS.get(
            name,
            {
                "label": name,
                "colour": INK,
                "dash": "solid",
                "symbol": "circle",
            },
        )
        strong = name == lead
        traces.append(
            {
                "type": "scatter",
                "x": list(range(len(labels))),
                "y": np.asarray(values, dtype=float),
                "name": look["label"],
                "mode": "lines+markers",
                "line": {
                    "color": look["colour"],
                    "dash": look["dash"],
                    "width": 3.5 if strong else 1.6,
                },
                "opacity": 1.0 if strong else 0.8,
                "marker": {
                    "symbol": look["symbol"],
                    "size": 8 if strong else 6,
                    "line": {"width": 1, "color": look["colour"]},
                },
                "customdata": labels,
                "hovertemplate": (
                    "layer %{customdata}: %{y:.4f}<extra>" + look["label"] + "</extra>"
                ),
            }
        )
    if len(drop) and lead in curves:
        chosen = sorted(drop)
        traces.append(
            {
                "type": "scatter",
                "x": chosen,
                "y": np.asarray(curves[lead], dtype=float)[chosen],
                "name": "dropped",
                "mode": "markers",
                "marker": {
                    "symbol": "x",
                    "size": 13,
                    "color": DROPPED,
                    "line": {"width": 1.5, "color": EDGE},
                },
                "customdata": [labels[k] for k in chosen],
                "hovertemplate": "layer %{customdata}: %{y:.4f}, dropped<extra></extra>",
            }
        )
    table = np.array([np.asarray(values, dtype=float) for values in curves.values()])
    seen = table[:, list(focus)] if focus is not None and len(focus) else table
    low, high = (
        (float(np.nanmin(seen)), float(np.nanmax(seen))) if np.isfinite(seen).any() else (0.0, 1.0)
    )
    margin = 0.06 * (high - low) or 0.01
    below = [
        (k, labels[k], name, row[k])
        for name, row in zip(curves, table, strict=True)
        for k in range(len(labels))
        if row[k] < low - margin
    ]
    if below:
        traces.append(
            {
                "type": "scatter",
                "x": [k for k, *_ in below],
                "y": [low - margin / 2] * len(below),
                "mode": "markers",
                "showlegend": False,
                "cliponaxis": False,
                "marker": {
                    "symbol": "triangle-down",
                    "size": 10,
                    "color": [
                        TOKEN_SETS.get(name, {"colour": INK})["colour"] for _, _, name, _ in below
                    ],
                },
                "customdata": [
                    [
                        label,
                        TOKEN_SETS.get(name, {"label": name})["label"],
                        value,
                    ]
                    for _, label, name, value in below
                ],
                "hovertemplate": (
                    "layer %{customdata[0]}: %{customdata[2]:.4f}, below the"
                    " axis<extra>%{customdata[1]}</extra>"
                ),
            }
        )
    return drawn(
        traces,
        x="layer",
        y="cosine of layer input and output",
        height=height,
        legend=True,
        hovermode="closest",
        xaxis=layer_axis(labels),
        yaxis={"range": [low - margin, high + margin]},
    )


def similarity_heatmap(
    matrix: np.ndarray,
    drop: Sequence[int] = (),
    *,
    ids: Sequence[int] | None = None,
    height: int = 360,
) -> Plot:
    """Mean cosine between the features after every two layers.

    matrix: (L+1, L+1); row and column 0 are what enters layer 0, k is the output of layer k-1.
    `meta` names rows and columns for the table of the numbers. drop: every dropped layer l is
    framed on the diagonal, from its input H[l] to its output H[l+1].
    """
    size = matrix.shape[0]
    labels = ["input"] + [str(k) for k in _ids(ids, size - 1)]
    names = ["input" if k == 0 else f"layer {labels[k]}" for k in range(size)]
    off = matrix[~np.eye(size, dtype=bool)] if size > 1 else np.array([0.0])
    cells = {
        "type": "heatmap",
        "z": np.round(matrix.astype(float), 4),
        "x": list(range(size)),
        "y": list(range(size)),
        "meta": {"x": labels, "y": labels},
        "colorscale": SEQUENTIAL,
        "zmin": float(np.nanmin(off)) if np.isfinite(off).any() else 0.0,
        "zmax": 1.0,
        "xgap": 0.5,
        "ygap": 0.5,
        "customdata": [[f"{a} / {b}" for b in names] for a in names],
        "hovertemplate": "%{customdata}: %{z:.4f}<extra></extra>",
        "colorbar": COLOUR_BAR,
    }
    ticks = list(range(0, size, max(1, -(-size // 9))))
    axis = {
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": ["in" if k == 0 else labels[k] for k in ticks],
        "showgrid": False,
        "constrain": "domain",
    }
    return drawn(
        [cells],
        x="features after layer",
        y="features after layer",
        height=height,
        colours="cosine",
        shapes=[frame(a - 0.5, b + 1.5, a - 0.5, b + 1.5) for a, b in runs_of(drop)],
        xaxis={**axis, "range": [-0.5, size - 0.5], "tickangle": 0},
        yaxis={
            **axis,
            "autorange": False,
            "range": [size - 0.5, -0.5],
            "scaleanchor": "x",
        },
    )


def gap_curve(
    per_layer: Sequence[float],
    drop: Sequence[int] = (),
    run_gaps: Mapping[tuple[int, int], float] | None = None,
    *,
    ids: Sequence[int] | None = None,
    height: int = 300,
) -> Plot:
    """Relative feature gap |H[l+1] - H[l]| / |H[l+1]| of every layer, and of every dropped run as a
    whole.

    per_layer: (L,), in units of the later feature's norm. run_gaps: {(first, last): gap} of the
    plan's runs.
    """
    values = np.asarray(per_layer, dtype=float)
    labels = _ids(ids, len(values))
    gone = set(drop)
    traces: list[dict] = [
        {
            "type": "bar",
            "x": list(range(len(values))),
            "y": values,
            "name": "one layer",
            "marker": {
                "color": [DROPPED if k in gone else RETAINED for k in range(len(values))],
                "pattern": {
                    "shape": ["/" if k in gone else "" for k in range(len(values))],
                    "fgcolor": EDGE,
                    "size": 6,
                },
                "line": {"width": 0},
            },
            "customdata": [
                f"layer {labels[k]}{' (dropped)' if k in gone else ''}" for k in range(len(values))
            ],
            "hovertemplate": "%{customdata}: gap %{y:.3f}<extra></extra>",
        }
    ]
    for (a, b), gap in (run_gaps or {}).items():
        name = f"layer {labels[a]}" if a == b else f"layers {labels[a]}-{labels[b]}"
        traces.append(
            {
                "type": "scatter",
                "x": [a - 0.45, (a + b) / 2, b + 0.45],
                "y": [gap, gap, gap],
                "mode": "lines+text" if b > a else "lines",
                "line": {"color": DROPPED, "width": 4},
                "text": ["", f"{gap:.2f}", ""],
                "textposition": "top center",
                "textfont": {"size": 12},
                "cliponaxis": False,
                "name": "dropped together",
                "showlegend": False,
                "meta": {"x": [name], "y": [gap]},
                "hovertemplate": f"{name} together: gap %{{y:.3f}}<extra></extra>",
            }
        )
    top = max([float(np.nanmax(values)), *(run_gaps or {}).values()])
    return drawn(
        traces,
        x="layer",
        y="relative feature gap",
        height=height,
        bargap=0.18,
        xaxis=layer_axis(labels),
        yaxis={"range": [0, top * 1.16 if top > 0 else 1]},
    )


def pca_scatter(
    before: np.ndarray,
    target: np.ndarray,
    after: np.ndarray | None = None,
    explained: Sequence[float] = (),
    *,
    names: Sequence[str] = (
        "retained layer",
        "dropped layer's output",
        "retained, compensated",
    ),
    height: int = 340,
) -> Plot:
    """Features of the retained layer and of the last dropped layer in one PCA plane.

    before, target, after: (n, 2) coordinates of the same n tokens; a thin line joins a token's two
        places.
    explained: share of variance of the two axes, 0 to 1.
    """
    joined = np.full((len(target) * 3, 2), np.nan)
    joined[0::3], joined[1::3] = before if after is None else after, target
    traces: list[dict] = [
        {
            "type": "scatter",
            "x": joined[:, 0],
            "y": joined[:, 1],
            "mode": "lines",
            "line": {"color": INK, "width": 0.8},
            "opacity": 0.45,
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]
    looks = [
        (
            before,
            names[0],
            RETAINED,
            "circle",
            0.7 if after is not None else 0.9,
        ),
        (target, names[1], DROPPED, "diamond", 0.95),
    ]
    if after is not None:
        looks.append((after, names[2], REPAIRED, "cross", 0.95))
    for points, name, colour, symbol, opacity in looks:
        traces.append(
            {
                "type": "scatter",
                "x": points[:, 0],
                "y": points[:, 1],
                "mode": "markers",
                "name": name,
                "opacity": opacity,
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "size": 9,
                    "line": {
                        "width": 1,
                        "color": EDGE if colour == DROPPED else "rgba(255,255,255,0.6)",
                    },
                },
                "hovertemplate": name + "<extra></extra>",
            }
        )
    share = [f" ({100 * s:.0f} % of variance)" for s in explained] + [
        "",
        "",
    ]
    return drawn(
        traces,
        x="component 1" + share[0],
        y="component 2" + share[1],
        height=height,
        legend=True,
        xaxis={"showticklabels": False},
        yaxis={"showticklabels": False},
        meta={"pairs": True},
    )


def importance_bars(
    tokens: Sequence[str],
    scores: Sequence[float],
    selected: Sequence[bool] | None = None,
    *,
    height: int = 260,
) -> Plot:
    """Importance of every text token; those that count are solid, the others hatched and paler."""
    values = np.asarray(scores, dtype=float)
    keep = np.ones(len(values), bool) if selected is None else np.asarray(selected, bool)
    bars = {
        "type": "bar",
        "x": list(range(len(values))),
        "y": values,
        "marker": {
            "color": [RETAINED if k else "rgba(122,127,135,0.45)" for k in keep],
            "pattern": {
                "shape": ["" if k else "/" for k in keep],
                "size": 5,
                "fgcolor": INK,
            },
        },
        "customdata": [
            [html.escape(str(t)), "counts" if k else "left out"]
            for t, k in zip(tokens, keep, strict=True)
        ],
        "hovertemplate": "%{customdata[0]}: %{y:.4f} (%{customdata[1]})<extra></extra>",
    }
    axis = {
        "tickmode": "array",
        "tickvals": list(range(len(values))),
        "ticktext": [html.escape(str(t).strip()) or "_" for t in tokens],
        "tickangle": -50,
        "tickfont": {"size": 11},
    }
    return drawn(
        [bars],
        x="text token",
        y="importance",
        height=height,
        bargap=0.15,
        xaxis=axis,
    )


def token_curve(
    values: Sequence[float],
    label: str,
    *,
    ids: Sequence[int] | None = None,
    height: int = 200,
) -> Plot:
    """Importance of one token (a patch or a word) layer by layer; values: (L,)."""
    numbers = np.asarray(values, dtype=float)
    labels = _ids(ids, len(numbers))
    line = {
        "type": "scatter",
        "x": list(range(len(numbers))),
        "y": numbers,
        "mode": "lines+markers",
        "line": {"color": RETAINED, "width": 2.5},
        "marker": {"size": 7},
        "customdata": labels,
        "hovertemplate": "layer %{customdata}: %{y:.4f}<extra></extra>",
    }
    return drawn(
        [line],
        x="layer",
        y=f"importance of {html.escape(label, quote=False)}",
        height=height,
        xaxis=layer_axis(labels),
    )


def block_heatmap(
    matrix: np.ndarray,
    allowed: Sequence[int],
    chosen: Sequence[int] = (),
    *,
    ids: Sequence[int] | None = None,
    height: int = 340,
) -> Plot:
    """Similarity across every block of successive layers: start on x, number of layers on y.

    matrix: (L+1, L+1) of `similarity`; the block of n layers from s joins H[s] and H[s+n]. Only
    blocks made of `allowed` layers are drawn; `chosen` is framed when it is one block.
    """
    count = matrix.shape[0] - 1
    labels = _ids(ids, count)
    free = set(allowed)
    z = np.full((count, count), np.nan)
    for start in range(count):
        for size in range(1, count - start + 1):
            if start + size - 1 not in free:
                break
            z[size - 1, start] = matrix[start, start + size]
    rows = np.flatnonzero(~np.isnan(z).all(axis=1))
    z = z[: rows[-1] + 1] if len(rows) else z[:1]
    text = [
        [
            (
                f"drop layer {labels[s]}"
                if n == 0
                else f"drop layers {labels[s]}-{labels[min(s + n, count - 1)]}"
            )
            for s in range(count)
        ]
        for n in range(len(z))
    ]
    cells = {
        "type": "heatmap",
        "z": np.round(z, 4),
        "x": list(range(count)),
        "y": list(range(1, len(z) + 1)),
        "meta": {"x": labels},
        "customdata": text,
        "colorscale": SEQUENTIAL,
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": "%{customdata}: %{z:.4f}<extra></extra>",
        "colorbar": COLOUR_BAR,
    }
    found = runs_of(chosen)
    return drawn(
        [cells],
        x="first layer of the block",
        y="layers in the block",
        height=height,
        colours="cosine",
        shapes=(
            [frame(a - 0.5, a + 0.5, b - a + 0.5, b - a + 1.5) for a, b in found]
            if len(found) == 1
            else []
        ),
        xaxis={**layer_axis(labels), "showgrid": False},
        yaxis={"showgrid": False, "dtick": max(1, len(z) // 7)},
    )


def runs_of(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal runs of successive indices: [2, 3, 5] -> [(2, 3), (5, 5)]."""
    runs: list[tuple[int, int]] = []
    for k in sorted(set(layers)):
        runs[-1:] = [(runs[-1][0], k)] if runs and runs[-1][1] == k - 1 else [*runs[-1:], (k, k)]
    return runs


def widest_run(layers: Sequence[int]) -> tuple[int, int]:
    """The first of the longest runs of consecutive layers. layers: at least one."""
    return max(runs_of(layers), key=lambda run: run[1] - run[0])
