"""What every figure shares: colour-blind-safe colours, transparent ground, margins for a phone, axis titles.

Text and grid lines are a middle grey that reads on white and on black; the page replaces them with its own ink.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

RETAINED = "#0072B2"  # Okabe-Ito blue: layers that stay, the full model
DROPPED = "#E69F00"  # Okabe-Ito orange: layers that go, the pruned model
EDGE = "#8A5A00"  # contour of orange marks: orange alone is too faint on white
REPAIRED = "#009E73"  # Okabe-Ito green: after compensation
INK = "#7A7F87"
GRID = "rgba(128,134,142,0.22)"
SEQUENTIAL = "Cividis"
COLOUR_BAR: Mapping[str, object] = {"orientation": "h", "thickness": 10, "len": 0.8, "x": 0.5, "y": 1.02, "yanchor": "bottom", "outlinewidth": 0, "title": {"text": "cosine", "side": "top", "font": {"size": 12}}, "tickfont": {"size": 11}, "nticks": 5}
FONT = "'IBM Plex Sans', system-ui, sans-serif"

# Every token set differs in colour, dash and marker, so none is told by colour alone.
TOKEN_SETS: Mapping[str, Mapping[str, str]] = {
    "important": {"label": "important tokens", "colour": "#D55E00", "dash": "solid", "symbol": "circle"},
    "all": {"label": "all tokens", "colour": "#0072B2", "dash": "dash", "symbol": "square"},
    "visual": {"label": "visual tokens", "colour": "#009E73", "dash": "dot", "symbol": "diamond"},
    "textual": {"label": "text tokens", "colour": "#CC79A7", "dash": "dashdot", "symbol": "triangle-up"},
    "last": {"label": "last token", "colour": "#7A7F87", "dash": "longdash", "symbol": "x-thin-open"},
}


def layout(figure: go.Figure, *, x: str, y: str, height: int, legend: bool = False, **more: object) -> go.Figure:
    """Give `figure` the common look; `x`, `y` are axis titles with units, `height` in pixels."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "", "automargin": True, "title_standoff": 8}
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 34 if legend else 10, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"font": {"family": FONT, "size": 13}},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1.0, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}, "itemsizing": "constant"},
        template="none",
        dragmode=False,
        **more,
    )
    figure.update_xaxes(title={"text": x, "font": {"size": 13}}, **axis)
    figure.update_yaxes(title={"text": y, "font": {"size": 13}}, **axis)
    return figure


def layer_axis(figure: go.Figure, ids: Sequence[int], *, phone_ticks: int = 8) -> go.Figure:
    """Label the x axis with layer indices of the original model, at most about `phone_ticks` of them."""
    step = max(1, -(-len(ids) // phone_ticks))
    shown = list(range(0, len(ids), step))
    figure.update_xaxes(tickmode="array", tickvals=shown, ticktext=[str(ids[k]) for k in shown], range=[-0.6, len(ids) - 0.4])
    return figure
