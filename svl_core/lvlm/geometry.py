"""Where each visual position looks: one function for each way in which models cut an image into
patches.

A function gets a `View` and returns, for each image, the rectangles of its visual positions in
sequence order: (n, 4) x0, y0, x1, y1 as shares of the upright original image, NaN for positions
without a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from svl_core.errors import SVLError
from svl_core.lvlm.sample import PatchGeometry


@dataclass(frozen=True)
class View:
    """What a geometry function may look at.

    config: the whole model's. cuts: what the image processor told beside the model's inputs, such
        as rows and columns of tiles.
    count: number of visual positions of all images together.
    """

    config: Any
    image_processor: Any
    inputs: Mapping[str, torch.Tensor]
    images: Sequence[Image.Image]
    cuts: Mapping[str, Any]
    count: int


@dataclass(frozen=True)
class Places:
    """Rectangles (n, 4) of one image's visual positions, and (rows, columns) where they are one
    full grid.
    """

    rects: np.ndarray
    grid: tuple[int, int] | None = None


def place(rule: str, view: View) -> PatchGeometry:
    """The geometry of all `view.count` visual positions by the function `rule`.

    Raises SVLError when it does not give one rectangle a position.
    """
    if not view.count:
        return PatchGeometry.empty()
    places = GEOMETRIES[rule](view)
    rects = np.concatenate([one.rects for one in places])
    if len(places) != len(view.images) or len(rects) != view.count:
        raise SVLError(
            f"Found {view.count} visual positions for {len(view.images)} images, but places for"
            f" {len(rects)} in {len(places)}; the geometry {rule!r} does not fit this processor."
        )
    index = np.repeat(np.arange(len(places)), [len(one.rects) for one in places])
    return PatchGeometry(rects, index, places[0].grid if len(places) == 1 else None)


# Building blocks


def grid_rects(
    rows: int,
    columns: int,
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> np.ndarray:
    """Equal cells of `box`, row by row: (rows * columns, 4), cut to the image; cells wholly outside
    it are NaN.
    """
    x0, y0, x1, y1 = box
    xs = np.linspace(x0, x1, columns + 1)
    ys = np.linspace(y0, y1, rows + 1)
    cells = np.stack(
        [
            np.tile(xs[:-1], rows),
            np.repeat(ys[:-1], columns),
            np.tile(xs[1:], rows),
            np.repeat(ys[1:], columns),
        ],
        axis=1,
    )
    return clipped(cells)


def clipped(rects: np.ndarray) -> np.ndarray:
    """Rectangles cut to 0..1; those without area left become NaN."""
    cut = np.clip(rects, 0.0, 1.0)
    cut[~((cut[:, 2] - cut[:, 0] > 1e-6) & (cut[:, 3] - cut[:, 1] > 1e-6))] = np.nan
    return cut


def nowhere(count: int) -> np.ndarray:
    return np.full((count, 4), np.nan)


def processed_box(
    image_processor, image: Image.Image, height: int, width: int
) -> tuple[float, float, float, float]:
    """The part of the original image that `height` x `width` processed pixels show, after the
    processor's resize and centre crop: x0, y0, x1, y1, beyond 0..1 where the processor padded.
    """
    settings = {
        name: getattr(image_processor, name, None)
        for name in ("do_resize", "size", "do_center_crop", "crop_size")
    }
    shown_height = image.height
    shown_width = image.width
    if settings["do_resize"] is not False and settings["size"]:
        shown_height, shown_width = resized(image, settings["size"])
    top = left = 0
    if settings["do_center_crop"]:
        top = (shown_height - height) // 2
        left = (shown_width - width) // 2
    return (
        left / shown_width,
        top / shown_height,
        (left + width) / shown_width,
        (top + height) / shown_height,
    )


def resized(image: Image.Image, size) -> tuple[int, int]:
    """(height, width) after a transformers resize to `size`."""
    size = dict(size)
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if edge := size.get("shortest_edge"):
        short, long = sorted((image.height, image.width))
        scaled = int(edge * long / short)
        return (edge, scaled) if image.height <= image.width else (scaled, edge)
    raise SVLError(
        f"Found the resize setting {size}; expected height and width, or a shortest edge."
    )


def tiled(rows: int, columns: int, side: int, overview: bool) -> Places:
    """`rows` x `columns` tiles of `side` x `side` cells, tile after tile, then the whole image once
    more when `overview`.
    """
    tiles = [
        grid_rects(
            side,
            side,
            (c / columns, r / rows, (c + 1) / columns, (r + 1) / rows),
        )
        for r in range(rows)
        for c in range(columns)
    ]
    if not tiles or overview:
        tiles.append(grid_rects(side, side))
    return Places(np.concatenate(tiles), (side, side) if len(tiles) == 1 else None)


def whole_side(cells: int, what: str) -> int:
    """The side of a square grid of `cells`. Raises SVLError when they make no square."""
    side = math.isqrt(max(cells, 0))
    if side * side != cells or not side:
        raise SVLError(
            f"Found {cells} visual positions {what}; expected a square number; the geometry does"
            " not fit this processor."
        )
    return side


# One function for each way of cutting


def square(view: View) -> list[Places]:
    """One grid an image, row by row: a cell a patch, or fewer cells where the model pools patches.

    A leading position
    without a place when the class token is kept (LLaVA, PaliGemma, Gemma3, Gemma3n).
    """
    height, width = view.inputs["pixel_values"].shape[-2:]
    share = view.count // len(view.images)
    patch = getattr(view.config.vision_config, "patch_size", None) or 1
    rows = height // patch
    columns = width // patch
    extra = share - rows * columns
    if extra not in (0, 1):
        rows = columns = whole_side(share, "an image")
        extra = 0
        patch = None
    places = []
    for image in view.images:
        x0, y0, x1, y1 = processed_box(view.image_processor, image, height, width)
        if patch:  # pixels right of and below the last whole patch are not seen
            x1 = x0 + (x1 - x0) * columns * patch / width
            y1 = y0 + (y1 - y0) * rows * patch / height
        places.append(
            Places(
                np.concatenate(
                    [
                        nowhere(extra),
                        grid_rects(rows, columns, (x0, y0, x1, y1)),
                    ]
                ),
                None if extra else (rows, columns),
            )
        )
    return places


def resolution_grids(view: View) -> list[Places]:
    """A stretched overview, then the image at a resolution of the model's choice without its
    padding, each row closed by a newline position (LLaVA-NeXT, LLaVA-OneVision).
    """
    from transformers.image_processing_utils import select_best_resolution

    vision = view.config.vision_config
    side = vision.image_size // vision.patch_size
    # OneVision cuts single images only.
    single = len(view.images) == 1 or not hasattr(view.config, "vision_aspect_ratio")
    places = []
    for image in view.images:
        if not single:
            places.append(
                Places(
                    np.concatenate(
                        [
                            grid_rects(side, side, squared_box(image)),
                            nowhere(1),
                        ]
                    )
                )
            )
            continue
        target = select_best_resolution(
            (image.height, image.width), view.config.image_grid_pinpoints
        )
        rows, columns = (edge // vision.image_size * side for edge in target)
        shown = [
            min(
                math.ceil(edge * min(target[0] / image.height, target[1] / image.width)),
                limit,
            )
            for edge, limit in zip((image.height, image.width), target)
        ]
        # rows or columns that hold nothing but padding are left out: transformers' unpad_image
        top = left = 0
        if image.width / image.height > columns / rows:
            top = (rows - int(round(image.height * (columns / image.width), 7))) // 2
        else:
            left = (columns - int(round(image.width * (rows / image.height), 7))) // 2
        cell = vision.image_size / side
        box = tuple(
            (position * cell - (target[axis] - shown[axis]) // 2) / shown[axis]
            for position, axis in (
                (left, 1),
                (top, 0),
                (columns - left, 1),
                (rows - top, 0),
            )
        )
        rows = rows - 2 * top
        columns = columns - 2 * left
        limit = str(getattr(view.config, "vision_aspect_ratio", "")).removeprefix("anyres_max_")
        if limit.isdigit() and (ratio := math.sqrt(rows * columns / (int(limit) * side**2))) > 1.1:
            rows = int(rows // ratio)
            columns = int(columns // ratio)
        fine = grid_rects(rows, columns, box).reshape(rows, columns, 4)
        fine = np.concatenate([fine, np.full((rows, 1, 4), np.nan)], axis=1).reshape(-1, 4)
        places.append(Places(np.concatenate([grid_rects(side, side), fine])))
    return places


def squared_box(image: Image.Image) -> tuple[float, float, float, float]:
    """The square that an image is padded to, the image in its middle, in shares of the image."""
    edge = max(image.size)
    left = (edge - image.width) // 2
    top = (edge - image.height) // 2
    return (
        -left / image.width,
        -top / image.height,
        (edge - left) / image.width,
        (edge - top) / image.height,
    )


def row_column_tiles(view: View) -> list[Places]:
    """Tiles row by row, the whole image last; the image is stretched to a whole number of tiles
    (Idefics3, SmolVLM).
    """
    rows, columns = (
        [int(n) for part in view.cuts[name] for n in part] for name in ("rows", "cols")
    )
    side = whole_side(
        view.count // sum(r * c + 1 for r, c in zip(rows, columns)),
        "a tile",
    )
    return [tiled(r, c, side, overview=True) for r, c in zip(rows, columns)]


def canvas_tiles(view: View) -> list[Places]:
    """Tiles row by row on the canvas of closest shape, then a thumbnail if there is more than one
    tile (InternVL, Aya Vision).
    """
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        get_optimal_tiled_canvas,
    )

    counts = [int(n) for n in view.cuts["num_patches"]]
    side = whole_side(view.count // sum(counts), "a tile")
    settings = view.image_processor
    places = []
    for image, count in zip(view.images, counts):
        rows = columns = 1
        if count > 1:
            size = dict(settings.size)
            columns, rows = get_optimal_tiled_canvas(
                (image.height, image.width),
                (size["height"], size["width"]),
                settings.min_patches,
                settings.max_patches,
            )
        places.append(tiled(rows, columns, side, overview=count > rows * columns))
    return places


def first_then_tiles(view: View) -> list[Places]:
    """The whole image first, then tiles row by row if there is more than one (Ovis2)."""
    shapes = [(int(rows), int(columns)) for rows, columns in view.cuts["grids"]]
    tiles = [rows * columns + (rows * columns > 1) for rows, columns in shapes]
    side = whole_side(view.count // sum(tiles), "a tile")
    return [
        Places(
            np.roll(
                tiled(*shape, side, overview=count > 1).rects,
                side * side if count > 1 else 0,
                axis=0,
            ),
            (side, side) if count == 1 else None,
        )
        for shape, count in zip(shapes, tiles)
    ]


def padded_square(view: View) -> list[Places]:
    """One square grid an image, which was padded to a square with itself in the middle
    (DeepSeek-VL, Janus).
    """
    side = whole_side(view.count // len(view.images), "an image")
    return [
        Places(grid_rects(side, side, squared_box(image)), (side, side)) for image in view.images
    ]


def merged_grid(view: View) -> list[Places]:
    """One grid an image of merged patches, row by row; the image is stretched to whole patches
    (Qwen-VL).
    """
    merge = (
        getattr(view.config.vision_config, "spatial_merge_size", None)
        or view.image_processor.merge_size
    )
    return [
        Places(grid_rects(h // merge, w // merge), (h // merge, w // merge))
        for _, h, w in view.inputs["image_grid_thw"].tolist()
    ]


def row_breaks(view: View) -> list[Places]:
    """One grid an image of (merged) patches, row by row, from the resized image's size (Pixtral,
    Mistral3).
    """
    patch = view.config.vision_config.patch_size * getattr(view.config, "spatial_merge_size", 1)
    return [
        Places(grid_rects(h // patch, w // patch), (h // patch, w // patch))
        for h, w in view.inputs["image_sizes"].tolist()
    ]


def pooled_grid(view: View) -> list[Places]:
    """One grid an image of pooled patches, row by row, from the patches' own positions (Gemma4)."""
    kernel = view.image_processor.pooling_kernel_size
    places = []
    for positions in view.inputs["image_position_ids"]:
        columns, rows = ((positions.max(dim=0).values + 1) // kernel).tolist()
        places.append(Places(grid_rects(rows, columns), (rows, columns)))
    return places


def unplaced(view: View) -> list[Places]:
    """Visual positions that look at no known part of the image: each position may see all of it, or
    nobody knows.
    """
    shares = [len(part) for part in np.array_split(np.arange(view.count), len(view.images))]
    return [Places(nowhere(share)) for share in shares]


GEOMETRIES: dict[str, Callable[[View], list[Places]]] = {
    function.__name__: function
    for function in (
        square,
        padded_square,
        resolution_grids,
        row_column_tiles,
        canvas_tiles,
        first_then_tiles,
        merged_grid,
        row_breaks,
        pooled_grid,
        unplaced,
    )
}
