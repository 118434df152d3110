"""What passes between a compensation's registry entry and its maths: a fit goes in, an edit comes
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from svl_core.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch

    from svl_core.analysis.trace import Trace


@dataclass(frozen=True, eq=False)
class Fit:
    """What a compensation is fitted on, and its settings.

    trace: the full model's passes over the calibration samples.
    positions: for each sample the tokens that are fitted on.
    weights: for each sample one number a token, or None: all count alike.
    recipe: rank, energy, strength, targets and answer weight are read from it.
    ridge: the recipe's, or the compensation's own default.
    """

    trace: Trace
    positions: Sequence[np.ndarray]
    weights: Sequence[np.ndarray] | None
    recipe: Recipe
    ridge: float

    @property
    def rank(self) -> int:
        """The recipe's rank, a number by now."""
        return int(self.recipe.rank)


@dataclass(frozen=True, eq=False)
class Edit:
    """What bridges one run of dropped layers.

    maps: a (d, d) map for each target projection of the layer before the run.
    bridge: a module that goes behind that layer instead.
    rank: the rank that was used, where there is one.
    """

    maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    bridge: torch.nn.Module | None = None
    rank: int | None = None
