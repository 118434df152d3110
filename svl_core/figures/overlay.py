"""Token importance drawn over the image with PIL, for any patch geometry."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from plotly.colors import sample_colorscale, unlabel_rgb

# The pruned model's orange, the full model's blue.
DIVERGING = (
    "rgb(230, 159, 0)",
    "rgb(244, 244, 244)",
    "rgb(0, 114, 178)",
)
TOOTH = 0.22  # of a patch's shorter side
SIGNED = 0.25  # share of the largest change from which a patch carries its sign


@functools.cache
def _table(palette: str | tuple[str, ...]) -> np.ndarray:
    """(64, 3) colours along a plotly scale."""
    scale = palette if isinstance(palette, str) else list(palette)
    colours = sample_colorscale(scale, np.linspace(0, 1, 64).tolist())
    return np.array([unlabel_rgb(colour) for colour in colours], dtype=np.float32)


def _colours(
    shares: np.ndarray,
    palette: str | tuple[str, ...] = "Cividis",
) -> np.ndarray:
    """Colours of values in 0..1 on a plotly scale: (n,) -> (n, 3) uint8."""
    table = _table(palette)
    place = np.clip(np.nan_to_num(shares), 0, 1) * 63
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, 63)
    between = (place - low)[:, None]
    colours = table[low] + between * (table[high] - table[low])
    return np.round(colours).astype(np.uint8)


Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x1 and y1 excluded."""


def overlay(
    image: Image.Image,
    rects: np.ndarray,
    scores: Sequence[float],
    selected: Sequence[bool] | None = None,
    *,
    opacity: float = 0.6,
    scale: tuple[float, float] | None = None,
    width: int = 640,
    focus: int | None = None,
    diverging: bool = False,
) -> Image.Image:
    """The image with every patch tinted by its importance; patches that count get an outline, whose
    teeth point at them.

    image: the whole picture.
    rects: (V, 4) x0, y0, x1, y1 in 0..1 of the image; NaN rows have no place and are skipped.
    scores: (V,) importance.
    selected: (V,) bool, outlined where another patch or the border begins.
    opacity: 0, image only, to 1, colours only.
    scale: (low, high) of the colours (default: the scores' own range).
    width: pixels of the result's longer side.
    focus: index of one patch drawn with a double frame.
    diverging: scores are signed and `scale` symmetric; blue and "+" stand for above 0, orange and
        "-" for below.
    """
    rects = np.asarray(rects, dtype=np.float64)
    values = np.asarray(scores, dtype=np.float64)
    if rects.shape != (len(values), 4):
        raise ValueError(
            f"Found rects of shape {rects.shape} for {len(values)} scores; expected"
            f" ({len(values)}, 4)."
        )
    picture = sized(image, width)
    columns, rows = picture.size
    placed = np.flatnonzero(~np.isnan(rects).any(axis=1))
    if not len(placed):
        return picture
    low, high = scale or (float(np.nanmin(values[placed])), float(np.nanmax(values[placed])))
    shares = (values - low) / (high - low) if high > low else np.zeros(len(values))
    colours = _colours(shares, DIVERGING if diverging else "Cividis")
    corners = np.round(rects[placed] * (columns, rows, columns, rows)).astype(int)
    boxes: dict[int, Box] = dict(zip(placed.tolist(), map(tuple, corners.tolist()), strict=True))
    area = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    # Small patches over large ones, where views overlap.
    order = sorted(boxes, key=lambda index: -area[index])
    picture = _tinted(picture, [(boxes[index], colours[index]) for index in order], opacity)
    if selected is not None:
        chosen = [box for index, box in boxes.items() if selected[index]]
        region = _covered(picture.size, chosen)
        thick = max(1, round(width / 320))
        picture = _contour(picture, region, thick)
        _teeth(picture, region, chosen, thick)
    draw = ImageDraw.Draw(picture)
    if diverging:
        least = SIGNED * max(abs(low), abs(high))
        for index, box in boxes.items():
            if abs(values[index]) >= least:
                _sign(draw, box, values[index] > 0)
    if focus is not None and focus in boxes:
        x0, y0, x1, y1 = boxes[focus]
        draw.rectangle(
            (x0, y0, x1 - 1, y1 - 1),
            outline=(255, 255, 255),
            width=max(2, width // 160),
        )
        draw.rectangle(
            (x0 - 2, y0 - 2, x1 + 1, y1 + 1),
            outline=(20, 20, 20),
            width=2,
        )
    return picture


def sized(image: Image.Image, width: int) -> Image.Image:
    """The image with `width` pixels as its longer side, a new one."""
    ratio = width / max(image.size)
    columns, rows = (max(1, round(side * ratio)) for side in image.size)
    filtered = Image.Resampling.BICUBIC if ratio > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize((columns, rows), filtered)


def _filled(box: Box) -> Box:
    """The box with x1 and y1 included, as PIL fills it; at least one pixel."""
    x0, y0, x1, y1 = box
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _tinted(
    picture: Image.Image,
    patches: Sequence[tuple[Box, np.ndarray]],
    opacity: float,
) -> Image.Image:
    """The picture itself, under coloured boxes, drawn in their order."""
    tint = Image.new("RGB", picture.size)
    cover = Image.new("L", picture.size)
    paint = ImageDraw.Draw(tint)
    mask = ImageDraw.Draw(cover)
    for box, colour in patches:
        paint.rectangle(_filled(box), tuple(colour.tolist()))
        mask.rectangle(_filled(box), 255)
    share = float(np.clip(opacity, 0, 1))
    alpha = cover.point(lambda value: int(value * share))
    picture.paste(tint, mask=alpha)
    return picture


def _covered(
    size: tuple[int, int],
    boxes: Sequence[Box],
) -> np.ndarray:
    """(H, W) bool: the pixels that any of the boxes covers."""
    region = Image.new("L", size)
    fill = ImageDraw.Draw(region)
    for box in boxes:
        fill.rectangle(_filled(box), 255)
    return np.asarray(region) > 0


def _sign(
    draw: ImageDraw.ImageDraw,
    box: Box,
    plus: bool,
) -> None:
    """A dark plus or minus with a light edge in the middle of a box."""
    x0, y0, x1, y1 = box
    x = (x0 + x1) / 2
    y = (y0 + y1) / 2
    half = max(2.0, min(x1 - x0, y1 - y0) * 0.22)
    thick = max(2, round(half / 2.5))
    for colour, edge in (((255, 255, 255), 2), ((20, 20, 20), 0)):
        reach = half + edge / 2
        across = (x - reach, y, x + reach, y)
        down = (x, y - reach, x, y + reach)
        for line in (across, down) if plus else (across,):
            draw.line(line, fill=colour, width=thick + edge)


def _teeth(
    picture: Image.Image,
    region: np.ndarray,
    boxes: Sequence[Box],
    thick: int,
) -> None:
    """Draws a short line from the middle of each side of a box where the region (H, W bool) ends,
    into the box, so that one sees on which side of the outline it lies.
    """
    draw = ImageDraw.Draw(picture)
    rows, columns = region.shape
    for x0, y0, x1, y1 in boxes:
        x, y = (x0 + x1) // 2, (y0 + y1) // 2
        length = max(3, round(TOOTH * min(x1 - x0, y1 - y0)))
        sides = (
            ((x, y0), (0, 1)),
            ((x, y1 - 1), (0, -1)),
            ((x0, y), (1, 0)),
            ((x1 - 1, y), (-1, 0)),
        )
        for (across, down), (right, below) in sides:
            beyond = across - right, down - below
            outside = not (0 <= beyond[0] < columns and 0 <= beyond[1] < rows)
            if outside or region[beyond[1], beyond[0]]:
                continue
            tip = across + right * length, down + below * length
            for colour, edge in (((25, 25, 25), 2), ((255, 255, 255), 0)):
                draw.line((across, down, *tip), fill=colour, width=thick + edge)


def _widened(area: np.ndarray, pixels: int) -> np.ndarray:
    """An area (H, W bool) with a border of so many pixels around it."""
    wider = area
    for _ in range(pixels):
        before, wider = wider, wider.copy()
        wider[1:] |= before[:-1]
        wider[:-1] |= before[1:]
        wider[:, 1:] |= before[:, :-1]
        wider[:, :-1] |= before[:, 1:]
    return wider


def _contour(
    picture: Image.Image,
    region: np.ndarray,
    thick: int,
) -> Image.Image:
    """Draws the border of a region (H, W bool) on the picture: a white line inside, a dark one
    outside, so it shows on any ground.
    """
    outside = np.pad(~region, 1, constant_values=True)
    inner = region & _widened(outside, thick)[1:-1, 1:-1]
    outer = _widened(region, thick) & ~region
    picture.paste((25, 25, 25), mask=Image.fromarray(outer))
    picture.paste((255, 255, 255), mask=Image.fromarray(inner))
    return picture
