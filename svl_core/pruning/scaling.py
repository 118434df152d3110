"""Compensations by magnitude: behind a dropped run the residual stream is larger than before it,
and what follows expects that. LinearPatch scales the stream at the gap channel by channel in a
rotated basis, by scales from the full model's features on all tokens of the calibration samples.
"""

from __future__ import annotations

import torch

from svl_core.analysis.trace import Trace
from svl_core.pruning.fit import Edit, Fit
from svl_core.pruning.hadamard import hadamard


def channel_scales(
    trace: Trace,
    first: int,
    last: int,
    rotation: torch.Tensor | None = None,
) -> torch.Tensor:
    """(d,) float64: how many times larger each channel is behind the run first..last than before.

    It is the mean over samples of (mean over tokens of |H[last+1] Q|) / (mean over tokens of
    |H[first] Q|). A channel that is 0 before the run in a sample counts as unchanged there.

    rotation: Q (d, d) float64, the basis of the channels (default: the model's own).

    Source: LinearPatch, arXiv 2505.24680, as the authors' public code has it: ratios of each
    sample, then their mean.
    """
    total = torch.zeros(
        trace.hidden_size,
        dtype=torch.float64,
    )
    for sample in trace.samples:
        entering = sample.features[first]
        leaving = sample.features[last + 1]
        before = _magnitudes(entering, rotation)
        behind = _magnitudes(leaving, rotation)
        ratio = behind / before
        ratio[before == 0] = 1
        total += ratio
    return total / len(trace.samples)


def _magnitudes(
    features: torch.Tensor,
    rotation: torch.Tensor | None,
) -> torch.Tensor:
    """(d,) mean over S tokens of the size of each channel. features: (S, d)."""
    rows = features.double().cpu()
    if rotation is not None:
        rows = rows @ rotation
    return rows.abs().mean(0)


# LinearPatch


class Patch(torch.nn.Module):
    """H + H C on the residual stream.

    change: C (d, d), symmetric; the published patch is I + C.

    It holds d^2 parameters.
    """

    change: torch.nn.Parameter

    def __init__(self, change: torch.Tensor):
        super().__init__()
        parameter = torch.nn.Parameter(
            change.contiguous(),
            requires_grad=False,
        )
        self.register_parameter("change", parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + hidden @ self.change


def linearpatch(
    fit: Fit,
    first: int,
    last: int,
) -> Edit:
    """The patch behind the layer before the run: H <- H Q diag(s) Q^T, with Q a Hadamard matrix and
    s the channels' scales in its basis.

    Taken from the paper's description and the authors' code: the rotation, the scales on all
    tokens, the place behind the retained layer. Left out: the distillation that may follow. This
    project's reading: a Hadamard matrix by Sylvester's and Paley's rules where the authors' code
    has tables; a patch at every gap, where they drop one block. The whole stream goes through it,
    so that it cannot be merged into one projection's weights.

    Source: LinearPatch, arXiv 2505.24680. Raises InputError where no such matrix of the model's
    hidden size is known here.
    """
    matrix = hadamard(fit.trace.hidden_size)
    rotation = torch.from_numpy(matrix)
    scales = channel_scales(
        fit.trace,
        first,
        last,
        rotation,
    )
    turned = rotation * (scales - 1)
    patch = Patch(turned @ rotation.T)
    return Edit(bridge=patch)
