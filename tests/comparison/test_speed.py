"""Speed-ups: both models are timed, in turn, and a model without layers is not slower by
construction of the ratio.
"""

from svl_core.comparison import speed
from svl_core.comparison.speed import measure_speedup


def test_ratios_are_full_over_pruned_medians(tiny, tiny_sample, monkeypatch):
    times = iter(
        [(9, 9), (9, 9), (4, 8), (2, 2), (6, 10), (2, 4), (4, 9), (100, 2)]
    )  # the first round is not counted
    monkeypatch.setattr(speed, "_timed", lambda lvlm, sample, tokens: next(times))
    found = measure_speedup(tiny, tiny, tiny_sample, repeats=3)
    assert (found.prefill, found.decode, found.total) == (4 / 2, 9 / 2, 13 / 4)


def test_real_models(tiny, tiny_sample):
    found = measure_speedup(tiny, tiny, tiny_sample, tokens=3, repeats=2)
    assert min(found.prefill, found.decode, found.total) > 0
