"""Which layers stay, by configs made by hand."""

from types import SimpleNamespace

import pytest

from svl_core.lvlm.protection import reasons

LINEAR, FULL, SLIDING = "linear_attention", "full_attention", "sliding_attention"


def config(layers=4, whole=None, **text):
    decoder = SimpleNamespace(num_hidden_layers=layers, **text)
    return SimpleNamespace(get_text_config=lambda decoder=None, made=decoder: made, **whole or {})


@pytest.mark.parametrize(
    ("kinds", "stays"),
    [
        ([FULL] * 4, []),
        ([SLIDING, FULL] * 2, []),
        (["hybrid"] * 4, []),
        ([LINEAR, FULL, FULL, LINEAR], [2]),
        ([LINEAR, SLIDING, "conv", "conv"], [1]),
        ([FULL, SLIDING, LINEAR, LINEAR], [0]),  # a window forgets how much went before
        (["indexed_attention", LINEAR, LINEAR, LINEAR], [0]),
        ([LINEAR] * 4, []),
        (["moe", LINEAR, FULL, "mlp"], [2]),
    ],
    ids=str,
)
def test_the_last_layer_that_counts_positions(kinds, stays):
    assert list(reasons(config(layer_types=kinds))) == stays
    assert list(reasons(config(layers_block_type=kinds))) == stays


def test_each_rule_names_its_reason():
    vision = SimpleNamespace(deepstack_visual_indexes=[5, 8])
    whole = {"vision_config": vision, "deepstack_layer_map": [(-1, 3)]}
    whole["spatial_target_layers"] = [5]
    text = {
        "kv_sharing_modes": [None, None, None, "store", "store", "reuse", "reuse", "reuse"],
        "num_kv_shared_layers": 3,
        "cross_attention_layers": [2],
        "indexer_types": ["full", "shared", "full", "full", "shared", "shared", "full", "full"],
    }
    found = reasons(config(8, whole, **text))
    assert found == {
        0: "first layer, whose cache counts positions",
        1: "visual features are added behind it",
        3: "visual features are added to it",
        4: "later layers use its keys",
        5: "visual features are added to it",
        7: "last layer, of fixed kind",
    }
    text = {"indexer_types": ["full", "shared", "full", "full", "shared", "full"]}
    assert list(reasons(config(6, **text))) == [0, 3]


def test_keys_that_no_layer_uses_are_no_reason():
    """Gemma 4 marks layers as storing their keys also where no layer shares any."""
    modes = [None, "store", None, "store"]
    text = {"kv_sharing_modes": modes, "num_kv_shared_layers": 0}
    assert reasons(config(**text)) == {3: "last layer, of fixed kind"}


def test_the_last_layer_is_free_where_any_layers_share_keys():
    """Of a fixed kind it is only where those that share are counted from the end."""
    modes = ["store", "reuse", None, None]
    assert list(reasons(config(kv_sharing_modes=modes))) == [0]
    modes = ["store", "reuse_but_indexer", None, None]
    assert list(reasons(config(kv_sharing_modes=modes))) == [0]
    assert list(reasons(config(kv_sharing_modes=modes, num_kv_shared_layers=0))) == [0, 3]
