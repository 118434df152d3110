"""How far a ranking can be trusted: bootstrap over calibration samples, and the overlap of two
rankings' drop sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svl_core.analysis.criterion import Measured, Request
from svl_core.analysis.greedy import choices, lowest
from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.importance import importance as score
from svl_core.analysis.redundancy import (
    LayerScores,
    check_needs,
    criterion_of,
    layer_scores,
    protected_layers,
)
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

DRAWS = 1000
LEVEL = 0.95  # of the interval


@dataclass(frozen=True, eq=False)
class Stability:
    """A criterion's scores over `draws` bootstrap resamples of n calibration samples.

    scores: the ranking from all samples. deviation: (L,) standard deviation of each score.
    interval: (L, 2) percentile interval of `level`. dropped: (L,) share 0..1 of resamples that drop
    the layer when `drop` go. overlap: mean share 0..1 of the drop set that a resample and all
    samples have in common (1 for drop 0). rank_correlation: mean Spearman correlation of a
    resample's order of the droppable layers with that of all samples, -1..1.

    A greedy criterion's scores are those of its first round, each layer skipped alone, and
    `rank_correlation` is that of their order. Its rounds are resampled one by one, each given the
    layers that went before it on all samples; by_round: for each of the first `drop` rounds the
    share 0..1 of resamples that drop the same layer in it, `overlap` their mean, `dropped` the
    share that drops the layer in one of them.
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
        return {
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
        } | ({} if self.by_round is None else {"by_round": list(self.by_round)})


def overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """Share 0..1 of the smaller set of layers that the other holds too; 1 where either is empty."""
    size = min(len(set(one)), len(set(other)))
    return len(set(one) & set(other)) / size if size else 1.0


def overlap_curve(one: LayerScores, other: LayerScores) -> np.ndarray:
    """(N+1,) overlap of the two rankings' drop sets for each drop count 0..N; chance alone gives n
    / (number of droppable layers).
    """
    return np.array(
        [overlap(one.chosen(n), other.chosen(n)) for n in range(min(one.most, other.most) + 1)]
    )


def spearman(one: Sequence[int], other: Sequence[int]) -> float:
    """Rank correlation -1..1 of two orders of the same n items: 1 - 6 sum(d^2) / (n (n^2 - 1)), d =
    difference of places.
    """
    n = len(one)
    place = {item: k for k, item in enumerate(other)}
    return (
        1.0 - 6.0 * sum((k - place[item]) ** 2 for k, item in enumerate(one)) / (n * (n * n - 1))
        if n > 1
        else 1.0
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
    top_p: TopP = TopP(),
    protect_ends: bool = True,
    lvlm: LVLM | None = None,
    samples: Sequence[Sample] = (),
    rounds: int | None = None,
    measured: Measured | None = None,
    run: Run = QUIET,
) -> Stability:
    """Resample the calibration samples with replacement, `draws` times, and rank anew each time.

    No sample is measured twice.

    Greedy criteria are resampled round by round, each given the layers that all samples dropped
    before it: where a resample would have gone on without another layer, the model was never run
    without that one. lvlm, samples, rounds: as for `redundancy`; measured: of a ranking made
    before, instead of running the model. Raises InputError for a criterion that is no mean over
    samples ("random", "manual"), for fewer than two samples and for a drop count out of range;
    Cancelled.
    """
    row = criterion_of(criterion)
    if row.measure is None:
        raise InputError(
            f"Found the criterion {criterion!r}, which is no mean over samples; expected one that"
            " can be resampled; choose 'svl' for example."
        )
    samples = [samples] if isinstance(samples, Sample) else samples
    if measured is None:
        check_needs(row, trace, lvlm, samples)
    fixed = protected_layers(trace, protect_ends)
    request = Request(
        trace,
        importance or score(trace),
        top_p,
        seed,
        fixed,
        trace.protected,
        lvlm,
        samples,
        rounds=rounds,
        run=run,
    )
    measured = row.measure(request) if measured is None else measured
    n = len(measured.counts)
    if n < 2 or draws < 2 or not 0 < level < 1:
        raise InputError(
            f"Found {n} samples, {draws} draws and level {level}; expected at least two samples and"
            " draws and a level between 0 and 1; use a calibration set."
        )
    settings = {
        "top_p": top_p.p,
        "top_p_mode": top_p.mode,
        "protect_ends": protect_ends,
        "seed": seed,
        "samples": n,
    }
    whole = layer_scores(row, row.select(measured.mean(), request), request, settings)
    if not 0 <= drop <= whole.most:
        raise InputError(
            f"Found {drop} layers to drop; expected 0 to {whole.most}; choose a number in that"
            " range."
        )
    greedy = whole.path is not None
    free = sorted(whole.ranking)
    path, order = (
        (
            whole.ranking[: min(drop, len(whole.path))],
            lowest(-whole.scores, free),
        )
        if greedy
        else (whole.chosen(drop), whole.ranking)
    )
    rng = np.random.default_rng(seed)
    scores = np.empty((draws, len(whole.scores)))
    dropped = np.zeros(len(whole.scores))
    alike = []
    correlation = 0.0
    for k in range(draws):
        run.check("Stopped.")
        mean = measured.mean(np.bincount(rng.integers(n, size=n), minlength=n).astype(float))
        if greedy:
            scores[k], gone, ranking = (
                -mean[0],
                choices(mean[: len(path)], free),
                lowest(mean[0], free),
            )
        else:
            found = layer_scores(row, row.select(mean, request), request, settings)
            scores[k], gone, ranking = (
                found.scores,
                found.chosen(drop),
                found.ranking,
            )
        dropped[list(set(gone))] += 1
        alike.append(np.equal(gone, path) if greedy else overlap(gone, path))
        correlation += spearman(ranking, order)
    tail = (1 - level) / 2
    return Stability(
        whole,
        drop,
        draws,
        level,
        scores.std(0, ddof=1),
        np.quantile(scores, [tail, 1 - tail], axis=0).T,
        dropped / draws,
        float(np.mean(alike)) if path else 1.0,
        correlation / draws,
        tuple(np.mean(alike, 0).tolist()) if greedy else None,
    )
