"""Bootstrap of rankings against scipy, scikit-learn and the textbook's standard error."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import jaccard_score
from test_criteria import log_probabilities, lvlm_of
from test_importance import A, traced
from tiny import picture

import svl_core as svl
from svl_core.analysis.measures import layer_cosines
from svl_core.analysis.redundancy import LayerScores
from svl_core.analysis.stability import overlap, overlap_curve, spearman, stability
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError


def many(n=24, spread=1.0):
    """n samples of one kind of noise: three layers, layer 1 moves least."""
    made, generator = [], torch.Generator().manual_seed(3)
    for _ in range(n):
        features = torch.randn(1, 4, 5, generator=generator).repeat(5, 1, 1)
        for layer, size in enumerate((0.8, 0.2, 0.5, 0.45)):
            features[layer + 1] = features[layer] + spread * size * torch.randn(
                4, 5, generator=generator
            )
        made.append(traced([A] * 4, features).samples[0])
    return Trace(tuple(made), "paper", (0, 1, 2, 3), (), 0.0)


def test_deviation_and_interval_agree_with_scipy():
    trace = many()
    each = np.array(
        [
            layer_cosines(Trace((sample,), "one", (0, 1, 2, 3), (), 0.0), (np.arange(4),))
            for sample in trace.samples
        ]
    )
    found = stability(trace, criterion="svl-all", drop=1, protect_ends=False, draws=4000)
    np.testing.assert_allclose(found.scores.scores, each.mean(0), atol=1e-9)
    np.testing.assert_allclose(
        found.deviation, each.std(0) / np.sqrt(len(each)), rtol=0.05
    )  # the bootstrap's own limit
    oracle = stats.bootstrap(
        (each,),
        np.mean,
        method="percentile",
        n_resamples=4000,
        vectorized=True,
        rng=np.random.default_rng(1),
    )
    np.testing.assert_allclose(
        found.interval[:, 0], oracle.confidence_interval.low, atol=0.1 * each.std(0).max()
    )
    np.testing.assert_allclose(
        found.interval[:, 1], oracle.confidence_interval.high, atol=0.1 * each.std(0).max()
    )


def test_a_clear_ranking_is_stable_and_a_close_one_is_not():
    found = stability(many(), criterion="svl-all", drop=1, protect_ends=False)
    assert found.dropped.tolist() == [0, 1, 0, 0] and found.overlap == 1
    close = stability(many(6), criterion="svl-all", drop=2, protect_ends=False)
    assert (
        close.dropped.sum() == pytest.approx(2)
        and close.dropped[1] == 1
        and 0 < close.dropped[2] < 1
        and close.dropped[2] + close.dropped[3] == pytest.approx(1)
    )
    assert (
        close.overlap == pytest.approx(0.5 + 0.5 * max(close.dropped[2], close.dropped[3]))
        and 0 < close.rank_correlation < 1
    )


def test_equal_samples_leave_nothing_to_doubt(tiny, tiny_sample):
    trace = svl.trace(tiny, [tiny_sample] * 3)
    for criterion in ("svl", "angular", "streamline"):
        found = stability(trace, criterion=criterion, drop=2, draws=20)
        assert found.deviation.max() < 1e-9 and found.overlap == 1 and found.rank_correlation == 1
        assert found.scores.ranking == svl.redundancy(trace, criterion=criterion).ranking


def test_the_same_seed_gives_the_same_draws():
    one, two, three = (
        stability(many(6), criterion="svl-all", drop=1, draws=50, seed=s) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.deviation, two.deviation)
    assert not np.array_equal(one.deviation, three.deviation)


def test_samples_weigh_by_their_tokens(tiny):
    samples = [tiny.encode(picture(seed=k), "a cat " * (1 + 9 * k)) for k in range(2)]
    trace = svl.trace(tiny, samples)
    found = stability(trace, criterion="svl-all", drop=1, draws=20)
    np.testing.assert_allclose(
        found.scores.scores, svl.redundancy(trace, criterion="svl-all").scores, atol=1e-12
    )


def test_shortv_is_resampled_without_measuring_again(tiny):
    samples = [tiny.encode(picture(seed=k), "a cat") for k in range(3)]
    trace = svl.trace(tiny, samples)
    found = stability(trace, criterion="shortv", drop=1, draws=20, lvlm=tiny, samples=samples)
    np.testing.assert_allclose(
        found.scores.scores,
        svl.redundancy(trace, criterion="shortv", lvlm=tiny, samples=samples).scores,
    )
    assert found.deviation[0] > 0 and found.deviation[5] == 0


@pytest.mark.parametrize("criterion", ["sleb", "greedy-kl"])
def test_greedy_criteria_are_resampled_round_by_round(criterion):
    """Against brute force, sample by sample and draw by draw, with passes of its own; and where a
    resample drops the same layers, against a greedy run on the resample itself.
    """
    lvlm = lvlm_of(6, seed=2)
    samples = [
        lvlm.encode(picture(seed=k), prompt)
        for k, prompt in enumerate(
            ("a cat", "how many apples are there ?", "what is in the top left ?", "yes")
        )
    ]
    n, free, answers = (
        len(samples),
        (1, 2, 3, 4),
        [svl.answer(lvlm, sample, max_new_tokens=32).token_ids for sample in samples],
    )
    full = [log_probabilities(lvlm, sample, ids) for sample, ids in zip(samples, answers)]

    @functools.cache
    def measure(i, skipped):
        found = log_probabilities(lvlm, samples[i], answers[i], skipped)
        return float(
            -found.gather(1, torch.tensor(answers[i])[:, None]).mean()
            if criterion == "sleb"
            else (full[i].exp() * (full[i] - found)).sum(1).mean()
        )

    def costs(members, gone):
        return {
            layer: np.mean([measure(i, tuple(sorted((*gone, layer)))) for i in members])
            for layer in free
            if layer not in gone
        }

    path = []
    while len(path) < 3:
        found = costs(range(n), path)
        path.append(min(found, key=found.get))
    sure = stability(
        svl.trace(lvlm, samples),
        criterion=criterion,
        drop=2,
        rounds=3,
        draws=60,
        lvlm=lvlm,
        samples=samples,
    )
    assert list(sure.scores.ranking[:3]) == path
    rng, scores, gone, stayed = np.random.default_rng(0), [], [], []
    for _ in range(60):
        members = rng.integers(n, size=n)
        scores.append([-np.mean([measure(i, (layer,)) for i in members]) for layer in range(6)])
        gone.append(
            [
                min(found, key=found.get)
                for found in (costs(members, path[:place]) for place in range(3))
            ]
        )
        stayed += [members] if gone[-1] == path else []
    assert 0 < len(stayed) < 60  # both kinds are there
    np.testing.assert_allclose(
        sure.by_round,
        [np.mean([each[place] == path[place] for each in gone]) for place in range(2)],
    )
    assert sure.overlap == pytest.approx(np.mean(sure.by_round)) and min(sure.by_round) < 1
    np.testing.assert_allclose(
        sure.dropped, [np.mean([layer in each[:2] for each in gone]) for layer in range(6)]
    )
    alone = np.mean([[-measure(i, (layer,)) for layer in free] for i in range(n)], axis=0)
    assert sure.rank_correlation == pytest.approx(
        np.mean([stats.spearmanr(np.array(each)[list(free)], alone).statistic for each in scores])
    )
    np.testing.assert_allclose(sure.deviation, np.std(scores, axis=0, ddof=1), atol=1e-5)
    np.testing.assert_allclose(
        sure.interval, np.quantile(scores, [0.025, 0.975], axis=0).T, atol=1e-4
    )
    for members in stayed[:2]:
        resample = [samples[i] for i in members]
        assert (
            list(
                svl.redundancy(
                    svl.trace(lvlm, resample),
                    criterion=criterion,
                    lvlm=lvlm,
                    samples=resample,
                    rounds=3,
                ).ranking[:3]
            )
            == path
        )


def test_what_was_measured_is_not_measured_again(tiny):
    samples = [tiny.encode(picture(seed=k), "a cat") for k in range(3)]
    trace = svl.trace(tiny, samples)
    for criterion in ("greedy-kl", "shortv"):
        ranking = svl.redundancy(trace, criterion=criterion, lvlm=tiny, samples=samples, rounds=2)
        again, known = (
            stability(
                trace, criterion=criterion, drop=2, draws=20, lvlm=tiny, samples=samples, rounds=2
            ),
            stability(trace, criterion=criterion, drop=2, draws=20, measured=ranking.measured),
        )
        assert (
            known.to_json() == again.to_json()
            and known.scores.ranking == ranking.ranking
            and known.scores.path == ranking.path
        )


def test_spearman_against_scipy():
    rng = np.random.default_rng(0)
    for n in (2, 5, 12):
        one, other = rng.permutation(n), rng.permutation(n)
        assert spearman(one, other) == pytest.approx(
            stats.spearmanr(np.argsort(one), np.argsort(other)).statistic
        )
    assert spearman([4], [4]) == 1


def test_overlap_on_paper_and_against_jaccard():
    assert overlap((1, 2, 3), (3, 4, 1)) == pytest.approx(2 / 3) and overlap((), (1,)) == 1
    marks = np.zeros((2, 6), int)
    marks[0, [1, 2, 3]] = marks[1, [1, 3, 4]] = 1
    jaccard = jaccard_score(*marks)
    assert overlap((1, 2, 3), (3, 4, 1)) == pytest.approx(
        2 * jaccard / (1 + jaccard)
    )  # sets of one size
    one = LayerScores("svl", np.zeros(5), (1, 2, 3), (0, 4))
    other = dataclasses.replace(one, ranking=(2, 3, 1))
    assert overlap_curve(one, other).tolist() == [1, 0, 0.5, 1]


def test_what_cannot_be_resampled_is_refused(tiny, tiny_sample):
    trace = svl.trace(tiny, [tiny_sample] * 2)
    for criterion in ("random", "manual"):
        with pytest.raises(InputError, match="no mean over samples"):
            stability(trace, criterion=criterion, drop=1)
    with pytest.raises(InputError, match="at least two samples"):
        stability(svl.trace(tiny, tiny_sample), drop=1)
    with pytest.raises(InputError, match="expected 0 to 4"):
        stability(trace, drop=5)
