"""Feature gaps: what dropping layers takes out of the residual stream, and a plane to see it in
(paper, part (b) of the method figure).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import Trace


@dataclass(frozen=True, eq=False)
class RunGap:
    """The gap of one maximal run of dropped layers first..last (inclusive).

    relative: mean over tokens of |H[last+1] - H[first]| / |H[last+1]|. spectrum: (min(n, d),)
    singular values of the (n, d) difference, where wanted.
    """

    first: int
    last: int
    relative: float
    spectrum: np.ndarray | None

    def energy(self, rank: int) -> float:
        """Share 0..1 of the squared difference that the first `rank` directions hold."""
        power = self.spectrum.astype(np.float64) ** 2
        return float(power[:rank].sum() / power.sum()) if power.sum() else 0.0


@dataclass(frozen=True, eq=False)
class GapCurve:
    """per_layer: (L,) relative step of each layer, mean over tokens of |H[l+1] - H[l]| / |H[l+1]|;
    runs: the dropped runs' gaps.
    """

    per_layer: np.ndarray
    runs: tuple[RunGap, ...]


@dataclass(frozen=True, eq=False)
class GapProjection:
    """(n, 2) coordinates on the two principal components of the features before and wanted;
    `explained`: their variance shares.
    """

    before: np.ndarray
    target: np.ndarray
    after: np.ndarray | None
    explained: tuple[float, float]


def runs_of(drop: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Maximal runs (first, last) of consecutive indices: [2, 3, 7] -> ((2, 3), (7, 7))."""
    found: list[list[int]] = []
    for layer in sorted(set(drop)):
        if found and layer == found[-1][1] + 1:
            found[-1][1] = layer
        else:
            found.append([layer, layer])
    return tuple((first, last) for first, last in found)


def gram_of_difference(
    trace: Trace, positions: Sequence[np.ndarray], first: int, last: int
) -> np.ndarray:
    """(d, d) float64 Gram matrix of H[last+1] - H[first] over the given tokens: memory d x d
    however many samples.
    """
    gram = torch.zeros(trace.hidden_size, trace.hidden_size, dtype=torch.float64)
    for sample, at in zip(trace.samples, positions, strict=True):
        index = torch.as_tensor(np.array(at))
        difference = (
            sample.features[last + 1, index].double() - sample.features[first, index].double()
        )
        gram += difference.T @ difference
    return gram.numpy()


def gap_rows(trace: Trace, positions: Sequence[np.ndarray], first: int, last: int) -> torch.Tensor:
    """(n, d) float64: H[last+1] - H[first] at the given tokens; for fewer tokens than dimensions,
    where it is smaller than the Gram matrix.
    """
    indices = [torch.as_tensor(np.array(at)) for at in positions]
    return torch.cat(
        [
            sample.features[last + 1, index].double() - sample.features[first, index].double()
            for sample, index in zip(trace.samples, indices, strict=True)
        ]
    )


def spectrum(trace: Trace, positions: Sequence[np.ndarray], first: int, last: int) -> np.ndarray:
    """(min(n, d),) singular values of H[last+1] - H[first], falling, from the smaller of its two
    Gram matrices.
    """
    count = sum(map(len, positions))
    if count < trace.hidden_size:
        rows = gap_rows(trace, positions, first, last)
        gram = (rows @ rows.T).numpy()
    else:
        gram = gram_of_difference(trace, positions, first, last)
    return np.sqrt(np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None))


def feature_gap(
    trace: Trace,
    drop: Sequence[int],
    importance: TokenImportance | None = None,
    *,
    tokens: str = "important",
    top_p: TopP = TopP(),
    spectra: bool = True,
) -> GapCurve:
    """Relative steps of all layers and, for each maximal run of `drop`, its gap and (unless not
    wanted: `spectra`) its spectrum, on the given token set.
    """
    positions = token_positions(trace, importance, tokens, top_p)
    count = max(sum(map(len, positions)), 1)
    steps = np.zeros(trace.num_layers)
    jumps = {run: 0.0 for run in runs_of(drop)}
    layers = np.arange(trace.num_layers)
    for sample, at in zip(trace.samples, positions, strict=True):
        products = sample.products[np.asarray(at, np.int64)]
        steps += _relative(products, layers, layers + 1).sum(0)
        for first, last in jumps:
            jumps[first, last] += float(_relative(products, first, last + 1).sum())
    runs = [
        RunGap(
            first,
            last,
            total / count,
            spectrum(trace, positions, first, last) if spectra else None,
        )
        for (first, last), total in jumps.items()
    ]
    return GapCurve(steps / count, tuple(runs))


def _relative(products: np.ndarray, a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
    """|H[b] - H[a]| / |H[b]| of each token, from inner products (n, L+1, L+1)."""
    length = products[:, b, b]
    return np.sqrt(np.clip(length - 2 * products[:, a, b] + products[:, a, a], 0, None)) / np.sqrt(
        length
    ).clip(1e-30)


SMALL = 2**18  # numbers up to which a full decomposition is as quick as one of two components


def pca_view(
    before: np.ndarray, target: np.ndarray, after: np.ndarray | None = None
) -> GapProjection:
    """Project (n, d) features on the two principal components of `before` and `target` together
    (scikit-learn's PCA).
    """
    from sklearn.decomposition import PCA

    both = np.concatenate([before, target])
    quick = min(both.shape) >= 8 and both.size > SMALL
    both = both.astype(np.float32 if quick else np.float64)
    parts = min(2, *both.shape)
    pca = PCA(parts, svd_solver="arpack" if quick else "full", random_state=0).fit(both)

    def flat(rows: np.ndarray) -> np.ndarray:
        made = np.zeros((len(rows), 2), np.float32)
        made[:, :parts] = pca.transform(np.asarray(rows, both.dtype))
        return made

    explained = np.zeros(2)
    explained[:parts] = np.nan_to_num(pca.explained_variance_ratio_)
    return GapProjection(
        flat(before),
        flat(target),
        None if after is None else flat(after),
        (float(explained[0]), float(explained[1])),
    )
