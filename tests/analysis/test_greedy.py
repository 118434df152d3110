"""Greedy paths over four layers, whose rounds are worked out by hand."""

from types import SimpleNamespace

import numpy as np

from svl_core.analysis import greedy

NAN = np.nan
ROUNDS = np.array(
    [
        [9.0, 2.0, 1.0, 3.0],  # layer 2 costs least and goes
        [9.0, 5.0, NAN, 4.0],  # then layer 3
        [9.0, 7.0, NAN, NAN],  # then layer 1, for layer 0 is protected
    ]
)


def test_ties_go_to_the_later_layer():
    assert greedy.lowest(np.array([1.0, 0.5, 0.5, 2.0]), range(4)) == [2, 1, 0, 3]


def test_choices_pass_over_what_is_gone():
    assert greedy.choices(ROUNDS, [1, 2, 3]) == [2, 3, 1]
    assert greedy.choices(ROUNDS[:1], []) == []


def test_the_ranking_follows_the_rounds():
    scored = greedy.follow(ROUNDS, SimpleNamespace(protected=(0,)))
    assert scored.ranking == (2, 3, 1)
    assert scored.path == (1.0, 4.0, 7.0)
    assert scored.scores.tolist() == [-9.0, -2.0, -1.0, -3.0]


def test_after_the_last_round_the_rest_stands_as_it_ranks_them():
    scored = greedy.follow(ROUNDS[:1], SimpleNamespace(protected=()))
    assert scored.ranking == (2, 1, 3, 0)
    assert scored.path == (1.0,)
