"""Spacing: a ranking that keeps what is dropped apart."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from svl_core.analysis.criterion import Request, Scored


def spaced(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The layers in the order in which they go, each the one that leaves the shortest run of
    dropped neighbours around it; among equal ones the most redundant, then the later one.

    So no two neighbours go before there is no other way, no three before that, and so on.

    mean: (L,) the redundancy of each layer, higher = more redundant; NaN counts as least redundant.

    Source: this project. That spacing decides when much is dropped is a finding of arXiv
    2603.20275, whose own rule was not at hand.
    """
    known = np.nan_to_num(mean, nan=-np.inf)
    everything = set(range(len(known)))
    free = everything.difference(request.protected)
    ranking: list[int] = []

    def order(layer: int) -> tuple[int, float, int]:
        length = run_length(layer, ranking)
        return length, -known[layer], -layer

    while free:
        best = min(sorted(free), key=order)
        free.remove(best)
        ranking.append(best)
    return Scored(mean, tuple(ranking))


def run_length(
    layer: int,
    gone: Collection[int],
) -> int:
    """How many neighbouring layers lack where `layer` goes too, itself included.

    gone: the layers that went before.
    """
    first = layer
    while first - 1 in gone:
        first -= 1
    last = layer
    while last + 1 in gone:
        last += 1
    return last - first + 1
