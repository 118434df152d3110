"""Presets: whole recipes by name, so that one choice sets criterion, compensation and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from svl_core.analysis.importance import TokenImportance
from svl_core.analysis.memo import Memo
from svl_core.analysis.redundancy import CRITERIA, LayerScores
from svl_core.errors import InputError
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.recipe import COMPENSATION, OPTIONS, RANKING, Recipe

if TYPE_CHECKING:
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM
    from svl_core.pruning.plan import DropPlan

LEFT_OPEN = ("rounds", "protect_ends", "seed")
"""Fields of the ranking that no preset sets."""

SETS = (
    *(
        name
        for name, option in OPTIONS.items()
        if option.group in (RANKING, COMPENSATION) and name not in LEFT_OPEN
    ),
    "compensation",
)
"""Fields of a recipe that every preset sets."""


@dataclass(frozen=True)
class Preset:
    """A recipe by name.

    recipe: the fields in `sets` are the preset's; others are left as they are.
    sized: whether it sets the recipe's calibration size too.
    rivals: criteria whose layers compete with those of the recipe's criterion, each compensated,
        for most held-out answers kept.
    ranked_on: samples at most on which criteria that run the model rank, for each costs many passes
        over them.
    """

    name: str
    title: str
    explanation: str
    recipe: Recipe
    sized: bool = False
    rivals: tuple[str, ...] = ()
    ranked_on: int = 32

    @property
    def sets(self) -> tuple[str, ...]:
        """The recipe's fields that the preset sets."""
        return (*SETS, "calibration_size") if self.sized else SETS

    @property
    def samples(self) -> int | None:
        """Calibration samples that it asks for; None: however many there are."""
        return self.recipe.calibration_size if self.sized else None

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criteria whose layers compete; one alone decides without a contest."""
        return (self.recipe.criterion, *self.rivals)

    def applied(self, recipe: Recipe) -> Recipe:
        """`recipe` with the fields that the preset sets, and its name."""
        values = {name: getattr(self.recipe, name) for name in self.sets}
        return recipe.changed(**values, preset=self.name)

    def matches(self, recipe: Recipe) -> bool:
        """Whether the recipe has the preset's value in every field that it sets; fewer or more
        samples do not make it another one.
        """
        return all(getattr(recipe, name) == getattr(self.recipe, name) for name in SETS)

    def fit(
        self,
        lvlm: LVLM,
        samples: Sequence[Sample],
        *,
        spool: str | Path | None = None,
        run: Run = QUIET,
    ) -> Fitted:
        """Traces the calibration samples. spool: as for `trace`.

        Raises InputError for none, Cancelled.
        """
        from svl_core.analysis.ranking import importance_of
        from svl_core.analysis.trace import trace

        row = COMPENSATIONS[self.recipe.compensation]
        needs_mlp = row.traces_mlp(self.recipe.targets)
        traced = trace(
            lvlm,
            samples,
            mlp=needs_mlp,
            spool=spool,
            run=run,
        )
        return Fitted(
            self,
            lvlm,
            samples,
            traced,
            importance_of(traced, self.recipe),
        )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A preset on calibration samples of one model: its ranking, and pruned models for any plan."""

    preset: Preset
    lvlm: LVLM
    samples: Sequence[Sample]
    trace: Trace
    importance: TokenImportance

    def rank(
        self,
        criterion: str | None = None,
        *,
        seed: int = 0,
        rounds: int | None = None,
        run: Run = QUIET,
    ) -> LayerScores:
        """The layers, the most redundant first.

        criterion: its name (default: the preset's).
        seed: of random draws.
        rounds: as for `redundancy`.

        Raises InputError, Cancelled.
        """
        from svl_core.analysis.ranking import rank_layers

        recipe = self.preset.recipe
        name = criterion or recipe.criterion
        samples = self.samples
        if CRITERIA[name].needs == "model":
            samples = samples[: self.preset.ranked_on]
        return rank_layers(
            recipe.changed(seed=seed, rounds=rounds),
            self.trace,
            self.importance,
            criterion=name,
            lvlm=self.lvlm,
            samples=samples,
            run=run,
        )

    def choose(
        self,
        plans: Sequence[DropPlan],
        *,
        seed: int = 0,
        run: Run = QUIET,
    ) -> DropPlan:
        """The best of the criterion's and the rivals' plans, see `choose_plan`.

        What they are tried on is made once for all numbers of dropped layers.
        """
        from svl_core.comparison.selection import Contest

        if len({chosen.key for chosen in plans}) == 1:
            return plans[0]

        def contest() -> Contest:
            return Contest.of(
                self.lvlm,
                self.samples,
                needs_mlp=COMPENSATIONS[self.preset.recipe.compensation].needs_mlp,
                seed=seed,
                traced=self.trace,
                spool=self.trace.spool,
                run=run.silent(),
            )

        made = _CONTESTS.of(self, seed, contest)
        return made.choose(plans, self.preset.recipe, run)

    def plan(
        self,
        drop: int,
        *,
        seed: int = 0,
        rounds: int | None = None,
        run: Run = QUIET,
    ) -> DropPlan:
        """`drop` layers by the preset's criterion, or by whichever of it and its rivals does best.

        Raises InputError, Cancelled.
        """
        from svl_core.pruning.plan import plan

        plans = []
        for name in self.preset.criteria:
            ranking = self.rank(name, seed=seed, rounds=rounds or max(drop, 1), run=run)
            plans.append(plan(ranking, drop))
        return self.choose(plans, seed=seed, run=run)

    def prune(
        self,
        chosen: DropPlan,
        run: Run = QUIET,
    ) -> LVLM:
        """The model without the plan's layers, compensated as the preset says."""
        from svl_core.pruning.prune import prune

        recipe = replace(self.preset.recipe, preset=self.preset.name)
        return prune(
            self.lvlm,
            chosen,
            recipe,
            self.trace,
            self.importance,
            run=run,
        )


_CONTESTS = Memo(1)
"""Of a fitted preset: the contest of its criteria, by seed."""

_ROWS = (
    Preset(
        "as-published",
        "SVL as published",
        "Short-LVLM, arXiv 2507.23362: layers by the cosine on important tokens, then SCP.",
        Recipe(criterion="svl", compensation="scp"),
    ),
    Preset(
        "best",
        "Best found",
        "The layers of SVL, of greedy KL or of ShortGPT, whichever keep most answers once both"
        " output projections of every later layer are refitted in closed form.",
        Recipe(
            criterion="svl",
            compensation="refit",
            targets=("mlp", "attention"),
            answer_weight=5.0,
            calibration_size=640,
        ),
        sized=True,
        rivals=("greedy-kl", "shortgpt"),
    ),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({row.name: row for row in _ROWS})


def preset_of(name: str) -> Preset:
    """The registry's entry. Raises InputError for an unknown name, naming the valid ones."""
    if name not in PRESETS:
        raise InputError(
            f"Found the preset {name!r}; expected one of {', '.join(PRESETS)}; choose one."
        )
    return PRESETS[name]
