"""What goes as one when layers are pruned: a whole layer, or half of one.

Halves have numbers, so that they are ranked as layers are: 2 l is the attention of layer l, 2 l + 1
its MLP, in the order in which the residual stream meets them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from svl_core.recipe import HALF, HALVES


@dataclass(frozen=True)
class Parts:
    """What of a model goes.

    layers: whole ones, 0-based.
    attention, mlp: layers that stay and skip that half.
    """

    layers: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()


def half_number(layer: int, half: str) -> int:
    """The number of a layer's half. half: "attention" or "mlp"."""
    return len(HALVES) * layer + HALVES.index(half)


def half_in_words(number: int) -> str:
    """The half of that number, such as "3 attention"."""
    layer, place = divmod(number, len(HALVES))
    return f"{layer} {HALVES[place]}"


def parted(numbers: Iterable[int], granularity: str) -> Parts:
    """What goes with the units of these numbers. Where both halves of a layer go, it goes whole."""
    numbers = sorted(numbers)
    if granularity != HALF:
        return Parts(tuple(numbers))
    chosen = set(numbers)
    halves: tuple[list[int], ...] = tuple([] for _ in HALVES)
    layers = []
    for layer in sorted({number // len(HALVES) for number in numbers}):
        gone = [half_number(layer, half) in chosen for half in HALVES]
        if all(gone):
            layers.append(layer)
        else:
            halves[gone.index(True)].append(layer)
    attention, mlp = halves
    return Parts(tuple(layers), tuple(attention), tuple(mlp))
