"""`svl prune`: writes a pruned model as a plain transformers checkpoint."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from svl_core.cli.inputs import asked_question, asks, load_model
from svl_core.cli.pruned import prune_by
from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.pruning.compensation import COMPENSATIONS, compensation_of
from svl_core.recipe import Recipe


def prune(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    out = expanded(args.out)
    _check_out(args.out, out)
    _check_exportable(recipe)
    if asks(args):
        lvlm, sample = asked_question(args, recipe)
        pruned = prune_by(args, recipe, lvlm, [sample])
    else:
        lvlm = load_model(args, recipe)
        pruned = prune_by(args, recipe, lvlm)
    pruned.lvlm.save(out, args.dtype)
    full = lvlm.num_parameters
    remaining = pruned.lvlm.num_parameters
    text = (
        f"{pruned.describe()}\nwrote {args.out}: {remaining / 1e6:.2f} of"
        f" {full / 1e6:.2f} M parameters ({1 - remaining / full:.1%} fewer)"
    )
    if recipe.visual_share != 1:
        text += (
            f"\nthe plan also keeps {recipe.visual_share:.0%} of the visual tokens, which a"
            " checkpoint cannot hold; ask the checkpoint with --visual-share"
            f" {recipe.visual_share:g} --drop 0"
        )
    result = {
        "model": lvlm.name,
        "out": str(out),
        "plan": pruned.to_json(),
        "visual_share": recipe.visual_share,
        "parameters": {"full": full, "pruned": remaining},
    }
    return result, text


def _check_out(name: str, out: Path) -> None:
    """Raises InputError where the checkpoint could not be written, before the work."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"Found something at {name} already; expected a new or empty folder; choose another"
            " with --out."
        )
    there = next(part for part in (out, *out.resolve().parents) if part.exists())
    if not os.access(there, os.W_OK):
        raise InputError(
            f"Found no permission to write {name}; expected a folder of yours; choose another with"
            " --out."
        )


def _check_exportable(recipe: Recipe) -> None:
    if not compensation_of(recipe.compensation).exportable:
        merged = [name for name, row in COMPENSATIONS.items() if row.exportable]
        raise InputError(
            f"Found the compensation '{recipe.compensation}', which a plain checkpoint cannot hold;"
            f" expected one of {', '.join(merged)}; choose one."
        )
