"""How far a ranking can be trusted: bootstrap over calibration samples, and the overlap of two
rankings' drop sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from svl_core.analysis.criterion import Criterion, Measured, Request
from svl_core.analysis.greedy import choices, lowest
from svl_core.analysis.importance import DEFAULT_TOP_P, TokenImportance, TopP
from svl_core.analysis.importance import importance as token_importance
from svl_core.analysis.redundancy import (
    LayerScores,
    check_needs,
    criterion_of,
    layer_scores,
    protected_layers,
    settings_of,
)
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

DRAWS = 1000
LEVEL = 0.95  # of the interval


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Shown):
    """A criterion's scores over bootstrap resamples of n calibration samples.

    A greedy criterion's scores are those of its first round, each layer skipped alone, and its
    rounds are resampled one by one, each given the layers that went before it on all samples.

    scores: the ranking from all samples.
    drop: how many layers go.
    draws: the number of resamples.
    level: of the interval, between 0 and 1.
    deviation: (L,) standard deviation of each score.
    interval: (L, 2) percentile interval of each score.
    dropped: (L,) share 0..1 of resamples that drop the layer (greedy: in one of the rounds).
    overlap: mean share 0..1 of the drop set that a resample and all samples have in common (1 for
        drop 0; greedy: the mean of `by_round`).
    rank_correlation: mean Spearman correlation, -1..1, of a resample's order of the droppable
        layers with that of all samples (greedy: of the first round's orders).
    by_round: greedy criteria only, for each of the first `drop` rounds the share 0..1 of resamples
        that drop the same layer in it.
    """

    scores: LayerScores
    drop: int
    draws: int
    level: float
    deviation: np.ndarray
    interval: np.ndarray
    dropped: np.ndarray
    overlap: float
    rank_correlation: float
    by_round: tuple[float, ...] | None = None

    def __post_init__(self):
        for array in (self.deviation, self.interval, self.dropped):
            array.setflags(write=False)

    def to_json(self) -> dict:
        values = {
            "criterion": self.scores.criterion,
            "drop": self.drop,
            "draws": self.draws,
            "level": self.level,
            "samples": self.scores.settings["samples"],
            "scores": self.scores.scores.tolist(),
            "deviation": self.deviation.tolist(),
            "interval": self.interval.tolist(),
            "dropped": self.dropped.tolist(),
            "overlap": self.overlap,
            "rank_correlation": self.rank_correlation,
        }
        if self.by_round is not None:
            values["by_round"] = list(self.by_round)
        return values


def overlap(
    layers: Sequence[int],
    others: Sequence[int],
) -> float:
    """Share 0..1 of the smaller set of layers that the other holds too; 1 where either is empty."""
    first = set(layers)
    second = set(others)
    size = min(len(first), len(second))
    return len(first & second) / size if size else 1.0


def overlap_curve(
    scores: LayerScores,
    others: LayerScores,
) -> np.ndarray:
    """(N+1,) overlap of two rankings' drop sets for each drop count 0..N.

    Chance alone gives n / (number of droppable layers).
    """
    most = min(scores.most, others.most)
    shares = [overlap(scores.chosen(drop), others.chosen(drop)) for drop in range(most + 1)]
    return np.array(shares)


def spearman(
    order: Sequence[int],
    other: Sequence[int],
) -> float:
    """Rank correlation -1..1 of two orders of the same n items: 1 - 6 sum(d^2) / (n (n^2 - 1)), d =
    difference of places.
    """
    count = len(order)
    if count < 2:
        return 1.0
    place = {item: number for number, item in enumerate(other)}
    differences = [number - place[item] for number, item in enumerate(order)]
    squares = sum(difference**2 for difference in differences)
    return 1.0 - 6.0 * squares / (count * (count * count - 1))


class _Resample(NamedTuple):
    """One draw's ranking: scores (L,), the layers that go, and the droppable layers in order."""

    scores: np.ndarray
    gone: Sequence[int]
    order: Sequence[int]


class _Ranking:
    """Ranks the layers from a mean measure, as the criterion does.

    Greedy criteria are resampled round by round, each given the layers that all samples dropped
    before it: where a resample would have gone on without another layer, the model was never run
    without that one.
    """

    def __init__(
        self,
        row: Criterion,
        request: Request,
        settings: dict,
        measured: Measured,
    ):
        self.row = row
        self.request = request
        self.settings = settings
        self.measured = measured
        self.whole = self._layer_scores(measured.mean())
        self.greedy = self.whole.path is not None

    def resample(
        self,
        times: np.ndarray | None,
        drop: int,
    ) -> _Resample:
        """The ranking with each sample taken `times` (n,) times (None: each once)."""
        mean = self.measured.mean(times)
        if self.greedy:
            free = sorted(self.whole.ranking)
            return _Resample(
                -mean[0],
                choices(mean[:drop], free),
                lowest(mean[0], free),
            )
        scores = self._layer_scores(mean)
        return _Resample(
            scores.scores,
            scores.chosen(drop),
            scores.ranking,
        )

    def _layer_scores(self, mean: np.ndarray) -> LayerScores:
        scored = self.row.select(mean, self.request)
        return layer_scores(
            self.row,
            scored,
            self.request,
            self.settings,
        )


def stability(
    trace: Trace,
    importance: TokenImportance | None = None,
    criterion: str = "svl",
    *,
    drop: int,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
    top_p: TopP | float = DEFAULT_TOP_P,
    protect_ends: bool = True,
    lvlm: LVLM | None = None,
    samples: Sequence[Sample] = (),
    rounds: int | None = None,
    measured: Measured | None = None,
    run: Run = QUIET,
) -> Stability:
    """Resample the calibration samples with replacement and rank anew each time.

    No sample is measured twice: the means follow from what each sample adds to them.

    trace, importance, criterion, top_p, protect_ends, lvlm, samples, rounds: as for `redundancy`.
    drop: how many layers go, 0..the most that can.
    draws: the number of resamples, at least 2.
    level: of the interval, between 0 and 1.
    seed: of the resamples.
    measured: `LayerScores.measured` of a ranking made before, instead of running the model.
    run: progress and cancellation.

    Raises InputError for a criterion that is no mean over samples ("random", "manual"), for fewer
    than two samples and for a drop count out of range; Cancelled.
    """
    row = criterion_of(criterion)
    if not row.is_mean:
        raise InputError(
            f"Found the criterion {criterion!r}, which is no mean over samples; expected one that"
            " can be resampled; choose 'svl' for example."
        )
    samples = [samples] if isinstance(samples, Sample) else samples
    if measured is None:
        check_needs(row, trace, lvlm, samples)
    request = Request(
        trace=trace,
        importance=importance or token_importance(trace),
        top_p=TopP.of(top_p),
        seed=seed,
        protected=protected_layers(trace, protect_ends),
        fixed=trace.protected,
        lvlm=lvlm,
        samples=samples,
        rounds=rounds,
        run=run,
    )
    if measured is None:
        measured = row.measure(request)
    n = len(measured.counts)
    if n < 2 or draws < 2 or not 0 < level < 1:
        raise InputError(
            f"Found {n} samples, {draws} draws and level {level}; expected at least two samples and"
            " draws and a level between 0 and 1; use a calibration set."
        )
    ranking = _Ranking(
        row,
        request,
        settings_of(request, protect_ends, n),
        measured,
    )
    whole = ranking.whole
    if not 0 <= drop <= whole.most:
        raise InputError(
            f"Found {drop} layers to drop; expected 0 to {whole.most}; choose a number in that"
            " range."
        )
    reference = ranking.resample(None, drop)
    rng = np.random.default_rng(seed)
    scores = np.empty((draws, len(whole.scores)))
    dropped = np.zeros(len(whole.scores))
    agreements = []
    correlation = 0.0
    for number in range(draws):
        run.check("Stopped.")
        times = np.bincount(rng.integers(n, size=n), minlength=n).astype(float)
        drawn = ranking.resample(times, drop)
        scores[number] = drawn.scores
        dropped[list(set(drawn.gone))] += 1
        correlation += spearman(drawn.order, reference.order)
        if ranking.greedy:
            agreements.append(np.equal(drawn.gone, reference.gone).astype(float))
        else:
            agreements.append(np.array([overlap(drawn.gone, reference.gone)]))
    by_round = np.mean(agreements, axis=0)
    tail = (1 - level) / 2
    return Stability(
        scores=whole,
        drop=drop,
        draws=draws,
        level=level,
        deviation=scores.std(0, ddof=1),
        interval=np.quantile(scores, [tail, 1 - tail], axis=0).T,
        dropped=dropped / draws,
        overlap=float(np.mean(agreements)) if reference.gone else 1.0,
        rank_correlation=correlation / draws,
        by_round=tuple(by_round.tolist()) if ranking.greedy else None,
    )
