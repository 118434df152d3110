"""Contiguous selection: the best block of n neighbouring layers for every n, from a measure between
any two depths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from svl_core.analysis.criterion import Scored


def free_blocks(layers: int, size: int, protected: Sequence[int]) -> list[int]:
    """The first layer of every block of neighbouring layers that holds no protected one.

    layers: L, the number of layers.
    size: layers in a block, 0..L.
    """
    starts = range(layers - size + 1)
    return [start for start in starts if not any(start <= p < start + size for p in protected)]


def best_blocks(closeness: np.ndarray, protected: Sequence[int]) -> Scored:
    """For every n the block of n layers with the highest closeness; ties go to the later block.

    Blocks for different n need not be nested. The ranking is: the best single layer, then whichever
    neighbour keeps the grown block's closeness highest.

    closeness: (L+1, L+1), [s, s+n] says how little the block s..s+n-1 changes (higher = more
        redundant); NaN counts as never redundant.
    protected: layers that are in no block.
    """
    depth = len(closeness) - 1
    closeness = np.nan_to_num(closeness, nan=-np.inf)
    blocks: list[tuple[int, ...]] = [()]
    for size in range(1, depth + 1):
        starts = free_blocks(depth, size, protected)
        if not starts:
            break
        values = [(closeness[start, start + size], start) for start in starts]
        _, best = max(values)
        blocks.append(tuple(range(best, best + size)))
    scores = np.diagonal(closeness, 1).copy()
    return Scored(scores, _grown(closeness, blocks, protected), tuple(blocks))


def _grown(
    closeness: np.ndarray,
    blocks: list[tuple[int, ...]],
    protected: Sequence[int],
) -> tuple[int, ...]:
    """The droppable layers in the order in which a block grows from the best single layer.

    Once it is walled in by protected layers, the rest follow one by one, most redundant first.
    """
    depth = len(closeness) - 1
    order = list(blocks[1]) if len(blocks) > 1 else []
    left = [layer for layer in range(depth) if layer not in {*protected, *order}]

    def alone(layer: int) -> tuple[float, int]:
        return closeness[layer, layer + 1], layer

    while left:
        first = min(order)
        last = max(order)

        def with_neighbour(layer: int, first: int = first, last: int = last) -> tuple[float, int]:
            return closeness[min(first, layer), max(last, layer) + 1], layer

        neighbours = [layer for layer in (first - 1, last + 1) if layer in left]
        if not neighbours:
            return (*order, *sorted(left, key=alone, reverse=True))
        best = max(neighbours, key=with_neighbour)
        order.append(best)
        left.remove(best)
    return tuple(order)
