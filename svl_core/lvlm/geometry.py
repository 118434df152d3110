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
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from svl_core.errors import SVLError
from svl_core.lvlm.sample import PatchGeometry

PIXELS = "pixel_values"
"""How the names of inputs that hold pixels begin."""


@dataclass(frozen=True)
class View:
    """What a geometry function may look at.

    config: the whole model's.
    image_processor: the processor's part for images.
    inputs: the model's inputs, a batch of one.
    images: the images as the processor got them.
    cuts: what the image processor returned beside the model's inputs, such as rows and columns of
        tiles.
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
    """Where one image's visual positions lie.

    rects: (n, 4) rectangles.
    grid: (rows, columns) where they are one full grid.
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
    rects = np.concatenate([image.rects for image in places])
    if len(places) != len(view.images) or len(rects) != view.count:
        raise SVLError(
            f"Found {view.count} visual positions for {len(view.images)} images, but places for"
            f" {len(rects)} in {len(places)}; the geometry {rule!r} does not fit this processor."
        )
    index = np.repeat(np.arange(len(places)), [len(image.rects) for image in places])
    grid = places[0].grid if len(places) == 1 else None
    return PatchGeometry(rects, index, grid)


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
    width = cut[:, 2] - cut[:, 0]
    height = cut[:, 3] - cut[:, 1]
    cut[(width <= 1e-6) | (height <= 1e-6)] = np.nan
    return cut


def nowhere(count: int) -> np.ndarray:
    return np.full((count, 4), np.nan)


def processed_box(
    image_processor, image: Image.Image, height: int, width: int
) -> tuple[float, float, float, float]:
    """The part of the original image that the processor shows, after its resize and centre crop.

    height, width: pixels after processing.
    Returns x0, y0, x1, y1 as shares of the image, beyond 0..1 where the processor padded.
    """
    size = getattr(image_processor, "size", None)
    shown_height = image.height
    shown_width = image.width
    if size and getattr(image_processor, "do_resize", None) is not False:
        shown_height, shown_width = resized(image, size)
    top = left = 0
    if getattr(image_processor, "do_center_crop", None):
        top = (shown_height - height) // 2
        left = (shown_width - width) // 2
    return (
        left / shown_width,
        top / shown_height,
        (left + width) / shown_width,
        (top + height) / shown_height,
    )


def resized(
    image: Image.Image,
    size,
) -> tuple[int, int]:
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


def tiled(
    rows: int,
    columns: int,
    side: int,
    overview: bool,
) -> Places:
    """`rows` x `columns` tiles of `side` x `side` cells, tile after tile, then the whole image once
    more when `overview`.
    """
    tiles = []
    for row in range(rows):
        for column in range(columns):
            left, right = column / columns, (column + 1) / columns
            top, bottom = row / rows, (row + 1) / rows
            tiles.append(grid_rects(side, side, (left, top, right, bottom)))
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

    There is a leading position without a place where the class token is kept (LLaVA, PaliGemma,
    Gemma3, Gemma3n); behind the grid follow those of its crops (Gemma3).
    """
    crops = [int(count) for count in view.cuts.get("num_crops", ())]
    if any(crops):
        return _crops(view, crops)
    pixels = next(value for name, value in view.inputs.items() if name.startswith(PIXELS))
    height, width = pixels.shape[-2:]
    share = view.count // len(view.images)
    tower = getattr(view.config, "vision_config", None)
    patch = getattr(tower, "patch_size", None) or 1
    rows = height // patch
    columns = width // patch
    extra = share - rows * columns
    if extra not in (0, 1):
        rows = columns = whole_side(share, "an image")
        extra = 0
        patch = None
    places = []
    for image in view.images:
        x0, y0, x1, y1 = processed_box(
            view.image_processor,
            image,
            height,
            width,
        )
        if patch:  # pixels right of and below the last whole patch are not seen
            x1 = x0 + (x1 - x0) * columns * patch / width
            y1 = y0 + (y1 - y0) * rows * patch / height
        cells = grid_rects(rows, columns, (x0, y0, x1, y1))
        rects = np.concatenate([nowhere(extra), cells])
        places.append(Places(rects, None if extra else (rows, columns)))
    return places


def _crops(view: View, counts: Sequence[int]) -> list[Places]:
    """The whole image, and behind it as many grids as there are crops, which share the longer side
    out (Gemma3's pan and scan).
    """
    side = whole_side(view.count // sum(1 + count for count in counts), "a crop")
    places = []
    for image, count in zip(view.images, counts, strict=True):
        rects = [grid_rects(side, side)]
        wide = image.width >= image.height
        length = image.width if wide else image.height
        step = math.ceil(length / max(count, 1)) / length
        for number in range(count):
            first, last = number * step, min((number + 1) * step, 1.0)
            box = (first, 0.0, last, 1.0) if wide else (0.0, first, 1.0, last)
            rects.append(grid_rects(side, side, box))
        places.append(Places(np.concatenate(rects), None if count else (side, side)))
    return places


def resolution_grids(view: View) -> list[Places]:
    """A stretched overview, then the image at a resolution of the model's choice without its
    padding, each row closed by a newline position (LLaVA-NeXT, LLaVA-OneVision).
    """
    side = tile_side(view.config)
    overview = grid_rects(side, side)
    # OneVision cuts single images only, and not those that are read as if there were several.
    counts = view.inputs.get("batch_num_images")
    single = counts is None or counts.tolist() == [1]
    places = []
    for image in view.images:
        if single:
            fine = padded_rows(view.config, image, best_grid(view.config, image))
            rects = np.concatenate([overview, fine])
        else:
            rects = np.concatenate([grid_rects(side, side, squared_box(image)), nowhere(1)])
        places.append(Places(rects))
    return places


def tile_side(config) -> int:
    """How many positions lie along a tile's side: a patch each, or fewer where the config names
    the share that is left (Granite Vision's "4/8").
    """
    vision = config.vision_config
    patches = vision.image_size // vision.patch_size
    rate = getattr(config, "downsample_rate", None)
    return int(patches * Fraction(rate)) if isinstance(rate, str) else patches


class Sized(Protocol):
    """What has a width and a height in pixels."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...


def best_grid(config, image: Sized) -> tuple[int, int]:
    """The resolution (height, width) that the model chooses for an image."""
    from transformers.image_processing_utils import select_best_resolution

    return select_best_resolution((image.height, image.width), config.image_grid_pinpoints)


def padded_rows(
    config,
    image: Sized,
    target: tuple[int, int],
) -> np.ndarray:
    """(n, 4): the cells of an image that is fitted into `target` (height, width) pixels, row by
    row, a newline position behind each row.

    Rows or columns that hold nothing but padding are left out, as transformers' unpad_image does;
    where too many cells are left ("anyres_max_9"), the model pools them.
    """
    vision = config.vision_config
    side = tile_side(config)
    rows = target[0] // vision.image_size * side
    columns = target[1] // vision.image_size * side
    scale = min(target[0] / image.height, target[1] / image.width)
    shown_height = min(math.ceil(image.height * scale), target[0])
    shown_width = min(math.ceil(image.width * scale), target[1])
    top = left = 0
    if image.width / image.height > columns / rows:
        filled = int(round(image.height * (columns / image.width), 7))
        top = (rows - filled) // 2
    else:
        filled = int(round(image.width * (rows / image.height), 7))
        left = (columns - filled) // 2
    cell = vision.image_size / side
    margin_x = (target[1] - shown_width) // 2
    margin_y = (target[0] - shown_height) // 2
    box = (
        (left * cell - margin_x) / shown_width,
        (top * cell - margin_y) / shown_height,
        ((columns - left) * cell - margin_x) / shown_width,
        ((rows - top) * cell - margin_y) / shown_height,
    )
    rows -= 2 * top
    columns -= 2 * left
    limit = str(getattr(config, "vision_aspect_ratio", "")).removeprefix("anyres_max_")
    if limit.isdigit():
        ratio = math.sqrt(rows * columns / (int(limit) * side**2))
        if ratio > 1.1:
            rows = int(rows // ratio)
            columns = int(columns // ratio)
    cells = grid_rects(rows, columns, box).reshape(rows, columns, 4)
    newlines = np.full((rows, 1, 4), np.nan)
    return np.concatenate([cells, newlines], axis=1).reshape(-1, 4)


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
    (Idefics3, SmolVLM). A single tile is the whole image (Granite Docling).
    """
    rows = [int(count) for part in view.cuts["rows"] for count in part]
    columns = [int(count) for part in view.cuts["cols"] for count in part]
    shapes = list(zip(rows, columns, strict=True))
    split = [math.prod(shape) > 1 for shape in shapes]
    tiles = sum(
        math.prod(shape) + 1 if cut else 1 for shape, cut in zip(shapes, split, strict=True)
    )
    side = whole_side(view.count // tiles, "a tile")
    return [tiled(*shape, side, cut) for shape, cut in zip(shapes, split, strict=True)]


def canvas_tiles(view: View) -> list[Places]:
    """Tiles row by row on the canvas that the image processor chooses by the image's shape, then a
    thumbnail if there is more than one tile (InternVL, Aya Vision, Command A Vision).
    """
    counts = [int(n) for n in view.cuts["num_patches"]]
    side = whole_side(view.count // sum(counts), "a tile")
    settings = view.image_processor
    choose_canvas = settings.crop_image_to_patches.__globals__["get_optimal_tiled_canvas"]
    places = []
    for image, count in zip(view.images, counts, strict=True):
        rows = columns = 1
        if count > 1:
            size = dict(settings.size)
            columns, rows = choose_canvas(
                (image.height, image.width),
                (size["height"], size["width"]),
                settings.min_patches,
                settings.max_patches,
            )
        places.append(
            tiled(
                rows,
                columns,
                side,
                overview=count > rows * columns,
            )
        )
    return places


def first_then_tiles(view: View) -> list[Places]:
    """The whole image first, then tiles row by row if there is more than one (Ovis2)."""
    shapes = [(int(rows), int(columns)) for rows, columns in view.cuts["grids"]]
    tiles = [rows * columns + (rows * columns > 1) for rows, columns in shapes]
    side = whole_side(view.count // sum(tiles), "a tile")
    places = []
    for (rows, columns), count in zip(shapes, tiles, strict=True):
        if count == 1:
            places.append(Places(grid_rects(side, side), (side, side)))
        else:
            overview_last = tiled(rows, columns, side, overview=True)
            places.append(Places(np.roll(overview_last.rects, side * side, axis=0)))
    return places


def padded_square(view: View) -> list[Places]:
    """One square grid an image, which was padded to a square with itself in the middle
    (DeepSeek-VL, Janus).
    """
    side = whole_side(view.count // len(view.images), "an image")
    places = []
    for image in view.images:
        rects = grid_rects(side, side, squared_box(image))
        places.append(Places(rects, (side, side)))
    return places


def merged_grid(view: View) -> list[Places]:
    """One grid an image of merged patches, row by row; the image is stretched to whole patches
    (Qwen-VL, Nemotron Omni). Where there are as many positions more as there are rows, one closes
    each row, and where there are two more an image, they are around it (HunYuan-VL).
    """
    told = view.inputs.get("image_grid_thw")
    if told is None:
        told = view.inputs["image_grid_hw"]
    merge = _merged(view)
    grids = [(height // merge, width // merge) for height, width in told[:, -2:].tolist()]
    more = view.count - sum(rows * columns for rows, columns in grids)
    around = (more - sum(rows for rows, _ in grids)) // len(grids)
    if more and around in (0, 2):
        return [_closed_rows(rows, columns, around // 2) for rows, columns in grids]
    return [_full_grid(rows, columns) for rows, columns in grids]


def _merged(view: View) -> int:
    """How many patches a position holds along each side, as config or processor tell it."""
    told = getattr(view.config.vision_config, "spatial_merge_size", None)
    told = told or getattr(view.image_processor, "merge_size", None)
    return told or round(1 / view.image_processor.downsample_ratio)


def _closed_rows(rows: int, columns: int, ends: int) -> Places:
    """A grid with a position without a place behind each row, and `ends` at either end of it."""
    cells = grid_rects(rows, columns).reshape(rows, columns, 4)
    closing = np.full((rows, 1, 4), np.nan)
    closed = np.concatenate([cells, closing], axis=1).reshape(-1, 4)
    return Places(np.concatenate([nowhere(ends), closed, nowhere(ends)]))


def padded_grid(view: View) -> list[Places]:
    """One grid an image of merged patches, row by row; the image keeps its shape, and is padded on
    its right and at its foot to whole patches (Kimi-K2.5, GLM-5-Next).
    """
    settings = view.image_processor
    merge = settings.merge_size
    cell = settings.patch_size * merge
    places = []
    for image, shape in zip(view.images, view.inputs["image_grid_thw"].tolist(), strict=True):
        rows, columns = shape[1] // merge, shape[2] // merge
        canvas = rows * cell, columns * cell
        fewest = getattr(settings, "min_image_tokens", None)
        if fewest is None:
            height, width = _fitted(settings, image)
        else:
            height, width = _fitted_into(canvas, image, fewest * cell**2)
        box = (0.0, 0.0, canvas[1] / width, canvas[0] / height)
        places.append(Places(grid_rects(rows, columns, box), (rows, columns)))
    return places


def _fitted_into(
    canvas: tuple[int, int],
    image: Sized,
    least: int,
) -> tuple[int, int]:
    """(height, width) of an image that is fitted into a canvas (height, width), and enlarged only
    where it has fewer than `least` pixels.
    """
    scale = min(canvas[0] / image.height, canvas[1] / image.width)
    if image.height * image.width >= least:
        scale = min(scale, 1.0)
    height = min(canvas[0], math.floor(image.height * scale))
    width = min(canvas[1], math.floor(image.width * scale))
    return max(1, height), max(1, width)


def _fitted(settings, image: Sized) -> tuple[int, int]:
    """(height, width) of an image that is made smaller where it has more than `max_patches` or is
    longer than the setting of its size allows, before it is padded.
    """
    patch = settings.patch_size
    longest = dict(settings.size)["max_height"] * patch
    patches = max(1, image.height // patch) * max(1, image.width // patch)
    scale = min(
        1.0,
        math.sqrt(settings.max_patches / patches),
        longest / image.height,
        longest / image.width,
    )
    height = min(max(1, int(image.height * scale)), longest)
    width = min(max(1, int(image.width * scale)), longest)
    return height, width


def row_breaks(view: View) -> list[Places]:
    """One grid an image of (merged) patches, row by row, from the resized image's size (Pixtral,
    Mistral3).
    """
    merge = getattr(view.config, "spatial_merge_size", 1)
    patch = view.config.vision_config.patch_size * merge
    shapes = view.inputs["image_sizes"].tolist()
    return [_full_grid(height // patch, width // patch) for height, width in shapes]


def _full_grid(rows: int, columns: int) -> Places:
    return Places(grid_rects(rows, columns), (rows, columns))


def pooled_grid(view: View) -> list[Places]:
    """One grid an image of pooled patches, row by row, from the positions of the patches (Gemma4),
    or of those that the processor has pooled already (Gemma4 without a vision tower).
    """
    told = view.inputs["image_position_ids"]
    pooled = int((told >= 0).all(dim=-1).sum()) == view.count
    kernel = 1 if pooled else view.image_processor.pooling_kernel_size
    places = []
    for positions in told:
        columns, rows = ((positions.max(dim=0).values + 1) // kernel).tolist()
        places.append(_full_grid(rows, columns))
    return places


def padded_squares(view: View) -> list[Places]:
    """One grid an image of squares of its own pixels, row by row; the image keeps its size, and is
    padded on its right and at its foot to whole squares (Inkling).
    """
    settings = view.image_processor
    side = dict(settings.size)["height"]
    counts = view.cuts.get("num_patches")
    if counts is None:
        counts = view.inputs["image_grid_thw"].prod(dim=1)
    places = []
    for image, count in zip(view.images, counts, strict=True):
        rows = math.ceil(image.height / side)
        columns = int(count) // rows  # one more than are seen where the width is a multiple
        box = (0.0, 0.0, columns * side / image.width, rows * side / image.height)
        places.append(Places(grid_rects(rows, columns, box), (rows, columns)))
    return places


@dataclass(frozen=True)
class Piece:
    """A part of an image that is read by itself.

    rows, columns: of its grid of positions.
    box: the part, x0, y0, x1, y1 in shares of the image; beyond 0..1 where it was padded.
    shift: by how many cells what positions see lies left of and above their cells.
    """

    rows: int
    columns: int
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    shift: float = 0.0

    @property
    def rects(self) -> np.ndarray:
        """(rows * columns, 4), row by row; the first and the last cells end where the part does."""
        cells = grid_rects(self.rows, self.columns)
        if self.shift:
            counts = np.array([self.columns, self.rows] * 2)
            moved = cells - self.shift / counts
            cells = np.where((cells > 0) & (cells < 1), moved, cells)
        x0, y0, x1, y1 = self.box
        size = np.array([x1 - x0, y1 - y0] * 2)
        return clipped(cells * size + (x0, y0, x0, y0))


# Two convolutions of 3 x 3 with stride 2, which make one position of four patches along each side,
# look at the first of the four as their middle: one and a half patches ahead of the cell's.
COMPRESSED = 1.5 / 4


def _joined(pieces: Sequence[Piece]) -> Places:
    """An image's pieces in the order of the sequence."""
    rects = [piece.rects for piece in pieces]
    alone = len(pieces) == 1
    return Places(np.concatenate(rects), (pieces[0].rows, pieces[0].columns) if alone else None)


def _tile(
    number: int,
    rows: int,
    columns: int,
    shape: Sequence[int],
    shift: float = 0.0,
) -> Piece:
    """The tile `number` of `rows` x `columns`, counted row by row.

    shape: of its grid.
    shift: see `Piece`.
    """
    row, column = divmod(number, columns)
    box = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
    return Piece(shape[0], shape[1], box, shift)


def shaped_tiles(view: View) -> list[Places]:
    """Tiles row by row, then the whole image in a grid of its own shape; small images as a whole
    alone (LFM2-VL).
    """
    merge = view.config.downsample_factor
    shapes = iter((view.inputs["spatial_shapes"] // merge).tolist())
    thumbnail = view.image_processor.use_thumbnail
    places = []
    for rows, columns in zip(view.cuts["image_rows"], view.cuts["image_cols"], strict=True):
        tiles = int(rows) * int(columns)
        numbers = range(tiles if tiles > 1 else 0)
        pieces = [_tile(number, int(rows), int(columns), next(shapes)) for number in numbers]
        if thumbnail or not pieces:
            pieces.append(Piece(*next(shapes)))
        places.append(_joined(pieces))
    return places


def windows(view: View) -> list[Places]:
    """Windows of the image row by row, if it is large or long, then the whole of it; images that
    are mere lines are padded to a square first (Step3).
    """
    settings = view.image_processor
    stride = settings.vision_patch_size * settings.downsampler_stride
    side = settings.patch_size // stride
    whole = dict(settings.size)["height"] // stride
    counts = [int(count) for count in view.inputs["num_local_patches"]]
    ends = view.cuts.get("patch_newline_masks", [()] * len(counts))
    places = []
    for image, count, mask in zip(view.images, counts, ends, strict=True):
        closing = [number + 1 for number, last in enumerate(mask[:count]) if last]
        columns = (closing or [count])[0]
        rows = count // max(columns, 1)
        shape = (side, side)
        pieces = [_tile(number, rows, columns, shape, COMPRESSED) for number in range(count)]
        pieces.append(Piece(whole, whole, shift=COMPRESSED))
        if settings._is_extreme_aspect(image.width, image.height):
            pieces = [_within_square(piece, image) for piece in pieces]
        places.append(_joined(pieces))
    return places


def _within_square(piece: Piece, image: Sized) -> Piece:
    """A piece of the square with the image in its upper left corner, as one of the image."""
    edge = max(image.width, image.height)
    x0, y0, x1, y1 = piece.box
    wide, high = edge / image.width, edge / image.height
    box = (x0 * wide, y0 * high, x1 * wide, y1 * high)
    return Piece(piece.rows, piece.columns, box, piece.shift)


def slices(view: View) -> list[Places]:
    """The whole image, then its slices row by row if it is large, each in a grid of its own shape
    (MiniCPM).
    """
    shapes = view.inputs["target_sizes"]
    merge = math.isqrt(int(shapes.prod(dim=1).sum()) // view.count)
    merged = iter((shapes // merge).tolist())
    places = []
    for rows, columns in view.cuts["grids"]:
        pieces = [Piece(*next(merged))]
        for number in range(int(rows) * int(columns)):
            pieces.append(_tile(number, int(rows), int(columns), next(merged)))
        places.append(_joined(pieces))
    return places


def thumbnail_then_tiles(view: View) -> list[Places]:
    """The whole image, then tiles row by row, also if it is a single one, on the canvas that the
    image processor chooses (PerceptionLM).
    """
    settings = view.image_processor
    counts = [len(tiles) for tiles in view.cuts["pixel_values"]]
    side = whole_side(view.count // sum(counts), "a tile")
    places = []
    for image, count in zip(view.images, counts, strict=True):
        pieces = [Piece(side, side)]
        if count > 1:
            columns, rows = _fitting_canvas(settings, image)
            shape = (side, side)
            tiles = [_tile(number, rows, columns, shape) for number in range(rows * columns)]
            pieces.extend(tiles)
        places.append(_joined(pieces))
    return places


def _fitting_canvas(settings, image: Sized) -> tuple[int, int]:
    """(columns, rows) of tiles that an image processor chooses: a canvas that holds the image, or
    the one of closest shape.
    """
    asked = image.width, image.height, settings.tile_size
    return settings._fit_image_to_canvas(*asked) or settings._find_closest_aspect_ratio(*asked)


def overview_then_canvas(view: View) -> list[Places]:
    """An overview of pooled patches, then those of the whole canvas, which is put together again of
    overlapping crops (Molmo2).

    Where the number of patches along a side is odd, the last ones are pooled with padding.
    """
    settings = view.image_processor
    pool_rows, pool_columns = settings.pooling_size
    side = dict(settings.size)["height"] // settings.patch_size
    margins = sum(settings.overlap_margins)
    places = []
    for low_rows, low_columns, rows, columns in view.inputs["image_grids"].tolist():
        high = _canvas_cells(rows, pool_rows, side, margins)
        wide = _canvas_cells(columns, pool_columns, side, margins)
        overview = (0.0, 0.0, low_columns * pool_columns / side, low_rows * pool_rows / side)
        canvas = (0.0, 0.0, columns * pool_columns / wide, rows * pool_rows / high)
        pieces = [Piece(low_rows, low_columns, overview), Piece(rows, columns, canvas)]
        places.append(_joined(pieces))
    return places


def _canvas_cells(
    pooled: int,
    pool: int,
    side: int,
    margins: int,
) -> int:
    """How many patches there are along a side of a canvas whose `pooled` positions hold up to
    `pool` each.

    side: patches along a crop.
    margins: how many of them it has in common with its neighbours.
    """
    possible = range((pooled - 1) * pool + 1, pooled * pool + 1)
    whole = [cells for cells in possible if (cells - margins) % (side - margins) == 0]
    return whole[-1]


def joined_tiles(view: View) -> list[Places]:
    """Tiles whose rows of positions are joined, each row closed by a newline position, then the
    whole image likewise, padded to a square with itself in the middle, and one position more
    (Unlimited-OCR).
    """
    settings = view.image_processor
    scale = settings.tile_size / max(dict(settings.size).values())
    counts = [int(count) for count in view.cuts["num_local_patches"]]
    grids = []
    for count, (columns, rows) in zip(counts, view.cuts["patches_grid"], strict=True):
        grids.append((int(rows), int(columns)) if count else (0, 0))
    # The side of the whole image's grid is the one that gives as many positions as there are.
    sides = range(1, view.count + 1)
    side = next(side for side in sides if _joined_count(grids, side, scale) >= view.count)
    shape = (math.ceil(side * scale),) * 2
    places = []
    for image, (rows, columns) in zip(view.images, grids, strict=True):
        rects = []
        if rows:
            numbers = range(rows * columns)
            tiles = [_tile(number, rows, columns, shape, COMPRESSED).rects for number in numbers]
            rects.append(_with_newlines(_rows_of(tiles, rows, columns, shape[0])))
        whole = Piece(side, side, squared_box(image), COMPRESSED)
        rects.append(_with_newlines(whole.rects.reshape(side, side, 4)))
        rects.append(nowhere(1))
        places.append(Places(np.concatenate(rects)))
    return places


def _joined_count(
    grids: Sequence[tuple[int, int]],
    side: int,
    scale: float,
) -> int:
    """How many positions images have whose tiles are joined.

    grids: rows and columns of tiles of each.
    side: of the whole image's grid.
    scale: of a tile's side to it.
    """
    own = math.ceil(side * scale)
    whole = side * (side + 1) + 1
    return sum(rows * own * (columns * own + 1) + whole for rows, columns in grids)


def _rows_of(
    tiles: Sequence[np.ndarray],
    rows: int,
    columns: int,
    side: int,
) -> np.ndarray:
    """(rows * side, columns * side, 4): the cells of tiles as rows of the whole image."""
    cells = np.stack(tiles).reshape(rows, columns, side, side, 4)
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 4)


def _with_newlines(lines: np.ndarray) -> np.ndarray:
    """Rows of cells (rows, columns, 4), each closed by a position without a place, as one list."""
    newlines = np.full((len(lines), 1, 4), np.nan)
    return np.concatenate([lines, newlines], axis=1).reshape(-1, 4)


def unplaced(view: View) -> list[Places]:
    """Visual positions that look at no known part of the image: each position may see all of it, or
    nobody knows.
    """
    shares = [len(part) for part in np.array_split(np.arange(view.count), len(view.images))]
    return [Places(nowhere(share)) for share in shares]


def found(view: View) -> list[Places]:
    """Places that no rule names: a finder puts them in as its model encodes (`lvlm/finding.py`)."""
    return unplaced(view)


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
        padded_grid,
        row_breaks,
        pooled_grid,
        padded_squares,
        shaped_tiles,
        windows,
        slices,
        thumbnail_then_tiles,
        overview_then_canvas,
        joined_tiles,
        found,
        unplaced,
    )
}
