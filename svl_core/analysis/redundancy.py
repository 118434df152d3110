"""How redundant each decoder layer is: a registry of criteria, the layers' ranking, and the layer-by-layer similarity matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError


@dataclass(frozen=True, eq=False)
class LayerScores:
    """scores: (L,) float64, higher = more redundant. ranking: the droppable layers, most redundant first; dropping n takes its
    first n, so drop sets are nested. protected: layers that stay."""

    criterion: str
    scores: np.ndarray
    ranking: tuple[int, ...]
    protected: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.scores.setflags(write=False)
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        if sorted(self.ranking + self.protected) != list(range(len(self.scores))):
            raise ValueError("Each layer must be ranked or protected, and only once.")


@dataclass(frozen=True)
class Request:
    """What a criterion may use."""

    trace: Trace
    importance: TokenImportance | None
    top_p: TopP
    seed: int


@dataclass(frozen=True)
class Criterion:
    """One way to score layers. `function(request)` gives (L,) scores, higher = more redundant.

    direction says which end of the published measure is redundant; cost is in forward passes per calibration sample.
    """

    name: str
    title: str
    source: str
    formula: str
    direction: str
    cost_forward_passes: str
    function: Callable[[Request], np.ndarray] = field(repr=False)


def layer_cosines(trace: Trace, positions: tuple[np.ndarray, ...]) -> np.ndarray:
    """(L,) mean over the given tokens of all samples of cos(H[l], H[l+1]); NaN without tokens. Layer by layer: no copy of the trace."""
    total, count = np.zeros(trace.num_layers), 0
    for sample, at in zip(trace.samples, positions, strict=True):
        if not len(at):
            continue
        index = torch.as_tensor(np.array(at))
        rows = sample.features[:, index].double()  # (L+1, n, d): the chosen tokens only
        rows /= rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        total += (rows[:-1] * rows[1:]).sum(-1).sum(-1).numpy()
        count += len(at)
    return total / count if count else np.full(trace.num_layers, np.nan)


def _on(tokens: str) -> Callable[[Request], np.ndarray]:
    return lambda request: layer_cosines(request.trace, token_positions(request.trace, request.importance, tokens, request.top_p))


def _random(request: Request) -> np.ndarray:
    return np.random.default_rng(request.seed).random(request.trace.num_layers)


SVL = "Short-LVLM, arXiv 2507.23362"
CRITERIA: Mapping[str, Criterion] = MappingProxyType({row.name: row for row in (
    Criterion("svl", "SVL (important tokens)", SVL, "mean over important tokens of cos(H[l], H[l+1])", "high = redundant", "1", _on("important")),
    Criterion("svl-all", "SVL on all tokens", SVL + " (ablation)", "mean over all tokens of cos(H[l], H[l+1])", "high = redundant", "1", _on("all")),
    Criterion("svl-visual", "SVL on visual tokens", SVL + " (ablation)", "mean over visual tokens of cos(H[l], H[l+1])", "high = redundant", "1", _on("visual")),
    Criterion("svl-textual", "SVL on textual tokens", SVL + " (ablation)", "mean over textual tokens of cos(H[l], H[l+1])", "high = redundant", "1", _on("textual")),
    Criterion("svl-last", "SVL on the last token", SVL + " (ablation)", "cos(H[l], H[l+1]) at the prompt's last token", "high = redundant", "1", _on("last")),
    Criterion("shortgpt", "ShortGPT (Block Influence)", "ShortGPT, arXiv 2403.03853", "1 - mean over all tokens of cos(H[l], H[l+1])", "low = redundant", "1", _on("all")),
    Criterion("random", "Random", "-", "a seeded draw", "-", "0", _random),
)})


def protected_layers(trace: Trace, protect_ends: bool) -> tuple[int, ...]:
    """Layers that stay: the family's, and the first and last of the model where `protect_ends`."""
    return tuple(sorted(set(trace.protected) | ({0, trace.num_layers - 1} if protect_ends else set())))


def ranked(scores: np.ndarray, protected: tuple[int, ...]) -> tuple[int, ...]:
    """Droppable layers by falling score; ties go to the later layer, NaN counts as never redundant."""
    order = sorted(range(len(scores)), key=lambda layer: (-np.nan_to_num(scores[layer], nan=-np.inf), -layer))
    return tuple(layer for layer in order if layer not in protected)


def redundancy(trace: Trace, importance: TokenImportance | None = None, criterion: str = "svl", *, top_p: TopP = TopP(), protect_ends: bool = True, seed: int = 0) -> LayerScores:
    """Score and rank the layers by one of `CRITERIA`, one-shot. Raises InputError for an unknown criterion, naming the valid ones."""
    if criterion not in CRITERIA:
        raise InputError(f"Found the criterion {criterion!r}; expected one of {', '.join(CRITERIA)}; choose one.")
    scores = np.asarray(CRITERIA[criterion].function(Request(trace, importance, top_p, seed)), np.float64)
    protected = protected_layers(trace, protect_ends)
    settings = {"top_p": top_p.p, "top_p_mode": top_p.mode, "protect_ends": protect_ends, "seed": seed, "samples": len(trace.samples)}
    return LayerScores(criterion, scores, ranked(scores, protected), protected, settings)


def similarity(trace: Trace, importance: TokenImportance | None = None, tokens: str = "important", *, top_p: TopP = TopP()) -> np.ndarray:
    """(L+1, L+1) mean over the set's tokens of cos(H[i], H[j]); symmetric, ones on the diagonal, NaN without tokens."""
    positions = token_positions(trace, importance, tokens, top_p)
    size, count = trace.num_layers + 1, 0
    total = torch.zeros(size, size, dtype=torch.float64)
    for sample, at in zip(trace.samples, positions, strict=True):
        if not len(at):
            continue
        rows = sample.features[:, torch.as_tensor(np.array(at))].float()
        rows /= rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        flat = rows.flatten(1)  # (L+1, n d): one Gram matrix sums the cosines of all tokens
        total += (flat @ flat.T).double()
        count += len(at)
    if not count:
        return np.full((size, size), np.nan)
    matrix = (total / count).numpy()
    matrix = np.clip((matrix + matrix.T) / 2, -1, 1)
    np.fill_diagonal(matrix, 1.0)
    return matrix
