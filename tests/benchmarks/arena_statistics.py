"""The arena's statistics: intervals over calibration seeds and questions together.

Marks are (K, n): K calibration seeds, n questions, each right or wrong. A drawn-again set takes K
seeds and as many clusters of questions (those about one picture), both with replacement, so that
an interval holds what another draw of either would change.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
"""Drawn-again sets."""

TAILS = (2.5, 97.5)
"""Percentiles between which 95 % of them lie."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and questions.

    value: its best estimate.
    low, high: its 95 % interval over seeds and questions.
    by_seed: the value of each seed alone.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    def to_json(self) -> dict:
        return {
            "value": self.value,
            "interval": [self.low, self.high],
            "by_seed": list(self.by_seed),
        }


@dataclass(frozen=True, eq=False)
class Table:
    """Marks of one model on one data set.

    marks: (K, n) bool or float.
    clusters: (n,) for each question the number of its picture.
    """

    marks: np.ndarray
    clusters: np.ndarray

    def sums(self) -> np.ndarray:
        """(K, C) right answers of each seed on each of C pictures."""
        count = int(self.clusters.max()) + 1
        sums = np.zeros((len(self.marks), count))
        for seed, row in enumerate(self.marks):
            sums[seed] = np.bincount(self.clusters, weights=row, minlength=count)
        return sums


@functools.lru_cache(maxsize=8)
def draws(
    seeds: int,
    clusters: tuple[int, ...],
    seed: int = 0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """How often each seed and each picture is in each of `DRAWS` drawn-again sets; the same for all
    rows of a table.

    clusters: the number of pictures of each data set. The data sets share their seeds.
    seed: of the draws.
    Returns (DRAWS, K) and for each data set (DRAWS, C).
    """
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), DRAWS)
    of_pictures = [rng.multinomial(count, np.full(count, 1 / count), DRAWS) for count in clusters]
    return of_seeds, of_pictures


def _drawn_share(
    sums: np.ndarray,
    sizes: np.ndarray,
    seeds: np.ndarray,
    pictures: np.ndarray,
) -> np.ndarray:
    """(DRAWS,) share of right answers in each drawn-again set.

    sums: (K, C). sizes: (C,) questions of each picture.
    """
    right = ((seeds @ sums) * pictures).sum(1)
    asked = (pictures @ sizes) * seeds.sum(1)
    return right / asked


def kept(
    tables: Sequence[Table],
    full: Sequence[Table],
    seed: int = 0,
) -> Estimate:
    """Accuracy kept against the full model, the mean of the data sets.

    tables: of the pruned models, one of each data set, K seeds each.
    full: of the full model, one row each.
    """
    return _mean_of([_shares(table, one) for table, one in zip(tables, full)], seed, ratio=True)


def difference(
    tables: Sequence[Table],
    others: Sequence[Table],
    seed: int = 0,
) -> Estimate:
    """Accuracy minus that of other models on the same questions and seeds, the mean of the data
    sets.
    """
    return _mean_of([_shares(table, one) for table, one in zip(tables, others)], seed, ratio=False)


def _shares(table: Table, other: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, C) sums of both and (C,) sizes; a single row of the other stands beside every seed."""
    own = table.sums()
    beside = np.broadcast_to(other.sums(), own.shape)
    sizes = np.bincount(table.clusters, minlength=own.shape[1])
    return own, beside, sizes


def _mean_of(parts: Sequence[tuple], seed: int, ratio: bool) -> Estimate:
    """The mean over data sets of ratios or differences, with its interval.

    parts: `_shares` of each data set.
    """
    seeds, pictures = draws(
        len(parts[0][0]),
        tuple(len(sizes) for _, _, sizes in parts),
        seed,
    )
    drawn, value, by_seed = [], [], []
    for (own, beside, sizes), drawn_pictures in zip(parts, pictures):
        ours = _drawn_share(own, sizes, seeds, drawn_pictures)
        theirs = _drawn_share(beside, sizes, seeds, drawn_pictures)
        drawn.append(ours / theirs if ratio else ours - theirs)
        each = own.sum(1) / sizes.sum()
        other = beside.sum(1) / sizes.sum()
        by_seed.append(each / other if ratio else each - other)
        whole, whole_other = each.mean(), other.mean()
        value.append(whole / whole_other if ratio else whole - whole_other)
    low, high = np.percentile(np.mean(drawn, axis=0), TAILS)
    return Estimate(
        float(np.mean(value)),
        float(low),
        float(high),
        tuple(float(one) for one in np.mean(by_seed, axis=0)),
    )
