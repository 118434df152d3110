"""TIS and top-p on numbers worked out on paper."""

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.analysis import attention
from svl_core.analysis.attention import SUMS, Collector
from svl_core.analysis.importance import TokenImportance, TopP, importance
from svl_core.analysis.ranking import importance_of, top_p_of
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.errors import InputError
from svl_core.recipe import Recipe

BLOCKED = torch.finfo(torch.float32).min  # of a pair that the mask takes away

# A 4 x 4 causal attention matrix; positions 0, 2 are visual, 1, 3 textual.
A = np.array([[1.0, 0, 0, 0], [0.6, 0.4, 0, 0], [0.5, 0.2, 0.3, 0], [0.1, 0.2, 0.3, 0.4]])


def statistics(maps):
    """Through the real collector: keys and queries whose softmax is the given matrix (log-weights
    as an additive mask).
    """
    collector = Collector(len(maps), np.array([0, 2]), np.array([1, 3]))
    for layer, rows in enumerate(maps):
        zeros = torch.zeros(1, 2, 4, 3)
        with np.errstate(divide="ignore"):
            mask = (
                torch.from_numpy(np.log(rows))
                .float()[None, None]
                .clamp_min(torch.finfo(torch.float32).min)
            )
        collector.add(layer, zeros, zeros, mask, 1.0, None)
    return collector.statistics()


def traced(maps, features=None):
    features = (
        torch.randn(len(maps) + 1, 4, 5, generator=torch.Generator().manual_seed(0))
        if features is None
        else features
    )
    return Trace(
        (
            SampleTrace(
                features, np.array([0, 2]), np.array([1, 3]), statistics(maps), np.zeros(3), "k"
            ),
        ),
        "paper",
        tuple(range(len(maps))),
        (),
        0.0,
    )


def test_tis_on_paper():
    scores = importance(traced([A]))
    # visual 0: visual queries 0, 2: (1 + .5) / 2 = .75; textual queries 1, 3: (.6 + .1) / 2 = .35
    # -> .55
    # visual 2: (0 + .3) / 2 = .15; (0 + .3) / 2 = .15 -> .15
    np.testing.assert_allclose(scores.visual[0], [[0.55, 0.15]], atol=1e-6)
    # text 1: over visual keys (.6 + 0) / 2 = .3; received from textual queries 1, 3: (.4 + .2) / 2
    # = .3 -> .3
    # text 3: (.1 + .3) / 2 = .2; (0 + .4) / 2 = .2 -> .2
    np.testing.assert_allclose(scores.text[0], [[0.3, 0.2]], atol=1e-6)


def test_attention_given_and_causal_correction_on_paper():
    given = importance(traced([A]), text_self="given")
    # text 1: (.3 + (.4 + 0) / 2) / 2 = .25; text 3: (.2 + (.2 + .4) / 2) / 2 = .25
    np.testing.assert_allclose(given.text[0], [[0.25, 0.25]], atol=1e-6)
    corrected = importance(traced([A]), causal_correction=True)
    # visual 2 is seen by one visual query (.3) and one textual query (.3) -> .3; visual 0 by all:
    # .55
    np.testing.assert_allclose(corrected.visual[0], [[0.55, 0.3]], atol=1e-6)
    # text 1 sees one visual key (.6), received by queries 1, 3 -> (.6 + .3) / 2; text 3 sees two
    # (.2), is seen by one (.4)
    np.testing.assert_allclose(corrected.text[0], [[0.45, 0.3]], atol=1e-6)


def test_average_over_layers_and_one_layer():
    other = np.array([[1.0, 0, 0, 0], [0.2, 0.8, 0, 0], [0.1, 0.2, 0.7, 0], [0.3, 0.2, 0.1, 0.4]])
    both, first, second = (
        importance(traced([A, other])),
        importance(traced([A])),
        importance(traced([other])),
    )
    np.testing.assert_allclose(
        both.averaged(0)[0], (first.visual[0][0] + second.visual[0][0]) / 2, atol=1e-7
    )
    np.testing.assert_array_equal(both.layer(0, 1)[1], second.text[0][0])


def test_heads_are_averaged_and_grouped_keys_repeat():
    generator = torch.Generator().manual_seed(1)
    query, key = (
        torch.randn(1, 4, 4, 3, generator=generator),
        torch.randn(1, 2, 4, 3, generator=generator),
    )
    collector = Collector(1, np.array([0, 2]), np.array([1, 3]))
    collector.add(0, query, key, None, 0.5, None)
    expected = np.zeros((4, 4))
    for head in range(4):  # written out: head h uses key group h // 2
        for i in range(4):
            row = np.exp(
                [0.5 * float(query[0, head, i] @ key[0, head // 2, j]) for j in range(i + 1)]
            )
            expected[i, : i + 1] += row / row.sum() / 4
    np.testing.assert_allclose(
        collector.statistics().visual_from_text[0], expected[[1, 3]][:, [0, 2]].sum(0), atol=1e-6
    )


@pytest.mark.parametrize(
    "chunk, group, size",
    [(128, 4, 1.0), (5, 1, 1.0), (7, 3, 1.0), (4, 4, 1.0), (128, 4, 40.0), (5, 3, 40.0)],
)
@pytest.mark.parametrize(
    "visual",
    [(0, 1, 4, 5, 6, 11), (3, 4, 5, 6, 7, 8, 9), (5,), (0, 2, 4, 6, 8, 10, 12), (1, 3, 5, 7, 9)],
    ids=str,
)
def test_row_totals_told_by_the_attention_change_no_sum(monkeypatch, chunk, group, size, visual):
    """Whatever the steps are and wherever the visual tokens lie, also where scores are far beyond
    what float32 holds as powers; the oracle is a softmax in float64.
    """
    monkeypatch.setattr(attention, "steps", lambda *_: (chunk, group))
    generator, visual = torch.Generator().manual_seed(2), np.array(visual)
    query, key = (
        size * torch.randn(1, 4, 13, 3, generator=generator),
        torch.randn(1, 2, 13, 3, generator=generator),
    )
    scores = 0.5 * (
        query[0].double() @ key[0].double().repeat_interleave(2, 0).transpose(1, 2)
    ).masked_fill(torch.ones(13, 13).triu(1).bool(), float("-inf"))
    rows, textual = scores.softmax(-1).mean(0).numpy(), np.setdiff1d(np.arange(13), visual)
    collector = Collector(1, visual, textual)
    collector.add(0, query, key, None, 0.5, None, totals=scores.logsumexp(-1)[None].float())
    found = collector.statistics()
    for name, expected in {
        "visual_from_visual": rows[visual][:, visual].sum(0),
        "visual_from_text": rows[textual][:, visual].sum(0),
        "text_from_text": rows[textual][:, textual].sum(0),
        "text_to_visual": rows[textual][:, visual].sum(1),
        "text_to_text": rows[textual][:, textual].sum(1),
    }.items():
        np.testing.assert_allclose(getattr(found, name)[0], expected, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_processors_own_attention_tells_its_row_totals(dtype):
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, 4, 9, 8, generator=generator).to(dtype) for _ in range(2))
    with torch.inference_mode(), attention._Totals() as watched:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True)
    with torch.inference_mode():
        assert torch.equal(
            out, torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True)
        )
    scores = (query.double() @ key.double().transpose(2, 3) / 8**0.5).masked_fill(
        torch.ones(9, 9).triu(1).bool(), float("-inf")
    )
    assert watched.totals is not None and (watched.totals - scores.logsumexp(-1)).abs().max() < (
        1e-5 if dtype == torch.float32 else 0.05
    )


def test_the_trace_takes_them(tiny, tiny_sample, monkeypatch):
    """Else it would look at each row as a whole; same sums either way."""
    told = []
    own = Collector.add

    def add(self, **layer):
        told.append(layer["totals"] is not None)
        return own(self, **{**layer, "totals": None if plain else layer["totals"]})

    monkeypatch.setattr(Collector, "add", add)
    plain = False
    fast = svl.trace(tiny, tiny_sample).samples[0].attention
    plain = True
    slow = svl.trace(tiny, tiny_sample).samples[0].attention
    assert all(told) and told
    for name in SUMS:
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=1e-5)


@pytest.mark.parametrize(
    "p, mode, expected",
    [
        (0.5, "fraction", [1, 0, 1, 0]),
        (0.3, "fraction", [1, 0, 1, 0]),
        (0.25, "fraction", [1, 0, 0, 0]),
        (1.0, "fraction", [1, 1, 1, 1]),
        (0.4, "mass", [1, 0, 0, 0]),
        (0.41, "mass", [1, 0, 1, 0]),
        (0.7, "mass", [1, 0, 1, 0]),
        (0.75, "mass", [1, 0, 1, 1]),
        (1.0, "mass", [1, 1, 1, 1]),
    ],
)
def test_top_p_on_paper(p, mode, expected):
    np.testing.assert_array_equal(
        TopP(p, mode).select(np.array([0.4, 0.1, 0.3, 0.2])), np.array(expected, bool)
    )


def test_top_p_edges():
    assert TopP(0.01).select(np.array([3.0])).tolist() == [True]
    assert TopP(0.5, "mass").select(np.zeros(4)).sum() == 2
    assert TopP().select(np.zeros(0)).shape == (0,)
    for p, mode in ((0, "fraction"), (1.1, "fraction"), (float("nan"), "mass"), (0.5, "best")):
        with pytest.raises(InputError, match="Found"):
            TopP(p, mode)


@pytest.mark.parametrize(
    "p, mode, scores, expected",
    [  # the first never; of the others the best by p; the last always
        (0.5, "fraction", [9, 1, 4, 3, 2], [0, 0, 1, 1, 1]),  # 2 of 4, and the last
        (0.5, "fraction", [9, 1, 2, 3, 4], [0, 0, 0, 1, 1]),  # the last is among them
        (1.0, "fraction", [9, 1, 4], [0, 1, 1]),
        (0.4, "mass", [9, 1, 4, 3, 2], [0, 0, 1, 0, 1]),  # 4 of 10 hold 0.4
        (0.5, "fraction", [9, 0], [0, 1]),
        (0.5, "fraction", [9], [1]),
        (0.5, "fraction", [], []),
    ],
)
def test_sink_aware_choice_on_paper(p, mode, scores, expected):
    scores = np.array(scores, float)
    chosen = TopP(p, mode, "sink-aware").select_text(scores)
    np.testing.assert_array_equal(chosen, np.array(expected, bool))
    plain = TopP(p, mode)
    np.testing.assert_array_equal(plain.select_text(scores), plain.select(scores))


def test_text_ends_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="'both'; expected one of scored, sink-aware; change it"):
        TopP(text_ends="both")


def attentions(layers, size, seed):
    """(L, S, S) causal attention, rows = queries, the first key drawing most of it."""
    scores = np.random.default_rng(seed).normal(size=(layers, size, size))
    scores[:, :, 0] += 2
    weights = np.exp(scores) * np.tri(size)
    return weights / weights.sum(-1, keepdims=True)


def important_by_numpy(maps, visual, textual, given, corrected, aware, share):
    """Every reading written anew: which positions count, from whole attention matrices."""
    size = maps.shape[1]

    def block(queries, keys, along):
        """Mean over queries (0) or keys (1), over the pairs that the mask leaves if corrected."""
        part = maps[:, queries][:, :, keys]
        seen = np.tri(size)[queries][:, keys]
        pairs = seen.sum(along) if corrected else np.full(seen.sum(along).shape, seen.shape[along])
        return part.sum(1 + along) / np.maximum(pairs, 1)

    of_visual = (block(visual, visual, 0) + block(textual, visual, 0)) / 2
    own = block(textual, textual, 1 if given else 0)
    of_text = ((block(textual, visual, 1) + own) / 2).mean(0)

    def best(scores, positions):
        count = int(np.ceil(share * len(scores)))
        return set(positions[np.argsort(-scores, kind="stable")[:count]].tolist())

    text = best(of_text, textual)
    if aware:
        text = best(of_text[1:], textual[1:]) | {int(textual[-1])}
    return sorted(best(of_visual.mean(0), visual) | text)


@pytest.mark.parametrize("text_ends", ["scored", "sink-aware"])
@pytest.mark.parametrize("causal_correction", [False, True])
@pytest.mark.parametrize("text_self", ["received", "given"])
def test_every_reading_against_whole_attention_matrices(text_self, causal_correction, text_ends):
    maps = attentions(3, 11, seed=4)
    visual, textual = np.arange(1, 6), np.array([0, 6, 7, 8, 9, 10])
    collector = Collector(3, visual, textual)
    for layer, rows in enumerate(maps):
        with np.errstate(divide="ignore"):
            mask = torch.from_numpy(np.log(rows)).float()[None, None].clamp_min(BLOCKED)
        collector.add(layer, *[torch.zeros(1, 1, 11, 3)] * 2, mask, 1.0, None)
    features = torch.ones(4, 11, 5)
    sample = SampleTrace(features, visual, textual, collector.statistics(), np.zeros(3), "reading")
    trace = Trace((sample,), "paper", (0, 1, 2), (), 0.0)
    recipe = Recipe(
        top_p=0.4,
        text_self=text_self,
        causal_correction=causal_correction,
        text_ends=text_ends,
    )
    weighed = importance_of(trace, recipe)
    found = token_positions(trace, weighed, "important", top_p_of(recipe))[0]
    given, aware = text_self == "given", text_ends == "sink-aware"
    expected = important_by_numpy(maps, visual, textual, given, causal_correction, aware, 0.4)
    assert found.tolist() == expected
    assert (weighed.text_self, weighed.causal_correction) == (text_self, causal_correction)
    if aware:
        assert 0 not in found and 10 in found


def test_token_sets():
    trace = traced([A])
    scores = importance(trace)
    assert {
        name: token_positions(trace, scores, name)[0].tolist()
        for name in ("important", "all", "visual", "textual", "last")
    } == {
        "important": [0, 1],
        "all": [0, 1, 2, 3],
        "visual": [0, 2],
        "textual": [1, 3],
        "last": [3],
    }
    with pytest.raises(InputError, match="important, all, visual"):
        token_positions(trace, scores, "best")


def test_a_prompt_without_image_has_text_scores_only():
    collector = Collector(1, np.array([], int), np.arange(4))
    with np.errstate(divide="ignore"):
        collector.add(
            0,
            torch.zeros(1, 1, 4, 3),
            torch.zeros(1, 1, 4, 3),
            torch.from_numpy(np.log(A)).float()[None, None].clamp_min(-1e30),
            1.0,
            None,
        )
    trace = Trace(
        (
            SampleTrace(
                torch.ones(2, 4, 5),
                np.array([], int),
                np.arange(4),
                collector.statistics(),
                np.zeros(3),
                "k",
            ),
        ),
        "text",
        (0,),
        (),
        0.0,
    )
    scores = importance(trace)
    assert scores.visual[0].shape == (1, 0)
    np.testing.assert_allclose(scores.text[0][0], A.sum(0) / 4, atol=1e-6)
    assert (
        len(token_positions(trace, scores, "visual")[0]) == 0
        and len(token_positions(trace, scores)[0]) == 2
    )


def test_every_sum_is_filled_for_every_layer():
    stats = statistics([A, A])
    for name in SUMS:
        assert np.isfinite(getattr(stats, name)).all()
        with pytest.raises(ValueError):
            getattr(stats, name)[0, 0] = 1
    assert isinstance(importance(traced([A])), TokenImportance)
