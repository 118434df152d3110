"""What criteria measure on a trace: sums over the chosen tokens of each sample, so that means can
be taken over any samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from svl_core.analysis.criterion import Measured
from svl_core.analysis.trace import Trace
from svl_core.lvlm.spool import empty_tensor


def _summed(
    trace: Trace,
    positions: Sequence[np.ndarray],
    values: Callable[[np.ndarray], np.ndarray],
) -> Measured:
    """Sums over the chosen tokens of each sample.

    positions: for each sample the chosen tokens.
    values: (t, L+1, L+1) cosines between any two depths at t tokens -> (t, ...) what is summed.
    """
    count = len(trace.samples)
    sums = np.empty(0)
    for number, (sample, chosen) in enumerate(zip(trace.samples, positions, strict=True)):
        total = values(sample.cosines(np.asarray(chosen, np.int64))).sum(0)
        if number == 0:
            sums = empty_tensor((count, *total.shape), torch.float64, trace.spool).numpy()
        sums[number] = total
    return Measured(sums, np.array([len(chosen) for chosen in positions], float))


def _neighbours(cosines: np.ndarray) -> np.ndarray:
    """(t, L): what each layer's output has in common with its input."""
    return np.diagonal(cosines, 1, axis1=1, axis2=2)


def cosine_sums(trace: Trace, positions: Sequence[np.ndarray]) -> Measured:
    """For each of n samples the sum over its chosen tokens of cos(H[l], H[l+1]): sums (n, L)."""
    return _summed(trace, positions, _neighbours)


def layer_cosines(trace: Trace, positions: Sequence[np.ndarray]) -> np.ndarray:
    """(L,) mean over the chosen tokens of all samples of cos(H[l], H[l+1]); NaN without tokens."""
    return cosine_sums(trace, positions).mean()


def matrix_sums(trace: Trace, positions: Sequence[np.ndarray]) -> Measured:
    """For each of n samples the sum over its chosen tokens of cos(H[i], H[j]): sums (n, L+1,
    L+1).
    """
    return _summed(trace, positions, lambda cosines: cosines)


def _angles(cosines: np.ndarray) -> np.ndarray:
    return np.arccos(cosines.clip(-1, 1)) / np.pi


def angular_distances(trace: Trace, positions: Sequence[np.ndarray]) -> Measured:
    """For each of n samples the sum over its chosen tokens of arccos(cos(H[i], H[j])) / pi, 0..1:
    sums (n, L+1, L+1).
    """
    return _summed(trace, positions, _angles)
