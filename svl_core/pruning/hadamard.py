"""Hadamard matrices: orthogonal ones whose entries all have one size, so that what stands out in
one channel is spread over all of them.
"""

from __future__ import annotations

import numpy as np

from svl_core.errors import InputError

PAIR = np.array(
    [
        [1.0, 1.0],
        [1.0, -1.0],
    ]
)
"""Of order 2."""

TURNED = np.array(
    [
        [1.0, -1.0],
        [-1.0, -1.0],
    ]
)
"""What Paley's second rule puts on the diagonal."""


def hadamard(size: int) -> np.ndarray:
    """A Hadamard matrix divided by the square root of its order: (d, d) float64, orthogonal.

    size: d. It is a Sylvester matrix times the smallest of Paley's that fits: d is a power of two,
        or a power of two times q + 1 (q a prime, 3 modulo 4) or times 2 (q + 1) (q a prime, 1
        modulo 4).

    Raises InputError for any other size.
    """
    order = size
    doublings = 0
    matrix = _small(order)
    while order % 2 == 0:
        order //= 2
        doublings += 1
        smaller = _small(order)
        if smaller is not None:
            matrix = _doubled(smaller, doublings)
    if matrix is None:
        raise InputError(
            f"Found a hidden size of {size}; expected one for which Sylvester's and Paley's rules"
            " give a Hadamard matrix; choose compensation 'magnitude' or 'bridge'."
        )
    return matrix / np.sqrt(size)


def _doubled(
    matrix: np.ndarray,
    times: int,
) -> np.ndarray:
    """Sylvester: the matrix in four places, in one with its sign turned; `times` over."""
    for _ in range(times):
        matrix = np.kron(PAIR, matrix)
    return matrix


def _small(order: int) -> np.ndarray | None:
    """Of order 1, or by Paley's rules, with entries 1 and -1; None where there is none."""
    if order == 1:
        return np.ones((1, 1))
    if order % 4:
        return None
    first = order - 1
    second = order // 2 - 1
    if first % 4 == 3 and _is_prime(first):
        residues = _bordered(first)
        residues[1:, 0] = -1
        return residues + np.eye(order)
    if second % 4 == 1 and _is_prime(second):
        residues = _bordered(second)
        diagonal = np.eye(second + 1)
        return np.kron(residues, PAIR) + np.kron(diagonal, TURNED)
    return None


def _bordered(prime: int) -> np.ndarray:
    """(q + 1, q + 1): 0 on the diagonal, 1 in the first row and column, and elsewhere 1 where
    (row - column) is a square modulo q and -1 where it is none.
    """
    numbers = np.arange(prime)
    squares = numbers**2 % prime
    character = np.full(prime, -1.0)
    character[squares] = 1
    character[0] = 0
    differences = numbers[:, None] - numbers
    matrix = np.ones((prime + 1, prime + 1))
    matrix[0, 0] = 0
    matrix[1:, 1:] = character[differences % prime]
    return matrix


def _is_prime(number: int) -> bool:
    """Whether no smaller number but 1 divides it."""
    most = int(number**0.5)
    factors = range(2, most + 1)
    return all(number % factor for factor in factors)
