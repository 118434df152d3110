"""Greedy paths: which layer goes in each round, read off what was measured in it; no model is run
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from svl_core.analysis.criterion import Request, Scored


def lowest(
    row: np.ndarray,
    layers: Iterable[int],
) -> list[int]:
    """`layers` by their rising measure in `row` (L,); ties go to the later layer."""
    return sorted(layers, key=lambda layer: (row[layer], -layer))


def rounds_of(request: Request, depth: int) -> int:
    """How many layers of `depth` go one by one, at least one round and at most all that may go."""
    free = depth - len(request.protected)
    most = min(free, depth - 1)
    asked = most if request.rounds is None else min(request.rounds, most)
    return max(1, asked)


def choices(
    mean: np.ndarray,
    free: Collection[int],
) -> list[int]:
    """The layer that goes in each round.

    mean: (R, L) the measure without each layer in each round; NaN for layers that went before.
    free: the layers that may go.
    """
    if not free:
        return []
    first = []
    for row in mean:
        left = [layer for layer in free if not np.isnan(row[layer])]
        first.append(lowest(row, left)[0])
    return first


def follow(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The ranking by a greedy criterion: the layers in the order in which they went, the rest as
    the last round ranks it. The scores are minus the first round's measure.

    mean: (R, L) as for `choices`.
    """
    free = [layer for layer in range(mean.shape[1]) if layer not in request.protected]
    gone = choices(mean, free)
    rest = lowest(mean[-1], (layer for layer in free if layer not in gone))
    path = tuple(float(mean[number, layer]) for number, layer in enumerate(gone))
    return Scored(-mean[0], (*gone, *rest), path=path)
