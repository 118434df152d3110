"""SVL's iterated ranking: against brute force with hooks of its own, and against the one-shot
ranking of each pruned view.
"""

import numpy as np
import pytest
import torch
from test_criteria import lvlm_of, samples_of, scored

import svl_core as svl
from svl_core.analysis.importance import TopP

ITERATED = "svl-iterated"


def similarities(lvlm, samples, skipped):
    """Mean over all tokens of cos(what enters a layer, what leaves it), skipped layers handing
    their input on; nothing of the project's own trace.
    """
    sums, count = np.zeros(lvlm.num_layers), 0

    def watch(layer):
        def hook(module, args, kwargs, output):
            entering = args[0] if args else kwargs["hidden_states"]
            if layer in skipped:
                return entering
            a, b = entering[0].double().numpy(), output[0].double().numpy()
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            sums[layer] += ((a * b).sum(1) / lengths).sum()

        return lvlm.layers[layer].register_forward_hook(hook, with_kwargs=True)

    handles = [watch(layer) for layer in range(lvlm.num_layers)]
    try:
        with torch.no_grad():
            for sample in samples:
                lvlm.model(**sample.inputs)
                count += sample.length
    finally:
        for handle in handles:
            handle.remove()
    return sums / count


def test_brute_force_on_five_layers():
    """All tokens count (top-p 1), so that hidden states alone decide."""
    lvlm = lvlm_of(5, seed=2)
    samples = samples_of(lvlm)
    gone, path = [], []
    while len(gone) < 3:
        found = similarities(lvlm, samples, gone)
        left = [layer for layer in (1, 2, 3) if layer not in gone]
        gone.append(max(left, key=lambda layer: found[layer]))
        path.append(1 - found[gone[-1]])
    scores = scored(lvlm, ITERATED, samples, top_p=TopP(1.0))
    assert list(scores.ranking) == gone and scores.protected == (0, 4)
    np.testing.assert_allclose(scores.path, path, atol=1e-6)
    np.testing.assert_allclose(scores.scores, similarities(lvlm, samples, ()) - 1, atol=1e-6)


@pytest.mark.parametrize("top_p", [TopP(0.4), TopP(0.6, "mass", "sink-aware")], ids=str)
@pytest.mark.parametrize("reading", [{}, {"text_self": "given", "causal_correction": True}])
def test_each_round_is_the_one_shot_ranking_of_what_is_left(reading, top_p):
    """Important tokens are chosen anew in each round, by the reading that is asked for."""
    lvlm = lvlm_of(6, seed=4)
    samples = samples_of(lvlm)
    trace = svl.trace(lvlm, samples)
    scores = svl.redundancy(
        trace,
        svl.importance(trace, **reading),
        ITERATED,
        top_p=top_p,
        lvlm=lvlm,
        samples=samples,
    )
    kept, path = list(range(6)), []
    for layer in scores.ranking:
        view = svl.pruned_view(lvlm, kept)
        traced = svl.trace(view, samples)
        once = svl.redundancy(traced, svl.importance(traced, **reading), top_p=top_p)
        assert kept[once.ranking[0]] == layer
        path.append(1 - once.scores[kept.index(layer)])
        kept.remove(layer)
    np.testing.assert_allclose(scores.path, path, atol=1e-9)


def test_one_round_ranks_as_the_one_shot_criterion_does(tiny, tiny_sample):
    trace = svl.trace(tiny, tiny_sample)
    once = svl.redundancy(trace)
    scores = svl.redundancy(trace, criterion=ITERATED, lvlm=tiny, samples=tiny_sample, rounds=1)
    assert scores.ranking == once.ranking and len(scores.path) == 1
    np.testing.assert_allclose(scores.scores, once.scores - 1, atol=1e-9)


def test_it_is_resampled_round_by_round(tiny):
    samples = samples_of(tiny, 3)
    trace = svl.trace(tiny, samples)
    found = svl.stability(
        trace, criterion=ITERATED, drop=2, draws=20, lvlm=tiny, samples=samples, rounds=2
    )
    assert len(found.by_round) == 2
    scores = svl.redundancy(trace, criterion=ITERATED, lvlm=tiny, samples=samples, rounds=2)
    np.testing.assert_allclose(found.scores.scores, scores.scores)
    assert found.scores.ranking == scores.ranking
