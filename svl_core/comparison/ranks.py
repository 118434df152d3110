"""Choices by what they are for, fidelity on calibration samples that nothing was fitted on: a
compensation's rank, or which layers go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svl_core.analysis.trace import Trace, trace
from svl_core.comparison.calibration import split
from svl_core.comparison.evaluation import answer_batch
from svl_core.errors import Cancelled, InputError
from svl_core.lvlm.forcing import Beginnings, forced_logits, iterate_forced, kl_per_token
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import picked
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan
from svl_core.pruning.prune import prune

RANKS = (0, 1, 2, 4, 8, 16, 32, 64)
RANKED = ("scp", "bridge")  # compensations that have a rank


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
    compensation: str,
    samples: Sequence[Sample],
    *,
    ranks: Sequence[int] = RANKS,
    share: float = 0.5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    max_new_tokens: int = 64,
    traced: Trace | None = None,
    spool: str | Path | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancel: threading.Event | None = None,
) -> RankChoice:
    """Fits on a `share` of the calibration samples with each rank and measures on the others, under
    teacher forcing on the full model's answers.

    Ties go to the smaller rank. settings: other options of `prune`; traced: a trace of the samples,
    if there is one; spool: as for `trace`. Raises InputError for a compensation without a rank and
    for fewer than two samples; Cancelled.
    """
    if compensation not in RANKED:
        raise InputError(
            f"Found the compensation {compensation!r}, which has no rank; expected one of"
            f" {', '.join(RANKED)}; choose one or leave the rank out."
        )
    ranks = sorted({min(rank, lvlm.hidden_size) for rank in ranks})
    options = (
        (f"rank {rank}", plan, {**(settings or {}), "rank": rank, "energy": None}) for rank in ranks
    )
    found, held = held_out(
        lvlm,
        options,
        compensation,
        samples,
        share=share,
        seed=seed,
        max_new_tokens=max_new_tokens,
        traced=traced,
        spool=spool,
        progress=progress,
        cancel=cancel,
    )
    return RankChoice(ranks[int(np.argmin(found))], tuple(ranks), tuple(found), held)


def choose_plan(
    lvlm: LVLM,
    plans: Sequence[DropPlan],
    compensation: str,
    samples: Sequence[Sample],
    *,
    share: float = 0.5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    traced: Trace | None = None,
    spool: str | Path | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancel: threading.Event | None = None,
) -> DropPlan:
    """The plan of lowest held-out KL once compensated: selection under compensation, among the
    plans of several criteria.

    Ties go to the earlier plan; plans that drop the same layers are tried once. Raises InputError
    as `split` does; Cancelled.
    """
    different = list({chosen.drop: chosen for chosen in reversed(plans)}.values())[::-1]
    if len(different) == 1:
        return different[0]
    options = (
        (f"the layers of {chosen.criterion}", chosen, settings or {}) for chosen in different
    )
    found, _ = held_out(
        lvlm,
        options,
        compensation,
        samples,
        share=share,
        seed=seed,
        traced=traced,
        spool=spool,
        progress=progress,
        cancel=cancel,
    )
    return different[int(np.argmin(found))]


def held_out(
    lvlm: LVLM,
    options: Iterable[tuple[str, DropPlan, Mapping[str, Any]]],
    compensation: str,
    samples: Sequence[Sample],
    *,
    share: float,
    seed: int,
    max_new_tokens: int = 64,
    traced: Trace | None = None,
    spool: str | Path | None = None,
    progress: Callable[[float, str], None] | None = None,
    cancel: threading.Event | None = None,
) -> tuple[list[float], int]:
    """For each (what it is, plan, options of `prune`) the KL on the samples left out of the fit,
    and how many those are.
    """
    fit, held = split(samples, share, seed)
    if traced is not None and (
        traced.samples[0].mlp is not None or not COMPENSATIONS[compensation].needs_mlp
    ):
        place = {one.key: number for number, one in enumerate(traced.samples)}
        traced = replace(
            traced, samples=picked(traced.samples, [place[sample.key] for sample in fit])
        )
    else:
        traced = trace(
            lvlm, fit, mlp=COMPENSATIONS[compensation].needs_mlp, spool=spool, cancel=cancel
        )
    answers = answer_batch(lvlm, held, max_new_tokens=max_new_tokens, cancel=cancel)
    beginnings = Beginnings(lvlm)
    reference = forced_logits(
        lvlm, held, answers, cancel=cancel, beginnings=beginnings, spool=spool
    )
    options, found, report = list(options), [], progress or (lambda share, what: None)
    for number, (what, plan, settings) in enumerate(options):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped before all choices were tried.")
        pruned = prune(
            lvlm,
            plan,
            compensation,
            traced,
            progress=lambda share: report((number + share) / len(options), f"trying {what}"),
            cancel=cancel,
            **settings,
        )  # noqa: B023 (called before the next one)
        found.append(
            float(
                np.mean(
                    [
                        float(kl_per_token(reference[i], logits).mean())
                        for i, logits in iterate_forced(
                            pruned, held, answers, cancel=cancel, beginnings=beginnings
                        )
                    ]
                )
            )
        )
    return found, len(held)
