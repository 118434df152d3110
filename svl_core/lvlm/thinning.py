"""What the decoder does with the visual tokens of one sample, as a value; `thin_pass` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

ATTENTION, MLP = PARTS = ("attention", "mlp")
"""What a layer adds to the residual stream of a token."""

Choose = Callable[[Any], "torch.Tensor"]
"""Gives (V,) scores of the visual tokens, of which the highest stay, from what the pass has seen
(`thin_pass.Seen`).
"""


@dataclass(frozen=True, eq=False)
class Thinning:
    """What the decoder does with the V visual tokens of one sample.

    visual: (V,) their positions; at the input (`leave` 0) those of the ones that stayed.
    before_ms: milliseconds that were spent on it, and on the image, before the pass; None: unknown.
    ranked: whether the full model read the whole prompt for it first.
    patches: what the vision tower read, where the image is embedded already.
    leave: the layer, 0-based in the original model, before which tokens leave; 0: they left the
        sequence before the pass; None: none leaves.
    stay: (V,) which of them stay; None where the pass itself chooses.
    choose: how it does.
    count: how many stay.
    skip: layers, 0-based in the original model, that do not update visual tokens.
    parts: by what: "attention", "mlp" or both.
    """

    visual: np.ndarray
    before_ms: float | None
    ranked: bool = False
    patches: int | None = None
    leave: int | None = None
    stay: np.ndarray | None = None
    choose: Choose | None = None
    count: int = 0
    skip: tuple[int, ...] = ()
    parts: tuple[str, ...] = PARTS

    @property
    def inside(self) -> bool:
        """Whether the pass itself has to do something."""
        return bool(self.leave) or bool(self.skip)

    def first(self, layer_ids: Sequence[int]) -> int | None:
        """The index of the first layer that reads fewer tokens; None: none does.

        layer_ids: of the layers present, their numbers in the original model.
        """
        if not self.leave:
            return None
        later = (place for place, layer in enumerate(layer_ids) if layer >= self.leave)
        return next(later, None)

    def gone(self, layer_ids: Sequence[int], place: int) -> int:
        """How many positions fewer than the sample's length the layer at `place` reads."""
        first = self.first(layer_ids)
        if first is None or place < first:
            return 0
        return len(self.visual) - self.count

    def skips(self, layer: int, part: str) -> bool:
        """Whether a layer, by its number in the original model, leaves out a part of its work on
        visual tokens.
        """
        return part in self.parts and layer in self.skip
