"""Compensations: training-free edits of the retained layer before each dropped run, as a registry.

Merged ones edit that layer's output weights, so the pruned model keeps its shape and its cost. The
bridge adds a small module behind the layer instead: its parameters are counted, and a plain
checkpoint cannot hold it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM
    from svl_core.pruning.edits import Bridge

TARGETS = ("mlp", "attention")


@dataclass(frozen=True)
class Fit:
    """What a compensation is fitted on and its settings; `positions` are the tokens of each sample,
    `weights` one number a token (or None).
    """

    trace: Trace
    positions: Sequence[np.ndarray]
    weights: Sequence[np.ndarray] | None
    rank: int
    strength: float
    ridge: float
    targets: tuple[str, ...]
    energy: float | None = None
    answer_weight: float = 20.0


@dataclass(frozen=True, eq=False)
class Edit:
    """What bridges one run: a (d, d) map for each target projection of the layer before it, or a
    module behind that layer; and the rank used.
    """

    maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    bridge: Bridge | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Compensation:
    """`function(fit, first, last)` gives the edit of the layer before the run first..last;
    `whole(full, pruned, fit, cancel, progress)` edits a pruned view as a whole and gives the ids of
    the layers edited. exportable: a plain checkpoint holds it. ridge: the default one.
    """

    name: str
    title: str
    source: str
    formula: str
    exportable: bool
    needs_mlp: bool = False
    function: Callable[[Fit, int, int], Edit] | None = field(default=None, repr=False)
    whole: (
        Callable[[LVLM, LVLM, Fit, threading.Event | None, Callable[[float], None]], list[int]]
        | None
    ) = field(default=None, repr=False)
    ridge: float = 0.01

    @property
    def fitted(self) -> bool:
        """Whether it needs calibration samples."""
        return self.function is not None or self.whole is not None


def _edit(name: str) -> Callable[[Fit, int, int], Edit]:
    """A fit by its name in `edits`, which brings torch: the registry alone is read without it."""

    def fitted(fit: Fit, first: int, last: int) -> Edit:
        from svl_core.pruning import edits

        return getattr(edits, name)(fit, first, last)

    return fitted


def _refit(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    cancel: threading.Event | None,
    progress: Callable[[float], None],
) -> list[int]:
    from svl_core.pruning.refit import refit

    return refit(
        full,
        pruned,
        fit.trace,
        ridge=fit.ridge,
        answer_weight=fit.answer_weight,
        cancel=cancel,
        progress=progress,
    )


COMPENSATIONS: Mapping[str, Compensation] = MappingProxyType(
    {
        row.name: row
        for row in (
            Compensation("none", "none", "-", "W unchanged", True),
            Compensation(
                "scp",
                "SCP (as published)",
                "Short-LVLM, arXiv 2507.23362",
                "W <- (I + strength V_k V_k^T) W, V_k from the SVD of H[b+1] - H[a]",
                True,
                function=_edit("scp"),
            ),
            Compensation(
                "lstsq",
                "least squares",
                "after ReplaceMe, arXiv 2505.02819",
                "W_down <- T^T W_down, T = argmin |M T - (H[b+1] - H[a] + M)|^2 + ridge |T - I|^2",
                True,
                True,
                _edit("lstsq"),
            ),
            Compensation(
                "bridge",
                "linear bridge (adds a module)",
                "this project",
                "H <- H + H B + c behind the layer, rank k, argmin |H[a] B + c - (H[b+1] - H[a])|^2"
                " + ridge |B|^2",
                False,
                function=_edit("bridge"),
            ),
            Compensation(
                "refit",
                "refit (all later layers)",
                "this project",
                "W_down <- W_down + D^T for every layer from the first gap on, in order; D = argmin"
                " |A D - (H_full - H_pruned)|^2 + ridge |D|^2, answers included",
                True,
                whole=_refit,
                ridge=0.1,
            ),
        )
    }
)
