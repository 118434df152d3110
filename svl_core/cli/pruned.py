"""From a recipe to a pruned model, for the commands that need one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from svl_core.analysis.importance import TokenImportance
from svl_core.analysis.ranking import importance_of, rank_layers
from svl_core.analysis.trace import Trace, trace
from svl_core.cli.inputs import calibration_samples, calibration_source
from svl_core.cli.output import watched
from svl_core.comparison.presets import Fitted, preset_of
from svl_core.comparison.selection import choose_rank
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan, manual_plan, plan
from svl_core.pruning.plan_file import saved_plan
from svl_core.pruning.prune import prune
from svl_core.pruning.selectors import in_words, selector_of
from svl_core.pruning.tokens import thin
from svl_core.recipe import AUTO, THIS, Recipe


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned model with the plan and the recipe that made it.

    samples: how many calibration samples it was ranked or fitted on.
    """

    lvlm: LVLM
    plan: DropPlan
    recipe: Recipe
    samples: int

    def to_json(self) -> dict[str, Any]:
        """The plan as a result's JSON holds it; `svl --from` reads it back."""
        return saved_plan(
            self.recipe,
            self.plan.drop,
            self.plan.keep,
            skipped=self.plan.skipped,
            criterion=self.plan.criterion,
            settings={
                "criterion": dict(self.plan.settings),
                "compensation": self.lvlm.provenance.get("compensation"),
            },
            calibration={"set": self.recipe.calibration, "samples": self.samples},
        )

    def describe(self) -> str:
        """What was done, in a line."""
        recipe = self.recipe
        text = f"dropped layers (0-based): {_listed(self.plan.drop)}"
        for half, layers in self.plan.skipped.items():
            text += f"; layers without {half}: {_listed(layers)}"
        text += f"; criterion {self.plan.criterion}, compensation {recipe.compensation}"
        if self.samples:
            text += f", calibrated on {self.samples} sample(s) of '{recipe.calibration}'"
            if recipe.calibration == THIS:
                text += " (the very sample asked about)"
        thinned = in_words(recipe)
        return f"{text}; reads {thinned}" if thinned else text


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers)) or "none"


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A calibration set as one model reads it, traced."""

    samples: Sequence[Sample]
    trace: Trace
    weights: TokenImportance


def prune_by(
    args: argparse.Namespace,
    recipe: Recipe,
    lvlm: LVLM,
    measured: Sequence[Sample] = (),
    read: Trace | None = None,
) -> Pruned:
    """Ranks, plans, prunes and compensates as the recipe says.

    measured: the samples that are asked about, for the calibration set 'this'.
    read: their trace, where it is there already.

    The calibration set is read and traced only where something is ranked or fitted.
    """
    recipe = recipe.changed(detail=lvlm.detail)  # what "auto" came to
    ranks = not recipe.chosen and bool(recipe.drop)
    fits = bool(recipe.layers) and recipe.fits
    calibrated: Calibrated | None = None
    if ranks or fits:
        source = calibration_source(recipe, lvlm, measured)
        recipe = recipe.changed(calibration=source)
        calibrated = _calibrated(args, recipe, lvlm, measured, read)
    chosen = _plan(args, recipe, lvlm, calibrated)
    if recipe.rank == AUTO:
        rank = _rank(args, recipe, lvlm, chosen, calibrated)
        recipe = recipe.changed(rank=rank)
    if calibrated is None:
        pruned = prune(lvlm, chosen, recipe, run=watched(args))
        return Pruned(pruned, chosen, recipe, samples=0)
    pruned = prune(
        lvlm,
        chosen,
        recipe,
        calibrated.trace,
        calibrated.weights,
        run=watched(args),
    )
    return Pruned(
        pruned,
        chosen,
        recipe,
        samples=len(calibrated.samples),
    )


def thinner(
    recipe: Recipe,
    lvlm: LVLM,
    read: Trace | None = None,
) -> Callable[[Sample], Sample]:
    """What makes of a sample the one that the pruned model reads.

    read: the sample's trace, where there is one sample and its trace is there already.

    Raises InputError for an unknown selector.
    """
    selector_of(recipe.visual_tokens)
    return lambda sample: thin(lvlm, sample, recipe, read)


def _calibrated(
    args: argparse.Namespace,
    recipe: Recipe,
    lvlm: LVLM,
    measured: Sequence[Sample],
    read: Trace | None,
) -> Calibrated:
    """The recipe's calibration set, traced."""
    samples = calibration_samples(args, recipe, lvlm, measured)
    needs_mlp = COMPENSATIONS[recipe.compensation].traces_mlp(recipe.targets)
    if read is not None and recipe.calibration == THIS and not needs_mlp:
        return Calibrated(samples, read, importance_of(read, recipe))
    traced = trace(
        lvlm,
        samples,
        mlp=needs_mlp,
        spool=args.spool,
        run=watched(args),
    )
    return Calibrated(samples, traced, importance_of(traced, recipe))


def _plan(
    args: argparse.Namespace,
    recipe: Recipe,
    lvlm: LVLM,
    calibrated: Calibrated | None,
) -> DropPlan:
    """The layers and halves that the recipe names, or those that its ranking gives.

    calibrated: there where layers are ranked.
    """
    if recipe.chosen:
        return manual_plan(
            recipe.layers or (),
            lvlm.num_layers,
            lvlm.protected,
            attention=recipe.drop_attention or (),
            mlp=recipe.drop_mlp or (),
        )
    if recipe.drop and calibrated is not None:
        return _ranked_plan(args, recipe, recipe.drop, lvlm, calibrated)
    return DropPlan((), lvlm.num_layers, recipe.criterion)


def _ranked_plan(
    args: argparse.Namespace,
    recipe: Recipe,
    drop: int,
    lvlm: LVLM,
    calibrated: Calibrated,
) -> DropPlan:
    """The layers by the recipe's criterion, or by the winner of its preset's contest."""
    preset = preset_of(recipe.preset) if recipe.preset else None
    if preset is not None and preset.rivals:
        contest = replace(preset, recipe=recipe)
        fitted = Fitted(
            contest,
            lvlm,
            calibrated.samples,
            calibrated.trace,
            calibrated.weights,
        )
        return fitted.plan(
            drop,
            seed=recipe.seed,
            rounds=recipe.rounds,
            run=watched(args),
        )
    scores = rank_layers(
        recipe,
        calibrated.trace,
        calibrated.weights,
        lvlm=lvlm,
        samples=calibrated.samples,
        run=watched(args),
    )
    return plan(scores, drop)


def _rank(
    args: argparse.Namespace,
    recipe: Recipe,
    lvlm: LVLM,
    chosen: DropPlan,
    calibrated: Calibrated | None,
) -> int | str:
    """The rank that `auto` comes to; the default one where nothing is dropped."""
    if not chosen.drop:
        return Recipe.rank
    return choose_rank(
        lvlm,
        chosen,
        recipe,
        calibrated.samples if calibrated else (),
        seed=recipe.seed,
        traced=calibrated.trace if calibrated else None,
        spool=args.spool,
        run=watched(args),
    ).rank
