"""The linear bridge: planted affine maps, rank from energy, its parameters counted, and that it is
not lost in silence.
"""

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.analysis.gap import gram_of_difference
from svl_core.errors import InputError
from svl_core.pruning.edits import Moments, bridge_map, gap_subspace, rank_for, scp_map, subspace
from svl_core.pruning.fit import Fit
from svl_core.recipe import Recipe

PLAN = svl.manual_plan([3, 4], 6)
PROMPT = "what is in the top left of this picture ?"


@pytest.fixture(scope="module")
def calibration(tiny):
    return svl.trace(tiny, [tiny.encode(picture(seed=k), PROMPT) for k in range(6)], mlp=True)


def planted(rank, noise=0.0, n=300, d=8, offset=3.0):
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + offset
    map_ = torch.randn(d, rank, generator=generator, dtype=torch.float64) @ torch.randn(
        rank, d, generator=generator, dtype=torch.float64
    )
    shift = torch.randn(d, generator=generator, dtype=torch.float64)
    return (
        x,
        x @ map_ + shift + noise * torch.randn(n, d, generator=generator, dtype=torch.float64),
        map_,
        shift,
    )


def moments_of(x, y, weights=None):
    moments = Moments(x.shape[1])
    for part in range(0, len(x), 70):  # sample by sample
        at = slice(part, part + 70)
        moments.add(x[at], y[at], None if weights is None else weights[at])
    return moments


def test_a_planted_affine_map_is_recovered():
    x, y, map_, shift = planted(2)
    bridge = bridge_map(moments_of(x, y), 0.0, 2)
    torch.testing.assert_close(bridge.into @ bridge.back, map_, atol=1e-6, rtol=0)
    torch.testing.assert_close(bridge.shift.data, shift, atol=1e-6, rtol=0)
    torch.testing.assert_close(bridge(x), x + y, atol=1e-6, rtol=0)
    assert (
        bridge_map(moments_of(x, y), 0.0, 99).into.shape[1] == 2
    )  # no direction that the map lacks
    half = bridge_map(moments_of(x, y), 0.0, 2, strength=0.5)
    torch.testing.assert_close(half(x), x + y / 2, atol=1e-6, rtol=0)


def test_rank_zero_is_the_mean_shift_alone():
    x, y, _, _ = planted(3)
    torch.testing.assert_close(
        bridge_map(moments_of(x, y), 0.0, 0)(x), x + y.mean(0), atol=1e-9, rtol=0
    )


def test_low_rank_is_the_best_of_its_rank():
    """Reduced-rank regression: the fitted values are the best rank-2 approximation of the full
    fit's (Eckart-Young).
    """
    x, y, _, _ = planted(5, noise=0.5)
    residual = (bridge_map(moments_of(x, y), 0.0, 2)(x) - x - y).square().sum()
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    fitted = centred_x @ torch.linalg.lstsq(centred_x, centred_y).solution
    u, s, v = torch.linalg.svd(fitted, full_matrices=False)
    best = (centred_y - u[:, :2] * s[:2] @ v[:2]).square().sum()
    torch.testing.assert_close(residual, best, rtol=1e-9, atol=0)
    truncated = torch.linalg.lstsq(centred_x, centred_y).solution
    tu, ts, tv = torch.linalg.svd(truncated)
    assert (
        residual < (centred_y - centred_x @ (tu[:, :2] * ts[:2] @ tv[:2])).square().sum()
    )  # cutting the map itself is worse


def test_ridge_and_weights_against_scikit_learn():
    from sklearn.linear_model import Ridge

    x, y, _, _ = planted(8, noise=1.0)
    weights = np.random.default_rng(0).uniform(0.1, 3, len(x))
    centred = x.numpy() - np.average(x.numpy(), axis=0, weights=weights)
    penalty = 0.3 * np.mean((weights[:, None] * centred**2).sum(0))
    oracle = Ridge(alpha=penalty).fit(x.numpy(), y.numpy(), sample_weight=weights)
    bridge = bridge_map(moments_of(x, y, weights), 0.3, 8)
    np.testing.assert_allclose((bridge.into @ bridge.back).numpy(), oracle.coef_.T, atol=1e-8)
    np.testing.assert_allclose(bridge.shift.numpy(), oracle.intercept_, atol=1e-8)


def test_fewer_tokens_than_dimensions():
    x, y, _, _ = planted(3, n=5, d=8)
    torch.testing.assert_close(bridge_map(moments_of(x, y), 0.0, 8)(x), x + y, atol=1e-6, rtol=0)


def test_rank_from_energy_on_paper():
    power = np.array([6.0, 3.0, 1.0, 0.0])
    assert [rank_for(power, 4, share) for share in (0.1, 0.6, 0.61, 0.9, 0.95, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert (
        rank_for(power, 2) == 2
        and rank_for(power, 99) == 3
        and rank_for(power, 0) == 0
        and rank_for(np.zeros(3), 4, 0.5) == 0
    )
    gram = np.diag([1.0, 6.0, 3.0])
    assert torch.allclose(
        scp_map(gram, 1, 1.0, energy=0.9),
        torch.diag(torch.tensor([1.0, 2, 2], dtype=torch.float64)),
    ) and subspace(gram, 1, 0.9).shape == (3, 2)


def test_the_chosen_ranks_are_told(tiny, calibration):
    plan = svl.manual_plan([1, 3, 4], 6)
    gaps = svl.feature_gap(calibration, plan.drop)
    ranks = svl.prune(tiny, plan, "scp", calibration, energy=0.8).provenance["compensation"][
        "ranks"
    ]
    for run in gaps.runs:
        rank = ranks[f"{run.first}-{run.last}"]
        assert run.energy(rank) >= 0.8 > run.energy(rank - 1)
    assert svl.prune(tiny, plan, "scp", calibration, rank=3).provenance["compensation"][
        "ranks"
    ] == {"1-1": 3, "3-4": 3}
    for share in (0.0, 1.1):
        with pytest.raises(InputError, match="energy share"):
            svl.prune(tiny, plan, "scp", calibration, energy=share)


def test_the_model_computes_the_explicit_map(tiny, tiny_sample, calibration):
    """What leaves the kept layer is H + H P Q + c with the full model's H, in prefill and in cached
    decoding.
    """
    pruned = svl.prune(tiny, PLAN, "bridge", calibration, rank=6)
    bridge, own = pruned.layers[2].svl_bridge, svl.trace(tiny, tiny_sample).samples[0].features[3]
    after = svl.trace(pruned, tiny_sample).samples[0].features[3]
    torch.testing.assert_close(
        after, own + own @ bridge.into @ bridge.back + bridge.shift, atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(after, own, atol=1e-2)
    answer = svl.answer(pruned, tiny_sample, max_new_tokens=6)
    ids = torch.tensor([answer.token_ids])
    inputs = {
        **tiny_sample.inputs,
        "input_ids": torch.cat([tiny_sample.inputs["input_ids"], ids], 1),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = pruned.model(**inputs, use_cache=False).logits[0, tiny_sample.length - 1 : -1]
    assert logits.argmax(-1).tolist() == list(answer.token_ids)


def test_it_closes_the_gap_it_was_fitted_on_and_counts_its_cost(tiny, calibration):
    positions = svl.token_positions(calibration, None, "important")

    def gap(lvlm):
        there = [
            svl.trace(lvlm, lvlm.encode(picture(seed=k), PROMPT)).samples[0].features[3]
            for k in range(6)
        ]
        return sum(
            float((h[at] - sample.features[5, at]).square().sum())
            for h, at, sample in zip(there, positions, calibration.samples)
        )

    plain, low, full = (
        svl.prune(tiny, PLAN, *rest, **options)
        for rest, options in (
            ((), {}),
            (("bridge", calibration), {"rank": 4}),
            (("bridge", calibration), {"rank": 64}),
        )
    )
    lstsq = svl.prune(tiny, PLAN, "lstsq", calibration)
    assert gap(full) < gap(low) < gap(plain) and gap(full) < gap(lstsq)
    assert low.num_parameters - plain.num_parameters == 2 * 64 * 4 + 64


def test_a_bridge_is_not_lost_in_silence(tiny, calibration, tmp_path):
    hooked = [len(layer._forward_hooks) for layer in tiny.layers]
    pruned = svl.prune(tiny, PLAN, "bridge", calibration)
    with pytest.raises(InputError, match="cannot hold them"):
        pruned.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="svl_bridge"):
        svl.pruned_view(pruned, (0, 1, 2))
    assert (
        svl.pruned_view(pruned, (0, 1, 3)).num_layers == 3
    )  # without the bridged layer there is nothing to lose
    assert (
        not any(hasattr(layer, "svl_bridge") for layer in tiny.layers)
        and [len(layer._forward_hooks) for layer in tiny.layers] == hooked
    )


def test_cheaper_ways_to_the_same_subspace(tiny, tiny_sample):
    """A few directions of many by iteration, and through the Gram matrix of the tokens where those
    are fewer than the dimensions.
    """
    rows = np.random.default_rng(0).normal(size=(40, 600)) * np.geomspace(1, 1e-3, 600)
    exact = np.linalg.svd(rows)[2][:4]
    found = subspace(rows.T @ rows, 4).numpy()
    np.testing.assert_allclose(found @ found.T, exact.T @ exact, atol=1e-9)
    traced, at = svl.trace(tiny, tiny_sample), (np.arange(0, 40, 2),)
    few = gap_subspace(Fit(traced, at, None, Recipe(rank=3), 0.0), 2, 3)
    whole = subspace(gram_of_difference(traced, at, 2, 3), 3)
    assert 2 * len(at[0]) < tiny.hidden_size
    np.testing.assert_allclose(few @ few.T, whole @ whole.T, atol=1e-9)
