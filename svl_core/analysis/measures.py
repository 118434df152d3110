"""What criteria measure on a trace: sums over the chosen tokens of each sample, so that means can be taken over any samples."""

from __future__ import annotations

import numpy as np
import torch

from svl_core.analysis.criterion import Measured
from svl_core.analysis.trace import Trace


def cosine_sums(trace: Trace, positions: tuple[np.ndarray, ...]) -> Measured:
    """For each sample the sum over its given tokens of cos(H[l], H[l+1]): sums (n, L). Only the chosen tokens are copied."""
    sums = np.zeros((len(positions), trace.num_layers))
    for number, (sample, at) in enumerate(zip(trace.samples, positions, strict=True)):
        rows = sample.features[:, torch.as_tensor(np.array(at, np.int64))].double()  # (L+1, n, d)
        rows /= rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        sums[number] = (rows[:-1] * rows[1:]).sum(-1).sum(-1).numpy()
    return Measured(sums, np.array([len(at) for at in positions], float))


def layer_cosines(trace: Trace, positions: tuple[np.ndarray, ...]) -> np.ndarray:
    """(L,) mean over the given tokens of all samples of cos(H[l], H[l+1]); NaN without tokens."""
    return cosine_sums(trace, positions).mean()


def matrix_sums(trace: Trace, positions: tuple[np.ndarray, ...]) -> Measured:
    """For each sample the sum over its given tokens of cos(H[i], H[j]): sums (n, L+1, L+1), one Gram matrix a sample."""
    sums = np.zeros((len(positions), trace.num_layers + 1, trace.num_layers + 1))
    for number, (sample, at) in enumerate(zip(trace.samples, positions, strict=True)):
        rows = sample.features[:, torch.as_tensor(np.array(at, np.int64))].float()
        rows /= rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        flat = rows.flatten(1)  # (L+1, n d)
        sums[number] = (flat @ flat.T).double().numpy()
    return Measured(sums, np.array([len(at) for at in positions], float))


def angular_distances(trace: Trace, positions: tuple[np.ndarray, ...]) -> Measured:
    """For each sample the sum over its given tokens of arccos(cos(H[i], H[j])) / pi, 0..1: sums (n, L+1, L+1)."""
    sums = np.zeros((len(positions), trace.num_layers + 1, trace.num_layers + 1))
    for number, (sample, at) in enumerate(zip(trace.samples, positions, strict=True)):
        rows = sample.features[:, torch.as_tensor(np.array(at, np.int64))].double().transpose(0, 1)  # (n, L+1, d)
        rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        sums[number] = (torch.arccos((rows @ rows.transpose(1, 2)).clamp(-1, 1)) / torch.pi).sum(0).numpy()
    return Measured(sums, np.array([len(at) for at in positions], float))
