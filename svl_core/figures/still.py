"""A plotly figure as a still picture: SVG that needs no script, for a report that opens anywhere.

It draws what the figures here are made of (lines, marks, error bars, bars, heatmaps, frames), not
all that plotly can. Text takes the colour of the page around it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WIDTH = 860
EDGE = 8  # pixels around the area that is drawn on, for the marks at its edge
FAINT = 'opacity=".14"'  # of grid lines
LETTER = 0.56  # of the type size, the width of an average letter
TICKS = 6
MOST_TOLD = 2500  # cells of a heatmap that say their value under the pointer
BRIGHT = 0.55  # share of the scale from which on dark words are read better than white ones
CIVIDIS = (
    "#00224e",
    "#2a3f6d",
    "#575d6d",
    "#7d7c78",
    "#a59c74",
    "#d2c060",
    "#fee838",
)
DASHES = {
    "dash": "9 6",
    "dot": "2 5",
    "dashdot": "9 5 2 5",
    "longdash": "14 6",
    "longdashdot": "14 5 2 5",
}

Figure = Mapping[str, Any]
Trace = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """An axis of the figure: values first..last lie at the pixels start..end."""

    first: float
    last: float
    start: float
    end: float

    def at(
        self,
        value: float,
    ) -> float:
        """The pixel of a value."""
        share = (value - self.first) / (self.last - self.first)
        return self.start + share * (self.end - self.start)


def still(
    figure: str,
    alt: str,
    width: int = WIDTH,
) -> str:
    """A figure as SVG markup, everything in it escaped.

    figure: JSON as `Plot.to_json` writes it. alt: what it shows, in words. width: in pixels.
    """
    made = json.loads(figure)
    traces = [_decoded(trace) for trace in made["data"]]
    layout = made["layout"]
    top, head = _head(
        traces,
        layout,
        width,
    )
    height = int(layout["height"]) + max(0, top - 40)
    left, right, bottom = _margins(traces, layout)
    x, y = _axes(
        traces,
        layout,
        (left, width - right),
        (height - bottom, top),
    )
    body = [
        head,
        _grid(
            traces,
            layout,
            x,
            y,
        ),
    ]
    inside = f"inside-{hashlib.sha256(figure.encode()).hexdigest()[:10]}"
    body += [
        _clip(
            inside,
            x,
            y,
        )
    ]
    body += [
        _clipped(
            _drawn(
                trace,
                layout,
                x,
                y,
            ),
            trace,
            inside,
        )
        for trace in traces
    ]
    body += [
        _frame(
            shape,
            x,
            y,
        )
        for shape in layout.get("shapes", ())
    ]
    body += [
        _titles(
            layout,
            x,
            y,
            height,
        )
    ]
    return (
        f'<svg class="still" viewBox="0 0 {width} {height}" role="img" aria-label="{_esc(alt)}"'
        f' xmlns="http://www.w3.org/2000/svg" font-size="13" fill="currentColor">'
        f"{HATCH}{''.join(body)}</svg>"
    )


HATCH = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(45)"><path d="M0 0V6" stroke="#5a3d00" stroke-width="2"/></pattern>'
    "</defs>"
)


def _esc(text: object) -> str:
    return html.escape(html.unescape(str(text)), quote=True)


def _decoded(value: Any) -> Any:
    """The value with typed arrays as lists again."""
    if isinstance(value, Mapping):
        if "bdata" in value:
            array = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
            shape = [int(size) for size in str(value.get("shape", "-1")).split(",")]
            return array.reshape(shape).tolist()
        return {key: _decoded(part) for key, part in value.items()}
    return value


# ------------------------------------------------------------------------------ the axes
def _margins(
    traces: Sequence[Trace],
    layout: Figure,
) -> tuple[int, int, int]:
    """Pixels to the left, to the right and below of the area that is drawn on."""
    names = [
        word
        for _, word in _ticks(
            layout["yaxis"],
            traces,
            "y",
        )
    ]
    longest = max(map(len, names), default=0)
    title = 22 if layout["yaxis"]["title"]["text"] else 0
    below = 46 if layout["xaxis"].get("tickangle", 0) == 0 else 90
    return 14 + title + int(LETTER * 12 * longest), 14, below


def _axes(
    traces: Sequence[Trace],
    layout: Figure,
    across: tuple[int, int],
    upwards: tuple[int, int],
) -> tuple[Axis, Axis]:
    (left, right), (bottom, top) = across, upwards
    if layout["yaxis"].get("scaleanchor"):  # as wide as high
        side = min(right - left, bottom - top)
        middle = (left + right) / 2
        left, right, bottom = middle - side / 2, middle + side / 2, top + side
    x = Axis(
        *_range(
            traces,
            layout["xaxis"],
            "x",
        ),
        left,
        right,
    )
    return x, Axis(
        *_range(
            traces,
            layout["yaxis"],
            "y",
        ),
        bottom,
        top,
    )


def _range(
    traces: Sequence[Trace],
    axis: Figure,
    name: str,
) -> tuple[float, float]:
    """The first and the last value of an axis."""
    if axis.get("range"):
        first, last = map(float, axis["range"])
    else:
        values = _numbers(traces, name)
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        kinds = {trace["type"] for trace in traces}
        if "heatmap" in kinds or "bar" in kinds and name == "x":
            first, last = low - 0.5, high + 0.5
        else:
            margin = 0.05 * (high - low) or 0.5
            first, last = low - margin, high + margin
            bars = "bar" in kinds
            if axis.get("rangemode") == "tozero" or bars:
                first = min(0.0, low)
    if axis.get("autorange") == "reversed":
        first, last = last, first
    return (first, last) if first != last else (first - 0.5, last + 0.5)


def _numbers(
    traces: Sequence[Trace],
    name: str,
) -> list[float]:
    """All values on an axis; a category stands at its place."""
    found: list[float] = []
    for trace in traces:
        values = _places(trace, name)
        found += values
        spread = trace.get("error_y")
        if name == "y" and spread:
            above = spread["array"]
            below = spread.get("arrayminus", above)
            found += [
                value + more
                for value, more in zip(
                    values,
                    above,
                    strict=True,
                )
            ]
            found += [
                value - less
                for value, less in zip(
                    values,
                    below,
                    strict=True,
                )
            ]
    return [value for value in found if _is_number(value)]


def _places(
    trace: Trace,
    name: str,
) -> list[float]:
    values = list(trace.get(name, ()))
    if any(isinstance(value, str) for value in values):
        return [float(place) for place in range(len(values))]
    return [math.nan if value is None else float(value) for value in values]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ticks(
    axis: Figure,
    traces: Sequence[Trace],
    name: str,
) -> list[tuple[float, str]]:
    """Values that are written on an axis, with their words."""
    if axis.get("showticklabels") is False:
        return []
    if axis.get("tickvals") is not None:
        return [
            (float(v), _esc(t))
            for v, t in zip(
                axis["tickvals"],
                axis["ticktext"],
                strict=True,
            )
        ]
    for trace in traces:
        if any(isinstance(value, str) for value in trace.get(name, ())):
            return [(float(place), _esc(word)) for place, word in enumerate(trace[name])]
    low, high = sorted(
        _range(
            traces,
            axis,
            name,
        )
    )
    step = axis.get("dtick") or _step(high - low)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(k * step, f"{k * step:.6g}") for k in range(first, last + 1)]


def _step(extent: float) -> float:
    """A round number that divides an extent into about `TICKS` parts."""
    rough = extent / TICKS
    power = 10 ** math.floor(math.log10(rough))
    return next(
        power * factor
        for factor in (
            1,
            2,
            5,
            10,
        )
        if power * factor >= rough
    )


def _grid(
    traces: Sequence[Trace],
    layout: Figure,
    x: Axis,
    y: Axis,
) -> str:
    """Grid lines and the words on the axes."""
    parts = []
    tilted = layout["xaxis"].get("tickangle", 0) != 0
    for value, word in _ticks(
        layout["xaxis"],
        traces,
        "x",
    ):
        at, below = x.at(value), max(y.start, y.end)
        if layout["xaxis"].get("showgrid", True):
            parts.append(
                _line(
                    at,
                    y.start,
                    at,
                    y.end,
                    "currentColor",
                    1,
                    FAINT,
                )
            )
        turned = f' transform="rotate(-50 {at:.1f} {below + 14:.1f})"' if tilted else ""
        anchor = "end" if tilted else "middle"
        parts.append(
            _text(
                word,
                at,
                below + 16,
                anchor,
                size=12,
                more=turned,
            )
        )
    for value, word in _ticks(
        layout["yaxis"],
        traces,
        "y",
    ):
        at = y.at(value)
        if layout["yaxis"].get("showgrid", True):
            parts.append(
                _line(
                    x.start,
                    at,
                    x.end,
                    at,
                    "currentColor",
                    1,
                    FAINT,
                )
            )
        parts.append(
            _text(
                word,
                x.start - 6,
                at + 4,
                "end",
                size=12,
            )
        )
    return "".join(parts)


def _titles(
    layout: Figure,
    x: Axis,
    y: Axis,
    height: int,
) -> str:
    middle = (x.start + x.end) / 2
    below = min(
        height - 6, max(y.start, y.end) + (40 if "tickangle" not in layout["xaxis"] else 84)
    )
    across = _text(
        _esc(layout["xaxis"]["title"]["text"]),
        middle,
        below,
        "middle",
    )
    upwards = (y.start + y.end) / 2
    named = _esc(layout["yaxis"]["title"]["text"])
    turned = f' transform="rotate(-90 14 {upwards:.1f})"'
    return across + (
        _text(
            named,
            14,
            upwards,
            "middle",
            more=turned,
        )
        if named
        else ""
    )


# ------------------------------------------------------------------- legend and colours
def _head(
    traces: Sequence[Trace],
    layout: Figure,
    width: int,
) -> tuple[int, str]:
    """What stands above the figure, a legend or a scale of colours, and where it ends."""
    cells = next((trace for trace in traces if trace["type"] == "heatmap"), None)
    if cells is not None and layout.get("annotations"):
        return 62, _scale(
            cells,
            layout["annotations"][0]["text"],
            width,
        )
    if not layout.get("showlegend"):
        return 16, ""
    parts, left, top = [], 14.0, 18
    for trace in traces:
        name = trace.get("name", "")
        if not name or trace.get("showlegend") is False:
            continue
        wide = 34 + LETTER * 13 * len(html.unescape(name)) + 16
        if left + wide > width and left > 14:
            left, top = 14.0, top + 20
        parts.append(
            _sample(
                trace,
                left,
                top,
            )
            + _text(
                _esc(name),
                left + 34,
                top + 4,
            )
        )
        left += wide
    return top + 20, "".join(parts)


def _sample(
    trace: Trace,
    left: float,
    at: float,
) -> str:
    """A trace as its legend shows it."""
    if trace["type"] == "bar":
        box = _box(
            left + 8,
            at - 6,
            left + 20,
            at + 6,
        )
        colour = _of(trace["marker"]["color"], 0)
        return f'<rect {box} fill="{_esc(colour)}"/>'
    mode, parts = trace.get("mode", "lines"), []
    if "lines" in mode:
        line = trace.get("line", {})
        parts.append(
            _line(
                left,
                at,
                left + 28,
                at,
                *_pen(line),
            )
        )
    if "markers" in mode:
        parts.append(
            _mark(
                trace,
                0,
                left + 14,
                at,
                most=9,
            )
        )
    return "".join(parts)


def _scale(
    cells: Trace,
    title: str,
    width: int,
) -> str:
    low, high = _limits(cells)
    left, right = 0.2 * width, 0.8 * width
    stops = "".join(
        f'<stop offset="{k / (len(CIVIDIS) - 1):.3f}" stop-color="{colour}"/>'
        for k, colour in enumerate(CIVIDIS)
    )
    words = "".join(
        _text(
            f"{low + share * (high - low):.3g}",
            left + share * (right - left),
            40,
            "middle",
            12,
        )
        for share in (
            0,
            0.25,
            0.5,
            0.75,
            1,
        )
    )
    return (
        f'<defs><linearGradient id="cividis">{stops}</linearGradient></defs>'
        f"{_text(_esc(title), width / 2, 22, 'middle', 12)}{words}"
        f'<rect x="{left:.0f}" y="46" width="{right - left:.0f}" height="9" fill="url(#cividis)"/>'
    )


def _limits(cells: Trace) -> tuple[float, float]:
    """The values of the darkest and of the brightest colour."""
    seen = [value for row in cells["z"] for value in row if _is_number(value)]
    low = cells.get("zmin", min(seen, default=0.0))
    high = cells.get("zmax", max(seen, default=1.0))
    return float(low), float(high)


def colour_of(share: float) -> str:
    """The colour of a share 0..1 of the scale, as "#rrggbb"."""
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    below = min(int(place), len(CIVIDIS) - 2)
    ends = (CIVIDIS[below], CIVIDIS[below + 1])
    pairs = zip(*(bytes.fromhex(end[1:]) for end in ends), strict=True)
    mixed = (round(low + (place - below) * (high - low)) for low, high in pairs)
    return "#" + bytes(mixed).hex()


# --------------------------------------------------------------------------- the traces
def _drawn(
    trace: Trace,
    layout: Figure,
    x: Axis,
    y: Axis,
) -> str:
    if trace["type"] == "heatmap":
        return _cells(
            trace,
            x,
            y,
        )
    if trace["type"] == "bar":
        return _bars(
            trace,
            float(layout.get("bargap", 0.2)),
            x,
            y,
        )
    return _scatter(
        trace,
        x,
        y,
    )


def _clip(
    name: str,
    x: Axis,
    y: Axis,
) -> str:
    """Outside of this nothing of a trace is seen."""
    top, bottom = sorted((y.start, y.end))
    box = _box(
        x.start - EDGE,
        top - EDGE,
        x.end + EDGE,
        bottom + EDGE,
    )
    return f'<clipPath id="{name}"><rect {box}/></clipPath>'


def _clipped(
    markup: str,
    trace: Trace,
    name: str,
) -> str:
    beyond = trace.get("cliponaxis") is False
    return markup if beyond else f'<g clip-path="url(#{name})">{markup}</g>'


def _cells(
    trace: Trace,
    x: Axis,
    y: Axis,
) -> str:
    low, high = _limits(trace)
    rows, columns = _places(trace, "y"), _places(trace, "x")
    told = len(rows) * len(columns) <= MOST_TOLD
    parts, words = [], []
    for j, line in enumerate(trace["z"]):
        for i, value in enumerate(line):
            if not _is_number(value):
                continue
            row, column = rows[j], columns[i]
            share = (value - low) / (high - low) if high > low else 1.0
            colour = colour_of(share)
            place = (j, i) if told else None
            box = _box(
                x.at(column - 0.5),
                y.at(row - 0.5),
                x.at(column + 0.5),
                y.at(row + 0.5),
            )
            parts.append(
                _told(
                    f'<rect {box} fill="{colour}"',
                    "rect",
                    trace,
                    place,
                )
            )
            if "texttemplate" in trace:
                ink = "#fff" if share < BRIGHT else "#111"
                words.append(
                    _text(
                        _esc(trace["text"][j][i]),
                        x.at(column),
                        y.at(row) + 4,
                        "middle",
                        11,
                        f' fill="{ink}" pointer-events="none"',
                    )
                )
    return f'<g shape-rendering="crispEdges">{"".join(parts)}</g>{"".join(words)}'


def _bars(
    trace: Trace,
    gap: float,
    x: Axis,
    y: Axis,
) -> str:
    parts, half = [], (1 - gap) / 2
    heights = _places(trace, "y")
    feet = list(trace.get("base", [0.0] * len(heights)))
    places = zip(
        _places(trace, "x"),
        heights,
        feet,
        strict=True,
    )
    for number, (at, value, foot) in enumerate(places):
        if not _is_number(value):
            continue
        box = _box(
            x.at(at - half),
            y.at(foot),
            x.at(at + half),
            y.at(foot + value),
        )
        colour = _of(trace["marker"]["color"], number)
        parts.append(
            _told(
                f'<rect {box} fill="{_esc(colour)}"',
                "rect",
                trace,
                number,
            )
        )
        if _of(trace["marker"].get("pattern", {}).get("shape", ""), number):
            parts.append(f'<rect {box} fill="url(#hatch)" pointer-events="none"/>')
    return "".join(parts)


def _scatter(
    trace: Trace,
    x: Axis,
    y: Axis,
) -> str:
    mode = trace.get("mode", "lines")
    points = [
        (x.at(across), y.at(up)) if _is_number(across) and _is_number(up) else None
        for across, up in zip(
            _places(trace, "x"),
            _places(trace, "y"),
            strict=True,
        )
    ]
    parts = [_curve(trace, points)] if "lines" in mode else []
    parts += (
        [
            _spread(
                trace,
                points,
                y,
            )
        ]
        if "error_y" in trace
        else []
    )
    if "markers" in mode:
        parts += [
            _mark(
                trace,
                k,
                *point,
            )
            for k, point in enumerate(points)
            if point
        ]
    if "text" in mode:
        above = 16 if trace.get("textposition", "").startswith("bottom") else -8
        words = zip(
            points,
            trace["text"],
            strict=True,
        )
        parts += [
            _text(
                _esc(word),
                point[0],
                point[1] + above,
                "middle",
                12,
            )
            for point, word in words
            if point and word
        ]
    return f'<g opacity="{float(trace.get("opacity", 1)):g}">{"".join(parts)}</g>'


def _curve(
    trace: Trace,
    points: Sequence[tuple[float, float] | None],
) -> str:
    """The line through the points, which ends and begins anew where one is missing."""
    path, pen = "", "M"
    for point in points:
        path += f"{pen}{point[0]:.1f} {point[1]:.1f}" if point else ""
        pen = "L" if point else "M"
    colour, width, more = _pen(trace.get("line", {}))
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" {more}/>'


def _pen(line: Mapping[str, Any]) -> tuple[str, float, str]:
    """Colour, width and dashes of a line."""
    dash = DASHES.get(line.get("dash", ""), "")
    more = f'stroke-dasharray="{dash}"' if dash else ""
    return _esc(line.get("color", "currentColor")), float(line.get("width", 2)), more


def _spread(
    trace: Trace,
    points: Sequence[tuple[float, float] | None],
    y: Axis,
) -> str:
    """Error bars."""
    spread, parts = trace["error_y"], []
    per_unit = (y.end - y.start) / (y.last - y.first)
    above = spread["array"]
    below = spread.get("arrayminus", above)
    for point, more, less in zip(
        points,
        above,
        below,
        strict=True,
    ):
        if point and _is_number(more) and _is_number(less):
            ends = point[1] + more * per_unit, point[1] - less * per_unit
            width = float(spread.get("thickness", 2))
            colour = _esc(spread.get("color", "currentColor"))
            parts.append(
                _line(
                    point[0],
                    ends[0],
                    point[0],
                    ends[1],
                    colour,
                    width,
                )
            )
            parts += [
                _line(
                    point[0] - 4,
                    end,
                    point[0] + 4,
                    end,
                    colour,
                    width,
                )
                for end in ends
            ]
    return "".join(parts)


MARKS = {
    "circle": "M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0Z",
    "square": "M-.9 -.9H.9V.9H-.9Z",
    "diamond": "M0 -1.25L1.25 0L0 1.25L-1.25 0Z",
    "triangle-up": "M0 -1.15L1.1 .8H-1.1Z",
    "triangle-down": "M0 1.15L1.1 -.8H-1.1Z",
    "cross": "M-.35 -1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "x": "M0 -.45L.6 -1L1 -.6L.45 0L1 .6L.6 1L0 .45L-.6 1L-1 .6L-.45 0L-1 -.6L-.6 -1Z",
    "x-thin": "M-1 -1L1 1M-1 1L1 -1",
    "star": "M0 -1.2L.35 -.4L1.15 -.35L.55 .2L.75 1L0 .55L-.75 1L-.55 .2L-1.15 -.35L-.35 -.4Z",
    "hexagon": "M0 -1L.87 -.5V.5L0 1L-.87 .5V-.5Z",
    "pentagon": "M0 -1L.95 -.3L.6 .8H-.6L-.95 -.3Z",
    "bowtie": "M-1 -1L1 1V-1L-1 1Z",
}
"""Paths of the marks, in units of half their size."""


def _mark(
    trace: Trace,
    number: int,
    across: float,
    up: float,
    most: float = 30,
) -> str:
    marker = trace.get("marker", {})
    name = str(_of(marker.get("symbol", "circle"), number))
    line = marker.get("line", {})
    usual = trace.get("line", {}).get("color", line.get("color", "currentColor"))
    colour = _esc(_of(marker.get("color", usual), number))
    edge = _esc(_of(line.get("color", colour), number))
    hollow = name.endswith("-open")
    half = min(float(marker.get("size", 6)), most) / 2
    width = float(line.get("width", 2 if hollow else 0)) / half
    shape = MARKS.get(name.removesuffix("-open"), MARKS["circle"])
    filled, stroke = ("none", colour) if hollow else (colour, edge)
    begun = (
        f'<path transform="translate({across:.1f} {up:.1f}) scale({half:g})" d="{shape}"'
        f' fill="{filled}" stroke="{stroke}" stroke-width="{width:.2f}"'
    )
    return _told(
        begun,
        "path",
        trace,
        number,
    )


def _frame(
    shape: Mapping[str, Any],
    x: Axis,
    y: Axis,
) -> str:
    box = _box(
        x.at(shape["x0"]),
        y.at(shape["y0"]),
        x.at(shape["x1"]),
        y.at(shape["y1"]),
    )
    line = shape["line"]
    return (
        f'<rect {box} fill="none" stroke="{_esc(line["color"])}" stroke-width="{line["width"]}"/>'
    )


# ------------------------------------------------------------------------ under the pointer
VALUE = re.compile(r"%\{(\w+)((?:\[\d+\])*)(?::([^}]*))?\}")


def _told(
    begun: str,
    tag: str,
    trace: Trace,
    place: int | tuple[int, int] | None,
) -> str:
    """An element with what plotly's figure says under the pointer."""
    template = trace.get("hovertemplate", "")
    if place is None or not template or trace.get("hoverinfo") == "skip":
        return begun + "/>"
    said, _, extra = template.partition("<extra>")
    said = VALUE.sub(
        lambda found: _value(
            found,
            trace,
            place,
        ),
        said,
    )
    extra = VALUE.sub(
        lambda found: _value(
            found,
            trace,
            place,
        ),
        extra.removesuffix("</extra>"),
    )
    return f"{begun}><title>{_esc(said + (f', {extra}' if extra else ''))}</title></{tag}>"


def _value(
    found: re.Match,
    trace: Trace,
    place: int | tuple[int, int],
) -> str:
    """One value of a template, as its format says."""
    name, inner, kind = found.groups()
    places = place if isinstance(place, tuple) else (place,)
    if isinstance(place, tuple) and name in ("x", "y"):
        places = (place[1] if name == "x" else place[0],)
    value = trace.get(name, "")
    for index in (*places, *map(int, re.findall(r"\d+", inner))):
        if isinstance(value, str) or not isinstance(value, Sequence) or index >= len(value):
            break
        value = value[index]
    return format(value, kind) if kind and isinstance(value, int | float) else str(value)


# -------------------------------------------------------------------------------- the ink
def _of(
    value: Any,
    number: int,
) -> Any:
    """A look that is the same for all marks, or one for each."""
    return value[number] if isinstance(value, list) else value


def _box(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
) -> str:
    left, top = min(x0, x1), min(y0, y1)
    size = f'width="{abs(x1 - x0):.1f}" height="{abs(y1 - y0):.1f}"'
    return f'x="{left:.1f}" y="{top:.1f}" {size}'


def _line(
    x0: float,
    y0: float,
    x1: float,
    y1: float,
    colour: str,
    width: float,
    more: str = "",
) -> str:
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}" {more}/>'


def _text(
    text: str,
    x: float,
    y: float,
    anchor: str = "start",
    size: int = 13,
    more: str = "",
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}{more}>{text}</text>"
