"""Counted work in every family against torch's own count of a real pass."""

import pytest
import torch
from tiny import picture
from torch.utils.flop_counter import FlopCounterMode

from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.work import attention_widths, count_work
from svl_core.pruning.view import pruned_view


def test_products_are_those_of_a_real_pass(family, monkeypatch):
    """Torch counts the products with weights, and leaves out attention's own where it is one
    operation of the processor's.
    """
    sample = family.encode(picture(120, 80), "what is in the top left of this picture ?")
    with FlopCounterMode(display=False) as prefill:
        decoding = Decoding(family, sample.inputs)
    with FlopCounterMode(display=False) as decode:
        decoding.feed(torch.tensor([[20]]))
    found = count_work(family, sample)
    queries, keys = attention_widths(family)
    attention = queries * sample.length**2
    read = found.decode / family.dtype.itemsize - 2 * keys * sample.length
    assert decode.get_total_flops() / 2 == pytest.approx(read, rel=0.15)
    # what towers do between their products weighs more on tiny tiles than on real ones
    assert prefill.get_total_flops() / 2 == pytest.approx(found.prefill - attention, rel=0.3)


def test_less_is_less_in_every_family(family):
    sample = family.encode(picture(120, 80), "a cat")
    kept = [layer for layer in range(family.num_layers) if layer not in droppable(family)[:2]]
    more, less = count_work(family, sample), count_work(pruned_view(family, kept), sample)
    for name in ("prefill", "decode", "prefill_products", "decode_products"):
        ratio = getattr(more, name) / getattr(less, name)
        assert 1 < ratio <= family.num_layers / len(kept) + 0.15  # layers differ in size


def droppable(lvlm):
    return [layer for layer in range(1, lvlm.num_layers) if layer not in lvlm.protected]
