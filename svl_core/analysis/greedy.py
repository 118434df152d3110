"""Greedy paths: which layer goes in each round, read off what was measured in it; no model is run
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from svl_core.analysis.criterion import Request, Scored


def lowest(row: np.ndarray, layers: Iterable[int]) -> list[int]:
    """`layers` by their rising measure in `row` (L,); ties go to the later layer."""
    return sorted(layers, key=lambda layer: (row[layer], -layer))


def choices(mean: np.ndarray, free: Collection[int]) -> list[int]:
    """The layer of `free` that goes in each of the rounds (R, L) of measures; NaN marks those that
    went before.
    """
    return [
        lowest(row, (layer for layer in free if not np.isnan(row[layer])))[0]
        for row in mean
        if free
    ]


def follow(mean: np.ndarray, request: Request) -> Scored:
    """The ranking by rounds (R, L) of measures: the layers in the order in which they went, the
    rest as the last round ranks it. scores: minus the first round's.
    """
    free = [layer for layer in range(mean.shape[1]) if layer not in request.protected]
    gone = choices(mean, free)
    rest = lowest(mean[-1], (layer for layer in free if layer not in gone))
    return Scored(
        -mean[0],
        (*gone, *rest),
        path=tuple(float(row[layer]) for row, layer in zip(mean, gone)),
    )
