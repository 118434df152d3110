"""INTERLACE's selection: neighbours are looked at in threes, and of each three one of the first two
layers goes, so that what is dropped is spread over the depth.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from svl_core.analysis.criterion import Request, Scored

Blocks = Iterator[range]
"""The layers of one block after the other."""


def interleaved(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The ranking by triplets of neighbouring layers, the most alike first.

    Triplets l, l+1, l+2 come by falling cos(H[l], H[l+3]); of one that shares no layer with those
    taken before, that of the first two goes whose own cos(H[l], H[l+1]) is higher. When no triplet
    is left, pairs by cos(H[l], H[l+2]) follow, and of each the layer with the higher cosine goes.

    Taken from the paper's description and the authors' code: both rounds, and that neither reaches
    the last layer. Left out: the training of the layer that stays and all that is said on it. This
    project's reading: of a triplet with a protected layer the other of the first two goes; layers
    in no triplet or pair, and those that stayed in one, follow by their own cosine, so that any
    number can be dropped; the mean is taken over all tokens of all samples.

    mean: (L+1, L+1) the mean cosine between any two depths.

    Source: INTERLACE, arXiv 2511.19676 (selection only).
    """
    known = np.nan_to_num(mean, nan=-np.inf)
    own = np.diagonal(known, 1)
    free = set(range(len(own)))
    free -= set(request.protected)
    chosen: list[int] = []
    taken: set[int] = set()
    for block in _blocks(known):
        if taken.intersection(block):
            continue
        pair = free.intersection(block[:2])
        if not pair:
            continue
        taken.update(block)
        best = max(sorted(pair), key=own.item)
        chosen.append(best)
    rest = sorted(
        free.difference(chosen),
        reverse=True,
    )
    rest.sort(key=own.item, reverse=True)
    scores = np.diagonal(mean, 1)
    return Scored(
        scores.copy(),
        (*chosen, *rest),
    )


def _blocks(closeness: np.ndarray) -> Blocks:
    """All triplets before the last layer, the most alike first, and all pairs; ties go to the
    earlier block.
    """
    depth = len(closeness) - 1
    for size in (3, 2):
        count = max(depth - size, 0)
        starts = np.arange(count)
        behind = starts + size
        distance = -closeness[starts, behind]
        order = np.argsort(
            distance,
            kind="stable",
        )
        for first in order.tolist():
            after = first + size
            yield range(first, after)
