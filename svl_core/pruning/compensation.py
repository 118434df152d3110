"""Compensations: training-free edits of the retained layer before each dropped run, as a registry.

Every edit is merged into that layer's output weights, so the pruned model keeps its shape and its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch

from svl_core.analysis.gap import gram_of_difference
from svl_core.analysis.importance import TokenImportance
from svl_core.analysis.trace import Trace, down_projection
from svl_core.errors import InputError, SVLError

TARGETS = ("mlp", "attention")


@dataclass(frozen=True)
class Fit:
    """What a compensation is fitted on and its settings; `positions` are the tokens of each sample, `weights` one number a token (or None)."""

    trace: Trace
    positions: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...] | None
    rank: int
    strength: float
    ridge: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Compensation:
    """`function(fit, first, last)` gives the (d, d) map for each target projection of the layer before the run first..last."""

    name: str
    title: str
    source: str
    formula: str
    exportable: bool
    needs_mlp: bool = False
    function: Callable[[Fit, int, int], dict[str, torch.Tensor]] | None = field(default=None, repr=False)


def scp_map(gram: np.ndarray, rank: int, strength: float) -> torch.Tensor:
    """I + strength V_k V_k^T, (d, d) float64, from the (d, d) Gram matrix D^T D: V_k = the first k right singular vectors of D.

    rank above the rank of D uses what there is. (Paper, part (b) of the method figure.)
    """
    values, vectors = np.linalg.eigh(gram)
    real = int((values > values.max(initial=0) * 1e-12).sum()) if values.max(initial=0) > 0 else 0
    basis = torch.from_numpy(vectors[:, ::-1][:, :min(rank, real)].copy())
    return torch.eye(len(gram), dtype=torch.float64) + strength * basis @ basis.T


def _scp(fit: Fit, first: int, last: int) -> dict[str, torch.Tensor]:
    edit = scp_map(gram_of_difference(fit.trace, fit.positions, first, last), fit.rank, fit.strength)
    return {target: edit for target in fit.targets}


def lstsq_map(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """argmin_T |M T - Y|^2 + lambda |T - I|^2 from M^T M and M^T Y (d, d) float64; lambda = ridge x mean diagonal of M^T M. Returns T^T."""
    eye = torch.eye(len(gram), dtype=torch.float64)
    scale = ridge * gram.diagonal().mean()
    return torch.linalg.solve(gram + scale * eye, cross + scale * eye).T


def _lstsq(fit: Fit, first: int, last: int) -> dict[str, torch.Tensor]:
    d, kept = fit.trace.hidden_size, first - 1
    gram, cross = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for number, (sample, at) in enumerate(zip(fit.trace.samples, fit.positions, strict=True)):
        if sample.mlp is None:
            raise InputError("Found a calibration trace without MLP outputs; expected them for compensation 'lstsq'; trace with mlp=True.")
        index = torch.as_tensor(np.array(at))
        given = sample.mlp[kept, index].double()
        wanted = sample.features[last + 1, index].double() - sample.features[first, index].double() + given
        weight = 1.0 if fit.weights is None else torch.as_tensor(np.array(fit.weights[number]), dtype=torch.float64)[:, None]
        gram += given.T @ (weight * given)
        cross += given.T @ (weight * wanted)
    return {"mlp": torch.eye(d, dtype=torch.float64) * (1 - fit.strength) + fit.strength * lstsq_map(gram, cross, fit.ridge)}


COMPENSATIONS: Mapping[str, Compensation] = MappingProxyType({row.name: row for row in (
    Compensation("none", "none", "-", "W unchanged", True),
    Compensation("scp", "SCP (as published)", "Short-LVLM, arXiv 2507.23362", "W <- (I + strength V_k V_k^T) W, V_k from the SVD of H[b+1] - H[a]", True, function=_scp),
    Compensation("lstsq", "least squares", "after ReplaceMe, arXiv 2505.02819", "W_down <- T^T W_down, T = argmin |M T - (H[b+1] - H[a] + M)|^2 + ridge |T - I|^2", True, True, _lstsq),
)})


def projection(layer: torch.nn.Module, target: str) -> torch.nn.Module:
    """The linear module whose output `target` ("mlp" or "attention") adds to the residual stream."""
    if target == "mlp":
        return down_projection(layer)
    found = getattr(getattr(layer, "self_attn", None), "o_proj", None)
    if not isinstance(found, torch.nn.Module):
        raise SVLError(f"Found no self_attn.o_proj in {type(layer).__name__}; expected one; choose the target 'mlp' only.")
    return found


def apply(module: torch.nn.Module, edit: torch.Tensor) -> None:
    """W <- edit W (and b <- edit b) by assigning new Parameters: the tensors that a full model shares stay as they are."""
    if not module.weight.is_floating_point() or hasattr(module.weight, "quant_state"):
        raise InputError("Found quantised weights; expected floating-point ones to compensate; load the model without quantisation or use compensation 'none'.")
    for name in ("weight", "bias"):
        old = getattr(module, name, None)
        if old is not None:
            new = (edit.to(old.device) @ old.detach().double()).to(old.dtype)
            setattr(module, name, torch.nn.Parameter(new, requires_grad=False))
