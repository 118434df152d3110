"""The maths of the compensations: from calibration features to edited output weights, or a module
behind a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from svl_core.analysis.gap import gap_rows, gram_of_difference
from svl_core.analysis.trace import down_projection
from svl_core.errors import InputError
from svl_core.lvlm.families import OUT_PROJECTIONS, linear_map
from svl_core.lvlm.skeleton import assign, materialized, running_device
from svl_core.pruning.fit import Edit, Fit
from svl_core.pruning.refit import check_floating

WIDE = 512  # dimensions from which a few eigenvectors are sought alone


def rank_for(power: np.ndarray, rank: int, energy: float | None = None) -> int:
    """How many directions to use. power: (d,) squared singular values, falling.

    With `energy` (0..1) the fewest directions that
    hold this share of the total, else `rank`; never more than there are.
    """
    power = np.clip(np.asarray(power, np.float64), 0, None)
    real = int((power > power.max(initial=0) * 1e-12).sum()) if power.max(initial=0) > 0 else 0
    if energy is not None and real:
        rank = int(np.searchsorted(np.cumsum(power) / power.sum(), energy * (1 - 1e-12))) + 1
    return min(rank, real)


def subspace(gram: np.ndarray, rank: int, energy: float | None = None) -> torch.Tensor:
    """V_k, (d, k) float64: the first k right singular vectors of D, from its (d, d) Gram matrix D^T
    D; k as `rank_for` says.

    A few directions of many come from a Lanczos iteration, whose cost is that of some products with
    the matrix.
    """
    if energy is None and len(gram) >= WIDE and rank <= len(gram) // 16:
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(
            gram, max(rank, 1), v0=np.random.default_rng(0).standard_normal(len(gram))
        )
    else:
        values, vectors = np.linalg.eigh(gram)
    return torch.from_numpy(vectors[:, ::-1][:, : rank_for(values[::-1], rank, energy)].copy())


def gap_subspace(fit: Fit, first: int, last: int) -> torch.Tensor:
    """V_k of the run's difference over the fit's tokens, through the smaller of its two Gram
    matrices: never more than d x d numbers in memory.
    """
    if 2 * sum(map(len, fit.positions)) > fit.trace.hidden_size:
        return subspace(
            gram_of_difference(fit.trace, fit.positions, first, last),
            fit.recipe.rank,
            fit.recipe.energy,
        )
    rows = gap_rows(fit.trace, fit.positions, first, last)
    left = subspace((rows @ rows.T).numpy(), fit.recipe.rank, fit.recipe.energy)
    return torch.linalg.qr(rows.T @ left).Q


def scp_map(
    gram: np.ndarray, rank: int, strength: float, energy: float | None = None
) -> torch.Tensor:
    """I + strength V_k V_k^T, (d, d) float64, from the (d, d) Gram matrix of the difference.

    (Paper, part (b) of the method figure.)
    """
    basis = subspace(gram, rank, energy)
    return torch.eye(len(gram), dtype=torch.float64) + strength * basis @ basis.T


def scp(fit: Fit, first: int, last: int) -> Edit:
    basis = gap_subspace(fit, first, last)
    edit = torch.eye(len(basis), dtype=torch.float64) + fit.recipe.strength * basis @ basis.T
    return Edit({target: edit for target in fit.recipe.targets}, rank=basis.shape[1])


def lstsq_map(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """argmin_T |M T - Y|^2 + lambda |T - I|^2 from M^T M and M^T Y (d, d) float64; lambda = ridge x
    mean diagonal of M^T M. Returns T^T.
    """
    eye = torch.eye(len(gram), dtype=torch.float64)
    scale = ridge * gram.diagonal().mean()
    return torch.linalg.solve(gram + scale * eye, cross + scale * eye).T


def lstsq(fit: Fit, first: int, last: int) -> Edit:
    d, kept = fit.trace.hidden_size, first - 1
    gram, cross = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    for number, (sample, at) in enumerate(zip(fit.trace.samples, fit.positions, strict=True)):
        if sample.mlp is None:
            raise InputError(
                "Found a calibration trace without MLP outputs; expected them for compensation"
                " 'lstsq'; trace with mlp=True."
            )
        index = torch.as_tensor(np.array(at))
        given = sample.mlp[kept, index].double()
        wanted = (
            sample.features[last + 1, index].double()
            - sample.features[first, index].double()
            + given
        )
        weight = (
            1.0
            if fit.weights is None
            else torch.as_tensor(np.array(fit.weights[number]), dtype=torch.float64)[:, None]
        )
        gram += given.T @ (weight * given)
        cross += given.T @ (weight * wanted)
    return Edit(
        {
            "mlp": (
                torch.eye(d, dtype=torch.float64) * (1 - fit.recipe.strength)
                + fit.recipe.strength * lstsq_map(gram, cross, fit.ridge)
            )
        }
    )


class Bridge(torch.nn.Module):
    """H + (H P) Q + c on the residual stream: `into` P (d, k), `back` Q (k, d), `shift` c (d); 2 d
    k + d parameters.
    """

    def __init__(self, into: torch.Tensor, back: torch.Tensor, shift: torch.Tensor):
        super().__init__()
        for name, value in (("into", into), ("back", back), ("shift", shift)):
            self.register_parameter(
                name, torch.nn.Parameter(value.contiguous(), requires_grad=False)
            )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + (hidden @ self.into) @ self.back + self.shift


def bridge_map(
    moments: Moments, ridge: float, rank: int, energy: float | None = None, strength: float = 1.0
) -> Bridge:
    """The rank-k affine map X B + c nearest to Y: argmin |X B + 1 c^T - Y|^2 + lambda |B|^2 over
    rank(B) <= k, lambda = ridge x mean diagonal of the centred X^T X, the shift not penalised
    (reduced-rank ridge regression); float64.
    """
    mean_x, mean_y = moments.x / moments.weight, moments.y / moments.weight
    gram = moments.xx - moments.weight * torch.outer(mean_x, mean_x)
    cross = moments.xy - moments.weight * torch.outer(mean_x, mean_y)
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    full = torch.linalg.lstsq(
        gram, cross, driver="gelsd"
    ).solution  # also where fewer tokens than dimensions leave it singular
    basis = subspace((full.T @ gram @ full).numpy(), rank, energy)
    into, back = strength * full @ basis, basis.T
    return Bridge(into, back, strength * mean_y - mean_x @ into @ back)


@dataclass(eq=False)
class Moments:
    """Weighted sums over tokens of x (d,), y (d,), x x^T and x y^T (d, d), float64: all that a
    linear fit needs, however many tokens.
    """

    size: int
    weight: float = 0.0

    def __post_init__(self):
        self.x, self.y = torch.zeros(2, self.size, dtype=torch.float64)
        self.xx, self.xy = torch.zeros(2, self.size, self.size, dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor, weights: np.ndarray | None = None) -> None:
        """x, y (n, d); weights (n,)."""
        w = (
            torch.ones(len(x), dtype=torch.float64)
            if weights is None
            else torch.as_tensor(np.array(weights), dtype=torch.float64)
        )
        x, y = x.double(), y.double()
        weighted = (w[:, None] * x).T
        self.weight, self.x, self.y = (
            self.weight + float(w.sum()),
            self.x + weighted.sum(1),
            self.y + w @ y,
        )
        self.xx, self.xy = self.xx + weighted @ x, self.xy + weighted @ y


def bridge(fit: Fit, first: int, last: int) -> Edit:
    moments = Moments(fit.trace.hidden_size)
    for number, (sample, at) in enumerate(zip(fit.trace.samples, fit.positions, strict=True)):
        index = torch.as_tensor(np.array(at))
        entering = sample.features[first, index].double()
        moments.add(
            entering,
            sample.features[last + 1, index].double() - entering,
            None if fit.weights is None else fit.weights[number],
        )
    made = bridge_map(moments, fit.ridge, fit.recipe.rank, fit.recipe.energy, fit.recipe.strength)
    return Edit(bridge=made, rank=made.into.shape[1])


def attach(layer: torch.nn.Module, bridge: Bridge) -> None:
    """Puts a bridge behind a decoder layer, in its dtype and on its device; the layer is the pruned
    view's own module.
    """
    like = next(
        parameter for parameter in layer.parameters() if parameter.is_floating_point()
    )  # 8-bit weights are whole numbers
    layer.add_module("svl_bridge", bridge.to(device=running_device(layer), dtype=like.dtype))

    def hook(module, args, output):
        return (
            (module.svl_bridge(output[0]), *output[1:])
            if isinstance(output, tuple)
            else module.svl_bridge(output)
        )

    layer.register_forward_hook(hook)


def projection(layer: torch.nn.Module, target: str) -> torch.nn.Module:
    """The linear module whose output `target` ("mlp" or "attention") adds to the residual stream."""
    if target == "mlp":
        return down_projection(layer)
    return linear_map(layer, OUT_PROJECTIONS)


def apply(module: torch.nn.Module, edit: torch.Tensor) -> None:
    """W <- edit W (and b <- edit b) by assigning new Parameters: the tensors that a full model
    shares stay as they are.
    """
    check_floating(module)
    held = {name: materialized(module, name) for name in ("weight", "bias")}
    assign(
        module,
        **{
            name: (edit.to(old.device) @ old.detach().double()).to(old.dtype)
            for name, old in held.items()
            if old is not None
        },
    )
