"""TIS and top-p on numbers worked out on paper."""

import numpy as np
import pytest
import torch

from svl_core.analysis.attention import SUMS, Collector
from svl_core.analysis.importance import TokenImportance, TopP, importance
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.errors import InputError

# A 4 x 4 causal attention matrix; positions 0, 2 are visual, 1, 3 textual.
A = np.array([[1.0, 0, 0, 0], [0.6, 0.4, 0, 0], [0.5, 0.2, 0.3, 0], [0.1, 0.2, 0.3, 0.4]])


def statistics(maps):
    """Through the real collector: keys and queries whose softmax is the given matrix (log-weights as an additive mask)."""
    collector = Collector(len(maps), np.array([0, 2]), np.array([1, 3]))
    for layer, rows in enumerate(maps):
        zeros = torch.zeros(1, 2, 4, 3)
        with np.errstate(divide="ignore"):
            mask = torch.from_numpy(np.log(rows)).float()[None, None].clamp_min(torch.finfo(torch.float32).min)
        collector.add(layer, zeros, zeros, mask, 1.0, None)
    return collector.statistics()


def traced(maps, features=None):
    features = torch.randn(len(maps) + 1, 4, 5, generator=torch.Generator().manual_seed(0)) if features is None else features
    return Trace((SampleTrace(features, np.array([0, 2]), np.array([1, 3]), statistics(maps), np.zeros(3), "k"),), "paper", tuple(range(len(maps))), (), 0.0)


def test_tis_on_paper():
    scores = importance(traced([A]))
    # visual 0: visual queries 0, 2: (1 + .5) / 2 = .75; textual queries 1, 3: (.6 + .1) / 2 = .35 -> .55
    # visual 2: (0 + .3) / 2 = .15; (0 + .3) / 2 = .15 -> .15
    np.testing.assert_allclose(scores.visual[0], [[0.55, 0.15]], atol=1e-6)
    # text 1: over visual keys (.6 + 0) / 2 = .3; received from textual queries 1, 3: (.4 + .2) / 2 = .3 -> .3
    # text 3: (.1 + .3) / 2 = .2; (0 + .4) / 2 = .2 -> .2
    np.testing.assert_allclose(scores.text[0], [[0.3, 0.2]], atol=1e-6)


def test_attention_given_and_causal_correction_on_paper():
    given = importance(traced([A]), text_self="given")
    # text 1: (.3 + (.4 + 0) / 2) / 2 = .25; text 3: (.2 + (.2 + .4) / 2) / 2 = .25
    np.testing.assert_allclose(given.text[0], [[0.25, 0.25]], atol=1e-6)
    corrected = importance(traced([A]), causal_correction=True)
    # visual 2 is seen by one visual query (.3) and one textual query (.3) -> .3; visual 0 by all: .55
    np.testing.assert_allclose(corrected.visual[0], [[0.55, 0.3]], atol=1e-6)
    # text 1 sees one visual key (.6), received by queries 1, 3 -> (.6 + .3) / 2; text 3 sees two (.2), is seen by one (.4)
    np.testing.assert_allclose(corrected.text[0], [[0.45, 0.3]], atol=1e-6)


def test_average_over_layers_and_one_layer():
    other = np.array([[1.0, 0, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0.2, 0.7, 0], [0.3, 0.2, 0.1, 0.4]])
    both, first, second = importance(traced([A, other])), importance(traced([A])), importance(traced([other]))
    np.testing.assert_allclose(both.averaged(0)[0], (first.visual[0][0] + second.visual[0][0]) / 2, atol=1e-7)
    np.testing.assert_array_equal(both.layer(0, 1)[1], second.text[0][0])


def test_heads_are_averaged_and_grouped_keys_repeat():
    generator = torch.Generator().manual_seed(1)
    query, key = torch.randn(1, 4, 4, 3, generator=generator), torch.randn(1, 2, 4, 3, generator=generator)
    collector = Collector(1, np.array([0, 2]), np.array([1, 3]))
    collector.add(0, query, key, None, 0.5, None)
    expected = np.zeros((4, 4))
    for head in range(4):  # written out: head h uses key group h // 2
        for i in range(4):
            row = np.exp([0.5 * float(query[0, head, i] @ key[0, head // 2, j]) for j in range(i + 1)])
            expected[i, :i + 1] += row / row.sum() / 4
    np.testing.assert_allclose(collector.statistics().visual_from_text[0], expected[[1, 3]][:, [0, 2]].sum(0), atol=1e-6)


@pytest.mark.parametrize("p, mode, expected", [
    (0.5, "fraction", [1, 0, 1, 0]), (0.3, "fraction", [1, 0, 1, 0]), (0.25, "fraction", [1, 0, 0, 0]), (1.0, "fraction", [1, 1, 1, 1]),
    (0.4, "mass", [1, 0, 0, 0]), (0.41, "mass", [1, 0, 1, 0]), (0.7, "mass", [1, 0, 1, 0]), (0.75, "mass", [1, 0, 1, 1]), (1.0, "mass", [1, 1, 1, 1]),
])
def test_top_p_on_paper(p, mode, expected):
    np.testing.assert_array_equal(TopP(p, mode).select(np.array([0.4, 0.1, 0.3, 0.2])), np.array(expected, bool))


def test_top_p_edges():
    assert TopP(0.01).select(np.array([3.0])).tolist() == [True]
    assert TopP(0.5, "mass").select(np.zeros(4)).sum() == 2
    assert TopP().select(np.zeros(0)).shape == (0,)
    for p, mode in ((0, "fraction"), (1.1, "fraction"), (float("nan"), "mass"), (0.5, "best")):
        with pytest.raises(InputError, match="Found"):
            TopP(p, mode)


def test_token_sets():
    trace = traced([A])
    scores = importance(trace)
    assert {name: token_positions(trace, scores, name)[0].tolist() for name in ("important", "all", "visual", "textual", "last")} == {
        "important": [0, 1], "all": [0, 1, 2, 3], "visual": [0, 2], "textual": [1, 3], "last": [3]}
    with pytest.raises(InputError, match="important, all, visual"):
        token_positions(trace, scores, "best")


def test_a_prompt_without_image_has_text_scores_only():
    collector = Collector(1, np.array([], int), np.arange(4))
    with np.errstate(divide="ignore"):
        collector.add(0, torch.zeros(1, 1, 4, 3), torch.zeros(1, 1, 4, 3), torch.from_numpy(np.log(A)).float()[None, None].clamp_min(-1e30), 1.0, None)
    trace = Trace((SampleTrace(torch.ones(2, 4, 5), np.array([], int), np.arange(4), collector.statistics(), np.zeros(3), "k"),), "text", (0,), (), 0.0)
    scores = importance(trace)
    assert scores.visual[0].shape == (1, 0)
    np.testing.assert_allclose(scores.text[0][0], A.sum(0) / 4, atol=1e-6)
    assert len(token_positions(trace, scores, "visual")[0]) == 0 and len(token_positions(trace, scores)[0]) == 2


def test_every_sum_is_filled_for_every_layer():
    stats = statistics([A, A])
    for name in SUMS:
        assert np.isfinite(getattr(stats, name)).all()
        with pytest.raises(ValueError):
            getattr(stats, name)[0, 0] = 1
    assert isinstance(importance(traced([A])), TokenImportance)
