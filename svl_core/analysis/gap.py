"""Feature gaps: what dropping layers takes out of the residual stream, and a plane to see it in (paper, part (b) of the method figure)."""

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

    relative: mean over tokens of |H[last+1] - H[first]| / |H[last+1]|. spectrum: (min(n, d),) singular values of the (n, d) difference.
    """

    first: int
    last: int
    relative: float
    spectrum: np.ndarray

    def energy(self, rank: int) -> float:
        """Share 0..1 of the squared difference that the first `rank` directions hold."""
        power = self.spectrum.astype(np.float64) ** 2
        return float(power[:rank].sum() / power.sum()) if power.sum() else 0.0


@dataclass(frozen=True, eq=False)
class GapCurve:
    """per_layer: (L,) relative step of each layer, mean over tokens of |H[l+1] - H[l]| / |H[l+1]|; runs: the dropped runs' gaps."""

    per_layer: np.ndarray
    runs: tuple[RunGap, ...]


@dataclass(frozen=True, eq=False)
class GapProjection:
    """(n, 2) coordinates on the two principal components of the features before and wanted; `explained`: their variance shares."""

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


def gram_of_difference(trace: Trace, positions: tuple[np.ndarray, ...], first: int, last: int) -> np.ndarray:
    """(d, d) float64 Gram matrix of H[last+1] - H[first] over the given tokens: memory d x d however many samples."""
    gram = torch.zeros(trace.hidden_size, trace.hidden_size, dtype=torch.float64)
    for sample, at in zip(trace.samples, positions, strict=True):
        index = torch.as_tensor(np.array(at))
        difference = sample.features[last + 1, index].double() - sample.features[first, index].double()
        gram += difference.T @ difference
    return gram.numpy()


def feature_gap(trace: Trace, drop: Sequence[int], importance: TokenImportance | None = None, *, tokens: str = "important", top_p: TopP = TopP()) -> GapCurve:
    """Relative steps of all layers and, for each maximal run of `drop`, its gap and spectrum, on the given token set."""
    positions = token_positions(trace, importance, tokens, top_p)
    count = sum(map(len, positions))
    steps, jumps = np.zeros(trace.num_layers), {run: 0.0 for run in runs_of(drop)}
    for sample, at in zip(trace.samples, positions, strict=True):
        rows = sample.features[:, torch.as_tensor(np.array(at))].float()
        norms = rows.norm(dim=-1).clamp_min(1e-30)
        steps += ((rows[1:] - rows[:-1]).norm(dim=-1) / norms[1:]).sum(1).double().numpy()
        for first, last in jumps:
            jumps[first, last] += float(((rows[last + 1] - rows[first]).norm(dim=-1) / norms[last + 1]).sum())
    runs = []
    for (first, last), total in jumps.items():
        values = np.linalg.eigvalsh(gram_of_difference(trace, positions, first, last))[::-1]
        runs.append(RunGap(first, last, total / max(count, 1), np.sqrt(np.clip(values, 0, None))[:min(count, trace.hidden_size)]))
    return GapCurve(steps / max(count, 1), tuple(runs))


def pca_view(before: np.ndarray, target: np.ndarray, after: np.ndarray | None = None) -> GapProjection:
    """Project (n, d) features on the two principal components of `before` and `target` together (scikit-learn's PCA, full SVD)."""
    from sklearn.decomposition import PCA

    both = np.concatenate([before, target]).astype(np.float64)
    parts = min(2, *both.shape)
    pca = PCA(parts, svd_solver="full").fit(both)

    def flat(rows: np.ndarray) -> np.ndarray:
        made = np.zeros((len(rows), 2), np.float32)
        made[:, :parts] = pca.transform(np.asarray(rows, np.float64))
        return made

    explained = np.zeros(2)
    explained[:parts] = np.nan_to_num(pca.explained_variance_ratio_)
    return GapProjection(flat(before), flat(target), None if after is None else flat(after), (float(explained[0]), float(explained[1])))
