"""A recipe's way of weighing tokens and ranking layers, carried out on a trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from svl_core.analysis.importance import TokenImportance, TopP, importance
from svl_core.analysis.memo import Memo
from svl_core.analysis.redundancy import LayerScores, redundancy
from svl_core.progress import QUIET, Run
from svl_core.recipe import Recipe

if TYPE_CHECKING:
    from svl_core.analysis.half_scores import SublayerScores
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample


def top_p_of(recipe: Recipe) -> TopP:
    """Which tokens count as important."""
    return TopP(recipe.top_p, recipe.top_p_mode, recipe.text_ends)


def importance_of(trace: Trace, recipe: Recipe) -> TokenImportance:
    """TIS of the traced samples, as the recipe weighs attention; found once for a trace that is in
    memory."""
    correction, text_self = recipe.causal_correction, recipe.text_self

    def weighed() -> TokenImportance:
        return importance(trace, causal_correction=correction, text_self=text_self)

    if trace.spool is not None:
        return weighed()
    return _WEIGHED.of(trace, (correction, text_self), weighed)


_WEIGHED = Memo(2)


def rank_layers(
    recipe: Recipe,
    trace: Trace,
    weights: TokenImportance | None = None,
    *,
    criterion: str | None = None,
    lvlm: LVLM | None = None,
    samples: Sequence[Sample] = (),
    halves: SublayerScores | None = None,
    run: Run = QUIET,
) -> LayerScores:
    """The layers, or the halves of all layers, by the recipe's criterion.

    recipe: how they are ranked.
    trace: the model's passes over the calibration samples.
    weights: TIS of the traced samples (default: `importance_of` the trace).
    criterion: another one than the recipe's.
    lvlm, samples: the traced model and samples, for criteria that run the model; the model for
        halves too.
    halves: what is known of the halves of the one traced sample, see `redundancy`.
    run: progress and cancellation.

    Raises InputError as `redundancy` does, Cancelled.
    """
    if weights is None:
        weights = importance_of(trace, recipe)
    return redundancy(
        trace,
        weights,
        criterion or recipe.criterion,
        top_p=top_p_of(recipe),
        protect_ends=recipe.protect_ends,
        seed=recipe.seed,
        rounds=recipe.rounds,
        layers=recipe.layers,
        granularity=recipe.granularity,
        lvlm=lvlm,
        samples=samples,
        halves=halves,
        run=run,
    )
