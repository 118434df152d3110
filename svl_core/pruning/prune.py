"""`prune`: a drop plan and a compensation make a pruned `LVLM` that shares every untouched tensor
with the full one.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.importance import importance as score
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.spool import kept
from svl_core.pruning.compensation import COMPENSATIONS, TARGETS, Fit
from svl_core.pruning.edits import apply, attach, projection
from svl_core.pruning.plan import DropPlan
from svl_core.pruning.view import pruned_view


def prune(
    lvlm: LVLM,
    plan: DropPlan,
    compensation: str = "none",
    calibration: Trace | None = None,
    importance: TokenImportance | None = None,
    *,
    rank: int = 4,
    strength: float = 1.0,
    targets: Sequence[str] = ("mlp",),
    ridge: float | None = None,
    weighted: bool = False,
    tokens: str = "important",
    top_p: TopP = TopP(),
    energy: float | None = None,
    answer_weight: float = 20.0,
    progress: Callable[[float], None] = lambda share: None,
    cancel: threading.Event | None = None,
) -> LVLM:
    """`lvlm` without the plan's layers, the layer before each dropped run edited so that the gap is
    bridged.

    calibration: a trace of `lvlm` (with mlp=True for "lstsq") that the edit is fitted on, on its
    `tokens` with `importance`. rank, strength: of "scp" and "bridge" (strength also blends "lstsq"
    with no edit, 0..1); energy: choose each run's rank as the fewest directions that hold this
    share 0..1 of its gap's energy (of what the bridge explains of it), instead of `rank`; targets:
    output projections that SCP edits, "mlp" and/or "attention"; ridge (default: the compensation's
    own), weighted (rows weighted by TIS): of "lstsq" and "bridge"; ridge, answer_weight (how much
    the positions that predict an answer count beside one position each): of "refit"; progress: told
    the share 0..1 of a long fit. A run that starts at layer 0 has no layer before it and stays
    uncompensated; provenance lists it. Raises InputError for an unknown name, a setting out of
    range or a missing or foreign calibration.
    """
    if compensation not in COMPENSATIONS:
        raise InputError(
            f"Found the compensation {compensation!r}; expected one of {', '.join(COMPENSATIONS)};"
            " choose one."
        )
    if plan.num_layers != lvlm.num_layers:
        raise InputError(
            f"Found a plan for {plan.num_layers} layers; expected one for this model's"
            f" {lvlm.num_layers}; make the plan from this model's trace."
        )
    ridge = COMPENSATIONS[compensation].ridge if ridge is None else ridge
    if min(rank, strength, ridge, answer_weight) < 0:
        raise InputError(
            f"Found rank {rank}, strength {strength}, ridge {ridge} and answer weight"
            f" {answer_weight}; expected none below 0; raise it."
        )
    if not targets or set(targets) - set(TARGETS):
        raise InputError(
            f"Found the targets {list(targets)}; expected one or both of {', '.join(TARGETS)};"
            " choose again."
        )
    if energy is not None and not 0 < energy <= 1:
        raise InputError(
            f"Found the energy share {energy}; expected a number above 0 and up to 1; change it or"
            " leave it out to choose the rank."
        )
    pruned, row = pruned_view(lvlm, plan.keep), COMPENSATIONS[compensation]
    record: dict = {"plan": plan.to_json(), "compensation": {"name": row.name}}
    if row.fitted:
        record["compensation"] |= {
            "rank": rank,
            "strength": strength,
            "energy": energy,
            "targets": list(targets),
            "ridge": ridge,
            "weighted": weighted,
            "tokens": tokens,
            "top_p": top_p.p,
            "top_p_mode": top_p.mode,
            "answer_weight": answer_weight,
        }
    if row.fitted and plan.drop:
        if calibration is None:
            raise InputError(
                f"Found no calibration trace; expected one for compensation {compensation!r}; pass"
                " calibration=trace(lvlm, samples)."
            )
        if calibration.layer_ids != lvlm.layer_ids or calibration.hidden_size != lvlm.hidden_size:
            raise InputError(
                f"Found a calibration trace of {calibration.num_layers} layers of"
                f" {calibration.model_name!r}; expected one of this very model; trace it again."
            )
        if (row.needs_mlp or row.whole is not None) and any(
            hasattr(layer, "post_feedforward_layernorm") for layer in lvlm.layers
        ):
            raise InputError(
                "Found a norm behind the MLP of this model; expected its output to reach the"
                f" residual stream as it is for {compensation!r}; choose 'scp' or 'none'."
            )
        if not row.exportable and hasattr(lvlm.text_config, "altup_active_idx"):
            raise InputError(
                f"Found a model with several residual streams; expected one for {compensation!r};"
                " choose 'scp', 'lstsq' or 'none'."
            )
        importance = importance or score(calibration)
        positions = token_positions(calibration, importance, tokens, top_p)
        fit = Fit(
            calibration,
            positions,
            _weights(calibration, importance, positions) if weighted else None,
            rank,
            strength,
            ridge,
            tuple(targets),
            energy,
            answer_weight,
        )
        ranks = {}
        if row.whole is not None:
            record["compensation"]["layers"] = row.whole(lvlm, pruned, fit, cancel, progress)
        for first, last in plan.runs:
            if first == 0 or row.function is None:
                continue
            layer, edit = pruned.layers[plan.keep.index(first - 1)], row.function(fit, first, last)
            for target, matrix in edit.maps.items():
                apply(projection(layer, target), matrix)
            if edit.bridge is not None:
                attach(layer, edit.bridge)
            if edit.rank is not None:
                ranks[f"{first}-{last}"] = edit.rank
        record["compensation"] |= {
            "exportable": row.exportable,
            "ranks": ranks,
            "samples": [sample.key for sample in calibration.samples],
            "uncompensated_runs": [list(run) for run in plan.runs if run[0] == 0],
        }
    return dataclasses.replace(pruned, provenance={**pruned.provenance, **record})


def _weights(
    trace: Trace, importance: TokenImportance, positions: Sequence[np.ndarray]
) -> Sequence[np.ndarray]:
    """TIS (mean over layers) of each chosen token, visual and textual scores each scaled to mean 1
    within a sample.
    """

    def of(sample: SampleTrace, scored: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        full = np.zeros(sample.length)
        for where, scores in zip((sample.visual, sample.textual), scored):
            full[where] = scores / max(scores.mean(), 1e-30) if len(scores) else scores
        return full

    return kept(
        (
            of(sample, importance.averaged(number))[at]
            for number, (sample, at) in enumerate(zip(trace.samples, positions, strict=True))
        ),
        len(trace.samples),
        trace.spool,
    )
