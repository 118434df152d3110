"""SCP and least squares on paper and on planted maps; edits never reach the full model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.pruning import edits
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.edits import apply, lstsq_map, scp_map
from svl_core.pruning.fit import Fit
from svl_core.recipe import Recipe

PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def test_scp_on_paper():
    """A 4 x 3 difference whose right singular vectors are the axes z, x, y (values 5, 2, 1); W is 3
    x 4.
    """
    difference = np.array([[2.0, 0, 0], [0, 0, 3], [0, 1, 0], [0, 0, 4]])
    weight = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    gram = difference.T @ difference
    one = scp_map(gram, 1, 1.0) @ weight  # V_1 = z: the last row is doubled
    assert torch.allclose(one, weight * torch.tensor([[1.0], [1], [2]]))
    two = scp_map(gram, 2, 0.5) @ weight  # V_2 = z, x at strength .5
    assert torch.allclose(two, weight * torch.tensor([[1.5], [1], [1.5]]))
    assert torch.allclose(scp_map(gram, 99, 1.0) @ weight, 2 * weight) and torch.equal(
        scp_map(gram, 0, 1.0), torch.eye(3, dtype=torch.float64)
    )


def test_scp_uses_no_direction_that_the_difference_lacks():
    gram = np.diag([4.0, 0, 0])
    assert torch.allclose(
        scp_map(gram, 3, 1.0), torch.diag(torch.tensor([2.0, 1, 1], dtype=torch.float64))
    )
    assert torch.equal(scp_map(np.zeros((3, 3)), 2, 1.0), torch.eye(3, dtype=torch.float64))


def test_least_squares_recovers_a_planted_map():
    generator = torch.Generator().manual_seed(0)
    given, planted = (
        torch.randn(200, 8, generator=generator, dtype=torch.float64),
        torch.randn(8, 8, generator=generator, dtype=torch.float64),
    )
    wanted = given @ planted
    assert torch.allclose(lstsq_map(given.T @ given, given.T @ wanted, 0.0), planted.T, atol=1e-6)
    assert torch.allclose(
        lstsq_map(given.T @ given, given.T @ wanted, 1e9),
        torch.eye(8, dtype=torch.float64),
        atol=1e-6,
    )
    half = lstsq_map(given.T @ given, given.T @ wanted, 1.0)
    scale = (given**2).sum() / 8
    gradient = given.T @ (given @ half.T - wanted) + scale * (
        half.T - torch.eye(8, dtype=torch.float64)
    )
    assert gradient.abs().max() < 1e-8


@pytest.fixture(scope="module")
def calibration(tiny):
    return svl.trace(
        tiny,
        [
            tiny.encode(picture(seed=k), "what is in the top left of this picture ?")
            for k in range(6)
        ],
        mlp=True,
    )


def test_the_merged_edit_equals_the_explicit_map(tiny, tiny_sample, calibration):
    """The pruned model's features behind the edited layer: H[a] + (T^T - I) mlp, computed apart."""
    plan = svl.manual_plan([3, 4], 6)
    pruned = svl.prune(tiny, plan, "lstsq", calibration)
    own = svl.trace(tiny, tiny_sample, mlp=True).samples[0]
    after = svl.trace(pruned, tiny_sample).samples[0]
    old, new = tiny.layers[2].mlp.down_proj.weight, pruned.layers[2].mlp.down_proj.weight
    edit = torch.linalg.lstsq(
        old.double().T, new.double().T
    ).solution.T  # new = edit @ old, recovered from the weights
    expected = own.features[3].double() + own.mlp[2].double() @ (
        edit.T - torch.eye(64, dtype=torch.float64)
    )
    torch.testing.assert_close(after.features[3].double(), expected, atol=1e-4, rtol=1e-4)


def test_least_squares_closes_the_gap_it_was_fitted_on(tiny, calibration):
    plan, positions = (
        svl.manual_plan([3, 4], 6),
        svl.token_positions(calibration, None, "important"),
    )

    def gap(lvlm):
        total = 0.0
        for sample, at, seed in zip(calibration.samples, positions, range(6)):
            there = (
                svl.trace(
                    lvlm,
                    lvlm.encode(picture(seed=seed), "what is in the top left of this picture ?"),
                )
                .samples[0]
                .features[3, at]
            )
            total += float(((there - sample.features[5, at]) ** 2).sum())
        return total

    assert gap(svl.prune(tiny, plan, "lstsq", calibration, ridge=1e-6)) < 0.5 * gap(
        svl.prune(tiny, plan)
    )


@pytest.mark.parametrize("compensation", COMPENSATIONS)
def test_the_full_model_is_untouched_and_only_named_weights_differ(
    tiny, tiny_sample, calibration, compensation
):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    plan = svl.manual_plan([1, 3, 4], 6)
    pruned = svl.prune(
        tiny,
        plan,
        compensation,
        calibration,
        targets=("mlp", "attention") if compensation == "scp" else ("mlp",),
    )
    svl.answer(pruned, tiny_sample, max_new_tokens=4)
    assert all(
        torch.equal(before[name], tensor) for name, tensor in tiny.model.state_dict().items()
    )
    own = {p.data_ptr() for p in tiny.model.parameters()}
    edited = {
        name.split("layers.")[1]
        for name, p in pruned.model.named_parameters()
        if p.data_ptr() not in own
    }
    mlp, attention = (
        {"0.mlp.down_proj.weight", "1.mlp.down_proj.weight"},
        {
            "0.self_attn.o_proj.weight",
            "1.self_attn.o_proj.weight",
        },
    )
    added = {f"{k}.svl_bridge.{part}" for k in (0, 1) for part in ("into", "back", "shift")}
    assert (
        edited
        == {
            "none": set(),
            "scp": mlp | attention,
            "lstsq": mlp,
            "bridge": added,
            "refit": mlp | {"2.mlp.down_proj.weight"},
            "magnitude": {
                f"{k}.{name}.weight"
                for k in (1, 2)
                for name in ("self_attn.o_proj", "mlp.down_proj")
            },
            "light-layer": {f"{k}.svl_bridge.mlp.down_proj.weight" for k in (0, 1)},
            "laco": {f"{k}.{name}.weight" for k in (0, 1) for name in PROJECTIONS},
            "come": {
                f"{k}.{name}.weight"
                for k in (0, 1)
                for name in (*PROJECTIONS, "input_layernorm", "post_attention_layernorm")
            },
            "linearpatch": {"0.svl_bridge.change", "1.svl_bridge.change"},
        }[compensation]
    )  # kept layers 0, 2 precede the runs 1..1 and 3..4


@pytest.mark.parametrize("compensation", COMPENSATIONS)
def test_dropping_nothing_is_bit_equal(tiny, tiny_sample, calibration, compensation):
    pruned = svl.prune(tiny, svl.manual_plan([], 6), compensation, calibration)
    with torch.no_grad():
        assert torch.equal(
            pruned.model(**tiny_sample.inputs).logits, tiny.model(**tiny_sample.inputs).logits
        )


def test_a_run_at_the_start_stays_uncompensated_and_is_named(tiny, calibration):
    pruned = svl.prune(tiny, svl.manual_plan([0, 1, 3], 6), "scp", calibration)
    assert pruned.provenance["compensation"]["uncompensated_runs"] == [[0, 1]]
    assert (
        pruned.layers[0].mlp.down_proj.weight.data_ptr()
        != tiny.layers[2].mlp.down_proj.weight.data_ptr()
    )


def test_strength_zero_and_rank_zero_change_nothing(tiny, calibration):
    for options in ({"strength": 0.0}, {"rank": 0}):
        pruned = svl.prune(tiny, svl.manual_plan([3], 6), "scp", calibration, **options)
        assert torch.equal(
            pruned.layers[2].mlp.down_proj.weight, tiny.layers[2].mlp.down_proj.weight
        )


def test_wrong_settings_are_refused(tiny, calibration):
    plan = svl.manual_plan([3], 6)
    plain = svl.trace(tiny, tiny.encode(picture(), "a cat"))
    for words, call in (
        ("none, scp, lstsq", lambda: svl.prune(tiny, plan, "glue", calibration)),
        ("pass calibration", lambda: svl.prune(tiny, plan, "scp")),
        ("mlp=True", lambda: svl.prune(tiny, plan, "lstsq", plain)),
        ("rank of -1", lambda: svl.prune(tiny, plan, "scp", calibration, rank=-1)),
        ("targets", lambda: svl.prune(tiny, plan, "scp", calibration, targets=("head",))),
        ("plan for 4 layers", lambda: svl.prune(tiny, svl.manual_plan([3], 4), "none")),
        (
            "this very model",
            lambda: svl.prune(
                svl.prune(tiny, svl.manual_plan([2], 6)),
                svl.manual_plan([3], 5),
                "scp",
                calibration,
            ),
        ),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_a_pruned_model_is_pruned_again(tiny, tiny_sample):
    twice = svl.prune(svl.prune(tiny, svl.manual_plan([1], 6)), svl.manual_plan([2], 5))
    once = svl.prune(tiny, svl.manual_plan([1, 3], 6))
    assert twice.layer_ids == once.layer_ids == (0, 2, 4, 5)
    with torch.no_grad():
        assert torch.equal(
            twice.model(**tiny_sample.inputs).logits, once.model(**tiny_sample.inputs).logits
        )


def test_quantised_weights_are_refused():
    with pytest.raises(InputError, match="quantised"):
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
        apply(module, torch.eye(2, dtype=torch.float64))


def test_a_subspace_is_found_once_for_a_run_and_what_it_is_fitted_on(tiny, calibration):
    """Plans share runs; another rank, other tokens or another trace are another subspace."""
    found, decompose = [], edits.subspace

    def counting(gram, rank, energy=None):
        found.append(rank)
        return decompose(gram, rank, energy)

    def basis(trace, first=2, last=3, **settings):
        recipe = Recipe.of(compensation="scp", **{"rank": 2, **settings})
        positions = svl.token_positions(trace, tokens=recipe.tokens)
        return edits.gap_subspace(Fit(trace, positions, None, recipe, 0.0), first, last)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(edits, "subspace", counting)
        once, again = basis(calibration), basis(calibration, strength=0.5)
        assert again is once and found == [2]
        assert basis(calibration, rank=3).shape[1] == 3 and found == [2, 3]
        assert basis(calibration, tokens="all").shape == once.shape and len(found) == 3
        basis(calibration, 2, 4), basis(replace(calibration))
        assert len(found) == 5
