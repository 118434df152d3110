"""`prune`: a drop plan and a compensation make a pruned `LVLM` that shares every untouched tensor
with the full one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.ranking import importance_of, top_p_of
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.errors import InputError
from svl_core.lvlm.families import mixed_streams
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import store_values
from svl_core.progress import QUIET, Run
from svl_core.pruning.attention_fit import attention_factor
from svl_core.pruning.compensation import Compensation, EditRun, compensation_of
from svl_core.pruning.edits import apply_to, attach
from svl_core.pruning.fit import Fit
from svl_core.pruning.plan import DropPlan
from svl_core.pruning.plan_file import naming
from svl_core.pruning.reach import reaches_the_stream
from svl_core.pruning.refit import endings
from svl_core.pruning.selectors import in_words
from svl_core.pruning.view import pruned_view
from svl_core.recipe import AUTO, Recipe


def prune(
    lvlm: LVLM,
    plan: DropPlan,
    compensation: str | Recipe = "none",
    calibration: Trace | None = None,
    importance: TokenImportance | None = None,
    *,
    run: Run = QUIET,
    **settings: Any,
) -> LVLM:
    """`lvlm` without the plan's layers and halves of layers, edited so that the gap which whole
    layers leave is bridged.

    compensation: a name of `COMPENSATIONS`, or a whole recipe.
    calibration: a trace of `lvlm` that the edit is fitted on (with mlp=True for "lstsq").
    importance: TIS of its samples (default: as the recipe weighs attention).
    run: told the share of a long fit that is done.
    settings: other fields of `Recipe` by name, such as rank=8 or targets=("mlp", "attention"); see
        `recipe.OPTIONS`. `top_p` may also be a `TopP`.

    A run of dropped layers that starts at layer 0 has no layer before it and stays uncompensated;
    the provenance lists it. Raises InputError for an unknown name, a setting out of range or a
    missing or foreign calibration, and for a compensation of a plan that skips halves; Cancelled.
    """
    recipe = recipe_from(compensation, settings)
    row = compensation_of(recipe.compensation)
    reading = in_words(recipe)
    if plan.num_layers != lvlm.num_layers:
        raise InputError(
            f"Found a plan for {plan.num_layers} layers; expected one for this model's"
            f" {lvlm.num_layers}; make the plan from this model's trace."
        )
    if row.ranked and recipe.rank == AUTO:
        raise InputError(
            "Found the rank 'auto'; expected a whole number here; choose one with `choose_rank`."
        )
    if plan.skipped:
        check_uncompensated([row.name])
    pruned = pruned_view(
        lvlm,
        plan.keep,
        attention=plan.attention,
        mlp=plan.mlp,
    )
    fitted: dict[str, Any] = {}
    if row.fitted and plan.drop:
        checked = _checked_calibration(lvlm, row, calibration, recipe.targets)
        fit = _fit(recipe, row, checked, importance)
        fitted = _edit(lvlm, pruned, plan, row, fit, run)
    if row.edit_weights is not None and plan.drop:
        layers = row.edit_weights(lvlm, pruned)
        fitted = {"layers": layers} | _uncompensated(plan)
    applied = recipe.changed(**naming(recipe, plan.drop, plan.skipped))
    provenance = {
        **pruned.provenance,
        "source": lvlm.provenance.get("source", lvlm.name),
        "plan": plan.to_json(),
        "compensation": _settings_record(recipe, row) | fitted,
        "recipe": applied.to_json(),
        "parameters": {
            "full": _unpruned_parameters(lvlm),
            "pruned": pruned.num_parameters,
        },
    }
    if reading:
        provenance["reading"] = reading
    return dataclasses.replace(pruned, provenance=provenance)


def check_uncompensated(compensations: Sequence[str]) -> None:
    """Raises InputError for compensations where halves of layers are skipped. compensations: their
    names.
    """
    others = [name for name in compensations if name != "none"]
    if others:
        raise InputError(
            f"Found the compensation {others[0]!r} for a plan that skips halves of layers; expected"
            " 'none', for others make good what whole layers did; choose it, or drop whole layers."
        )


def _unpruned_parameters(lvlm: LVLM) -> int:
    """Those of the model that it all began with."""
    recorded = lvlm.provenance.get("parameters", {}).get("full")
    return recorded or lvlm.num_parameters


def recipe_from(
    compensation: str | Recipe,
    settings: dict[str, Any],
) -> Recipe:
    """The recipe that `prune`'s arguments mean.

    compensation: a name, or a recipe with other settings.
    settings: fields of `Recipe`; `top_p` may be a `TopP`.

    Raises InputError.
    """
    top_p = settings.get("top_p")
    if isinstance(top_p, TopP):
        parts = {"top_p": top_p.p, "top_p_mode": top_p.mode, "text_ends": top_p.text_ends}
        settings = parts | {name: settings[name] for name in settings if name != "top_p"}
    if isinstance(compensation, Recipe):
        return compensation.changed(**settings)
    name = compensation_of(compensation).name
    return Recipe.of(compensation=name, **settings)


def _checked_calibration(
    lvlm: LVLM,
    row: Compensation,
    calibration: Trace | None,
    targets: Sequence[str],
) -> Trace:
    """The trace that the compensation is fitted on.

    Raises InputError where there is none, it is another model's, or the compensation cannot be
    fitted to this model.
    """
    if calibration is None:
        raise InputError(
            f"Found no calibration trace; expected one for compensation {row.name!r}; pass"
            " calibration=trace(lvlm, samples)."
        )
    if calibration.layer_ids != lvlm.layer_ids or calibration.hidden_size != lvlm.hidden_size:
        raise InputError(
            f"Found a calibration trace of {calibration.num_layers} layers of"
            f" {calibration.model_name!r}; expected one of this very model; trace it again."
        )
    refusal = unfit(lvlm, row, calibration.samples[0].sample, targets)
    if refusal is not None:
        raise InputError(refusal)
    return calibration


def unfit(
    lvlm: LVLM,
    row: Compensation,
    sample: Sample | None,
    targets: Sequence[str] = ("mlp",),
) -> str | None:
    """Why a compensation cannot be fitted to a model, whatever the calibration; None where it can.

    row: the compensation.
    sample: a question, to try what the model's MLP adds; None: it is not tried.
    targets: the recipe's, which least squares on one part alone reads.
    """
    streams = mixed_streams(lvlm.text_config)
    if streams > 1:
        return (
            f"Found a model whose layers mix {streams} residual streams; expected one for"
            f" {row.name!r}; choose 'none'."
        )
    edits_mlp = row.traces_mlp(targets) or row.edit_model is not None
    if edits_mlp and any(hasattr(layer, "post_feedforward_layernorm") for layer in lvlm.layers):
        return (
            "Found a norm behind the MLP of this model; expected its output to reach the"
            f" residual stream as it is for {row.name!r}; choose 'scp' or 'none'."
        )
    if edits_mlp and sample is not None and not reaches_the_stream(lvlm, sample):
        return (
            "Found that the MLP's output of this model is changed on its way to the residual stream"
            f" (a norm, or a factor); expected it to reach it as it is for {row.name!r}; choose"
            " 'scp' or 'none'."
        )
    edits_attention = row.edit_attention is not None and "attention" in targets
    if edits_attention and sample is not None and attention_factor(lvlm, sample) is None:
        return (
            "Found that the attention's output of this model does not reach the residual stream as"
            f" it is (a norm); expected it to for {row.name!r} on it; choose 'scp' or 'none'."
        )
    if not row.exportable and hasattr(lvlm.text_config, "altup_active_idx"):
        return (
            f"Found a model with several residual streams; expected one for {row.name!r};"
            " choose 'scp', 'lstsq' or 'none'."
        )
    return None


def _fit(
    recipe: Recipe,
    row: Compensation,
    calibration: Trace,
    importance: TokenImportance | None,
) -> Fit:
    """The calibration tokens with their weights."""
    importance = importance or importance_of(calibration, recipe)
    positions = token_positions(
        calibration,
        importance,
        recipe.tokens,
        top_p_of(recipe),
    )
    weights = None
    if recipe.weighted:
        weights = _weights(calibration, importance, positions)
    ridge = row.ridge if recipe.ridge is None else recipe.ridge
    return Fit(calibration, positions, weights, recipe, ridge)


def _edit(
    lvlm: LVLM,
    pruned: LVLM,
    plan: DropPlan,
    row: Compensation,
    fit: Fit,
    run: Run,
) -> dict[str, Any]:
    """Edits the pruned view; returns what is recorded of it."""
    record: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    if row.edit_model is not None:
        record["layers"] = row.edit_model(lvlm, pruned, fit, run)
    if row.edit_run is not None:
        ranks = _edit_runs(pruned, plan, row.edit_run, fit)
    if row.edit_attention is not None and "attention" in fit.recipe.targets:
        record["layers"] = row.edit_attention(lvlm, pruned, fit, run)
    record |= {
        "exportable": row.exportable,
        "ranks": ranks,
        "samples": [sample.key for sample in fit.trace.samples],
    }
    return record | _uncompensated(plan)


def _uncompensated(plan: DropPlan) -> dict[str, Any]:
    """What is recorded of dropped runs that have no layer before them."""
    runs = [list(run) for run in plan.runs if run[0] == 0]
    return {"uncompensated_runs": runs}


def _edit_runs(
    pruned: LVLM,
    plan: DropPlan,
    edit_run: EditRun,
    fit: Fit,
) -> dict[str, int]:
    """Edits the layer before each dropped run; returns the rank used for each."""
    ranks = {}
    for first, last in plan.runs:
        if first == 0:
            continue
        place = plan.keep.index(first - 1)
        layer = pruned.layers[place]
        edit = edit_run(fit, first, last)
        for target, matrix in edit.maps.items():
            for ending in endings(layer, target):
                apply_to(ending, matrix)
        if edit.bridge is not None:
            attach(layer, edit.bridge)
        if edit.rank is not None:
            ranks[f"{first}-{last}"] = edit.rank
    return ranks


def _settings_record(
    recipe: Recipe,
    row: Compensation,
) -> dict[str, Any]:
    """The compensation's name, and of a fitted one the settings that it reads."""
    record: dict[str, Any] = {"name": row.name}
    if not row.fitted:
        return record
    values = recipe.to_json()
    names = (*row.settings, "top_p", "top_p_mode", "text_ends")
    record |= {name: values[name] for name in names}
    if "ridge" in row.settings and recipe.ridge is None:
        record["ridge"] = row.ridge
    return record


def _weights(
    trace: Trace,
    importance: TokenImportance,
    positions: Sequence[np.ndarray],
) -> Sequence[np.ndarray]:
    """TIS (mean over layers) of each chosen token, visual and textual scores each scaled to mean 1
    within a sample.
    """

    def weights_of(sample: SampleTrace, number: int) -> np.ndarray:
        weights = np.zeros(sample.length)
        groups = (sample.visual, sample.textual)
        for at, scores in zip(groups, importance.averaged(number), strict=True):
            if len(scores):
                weights[at] = scores / max(scores.mean(), 1e-30)
        return weights

    chosen = (
        weights_of(sample, number)[at]
        for number, (sample, at) in enumerate(zip(trace.samples, positions, strict=True))
    )
    return store_values(chosen, len(trace.samples), trace.spool)
