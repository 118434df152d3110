"""The light layer: its map by numpy, what it shares, its cost, and what it cannot stand for."""

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.pruning.light import _light

PROMPT = "what is in the top left of this picture ?"
PLAN = svl.manual_plan([3, 4], 6)


@pytest.fixture(scope="module")
def calibration(tiny):
    return svl.trace(tiny, [tiny.encode(picture(seed=k), PROMPT) for k in range(4)])


def inner(layer, hidden):
    """What enters the down-projection of a Llama layer's MLP on (n, d) hidden states, by numpy."""
    numbers = {name: each.double().numpy() for name, each in layer.state_dict().items()}
    size = np.sqrt((hidden**2).mean(-1, keepdims=True) + layer.input_layernorm.variance_epsilon)
    normed = hidden / size * numbers["post_attention_layernorm.weight"]
    gate = normed @ numbers["mlp.gate_proj.weight"].T
    return gate / (1 + np.exp(-gate)) * (normed @ numbers["mlp.up_proj.weight"].T)


def test_the_published_place_with_the_closed_form(tiny, tiny_sample, calibration):
    """What leaves the kept layer is H + F W of the full model's H, W solved by numpy."""
    pruned = svl.prune(tiny, PLAN, "light-layer", calibration, ridge=0.2, tokens="all")
    before = np.concatenate([each.features[3].double().numpy() for each in calibration.samples])
    behind = np.concatenate([each.features[5].double().numpy() for each in calibration.samples])
    features = inner(tiny.layers[3], before)
    gram = features.T @ features
    penalty = 0.2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    wanted = np.linalg.solve(gram + penalty, features.T @ (behind - before))
    own = svl.trace(tiny, tiny_sample).samples[0].features[3].double().numpy()
    after = svl.trace(pruned, tiny_sample).samples[0].features[3].numpy()
    np.testing.assert_allclose(after, own + inner(tiny.layers[3], own) @ wanted, atol=1e-4)


def test_it_closes_the_gap_and_shares_what_it_does_not_fit(tiny, calibration):
    plain = svl.prune(tiny, PLAN)
    pruned = svl.prune(tiny, PLAN, "light-layer", calibration, tokens="all", ridge=1e-6)

    def gap(lvlm):
        traced = svl.trace(lvlm, [each.sample for each in calibration.samples])
        return sum(
            float((found.features[3] - full.features[5]).square().sum())
            for found, full in zip(traced.samples, calibration.samples, strict=True)
        )

    assert gap(pruned) < 0.5 * gap(plain)
    light = pruned.layers[2].svl_bridge
    gate = tiny.layers[3].mlp.gate_proj.weight
    assert light.mlp.gate_proj.weight.data_ptr() == gate.data_ptr()
    assert light.mlp.gate_proj.weight is not gate
    assert light.mlp.down_proj is not tiny.layers[3].mlp.down_proj
    assert pruned.num_parameters - plain.num_parameters == 3 * 64 * 128 + 64


def test_a_layer_without_such_an_mlp_is_refused(tiny):
    layer = torch.nn.Module()
    layer.fc2 = torch.nn.Linear(8, 4)
    with pytest.raises(InputError, match="Found no post_attention_layernorm before an mlp.down"):
        _light(layer)


def test_it_is_not_lost_in_silence(tiny, calibration, tmp_path):
    pruned = svl.prune(tiny, PLAN, "light-layer", calibration)
    with pytest.raises(InputError, match="cannot hold them"):
        pruned.save(tmp_path / "out")
