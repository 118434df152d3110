"""The maths of the compensations: from calibration features to edited output weights, or a module
behind a layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from svl_core.analysis.memo import Memo
from svl_core.analysis.trace import SampleTrace
from svl_core.errors import InputError
from svl_core.lvlm.hooks import bridge_output
from svl_core.lvlm.roles import Ending
from svl_core.lvlm.skeleton import assign, materialized, running_device
from svl_core.pruning.difference import difference_gram, difference_rows, row_count
from svl_core.pruning.fit import Edit, Fit
from svl_core.pruning.refit import check_floating

WIDE = 512
"""Dimensions from which a few eigenvectors are sought alone."""


# The subspace of a gap


def rank_for(
    power: np.ndarray,
    rank: int,
    energy: float | None = None,
) -> int:
    """How many directions to use, never more than there are.

    power: (d,) squared singular values, falling.
    rank: the number that is asked for.
    energy: instead of it, take the fewest directions that hold this share 0..1 of the total.
    """
    power = np.asarray(power, np.float64).clip(min=0)
    largest = power.max(initial=0)
    if not largest > 0:
        return min(rank, 0)
    present = int((power > largest * 1e-12).sum())
    if energy is not None:
        shares = np.cumsum(power) / power.sum()
        enough = energy * (1 - 1e-12)
        rank = int(np.searchsorted(shares, enough)) + 1
    return min(rank, present)


def subspace(
    gram: np.ndarray,
    rank: int,
    energy: float | None = None,
) -> torch.Tensor:
    """V_k, (d, k) float64: the first k right singular vectors of D, k as `rank_for` says.

    gram: (d, d) D^T D. A few directions of many come from a Lanczos iteration, whose cost is that
    of some products with the matrix.
    """
    size = len(gram)
    if energy is None and size >= WIDE and rank <= size // 16:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).standard_normal(size)
        count = max(rank, 1)
        values, vectors = eigsh(gram, count, v0=start)
    else:
        values, vectors = np.linalg.eigh(gram)
    falling = vectors[:, ::-1]
    first = falling[:, : rank_for(values[::-1], rank, energy)]
    return torch.from_numpy(first.copy())


def gap_subspace(
    fit: Fit,
    first: int,
    last: int,
) -> torch.Tensor:
    """V_k of the run's difference, as `difference` reads it, (d, k) float64; found once for a trace
    that is in memory, for plans share runs.
    """
    if fit.trace.spool is not None:
        return _gap_subspace(fit, first, last)
    chosen = hashlib.blake2b()
    for positions in fit.positions:
        chosen.update(f"{len(positions)} ".encode())
        chosen.update(np.ascontiguousarray(positions).tobytes())
    recipe = fit.recipe
    reading = recipe.gap_rows, recipe.gap_centred, recipe.gap_span
    key = first, last, fit.rank, recipe.energy, reading, chosen.digest()
    return _SUBSPACES.of(
        fit.trace,
        key,
        lambda: _gap_subspace(fit, first, last),
        lambda basis: basis.numel() <= MOST_NUMBERS,
    )


_SUBSPACES = Memo(32)
MOST_NUMBERS = 2**19
"""Of a subspace that is kept: 4 MB."""


def _gap_subspace(
    fit: Fit,
    first: int,
    last: int,
) -> torch.Tensor:
    """`gap_subspace` through the smaller of the two Gram matrices: never more than d x d numbers
    are in memory.
    """
    if 2 * row_count(fit) > fit.trace.hidden_size:
        gram = difference_gram(fit, first, last)
        return subspace(gram, fit.rank, fit.recipe.energy)
    rows = difference_rows(fit, first, last)
    outer = (rows @ rows.T).numpy()
    vectors = subspace(outer, fit.rank, fit.recipe.energy)
    return torch.linalg.qr(rows.T @ vectors).Q


# Subspace-compensated pruning


def scp_map(
    gram: np.ndarray,
    rank: int,
    strength: float,
    energy: float | None = None,
) -> torch.Tensor:
    """I + strength V_k V_k^T, (d, d) float64, from the (d, d) Gram matrix of the difference.

    Source: the paper, part (b) of the method figure.
    """
    return _amplified(subspace(gram, rank, energy), strength)


def scp(
    fit: Fit,
    first: int,
    last: int,
) -> Edit:
    """The same map for every target projection of the layer before the run."""
    basis = gap_subspace(fit, first, last)
    edit = _amplified(basis, fit.recipe.strength)
    return Edit(
        {target: edit for target in fit.recipe.targets},
        rank=basis.shape[1],
    )


def _amplified(
    basis: torch.Tensor,
    strength: float,
) -> torch.Tensor:
    """I + strength V V^T of V (d, k)."""
    projector = strength * basis @ basis.T
    return _eye(len(basis)) + projector


def _eye(size: int) -> torch.Tensor:
    """I, (d, d) float64. size: d."""
    return torch.eye(size, dtype=torch.float64)


def _zeros(size: int) -> torch.Tensor:
    """(d, d) float64. size: d."""
    return torch.zeros(size, size, dtype=torch.float64)


# Least squares


def lstsq_map(
    gram: torch.Tensor,
    cross: torch.Tensor,
    ridge: float,
) -> torch.Tensor:
    """T^T for T = argmin |M T - Y|^2 + lambda |T - I|^2, (d, d) float64.

    gram, cross: (d, d) M^T M and M^T Y.
    ridge: lambda in units of the mean diagonal of M^T M.
    Source: after ReplaceMe, arXiv 2505.02819.
    """
    scale = ridge * gram.diagonal().mean()
    penalty = scale * _eye(len(gram))
    return torch.linalg.solve(gram + penalty, cross + penalty).T


def lstsq(
    fit: Fit,
    first: int,
    last: int,
) -> Edit:
    """The map of the MLP output of the layer before the run, blended with no edit by `strength`;
    none where the recipe's targets leave the MLP out.
    """
    if "mlp" not in fit.recipe.targets:
        return Edit()
    size = fit.trace.hidden_size
    gram = _zeros(size)
    cross = _zeros(size)
    for sample, at, weights in fitted_tokens(fit):
        if sample.mlp is None:
            raise InputError(
                "Found a calibration trace without MLP outputs; expected them for compensation"
                " 'lstsq'; trace with mlp=True."
            )
        _, step = entering_and_step(sample, at, first, last)
        output = sample.mlp[first - 1, at].double()
        wanted = step + output
        gram += output.T @ (weights * output)
        cross += output.T @ (weights * wanted)
    strength = fit.recipe.strength
    unedited = _eye(size) * (1 - strength)
    fitted = lstsq_map(gram, cross, fit.ridge)
    return Edit({"mlp": unedited + strength * fitted})


def fitted_tokens(fit: Fit) -> Iterator[tuple[SampleTrace, torch.Tensor, torch.Tensor]]:
    """Each sample with its n fitted positions (n,) and their weights (n, 1) float64."""
    pairs = zip(fit.trace.samples, fit.positions, strict=True)
    for number, (sample, at) in enumerate(pairs):
        weights = np.ones(len(at))
        if fit.weights is not None:
            weights = np.array(fit.weights[number])
        column = torch.as_tensor(weights, dtype=torch.float64)[:, None]
        yield sample, torch.as_tensor(np.array(at)), column


def entering_and_step(
    sample: SampleTrace,
    at: torch.Tensor,
    first: int,
    last: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What enters the run first..last, and what the run adds to it, at n positions; (n, d) float64.

    at: (n,) the positions.
    """
    entering = sample.features[first, at].double()
    leaving = sample.features[last + 1, at].double()
    return entering, leaving - entering


# The linear bridge


class Bridge(torch.nn.Module):
    """H + (H P) Q + c on the residual stream.

    into: P (d, k).
    back: Q (k, d).
    shift: c (d,).

    It holds 2 d k + d parameters.
    """

    into: torch.nn.Parameter
    back: torch.nn.Parameter
    shift: torch.nn.Parameter

    def __init__(
        self,
        into: torch.Tensor,
        back: torch.Tensor,
        shift: torch.Tensor,
    ):
        super().__init__()
        values = {"into": into, "back": back, "shift": shift}
        for name, value in values.items():
            parameter = torch.nn.Parameter(
                value.contiguous(),
                requires_grad=False,
            )
            self.register_parameter(name, parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mapped = (hidden @ self.into) @ self.back
        return hidden + mapped + self.shift


@dataclass(eq=False)
class Moments:
    """Weighted sums over tokens, all that a linear fit needs, however many tokens; float64.

    size: d.
    weight: the sum of the weights.
    x, y: (d,).
    xx, xy: (d, d), of x x^T and x y^T.
    """

    size: int
    weight: float = 0.0

    def __post_init__(self) -> None:
        self.x = torch.zeros(self.size, dtype=torch.float64)
        self.y = torch.zeros(self.size, dtype=torch.float64)
        self.xx = _zeros(self.size)
        self.xy = _zeros(self.size)

    def add(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        weights: np.ndarray | None = None,
    ) -> None:
        """Counts n more tokens. x, y: (n, d). weights: (n,), all 1 by default."""
        counts = np.ones(len(x))
        if weights is not None:
            counts = np.array(weights)
        weight = torch.as_tensor(counts, dtype=torch.float64)
        x = x.double()
        y = y.double()
        weighted = (weight[:, None] * x).T
        self.weight += float(weight.sum())
        self.x = self.x + weighted.sum(1)
        self.y = self.y + weight @ y
        self.xx = self.xx + weighted @ x
        self.xy = self.xy + weighted @ y


def bridge_map(
    moments: Moments,
    ridge: float,
    rank: int,
    energy: float | None = None,
    strength: float = 1.0,
) -> Bridge:
    """The rank-k affine map X B + c nearest to Y (reduced-rank ridge regression), float64.

    It is argmin |X B + 1 c^T - Y|^2 + lambda |B|^2 over rank(B) <= k; the shift is not penalised.
    ridge: lambda in units of the mean diagonal of the centred X^T X.
    rank, energy: k, as `rank_for` says, of what the map explains.
    strength: blends with no map, 0..1.
    """
    total = moments.weight
    mean_x = moments.x / total
    mean_y = moments.y / total
    centred = moments.xx - total * torch.outer(mean_x, mean_x)
    cross = moments.xy - total * torch.outer(mean_x, mean_y)
    scale = ridge * centred.diagonal().mean()
    gram = centred + scale * _eye(len(centred))
    # this driver also serves where fewer tokens than dimensions leave the matrix singular
    solved = torch.linalg.lstsq(gram, cross, driver="gelsd")
    full = solved.solution
    explained = full.T @ gram @ full
    basis = subspace(explained.numpy(), rank, energy)
    into = strength * full @ basis
    back = basis.T
    shift = strength * mean_y - mean_x @ into @ back
    return Bridge(into, back, shift)


def bridge(
    fit: Fit,
    first: int,
    last: int,
) -> Edit:
    """The bridge from what enters the run to what leaves it."""
    moments = Moments(fit.trace.hidden_size)
    for sample, at, weights in fitted_tokens(fit):
        entering, step = entering_and_step(sample, at, first, last)
        moments.add(entering, step, weights[:, 0].numpy())
    fitted = bridge_map(
        moments,
        fit.ridge,
        fit.rank,
        energy=fit.recipe.energy,
        strength=fit.recipe.strength,
    )
    _, used = fitted.into.shape
    return Edit(bridge=fitted, rank=used)


def attach(layer: torch.nn.Module, bridge: torch.nn.Module) -> None:
    """Puts a bridge behind a decoder layer, in its dtype and on its device.

    layer: the pruned view's own module.
    """
    # the first floating-point one: 8-bit weights are whole numbers
    floating = (weight for weight in layer.parameters() if weight.is_floating_point())
    dtype = next(floating).dtype
    bridge = bridge.to(
        device=running_device(layer),
        dtype=dtype,
    )
    layer.add_module("svl_bridge", bridge)
    bridge_output(layer, "svl_bridge")


# Weights


def apply(module: torch.nn.Module, edit: torch.Tensor) -> None:
    """W <- edit W, and b <- edit b, of a linear map; see `apply_to`."""
    apply_to(Ending(module), edit)


def apply_to(ending: Ending, edit: torch.Tensor) -> None:
    """W <- edit W, and b <- edit b, on the output side of a weight; of experts, of each.

    edit: (d, d) float64. New Parameters are assigned: the tensors that a full model shares stay as
    they are.
    """
    module = ending.module
    check_floating(module, ending.weight)
    edited = {}
    for name in (ending.weight, ending.bias):
        parameter = materialized(module, name)
        if parameter is None:
            continue
        edit = edit.to(parameter.device)
        is_weight = name == ending.weight
        from_right = ending.transposed if is_weight else parameter.dim() > 1
        edited[name] = _mapped(parameter.detach(), edit, from_right)
    assign(module, **edited)


def _mapped(
    tensor: torch.Tensor,
    edit: torch.Tensor,
    from_right: bool,
) -> torch.Tensor:
    """edit X, or X edit^T, in float64, of one matrix or vector at a time of a stack of them.

    tensor: (d,), (d, f), (f, d), or a stack of matrices along its first dimension.
    """
    if tensor.dim() == 3:
        parts = [_mapped(part, edit, from_right) for part in tensor]
        return torch.stack(parts)
    wide = tensor.double()
    product = wide @ edit.T if from_right else edit @ wide
    return product.to(tensor.dtype)
