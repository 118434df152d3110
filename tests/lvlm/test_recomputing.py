"""Layers that are computed again on the way back: what is estimated, by hand. What it saves, and
that the gradients are the same, is in `tests/analysis/test_relevance.py`.
"""

from types import SimpleNamespace

import pytest
import torch

from svl_core.lvlm import recomputing


def model(**config):
    """What the estimate looks at: 32 layers of 4,096 in bfloat16."""
    return SimpleNamespace(
        text_config=SimpleNamespace(**config),
        hidden_size=4096,
        num_layers=32,
        dtype=torch.bfloat16,
    )


def test_the_estimate_counts_each_position_s_vectors():
    numbers = 8 * 4096 + 4 * 11008
    found = recomputing.kept_bytes(model(intermediate_size=11008), 640)
    assert found == 32 * 640 * numbers * 2  # 3.1 GB
    listed = recomputing.kept_bytes(model(intermediate_size=[11008, 4096]), 640)
    assert listed == found  # layer by layer, as Gemma 3n has it: the widest
    unknown = recomputing.kept_bytes(model(), 640)
    assert unknown == 32 * 640 * (8 + 16) * 4096 * 2


def test_whole_maps_of_attention_count_where_they_are_made():
    config = {"intermediate_size": 11008, "num_attention_heads": 32}
    without = recomputing.kept_bytes(model(**config), 640)
    eager = recomputing.kept_bytes(model(_attn_implementation="eager", **config), 640)
    assert eager - without == 32 * 640 * (2 * 32 * 640) * 2


@pytest.mark.parametrize("free, bound", [(4000, 1000), (None, 2**30)])
def test_a_quarter_of_the_free_memory_may_be_filled(monkeypatch, free, bound):
    monkeypatch.setattr(recomputing, "free_bytes", lambda device: free)
    assert recomputing.may_keep(torch.device("cpu")) == bound
