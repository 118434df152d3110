"""One image (or several) and one prompt, encoded for one model: what goes in, which positions look
at the image, and where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.notebook import Shown
from svl_core.recipe import FULL

if TYPE_CHECKING:
    import PIL.Image
    import torch

    from svl_core.lvlm.features import ImageFeatures
    from svl_core.lvlm.thinning import Thinning


def _frozen_array(values, dtype) -> np.ndarray:
    array = np.array(values, dtype=dtype)  # a copy: the caller's array stays writable
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False, repr=False)
class PatchGeometry(Shown):
    """Where each of the V visual positions lies in the original images.

    rects: (V, 4) float32 x0, y0, x1, y1 as shares (0..1) of the upright original image; a row of
    NaN is a visual
        position without a place, such as a newline token between rows of patches.
    image_index: (V,) int64, which of the sample's images.
    grid: (rows, columns) when the positions are one full grid, row by row; otherwise None.
    """

    rects: np.ndarray
    image_index: np.ndarray
    grid: tuple[int, int] | None = None

    def __post_init__(self):
        rects = _frozen_array(self.rects, np.float32).reshape(-1, 4)
        object.__setattr__(self, "rects", rects)
        object.__setattr__(self, "image_index", _frozen_array(self.image_index, np.int64))
        if self.image_index.shape != (len(rects),):
            raise ValueError(
                f"Found {self.image_index.shape} image indices for {len(rects)} rectangles;"
                " expected one each."
            )
        placed = rects[~np.isnan(rects).any(axis=1)]
        if placed.size and (
            placed.min() < 0 or placed.max() > 1 or (placed[:, 2:] <= placed[:, :2]).any()
        ):
            raise ValueError(
                "Found a rectangle outside the image or without area; expected 0 <= x0 < x1 <= 1"
                " and 0 <= y0 < y1 <= 1."
            )
        if self.grid is not None and self.grid[0] * self.grid[1] != len(rects):
            raise ValueError(
                f"Found {len(rects)} rectangles for a grid of {self.grid}; expected rows x columns."
            )

    @classmethod
    def empty(cls) -> PatchGeometry:
        return cls(np.zeros((0, 4)), np.zeros(0))


@dataclass(frozen=True, eq=False, repr=False)
class Sample(Shown):
    """One encoded question. Positions are 0-based indices into the S positions of the sequence.

    inputs: a batch of one for `model(**inputs)`, on the model's device; with `features` for
        `vision.forward` alone.
    visual: (V,) positions that hold visual features, increasing.
    textual: (T,) every other position; V + T = S.
    prompt_positions: (P,) the part of `textual` that is the user's own words rather than marks of
        the chat template.
    tokens: S printable strings.
    images: the images as the model's processor got them: RGB, upright; none where the sample lies
        in a file.
    key: sha256 of model, images, detail and prompt, for caches.
    image_key: sha256 of the model, the images and the detail alone; "" without an image.
    features: what the model's vision side makes of the images, in the place of the pixels in
        `inputs`, where they have been seen already (see `lvlm/vision.py`).
    image_sizes: (width, height) of the images as they were given, in pixels.
    detail: how closely they are looked at, see `detail.Level`.
    thinning: what becomes of its visual tokens in the decoder; None: each layer reads them all.
    pads: whether it may be padded to go with longer samples in one batch.
    """

    inputs: Mapping[str, torch.Tensor]
    visual: np.ndarray
    textual: np.ndarray
    prompt_positions: np.ndarray
    tokens: tuple[str, ...]
    geometry: PatchGeometry
    images: tuple[PIL.Image.Image, ...]
    prompt: str
    key: str
    image_key: str = ""
    features: ImageFeatures | None = None
    image_sizes: tuple[tuple[int, int], ...] = ()
    detail: str = FULL
    thinning: Thinning | None = None
    pads: bool = True

    def __post_init__(self):
        object.__setattr__(self, "inputs", MappingProxyType(dict(self.inputs)))
        for name in ("visual", "textual", "prompt_positions"):
            object.__setattr__(
                self,
                name,
                _frozen_array(getattr(self, name), np.int64),
            )
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if not np.array_equal(
            np.sort(np.concatenate([self.visual, self.textual])),
            np.arange(len(self.tokens)),
        ):
            raise ValueError(
                "Visual and textual positions must share out the sequence: each position in exactly"
                " one of them."
            )
        if not np.isin(self.prompt_positions, self.textual).all():
            raise ValueError("Prompt positions must be textual positions.")
        if len(self.geometry.rects) != len(self.visual):
            raise ValueError(
                f"Found {len(self.geometry.rects)} rectangles for {len(self.visual)} visual"
                " positions; expected one each."
            )

    def brief(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "images": self.images,
            "visual": len(self.visual),
            "textual": len(self.textual),
            "detail": self.detail,
        }

    @property
    def length(self) -> int:
        """S, the number of positions."""
        return len(self.tokens)
