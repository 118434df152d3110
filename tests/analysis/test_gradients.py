"""Gradient magnitudes: against torch's own gradients of the whole model, by hand, and what is left
alone.
"""

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.analysis import gradients
from svl_core.analysis.gradients import Watched
from svl_core.errors import InputError

ANSWERS = ((7, 9, 1), (12, 1))


@pytest.fixture(scope="module")
def samples(tiny):
    asked = [(picture(seed=1), "a cat"), (None, "is the chair red ?")]
    return [tiny.encode(*pair) for pair in asked]


def by_hand(lvlm, sample, answer):
    """Mean |gradient| of each layer from one whole backward pass of a copy."""
    import copy

    model = copy.deepcopy(lvlm.model).requires_grad_(True)
    inputs = dict(sample.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer[:-1]])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.enable_grad():
        logits = model(**inputs).logits[0, sample.length - 1 :].double()
        taken = logits.log_softmax(-1)[torch.arange(len(answer)), list(answer)]
        (-taken.mean()).backward()
    return [
        np.concatenate([p.grad.double().abs().flatten().numpy() for p in layer.parameters()]).mean()
        for layer in model.get_decoder().layers
    ]


def test_they_are_the_whole_models_gradients(tiny, samples):
    wanted = np.mean([by_hand(tiny, sample, answer) for sample, answer in zip(samples, ANSWERS)], 0)
    options = {"lvlm": tiny, "samples": samples, "answers": ANSWERS}
    scores = svl.redundancy(svl.trace(tiny, samples), None, "gradient", **options)
    np.testing.assert_allclose(-scores.scores, wanted, rtol=1e-5)
    free = [layer for layer in range(6) if layer not in (0, 5)]
    assert list(scores.ranking) == sorted(free, key=lambda layer: wanted[layer])


def test_the_model_is_left_alone_and_no_gradient_is_kept(tiny, samples):
    asked = [parameter.requires_grad for parameter in tiny.model.parameters()]
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    watched = Watched(tiny)
    first = watched.magnitudes(samples[0], ANSWERS[0])
    np.testing.assert_array_equal(watched.magnitudes(samples[0], ANSWERS[0]), first)
    view = watched._view.model
    assert all(parameter.grad is None for parameter in view.parameters())
    assert all(parameter.grad is None for parameter in tiny.model.parameters())
    assert [parameter.requires_grad for parameter in tiny.model.parameters()] == asked
    assert all(torch.equal(before[name], each) for name, each in tiny.model.state_dict().items())
    ours = {parameter.data_ptr() for parameter in view.parameters()}
    assert ours == {parameter.data_ptr() for parameter in tiny.model.parameters()}  # shared


def test_what_has_no_gradient_is_refused(tiny, samples):
    other = svl.pruned_view(tiny, range(6))
    whole = torch.ones(128, 64, dtype=torch.int8)
    other.layers[2].mlp.gate_proj.weight = torch.nn.Parameter(whole, requires_grad=False)
    with pytest.raises(InputError, match="Found quantised weights; expected floating-point ones"):
        Watched(other)
    other.layers[2].mlp.gate_proj.weight = torch.nn.Parameter(torch.ones(128, 64, device="meta"))
    with pytest.raises(InputError, match="Found weights that are kept elsewhere until used"):
        Watched(other)


def test_inputs_that_cannot_be_lengthened_are_refused(tiny, samples):
    from dataclasses import replace

    kinds = torch.zeros_like(samples[1].inputs["input_ids"])
    odd = replace(samples[1], inputs={**samples[1].inputs, "token_type_ids": kinds})
    with pytest.raises(InputError, match="Found token_type_ids among this model's inputs"):
        Watched(tiny).magnitudes(odd, ANSWERS[1])


def test_a_model_that_gives_the_logits_of_all_positions(tiny, samples, monkeypatch):
    expected = Watched(tiny).magnitudes(samples[0], ANSWERS[0])
    stock = gradients.forward

    def all_of_them(lvlm, inputs, features, *, logits_to_keep, **options):
        return stock(lvlm, inputs, features, **options)

    monkeypatch.setattr(gradients, "forward", all_of_them)
    found = Watched(tiny).magnitudes(samples[0], ANSWERS[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
