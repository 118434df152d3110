"""`svl analyze`: redundancy and similarity of layers, importance of tokens, for one question."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from svl_core.analysis.position import baseline_of
from svl_core.analysis.ranking import importance_of, rank_layers, top_p_of
from svl_core.analysis.redundancy import CRITERIA, LayerScores, similarity
from svl_core.analysis.shared_trace import trace_together
from svl_core.analysis.stability import Stability, stability
from svl_core.analysis.trace import trace
from svl_core.analysis.units import half_in_words
from svl_core.cli.inputs import asked_question, calibration_samples
from svl_core.cli.output import table, watched
from svl_core.lvlm.detail import Size
from svl_core.lvlm.encoding import opened
from svl_core.lvlm.forecast import Forecast, readable
from svl_core.lvlm.loading import foresee
from svl_core.lvlm.sample import Sample
from svl_core.recipe import AUTO, FULL, HALF, LAYER, THIS, Recipe

ONE_PASS = "1"  # criteria that cost no more than the trace itself


def analyze(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    if recipe.calibration == AUTO:
        recipe = recipe.changed(calibration=THIS)
    if args.plan:
        return _forecast(args, recipe)
    wanted, recipe = recipe, recipe.changed(granularity=LAYER)
    lvlm, sample = asked_question(args, recipe)
    start = time.perf_counter()
    own_trace = trace(lvlm, [sample], run=watched(args))
    own_weights = importance_of(own_trace, recipe)
    samples: Sequence[Sample] = [own_trace.samples[0].sample or sample]
    traced = own_trace
    weights = own_weights
    if recipe.calibration != THIS:
        samples = calibration_samples(args, recipe, lvlm, [sample])
        traced = trace_together(
            lvlm,
            samples,
            spool=args.spool,
            run=watched(args),
        )
        weights = importance_of(traced, recipe)
    scores = {
        name: rank_layers(
            recipe,
            traced,
            weights,
            criterion=name,
            lvlm=lvlm,
            samples=samples,
            run=watched(args),
        )
        for name, criterion in CRITERIA.items()
        if name == recipe.criterion or criterion.cost_forward_passes == ONE_PASS
    }
    chosen = scores[recipe.criterion]
    halves = None
    if wanted.granularity == HALF:
        halves = rank_layers(
            wanted,
            traced,
            weights,
            lvlm=lvlm,
            samples=samples,
            run=watched(args),
        )
    visual, text = own_weights.averaged(0)
    baseline = baseline_of(own_trace, own_weights, recipe)
    similar = similarity(
        traced,
        weights,
        "important",
        top_p=top_p_of(recipe),
    )
    result = {
        "model": lvlm.name,
        "layers": lvlm.num_layers,
        "visual_tokens": len(sample.visual),
        "text_tokens": len(sample.textual),
        "detail": lvlm.detail,
        "grid": sample.geometry.grid and list(sample.geometry.grid),
        "criterion": recipe.criterion,
        "redundancy": {name: ranked.scores.tolist() for name, ranked in scores.items()},
        "ranking": list(chosen.ranking),
        "protected": list(chosen.protected),
        "similarity": similar.tolist(),
        "importance": {"visual": visual.tolist(), "text": text.tolist()},
        "corrected_for_position": {
            "visual": np.nanmean(baseline.corrected(own_weights.visual[0]), axis=0).tolist(),
            "without": baseline.in_words,
        },
        "tokens": list(sample.tokens),
        "calibration": {"set": recipe.calibration, "samples": len(traced.samples)},
        "timing_ms": 1000 * (time.perf_counter() - start),
    }
    if halves is not None:
        result["halves"] = {
            "redundancy": halves.scores.tolist(),
            "ranking": list(halves.ranking),
            "protected": list(halves.protected),
        }
    sure = None
    if args.stability is not None:
        sure = stability(
            traced,
            weights,
            recipe.criterion,
            drop=args.stability,
            seed=recipe.seed,
            top_p=top_p_of(recipe),
            protect_ends=recipe.protect_ends,
            measured=chosen.measured,
        )
        result["stability"] = sure.to_json()
    head = f"{lvlm.name}: {lvlm.num_layers} decoder layers, {_counts(sample)}"
    took = f"{result['timing_ms']:.0f} ms"
    if recipe.detail == AUTO and (
        why := lvlm.detail_for([Size(*size) for size in sample.image_sizes]).reason
    ):
        took += f"\n{why}"
    tables = f"{_ranking_table(chosen, sure)}{_stability_text(sure)}"
    if halves is not None:
        tables += f"\n\n{_ranking_table(halves, None)}"
    return result, f"{head}, {took}\n\n{tables}"


def _counts(sample: Sample) -> str:
    """How many tokens of each kind the question has."""
    grid = ""
    if sample.geometry.grid:
        rows, columns = sample.geometry.grid
        grid = f" ({rows} x {columns})"
    detail = "" if sample.detail == FULL else f" ({sample.detail} detail)"
    return f"{len(sample.visual)} visual{grid} and {len(sample.textual)} text tokens{detail}"


def _ranking_table(chosen: LayerScores, sure: Stability | None) -> str:
    """Each layer's or half's score and place in the order of dropping; with `sure` its interval."""
    place = {layer: number + 1 for number, layer in enumerate(chosen.ranking)}
    heading: tuple[str, ...] = (chosen.granularity, chosen.criterion, "drop order")
    in_words = half_in_words if chosen.granularity == HALF else str
    if sure:
        heading += (f"{sure.level:.0%} interval", "dropped in")
    rows = [heading]
    for layer, score in enumerate(chosen.scores):
        order = "-" if math.isnan(score) else str(place.get(layer, ""))
        if layer not in place:
            order = "protected"
        row: tuple[str, ...] = (in_words(layer), f"{score:.4f}", order)
        if sure:
            low, high = sure.interval[layer]
            row += (f"{low:.4f} - {high:.4f}", f"{sure.dropped[layer]:.0%}")
        rows.append(row)
    return table(rows)


def _stability_text(sure: Stability | None) -> str:
    """How sure the order is, in a sentence behind the table."""
    if sure is None:
        return ""
    samples = sure.scores.settings["samples"]
    overlap = f"{sure.overlap:.0%}"
    if sure.by_round is None:
        common = f"{overlap} of the {sure.drop} layers in common with all samples,"
    else:
        common = (
            f"in each round, given the layers dropped before it, {overlap} drop the same layer;"
            " first round's"
        )
    return (
        f"\n\n{sure.draws} resamples of {samples} samples: {common} rank correlation"
        f" {sure.rank_correlation:.2f}"
    )


def _forecast(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    """What the analysis would take, from the model's config alone."""
    forecast = foresee(
        args.model,
        revision=args.revision,
        device=args.device,
        dtype=args.dtype,
        positions=args.positions,
        samples=1 if recipe.calibration == THIS else recipe.calibration_size,
        detail=recipe.detail,
        max_visual_tokens=recipe.max_visual_tokens,
        **({"pictures": opened(args.images)} if args.images else {}),
    )
    return {"model": forecast.model, "plan": forecast.to_json()}, _forecast_text(forecast)


def _forecast_text(forecast: Forecast) -> str:
    """Every item of a forecast, a line each."""
    memory = {
        "weights": "weights",
        "one_pass": "working memory of one pass",
        "traces": (
            f"traces of {forecast.samples} sample(s): features, statistics, inner products (with"
            " --spool: on the disk)"
        ),
        "key_value_cache": "key and value cache of one answer",
        "compensation": "fit of a compensation (d x d sums)",
        "pruned_view_each_run": "pruned model's own: edited weights of each dropped run",
        "usual_maps": "not made: attention maps and hidden states of one pass",
    }
    times = {
        "one_pass": "one pass (image and prompt)",
        "trace_one_sample": "its analysis",
        "trace_all": f"analysis of {forecast.samples} sample(s)",
        "each_answer_token": "each token of an answer",
    }
    rows = [
        ("memory", ""),
        *((memory[name], readable(size, "B")) for name, size in forecast.memory.items()),
        ("time, estimated", ""),
        *((times[name], readable(seconds, "s")) for name, seconds in forecast.seconds.items()),
    ]
    patches = f" and {forecast.patches:,} patches" if forecast.patches else ""
    head = (
        f"{forecast.model}: {forecast.parameters['all'] / 1e9:.2f} B parameters,"
        f" {forecast.layers} decoder layers x {forecast.hidden_size}, {forecast.positions}"
        f" positions{patches}, {forecast.dtype} on {forecast.device} ({forecast.gflops:.0f}"
        f" GFLOP/s here); {forecast.dtype} {forecast.dtype_reason}"
    )
    return f"{head}\n\n{table(rows)}"
