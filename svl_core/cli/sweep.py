"""`svl sweep`: every drop count with every criterion and compensation, measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from svl_core.analysis.redundancy import CRITERIA
from svl_core.cli.inputs import (
    calibration_samples,
    calibration_source,
    labelled_questions,
    measured_samples,
    parse_numbers,
)
from svl_core.cli.output import table, watched
from svl_core.comparison.sweep import Sweep
from svl_core.comparison.sweep import sweep as sweep_models
from svl_core.errors import InputError
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.recipe import AUTO, THIS, Recipe, words_in

ALL = "all"


def sweep(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    criteria, compensations = chosen_names(args)
    drops = parse_numbers(args.drops, "drop") if args.drops is not None else None
    questions = labelled_questions(args, recipe.seed) if args.data else None
    if recipe.rank == AUTO:
        raise InputError(
            "Found --rank auto for a sweep; expected one rank for all its rows; give a number or"
            " --energy."
        )
    lvlm, measured = measured_samples(args, recipe)
    fitted = [name for name in compensations if COMPENSATIONS[name].fitted]
    needing_most = recipe.changed(compensation=fitted[0] if fitted else "none")
    source = calibration_source(needing_most, lvlm, measured)
    recipe = recipe.changed(calibration=source, detail=lvlm.detail)
    result = sweep_models(
        lvlm,
        measured,
        calibration_samples(args, recipe, lvlm, measured),
        recipe,
        criteria=criteria,
        compensations=compensations,
        drops=drops,
        questions=questions,
        draws=args.draws,
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
        spool=args.spool,
        resume=args.resume,
        allow_shared=recipe.calibration == THIS,
        run=watched(args),
    )
    args.tables = result.to_csv()
    written = result.to_json()
    rows = _rows_table(result, with_accuracy=bool(questions))
    return written, f"{rows}\n\n{_cliffs_text(written['cliffs'])}"


def chosen_names(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The criteria and compensations of a sweep: one or several by commas, or all."""
    ranking = [name for name, row in CRITERIA.items() if row.needs != "layers"]
    return _named(args.criteria, ranking), _named(args.compensations, COMPENSATIONS)


def _named(text: str, names: Iterable[str]) -> list[str]:
    """The names that a list on the command line means."""
    return list(names) if text == ALL else list(words_in(text))


def _rows_table(result: Sweep, with_accuracy: bool) -> str:
    """A line for each pruned model."""
    heading = ["criterion", "compensation", "drop", "KL", "agreement", "exact"]
    if with_accuracy:
        heading.append("accuracy")
    rows = [[*heading, "speed-up", "expected"]]
    for row in result.rows:
        cells = [
            row.criterion,
            row.compensation,
            str(row.drop),
            f"{row.kl:.4f}",
            f"{row.agreement:.1%}",
            f"{row.exact:.1%}",
        ]
        if row.accuracy is not None:
            cells.append(f"{row.accuracy:.1%}")
        measured = f"noise {row.speedup:.2f}x" if row.noise else f"{row.speedup:.2f}x"
        expected = "-" if row.expected is None else f"{row.expected:.2f}x"
        rows.append([*cells, measured, expected])
    return table(rows, left=2)


def _cliffs_text(cliffs: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for cliff in cliffs:
        where = "no cliff" if cliff["drop"] is None else f"cliff at {cliff['drop']} dropped"
        lines.append(f"{cliff['criterion']} + {cliff['compensation']}: {where}")
    return "\n".join(lines)
