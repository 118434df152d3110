"""CoMe: sensitivity, shares and the layer put together, each computed apart."""

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.pruning import concatenating
from svl_core.pruning.concatenating import channel_sensitivity, shared_out

PLAN = svl.manual_plan([1, 3, 4], 6)


def test_sensitivity_by_hand():
    entering = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    weight = torch.tensor([[1.0, -3.0, 0.0], [-1.0, 1.0, 4.0]])
    assert channel_sensitivity(entering, weight).tolist() == [4.0, 4.0, 2.0]


@pytest.mark.parametrize(
    "count, shares, expected",
    [
        (10, [1, 1], [5, 5]),
        (10, [3, 1, 1], [6, 2, 2]),
        (4, [0.9, 0.1], [4, 0]),
        (5, [1, 1, 1], [2, 2, 1]),
        (2, [0.5, 0.3, 0.2], [1, 1, 0]),
    ],
)
def test_shares_in_whole_numbers(count, shares, expected):
    assert shared_out(count, shares) == expected


@pytest.fixture(scope="module")
def samples(tiny):
    prompts = ("what is in the top left?", "where is the red cat?", "is there a dog?")
    return [tiny.encode(picture(96, 96, seed), asked) for seed, asked in enumerate(prompts)]


@pytest.fixture(scope="module")
def trace(tiny, samples):
    return svl.trace(tiny, samples)


def numbers(layer, name):
    return layer.get_submodule(name).weight.detach().double().numpy()


def entering(lvlm, samples, layer, name):
    """Mean |x| of what enters a projection, over all tokens, by a hook of its own."""
    rows = []
    module = lvlm.layers[layer].get_submodule(name)
    handle = module.register_forward_hook(lambda module, args, out: rows.append(args[0][0]))
    with torch.no_grad():
        for sample in samples:
            lvlm.model(**sample.inputs)
    handle.remove()
    return torch.cat(rows).abs().double().mean(0).numpy()


def influence(trace, layer):
    found = []
    for sample in trace.samples:
        before = sample.features[layer].double().numpy()
        after = sample.features[layer + 1].double().numpy()
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        found.append(np.clip(1 - (before * after).sum(1) / norms, 0, 1))
    return np.concatenate(found).mean()


def test_a_layer_is_put_together_from_the_most_sensitive_parts(tiny, samples, trace):
    pruned = svl.prune(tiny, PLAN, "come", trace)
    for place, group in ((0, (0, 1)), (1, (2, 3, 4))):
        made = pruned.layers[place]
        shares = [influence(trace, layer) for layer in group]
        inner = numbers(made, "mlp.up_proj").shape[0]
        width = made.self_attn.head_dim
        keys = numbers(made, "self_attn.k_proj").shape[0] // width
        up, down, value, out = [], [], [], []
        wanted = shared_out(inner, shares), shared_out(keys, shares)
        for layer, neurons, heads in zip(group, *wanted, strict=True):
            one = tiny.layers[layer]
            reach = np.abs(numbers(one, "mlp.down_proj")).sum(0)
            counts = entering(tiny, samples, layer, "mlp.down_proj") * reach
            chosen = sorted(np.argsort(-counts)[:neurons])
            up.append(numbers(one, "mlp.up_proj")[chosen])
            down.append(numbers(one, "mlp.down_proj")[:, chosen])
            reach = np.abs(numbers(one, "self_attn.o_proj")).sum(0)
            counts = entering(tiny, samples, layer, "self_attn.o_proj") * reach
            of_head = counts.reshape(keys, -1).mean(1)
            for head in sorted(np.argsort(-of_head)[:heads]):
                value.append(numbers(one, "self_attn.v_proj")[head * width : (head + 1) * width])
                wide = len(counts) // keys
                out.append(numbers(one, "self_attn.o_proj")[:, head * wide : (head + 1) * wide])
        np.testing.assert_array_equal(numbers(made, "mlp.up_proj"), np.concatenate(up))
        np.testing.assert_array_equal(numbers(made, "mlp.down_proj"), np.concatenate(down, 1))
        np.testing.assert_array_equal(numbers(made, "self_attn.v_proj"), np.concatenate(value))
        np.testing.assert_array_equal(numbers(made, "self_attn.o_proj"), np.concatenate(out, 1))
        norms = [numbers(tiny.layers[layer], "input_layernorm") for layer in group]
        np.testing.assert_allclose(numbers(made, "input_layernorm"), np.mean(norms, 0), atol=1e-7)
    assert pruned.provenance["compensation"]["layers"] == [0, 2]


def test_a_layer_beside_a_copy_of_itself_that_does_nothing_stays_what_it_is(
    tiny, samples, trace, monkeypatch
):
    """With all influence in the retained layer it keeps every head and neuron."""
    shares = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    monkeypatch.setattr(concatenating, "_influences", lambda trace: shares)
    monkeypatch.setattr(concatenating, "_average_norms", lambda view, layers: None)
    pruned = svl.prune(tiny, PLAN, "come", trace)
    plain = svl.prune(tiny, PLAN)
    with torch.no_grad():
        for sample in samples[:1]:
            ours = pruned.model(**sample.inputs).logits
            assert torch.equal(ours, plain.model(**sample.inputs).logits)


def test_the_full_model_is_untouched_and_the_export_loads(tiny, tiny_sample, trace, tmp_path):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    pruned = svl.prune(tiny, PLAN, "come", trace)
    for name, value in tiny.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = svl.load(str(pruned.save(tmp_path / "out")))
    with torch.no_grad():
        ours = pruned.model(**tiny_sample.inputs).logits
        assert torch.equal(again.model(**tiny_sample.inputs).logits, ours)


def test_layers_without_these_projections_are_refused(tiny, trace):
    other = svl.pruned_view(tiny, range(6))
    del other.layers[3].mlp.up_proj
    with pytest.raises(InputError, match="Found no mlp.up_proj in .*; expected self_attn.q_proj"):
        svl.prune(other, PLAN, "come", trace)


def test_layers_of_other_shapes_are_refused(tiny, trace):
    other = svl.pruned_view(tiny, range(6))
    other.layers[3].mlp.gate_proj = torch.nn.Linear(64, 32, bias=False)
    with pytest.raises(InputError, match="different shapes to put together"):
        svl.prune(other, PLAN, "come", trace)
