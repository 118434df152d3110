"""What a redundancy criterion is: what it may use, what it finds, and how it is described."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.progress import QUIET, Run

if TYPE_CHECKING:
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample


@dataclass(frozen=True)
class Request:
    """What a criterion may use.

    `protected` layers stay; `fixed` are those of them that the model cannot lose at all.
    """

    trace: Trace
    importance: TokenImportance | None
    top_p: TopP
    seed: int
    protected: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    lvlm: LVLM | None = None
    samples: Sequence[Sample] = ()
    answers: Sequence[Sequence[int]] | None = None
    layers: Sequence[int] | None = None
    rounds: int | None = None
    run: Run = QUIET


@dataclass(frozen=True, eq=False)
class Scored:
    """What a criterion finds.

    scores: (L,) higher = more redundant. ranking: its own order of droppable layers (None: by
    falling score). blocks: for each drop count n = 0, 1, .. the n layers that go, where those are
    not nested. path: its measure after each layer of `ranking` is gone.
    kept: layers that it protects beside those of the request.
    """

    scores: np.ndarray
    ranking: tuple[int, ...] | None = None
    blocks: tuple[tuple[int, ...], ...] | None = None
    path: tuple[float, ...] | None = None
    kept: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Measured:
    """A mean over calibration samples, taken apart: sums (n, ...) and counts (n,) of each sample;
    the mean is sums.sum(0) / counts.sum().
    """

    sums: np.ndarray
    counts: np.ndarray

    def mean(self, times: np.ndarray | None = None) -> np.ndarray:
        """The mean with each sample taken `times` (n,) times (once by default); NaN where nothing
        counts.
        """
        total = float(self.counts.sum() if times is None else times @ self.counts)
        taken = (
            self.sums
            if times is None
            else times.reshape(-1, *[1] * (self.sums.ndim - 1)) * self.sums
        )
        return taken.sum(0) / total if total else np.full(self.sums.shape[1:], np.nan)


@dataclass(frozen=True)
class Criterion:
    """One way to score layers.

    direction: which end of the published measure is redundant. cost_forward_passes: per calibration
    sample. needs: "trace" only, the "model" with its samples, or the user's "layers". measure and
    select: where the scores follow from a mean over samples, that mean and what follows from it, so
    that it can be resampled; whole: for the others, all at once.
    """

    name: str
    title: str
    source: str
    formula: str
    direction: str
    cost_forward_passes: str
    needs: Literal["trace", "model", "layers"] = "trace"
    measure: Callable[[Request], Measured] | None = field(default=None, repr=False)
    select: Callable[[np.ndarray, Request], Scored] | None = field(default=None, repr=False)
    score: Callable[[Request], Scored] | None = field(default=None, repr=False)
