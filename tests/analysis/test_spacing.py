"""Spacing on paper: no neighbours before there is no other way."""

import numpy as np

from svl_core.analysis.spacing import run_length, spaced


class Protecting:
    def __init__(self, *protected):
        self.protected = protected


def test_a_run_on_paper():
    assert [run_length(layer, [2, 3, 6]) for layer in (0, 1, 4, 5, 7)] == [1, 3, 3, 2, 2]


def test_seven_layers_on_paper():
    """Layer 3 is the most redundant, then 4, 2, 5, 1. Its neighbours wait: 5 and 1 go next. Each of
    4 and 2 would then close a run of three; 4 first, and 2 then one of five.
    """
    mean = np.array([0.99, 0.5, 0.8, 0.95, 0.9, 0.7, 0.99])
    scored = spaced(mean, Protecting(0, 6))
    assert scored.ranking == (3, 5, 1, 4, 2)
    np.testing.assert_array_equal(scored.scores, mean)


def test_ties_go_to_the_later_layer_and_unknown_ones_last():
    assert spaced(np.array([0.5, 0.5, 0.5]), Protecting()).ranking == (2, 0, 1)
    assert spaced(np.array([np.nan, 0.1, np.nan, 0.2]), Protecting()).ranking[:2] == (3, 1)


def test_no_neighbours_go_while_others_can():
    """Of eight layers up to three can always go without two neighbours among them."""
    mean = np.random.default_rng(0).uniform(size=8)
    for n in range(1, 4):
        gone = set(spaced(mean, Protecting()).ranking[:n])
        assert all(run_length(layer, gone - {layer}) == 1 for layer in gone)
