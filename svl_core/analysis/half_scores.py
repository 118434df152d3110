"""How redundant each half of a layer is, as a value that rankings and figures read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from svl_core.notebook import Shown

HALVES = ("attention", "MLP")


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class SublayerScores(Shown):
    """How little each half of L layers changes.

    layer_ids: for each layer its number in the original model.
    cosine: (L, 2) float64, of what enters and what leaves the attention and the MLP, mean over
        tokens; higher = more redundant. NaN for a layer that the model passed over.
    step: (L, 2) float64, the length of what each adds, relative to what leaves it, mean over
        tokens.
    tokens: the token set that was measured on.
    parallel: whether both halves read the same input (Cohere's layers): each is then measured as if
        it stood alone.
    """

    layer_ids: tuple[int, ...]
    cosine: np.ndarray
    step: np.ndarray
    tokens: str
    parallel: bool

    def __post_init__(self):
        for values in (self.cosine, self.step):
            if values.shape != (len(self.layer_ids), len(HALVES)):
                raise ValueError(
                    f"Found values of shape {values.shape}; expected two for each of"
                    f" {len(self.layer_ids)} layers."
                )
            values.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        return {"layers": len(self.layer_ids), "tokens": self.tokens, "parallel": self.parallel}

    def table(self) -> list[list[Any]]:
        heading = ["layer", *(f"cosine, {half}" for half in HALVES), "more redundant"]
        rows = zip(
            self.layer_ids,
            self.cosine.tolist(),
            self.redundant_half,
            strict=True,
        )
        return [heading, *([layer, *cosines, half] for layer, cosines, half in rows)]

    @property
    def redundant_half(self) -> tuple[str, ...]:
        """For each layer the half with the higher cosine; "" for one that was passed over."""
        known = ~np.isnan(self.cosine).any(1)
        later = self.cosine[:, 1] > self.cosine[:, 0]
        return tuple(
            HALVES[int(mlp)] if seen else ""
            for seen, mlp in zip(
                known,
                later,
                strict=True,
            )
        )
