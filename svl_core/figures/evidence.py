"""Figures of many samples: how sure a ranking is, where a sweep falls off its cliff, fidelity
against speed, what each layer is for.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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
    drawn,
    frame,
    layer_axis,
)

if TYPE_CHECKING:
    from svl_core.comparison.ablation import AblationMap
    from svl_core.comparison.sweep import SweepRow

# Recipes differ in colour by criterion, in dash by compensation, and in marker by both.
COLOURS = (
    RETAINED,
    "#D55E00",
    REPAIRED,
    "#CC79A7",
    "#56B4E9",
    "#8A5A00",
    INK,
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "star",
    "hexagon",
    "pentagon",
    "triangle-down",
    "bowtie",
)
MEASURES: Mapping[str, str] = {
    "agreement": "agreement with the full model",
    "kl": "KL to the full model (nats/token)",
    "exact": "share of equal answers",
    "accuracy": "share of right answers",
}
# What the brightest colour stands for at least, so that noise stays dark.
LEAST: Mapping[str, float] = {
    "accuracy": 10.0,
    "agreement": 10.0,
    "kl": 0.1,
    "loss": 0.5,
}
LOST: Mapping[str, tuple[str, str, float]] = {  # what a map's colour says: title, unit, factor
    "accuracy": ("accuracy lost", "points", 100.0),
    "kl": ("KL", "nats/token", 1.0),
    "agreement": ("agreement lost", "points", 100.0),
    "loss": ("rise of the token's loss", "nats", 1.0),
}


def stability_curve(
    scores: np.ndarray,
    interval: np.ndarray,
    dropped: np.ndarray,
    drop: Sequence[int],
    own: np.ndarray | None = None,
    *,
    ids: Sequence[int],
    height: int = 320,
) -> Plot:
    """Scores (L,) on all samples with their bootstrap interval (L, 2); dropped: (L,) share of
    resamples that drop the layer; drop: layers of the plan on all samples; own: (L,) the asked
    image's own scores.
    """
    traces = []
    x = list(range(len(scores)))
    gone = set(drop)
    for name, members, colour, symbol in (
        ("kept", [k for k in x if k not in gone], RETAINED, "circle"),
        ("dropped", sorted(gone), DROPPED, "x"),
    ):
        traces.append(
            {
                "type": "scatter",
                "x": members,
                "y": scores[members],
                "name": f"set, {name}",
                "mode": "markers",
                "marker": {
                    "symbol": symbol,
                    "size": 10,
                    "color": colour,
                    "line": {
                        "width": 1,
                        "color": EDGE if name == "dropped" else colour,
                    },
                },
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": interval[members, 1] - scores[members],
                    "arrayminus": scores[members] - interval[members, 0],
                    "color": colour,
                    "thickness": 2,
                    "width": 5,
                },
                "customdata": [[ids[k], *interval[k], 100 * dropped[k]] for k in members],
                "hovertemplate": (
                    "layer %{customdata[0]}: %{y:.4f} (%{customdata[1]:.4f} to"
                    " %{customdata[2]:.4f}), dropped in %{customdata[3]:.0f} % of"
                    " resamples<extra></extra>"
                ),
            }
        )
    if own is not None:
        traces.append(
            {
                "type": "scatter",
                "x": x,
                "y": own,
                "name": "this image",
                "mode": "markers",
                "marker": {
                    "symbol": "diamond-open",
                    "size": 10,
                    "color": REPAIRED,
                    "line": {"width": 2},
                },
                "customdata": list(ids),
                "hovertemplate": "layer %{customdata}: %{y:.4f}<extra>this image</extra>",
            }
        )
    seen = np.concatenate(
        [
            interval[np.isfinite(interval).all(1)].ravel(),
            scores[np.isfinite(scores)],
        ]
    )
    low, high = map(float, np.quantile(seen, [0.08, 1]) if len(seen) else (0, 1))
    margin = 0.12 * (high - low) or 0.01
    return drawn(
        traces,
        x="layer",
        y="redundancy score",
        height=height,
        legend=True,
        hovermode="closest",
        xaxis=layer_axis(ids),
        yaxis={"range": [low - margin, high + margin]},
    )


def overlap_figure(shares: np.ndarray, droppable: int, count: int, *, height: int = 320) -> Plot:
    """Share (N+1,) of the drop sets that this image and the set have in common at each number of
    layers, and what chance alone gives.
    """
    counts = np.arange(1, len(shares))
    x = counts.tolist()
    traces: list[dict] = [
        {
            "type": "scatter",
            "x": x,
            "y": 100 * shares[1:],
            "name": "image and set",
            "mode": "lines+markers",
            "line": {"color": RETAINED, "width": 3},
            "marker": {"size": 8},
            "hovertemplate": "%{x} layers: %{y:.0f} % in common<extra></extra>",
        },
        {
            "type": "scatter",
            "x": x,
            "y": 100 * counts / droppable,
            "name": "chance",
            "mode": "lines",
            "line": {"color": INK, "dash": "dot", "width": 2},
            "hovertemplate": "chance: %{y:.0f} %<extra></extra>",
        },
    ]
    if 0 < count < len(shares):
        traces.append(
            {
                "type": "scatter",
                "x": [count],
                "y": [100 * shares[count]],
                "name": "as many as you drop",
                "mode": "markers",
                "marker": {
                    "symbol": "x",
                    "size": 13,
                    "color": DROPPED,
                    "line": {"width": 1.5, "color": EDGE},
                },
                "hovertemplate": "%{x} layers: %{y:.0f} % in common<extra></extra>",
            }
        )
    return drawn(
        traces,
        x="layers dropped",
        y="layers in common (%)",
        height=height,
        legend=True,
        yaxis={"range": [0, 106]},
    )


def _looks(
    recipes: Sequence[tuple[str, str]],
) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Colour, dash and marker of each (criterion, compensation)."""
    criteria, compensations = (
        list(dict.fromkeys(recipe[k] for recipe in recipes)) for k in range(2)
    )
    return {
        (a, b): (
            COLOURS[criteria.index(a) % len(COLOURS)],
            DASHES[compensations.index(b) % len(DASHES)],
            SYMBOLS[k % len(SYMBOLS)],
        )
        for k, (a, b) in enumerate(recipes)
    }


def sweep_curves(
    curves: Mapping[tuple[str, str], Sequence[SweepRow]],
    cliffs: Mapping[tuple[str, str], int | None],
    measure: str = "agreement",
    *,
    titles: Mapping[str, str] = {},
    height: int = 380,
) -> Plot:
    """Fidelity against the number of dropped layers, a line for each recipe; an arrow marks the
    cliff. A point carries [criterion, compensation, drop].

    titles: of criteria and compensations, for those that are not to be called by their names.
    """
    traces = []
    for recipe, (colour, dash, symbol) in _looks(list(curves)).items():
        rows = curves[recipe]
        name = _name(recipe, titles)
        spread = [(row.spread or {}).get(measure, 0.0) for row in rows]
        traces.append(
            {
                "type": "scatter",
                "x": [row.drop for row in rows],
                "y": [getattr(row, measure) for row in rows],
                "name": name,
                "mode": "lines+markers",
                "line": {"color": colour, "dash": dash, "width": 2.5},
                "marker": {"symbol": symbol, "size": 9, "color": colour},
                **(
                    {
                        "error_y": {
                            "type": "data",
                            "array": spread,
                            "color": colour,
                            "thickness": 1.2,
                            "width": 3,
                        }
                    }
                    if any(spread)
                    else {}
                ),
                "customdata": [[*recipe, row.drop] for row in rows],
                "text": [", ".join(map(str, row.layers)) or "none" for row in rows],
                "hovertemplate": "%{x} dropped (%{text}): %{y:.3f}<extra>" + name + "</extra>",
            }
        )
        at = next((row for row in rows if row.drop == cliffs.get(recipe)), None)
        if at is not None:
            traces.append(
                {
                    "type": "scatter",
                    "x": [at.drop],
                    "y": [getattr(at, measure)],
                    "mode": "markers+text",
                    "text": ["cliff"],
                    "textposition": "bottom center" if measure == "kl" else "top center",
                    "cliponaxis": False,
                    "showlegend": False,
                    "marker": {
                        "symbol": "triangle-down",
                        "size": 17,
                        "color": "rgba(0,0,0,0)",
                        "line": {"color": colour, "width": 2.5},
                    },
                    "customdata": [[*recipe, at.drop]],
                    "hovertemplate": "the steepest fall of " + name + " ends here<extra></extra>",
                }
            )
    step = max(
        1,
        -(
            -max(
                (row.drop for rows in curves.values() for row in rows),
                default=1,
            )
            // 8
        ),
    )
    lowest = min(
        (
            getattr(row, measure) - (row.spread or {}).get(measure, 0.0)
            for rows in curves.values()
            for row in rows
        ),
        default=0.0,
    )
    return drawn(
        traces,
        x="layers dropped",
        y=MEASURES[measure],
        height=height,
        legend=True,
        hovermode="closest",
        xaxis={"dtick": step},
        yaxis=_fidelity(lowest, measure),
    )


def pareto_figure(
    rows: Sequence[SweepRow],
    best: Sequence[SweepRow],
    measure: str = "agreement",
    *,
    titles: Mapping[str, str] = {},
    height: int = 380,
) -> Plot:
    """Fidelity against speed-up: all rows, and the line of those that none beats in both.

    A row whose measured speed-up is noise is hollow and stands at the expected one.

    A point carries [criterion, compensation, drop]; titles: as for `sweep_curves`.
    """
    traces: list[dict] = [
        {
            "type": "scatter",
            "x": [row.likely_speedup for row in best],
            "y": [getattr(row, measure) for row in best],
            "name": "best trade",
            "mode": "lines",
            "line": {"color": DROPPED, "width": 5},
            "opacity": 0.6,
            "hoverinfo": "skip",
        }
    ]
    recipes = list(dict.fromkeys((row.criterion, row.compensation) for row in rows))
    for recipe, (colour, _, symbol) in _looks(recipes).items():
        mine = [row for row in rows if (row.criterion, row.compensation) == recipe]
        name = _name(recipe, titles)
        traces.append(
            {
                "type": "scatter",
                "x": [row.likely_speedup for row in mine],
                "y": [getattr(row, measure) for row in mine],
                "name": name,
                "mode": "markers",
                "marker": {
                    "symbol": [symbol + "-open" if row.noise else symbol for row in mine],
                    "size": 10,
                    "color": colour,
                },
                "customdata": [[*recipe, row.drop] for row in mine],
                "text": [_speed_in_words(row) for row in mine],
                "hovertemplate": (
                    "%{customdata[2]} dropped: %{text}, %{y:.3f}<extra>" + name + "</extra>"
                ),
            }
        )
    return drawn(
        traces,
        x="speed-up of an answer (full / pruned time; hollow: expected)",
        y=MEASURES[measure],
        height=height,
        legend=True,
        hovermode="closest",
        yaxis=_fidelity(
            min((getattr(row, measure) for row in rows), default=0.0),
            measure,
        ),
    )


def _speed_in_words(row: SweepRow) -> str:
    """How fast a sweep's row is, and how sure that is."""
    if row.noise:
        return f"{row.likely_speedup:.2f}× as fast expected (measured: noise, {row.noise})"
    expected = "" if row.expected is None else f" (expected: {row.expected:.2f}×)"
    return f"{row.speedup:.2f}× as fast{expected}"


def _name(recipe: tuple[str, str], titles: Mapping[str, str]) -> str:
    """What a legend calls a recipe: titles without what they add in brackets, and the criterion
    alone where nothing is compensated.
    """
    return " + ".join(
        html.escape(titles.get(part, part).split(" (")[0]) for part in recipe if part != "none"
    )


def _fidelity(lowest: float, measure: str) -> dict:
    """The axis of a measure: from 0, or where every share is above a half, from the tenth below the
    lowest, so that near-equal lines part.
    """
    if measure == "kl" or lowest <= 0.5:
        return {"rangemode": "tozero"}
    base = math.floor(10 * (min(lowest, 1.0) - 0.02)) / 10
    return {"range": [base, 1 + 0.06 * (1 - base)]}


def ablation_map(
    found: AblationMap,
    measure: str,
    size: int,
    drop: Sequence[int] = (),
    *,
    ids: Sequence[int],
    scale_on: Sequence[int] | None = None,
    height: int = 420,
) -> Plot:
    """What is lost without each block of `size` layers (x: its first layer) on every column (y).

    A cell carries [first layer, size]; `drop` is framed.

    scale_on: layers that set the colours' range (all by default), so that a first layer on which
    everything hangs does not darken the rest.
    """
    title, unit, factor = LOST[measure]
    z = factor * found.of(measure, size).T
    shown = [html.escape(name.strip()) or "␣" for name in found.columns[measure]]
    names = [f"{name[:24]}…" if len(name) > 26 else name for name in shown]
    # An axis joins rows of one name.
    names = (
        names
        if len(set(names)) == len(names)
        else [f"{k + 1}  {name}" for k, name in enumerate(names)]
    )
    free = [
        k for k in range(z.shape[1]) if scale_on is None or set(range(k, k + size)) <= set(scale_on)
    ]
    seen = z[:, free][np.isfinite(z[:, free])]
    top = max(LEAST[measure], float(seen.max(initial=0)))
    blocks = [
        f"layer {ids[k]}" if size == 1 else f"layers {ids[k]}-{ids[k + size - 1]}"
        for k in range(z.shape[1])
    ]
    cells = {
        "type": "heatmap",
        "z": np.round(z, 3),
        "x": list(range(z.shape[1])),
        "y": names,
        "colorscale": SEQUENTIAL,
        "xgap": 1,
        "ygap": 1,
        "zmin": 0,
        "zmax": top,
        "hoverongaps": False,
        "customdata": [[[k, size, blocks[k], name] for k in range(z.shape[1])] for name in shown],
        "hovertemplate": (
            "without %{customdata[2]}: %{z:.3g} " + unit + "<extra>%{customdata[3]}</extra>"
        ),
        "colorbar": COLOUR_BAR,
    }
    beyond = f", top ≥ {top:.3g}" if bool((z[np.isfinite(z)] > top).any()) else ""
    gone = [
        frame(k - 0.5, k + 0.5, -0.5, len(names) - 0.5, 2.5)
        for k in range(z.shape[1])
        if set(range(k, k + size)) <= set(drop)
    ]
    return drawn(
        [cells],
        x="layer" if size == 1 else f"first of the {size} layers skipped",
        y="",
        height=max(height, 120 + 22 * len(names)),
        colours=f"{title} ({unit}){beyond}",
        shapes=gone,
        xaxis={**layer_axis(list(ids)[: z.shape[1]]), "showgrid": False},
        yaxis={
            "showgrid": False,
            "type": "category",
            "autorange": "reversed",
        },
    )
