"""Refit: the closed form against a planted map and scikit-learn, an exact gap is closed, later
layers mend what is left, nothing leaks.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.analysis.trace import trace
from svl_core.errors import InputError
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.replay import record
from svl_core.lvlm.vision import forward
from svl_core.progress import Run
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune
from svl_core.pruning.refit import ANSWERING, _rows, solved

PROMPTS = ["what is in the top left ?", "a cat and a dog", "how many", "is the dog a cat"]


@pytest.fixture(scope="module")
def calibration(tiny):
    return trace(
        tiny, [tiny.encode(picture(seed=seed), PROMPTS[seed % 4]) for seed in range(6)], mlp=True
    )


def test_a_planted_map_is_recovered():
    rng = torch.Generator().manual_seed(0)
    given, planted = (
        torch.randn(300, 12, generator=rng, dtype=torch.float64),
        torch.randn(12, 5, generator=rng, dtype=torch.float64),
    )
    assert torch.allclose(
        solved(given.T @ given, given.T @ (given @ planted), 0.0), planted.T, atol=1e-6
    )


def test_ridge_against_scikit_learn():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    given, lacks, weight = rng.normal(size=(50, 8)), rng.normal(size=(50, 3)), rng.random(50)
    gram, cross = given.T @ (weight[:, None] * given), given.T @ (weight[:, None] * lacks)
    fitted = Ridge(alpha=0.3 * np.diag(gram).mean(), fit_intercept=False).fit(
        given, lacks, sample_weight=weight
    )
    assert np.allclose(
        solved(torch.tensor(gram), torch.tensor(cross), 0.3).numpy(), fitted.coef_, atol=1e-8
    )


def answered(lvlm, sample):
    ids = svl.answer(lvlm, sample, max_new_tokens=32).token_ids
    return lengthened(sample, ids), len(ids)


def features(full, pruned, sample, layer):
    """The pruned model's state where the full one is `layer` layers deep."""
    one = record(full, sample.inputs, sample.features)
    state = one.states[0]
    for ident, module in zip(pruned.layer_ids, pruned.layers):
        if ident >= layer:
            return state, one.states[layer]
        state = one.step(module, ident, state)
    return state, one.states[layer]


def test_it_comes_nearer_than_least_squares_where_it_was_fitted(tiny, calibration):
    plan = manual_plan((2, 4), tiny.num_layers)

    def error(compensation, **settings):
        pruned = prune(tiny, plan, compensation, calibration, **settings)
        gaps = [features(tiny, pruned, one.sample, tiny.num_layers) for one in calibration.samples]
        return float(np.mean([float((own - full).pow(2).mean()) for own, full in gaps]))

    none, lstsq, refit = (
        error("none"),
        error("lstsq", tokens="all"),
        error("refit", answer_weight=0.0, ridge=0.01),
    )
    assert refit < lstsq < none


def test_answers_are_read_and_weighed(tiny, calibration):
    sample = calibration.samples[0].sample
    inputs, n = answered(tiny, sample)
    assert (
        inputs["input_ids"].shape[1] == sample.length + n - 1 == inputs["attention_mask"].shape[1]
    )
    plan = manual_plan((3,), tiny.num_layers)

    def error(weight):
        pruned = prune(tiny, plan, "refit", calibration, answer_weight=weight)
        total = 0.0
        for one in calibration.samples:
            longer, n = answered(tiny, one.sample)
            own, full = features(
                tiny, pruned, dataclasses.replace(one.sample, inputs=longer), tiny.num_layers
            )
            total += float((own - full)[0, -n:].pow(2).mean())
        return total

    assert error(1000.0) < error(0.0)


def test_only_the_layers_named_differ_and_the_full_model_is_untouched(tiny, calibration):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    shares: list[float] = []
    pruned = prune(
        tiny,
        manual_plan((3,), tiny.num_layers),
        "refit",
        calibration,
        run=Run(lambda share, what: shares.append(share)),
    )
    assert (
        shares == sorted(shares) and ANSWERING in shares and shares[-1] < 1
    )  # told as it goes, never backwards
    assert all(torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())
    assert (
        pruned.provenance["compensation"]["layers"] == [2, 4, 5]
        and pruned.num_parameters < tiny.num_parameters
    )
    for ident, module in zip(pruned.layer_ids, pruned.layers):
        for name, value in module.named_parameters():
            same = value.data_ptr() == dict(tiny.layers[ident].named_parameters())[name].data_ptr()
            assert same == (ident < 2 or name != "mlp.down_proj.weight")


def entering_and_lacking(lvlm, module, layer, reached_by, sample):
    """What enters `module` in the full model's `layer`, and what that layer's output lacks to the
    features behind layer `reached_by`; float64 rows, by plain torch hooks.
    """
    inputs, _ = answered(lvlm, sample)
    seen = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.update(entering=args[0])),
        *(
            lvlm.layers[number].register_forward_hook(
                lambda _, args, out, number=number: seen.update(
                    {number: out[0] if isinstance(out, tuple) else out}
                )
            )
            for number in (layer, reached_by)
        ),
    ]
    forward(lvlm, inputs, sample.features, use_cache=False)
    for hook in hooks:
        hook.remove()
    lacking = seen[reached_by] - seen[layer]
    return seen["entering"][0].double().numpy(), lacking[0].double().numpy()


def test_the_attention_projection_equals_a_ridge_regression(tiny, calibration):
    from sklearn.linear_model import Ridge

    output = tiny.layers[2].self_attn.o_proj
    rows = [
        entering_and_lacking(tiny, output, 2, 3, one.sample) for one in calibration.samples
    ]  # layer 3 goes: layer 2 is to reach what layer 3 gave
    entering, lacking = (np.concatenate(part) for part in zip(*rows, strict=True))
    ridge = 0.2 * (entering**2).sum(0).mean()
    fitted = Ridge(alpha=ridge, fit_intercept=False).fit(entering, lacking)
    pruned = prune(
        tiny,
        manual_plan((3,), tiny.num_layers),
        "refit",
        calibration,
        ridge=0.2,
        answer_weight=0.0,
        targets=("attention",),
    )
    change = pruned.layers[2].self_attn.o_proj.weight - output.weight
    assert np.allclose(change.detach().numpy(), fitted.coef_, atol=1e-5)
    assert np.abs(fitted.coef_).max() > 1e-3
    assert pruned.layers[2].mlp.down_proj.weight is tiny.layers[2].mlp.down_proj.weight


def test_the_attention_is_fitted_on_what_the_mlp_leaves(tiny, calibration):
    plan = manual_plan((2, 4), tiny.num_layers)

    def fitted(*targets):
        return prune(
            tiny, plan, "refit", calibration, answer_weight=0.0, ridge=0.01, targets=targets
        )

    def error(pruned):
        gaps = [features(tiny, pruned, one.sample, tiny.num_layers) for one in calibration.samples]
        return float(np.mean([float((own - full).pow(2).mean()) for own, full in gaps]))

    both, mlp = fitted("mlp", "attention"), fitted("mlp")
    first = [pruned.layers[1].mlp.down_proj.weight for pruned in (both, mlp)]
    assert torch.equal(*first)
    assert error(both) < error(mlp) and error(both) < error(fitted("attention"))
    again = fitted("attention", "mlp")  # the order of naming is no order of work
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, both.model.state_dict()[name])


def test_a_run_at_the_start_is_mended_by_what_follows(tiny, calibration):
    pruned = prune(tiny, manual_plan((0,), tiny.num_layers), "refit", calibration)
    assert pruned.provenance["compensation"]["layers"] == [1, 2, 3, 4, 5]


def test_exported_weights_are_those_of_the_model(tiny, tiny_sample, calibration, tmp_path):
    from transformers import AutoModelForImageTextToText

    pruned = prune(tiny, manual_plan((2,), tiny.num_layers), "refit", calibration)
    loaded = AutoModelForImageTextToText.from_pretrained(pruned.save(tmp_path / "out"))
    sample = tiny_sample
    with torch.inference_mode():
        assert torch.equal(loaded(**sample.inputs).logits, pruned.model(**sample.inputs).logits)


def test_refusals(tiny, calibration):
    plan = manual_plan((2,), tiny.num_layers)
    bare = dataclasses.replace(
        calibration,
        samples=tuple(dataclasses.replace(one, sample=None) for one in calibration.samples),
    )
    with pytest.raises(InputError, match="without its samples"):
        prune(tiny, plan, "refit", bare)
    with pytest.raises(InputError, match="answer weight of -1"):
        prune(tiny, plan, "refit", calibration, answer_weight=-1)
    sample = calibration.samples[0].sample
    other = dataclasses.replace(
        sample, inputs={**sample.inputs, "token_type_ids": torch.zeros(1, sample.length)}
    )
    with pytest.raises(InputError, match="cannot lengthen"):
        lengthened(other, (3, 4))


def test_rows_of_a_layer_that_joins_batch_and_positions():
    """OPT's MLP sees (B x S, d) in the place of (B, S, d)."""
    states = torch.arange(24.0).reshape(2, 3, 4)
    assert _rows(states).tolist() == _rows(states.reshape(6, 4)).tolist()
    assert _rows(states)[4].tolist() == [16.0, 17.0, 18.0, 19.0]
