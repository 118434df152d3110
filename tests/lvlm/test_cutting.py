"""Each way in which configs speak of layers, cut by hand."""

from types import SimpleNamespace

import pytest

from svl_core.errors import SVLError
from svl_core.lvlm.cutting import _period_of, cut_text_config


def cut(keep, layers=5, **settings):
    class Text(SimpleNamespace):
        model_type = "made up"

        def to_dict(self):
            return dict(vars(self))

    text = Text(num_hidden_layers=layers, **settings)
    cut_text_config(text, keep, layers)
    return text


def test_indices_numbers_and_counts():
    text = cut(
        (0, 2, 4),
        attn_layer_indices=[1, 2, 4],
        ple_layer_ids=[2, 3, 5],
        first_k_dense_replace=2,
        num_kv_shared_layers=2,
        num_attention_heads_per_layer=[1, 2, 3, 4, 5],
    )
    assert text.attn_layer_indices == [1, 2]
    assert text.ple_layer_ids == [2, 3]  # layers 3 and 5 of 1 .. 5 are 2 and 3 of what is left
    assert text.first_k_dense_replace == 1 and text.num_kv_shared_layers == 1
    assert text.num_attention_heads_per_layer == [1, 3, 5]


def test_a_layers_source_is_named_by_its_new_index():
    assert cut((1, 3, 4), kv_source_layers=[0, 1, 1, 1, 4]).kv_source_layers == [0, 0, 2]
    with pytest.raises(SVLError, match=r"layers \[1\] among those to drop"):
        cut((0, 3), kv_source_layers=[0, 1, 1, 1, 4])


@pytest.mark.parametrize(
    ("marked", "period"),
    [
        ("0100", (3, 1)),
        ("0101", (2, 1)),
        ("1001", (3, 0)),
        ("11", (1, 0)),
        ("00", (3, 2)),
        ("0110", None),
        ("10100", None),
        ("01001", (3, 1)),
    ],
)
def test_periods_of_marked_layers(marked, period):
    """By hand: layers 1, 1 + 3, .. come at (3, 1); two in a row among others come at none."""
    assert _period_of([mark == "1" for mark in marked]) == period
