"""Rankings and importance that follow from a stored trace and a recipe, without running the model.

Each is computed once for the settings that it depends on, and stored with the analysis.
"""

from __future__ import annotations

import numpy as np

import svl_core as svl
from svl_core.analysis import position, ranking
from svl_core.recipe import OPTIONS, RANKING, Recipe
from svl_core.service.stores import Analysis

WEIGHING = tuple(
    name
    for name, option in OPTIONS.items()
    if option.group == RANKING
    and name
    not in ("criterion", "top_p", "top_p_mode", "text_ends", "rounds", "protect_ends", "seed")
)
"""Fields of a recipe that say how attention becomes importance; a new field of the ranking counts
among them until it is named apart.
"""


def importance_key(recipe: Recipe) -> tuple:
    """The settings that importance depends on."""
    return tuple(getattr(recipe, name) for name in WEIGHING)


def tokens_key(recipe: Recipe) -> tuple:
    """The settings that the choice of important tokens depends on."""
    return *importance_key(recipe), ranking.top_p_of(recipe)


def importance_of(analysis: Analysis, recipe: Recipe) -> svl.TokenImportance:
    """The importance of every token of the analysis's samples."""
    return analysis.memoized(
        ("importance", importance_key(recipe)),
        lambda: ranking.importance_of(analysis.trace, recipe),
    )


def baseline_of(analysis: Analysis, recipe: Recipe) -> svl.PositionBaseline:
    """What the places of the patches of an analysis of one sample alone give them."""
    return analysis.memoized(
        ("position", importance_key(recipe)),
        lambda: position.baseline_of(analysis.trace, importance_of(analysis, recipe), recipe),
    )


def patches_of(analysis: Analysis, recipe: Recipe, corrected: bool) -> np.ndarray:
    """(L, V) importance of the patches of an analysis of one sample.

    corrected: less what their places alone give them; rankings use the scores as they are.
    """
    scores = importance_of(analysis, recipe).visual[0]
    if not corrected or not scores.shape[1]:
        return scores
    return analysis.memoized(
        ("corrected", importance_key(recipe)),
        lambda: baseline_of(analysis, recipe).corrected(scores),
    )


def scores_key(criterion: str, recipe: Recipe) -> tuple:
    """Under which a ranking is stored; most criteria that run the model take no account of
    tokens.
    """
    row = svl.CRITERIA[criterion]
    chooses = row.needs == "trace" or row.weighs
    tokens = tokens_key(recipe) if chooses else ()
    drawn = (recipe.seed,) if criterion == "random" else ()
    return "scores", criterion, tokens, recipe.protect_ends, *drawn


def scores_of(analysis: Analysis, recipe: Recipe, criterion: str) -> svl.LayerScores:
    """The ranking by a criterion that needs the trace alone."""
    return analysis.memoized(
        scores_key(criterion, recipe),
        lambda: svl.redundancy(
            analysis.trace,
            importance_of(analysis, recipe),
            criterion,
            top_p=ranking.top_p_of(recipe),
            protect_ends=recipe.protect_ends,
            seed=recipe.seed,
        ),
    )


def ranking_key(
    analysis: Analysis,
    recipe: Recipe,
    criterion: str,
    rounds: int | None,
    most: int | None,
) -> tuple:
    """Under which a ranking by a criterion that runs the model is stored.

    rounds: of a greedy criterion, None for all.
    most: samples that it saw, None for all.
    """
    first = () if most is None or most >= len(analysis.samples) else ("first", most)
    limited = () if rounds is None else (rounds,)
    return *scores_key(criterion, recipe), *first, *limited
