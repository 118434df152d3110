"""Where each visual position looks: one function for each way in which models cut an image into patches.

A function gets a `View` and returns, for each image, the rectangles of its visual positions in sequence order: (n, 4)
x0, y0, x1, y1 as shares of the upright original image, NaN for positions without a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from svl_core.errors import SVLError
from svl_core.lvlm.sample import PatchGeometry

if TYPE_CHECKING:
    from svl_core.lvlm.model import LVLM


@dataclass(frozen=True)
class View:
    """What a geometry function may look at. count: number of visual positions of all images together."""

    lvlm: LVLM
    inputs: Mapping[str, torch.Tensor]
    images: Sequence[Image.Image]
    count: int

    @property
    def config(self) -> Any:
        return self.lvlm.model.config

    @property
    def image_processor(self) -> Any:
        return getattr(self.lvlm.processor, "image_processor", None)


@dataclass(frozen=True)
class Places:
    """Rectangles (n, 4) of one image's visual positions, and (rows, columns) where they are one full grid."""

    rects: np.ndarray
    grid: tuple[int, int] | None = None


def place(lvlm: LVLM, inputs: Mapping[str, torch.Tensor], images: Sequence[Image.Image], count: int) -> PatchGeometry:
    """The geometry of all `count` visual positions. Raises SVLError when the rule does not give one rectangle a position."""
    if not count:
        return PatchGeometry.empty()
    places = GEOMETRIES[lvlm.family.geometry](View(lvlm, inputs, images, count))
    rects = np.concatenate([one.rects for one in places])
    if len(places) != len(images) or len(rects) != count:
        raise SVLError(f"Found {count} visual positions for {len(images)} images, but places for {len(rects)} in {len(places)}; the geometry of {lvlm.family.name} does not fit this processor.")
    index = np.repeat(np.arange(len(places)), [len(one.rects) for one in places])
    return PatchGeometry(rects, index, places[0].grid if len(places) == 1 else None)


# Building blocks

def grid_rects(rows: int, columns: int, box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> np.ndarray:
    """Equal cells of `box`, row by row: (rows * columns, 4), cut to the image; cells wholly outside it are NaN."""
    x0, y0, x1, y1 = box
    xs, ys = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
    cells = np.stack([np.tile(xs[:-1], rows), np.repeat(ys[:-1], columns), np.tile(xs[1:], rows), np.repeat(ys[1:], columns)], axis=1)
    return clipped(cells)


def clipped(rects: np.ndarray) -> np.ndarray:
    """Rectangles cut to 0..1; those without area left become NaN."""
    cut = np.clip(rects, 0.0, 1.0)
    cut[~((cut[:, 2] - cut[:, 0] > 1e-6) & (cut[:, 3] - cut[:, 1] > 1e-6))] = np.nan
    return cut


def nowhere(count: int) -> np.ndarray:
    return np.full((count, 4), np.nan)


def processed_box(image_processor, image: Image.Image, height: int, width: int) -> tuple[float, float, float, float]:
    """The part of the original image that `height` x `width` processed pixels show, after the processor's resize and
    centre crop: x0, y0, x1, y1, beyond 0..1 where the processor padded."""
    settings = {name: getattr(image_processor, name, None) for name in ("do_resize", "size", "do_center_crop", "crop_size")}
    shown_height, shown_width = image.height, image.width
    if settings["do_resize"] is not False and settings["size"]:
        shown_height, shown_width = resized(image, settings["size"])
    top = left = 0
    if settings["do_center_crop"]:
        top, left = (shown_height - height) // 2, (shown_width - width) // 2
    return left / shown_width, top / shown_height, (left + width) / shown_width, (top + height) / shown_height


def resized(image: Image.Image, size) -> tuple[int, int]:
    """(height, width) after a transformers resize to `size`."""
    size = dict(size)
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if edge := size.get("shortest_edge"):
        short, long = sorted((image.height, image.width))
        scaled = int(edge * long / short)
        return (edge, scaled) if image.height <= image.width else (scaled, edge)
    raise SVLError(f"Found the resize setting {size}; expected height and width, or a shortest edge.")


# One function for each way of cutting

def square(view: View) -> list[Places]:
    """One grid of patches an image, row by row; a leading position without a place when the class token is kept (LLaVA)."""
    height, width = view.inputs["pixel_values"].shape[-2:]
    patch = view.config.vision_config.patch_size
    rows, columns = height // patch, width // patch
    extra = view.count // len(view.images) - rows * columns
    if extra not in (0, 1):
        raise SVLError(f"Found {view.count} visual positions for {len(view.images)} images of {rows} x {columns} patches; expected one a patch.")
    places = []
    for image in view.images:
        x0, y0, x1, y1 = processed_box(view.image_processor, image, height, width)
        box = x0, y0, x0 + (x1 - x0) * columns * patch / width, y0 + (y1 - y0) * rows * patch / height
        places.append(Places(np.concatenate([nowhere(extra), grid_rects(rows, columns, box)]), None if extra else (rows, columns)))
    return places


def generic(view: View) -> list[Places]:
    """For families outside the table: an equal square grid an image where the count allows it, else no places."""
    share, rest = divmod(view.count, len(view.images))
    side = math.isqrt(share)
    if rest:
        return [Places(nowhere(view.count if not i else 0)) for i in range(len(view.images))]
    return [Places(grid_rects(side, side), (side, side)) if side * side == share else Places(nowhere(share)) for _ in view.images]


GEOMETRIES: dict[str, Callable[[View], list[Places]]] = {"square": square, "generic": generic}
