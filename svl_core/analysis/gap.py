"""Feature gaps: what dropping layers takes out of the residual stream, and a plane to see it in
(paper, part (b) of the method figure).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from svl_core.analysis.importance import DEFAULT_TOP_P, TokenImportance, TopP
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.notebook import Shown


@dataclass(frozen=True, eq=False, repr=False)
class RunGap(Shown):
    """The gap of one maximal run of dropped layers first..last (inclusive).

    relative: mean over n tokens of |H[last+1] - H[first]| / |H[last+1]|.
    spectrum: (min(n, d),) singular values of the (n, d) difference, where asked for.
    """

    first: int
    last: int
    relative: float
    spectrum: np.ndarray | None

    def energy(self, rank: int) -> float:
        """Share 0..1 of the squared difference that the first `rank` directions hold.

        Raises ValueError where no spectrum was asked for.
        """
        if self.spectrum is None:
            raise ValueError("This gap has no spectrum; call feature_gap with spectra=True.")
        power = self.spectrum.astype(np.float64) ** 2
        return float(power[:rank].sum() / power.sum()) if power.sum() else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class GapCurve(Shown):
    """What dropping layers takes out of the residual stream.

    per_layer: (L,) relative step of each layer, mean over tokens of |H[l+1] - H[l]| / |H[l+1]|.
    runs: the gaps of the dropped runs.
    """

    per_layer: np.ndarray
    runs: tuple[RunGap, ...]


@dataclass(frozen=True, eq=False, repr=False)
class GapProjection(Shown):
    """Hidden states on the plane of two principal components.

    before: (n, 2) what enters the dropped layers.
    target: (n, 2) what the full model has behind them.
    after: (n, 2) what a compensation makes of `before`, where there is one.
    explained: the components' variance shares 0..1.
    components, mean: (1 or 2, d) and (d,) of the plane.
    """

    before: np.ndarray
    target: np.ndarray
    after: np.ndarray | None
    explained: tuple[float, float]
    components: np.ndarray
    mean: np.ndarray

    def with_after(self, after: np.ndarray) -> GapProjection:
        """The same plane with what a compensation makes of `before`, (n, d) hidden states."""
        return replace(self, after=_on_plane(after, self.components, self.mean))


def _on_plane(rows: np.ndarray, components: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(n, d) hidden states -> (n, 2), as scikit-learn projects them."""
    turned = components.T
    coordinates = np.zeros((len(rows), 2), np.float32)
    placed = np.asarray(rows, components.dtype) @ turned
    placed -= mean[None] @ turned
    coordinates[:, : len(components)] = placed
    return coordinates


def runs_of(drop: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Maximal runs (first, last) of consecutive indices: [2, 3, 7] -> ((2, 3), (7, 7))."""
    runs: list[list[int]] = []
    for layer in sorted(set(drop)):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return tuple((first, last) for first, last in runs)


def difference(
    sample: SampleTrace,
    chosen: np.ndarray,
    first: int,
    last: int,
) -> torch.Tensor:
    """(n, d) float64: H[last+1] - H[first] at n positions of one sample."""
    index = torch.as_tensor(np.array(chosen))
    before = sample.features[first, index].double()
    return sample.features[last + 1, index].double() - before


def gram_of_difference(
    trace: Trace,
    positions: Sequence[np.ndarray],
    first: int,
    last: int,
) -> np.ndarray:
    """(d, d) float64 Gram matrix of H[last+1] - H[first] over some tokens: memory d x d however
    many samples.

    positions: for each sample the tokens.
    first, last: the run of layers.
    """
    gram = torch.zeros(
        trace.hidden_size,
        trace.hidden_size,
        dtype=torch.float64,
    )
    for sample, chosen in zip(trace.samples, positions, strict=True):
        rows = difference(sample, chosen, first, last)
        gram += rows.T @ rows
    return gram.numpy()


def gap_rows(
    trace: Trace,
    positions: Sequence[np.ndarray],
    first: int,
    last: int,
) -> torch.Tensor:
    """(n, d) float64: H[last+1] - H[first] at n tokens of all samples.

    For fewer tokens than dimensions, where this is smaller than the Gram matrix.
    """
    rows = [
        difference(sample, chosen, first, last)
        for sample, chosen in zip(trace.samples, positions, strict=True)
    ]
    return torch.cat(rows)


def spectrum(
    trace: Trace,
    positions: Sequence[np.ndarray],
    first: int,
    last: int,
) -> np.ndarray:
    """(min(n, d),) singular values of H[last+1] - H[first] at n tokens, falling, from the smaller
    of its two Gram matrices.
    """
    count = sum(map(len, positions))
    if count < trace.hidden_size:
        rows = gap_rows(trace, positions, first, last)
        gram = (rows @ rows.T).numpy()
    else:
        gram = gram_of_difference(trace, positions, first, last)
    eigenvalues = np.linalg.eigvalsh(gram)[::-1]
    return np.sqrt(np.clip(eigenvalues, 0, None))


def feature_gap(
    trace: Trace,
    drop: Sequence[int],
    importance: TokenImportance | None = None,
    *,
    tokens: str = "important",
    top_p: TopP | float = DEFAULT_TOP_P,
    spectra: bool = True,
) -> GapCurve:
    """What dropping layers takes out of the residual stream, on a token set.

    trace: the model's passes.
    drop: the layers that go, 0..L-1, in any order.
    importance: TIS of the traced samples, for the important tokens (default: computed).
    tokens: a token set, see `token_positions`.
    top_p: which tokens count as important, a `TopP` or its share.
    spectra: compute each run's spectrum too.

    Source: the paper, part (b) of the method figure.
    """
    positions = token_positions(trace, importance, tokens, top_p)
    count = max(sum(map(len, positions)), 1)
    layers = np.arange(trace.num_layers)
    steps = np.zeros(trace.num_layers)
    jumps = dict.fromkeys(runs_of(drop), 0.0)
    for sample, chosen in zip(trace.samples, positions, strict=True):
        products = sample.products[np.asarray(chosen, np.int64)]
        steps += _relative(products, layers, layers + 1).sum(0)
        for first, last in jumps:
            jumps[first, last] += float(_relative(products, first, last + 1).sum())
    runs = []
    for (first, last), total in jumps.items():
        values = spectrum(trace, positions, first, last) if spectra else None
        runs.append(RunGap(first, last, total / count, values))
    return GapCurve(steps / count, tuple(runs))


def _relative(
    products: np.ndarray,
    a: np.ndarray | int,
    b: np.ndarray | int,
) -> np.ndarray:
    """|H[b] - H[a]| / |H[b]| of each token, from inner products (n, L+1, L+1)."""
    squared_length = products[:, b, b]
    squared_step = squared_length - 2 * products[:, a, b] + products[:, a, a]
    step = np.sqrt(np.clip(squared_step, 0, None))
    return step / np.sqrt(squared_length).clip(1e-30)


SMALL = 2**18  # numbers up to which a full decomposition is as quick as one of two components


def pca_view(
    before: np.ndarray,
    target: np.ndarray,
    after: np.ndarray | None = None,
) -> GapProjection:
    """Project features on the two principal components of `before` and `target` together
    (scikit-learn's PCA).

    before: (n, d) what enters the dropped layers.
    target: (n, d) what the full model has behind them.
    after: (n, d) what a compensation makes of `before`.
    """
    from sklearn.decomposition import PCA

    both = np.concatenate([before, target])
    quick = min(both.shape) >= 8 and both.size > SMALL
    both = both.astype(np.float32 if quick else np.float64)
    parts = min(2, *both.shape)
    solver = "arpack" if quick else "full"
    pca = PCA(parts, svd_solver=solver, random_state=0).fit(both)
    plane = pca.components_, pca.mean_
    explained = np.zeros(2)
    explained[:parts] = np.nan_to_num(pca.explained_variance_ratio_)
    view = GapProjection(
        before=_on_plane(before, *plane),
        target=_on_plane(target, *plane),
        after=None,
        explained=(float(explained[0]), float(explained[1])),
        components=pca.components_,
        mean=pca.mean_,
    )
    return view if after is None else view.with_after(after)
