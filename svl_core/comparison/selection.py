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
    """One of several pruned models to choose among.

    what: its name in a line of progress.
    plan: the layers that go.
    recipe: how the others are compensated.
    """

    what: str
    plan: DropPlan
    recipe: Recipe


@dataclass(frozen=True)
class Trial:
    """What one option does on n samples that it was not fitted on.

    exact: share 0..1 of the full model's greedy answers that it gives word for word.
    kl: mean KL(full || pruned) over the answers' tokens, nats/token.
    """

    exact: float
    kl: float

    @property
    def order(self) -> tuple[float, float]:
        """The best trial is the first by this: most exact answers, then the lowest KL."""
        return -self.exact, self.kl


@dataclass(frozen=True)
class RankChoice:
    """A rank that was chosen by what it is for.

    rank: the one of lowest KL.
    ranks: those that were tried.
    kl: for each of them the mean KL(full || pruned), nats/token, on held-out samples' answers.
    held_out: the number of these samples.
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
    trials, left_out = held_out(
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
    kl = [trial.kl for trial in trials]
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
    """The plan that keeps most held-out answers word for word once compensated: selection under
    compensation, among the plans of several criteria.

    Ties go to the lower KL, then to the earlier plan. Mean KL alone misjudges sets of layers: on
    the bundled model a set with KL 1.49 kept more answers than one with 0.33. Plans that drop the
    same layers are tried once. The other parameters are those of `choose_rank`. Raises InputError
    as `split` does; Cancelled.
    """
    recipe = recipe_from(compensation, {})
    if len(_different(plans)) == 1:
        return plans[0]
    contest = Contest.of(
        lvlm,
        samples,
        needs_mlp=COMPENSATIONS[recipe.compensation].traces_mlp(recipe.targets),
        share=share,
        seed=seed,
        traced=traced,
        spool=spool,
        run=run.silent(),
    )
    return contest.choose(plans, recipe, run)


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
) -> tuple[list[Trial], int]:
    """For each option what it does on the samples left out of the fit, and how many those are.

    Raises InputError as `split` does; Cancelled.
    """
    options = list(options)
    needs_mlp = any(COMPENSATIONS[option.recipe.compensation].needs_mlp for option in options)
    contest = Contest.of(
        lvlm,
        samples,
        needs_mlp=needs_mlp,
        share=share,
        seed=seed,
        max_new_tokens=max_new_tokens,
        traced=traced,
        spool=spool,
        run=run.silent(),
    )
    return contest.trials(options, run), contest.count


@dataclass(frozen=True, eq=False)
class Contest:
    """What options are fitted on and tried on; made once for any number of them.

    calibration: a trace of the samples that are fitted on.
    reference: the full model's answers to the others.
    """

    lvlm: LVLM
    calibration: Trace
    reference: Reference

    @classmethod
    def of(
        cls,
        lvlm: LVLM,
        samples: Sequence[Sample],
        *,
        needs_mlp: bool = False,
        share: float = 0.5,
        seed: int = 0,
        max_new_tokens: int = 64,
        traced: Trace | None = None,
        spool: str | Path | None = None,
        run: Run = QUIET,
    ) -> Contest:
        """Splits the samples, traces one part and answers the other.

        needs_mlp: whether an option needs the MLPs' outputs. The other parameters are those of
        `choose_rank`. Raises InputError as `split` does; Cancelled.
        """
        fit, left_out = split(samples, share, seed)
        calibration = _traced(
            lvlm,
            fit,
            traced,
            needs_mlp,
            spool,
            run,
        )
        answers = answer_batch(
            lvlm,
            left_out,
            max_new_tokens=max_new_tokens,
            run=run,
        )
        reference = Reference.of(
            lvlm,
            left_out,
            answers,
            spool=spool,
            run=run,
        )
        return cls(lvlm, calibration, reference)

    @property
    def count(self) -> int:
        """The number of samples that options are tried on."""
        return len(self.reference.samples)

    def trials(
        self,
        options: Sequence[Option],
        run: Run = QUIET,
    ) -> list[Trial]:
        """What each option does. Raises InputError as `prune` does; Cancelled."""
        made = []
        for number, option in enumerate(options):
            run.check("Stopped before all choices were tried.")
            trying = run.part(
                number / len(options), (number + 1) / len(options), f"trying {option.what}"
            )
            trying.report(0.0)
            pruned = prune(
                self.lvlm,
                option.plan,
                option.recipe,
                self.calibration,
                run=trying,
            )
            measured = self.reference.measure(pruned, run.silent())
            exact = float((measured.agreement == 1).mean())
            made.append(Trial(exact, float(measured.kl.mean())))
        return made

    def choose(
        self,
        plans: Sequence[DropPlan],
        recipe: Recipe,
        run: Run = QUIET,
    ) -> DropPlan:
        """The plan that does best once compensated, see `choose_plan`."""
        different = _different(plans)
        if len(different) == 1:
            return different[0]
        options = [Option(f"the layers of {plan.criterion}", plan, recipe) for plan in different]
        orders = [trial.order for trial in self.trials(options, run)]
        return different[orders.index(min(orders))]


def _different(plans: Sequence[DropPlan]) -> list[DropPlan]:
    """The plans in order, of those that drop the same layers the first."""
    return list({chosen.key: chosen for chosen in reversed(plans)}.values())[::-1]


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
