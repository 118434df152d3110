"""Contiguous selection: the best block of n neighbouring layers for every n, from a measure between
any two depths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svl_core.analysis.criterion import Scored


def free_blocks(layers: int, size: int, protected: Sequence[int]) -> list[int]:
    """First layers s of all blocks s..s+size-1 that hold no protected layer."""
    held = set(protected)
    return [s for s in range(layers - size + 1) if not held & set(range(s, s + size))]


def best_blocks(closeness: np.ndarray, protected: Sequence[int]) -> Scored:
    """closeness: (L+1, L+1), [s, s+n] says how little the block s..s+n-1 changes (higher = more
    redundant).

    For every n the block of n layers with the highest value; ties go to the later block. Blocks for
    different n need not be nested. The ranking is: the best single layer, then whichever neighbour
    keeps the grown block's value highest.
    """
    depth = len(closeness) - 1
    closeness = np.nan_to_num(closeness, nan=-np.inf)
    blocks: list[tuple[int, ...]] = [()]
    while len(blocks) <= depth and (starts := free_blocks(depth, len(blocks), protected)):
        size = len(blocks)
        s = max(starts, key=lambda s: (closeness[s, s + size], s))
        blocks.append(tuple(range(s, s + size)))
    scores = np.diagonal(closeness, 1).copy()
    return Scored(scores, _grown(closeness, blocks, protected), tuple(blocks))


def _grown(
    closeness: np.ndarray,
    blocks: list[tuple[int, ...]],
    protected: Sequence[int],
) -> tuple[int, ...]:
    depth = len(closeness) - 1
    order = list(blocks[1]) if len(blocks) > 1 else []
    left = [layer for layer in range(depth) if layer not in {*protected, *order}]
    while left:
        first = min(order)
        last = max(order)
        beside = [layer for layer in (first - 1, last + 1) if layer in left]
        if beside:
            chosen = max(
                beside,
                key=lambda layer: (
                    closeness[min(first, layer), max(last, layer) + 1],
                    layer,
                ),
            )
        else:  # walled in by protected layers: the rest one by one, most redundant first
            chosen = max(left, key=lambda layer: (closeness[layer, layer + 1], layer))
            order = [*order, chosen]
            left.remove(chosen)
            order += sorted(
                left,
                key=lambda layer: (-closeness[layer, layer + 1], -layer),
            )
            return tuple(order)
        order.append(chosen)
        left.remove(chosen)
    return tuple(order)
