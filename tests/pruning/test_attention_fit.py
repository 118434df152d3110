"""Least squares on the attention's output: against the formula written anew, and where it
serves.
"""

import controls
import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.pruning.attention_fit import attention_factor

QUESTION = "what is in the top left of this picture ?"
RIDGE = 0.05


@pytest.fixture(scope="module")
def calibration(tiny):
    samples = [tiny.encode(picture(seed=seed), QUESTION) for seed in range(4)]
    return svl.trace(tiny, samples, mlp=True)


@pytest.fixture(scope="module")
def attended(tiny, calibration):
    """For each sample what the attention of layer 2 gives, (S, d) float64."""
    given = []
    handle = tiny.layers[2].self_attn.o_proj.register_forward_hook(
        lambda module, args, output: given.append(output[0].double().numpy())
    )
    for seed in range(4):
        tiny.model(**tiny.encode(picture(seed=seed), QUESTION).inputs, use_cache=False)
    handle.remove()
    return given


def solved(outputs, steps):
    """T of argmin |M T - (step + M)|^2 + ridge mean(diag M^T M) |T - I|^2, by numpy."""
    given, wanted = np.concatenate(outputs), np.concatenate(steps)
    gram = given.T @ given
    penalty = RIDGE * gram.diagonal().mean() * np.eye(len(gram))
    return np.linalg.solve(gram + penalty, given.T @ (wanted + given) + penalty)


def fitted(tiny, calibration, targets, **options):
    plan = svl.manual_plan([3, 4], 6)
    options = {"ridge": RIDGE, "tokens": "all", **options}
    return svl.prune(tiny, plan, "lstsq", calibration, targets=targets, **options)


def steps_of(calibration):
    return [(each.features[5] - each.features[3]).double().numpy() for each in calibration.samples]


def weights(lvlm, part):
    return lvlm.layers[2].get_submodule(part).weight.detach().double().numpy()


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_map_is_that_of_the_formula(tiny, calibration, attended, strength):
    edited = fitted(tiny, calibration, ("attention",), strength=strength)
    expected = strength * solved(attended, steps_of(calibration)).T + (1 - strength) * np.eye(64)
    old, new = (weights(lvlm, "self_attn.o_proj") for lvlm in (tiny, edited))
    assert np.allclose(new, expected @ old, atol=1e-4)
    assert torch.equal(edited.layers[2].mlp.down_proj.weight, tiny.layers[2].mlp.down_proj.weight)
    assert edited.provenance["compensation"]["layers"] == [2]
    assert edited.provenance["compensation"]["targets"] == ["attention"]


def test_behind_the_mlp_it_takes_what_is_left(tiny, calibration, attended):
    alone, both = (
        fitted(tiny, calibration, targets) for targets in (("mlp",), ("mlp", "attention"))
    )
    assert np.array_equal(weights(alone, "mlp.down_proj"), weights(both, "mlp.down_proj"))
    mlps = [each.mlp[2].double().numpy() for each in calibration.samples]
    steps = steps_of(calibration)
    change = solved(mlps, steps) - np.eye(64)
    left = [step - given @ change for step, given in zip(steps, mlps)]
    old, new = (weights(lvlm, "self_attn.o_proj") for lvlm in (tiny, both))
    assert np.allclose(new, solved(attended, left).T @ old, atol=1e-4)


def test_no_mlp_needs_to_be_traced(tiny, calibration):
    samples = [each.sample for each in calibration.samples]
    without = svl.trace(tiny, samples)
    edited = fitted(tiny, without, ("attention",))
    expected = fitted(tiny, calibration, ("attention",))
    assert np.allclose(*(weights(lvlm, "self_attn.o_proj") for lvlm in (edited, expected)))
    with pytest.raises(InputError, match="mlp=True"):
        fitted(tiny, without, ("mlp",))


def control(kind, folder):
    lvlm = svl.load(controls.saved(kind, folder / "model"), text_only=True, dtype="float32")
    return lvlm, lvlm.encode(None, QUESTION)


@pytest.mark.parametrize(
    ("kind", "factor"), [("llama", 1.0), ("gpt_oss", 1.0), ("granite", 0.25), ("olmo2", None)]
)
def test_how_an_attention_reaches_the_stream(kind, factor, tmp_path):
    lvlm, sample = control(kind, tmp_path)
    found = attention_factor(lvlm, sample)
    assert found == (factor if factor is None else pytest.approx(factor, abs=1e-3))


@pytest.mark.parametrize("kind", ["gpt_oss", "granite"])
def test_it_serves_where_the_mlp_cannot_be_fitted(kind, tmp_path):
    """Behind the edited layer the stream has what the map gives of the attention's output, but for
    what the MLP makes of that: seen with an MLP that gives nothing.
    """
    lvlm, sample = control(kind, tmp_path)
    plan, traced = svl.manual_plan([3], 6), svl.trace(lvlm, sample)
    with pytest.raises(InputError, match="changed on its way|mixture of experts"):
        svl.prune(lvlm, plan, "lstsq", svl.trace(lvlm, sample, mlp=True))
    edited = svl.prune(lvlm, plan, "lstsq", traced, targets=("attention",), ridge=RIDGE)
    factor = 0.25 if kind == "granite" else 1.0
    given = []
    handle = lvlm.layers[2].self_attn.o_proj.register_forward_hook(
        lambda module, args, output: given.append(factor * output[0].double().numpy())
    )
    lvlm.model(**sample.inputs, use_cache=False)
    handle.remove()
    positions = svl.token_positions(traced, svl.importance(traced), "important")[0]
    features = traced.samples[0].features.double().numpy()
    step = (features[4] - features[3])[positions]
    expected = solved([given[0][positions]], [step]).T
    old, new = (weights(one, "self_attn.o_proj") for one in (lvlm, edited))
    assert np.allclose(new, expected @ old, atol=1e-3)


def test_an_attention_behind_a_norm_is_refused(tmp_path):
    lvlm, sample = control("olmo2", tmp_path)
    with pytest.raises(
        InputError, match=r"attention's output of this model does not reach.*a norm"
    ):
        svl.prune(
            lvlm,
            svl.manual_plan([3], 6),
            "lstsq",
            svl.trace(lvlm, sample),
            targets=("attention",),
        )
