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
        data = "" if args.images else args.measure
        ablation = ablate_samples(
            lvlm,
            measured,
            data=data,
            **options,
        )
    else:
        questions = labelled_questions(args, recipe.seed)
        ablation = ablate_questions(
            load_model(args, recipe),
            questions,
            data=args.data,
            **options,
        )
    what = (
        "against the full model's answers"
        if ablation.right is None
        else f"accuracy by kind of question in '{ablation.data}'"
    )
    head = f"{ablation.model} without each layer: {what}, n = {len(ablation.kinds)}"
    return ablation.to_json(), f"{head}\n\n{_rows_table(ablation, min(sizes))}"


def _rows_table(ablation: Ablation, size: int) -> str:
    """The full model and every block of `size` layers, a row each."""
    heading: tuple[str, ...] = ("layer", *ablation.columns, "KL")
    if ablation.right is None:
        heading = ("layer", "KL", "agreement", "same answer", "loss")
    shown = [ablation.full, *(row for row in ablation.rows if len(row.layers) == size)]
    return table([heading, *((_name(row), *_values(ablation, row)) for row in shown)])


def _name(row: AblationRow) -> str:
    """The skipped layers, such as "3-5"."""
    if not row.layers:
        return "none"
    if len(row.layers) == 1:
        return str(row.layers[0])
    return f"{row.layers[0]}-{row.layers[-1]}"


def _values(ablation: Ablation, row: AblationRow) -> list[str]:
    """A row's cells, in the order of the heading."""
    if ablation.right is not None:
        tallies = [ablation.tally(row, kind) for kind in ablation.columns]
        accuracies = [f"{tally.accuracy:.0%}" for tally in tallies]
        return [*accuracies, f"{row.kl.mean():.3f}"]
    return [
        f"{row.kl.mean():.4f}",
        f"{row.agreement.mean():.1%}",
        f"{row.exact.mean():.1%}",
        f"{row.loss.mean():.4f}",
    ]
