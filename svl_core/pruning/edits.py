"""The maths of the compensations: from calibration features to edited output weights, or a module
behind a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from svl_core.analysis.gap import gap_rows, gram_of_difference
from svl_core.analysis.trace import SampleTrace, down_projection
from svl_core.errors import InputError
from svl_core.lvlm.families import OUT_PROJECTIONS, linear_map
from svl_core.lvlm.hooks import bridge_output
from svl_core.lvlm.skeleton import assign, materialized, running_device
from svl_core.pruning.fit import Edit, Fit
from svl_core.pruning.refit import check_floating

WIDE = 512  # dimensions from which a few eigenvectors are sought alone


# The subspace of a gap


def rank_for(power: np.ndarray, rank: int, energy: float | None = None) -> int:
    """How many directions to use, never more than there are.

    power: (d,) squared singular values, falling.
    rank: the number that is asked for.
    energy: instead of it, take the fewest directions that hold this share 0..1 of the total.
    """
    power = np.clip(np.asarray(power, np.float64), 0, None)
    largest = power.max(initial=0)
    present = int((power > largest * 1e-12).sum()) if largest > 0 else 0
    if energy is not None and present:
        shares = np.cumsum(power) / power.sum()
        rank = int(np.searchsorted(shares, energy * (1 - 1e-12))) + 1
    return min(rank, present)


def subspace(gram: np.ndarray, rank: int, energy: float | None = None) -> torch.Tensor:
    """V_k, (d, k) float64: the first k right singular vectors of D, k as `rank_for` says.

    gram: (d, d) D^T D. A few directions of many come from a Lanczos iteration, whose cost is that
    of some products with the matrix.
    """
    if energy is None and len(gram) >= WIDE and rank <= len(gram) // 16:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).standard_normal(len(gram))
        values, vectors = eigsh(gram, max(rank, 1), v0=start)
    else:
        values, vectors = np.linalg.eigh(gram)
    falling = vectors[:, ::-1]
    return torch.from_numpy(falling[:, : rank_for(values[::-1], rank, energy)].copy())


def gap_subspace(fit: Fit, first: int, last: int) -> torch.Tensor:
    """V_k of the run's difference over the fit's tokens, (d, k) float64.

    It is found through the smaller of the two Gram matrices: never more than d x d numbers are in
    memory.
    """
    tokens = sum(map(len, fit.positions))
    if 2 * tokens > fit.trace.hidden_size:
        gram = gram_of_difference(fit.trace, fit.positions, first, last)
        return subspace(gram, fit.rank, fit.recipe.energy)
    rows = gap_rows(fit.trace, fit.positions, first, last)
    left = subspace((rows @ rows.T).numpy(), fit.rank, fit.recipe.energy)
    return torch.linalg.qr(rows.T @ left).Q


# Subspace-compensated pruning


def scp_map(
    gram: np.ndarray, rank: int, strength: float, energy: float | None = None
) -> torch.Tensor:
    """I + strength V_k V_k^T, (d, d) float64, from the (d, d) Gram matrix of the difference.

    Source: the paper, part (b) of the method figure.
    """
    return _amplified(subspace(gram, rank, energy), strength)


def scp(fit: Fit, first: int, last: int) -> Edit:
    """The same map for every target projection of the layer before the run."""
    basis = gap_subspace(fit, first, last)
    edit = _amplified(basis, fit.recipe.strength)
    return Edit({target: edit for target in fit.recipe.targets}, rank=basis.shape[1])


def _amplified(basis: torch.Tensor, strength: float) -> torch.Tensor:
    """I + strength V V^T of V (d, k)."""
    return torch.eye(len(basis), dtype=torch.float64) + strength * basis @ basis.T


# Least squares


def lstsq_map(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """T^T for T = argmin |M T - Y|^2 + lambda |T - I|^2, (d, d) float64.

    gram, cross: (d, d) M^T M and M^T Y.
    ridge: lambda in units of the mean diagonal of M^T M.
    Source: after ReplaceMe, arXiv 2505.02819.
    """
    eye = torch.eye(len(gram), dtype=torch.float64)
    scale = ridge * gram.diagonal().mean()
    return torch.linalg.solve(gram + scale * eye, cross + scale * eye).T


def lstsq(fit: Fit, first: int, last: int) -> Edit:
    """The map of the MLP output of the layer before the run, blended with no edit by `strength`."""
    d, kept = fit.trace.hidden_size, first - 1
    gram = torch.zeros(d, d, dtype=torch.float64)
    cross = torch.zeros(d, d, dtype=torch.float64)
    for sample, at, weights in _tokens(fit):
        if sample.mlp is None:
            raise InputError(
                "Found a calibration trace without MLP outputs; expected them for compensation"
                " 'lstsq'; trace with mlp=True."
            )
        entering = sample.features[first, at].double()
        leaving = sample.features[last + 1, at].double()
        given = sample.mlp[kept, at].double()
        wanted = leaving - entering + given
        gram += given.T @ (weights * given)
        cross += given.T @ (weights * wanted)
    strength = fit.recipe.strength
    fitted = lstsq_map(gram, cross, fit.ridge)
    return Edit({"mlp": torch.eye(d, dtype=torch.float64) * (1 - strength) + strength * fitted})


def _tokens(fit: Fit) -> Iterator[tuple[SampleTrace, torch.Tensor, torch.Tensor]]:
    """Each sample with its n fitted positions (n,) and their weights (n, 1) float64."""
    for number, (sample, at) in enumerate(zip(fit.trace.samples, fit.positions, strict=True)):
        weights = np.ones(len(at)) if fit.weights is None else np.array(fit.weights[number])
        column = torch.as_tensor(weights, dtype=torch.float64)[:, None]
        yield sample, torch.as_tensor(np.array(at)), column


# The linear bridge


class Bridge(torch.nn.Module):
    """H + (H P) Q + c on the residual stream.

    into: P (d, k). back: Q (k, d). shift: c (d). It holds 2 d k + d parameters.
    """

    into: torch.nn.Parameter
    back: torch.nn.Parameter
    shift: torch.nn.Parameter

    def __init__(self, into: torch.Tensor, back: torch.Tensor, shift: torch.Tensor):
        super().__init__()
        for name, value in (("into", into), ("back", back), ("shift", shift)):
            parameter = torch.nn.Parameter(value.contiguous(), requires_grad=False)
            self.register_parameter(name, parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + (hidden @ self.into) @ self.back + self.shift


@dataclass(eq=False)
class Moments:
    """Weighted sums over tokens, all that a linear fit needs, however many tokens; float64.

    x, y: (d,). xx, xy: (d, d), of x x^T and x y^T. weight: the sum of the weights.
    """

    size: int
    weight: float = 0.0

    def __post_init__(self) -> None:
        self.x, self.y = torch.zeros(2, self.size, dtype=torch.float64)
        self.xx, self.xy = torch.zeros(2, self.size, self.size, dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor, weights: np.ndarray | None = None) -> None:
        """Counts n more tokens. x, y: (n, d). weights: (n,), all 1 by default."""
        counts = np.ones(len(x)) if weights is None else np.array(weights)
        w = torch.as_tensor(counts, dtype=torch.float64)
        x, y = x.double(), y.double()
        weighted = (w[:, None] * x).T
        self.weight += float(w.sum())
        self.x = self.x + weighted.sum(1)
        self.y = self.y + w @ y
        self.xx = self.xx + weighted @ x
        self.xy = self.xy + weighted @ y


def bridge_map(
    moments: Moments, ridge: float, rank: int, energy: float | None = None, strength: float = 1.0
) -> Bridge:
    """The rank-k affine map X B + c nearest to Y (reduced-rank ridge regression), float64.

    It is argmin |X B + 1 c^T - Y|^2 + lambda |B|^2 over rank(B) <= k; the shift is not penalised.
    ridge: lambda in units of the mean diagonal of the centred X^T X.
    rank, energy: k, as `rank_for` says, of what the map explains.
    strength: blends with no map, 0..1.
    """
    mean_x, mean_y = moments.x / moments.weight, moments.y / moments.weight
    gram = moments.xx - moments.weight * torch.outer(mean_x, mean_x)
    cross = moments.xy - moments.weight * torch.outer(mean_x, mean_y)
    eye = torch.eye(len(gram), dtype=torch.float64)
    gram = gram + ridge * gram.diagonal().mean() * eye
    # this driver also serves where fewer tokens than dimensions leave the matrix singular
    full = torch.linalg.lstsq(gram, cross, driver="gelsd").solution
    basis = subspace((full.T @ gram @ full).numpy(), rank, energy)
    into, back = strength * full @ basis, basis.T
    return Bridge(into, back, strength * mean_y - mean_x @ into @ back)


def bridge(fit: Fit, first: int, last: int) -> Edit:
    """The bridge from what enters the run to what leaves it."""
    moments = Moments(fit.trace.hidden_size)
    for sample, at, weights in _tokens(fit):
        entering = sample.features[first, at].double()
        step = sample.features[last + 1, at].double() - entering
        moments.add(entering, step, weights[:, 0].numpy())
    recipe = fit.recipe
    fitted = bridge_map(moments, fit.ridge, fit.rank, recipe.energy, recipe.strength)
    return Edit(bridge=fitted, rank=fitted.into.shape[1])


def attach(layer: torch.nn.Module, bridge: torch.nn.Module) -> None:
    """Puts a bridge behind a decoder layer, in its dtype and on its device.

    layer: the pruned view's own module.
    """
    # the first floating-point one: 8-bit weights are whole numbers
    like = next(weight for weight in layer.parameters() if weight.is_floating_point())
    layer.add_module("svl_bridge", bridge.to(device=running_device(layer), dtype=like.dtype))
    bridge_output(layer, "svl_bridge")


# Weights


def projection(layer: torch.nn.Module, target: str) -> torch.nn.Module:
    """The linear map whose output `target` ("mlp" or "attention") adds to the residual stream."""
    if target == "mlp":
        return down_projection(layer)
    return linear_map(layer, OUT_PROJECTIONS)


def apply(module: torch.nn.Module, edit: torch.Tensor) -> None:
    """W <- edit W, and b <- edit b.

    edit: (d, d) float64. New Parameters are assigned: the tensors that a full model shares stay as
    they are.
    """
    check_floating(module)
    edited = {}
    for name in ("weight", "bias"):
        old = materialized(module, name)
        if old is not None:
            edited[name] = (edit.to(old.device) @ old.detach().double()).to(old.dtype)
    assign(module, **edited)
