"""`svl ablate`: what each layer is for, by skipping every layer and block of layers in turn."""

from __future__ import annotations

import argparse
from typing import Any

from svl_core.cli.inputs import (
    asks,
    labelled_questions,
    load_model,
    measured_samples,
    parse_numbers,
)
from svl_core.cli.output import table, watched
from svl_core.comparison.ablation import Ablation, AblationRow, ablate_questions
from svl_core.comparison.ablation import ablate as ablate_samples
from svl_core.recipe import Recipe


def ablate(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    sizes = parse_numbers(args.sizes, "sizes")
    options = {
        "sizes": sizes,
        "max_new_tokens": args.max_new_tokens,
        "batch_size": args.batch_size,
        "run": watched(args),
    }
    if asks(args) or args.measure:
        lvlm, measured = measured_samples(args, recipe)
        found = ablate_samples(lvlm, measured, data="" if args.images else args.measure, **options)
    else:
        questions = labelled_questions(args, recipe.seed)
        found = ablate_questions(load_model(args), questions, data=args.data, **options)
    what = (
        "against the full model's answers"
        if found.right is None
        else f"accuracy by kind of question in '{found.data}'"
    )
    head = f"{found.model} without each layer: {what}, n = {len(found.kinds)}"
    return found.to_json(), f"{head}\n\n{_rows_table(found, min(sizes))}"


def _rows_table(found: Ablation, size: int) -> str:
    """The full model and every block of `size` layers, a row each."""
    if found.right is None:
        rows = [("layer", "KL", "agreement", "same answer", "loss")]
    else:
        rows = [("layer", *found.columns, "KL")]
    shown = [found.full, *(row for row in found.rows if len(row.layers) == size)]
    rows += [(_name(row), *_values(found, row)) for row in shown]
    return table(rows)


def _name(row: AblationRow) -> str:
    if not row.layers:
        return "none"
    if len(row.layers) == 1:
        return str(row.layers[0])
    return f"{row.layers[0]}-{row.layers[-1]}"


def _values(found: Ablation, row: AblationRow) -> list[str]:
    if found.right is not None:
        accuracies = [f"{found.tally(row, kind).accuracy:.0%}" for kind in found.columns]
        return [*accuracies, f"{row.kl.mean():.3f}"]
    return [
        f"{row.kl.mean():.4f}",
        f"{row.agreement.mean():.1%}",
        f"{row.exact.mean():.1%}",
        f"{row.loss.mean():.4f}",
    ]
