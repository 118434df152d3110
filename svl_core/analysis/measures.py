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
    of: Callable[[np.ndarray], np.ndarray],
) -> Measured:
    """For each sample the sum over its given tokens of what is made `of` its cosines (n, L+1, L+1)."""
    sums = None
    for number, (sample, at) in enumerate(zip(trace.samples, positions, strict=True)):
        found = of(sample.cosines(np.asarray(at, np.int64))).sum(0)
        sums = (
            empty_tensor(
                (len(trace.samples), *found.shape),
                torch.float64,
                trace.spool,
            ).numpy()
            if sums is None
            else sums
        )
        sums[number] = found
    return Measured(sums, np.array([len(at) for at in positions], float))


def cosine_sums(trace: Trace, positions: Sequence[np.ndarray]) -> Measured:
    """For each sample the sum over its given tokens of cos(H[l], H[l+1]): sums (n, L)."""
    return _summed(
        trace,
        positions,
        lambda cosines: np.diagonal(cosines, 1, axis1=1, axis2=2),
    )


def layer_cosines(trace: Trace, positions: Sequence[np.ndarray]) -> np.ndarray:
    """(L,) mean over the given tokens of all samples of cos(H[l], H[l+1]); NaN without tokens."""
    return cosine_sums(trace, positions).mean()


def matrix_sums(trace: Trace, positions: Sequence[np.ndarray]) -> Measured:
    """For each sample the sum over its given tokens of cos(H[i], H[j]): sums (n, L+1, L+1)."""
    return _summed(trace, positions, lambda cosines: cosines)


def angular_distances(trace: Trace, positions: Sequence[np.ndarray]) -> Measured:
    """For each sample the sum over its given tokens of arccos(cos(H[i], H[j])) / pi, 0..1: sums (n,
    L+1, L+1).
    """
    return _summed(
        trace,
        positions,
        lambda cosines: np.arccos(cosines.clip(-1, 1)) / np.pi,
    )
