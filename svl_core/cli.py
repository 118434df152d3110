"""What the commands of `svl` do: the core line from parsed arguments to a result, printed for
people or written as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import transformers

from svl_core.analysis.importance import TopP, importance
from svl_core.analysis.redundancy import CRITERIA, redundancy, similarity
from svl_core.analysis.stability import stability
from svl_core.analysis.trace import Trace, trace
from svl_core.comparison.ablation import ablate, ablate_questions
from svl_core.comparison.answer import Answer
from svl_core.comparison.calibration import disjoint, draw, encode_all, read_calibration
from svl_core.comparison.evaluation import PairedEvaluation, evaluate, read_jsonl
from svl_core.comparison.fidelity import Comparison, compare
from svl_core.comparison.presets import PRESETS, Fitted, preset_of
from svl_core.comparison.ranks import choose_rank
from svl_core.comparison.sweep import sweep
from svl_core.errors import InputError
from svl_core.lvlm.families import FAMILIES
from svl_core.lvlm.forecast import Forecast, readable
from svl_core.lvlm.loading import foresee, load
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan, manual_plan, plan
from svl_core.pruning.prune import prune
from svl_core.pruning.tokens import keep_visual

BUNDLED = "demo"
ONE_PASS = "1"  # criteria that cost no more than the trace itself
THIS = "this"
AUTO = "auto"
PAGE_NAMES = {
    "mode": "top_p_mode"
}  # settings of a plan that the page calls otherwise than the arguments
OF_A_PLAN = (
    "rank",
    "strength",
    "energy",
    "ridge",
    "weighted",
    "tokens",
    "answer_weight",
    "top_p",
    "top_p_mode",
    "causal_correction",
    "text_self",
    "calibration_size",
    "visual_share",
    "seed",
)


def run(args: argparse.Namespace) -> None:
    """Runs the command that `args` name and writes its result.

    Raises InputError for wrong input.
    """
    transformers.utils.logging.disable_progress_bar()
    _check_output(args)
    _apply_preset(args)
    _apply_plan(args)
    for option, registry in (("criterion", CRITERIA), ("compensation", COMPENSATIONS)):
        for name in (
            _names(getattr(args, option, None), registry)
            if args.command == "sweep"
            else [getattr(args, option, None)]
        ):
            _check_name(option, name, registry)
    result, text = COMMANDS[args.command](args)
    _write(args, result, text)


def _apply_preset(args: argparse.Namespace) -> None:
    """Writes the settings of `--preset` over those of the arguments.

    Raises InputError for an unknown name.
    """
    if getattr(args, "preset", None) is None:
        return
    preset = preset_of(args.preset)
    args.criterion, args.compensation = preset.criterion, preset.compensation
    args.top_p, args.top_p_mode = preset.top_p.p, preset.top_p.mode
    for name, value in preset.settings.items():
        setattr(args, name, ",".join(value) if name == "targets" else value)
    args.calibration_size = preset.samples or args.calibration_size


def _apply_plan(args: argparse.Namespace) -> None:
    """Writes the layers and settings of the plan in the file `--from`, of the page or of an earlier
    command, over those of the arguments. Raises InputError.
    """
    name = getattr(args, "plan_file", None)
    if name is None:
        return
    try:
        found = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
        made = found.get("plan", found)
        layers = [int(layer) for layer in made["drop"]]
        if "keep" in found:  # of the page
            settings = made["settings"] | {"seed": found.get("seed", args.seed)}
            compensation = settings["compensation"]
        elif "layer_ids" in found:  # beside a checkpoint
            settings = found["compensation"]
            compensation = settings["name"]
        else:  # a command's result
            settings = (made["settings"]["compensation"] or {}) | {
                "visual_share": found.get("visual_share", 1.0)
            }
            compensation = made["compensation"]
        kept = {PAGE_NAMES.get(key, key): value for key, value in settings.items()}
        kept = {
            key: value
            for key, value in kept.items()
            if key in OF_A_PLAN and value is not None and hasattr(args, key)
        }
        targets = settings.get("targets") or (
            ("mlp", "attention") if settings.get("attention_target") else ("mlp",)
        )
        values = {
            "compensation": str(compensation),
            "targets": ",".join(targets),
            **kept,
            "rank": str(int(settings.get("rank", 4))),
        }
        if any(
            isinstance(getattr(args, key), float) and not isinstance(value, (int, float))
            for key, value in values.items()
        ):
            raise ValueError
    except OSError as error:
        raise InputError(
            f"Found that {name} cannot be read ({error.strerror}); expected a plan as JSON, taken"
            " from the page or written by a command; check --from."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"Found no plan in {name}; expected the page's plan as JSON, what a command wrote with"
            " --json, or a checkpoint's svl_plan.json; check --from."
        ) from None
    if found.get("model", args.model) != args.model:
        raise InputError(
            f"Found a plan for the model {found['model']}; expected one for {args.model}; add"
            f" --model {found['model']} or choose another plan."
        )
    args.drop, args.layers = (None, ",".join(map(str, layers))) if layers else (0, None)
    for key, value in values.items():
        setattr(args, key, value)


# Input


def _check_name(option: str, name: str | None, registry: Mapping[str, Any]) -> None:
    if name in registry and getattr(registry[name], "needs", "") == "layers":
        raise InputError(
            f"Found the {option} '{name}', which ranks nothing; expected the layers themselves;"
            " give them with --layers."
        )
    registry = {key: row for key, row in registry.items() if getattr(row, "needs", "") != "layers"}
    if name is not None and name not in registry:
        raise InputError(
            f"Found the {option} '{name}'; expected one of {', '.join(registry)}; choose one."
        )


def _names(text: str, registry: Mapping[str, Any]) -> list[str]:
    """ "svl,random" -> ["svl", "random"]; "all": every name of the registry."""
    return (
        list(registry)
        if text == "all"
        else [name.strip() for name in text.split(",") if name.strip()]
    )


def _check_output(args: argparse.Namespace) -> None:
    """Finds out before the work whether its result can be written."""
    for option in ("json", "csv", "resume"):
        name = getattr(args, option, None)
        if name and name != "-" and not Path(name).expanduser().resolve().parent.is_dir():
            raise InputError(
                f"Found no folder for {name}; expected an existing one; create it or change"
                f" --{option}."
            )


def _load(args: argparse.Namespace) -> LVLM:
    """The model; one without image input only where no image was given to ask about."""
    return load(
        args.model,
        revision=args.revision,
        device=args.device,
        dtype=args.dtype,
        device_map=args.device_map,
        quantize=args.quantize,
        text_only=not args.images,
        progress=_progress(args),
    )


def _asked(args: argparse.Namespace) -> tuple[LVLM, Sample]:
    """The model and the encoded question."""
    if not args.images and args.model == BUNDLED:
        raise InputError(
            "Found no image; expected one, for the bundled model answers about pictures only; give"
            " one with --image."
        )
    lvlm = _load(args)
    return lvlm, lvlm.encode(args.images or None, args.prompt)


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """ "3,5-7" -> (3, 5, 6, 7). Raises InputError."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isascii() and first.isdigit()) or (
            dash and not (last.isascii() and last.isdigit() and int(last) >= int(first))
        ):
            raise InputError(
                f"Found '{text}'; expected whole numbers and ranges such as 3,5-7; correct"
                f" --{option}."
            )
        numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def _pairs(source: str, size: int, seed: int, draw_seed: int | None) -> list:
    """(image, prompt) pairs of a source named on the command line: 'demo', a file or a folder."""
    if source != BUNDLED:
        return read_calibration(source, limit=size, seed=draw_seed)
    from svl_core.demo.questions import calibration

    return draw(calibration(max(size, 1), seed), size)


def _calibration(
    args: argparse.Namespace, lvlm: LVLM, measured: Sequence[Sample] = ()
) -> Sequence[Sample]:
    """The samples to rank and fit on; never those measured, unless `--calibration this` says so."""
    if args.calibration == THIS:
        if len(measured) != 1:
            raise InputError(
                "Found --calibration this; expected a set, for this command asks about many images;"
                " use demo, a file or a folder."
            )
        return list(measured)
    samples = encode_all(
        lvlm,
        _readable(
            lvlm,
            args.calibration,
            _pairs(args.calibration, args.calibration_size, args.seed, args.seed),
        ),
        spool=args.spool,
        progress=_progress(args),
    )
    return disjoint(samples, measured)


def _readable(lvlm: LVLM, source: str, pairs: list) -> list:
    """The pairs as they are; of the bundled ones, a text-only model gets the different questions
    alone.
    """
    return (
        pairs
        if lvlm.supports_images or source != BUNDLED
        else [(None, prompt) for prompt in dict.fromkeys(prompt for _, prompt in pairs)]
    )


def _measured(args: argparse.Namespace) -> tuple[LVLM, Sequence[Sample]]:
    """The model and the samples to measure on: the question asked, or the set of `--measure`."""
    if args.images or args.prompt is not None:
        lvlm, sample = _asked(args)
        return lvlm, [sample]
    from svl_core.demo.questions import MEASURED_SEED

    pairs = _pairs(args.measure, args.measure_size, MEASURED_SEED, None)
    lvlm = _load(args)
    return lvlm, encode_all(
        lvlm,
        _readable(lvlm, args.measure, pairs),
        spool=getattr(args, "spool", None),
        progress=_progress(args),
    )


# Pruning


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned model with the plan and the settings that made it."""

    lvlm: LVLM
    plan: DropPlan
    compensation: str
    calibration: str
    samples: int

    def to_json(self) -> dict[str, Any]:
        made = {
            "drop": list(self.plan.drop),
            "keep": list(self.plan.keep),
            "criterion": self.plan.criterion,
            "compensation": self.compensation,
        }
        return made | {
            "settings": {
                "criterion": dict(self.plan.settings),
                "compensation": self.lvlm.provenance.get("compensation"),
            },
            "calibration": {"set": self.calibration, "samples": self.samples},
        }

    def describe(self) -> str:
        dropped = ", ".join(map(str, self.plan.drop)) or "none"
        fitted = (
            f", calibrated on {self.samples} sample(s) of '{self.calibration}'"
            if self.samples
            else ""
        )
        own = " (the very sample asked about)" if self.samples and self.calibration == THIS else ""
        return (
            f"dropped layers (0-based): {dropped}; criterion {self.plan.criterion}, compensation"
            f" {self.compensation}{fitted}{own}"
        )


def _top_p(args: argparse.Namespace) -> TopP:
    return TopP(args.top_p, args.top_p_mode)


def _weighing(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `importance`."""
    return {"causal_correction": args.causal_correction, "text_self": args.text_self}


def _importance(args: argparse.Namespace, traced: Trace):
    return importance(traced, **_weighing(args))


def _scores(
    args: argparse.Namespace,
    traced: Trace,
    weights,
    criterion: str,
    lvlm: LVLM,
    samples: Sequence[Sample],
):
    return redundancy(
        traced,
        weights,
        criterion,
        top_p=_top_p(args),
        protect_ends=not args.unprotect_ends,
        seed=args.seed,
        rounds=args.rounds,
        lvlm=lvlm,
        samples=samples,
        progress=_progress(args),
    )


def _compensation_settings(args: argparse.Namespace) -> dict[str, Any]:
    if args.rank != AUTO and not (args.rank.isascii() and args.rank.isdigit() and int(args.rank)):
        raise InputError(
            f"Found the rank '{args.rank}'; expected a whole number from 1, or '{AUTO}'; correct"
            " --rank."
        )
    rank = {} if args.rank == AUTO else {"rank": int(args.rank)}
    return rank | {
        "strength": args.strength,
        "targets": tuple(args.targets.split(",")),
        "ridge": args.ridge,
        "tokens": args.tokens,
        "weighted": args.weighted,
        "energy": args.energy,
        "answer_weight": args.answer_weight,
    }


def _prune(args: argparse.Namespace, lvlm: LVLM, measured: Sequence[Sample] = ()) -> Pruned:
    """Ranks, plans, prunes and compensates as the arguments say; traces the calibration set only
    where that needs it.
    """
    settings = _compensation_settings(args)
    layers = parse_numbers(args.layers, "layers") if args.layers is not None else None
    ranks = layers is None and args.drop != 0
    traced = weights = None
    if ranks or args.compensation != "none":
        samples = _calibration(args, lvlm, measured)
        traced = trace(
            lvlm,
            samples,
            mlp=COMPENSATIONS[args.compensation].needs_mlp,
            spool=args.spool,
            progress=_progress(args),
        )
        weights = _importance(args, traced)
    if layers is not None:
        chosen = manual_plan(layers, lvlm.num_layers, lvlm.protected)
    elif ranks and getattr(args, "preset", None) and preset_of(args.preset).rivals:
        fitted = Fitted(preset_of(args.preset), lvlm, samples, traced, weights)
        chosen = fitted.plan(
            args.drop, seed=args.seed, rounds=args.rounds, progress=_progress(args)
        )
    elif ranks:
        chosen = plan(_scores(args, traced, weights, args.criterion, lvlm, samples), args.drop)
    else:
        chosen = DropPlan(
            drop=(), num_layers=lvlm.num_layers, criterion=args.criterion, settings={}
        )
    settings["top_p"] = _top_p(args)
    if args.rank == AUTO and chosen.drop:
        settings["rank"] = choose_rank(
            lvlm,
            chosen,
            args.compensation,
            samples,
            seed=args.seed,
            settings=settings,
            traced=traced,
            spool=args.spool,
            progress=_progress(args),
        ).rank
    pruned = prune(lvlm, chosen, args.compensation, traced, weights, **settings)
    return Pruned(
        pruned, chosen, args.compensation, args.calibration, len(traced.samples) if traced else 0
    )


# Commands: each returns the JSON result and the text for people


def _plan_text(found: Forecast) -> str:
    """Every item of a forecast, a line each."""
    held = {
        "weights": "weights",
        "one_pass": "working memory of one pass",
        "traces": (
            f"traces of {found.samples} sample(s): features, statistics, inner products (with"
            " --spool: on the disk)"
        ),
        "key_value_cache": "key and value cache of one answer",
        "compensation": "fit of a compensation (d x d sums)",
        "pruned_view_each_run": "pruned model's own: edited weights of each dropped run",
        "usual_maps": "not made: attention maps and hidden states of one pass",
    }
    spent = {
        "one_pass": "one pass (image and prompt)",
        "trace_one_sample": "its analysis",
        "trace_all": f"analysis of {found.samples} sample(s)",
        "each_answer_token": "each token of an answer",
    }
    rows = [
        ("memory", ""),
        *((held[name], readable(size, "B")) for name, size in found.memory.items()),
        ("time, estimated", ""),
        *((spent[name], readable(s, "s")) for name, s in found.seconds.items()),
    ]
    head = (
        f"{found.model}: {found.parameters['all'] / 1e9:.2f} B parameters, {found.layers} decoder"
        f" layers x {found.hidden_size}, {found.positions} positions, {found.dtype} on"
        f" {found.device} ({found.gflops:.0f} GFLOP/s here)"
    )
    return f"{head}\n\n{_table(rows)}"


def _analyze(args: argparse.Namespace) -> tuple[dict, str]:
    if args.plan:
        found = foresee(
            args.model,
            revision=args.revision,
            device=args.device,
            dtype=args.dtype,
            positions=args.positions,
            samples=1 if args.calibration == THIS else args.calibration_size,
        )
        return {"model": found.model, "plan": found.to_json()}, _plan_text(found)
    lvlm, sample = _asked(args)
    start = time.perf_counter()
    own = trace(lvlm, [sample], progress=_progress(args))
    weights = _importance(args, own)
    traced, ranking_weights, samples = own, weights, [sample]
    if args.calibration != THIS:
        samples = _calibration(args, lvlm, [sample])
        traced = trace(lvlm, samples, spool=args.spool, progress=_progress(args))
        ranking_weights = _importance(args, traced)
    names = [
        name
        for name, criterion in CRITERIA.items()
        if name == args.criterion or criterion.cost_forward_passes == ONE_PASS
    ]
    scores = {name: _scores(args, traced, ranking_weights, name, lvlm, samples) for name in names}
    chosen = scores[args.criterion]
    visual, text = weights.averaged(0)
    result = {
        "model": lvlm.name,
        "layers": lvlm.num_layers,
        "visual_tokens": len(sample.visual),
        "text_tokens": len(sample.textual),
        "grid": sample.geometry.grid and list(sample.geometry.grid),
        "criterion": args.criterion,
        "redundancy": {name: found.scores.tolist() for name, found in scores.items()},
        "ranking": list(chosen.ranking),
        "protected": list(chosen.protected),
        "similarity": similarity(traced, ranking_weights, "important", top_p=_top_p(args)).tolist(),
        "importance": {"visual": visual.tolist(), "text": text.tolist()},
        "tokens": list(sample.tokens),
        "calibration": {"set": args.calibration, "samples": len(traced.samples)},
        "timing_ms": 1000 * (time.perf_counter() - start),
    }
    sure = None
    if args.stability is not None:
        sure = stability(
            traced,
            ranking_weights,
            args.criterion,
            drop=args.stability,
            seed=args.seed,
            top_p=_top_p(args),
            protect_ends=not args.unprotect_ends,
            measured=chosen.measured,
        )
        result["stability"] = sure.to_json()
    place = {layer: i + 1 for i, layer in enumerate(chosen.ranking)}
    rows = [
        ("layer", args.criterion, "drop order")
        + ((f"{sure.level:.0%} interval", "dropped in") if sure else ())
    ]
    for layer, score in enumerate(chosen.scores):
        more = (
            (
                f"{sure.interval[layer, 0]:.4f} - {sure.interval[layer, 1]:.4f}",
                f"{sure.dropped[layer]:.0%}",
            )
            if sure
            else ()
        )
        rows.append(
            (
                str(layer),
                f"{score:.4f}",
                (
                    "protected"
                    if layer not in place
                    else "-"
                    if math.isnan(score)
                    else str(place[layer])
                ),
                *more,
            )
        )
    grid = (
        f" ({sample.geometry.grid[0]} x {sample.geometry.grid[1]})" if sample.geometry.grid else ""
    )
    head = (
        f"{lvlm.name}: {lvlm.num_layers} decoder layers, {len(sample.visual)} visual{grid} and"
        f" {len(sample.textual)} text tokens, {result['timing_ms']:.0f} ms"
    )
    common = (
        "in each round, given the layers dropped before it, {0} drop the same layer; first round's"
        if sure and sure.by_round is not None
        else "{0} of the {1} layers in common with all samples,"
    )
    told = (
        f"\n\n{sure.draws} resamples of {len(traced.samples)} samples:"
        f" {common.format(f'{sure.overlap:.0%}', sure.drop)} rank correlation"
        f" {sure.rank_correlation:.2f}"
        if sure
        else ""
    )
    return result, f"{head}\n\n{_table(rows)}{told}"


def _compare(args: argparse.Namespace) -> tuple[dict, str]:
    lvlm, sample = _asked(args)
    pruned = _prune(args, lvlm, [sample])
    report = compare(
        lvlm,
        pruned.lvlm,
        sample,
        max_new_tokens=args.max_new_tokens,
        pruned_sample=_thin(args, lvlm)(sample),
    )
    return {
        "model": lvlm.name,
        "plan": pruned.to_json(),
        "visual_share": args.visual_share,
        **report.to_json(),
    }, f"{pruned.describe()}\n\n{_comparison_text(report)}"


def _thin(args: argparse.Namespace, lvlm: LVLM):
    """What makes of a sample the one that the pruned model reads."""
    return lambda sample: (
        keep_visual(lvlm, sample, args.visual_share) if args.visual_share != 1 else sample
    )


def _comparison_text(report: Comparison) -> str:
    def speed(ratio: float | None) -> str:
        return f"{ratio:.2f}x" if ratio else "-"

    def row(name: str, answer: Answer, parameters: int) -> tuple[str, ...]:
        per_token = f"{answer.per_token_ms:.1f}" if answer.per_token_ms is not None else "-"
        return name, f"{parameters / 1e6:.2f}", f"{answer.prefill_ms:.1f}", per_token

    table = _table(
        [
            ("", "parameters (M)", "prefill (ms)", "per token (ms)"),
            row("full", report.full, report.parameters_full),
            row("pruned", report.pruned, report.parameters_pruned),
            (
                "change",
                f"{report.parameters_pruned / report.parameters_full - 1:+.1%}",
                speed(report.speedup_prefill),
                speed(report.speedup_decode),
            ),
        ]
    )
    differs = (
        "same answer"
        if report.exact
        else f"answers part at their token {report.first_divergence + 1}"
    )
    return (
        f"full:   {report.full.text}\npruned: {report.pruned.text}\n\n{table}\n\n{differs}; KL"
        f" {report.kl:.4f} nats/token; top-1 agreement {report.agreement:.1%}"
    )


def _questions(args: argparse.Namespace) -> list:
    if args.limit is not None and args.limit < 1:
        raise InputError(f"Found a limit of {args.limit} questions; expected at least 1; raise it.")
    if args.data.endswith(".jsonl") or Path(args.data).is_file():
        return list(islice(read_jsonl(args.data), args.limit))
    from svl_core.demo.evaluation import questions

    return questions(args.data, args.limit, args.seed)


def _evaluate(args: argparse.Namespace) -> tuple[dict, str]:
    asked = _questions(args)
    lvlm = _load(args)
    options = {
        "data": args.data,
        "batch_size": args.batch_size,
        "max_new_tokens": args.max_new_tokens,
        "progress": _progress(args),
    }
    changed = args.drop is not None or args.layers is not None or args.visual_share != 1
    if args.drop is None and args.layers is None:
        args.drop = 0
    if not changed:
        full = evaluate(lvlm, asked, **options)
        return {"model": lvlm.name, **full.to_json()}, _evaluation_text(full.to_json())
    pruned = _prune(args, lvlm)
    pair = PairedEvaluation(
        evaluate(lvlm, asked, **options),
        evaluate(pruned.lvlm, asked, prepare=_thin(args, lvlm), **options),
    )
    return {
        "model": lvlm.name,
        "plan": pruned.to_json(),
        "visual_share": args.visual_share,
        **pair.to_json(),
    }, f"{pruned.describe()}\n\n{_evaluation_text(pair.to_json())}"


def _evaluation_text(result: Mapping[str, Any]) -> str:
    full = result.get("full")
    rows = [("kind", "n", "accuracy", "95 % interval") + (("full model", "kept") if full else ())]
    for kind, found in [*result["by_kind"].items(), ("all", result)]:
        low, high = found["interval"]
        row = (kind, str(found["n"]), f"{found['accuracy']:.1%}", f"{low:.1%} - {high:.1%}")
        if full:
            before, kept = (
                (full if found is result else full["by_kind"][kind])["accuracy"],
                found["accuracy_kept"],
            )
            row += (f"{before:.1%}", "-" if kept is None else f"{kept:.1%}")
        if found is not result or list(result["by_kind"]) != ["all"]:
            rows.append(row)
    text = f"{result['data']}: {result['n']} questions, exact match\n\n{_table(rows)}"
    if full and result["accuracy_kept_interval"]:
        low, high = result["accuracy_kept_interval"]
        text += (
            f"\n\naccuracy kept {result['accuracy_kept']:.1%} (95 % interval {low:.1%} -"
            f" {high:.1%}); {result['lost']} answers lost, {result['gained']} gained"
        )
    return text


def _sweep(args: argparse.Namespace) -> tuple[dict, str]:
    drops = parse_numbers(args.drop, "drop") if args.drop is not None else None
    questions = _questions(args) if args.data else None
    if args.rank == AUTO:
        raise InputError(
            "Found --rank auto for a sweep; expected one rank for all its rows; give a number or"
            " --energy."
        )
    lvlm, measured = _measured(args)
    found = sweep(
        lvlm,
        measured,
        _calibration(args, lvlm, measured),
        criteria=_names(
            args.criterion, {name: row for name, row in CRITERIA.items() if row.needs != "layers"}
        ),
        compensations=_names(args.compensation, COMPENSATIONS),
        drops=drops,
        questions=questions,
        draws=args.draws,
        seed=args.seed,
        top_p=_top_p(args),
        importance_settings=_weighing(args),
        protect_ends=not args.unprotect_ends,
        compensation_settings=_compensation_settings(args),
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        spool=args.spool,
        resume=args.resume,
        allow_shared=args.calibration == THIS,
        progress=_progress(args),
    )
    if args.csv:
        _save(args.csv, found.to_csv(), "csv")
    result = found.to_json()
    accuracy = ("accuracy",) if questions else ()
    rows = [
        ("criterion", "compensation", "drop", "KL", "agreement", "exact", *accuracy, "speed-up")
    ]
    for row in found.rows:
        measured_accuracy = (f"{row.accuracy:.1%}",) if questions else ()
        rows.append(
            (
                row.criterion,
                row.compensation,
                str(row.drop),
                f"{row.kl:.4f}",
                f"{row.agreement:.1%}",
                f"{row.exact:.1%}",
                *measured_accuracy,
                f"{row.speedup:.2f}x",
            )
        )
    cliffs = [
        f"{each['criterion']} + {each['compensation']}:"
        f" {'no cliff' if each['drop'] is None else 'cliff at ' + str(each['drop']) + ' dropped'}"
        for each in result["cliffs"]
    ]
    return result, _table(rows, left=2) + "\n\n" + "\n".join(cliffs)


def _ablate(args: argparse.Namespace) -> tuple[dict, str]:
    sizes = parse_numbers(args.sizes, "sizes")
    options = {
        "sizes": sizes,
        "max_new_tokens": args.max_new_tokens,
        "batch_size": args.batch_size,
        "progress": _progress(args),
    }
    if args.images or args.prompt is not None or args.measure:
        lvlm, measured = _measured(args)
        found = ablate(lvlm, measured, data="" if args.images else args.measure, **options)
    else:
        questions = _questions(args)
        lvlm = _load(args)
        found = ablate_questions(lvlm, questions, data=args.data, **options)
    size = min(sizes)
    rows = (
        [("layer", *found.columns, "KL")]
        if found.right is not None
        else [("layer", "KL", "agreement", "same answer", "loss")]
    )
    for row in [found.full, *(r for r in found.rows if len(r.layers) == size)]:
        name = (
            "none"
            if not row.layers
            else str(row.layers[0])
            if size == 1
            else f"{row.layers[0]}-{row.layers[-1]}"
        )
        if found.right is not None:
            values = [f"{found.tally(row, kind).accuracy:.0%}" for kind in found.columns] + [
                f"{row.kl.mean():.3f}"
            ]
        else:
            values = [
                f"{row.kl.mean():.4f}",
                f"{row.agreement.mean():.1%}",
                f"{row.exact.mean():.1%}",
                f"{row.loss.mean():.4f}",
            ]
        rows.append((name, *values))
    what = (
        f"accuracy by kind of question in '{found.data}'"
        if found.right is not None
        else "against the full model's answers"
    )
    return (
        found.to_json(),
        f"{found.model} without each layer: {what}, n = {len(found.kinds)}\n\n{_table(rows)}",
    )


def _prune_command(args: argparse.Namespace) -> tuple[dict, str]:
    out = Path(args.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"Found something at {args.out} already; expected a new or empty folder; choose another"
            " with --out."
        )
    there = next(part for part in (out, *out.resolve().parents) if part.exists())
    if not os.access(there, os.W_OK):
        raise InputError(
            f"Found no permission to write {args.out}; expected a folder of yours; choose another"
            " with --out."
        )
    if not COMPENSATIONS[args.compensation].exportable:
        merged = [name for name, row in COMPENSATIONS.items() if row.exportable]
        raise InputError(
            f"Found the compensation '{args.compensation}', which a plain checkpoint cannot hold;"
            f" expected one of {', '.join(merged)}; choose one."
        )
    lvlm = _load(args)
    pruned = _prune(args, lvlm)
    pruned.lvlm.save(out)
    parameters = {"full": lvlm.num_parameters, "pruned": pruned.lvlm.num_parameters}
    share = 1 - parameters["pruned"] / parameters["full"]
    text = (
        f"{pruned.describe()}\nwrote {args.out}: {parameters['pruned'] / 1e6:.2f} of"
        f" {parameters['full'] / 1e6:.2f} M parameters ({share:.1%} fewer)"
    )
    if args.visual_share != 1:
        text += (
            f"\nthe plan also keeps {args.visual_share:.0%} of the visual tokens, which a"
            f" checkpoint cannot hold; ask the checkpoint with --visual-share {args.visual_share:g}"
            " --drop 0"
        )
    return {
        "model": lvlm.name,
        "out": str(out),
        "plan": pruned.to_json(),
        "visual_share": args.visual_share,
        "parameters": parameters,
    }, text


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.1f} M"


def _models(args: argparse.Namespace) -> tuple[dict, str]:
    from svl_core.lvlm.catalogue import catalogue

    def entries(registry: Mapping[str, Any], fields: Sequence[str]) -> list[dict[str, Any]]:
        return [{name: getattr(entry, name) for name in fields} for entry in registry.values()]

    models = [asdict(entry) for entry in catalogue()]
    result = {
        "models": models,
        "families": [family.name for family in FAMILIES],
        "criteria": entries(
            CRITERIA, ("name", "title", "source", "formula", "direction", "cost_forward_passes")
        ),
        "compensations": entries(
            COMPENSATIONS, ("name", "title", "source", "formula", "exportable")
        ),
        "presets": entries(
            PRESETS,
            ("name", "title", "explanation", "criterion", "compensation", "settings", "samples"),
        ),
    }
    lists = [
        (title, [(each["name"], each["title"], each["source"]) for each in result[title]])
        for title in ("criteria", "compensations")
    ]
    lists.append(
        (
            "presets",
            [
                (each["name"], each["title"], f"{each['criterion']} + {each['compensation']}")
                for each in result["presets"]
            ],
        )
    )
    heading = (
        "id",
        "parameters",
        "layers",
        "visual tokens an image",
        "bf16 memory",
        "licence",
        "good for",
    )
    rows = [
        (
            m["id"],
            _parameters(m["parameters"]),
            str(m["layers"]),
            m["visual_tokens"],
            (
                f"{m['memory_gb']:.1f} GB"
                if m["memory_gb"] >= 0.1
                else f"{1000 * m['memory_gb']:.0f} MB"
            ),
            m["licence"] + (" (gated)" if m["gated"] else ""),
            m["good_for"],
        )
        for m in models
    ]
    text = "models\n" + _table([heading, *rows], left=len(heading))
    text += (
        "\n\nfamilies: "
        + ", ".join(result["families"])
        + "; other models of transformers are probed as they load, and served or refused with the"
        " reason; a causal language model without images serves as control"
    )
    return result, text + "".join(f"\n\n{title}\n{_table(rows, left=3)}" for title, rows in lists)


COMMANDS = {
    "analyze": _analyze,
    "compare": _compare,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "ablate": _ablate,
    "prune": _prune_command,
    "models": _models,
}


# Output


def _progress(args: argparse.Namespace):
    """A callback that rewrites one line on standard error; None where nobody watches."""
    if args.quiet or not sys.stderr.isatty():
        return None

    def show(fraction: float, what: str) -> None:
        sys.stderr.write(f"\r\x1b[K{fraction:4.0%} {what}" if fraction < 1 else "\r\x1b[K")
        sys.stderr.flush()

    return show


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns, the first `left` to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i >= left else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    )


def _write(args: argparse.Namespace, result: Any, text: str) -> None:
    if not args.json:
        print(text)
        return
    written = json.dumps(_finite(result), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(written)
        return
    _save(args.json, written, "json")
    print(text)


def _save(name: str, text: str, option: str) -> None:
    try:
        Path(name).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Found that {name} cannot be written ({error.strerror}); expected a file name in a"
            f" folder of yours; change --{option}."
        ) from None


def _finite(value: Any) -> Any:
    """The value in JSON's terms: numbers that are not finite become null, tuples and arrays lists."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
