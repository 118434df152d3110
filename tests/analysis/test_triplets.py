"""INTERLACE's triplets on paper, against the published procedure written anew."""

import numpy as np
import pytest

from svl_core.analysis.triplets import interleaved


class Protecting:
    def __init__(self, *protected):
        self.protected = protected


def likeness(depth, alone=(), pairs=(), triplets=()):
    """(L+1, L+1) cosines of 0.1 but for the given blocks: {first layer: cosine}."""
    matrix = np.full((depth + 1, depth + 1), 0.1)
    for size, values in ((1, alone), (2, pairs), (3, triplets)):
        for first, value in dict(values).items():
            matrix[first, first + size] = value
    return matrix


def test_eight_layers_on_paper():
    """Of triplet 3-5, the most alike, layer 4 goes; 2-4 shares layers with it; of 0-2 layer 0 goes.
    No third triplet fits before the last layer: then pairs, and only 6 and 7 are left, which reach
    the last one. The rest by their own cosine, ties to the later layer.
    """
    alone = {0: 0.5, 1: 0.4, 2: 0.95, 3: 0.6, 4: 0.7, 5: 0.9, 6: 0.3, 7: 0.99}
    matrix = likeness(8, alone, {0: 0.9, 6: 0.99}, {3: 0.9, 2: 0.8, 0: 0.7, 4: 0.75})
    assert interleaved(matrix, Protecting()).ranking == (4, 0, 7, 2, 5, 3, 1, 6)
    scored = interleaved(matrix, Protecting(0, 7))
    assert scored.ranking == (4, 1, 2, 5, 3, 6)  # layer 1 goes for the protected 0
    np.testing.assert_array_equal(scored.scores, [alone[layer] for layer in range(8)])


def test_pairs_follow_the_triplets():
    """Of seven layers triplet 2-4 is taken; pairs 0-1 and, before the last layer, none other."""
    alone = {0: 0.2, 1: 0.3, 2: 0.9, 3: 0.5, 4: 0.6, 5: 0.8, 6: 0.1}
    matrix = likeness(7, alone, {}, {2: 0.9})
    assert interleaved(matrix, Protecting()).ranking == (2, 1, 5, 4, 3, 0, 6)


def published(matrix, drops):
    """The procedure for one number of drops, in its own words."""
    depth = len(matrix) - 1
    gone, seen = [], []
    for size in (3, 2):
        blocks = sorted(
            range(depth - size), key=lambda first: matrix[first, first + size], reverse=True
        )
        for first in blocks:
            if len(gone) < drops and not set(range(first, first + size)) & set(seen):
                second = first + 1
                worse = matrix[first, first + 1] < matrix[second, second + 1]
                gone.append(second if worse else first)
                seen.extend(range(first, first + size))
    return gone


@pytest.mark.parametrize("seed", range(5))
def test_the_first_drops_are_the_published_ones(seed):
    matrix = np.random.default_rng(seed).uniform(size=(17, 17))
    ranking = interleaved(matrix, Protecting()).ranking
    most = len(published(matrix, 99))
    assert sorted(ranking) == list(range(16)) and most >= 4
    for drops in range(most + 1):
        assert list(ranking[:drops]) == published(matrix, drops)


def test_unknown_cosines_come_last():
    matrix = np.full((5, 5), np.nan)
    assert sorted(interleaved(matrix, Protecting(0)).ranking) == [1, 2, 3]
