"""What every figure shares: colour-blind-safe colours, transparent ground, margins for a phone,
axis titles.

Text and grid lines are a middle grey that reads on white and on black; the page replaces them with
its own ink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from svl_core.figures.plot import Plot

RETAINED = "#0072B2"  # Okabe-Ito blue: layers that stay, the full model
DROPPED = "#E69F00"  # Okabe-Ito orange: layers that go, the pruned model
EDGE = "#8A5A00"  # contour of orange marks: orange alone is too faint on white
REPAIRED = "#009E73"  # Okabe-Ito green: after compensation
INK = "#7A7F87"
GRID = "rgba(128,134,142,0.22)"
SEQUENTIAL = "Cividis"
COLOUR_BAR: Mapping[str, object] = {
    "orientation": "h",
    "thickness": 10,
    "len": 0.8,
    "x": 0.5,
    "y": 1,
    "yanchor": "bottom",
    "outlinewidth": 0,
    "title": {"text": ""},
    "tickfont": {"size": 11},
    "nticks": 5,
}
FONT = "'IBM Plex Sans', system-ui, sans-serif"

# Every token set differs in colour, dash and marker, so none is told by colour alone.
TOKEN_SETS: Mapping[str, Mapping[str, str]] = {
    "important": {
        "label": "important tokens",
        "colour": "#D55E00",
        "dash": "solid",
        "symbol": "circle",
    },
    "all": {
        "label": "all tokens",
        "colour": "#0072B2",
        "dash": "dash",
        "symbol": "square",
    },
    "visual": {
        "label": "visual tokens",
        "colour": "#009E73",
        "dash": "dot",
        "symbol": "diamond",
    },
    "textual": {
        "label": "text tokens",
        "colour": "#CC79A7",
        "dash": "dashdot",
        "symbol": "triangle-up",
    },
    "last": {
        "label": "last token",
        "colour": "#7A7F87",
        "dash": "longdash",
        "symbol": "x-thin-open",
    },
}


def drawn(
    traces: Sequence[Mapping[str, object]],
    *,
    x: str,
    y: str,
    height: int,
    legend: bool = False,
    colours: str = "",
    xaxis: Mapping[str, object] = {},
    yaxis: Mapping[str, object] = {},
    **more: object,
) -> Plot:
    """A figure of `traces` in the common look; `x`, `y` are axis titles with units, `height` in
    pixels; colours: title of a `COLOUR_BAR`; `xaxis`, `yaxis`, `more`: of the layout.

    Plotly would draw the x axis's title into its ticks where a bar above the figure had a title of
    its own.
    """
    above = {
        "text": colours,
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 1,
        "yanchor": "bottom",
        "yshift": 38,
        "showarrow": False,
        "font": {"size": 12},
    }
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "ticks": "",
        "automargin": True,
    }
    layout = {
        "height": height,
        "margin": {
            "l": 8,
            "r": 8,
            "t": 58 if colours else 34 if legend else 10,
            "b": 8,
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": INK},
        "hoverlabel": {"font": {"family": FONT, "size": 13}},
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "xanchor": "left",
            "yanchor": "bottom",
            "font": {"size": 12},
            "itemsizing": "constant",
        },
        "template": {},
        "dragmode": False,
        "annotations": [above] if colours else [],
        "xaxis": {
            "title": {"text": x, "font": {"size": 13}, "standoff": 8},
            **axis,
            **xaxis,
        },
        "yaxis": {
            "title": {"text": y, "font": {"size": 13}, "standoff": 8},
            **axis,
            **yaxis,
        },
        **more,
    }
    return Plot(traces, layout)


def layer_axis(ids: Sequence[int], *, phone_ticks: int = 8) -> dict[str, object]:
    """An x axis of layer indices of the original model, at most about `phone_ticks` of them
    written.
    """
    step = max(1, -(-len(ids) // phone_ticks))
    shown = list(range(0, len(ids), step))
    return {
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [str(ids[k]) for k in shown],
        "range": [-0.6, len(ids) - 0.4],
    }


def frame(x0: float, x1: float, y0: float, y1: float, width: float = 3) -> dict[str, object]:
    """The outline of what is dropped, in the axes' units."""
    return {
        "type": "rect",
        "x0": x0,
        "x1": x1,
        "y0": y0,
        "y1": y1,
        "line": {"color": DROPPED, "width": width},
    }
