"""What is derived is found once for each value and key, and goes with the value."""

import gc
import weakref

import numpy as np
import pytest

import svl_core as svl
from svl_core.analysis.memo import Memo
from svl_core.analysis.ranking import importance_of
from svl_core.recipe import Recipe


class Value:
    """Something that is compared by identity."""


def test_found_once_for_each_value_and_key():
    memo, calls = Memo(2), []

    def found(value, key):
        return memo.of(value, key, lambda: calls.append(key) or key * 10)

    one, other = Value(), Value()
    assert [found(one, 1), found(one, 1), found(other, 1), found(one, 2)] == [10, 10, 10, 20]
    assert calls == [1, 1, 2]
    found(one, 1), found(one, 3)  # the second key was used longest ago
    assert found(one, 1) == 10 and calls == [1, 1, 2, 3]
    assert found(one, 2) == 20 and calls == [1, 1, 2, 3, 2]


def test_what_is_not_worth_its_memory_is_made_again():
    memo, calls, value = Memo(2), [], Value()
    for size in (1, 9, 1, 9):
        memo.of(value, size, lambda: calls.append(size) or size, lambda made: made < 5)  # noqa: B023
    assert calls == [1, 9, 9]


def test_results_go_with_their_value():
    memo, value = Memo(2), Value()
    result = memo.of(value, "key", Value)
    gone = weakref.ref(result)
    del result
    assert gone() is not None
    del value
    gc.collect()
    assert gone() is None


def test_importance_is_found_once_for_a_trace_and_a_way_of_weighing(tiny, tiny_sample):
    trace = svl.trace(tiny, tiny_sample)
    usual, other = Recipe(), Recipe(causal_correction=True)
    first = importance_of(trace, usual)
    assert importance_of(trace, usual) is first and importance_of(trace, other) is not first
    again = importance_of(svl.trace(tiny, tiny_sample), usual)
    assert again is not first and np.array_equal(again.visual[0], first.visual[0])


def test_averages_are_those_of_the_layers_and_cannot_be_changed(tiny, tiny_sample):
    importance = svl.importance(svl.trace(tiny, tiny_sample))
    for _ in range(2):
        visual, text = importance.averaged(0)
        np.testing.assert_array_equal(visual, np.nanmean(importance.visual[0], axis=0))
        np.testing.assert_array_equal(text, np.nanmean(importance.text[0], axis=0))
    with pytest.raises(ValueError, match="read-only"):
        visual[0] = 1
