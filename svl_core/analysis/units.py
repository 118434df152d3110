"""What goes as one when layers are pruned: a whole layer, or half of one.

Halves have numbers, so that they are ranked as layers are: 2 l is the attention of layer l, 2 l + 1
its MLP, in the order in which the residual stream meets them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from svl_core.recipe import HALF, HALVES

BOTH = len(HALVES)


@dataclass(frozen=True)
class Parts:
    """What of a model goes.

    layers: whole ones, 0-based.
    attention, mlp: layers that stay and skip that half.
    """

    layers: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()


def half_number(
    layer: int,
    half: str,
) -> int:
    """The number of a layer's half. half: "attention" or "mlp"."""
    place = HALVES.index(half)
    return BOTH * layer + place


def half_in_words(number: int) -> str:
    """The half of that number, such as "3 attention"."""
    layer, place = divmod(number, BOTH)
    half = HALVES[place]
    return f"{layer} {half}"


def parted(
    numbers: Iterable[int],
    granularity: str,
) -> Parts:
    """What goes with the units of these numbers. Where both halves of a layer go, it goes whole.

    numbers: of layers, or of halves where the granularity is "half".
    """
    if granularity != HALF:
        layers = sorted(numbers)
        return Parts(tuple(layers))
    attention: set[int] = set()
    mlp: set[int] = set()
    for number in numbers:
        layer, place = divmod(number, BOTH)
        lacking = (attention, mlp)[place]
        lacking.add(layer)
    whole = attention & mlp
    return Parts(
        _in_order(whole),
        _in_order(attention - whole),
        _in_order(mlp - whole),
    )


def _in_order(layers: Iterable[int]) -> tuple[int, ...]:
    ordered = sorted(layers)
    return tuple(ordered)
