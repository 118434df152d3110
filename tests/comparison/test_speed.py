"""Speed-ups: medians of times in turn, beside what the work left allows; what cannot be, or
scatters, is noise.
"""

import dataclasses

import pytest

from svl_core.analysis.trace import trace
from svl_core.comparison import speed
from svl_core.comparison.answer import answer
from svl_core.comparison.speed import (
    Possible,
    Speed,
    answer_speeds,
    compared,
    judged,
    measure_speedup,
    possible,
    speeds_to_json,
    spread,
    together,
)
from svl_core.lvlm.work import count_work
from svl_core.pruning.tokens import keep_visual, thin
from svl_core.pruning.view import pruned_view
from svl_core.recipe import Recipe

FIVE_OF_SIXTEEN = Possible(16 / 11, 16 / 11)


@pytest.fixture(scope="module")
def shorter(tiny):
    return pruned_view(tiny, [0, 1, 4, 5])


def test_ratios_are_full_over_pruned_medians(tiny, tiny_sample, monkeypatch):
    times = iter(
        [(9, 9), (9, 9), (4, 8), (2, 2), (6, 10), (2, 4), (4, 9), (100, 2)]
    )  # the first round is not counted
    monkeypatch.setattr(speed, "LONG_S", 100)
    monkeypatch.setattr(speed, "_timed", lambda tokens, read: (next(times), None))
    found = measure_speedup(tiny, tiny, tiny_sample, repeats=3)
    measured = [part.measured for part in (found.prefill, found.decode, found.total)]
    assert measured == [4 / 2, 9 / 2, 13 / 4]
    assert found.total.expected == 1 and "1.00 times" in found.total.noise


def test_long_rounds_of_the_full_model_serve_for_all(tiny, shorter, tiny_sample, monkeypatch):
    """The full model runs once; a pruned one once each, behind what both have in common."""
    monkeypatch.setattr(speed, "LONG_S", 0)
    asked = []
    original = speed.Decoding

    def decoding(lvlm, inputs, *, resume=None, **options):
        asked.append((lvlm.num_layers, None if resume is None else resume[1]))
        return original(lvlm, inputs, resume=resume, **options)

    monkeypatch.setattr(speed, "Decoding", decoding)
    stopwatch = speed.Stopwatch(tiny, tiny_sample, tokens=3)
    found = [stopwatch.measure(model) for model in (shorter, pruned_view(tiny, [0, 1, 2]))]
    assert asked == [(6, None), (4, 2), (3, 2)]  # the last layer always runs
    assert all(one.prefill.measured > 0 for one in found)


def test_real_models(tiny, shorter, tiny_sample):
    found = measure_speedup(tiny, shorter, tiny_sample, tokens=3, repeats=2)
    parts = (found.prefill, found.decode, found.total)
    assert min(part.measured for part in parts) > 0
    expected = sorted([found.prefill.expected, found.decode.expected])
    assert 1 < expected[0] < found.total.expected < expected[1] < 6 / 4


def test_expected_is_the_ratio_of_work(tiny, shorter, tiny_sample):
    """Of decoding by hand: six layers of seven products and a head, against four."""
    more, less = count_work(tiny, tiny_sample), count_work(shorter, tiny_sample)
    prefill, decode = possible((tiny, tiny_sample), (shorter, tiny_sample))
    assert prefill.expected == more.prefill / less.prefill
    assert decode.expected == more.decode / less.decode
    assert decode.most == (6 * 7 + 1) / (4 * 7 + 1)
    assert 1 < prefill.expected <= prefill.most


@pytest.mark.parametrize(
    "measured, allowed, says",
    [
        (2.78, FIVE_OF_SIXTEEN, "more than the 1.45 times"),
        (0.64, Possible(1.2, 1.22), "slower than"),
        (1.55, FIVE_OF_SIXTEEN, None),
        (1.61, FIVE_OF_SIXTEEN, "more than"),
        (0.95, FIVE_OF_SIXTEEN, None),  # fixed costs may eat a gain
        (1.5, Possible(1.3, 1.5), None),  # what fewer products allow
        (0.8, Possible(0.8, 0.8), None),  # more work may be slower
        (0.7, Possible(0.8, 0.8), "slower than"),
    ],
)
def test_what_cannot_be_is_noise(measured, allowed, says):
    found = judged(measured, 0.1, allowed)
    assert (found.noise is None) if says is None else (says in found.noise)
    assert found.measured == measured and found.expected == allowed.expected
    assert found.likely == (measured if says is None else allowed.expected)


def test_what_scatters_is_noise():
    """A median of 10 on both sides, quarters at 8 and 12, then at 7 and 13."""
    calm, wild = (6, 8, 10, 12, 99), (6, 7, 10, 13, 14)
    assert (spread(calm), spread(wild)) == (4 / 10, 6 / 10)
    assert compared(calm, calm, Possible(1.2, 1.2)).noise is None
    for times in ((calm, wild), (wild, calm)):
        found = compared(*times, Possible(1.2, 1.2))
        assert "scatter by 60%" in found.noise and found.measured == 1 and found.likely == 1.2
    assert spread(wild[:3]) == 0  # too few to tell


def test_a_whole_lies_between_its_parts_as_they_weigh():
    """2 s at twice the speed and 6 s at three times leave 1 s + 2 s of 8 s."""
    found = together((2, 6), (Possible(2, 2), Possible(3, 4)))
    assert found.expected == pytest.approx(8 / 3)
    assert found.most == pytest.approx(8 / 2.5)


def test_answers_of_few_tokens_are_too_short(tiny, shorter, tiny_sample):
    asked = (tiny, tiny_sample), (shorter, tiny_sample)
    given = answer(tiny, tiny_sample, max_new_tokens=2)

    def timed(prefill_ms, *token_ms):
        return dataclasses.replace(given, prefill_ms=prefill_ms, token_ms=token_ms)

    long = timed(12.0, 6.0, 6.0, 6.0, 90.0), timed(10.0, 5.0, 5.0, 5.0, 5.0)
    prefill, decode = answer_speeds(*asked, long)
    assert (prefill.measured, decode.measured) == (1.2, 1.2)
    assert prefill.noise is None
    short = timed(12.0, 6.0, 6.0), timed(10.0, 5.0)
    _, decode = answer_speeds(*asked, short)
    assert decode.measured == 1.2 and decode.noise.startswith("only 1 token after the first")
    assert decode.likely == decode.expected > 1
    _, decode = answer_speeds(*asked, (timed(12.0), timed(10.0)))
    assert decode == Speed(None, decode.expected) and decode.likely == decode.expected


def test_json_keeps_its_keys():
    written = speeds_to_json(Speed(1.1, 1.2), Speed(2.8, 1.4, "more"))
    assert written == {
        "prefill": 1.1,
        "decode": 2.8,
        "expected": {"prefill": 1.2, "decode": 1.4},
        "noise": {"prefill": None, "decode": "more"},
    }


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_speeds_are_positive(values):
    with pytest.raises(ValueError, match="expected positive"):
        Speed(*values)


def thinned(tiny, sample, name, **settings):
    return thin(tiny, sample, Recipe(visual_tokens=name, visual_share=0.25, **settings))


def test_the_pass_that_ranks_is_the_pruned_models_to_pay(tiny, tiny_sample):
    """TIS reads the whole prompt first, however few tokens are left for the model's own pass."""
    full = count_work(tiny, tiny_sample)
    for settings in ({}, {"visual_from": 2}):
        ranked = thinned(tiny, tiny_sample, "tis", **settings)
        own = count_work(tiny, ranked)
        prefill, decode = possible((tiny, tiny_sample), (tiny, ranked))
        assert prefill.expected == full.prefill / (full.prefill + own.prefill)
        assert prefill.expected < 1 < decode.expected
        free = thinned(tiny, tiny_sample, "cluster", **settings)
        [first, _] = possible((tiny, tiny_sample), (tiny, free))
        assert first.expected == full.prefill / count_work(tiny, free).prefill > 1
        assert ranked.thinning.before_ms > free.thinning.before_ms > 0


def test_time_before_the_pass_counts_as_the_answers(tiny, tiny_sample):
    for name, settings in (("tis", {}), ("random", {}), ("tis", {"visual_from": 2})):
        sample = thinned(tiny, tiny_sample, name, **settings)
        waited = dataclasses.replace(sample.thinning, before_ms=5000.0)
        found = answer(tiny, dataclasses.replace(sample, thinning=waited), max_new_tokens=2)
        assert found.prefill_ms > found.shared_ms == 5000.0
        stopwatch = speed.Stopwatch(tiny, tiny_sample, tokens=2, repeats=1)
        slow = stopwatch.measure(tiny, dataclasses.replace(sample, thinning=waited))
        assert slow.prefill.measured < 0.1


def test_a_ranking_that_nobody_timed_says_so(tiny, tiny_sample):
    """Scores from elsewhere, and a trace that did not keep its prompt."""
    read = trace(tiny, tiny_sample)
    given = keep_visual(tiny, tiny_sample, 0.5, range(36))
    for sample in (given, keep_visual(tiny, tiny_sample, 0.5, traced=read)):
        answers = answer(tiny, tiny_sample), answer(tiny, sample)
        prefill, _ = answer_speeds((tiny, tiny_sample), (tiny, sample), answers)
        assert prefill.noise == "what ranked the visual tokens was not timed"
        assert prefill.likely == prefill.expected < 1
    kept = trace(tiny, tiny_sample, keep_prompt=True)
    timed = keep_visual(tiny, tiny_sample, 0.5, traced=kept)
    assert timed.thinning.before_ms == kept.samples[0].prompt.ms > 0
