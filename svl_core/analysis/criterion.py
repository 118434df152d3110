"""What a redundancy criterion is: what it is given, what it returns, and how it is described."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.progress import QUIET, Run
from svl_core.recipe import HALF, HALVES, LAYER

if TYPE_CHECKING:
    from svl_core.analysis.half_scores import SublayerScores
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample


@dataclass(frozen=True)
class Request:
    """Everything that a criterion may use to score the L layers of one model.

    trace: the model's passes over n calibration samples.
    importance: TIS of these samples (None: computed where it is needed).
    top_p: which tokens count as important.
    seed: of "random".
    granularity: what is ranked, each "layer" or each "half" of one; these are its units, see
        `units`.
    protected: units that are not to be ranked.
    fixed: those of them that the model cannot run without.
    lvlm, samples: the traced model and samples, for criteria that run the model.
    answers: for each sample the token ids that it is measured on (None: the model's own answer).
    layers: the layers of "manual", in the order in which they go.
    rounds: how many layers a greedy criterion drops one by one before it ranks the rest as the last
        round leaves them (None: all).
    run: progress and cancellation.
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
    granularity: str = LAYER
    halves: SublayerScores | None = None

    @property
    def depth(self) -> int:
        """How many units there are: L, or 2 L halves."""
        layers = self.trace.num_layers
        return len(HALVES) * layers if self.granularity == HALF else layers

    @property
    def model(self) -> LVLM:
        """The traced model; `redundancy` has seen to it that a criterion that runs one gets it."""
        if self.lvlm is None:
            raise TypeError("The request holds no model.")
        return self.lvlm


@dataclass(frozen=True, eq=False)
class Scored:
    """A criterion's result for L layers, or for the halves of all (2 L in the place of L).

    scores: (L,) higher = more redundant.
    ranking: the layers that may go, first one first (None: by falling score).
    blocks: for each drop count n = 0, 1, .. the n layers that go, where the sets are not nested.
    path: for a greedy criterion, its measure after each of the first layers of `ranking` is gone.
    protects: layers that this criterion never drops, beside those of the request.
    """

    scores: np.ndarray
    ranking: tuple[int, ...] | None = None
    blocks: tuple[tuple[int, ...], ...] | None = None
    path: tuple[float, ...] | None = None
    protects: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Measured:
    """A mean over n calibration samples, kept as each sample's share in it, so that the mean over
    any resample of them follows without running the model again.

    sums: (n, ...) each sample's sum of the measured values, over its tokens for example.
    counts: (n,) how many values are in each sum; (n, ...) in shapes that fit the sums' where that
        is not the same for all of a sample's sums.
    """

    sums: np.ndarray
    counts: np.ndarray

    def mean(self, times: np.ndarray | None = None) -> np.ndarray:
        """The mean of all values, of the shape of one sample's sum; NaN where there are none.

        times: (n,) how often each sample is taken (None: each once).
        """
        total = _taken(self.counts, times).sum(0)
        summed = _taken(self.sums, times).sum(0)
        unknown = np.full(summed.shape, np.nan)
        return np.divide(summed, total, out=unknown, where=total > 0)


def _taken(values: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """(n, ...) each sample's values as often as it is taken."""
    if times is None:
        return values
    return times.reshape(-1, *[1] * (values.ndim - 1)) * values


def _no_mean(*arguments: Any) -> Any:
    raise TypeError("This criterion is no mean over samples; it has `score` alone.")


@dataclass(frozen=True)
class Criterion:
    """One way to score layers: what is said about it, and the functions that carry it out.

    A criterion that is a mean over calibration samples has `measure` and `select`, and can be
    resampled; any other has `score` alone.

    name: as in commands and plan files.
    title: as on the page.
    source: the paper.
    formula: the published measure, in one line.
    direction: which end of the measure is redundant.
    cost_forward_passes: forward passes for each calibration sample.
    needs: the "trace" only, the "model" with its samples too, or the user's "layers".
    weighs: of one that runs the model, whether it chooses important tokens too.
    measure: request -> the samples' shares of the mean.
    of_halves: the same measure of each half of a layer, in the place of each layer's; None where
        it has no meaning for halves, or none is known.
    select: (mean, request) -> scores and ranking that follow from it.
    score: request -> scores and ranking, for a criterion that is no mean.
    """

    name: str
    title: str
    source: str
    formula: str
    direction: str
    cost_forward_passes: str
    needs: Literal["trace", "model", "layers"] = "trace"
    weighs: bool = False
    measure: Callable[[Request], Measured] = field(default=_no_mean, repr=False)
    select: Callable[[np.ndarray, Request], Scored] = field(default=_no_mean, repr=False)
    score: Callable[[Request], Scored] | None = field(default=None, repr=False)
    of_halves: Callable[[Request], Measured] | None = field(default=None, repr=False)

    @property
    def serves_halves(self) -> bool:
        """Whether it ranks halves of layers too: by its measure of them, or by a draw."""
        return self.of_halves is not None or self.score is not None and self.needs == "trace"

    @property
    def is_mean(self) -> bool:
        """Whether the scores follow from a mean over samples."""
        return self.score is None
