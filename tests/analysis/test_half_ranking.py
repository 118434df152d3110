"""Halves of layers ranked by each criterion that measures them, against sums of the test's own."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.analysis.criteria import CRITERIA
from svl_core.comparison.methods import methods
from svl_core.lvlm.families import find_decoder
from svl_core.pruning.view import pruned_view

L = 6
ENDS = (0, 1, 10, 11)
SERVING = ("svl", "svl-all", "svl-visual", "svl-textual", "svl-last", "shortgpt", "sleb")
SERVING = (*SERVING, "greedy-kl", "random")


@pytest.fixture(scope="module")
def asked(tiny, image, tiny_sample):
    """Two samples and their trace."""
    samples = [tiny_sample, tiny.encode(image, "a cat")]
    return samples, svl.trace(tiny, samples)


def cosines_by_hand(lvlm, sample):
    """(S, 2 L): cosines of what enters and leaves each half, at every position."""
    seen, handles = {}, []
    for number, layer in enumerate(lvlm.layers):
        for name in ("self_attn", "mlp"):
            handles.append(
                getattr(layer, name).register_forward_hook(
                    lambda module, args, output, key=(number, name): seen.__setitem__(key, output)
                )
            )
        handles.append(
            layer.register_forward_pre_hook(
                lambda module, args, number=number: seen.__setitem__(number, args[0])
            )
        )
    with torch.inference_mode():
        lvlm.model(**sample.inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    columns = []
    for number in range(L):
        entered = seen[number][0].double().numpy()
        between = entered + seen[number, "self_attn"][0][0].double().numpy()
        left = between + seen[number, "mlp"][0].double().numpy()
        for before, after in ((entered, between), (between, left)):
            lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            columns.append((before * after).sum(1) / lengths)
    return np.stack(columns, 1)


@pytest.mark.parametrize(
    "criterion, chosen",
    [
        ("svl-all", lambda sample: np.arange(sample.length)),
        ("svl-visual", lambda sample: sample.visual),
        ("svl-last", lambda sample: [sample.length - 1]),
        ("shortgpt", lambda sample: np.arange(sample.length)),
    ],
)
def test_a_half_counts_by_what_it_changes(tiny, asked, criterion, chosen):
    samples, read = asked
    rows = [cosines_by_hand(tiny, sample)[chosen(sample)] for sample in samples]
    expected = np.concatenate(rows).mean(0)
    found = svl.redundancy(read, None, criterion, lvlm=tiny, granularity="half")
    assert np.allclose(found.scores, expected, atol=1e-5)
    order = sorted(range(2 * L), key=lambda half: -expected[half])
    assert found.ranking == tuple(half for half in order if half not in ENDS)
    assert found.protected == ENDS and found.num_layers == L and found.most == 2 * L - 4
    assert found.settings["granularity"] == "half"


def test_important_tokens_are_those_that_layers_are_ranked_on(tiny, asked):
    samples, read = asked
    importance = svl.importance(read)
    positions = svl.sublayers(tiny, read, importance).cosine
    found = svl.redundancy(read, importance, "svl", lvlm=tiny, granularity="half")
    assert np.allclose(found.scores, positions.ravel(), atol=1e-12)
    assert found.table()[0] == ("half", "score")
    assert all(name.split()[1] in ("attention", "mlp") for name, _ in found.table()[1:])


def zeroed(lvlm, half):
    """A copy without one half, of the given number."""
    model = copy.deepcopy(lvlm.model)
    layer = find_decoder(model).layers[half // 2]
    (layer.mlp.down_proj if half % 2 else layer.self_attn.o_proj).weight.zero_()
    return replace(lvlm, model=model)


def test_greedy_kl_tries_each_half_and_re_scores(tiny, asked):
    """The first round is the KL from copies whose half writes nothing; the second drops the half
    that does least beside the first.
    """
    samples, read = asked
    answers = [(7, 9), (12,)]
    found = svl.redundancy(
        read,
        None,
        "greedy-kl",
        lvlm=tiny,
        samples=samples,
        answers=answers,
        rounds=2,
        granularity="half",
    )

    def log_probabilities(lvlm, sample, answer):
        ids = torch.cat([sample.inputs["input_ids"], torch.tensor([answer[:-1]])], 1).long()
        inputs = {**sample.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            logits = lvlm.model(**inputs, use_cache=False).logits[0, sample.length - 1 :]
        shifted = logits.double().numpy()
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def divergence(lvlm):
        means = []
        for sample, answer in zip(samples, answers):
            full = log_probabilities(tiny, sample, answer)
            other = log_probabilities(lvlm, sample, answer)
            means.append((np.exp(full) * (full - other)).sum(1).mean())
        return np.mean(means)

    alone = [divergence(zeroed(tiny, half)) for half in range(2 * L)]
    assert np.allclose(-found.scores, alone, atol=1e-5)
    free = [half for half in range(2 * L) if half not in ENDS]
    first = min(free, key=lambda half: alone[half])
    without = zeroed(tiny, first)
    pairs = {half: divergence(zeroed(without, half)) for half in free if half != first}
    second = min(pairs, key=pairs.get)
    assert found.ranking[:2] == (first, second)
    assert found.path == pytest.approx((alone[first], pairs[second]), abs=1e-5)


def test_plans_of_halves_are_nested_and_whole_where_both_go(tiny, asked):
    _, read = asked
    scores = svl.redundancy(read, None, "svl-all", lvlm=tiny, granularity="half")
    before = set()
    for drop in range(scores.most + 1):
        plan = svl.plan(scores, drop)
        gone = {2 * layer + half for layer in plan.drop for half in (0, 1)}
        gone |= {2 * layer for layer in plan.attention} | {2 * layer + 1 for layer in plan.mlp}
        assert gone == set(scores.ranking[:drop]) and before <= gone and plan.halves == drop
        before = gone
    assert plan.drop == (1, 2, 3, 4) and not plan.skipped
    with pytest.raises(svl.InputError, match="Found 9 halves of layers to drop; expected 0 to 8"):
        svl.plan(scores, 9)


def test_a_layer_that_others_need_keeps_its_attention(tiny, asked):
    _, read = asked
    needed = replace(read, protected=(3,))
    scores = svl.redundancy(needed, None, "svl-all", lvlm=tiny, granularity="half")
    assert scores.protected == (*ENDS[:2], 6, *ENDS[2:])
    free = svl.redundancy(
        needed,
        None,
        "svl-all",
        lvlm=tiny,
        granularity="half",
        protect_ends=False,
    )
    assert free.protected == (6,)


def test_a_half_that_is_gone_is_not_ranked_again(tiny, tiny_sample):
    view = pruned_view(tiny, range(L), attention=[2])
    read = svl.trace(view, tiny_sample)
    scores = svl.redundancy(read, None, "svl-all", lvlm=view, granularity="half")
    assert scores.protected == (0, 1, 4, 10, 11)
    layers = svl.redundancy(read, svl.importance(read), "svl")
    assert len(layers.ranking) == 4 and not np.isnan(layers.scores).any()


def test_a_draw_of_halves_is_the_seed_s(tiny, asked):
    _, read = asked
    drawn = [
        svl.redundancy(read, None, "random", seed=seed, lvlm=tiny, granularity="half").ranking
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and set(drawn[0]) == set(range(12)) - set(ENDS)


def test_criteria_without_a_measure_of_halves_say_which_have_one(tiny, asked):
    samples, read = asked
    assert tuple(name for name, row in CRITERIA.items() if row.serves_halves) == SERVING
    listed = {row["name"] for row in methods()["criteria"] if row["serves_halves"]}
    assert listed == set(SERVING)
    for name in set(CRITERIA) - set(SERVING):
        with pytest.raises(svl.InputError) as refused:
            svl.redundancy(read, None, name, lvlm=tiny, samples=samples, granularity="half")
        assert str(refused.value) == (
            f"Found the criterion {name!r} for halves of layers; expected one that measures an"
            f" attention or an MLP alone: {', '.join(SERVING)}; choose one, or rank whole layers."
        )
    with pytest.raises(svl.InputError, match="rank without the traced model; expected it, for"):
        svl.redundancy(read, None, "svl-all", granularity="half")


def test_what_is_known_of_one_sample_is_not_measured_again(tiny, asked, monkeypatch):
    """The same scores and ranking without a pass; of other tokens, or of a set, it is measured."""
    from svl_core.analysis import sublayers as measuring

    samples, _ = asked
    read = svl.trace(tiny, samples[:1])
    weights = svl.importance(read)
    options = {"lvlm": tiny, "granularity": "half"}
    wanted = svl.redundancy(read, weights, "svl", **options)
    known = svl.sublayers(tiny, read, weights)
    taken = []
    real = measuring._measured
    monkeypatch.setattr(measuring, "_measured", lambda *a: taken.append(1) or real(*a))
    found = svl.redundancy(read, weights, "svl", halves=known, **options)
    assert not taken and found.ranking == wanted.ranking
    assert np.allclose(found.scores, wanted.scores)
    svl.redundancy(read, weights, "svl-all", halves=known, **options)
    assert len(taken) == 1
    svl.redundancy(svl.trace(tiny, samples), None, "svl", halves=known, **options)
    assert len(taken) == 3
