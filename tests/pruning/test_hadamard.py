"""Hadamard matrices: orthogonal, of entries of one size, in every size that the rules reach."""

import numpy as np
import pytest

from svl_core.errors import InputError
from svl_core.pruning.hadamard import hadamard


@pytest.mark.parametrize("size", [1, 2, 12, 20, 28, 36, 44, 60, 64, 84, 160, 576, 896])
def test_orthogonal_with_entries_of_one_size(size):
    matrix = hadamard(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(np.abs(matrix), 1 / np.sqrt(size), rtol=1e-12)


def test_powers_of_two_are_sylvesters():
    from scipy.linalg import hadamard as sylvester

    np.testing.assert_array_equal(hadamard(16) * 4, sylvester(16))


def test_of_order_twelve_on_paper():
    """Paley's first rule with q = 11: the squares modulo 11 are 1, 3, 4, 5 and 9."""
    signs = np.array([0, 1, -1, 1, 1, 1, -1, -1, -1, 1, -1])
    expected = np.eye(12)
    expected[0, 1:] = 1
    expected[1:, 0] = -1
    for row in range(11):
        for column in range(11):
            expected[row + 1, column + 1] += signs[(row - column) % 11]
    np.testing.assert_allclose(hadamard(12) * np.sqrt(12), expected, atol=1e-12)


def test_a_hidden_size_without_one_is_refused():
    with pytest.raises(InputError, match="Found a hidden size of 30; expected one for which"):
        hadamard(30)
