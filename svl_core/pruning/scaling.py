"""Compensations by magnitude: behind a dropped run the residual stream is larger than before it,
and what follows expects that. LinearPatch scales the stream at the gap channel by channel in a
rotated basis; Prune&Comp scales it by one number, in the weights.

Both take their scales from the full model's features on all tokens of the calibration samples.
"""

from __future__ import annotations

import torch

from svl_core.analysis.trace import Trace
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.roles import attention_end, feed_forward_end
from svl_core.lvlm.skeleton import assign, materialized
from svl_core.pruning.fit import Edit, Fit
from svl_core.pruning.hadamard import hadamard
from svl_core.pruning.refit import check_floating
from svl_core.pruning.view import gaps_of, places_of


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

    Source: LinearPatch, arXiv 2505.24680, and Prune&Comp, arXiv 2507.18212, as the authors' public
    code has it: ratios of each sample, then their mean.
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


# Prune&Comp


def gap_scale(
    trace: Trace,
    first: int,
    last: int,
) -> float:
    """The magnitude gap of the run first..last: the mean over channels of `channel_scales`.

    Source: Prune&Comp, arXiv 2507.18212.
    """
    return float(channel_scales(trace, first, last).mean())


def scale_gaps(
    full: LVLM,
    pruned: LVLM,
    trace: Trace,
) -> list[int]:
    """Rescales a pruned view's weights by the magnitude gaps of its dropped runs; returns the ids
    of the layers edited.

    Taken from the paper's description and the authors' code: one scale a for each gap, put into
    the weights. The authors multiply by a all that the stream before the gap is made of: the
    embedding and the output projections of all earlier layers. This project's reading is the same
    function in other weights: the attention's and MLP's output projections of all later layers are
    divided by a. Every sublayer and the head begin with a norm, which takes the stream's size out
    (but for its epsilon), so that both give the same answers; the embedding, a head tied to it and
    the visual side stay as they are. Left out: the loop that drops one layer, compensates and ranks
    again, for the plan is given here.

    full: the model that `pruned` is a view of.
    trace: its passes over the calibration samples.

    Source: Prune&Comp, arXiv 2507.18212. A run at the start has no layer before it and stays
    uncompensated. Raises InputError where a layer has no single output projections and for
    quantised weights.
    """
    keep = places_of(full, pruned)
    factors = dict.fromkeys(keep, 1.0)
    for first, last in gaps_of(full, pruned):
        scale = gap_scale(trace, first, last)
        for layer in keep:
            if layer > last:
                factors[layer] /= scale
    edited = []
    for layer, module in zip(keep, pruned.layers, strict=True):
        factor = factors[layer]
        if factor == 1:
            continue
        attention = attention_end(module)
        _multiply(attention, factor)
        _multiply(feed_forward_end(module), factor)
        edited.append(full.layer_ids[layer])
    return edited


def _multiply(module: torch.nn.Module, factor: float) -> None:
    """W <- factor W, and b <- factor b; new Parameters are assigned."""
    check_floating(module)
    edited = {}
    for name in ("weight", "bias"):
        parameter = materialized(module, name)
        if parameter is not None:
            scaled = factor * parameter.detach().double()
            edited[name] = scaled.to(parameter.dtype)
    assign(module, **edited)
