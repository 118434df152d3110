"""How redundant each decoder layer is: the layers' ranking by a criterion, and the layer-by-layer
similarity matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.analysis.criteria import CRITERIA
from svl_core.analysis.criterion import Criterion, Measured, Request, Scored
from svl_core.analysis.importance import DEFAULT_TOP_P, TokenImportance, TopP
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.units import half_in_words, half_number
from svl_core.errors import InputError
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run
from svl_core.recipe import ATTENTION, HALF, HALVES, LAYER

if TYPE_CHECKING:
    from svl_core.analysis.half_scores import SublayerScores
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM


@dataclass(frozen=True, eq=False, repr=False)
class LayerScores(Shown):
    """A ranking of L layers, or of their 2 L halves, by their numbers in the place of layers (see
    `units`).

    criterion: its name in `CRITERIA`.
    scores: (L,) float64, higher = more redundant.
    ranking: the droppable layers, most redundant first.
    protected: the layers that stay.
    settings: what the ranking was made with.
    blocks: for contiguous criteria the layers that go for each drop count 0, 1, ..; None: dropping
        n takes the ranking's first n, so drop sets are nested.
    path: for greedy criteria their measure after each of the first layers of `ranking` is gone.
    measured: for criteria that run the model what was measured on each sample, so that resampling
        does not run it again.
    granularity: what is ranked, each "layer" or each "half" of one.
    """

    criterion: str
    scores: np.ndarray
    ranking: tuple[int, ...]
    protected: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[tuple[int, ...], ...] | None = None
    path: tuple[float, ...] | None = None
    measured: Measured | None = None
    granularity: str = LAYER

    def __post_init__(self):
        self.scores.setflags(write=False)
        object.__setattr__(
            self,
            "settings",
            MappingProxyType(dict(self.settings)),
        )
        if sorted(self.ranking + self.protected) != list(range(len(self.scores))):
            raise ValueError("Each layer must be ranked or protected, and only once.")
        for size, block in enumerate(self.blocks or ()):
            if len(block) != size or set(block) & set(self.protected):
                raise ValueError("Block n must hold n layers, none of them protected.")

    def brief(self) -> dict[str, Any]:
        return {
            "criterion": self.criterion,
            "ranking": self.named(self.ranking),
            "protected": self.named(self.protected),
        }

    def table(self) -> list[tuple[Any, ...]]:
        scores = [float(self.scores[unit]) for unit in self.ranking]
        scored = zip(self.named(self.ranking), scores, strict=True)
        return [(self.granularity, "score"), *scored]

    def named(self, units: Sequence[int]) -> tuple[Any, ...]:
        """Layers as their numbers, halves such as "3 attention"."""
        if self.granularity == LAYER:
            return tuple(units)
        return tuple(half_in_words(unit) for unit in units)

    @property
    def num_layers(self) -> int:
        """L."""
        units = len(self.scores)
        return units if self.granularity == LAYER else units // len(HALVES)

    @property
    def most(self) -> int:
        """The largest number of layers, or halves, that can go."""
        return len(self.ranking) if self.blocks is None else len(self.blocks) - 1

    def chosen(self, drop: int) -> tuple[int, ...]:
        """The layers that go, most redundant first (contiguous criteria: in order).

        drop: how many, 0..`most`.
        """
        return self.ranking[:drop] if self.blocks is None else self.blocks[drop]


def protected_layers(
    trace: Trace,
    protect_ends: bool,
) -> tuple[int, ...]:
    """Layers that stay: the family's, and the first and last of the model where `protect_ends`."""
    ends = {0, trace.num_layers - 1} if protect_ends else set()
    return tuple(sorted({*trace.protected, *ends}))


def ranked(
    scores: np.ndarray,
    protected: tuple[int, ...],
) -> tuple[int, ...]:
    """The layers, or halves, without the protected ones by falling score.

    Ties go to the later layer; a score of NaN counts as never redundant.
    """
    known = np.nan_to_num(scores, nan=-np.inf)
    order = sorted(range(len(known)), key=lambda layer: (-known[layer], -layer))
    return tuple(layer for layer in order if layer not in protected)


def protected_halves(
    trace: Trace,
    lvlm: LVLM,
    protect_ends: bool,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(halves that stay, those of them that the model cannot run without), by their numbers.

    A layer that the model needs keeps its attention, for others may look at its keys or count
    positions by its cache; ends that are protected keep both halves. What cannot be skipped, or is
    already, stays too.
    """
    from svl_core.lvlm.halves import can_skip

    ends = {0, trace.num_layers - 1} if protect_ends else set()
    kept = set()
    fixed = set()
    for layer, module in enumerate(lvlm.layers):
        for half in HALVES:
            number = half_number(layer, half)
            needed = half == ATTENTION and layer in trace.protected
            if needed or not can_skip(module, half):
                fixed.add(number)
            elif layer in ends:
                kept.add(number)
    return tuple(sorted(kept | fixed)), tuple(sorted(fixed))


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
    top_p: TopP | float = DEFAULT_TOP_P,
    protect_ends: bool = True,
    seed: int = 0,
    lvlm: LVLM | None = None,
    samples: Sample | Sequence[Sample] | None = None,
    answers: Sequence[Sequence[int]] | None = None,
    layers: Sequence[int] | None = None,
    rounds: int | None = None,
    granularity: str = LAYER,
    halves: SublayerScores | None = None,
    run: Run = QUIET,
) -> LayerScores:
    """Score and rank the layers, or the halves of all layers, by one of `CRITERIA`.

    trace: the model's passes over the calibration samples.
    importance: TIS of these samples (default: computed where the criterion needs it).
    criterion: a name in `CRITERIA`.
    top_p: which tokens count as important, a `TopP` or its share.
    protect_ends: keep the first and the last layer.
    seed: of "random".
    lvlm, samples: the traced model and samples, for criteria that run the model ("sleb",
        "greedy-kl", "shortv", "gradient").
    answers: for each sample the token ids that the greedy criteria are measured on (default: the
        model's own greedy answers).
    layers: the order of "manual".
    rounds: how many layers the greedy criteria drop one by one before they rank the rest as it
        stands (default: all).
    granularity: what is ranked, each "layer" as a whole or each "half" of one, its attention and
        its MLP apart. Halves are measured on the model, so that they need `lvlm` and a trace that
        holds its samples.
    halves: what `sublayers` measured of this trace of one sample, with the same importance; a
        criterion of the same tokens then runs no model for halves.
    run: progress and cancellation.

    Raises InputError for an unknown criterion, one whose needs are not met, and one that measures
    no halves; Cancelled.
    """
    row = criterion_of(criterion)
    samples = [samples] if isinstance(samples, Sample) else samples or ()
    check_needs(row, trace, lvlm, samples)
    protected, fixed = protected_layers(trace, protect_ends), trace.protected
    if granularity == HALF:
        _check_halves(row, lvlm, trace)
        assert lvlm is not None, "the check has looked"
        protected, fixed = protected_halves(trace, lvlm, protect_ends)
    request = Request(
        trace=trace,
        importance=importance,
        top_p=TopP.of(top_p),
        seed=seed,
        protected=protected,
        fixed=fixed,
        lvlm=lvlm,
        samples=samples,
        answers=answers,
        layers=layers,
        rounds=rounds,
        run=run,
        granularity=granularity,
        halves=halves,
    )
    used = samples if row.needs == "model" else trace.samples
    settings = settings_of(request, protect_ends, len(used))
    if rounds is not None:
        settings["rounds"] = rounds
    if granularity == HALF:
        settings["granularity"] = granularity
    if row.score is not None:
        return layer_scores(
            row,
            row.score(request),
            request,
            settings,
        )
    measure = row.of_halves if granularity == HALF else row.measure
    assert measure is not None, "the check has looked"
    measured = measure(request)
    scored = row.select(measured.mean(), request)
    costly = measured if row.needs == "model" or granularity == HALF else None
    return layer_scores(row, scored, request, settings, costly)


def settings_of(
    request: Request,
    protect_ends: bool,
    samples: int,
) -> dict[str, Any]:
    """What a ranking was made with, as `LayerScores.settings` holds it."""
    return {
        "top_p": request.top_p.p,
        "top_p_mode": request.top_p.mode,
        "text_ends": request.top_p.text_ends,
        "protect_ends": protect_ends,
        "seed": request.seed,
        "samples": samples,
    }


def check_needs(
    row: Criterion,
    trace: Trace,
    lvlm: LVLM | None,
    samples: Sequence[Sample],
) -> None:
    """Raises InputError where a criterion that runs the model gets none, another one, or no
    samples.
    """
    if row.needs != "model":
        return
    if lvlm is None or not samples:
        raise InputError(
            f"Found no {'model' if lvlm is None else 'samples'} for criterion {row.name!r};"
            " expected both, for it runs the model; pass lvlm= and samples=."
        )
    if lvlm.layer_ids != trace.layer_ids:
        raise InputError(
            f"Found a model of {lvlm.num_layers} layers for a trace of {trace.num_layers}; expected"
            " the traced model; trace it again."
        )


def _check_halves(
    row: Criterion,
    lvlm: LVLM | None,
    trace: Trace,
) -> None:
    """Raises InputError for a criterion that measures no halves of layers, and without the traced
    model.
    """
    if not row.serves_halves:
        serving = ", ".join(name for name, other in CRITERIA.items() if other.serves_halves)
        raise InputError(
            f"Found the criterion {row.name!r} for halves of layers; expected one that measures an"
            f" attention or an MLP alone: {serving}; choose one, or rank whole layers."
        )
    if lvlm is None or lvlm.layer_ids != trace.layer_ids:
        raise InputError(
            "Found halves of layers to rank without the traced model; expected it, for they are"
            " measured on it; pass lvlm=."
        )


def layer_scores(
    row: Criterion,
    scored: Scored,
    request: Request,
    settings: Mapping[str, Any],
    measured: Measured | None = None,
) -> LayerScores:
    """A criterion's result as a ranking of the droppable layers."""
    protected = tuple(sorted({*request.protected, *scored.protects}))
    scores = np.asarray(scored.scores, np.float64)
    by_score = ranked(scores, protected)
    return LayerScores(
        criterion=row.name,
        scores=scores,
        ranking=by_score if scored.ranking is None else scored.ranking,
        protected=protected,
        settings=settings,
        blocks=scored.blocks,
        path=scored.path,
        measured=measured,
        granularity=request.granularity,
    )


def similarity(
    trace: Trace,
    importance: TokenImportance | None = None,
    tokens: str = "important",
    *,
    top_p: TopP | float = DEFAULT_TOP_P,
) -> np.ndarray:
    """How alike the hidden states at any two depths are: (L+1, L+1), the mean over a token set of
    cos(H[i], H[j]); symmetric, ones on the diagonal, NaN without tokens.

    importance: TIS of the traced samples, for the important tokens (default: computed).
    tokens: a token set, see `token_positions`.
    top_p: which tokens count as important, a `TopP` or its share.
    """
    from svl_core.analysis.measures import matrix_sums

    positions = token_positions(trace, importance, tokens, top_p)
    matrix = matrix_sums(trace, positions).mean()
    if np.isnan(matrix).any():
        return matrix
    matrix = np.clip((matrix + matrix.T) / 2, -1, 1)
    np.fill_diagonal(matrix, 1.0)
    return matrix
