"""LaCo: the published sum of differences, computed apart, and what cannot be merged."""

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.errors import InputError

PLAN = svl.manual_plan([1, 3, 4], 6)
PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def weight(lvlm, layer, name):
    return lvlm.layers[layer].get_submodule(name).weight.detach().double().numpy()


def test_differences_are_added_to_the_layer_before_the_run(tiny):
    """Layer 2 takes in 3 and 4: W_2 + (W_3 - W_2) + (W_4 - W_2) = W_3 + W_4 - W_2."""
    pruned = svl.prune(tiny, PLAN, "laco")
    for name in PROJECTIONS:
        one = weight(tiny, 1, name)  # the layer before takes a single one's place
        two = weight(tiny, 3, name) + weight(tiny, 4, name) - weight(tiny, 2, name)
        np.testing.assert_allclose(weight(pruned, 0, name), one, atol=1e-7)
        np.testing.assert_allclose(weight(pruned, 1, name), two, atol=1e-7)
        np.testing.assert_array_equal(weight(pruned, 2, name), weight(tiny, 5, name))
    for norm in ("input_layernorm", "post_attention_layernorm"):
        assert (
            pruned.layers[1].get_submodule(norm).weight is tiny.layers[2].get_submodule(norm).weight
        )


def test_no_samples_are_asked_for_and_none_recorded(tiny):
    record = svl.prune(tiny, svl.manual_plan([0, 1, 3], 6), "laco").provenance["compensation"]
    assert record == {"name": "laco", "layers": [2], "uncompensated_runs": [[0, 1]]}


def test_a_merged_model_is_exported(tiny, tiny_sample, tmp_path):
    pruned = svl.prune(tiny, PLAN, "laco")
    again = svl.load(str(pruned.save(tmp_path / "out")))
    with torch.no_grad():
        assert torch.equal(
            again.model(**tiny_sample.inputs).logits, pruned.model(**tiny_sample.inputs).logits
        )


def test_layers_of_other_shapes_are_refused(tiny):
    other = svl.pruned_view(tiny, range(6))  # its layers' parts are its own
    narrow = torch.nn.Linear(64, 32, bias=False)
    other.layers[3].mlp.gate_proj = narrow
    with pytest.raises(InputError, match="Found layers of different shapes to merge; expected"):
        svl.prune(other, PLAN, "laco")


def test_quantised_weights_are_refused(tiny):
    other = svl.pruned_view(tiny, range(6))
    whole = torch.ones_like(tiny.layers[3].mlp.gate_proj.weight, dtype=torch.int8)
    other.layers[3].mlp.gate_proj.weight = torch.nn.Parameter(whole, requires_grad=False)
    with pytest.raises(InputError, match="Found quantised weights"):
        svl.prune(other, PLAN, "laco")
