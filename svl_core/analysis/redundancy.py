"""How redundant each decoder layer is: a registry of criteria, the layers' ranking, and the
layer-by-layer similarity matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.analysis.blocks import best_blocks
from svl_core.analysis.criterion import Criterion, Measured, Request, Scored
from svl_core.analysis.greedy import follow
from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.tokens import token_positions
from svl_core.errors import InputError
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

if TYPE_CHECKING:
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM


@dataclass(frozen=True, eq=False)
class LayerScores:
    """scores: (L,) float64, higher = more redundant. ranking: the droppable layers, most redundant
    first. protected: layers that stay.

    blocks: for contiguous criteria the layers that go for each drop count 0, 1, ..; None: dropping
    n takes the ranking's first n, so drop sets are nested. path: for greedy criteria their measure
    after each layer of `ranking` is gone. measured: for criteria that run the model what they found
    on each sample, so that resampling does not run it again.
    """

    criterion: str
    scores: np.ndarray
    ranking: tuple[int, ...]
    protected: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[tuple[int, ...], ...] | None = None
    path: tuple[float, ...] | None = None
    measured: Measured | None = None

    def __post_init__(self):
        self.scores.setflags(write=False)
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))
        if sorted(self.ranking + self.protected) != list(range(len(self.scores))):
            raise ValueError("Each layer must be ranked or protected, and only once.")
        if any(
            len(block) != size or set(block) & set(self.protected)
            for size, block in enumerate(self.blocks or ())
        ):
            raise ValueError("Block n must hold n layers, none of them protected.")

    @property
    def most(self) -> int:
        """The largest number of layers that can go."""
        return len(self.ranking) if self.blocks is None else len(self.blocks) - 1

    def chosen(self, drop: int) -> tuple[int, ...]:
        """The `drop` layers (0 ..

        `most`) that go, most redundant first (contiguous criteria: in order).
        """
        return self.ranking[:drop] if self.blocks is None else self.blocks[drop]


def _positions(request: Request, tokens: str) -> Sequence[np.ndarray]:
    return token_positions(request.trace, request.importance, tokens, request.top_p)


def _on(tokens: str, measure: str) -> Callable[[Request], Any]:
    """A measure on a token set, by its name in `measures`, which brings torch: the registry alone
    is read without it.
    """

    def run(request: Request):
        from svl_core.analysis import measures

        return getattr(measures, measure)(request.trace, _positions(request, tokens))

    return run


def _running(name: str) -> Callable[[Request], Any]:
    """The same for what runs the model, in `skipping`."""

    def run(request: Request):
        from svl_core.analysis import skipping

        return getattr(skipping, name)(request)

    return run


def _one_by_one(tokens: str) -> dict[str, Callable]:
    return {
        "measure": _on(tokens, "cosine_sums"),
        "select": lambda mean, request: Scored(mean),
    }


def _angular(mean: np.ndarray, request: Request) -> Scored:
    """Blocks of the lowest distance; they start behind layer 0, as published."""
    found = best_blocks(1 - mean, (*request.protected, 0))
    return Scored(found.scores, found.ranking, found.blocks, kept=(0,))


def _manual(request: Request) -> Scored:
    if request.layers is None:
        raise InputError(
            "Found no layers for criterion 'manual'; expected them in the order in which they go;"
            " pass layers=."
        )
    layers = list(request.layers)
    depth = request.trace.num_layers
    if len(set(layers)) != len(layers) or any(
        not 0 <= layer < depth or layer in request.protected for layer in layers
    ):
        raise InputError(
            f"Found the layers {layers} for criterion 'manual'; expected different ones from 0 to"
            f" {depth - 1} without the protected {list(request.protected)}; correct them."
        )
    scores = np.zeros(depth)
    scores[layers] = 1 - np.arange(len(layers)) / max(len(layers), 1)
    return Scored(scores)


SVL = "Short-LVLM, arXiv 2507.23362"
HIGH = "high = redundant"
LOW = "low = redundant"
CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        row.name: row
        for row in (
            Criterion(
                "svl",
                "SVL (important tokens)",
                SVL,
                "mean over important tokens of cos(H[l], H[l+1])",
                HIGH,
                "1",
                **_one_by_one("important"),
            ),
            Criterion(
                "svl-all",
                "SVL on all tokens",
                SVL + " (ablation)",
                "mean over all tokens of cos(H[l], H[l+1])",
                HIGH,
                "1",
                **_one_by_one("all"),
            ),
            Criterion(
                "svl-visual",
                "SVL on visual tokens",
                SVL + " (ablation)",
                "mean over visual tokens of cos(H[l], H[l+1])",
                HIGH,
                "1",
                **_one_by_one("visual"),
            ),
            Criterion(
                "svl-textual",
                "SVL on text tokens",
                SVL + " (ablation)",
                "mean over textual tokens of cos(H[l], H[l+1])",
                HIGH,
                "1",
                **_one_by_one("textual"),
            ),
            Criterion(
                "svl-last",
                "SVL on the last token",
                SVL + " (ablation)",
                "cos(H[l], H[l+1]) at the prompt's last token",
                HIGH,
                "1",
                **_one_by_one("last"),
            ),
            Criterion(
                "shortgpt",
                "ShortGPT (Block Influence)",
                "ShortGPT, arXiv 2403.03853",
                "1 - mean over all tokens of cos(H[l], H[l+1])",
                LOW,
                "1",
                **_one_by_one("all"),
            ),
            Criterion(
                "angular",
                "PruneMe (angular distance of a block)",
                "arXiv 2403.17887",
                "arccos(cos(H[s], H[s+n])) / pi at the last token; one block of n layers, s >= 1",
                LOW,
                "1",
                measure=_on("last", "angular_distances"),
                select=_angular,
            ),
            Criterion(
                "streamline",
                "LLM-Streamline (block)",
                "LLM-Streamline, arXiv 2403.19135 (selection only)",
                "mean over all tokens of cos(H[s], H[s+n]); one block of n layers",
                HIGH,
                "1",
                measure=_on("all", "matrix_sums"),
                select=lambda mean, request: best_blocks(mean, request.protected),
            ),
            Criterion(
                "sleb",
                "SLEB (greedy on loss)",
                "SLEB, arXiv 2402.09025",
                "mean loss of the answers' tokens with the layer skipped; greedy, re-scored",
                LOW,
                "up to L (L + 1) / 2",
                "model",
                measure=_running("by_loss"),
                select=follow,
            ),
            Criterion(
                "greedy-kl",
                "Greedy on KL",
                "this project",
                "mean KL(full || skipped) on the answers' tokens; greedy, re-scored",
                LOW,
                "up to L (L + 1) / 2",
                "model",
                measure=_running("by_kl"),
                select=follow,
            ),
            Criterion(
                "shortv",
                "ShortV (layer contribution)",
                "ShortV, arXiv 2504.00502 (ranking only)",
                "KL(full || the layer's update of visual tokens undone) at the last token",
                LOW,
                "L + 1",
                "model",
                measure=_running("frozen_divergence"),
                select=lambda mean, request: Scored(0.0 - mean),
            ),
            Criterion(
                "random",
                "Random",
                "-",
                "a seeded draw",
                "-",
                "0",
                score=lambda request: Scored(
                    np.random.default_rng(request.seed).random(request.trace.num_layers)
                ),
            ),
            Criterion(
                "manual",
                "One's own order",
                "-",
                "the given layers, in the given order",
                "-",
                "0",
                "layers",
                score=_manual,
            ),
        )
    }
)


def protected_layers(trace: Trace, protect_ends: bool) -> tuple[int, ...]:
    """Layers that stay: the family's, and the first and last of the model where `protect_ends`."""
    return tuple(
        sorted(set(trace.protected) | ({0, trace.num_layers - 1} if protect_ends else set()))
    )


def ranked(scores: np.ndarray, protected: tuple[int, ...]) -> tuple[int, ...]:
    """Droppable layers by falling score; ties go to the later layer, NaN counts as never redundant."""
    order = sorted(
        range(len(scores)),
        key=lambda layer: (
            -np.nan_to_num(scores[layer], nan=-np.inf),
            -layer,
        ),
    )
    return tuple(layer for layer in order if layer not in protected)


def criterion_of(name: str) -> Criterion:
    """The registry's entry. Raises InputError for an unknown name, naming the valid ones."""
    if name not in CRITERIA:
        raise InputError(
            f"Found the criterion {name!r}; expected one of {', '.join(CRITERIA)}; choose one."
        )
    return CRITERIA[name]


def redundancy(
    trace: Trace,
    importance: TokenImportance | None = None,
    criterion: str = "svl",
    *,
    top_p: TopP = TopP(),
    protect_ends: bool = True,
    seed: int = 0,
    lvlm: LVLM | None = None,
    samples: Sample | Sequence[Sample] | None = None,
    answers: Sequence[Sequence[int]] | None = None,
    layers: Sequence[int] | None = None,
    rounds: int | None = None,
    run: Run = QUIET,
) -> LayerScores:
    """Score and rank the layers by one of `CRITERIA`.

    lvlm, samples: the traced model and samples, for criteria that need forward passes ("sleb",
    "greedy-kl", "shortv"); answers: token ids for each sample that the greedy ones are measured on
    (default: the model's own greedy answers); rounds: how many layers those drop before they rank
    the rest as it stands (default: all). layers: the order of "manual". seed: of "random". Raises
    InputError for an unknown criterion or one whose needs are not met; Cancelled.
    """
    row = criterion_of(criterion)
    samples = [samples] if isinstance(samples, Sample) else samples or ()
    check_needs(row, trace, lvlm, samples)
    request = Request(
        trace,
        importance,
        top_p,
        seed,
        protected_layers(trace, protect_ends),
        trace.protected,
        lvlm,
        samples,
        answers,
        layers,
        rounds,
        run,
    )
    settings = {
        "top_p": top_p.p,
        "top_p_mode": top_p.mode,
        "protect_ends": protect_ends,
        "seed": seed,
        "samples": len(samples if row.needs == "model" else trace.samples),
    }
    measured = None if row.measure is None else row.measure(request)
    found = row.score(request) if measured is None else row.select(measured.mean(), request)
    return layer_scores(
        row,
        found,
        request,
        settings | ({"rounds": rounds} if rounds is not None else {}),
        measured if row.needs == "model" else None,
    )


def check_needs(
    row: Criterion,
    trace: Trace,
    lvlm: LVLM | None,
    samples: Sequence[Sample],
) -> None:
    """Raises InputError where a criterion that runs the model gets none, another one, or no
    samples.
    """
    if row.needs == "model" and (lvlm is None or not samples):
        raise InputError(
            f"Found no {'model' if lvlm is None else 'samples'} for criterion {row.name!r};"
            " expected both, for it runs the model; pass lvlm= and samples=."
        )
    if row.needs == "model" and lvlm.layer_ids != trace.layer_ids:
        raise InputError(
            f"Found a model of {lvlm.num_layers} layers for a trace of {trace.num_layers}; expected"
            " the traced model; trace it again."
        )


def layer_scores(
    row: Criterion,
    found: Scored,
    request: Request,
    settings: Mapping[str, Any],
    measured: Measured | None = None,
) -> LayerScores:
    """A criterion's findings as a ranking of the droppable layers."""
    protected = tuple(sorted({*request.protected, *found.kept}))
    scores = np.asarray(found.scores, np.float64)
    return LayerScores(
        row.name,
        scores,
        ranked(scores, protected) if found.ranking is None else found.ranking,
        protected,
        settings,
        found.blocks,
        found.path,
        measured,
    )


def similarity(
    trace: Trace,
    importance: TokenImportance | None = None,
    tokens: str = "important",
    *,
    top_p: TopP = TopP(),
) -> np.ndarray:
    """(L+1, L+1) mean over the set's tokens of cos(H[i], H[j]); symmetric, ones on the diagonal,
    NaN without tokens.
    """
    from svl_core.analysis.measures import matrix_sums

    matrix = matrix_sums(trace, token_positions(trace, importance, tokens, top_p)).mean()
    if np.isnan(matrix).any():
        return matrix
    matrix = np.clip((matrix + matrix.T) / 2, -1, 1)
    np.fill_diagonal(matrix, 1.0)
    return matrix
