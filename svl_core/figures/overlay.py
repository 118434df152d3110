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
SIGNED = 0.25  # share of the largest change from which a patch carries its sign


@functools.cache
def _table(palette: str | tuple[str, ...]) -> np.ndarray:
    """(64, 3) colours along a plotly scale."""
    return np.array(
        [
            unlabel_rgb(c)
            for c in sample_colorscale(
                palette if isinstance(palette, str) else list(palette),
                np.linspace(0, 1, 64).tolist(),
            )
        ],
        dtype=np.float32,
    )


def _colours(shares: np.ndarray, palette: str | tuple[str, ...] = "Cividis") -> np.ndarray:
    """Colours of values in 0..1 on a plotly scale: (n,) -> (n, 3) uint8."""
    table = _table(palette)
    at = np.clip(np.nan_to_num(shares), 0, 1) * 63
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, 63)
    return np.round(table[low] + (at - low)[:, None] * (table[high] - table[low])).astype(np.uint8)


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
    """The image with every patch tinted by its importance; patches that count get an outline.

    rects: (V, 4) x0, y0, x1, y1 in 0..1 of the image; NaN rows have no place and are skipped.
    scores: (V,) importance; scale: (low, high) of the colours, default the scores' own range.
    selected: (V,) bool, outlined where another patch or the border begins. opacity: 0 image only to
        1 colours only.
    width: pixels of the result's longer side. focus: index of one patch drawn with a double frame.
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
    ratio = width / max(image.size)
    size = tuple(max(1, round(side * ratio)) for side in image.size)
    picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    placed = np.flatnonzero(~np.isnan(rects).any(axis=1))
    if not len(placed):
        return picture
    low, high = (
        scale
        if scale is not None
        else (
            float(np.nanmin(values[placed])),
            float(np.nanmax(values[placed])),
        )
    )
    colours = _colours(
        (values - low) / (high - low) if high > low else np.zeros(len(values)),
        DIVERGING if diverging else "Cividis",
    )
    boxes = np.round(rects * np.array([size[0], size[1], size[0], size[1]])).astype(np.float64)
    tint = Image.new("RGB", size)
    cover = Image.new("L", size)
    paint = ImageDraw.Draw(tint)
    mask = ImageDraw.Draw(cover)
    area = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    for k in sorted(
        placed, key=lambda k: -area[k]
    ):  # small patches over large ones, where views overlap
        x0, y0, x1, y1 = boxes[k].astype(int)
        box = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        paint.rectangle(box, tuple(int(c) for c in colours[k]))
        mask.rectangle(box, 255)
    alpha = cover.point(lambda v: int(v * float(np.clip(opacity, 0, 1))))
    picture = Image.composite(tint, picture, alpha)
    draw = ImageDraw.Draw(picture)
    if selected is not None:
        chosen = [k for k in placed if selected[k]]
        region = Image.new("L", size)
        fill = ImageDraw.Draw(region)
        for k in chosen:
            x0, y0, x1, y1 = boxes[k].astype(int)
            fill.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), 255)
        picture = _contour(picture, np.asarray(region) > 0, max(1, round(width / 320)))
        draw = ImageDraw.Draw(picture)
    if diverging:
        for k in placed[np.abs(values[placed]) >= SIGNED * max(abs(low), abs(high))]:
            _sign(draw, boxes[k], values[k] > 0)
    if focus is not None and focus in placed:
        x0, y0, x1, y1 = boxes[focus].astype(int)
        draw.rectangle(
            (x0, y0, x1 - 1, y1 - 1),
            outline=(255, 255, 255),
            width=max(2, width // 160),
        )
        draw.rectangle((x0 - 2, y0 - 2, x1 + 1, y1 + 1), outline=(20, 20, 20), width=2)
    return picture


def _sign(draw: ImageDraw.ImageDraw, box: np.ndarray, plus: bool) -> None:
    """A dark plus or minus with a light edge in the middle of a box (x0, y0, x1, y1)."""
    x = (box[0] + box[2]) / 2
    y = (box[1] + box[3]) / 2
    half = max(2.0, min(box[2] - box[0], box[3] - box[1]) * 0.22)
    thick = max(2, round(half / 2.5))
    for colour, more in (((255, 255, 255), 2), ((20, 20, 20), 0)):
        draw.line(
            (x - half - more / 2, y, x + half + more / 2, y),
            fill=colour,
            width=thick + more,
        )
        if plus:
            draw.line(
                (x, y - half - more / 2, x, y + half + more / 2),
                fill=colour,
                width=thick + more,
            )


def _contour(picture: Image.Image, region: np.ndarray, thick: int) -> Image.Image:
    """Draw the border of a region (H, W bool): a white line inside, a dark one outside, so it shows
    on any ground.
    """

    def grown(area: np.ndarray, by: int) -> np.ndarray:
        out = area.copy()
        for _ in range(by):
            wide = np.pad(out, 1)
            out = (
                wide[1:-1, 1:-1]
                | wide[:-2, 1:-1]
                | wide[2:, 1:-1]
                | wide[1:-1, :-2]
                | wide[1:-1, 2:]
            )
        return out

    pixels = np.array(picture)
    inner = region & grown(np.pad(~region, 1, constant_values=True), thick)[1:-1, 1:-1]
    outer = grown(region, thick) & ~region
    pixels[outer] = (25, 25, 25)
    pixels[inner] = (255, 255, 255)
    return Image.fromarray(pixels)
