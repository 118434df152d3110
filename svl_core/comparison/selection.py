"""Choices by what they are for: fidelity on calibration samples that nothing was fitted on.

A compensation's rank is chosen so, and which of several criteria's layers go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svl_core.analysis.trace import Trace, trace
from svl_core.comparison.calibration import split
from svl_core.comparison.evaluation import answer_batch
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.reference import Reference
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import select_values
from svl_core.progress import QUIET, Run
from svl_core.pruning.compensation import COMPENSATIONS, compensation_of
from svl_core.pruning.plan import DropPlan
from svl_core.pruning.prune import prune, recipe_from
from svl_core.recipe import Recipe

RANKS = (0, 1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Option:
    """One of several pruned models to choose among. what: its name in a line of progress."""

    what: str
    plan: DropPlan
    recipe: Recipe


@dataclass(frozen=True)
class RankChoice:
    """`rank`, of lowest `kl`: mean KL(full || pruned) in nats/token of each of `ranks` on
    `held_out` samples' answers.
    """

    rank: int
    ranks: tuple[int, ...]
    kl: tuple[float, ...]
    held_out: int

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "ranks": list(self.ranks),
            "kl": list(self.kl),
            "held_out": self.held_out,
        }


def choose_rank(
    lvlm: LVLM,
    plan: DropPlan,
    compensation: str | Recipe,
    samples: Sequence[Sample],
    *,
    ranks: Sequence[int] = RANKS,
    share: float = 0.5,
    seed: int = 0,
    max_new_tokens: int = 64,
    traced: Trace | None = None,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> RankChoice:
    """Fits on a part of the calibration samples with each rank and measures on the others, under
    teacher forcing on the full model's answers.

    compensation: a name, or a recipe with its other settings.
    ranks: those that are tried; 0 is no compensation. Ties go to the smaller rank.
    share: of the samples that is fitted on, 0..1, drawn with `seed`.
    traced: a trace of the samples, if there is one; spool: as for `trace`.

    Raises InputError for a compensation without a rank and for fewer than two samples; Cancelled.
    """
    recipe = recipe_from(compensation, {})
    if not compensation_of(recipe.compensation).ranked:
        ranked = [name for name, row in COMPENSATIONS.items() if row.ranked]
        raise InputError(
            f"Found the compensation {recipe.compensation!r}, which has no rank; expected one of"
            f" {', '.join(ranked)}; choose one or leave the rank out."
        )
    tried = sorted({min(rank, lvlm.hidden_size) for rank in ranks})
    options = [
        Option(f"rank {rank}", plan, recipe.changed(rank=rank, energy=None)) for rank in tried
    ]
    kl, left_out = held_out(
        lvlm,
        options,
        samples,
        share=share,
        seed=seed,
        max_new_tokens=max_new_tokens,
        traced=traced,
        spool=spool,
        run=run,
    )
    return RankChoice(
        tried[int(np.argmin(kl))],
        tuple(tried),
        tuple(kl),
        left_out,
    )


def choose_plan(
    lvlm: LVLM,
    plans: Sequence[DropPlan],
    compensation: str | Recipe,
    samples: Sequence[Sample],
    *,
    share: float = 0.5,
    seed: int = 0,
    traced: Trace | None = None,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> DropPlan:
    """The plan of lowest held-out KL once compensated: selection under compensation, among the
    plans of several criteria.

    Ties go to the earlier plan; plans that drop the same layers are tried once. The other
    parameters are those of `choose_rank`. Raises InputError as `split` does; Cancelled.
    """
    recipe = recipe_from(compensation, {})
    different = list({chosen.drop: chosen for chosen in reversed(plans)}.values())[::-1]
    if len(different) == 1:
        return different[0]
    options = [Option(f"the layers of {plan.criterion}", plan, recipe) for plan in different]
    kl, _ = held_out(
        lvlm, options, samples, share=share, seed=seed, traced=traced, spool=spool, run=run
    )
    return different[int(np.argmin(kl))]


def held_out(
    lvlm: LVLM,
    options: Iterable[Option],
    samples: Sequence[Sample],
    *,
    share: float = 0.5,
    seed: int = 0,
    max_new_tokens: int = 64,
    traced: Trace | None = None,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> tuple[list[float], int]:
    """For each option its mean KL(full || pruned), nats/token, on the samples left out of the fit;
    and how many those are.

    Raises InputError as `split` does; Cancelled.
    """
    options = list(options)
    needs_mlp = any(COMPENSATIONS[option.recipe.compensation].needs_mlp for option in options)
    fit, left_out = split(samples, share, seed)
    calibration = _traced(
        lvlm,
        fit,
        traced,
        needs_mlp,
        spool,
        run.silent(),
    )
    answers = answer_batch(
        lvlm,
        left_out,
        max_new_tokens=max_new_tokens,
        run=run.silent(),
    )
    reference = Reference.of(
        lvlm,
        left_out,
        answers,
        spool=spool,
        run=run.silent(),
    )
    kl = []
    for number, option in enumerate(options):
        run.check("Stopped before all choices were tried.")
        trial = run.part(
            number / len(options), (number + 1) / len(options), f"trying {option.what}"
        )
        trial.report(0.0)
        pruned = prune(
            lvlm,
            option.plan,
            option.recipe,
            calibration,
            run=trial,
        )
        kl.append(float(reference.mean_kl(pruned, run.silent()).mean()))
    return kl, len(left_out)


def _traced(
    lvlm: LVLM,
    fit: Sequence[Sample],
    traced: Trace | None,
    needs_mlp: bool,
    spool: str | Path | None,
    run: Run,
) -> Trace:
    """The part of `traced` that is fitted on where it will do, else a trace of its own."""
    if traced is None or needs_mlp and traced.samples[0].mlp is None:
        return trace(
            lvlm,
            fit,
            mlp=needs_mlp,
            spool=spool,
            run=run,
        )
    place = {sample.key: number for number, sample in enumerate(traced.samples)}
    chosen = select_values(traced.samples, [place[sample.key] for sample in fit])
    return replace(traced, samples=chosen)
