"""Greedy paths: which layer goes in each round, read off what was measured in it; no model is run here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from svl_core.analysis.criterion import Request, Scored

PARTING = "where a resample drops another layer than all samples do, it takes the rest as that round ranks them"  # `follow`, for people


def lowest(row: np.ndarray, layers: Iterable[int]) -> list[int]:
    """`layers` by their rising measure in `row` (L,); ties go to the later layer."""
    return sorted(layers, key=lambda layer: (row[layer], -layer))


def follow(mean: np.ndarray, request: Request) -> Scored:
    """The ranking by rounds (R, L) of measures: in each the layer goes that leaves the lowest; NaN marks those that are gone.

    scores: minus the first round's. After the last round the rest is ranked as it stands there. A resample has only the rounds of all samples, so
    they end for it where it parts from them: behind a round in which it drops a layer that the next round still tries, the rest is ranked as that round stands.
    """
    left, gone, path = [layer for layer in range(mean.shape[1]) if layer not in request.protected], [], []
    for row, after in zip(mean, [*mean[1:], None], strict=True):
        if not left:
            break
        first, *left = lowest(row, left)
        gone.append(first)
        path.append(float(row[first]))
        if after is not None and not np.isnan(after[first]):
            break
    return Scored(-mean[0], (*gone, *left), path=tuple(path))
