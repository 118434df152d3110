"""The rank k of a compensation chosen by what it is for: fidelity on calibration samples that it was not fitted on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svl_core.analysis.trace import trace
from svl_core.comparison.calibration import split
from svl_core.comparison.evaluation import answer_batch
from svl_core.errors import Cancelled, InputError
from svl_core.lvlm.forcing import forced_logits, iterate_forced, kl_per_token
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan
from svl_core.pruning.prune import prune

RANKS = (0, 1, 2, 4, 8, 16, 32, 64)
RANKED = ("scp", "bridge")  # compensations that have a rank


@dataclass(frozen=True)
class RankChoice:
    """`rank`, of lowest `kl`: mean KL(full || pruned) in nats/token of each of `ranks` on `held_out` samples' answers."""

    rank: int
    ranks: tuple[int, ...]
    kl: tuple[float, ...]
    held_out: int

    def to_json(self) -> dict[str, Any]:
        return {"rank": self.rank, "ranks": list(self.ranks), "kl": list(self.kl), "held_out": self.held_out}


def choose_rank(lvlm: LVLM, plan: DropPlan, compensation: str, samples: Sequence[Sample], *, ranks: Sequence[int] = RANKS, share: float = 0.5, seed: int = 0, settings: Mapping[str, Any] | None = None,
                max_new_tokens: int = 64, progress: Callable[[float, str], None] | None = None, cancel: threading.Event | None = None) -> RankChoice:
    """Fits on a `share` of the calibration samples with each rank and measures on the others, under teacher forcing on the full model's answers.

    Ties go to the smaller rank. settings: other options of `prune`. Raises InputError for a compensation without a rank and for fewer
    than two samples; Cancelled.
    """
    if compensation not in RANKED:
        raise InputError(f"Found the compensation {compensation!r}, which has no rank; expected one of {', '.join(RANKED)}; choose one or leave the rank out.")
    fit, held = split(samples, share, seed)
    ranks = sorted({min(rank, lvlm.hidden_size) for rank in ranks})
    traced = trace(lvlm, fit, mlp=COMPENSATIONS[compensation].needs_mlp, cancel=cancel)
    answers = answer_batch(lvlm, held, max_new_tokens=max_new_tokens, cancel=cancel)
    reference = forced_logits(lvlm, held, answers, cancel=cancel)
    found = []
    for number, rank in enumerate(ranks):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped before a rank was chosen.")
        if progress:
            progress(number / len(ranks), f"trying rank {rank}")
        pruned = prune(lvlm, plan, compensation, traced, **{**(settings or {}), "rank": rank, "energy": None})
        found.append(float(np.mean([float(kl_per_token(reference[i], logits).mean()) for i, logits in iterate_forced(pruned, held, answers, cancel=cancel)])))
    return RankChoice(ranks[int(np.argmin(found))], tuple(ranks), tuple(found), len(held))
