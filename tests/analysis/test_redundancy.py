"""Criteria, rankings, similarity: worked numbers, and a decoder with a layer that does nothing."""

import numpy as np
import pytest
import torch
from test_importance import A, traced
from tiny import picture, tiny_llava

import svl_core as svl
from svl_core.analysis.gap import feature_gap, gram_of_difference, pca_view, runs_of
from svl_core.analysis.measures import layer_cosines
from svl_core.analysis.redundancy import CRITERIA, ranked, similarity
from svl_core.errors import InputError


@pytest.fixture(scope="module")
def idle():
    """A model whose layer 3 adds nothing to the residual stream."""
    from svl_core.lvlm.families import family_of

    model, processor = tiny_llava(seed=5)
    layer = model.get_decoder().layers[3]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return svl.LVLM(model, processor, family_of(model.config), "idle")


@pytest.mark.parametrize(
    "criterion",
    [name for name, row in CRITERIA.items() if row.needs == "trace" and name != "random"],
)
def test_the_idle_layer_is_found(idle, criterion):
    trace = svl.trace(
        idle, [idle.encode(picture(seed=k), "how many apples are there ?") for k in range(2)]
    )
    scores = svl.redundancy(trace, criterion=criterion)
    assert (
        scores.ranking[0] == 3
        and scores.scores[3] == pytest.approx(1, abs=1e-6)
        and max(np.delete(scores.scores, 3)) < 0.999
    )


def test_cosines_on_paper():
    features = torch.zeros(3, 4, 5)
    features[0, :, 0] = 1.0
    features[1, :, 0] = 2.0  # same direction: cosine 1 everywhere
    features[2, :, 0] = torch.tensor([3.0, 0.0, -1.0, 1.0])
    features[2, :, 1] = torch.tensor([4.0, 2.0, 0.0, 0.0])  # cosines with (2, 0): .6, 0, -1, 1
    trace = traced([A, A], features)
    every = (np.arange(4),)
    np.testing.assert_allclose(layer_cosines(trace, every), [1.0, 0.15], atol=1e-12)
    np.testing.assert_allclose(layer_cosines(trace, (np.array([0, 3]),)), [1.0, 0.8], atol=1e-12)
    np.testing.assert_allclose(
        similarity(trace, tokens="all"), [[1, 1, 0.15], [1, 1, 0.15], [0.15, 0.15, 1]], atol=1e-6
    )
    np.testing.assert_allclose(
        similarity(trace, tokens="visual"), [[1, 1, -0.2], [1, 1, -0.2], [-0.2, -0.2, 1]], atol=1e-6
    )


def test_a_share_stands_for_its_top_p_wherever_one_is_taken(tiny, tiny_sample):
    trace = svl.trace(tiny, [tiny_sample, tiny_sample])
    takes = {
        "redundancy": lambda top_p: svl.redundancy(trace, top_p=top_p).scores,
        "halves": lambda top_p: svl.sublayers(tiny, trace, top_p=top_p).cosine,
        "similarity": lambda top_p: similarity(trace, top_p=top_p),
        "gap": lambda top_p: feature_gap(trace, [2], top_p=top_p).per_layer,
        "stability": lambda top_p: svl.stability(trace, drop=1, draws=2, top_p=top_p).interval,
    }
    for name, made in takes.items():
        assert np.array_equal(made(0.2), made(svl.TopP(0.2))), name
        assert not np.array_equal(made(0.2), made(0.9)), name
        with pytest.raises(InputError, match="top-p of 7"):
            made(7)


def test_similarity_next_to_the_diagonal_is_the_redundancy_curve(tiny, tiny_sample):
    trace = svl.trace(tiny, [tiny_sample, tiny.encode(picture(seed=4), "a cat")])
    scores, matrix = svl.redundancy(trace), svl.similarity(trace)
    np.testing.assert_allclose(np.diagonal(matrix, 1), scores.scores, atol=1e-5)
    assert np.array_equal(matrix, matrix.T) and matrix.max() == 1


def test_ranking_ties_protection_and_nan():
    assert ranked(np.array([0.9, 0.5, 0.5, np.nan, 0.7]), (0,)) == (4, 2, 1, 3)


def test_protected_layers_never_go(tiny, tiny_sample):
    trace = svl.trace(tiny, tiny_sample)
    held = svl.redundancy(trace)
    free = svl.redundancy(trace, protect_ends=False)
    assert set(held.protected) == {0, 5} and len(held.ranking) == 4 and len(free.ranking) == 6
    assert [layer for layer in free.ranking if layer not in (0, 5)] == list(held.ranking)


def test_random_is_seeded(tiny, tiny_sample):
    trace = svl.trace(tiny, tiny_sample)
    draws = [svl.redundancy(trace, criterion="random", seed=s).ranking for s in range(20)]
    assert (
        draws[3] == svl.redundancy(trace, criterion="random", seed=3).ranking
        and len(set(draws)) > 5
    )
    with pytest.raises(InputError, match="svl-last, svl-iterated, svl-spaced, shortgpt, angular"):
        svl.redundancy(trace, criterion="best")


def test_runs():
    assert runs_of([7, 2, 3]) == ((2, 3), (7, 7)) and runs_of([]) == ()


def test_gap_on_paper():
    features = torch.zeros(3, 4, 5)
    features[0, :, 0], features[1, :, 0], features[2, :, 0] = 1.0, 2.0, 2.0
    features[2, :, 1] = torch.tensor([0.0, 0.0, 1.5, 1.5])
    trace = traced([A, A], features)
    gap = feature_gap(trace, [1], tokens="all")
    np.testing.assert_allclose(gap.per_layer, [0.5, (0 + 0 + 0.6 + 0.6) / 4], atol=1e-6)
    (run,) = gap.runs
    assert (run.first, run.last) == (1, 1) and run.relative == pytest.approx(0.3)
    np.testing.assert_allclose(run.spectrum, [np.sqrt(2 * 1.5**2), 0, 0, 0], atol=1e-6)
    assert run.energy(1) == pytest.approx(1)


def test_gram_gives_the_singular_values_of_the_difference(tiny, tiny_sample):
    trace = svl.trace(tiny, tiny_sample)
    at = (np.arange(10),)
    difference = (
        (trace.samples[0].features[4, :10] - trace.samples[0].features[2, :10]).double().numpy()
    )
    np.testing.assert_allclose(
        np.sqrt(np.linalg.eigvalsh(gram_of_difference(trace, at, 2, 3))[::-1][:10]),
        np.linalg.svd(difference, compute_uv=False),
        rtol=1e-6,
    )


def test_pca_view_against_a_plain_svd():
    rng = np.random.default_rng(0)
    before, target = rng.normal(size=(20, 6)), rng.normal(2, 3, size=(20, 6))
    view = pca_view(before, target, before + 1)
    both = np.concatenate([before, target])
    _, values, directions = np.linalg.svd(both - both.mean(0), full_matrices=False)
    ours, plain = (
        np.concatenate([view.before, view.target]),
        (both - both.mean(0)) @ directions[:2].T,
    )
    np.testing.assert_allclose(np.abs(ours), np.abs(plain), atol=1e-5)
    np.testing.assert_allclose(view.explained, (values**2 / (values**2).sum())[:2], atol=1e-9)
    assert view.after.shape == (20, 2)
    later = pca_view(before, target).with_after(before + 1)
    assert np.array_equal(later.after, view.after) and np.array_equal(later.before, view.before)
    shift = (np.ones(6) @ view.components.T).astype(np.float32)  # a plane is affine
    np.testing.assert_allclose(view.after - view.before, np.tile(shift, (20, 1)), atol=1e-5)
    assert pca_view(before[:1], target[:1]).before.shape == (1, 2)
