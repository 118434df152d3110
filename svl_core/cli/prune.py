"""`svl prune`: writes a pruned model as a plain transformers checkpoint."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from svl_core.cli.inputs import asked_question, asks, load_model
from svl_core.cli.pruned import prune_by
from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.lvlm.checkpoint import check_writable
from svl_core.lvlm.hub import check_push, push
from svl_core.pruning.compensation import COMPENSATIONS, compensation_of
from svl_core.pruning.selectors import acts, in_words
from svl_core.recipe import OPTIONS, THINNING, Recipe


def prune(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    figures = _check_places(args)
    _check_exportable(recipe)
    if asks(args):
        lvlm, sample = asked_question(args, recipe)
        check_writable(lvlm.model)
        pruned = prune_by(args, recipe, lvlm, [sample])
    else:
        lvlm = load_model(args, recipe)
        check_writable(lvlm.model)
        pruned = prune_by(args, recipe, lvlm)
    address = None
    if args.out:
        saved = pruned.lvlm.save(args.out, args.dtype, figures)
        address = push(saved, args.push_to_hub, private=args.private) if args.push_to_hub else None
    else:
        address = pruned.lvlm.push_to_hub(
            args.push_to_hub,
            private=args.private,
            dtype=args.dtype,
            figures=figures,
        )
    written = " and ".join(filter(None, (args.out, address)))
    full = lvlm.num_parameters
    remaining = pruned.lvlm.num_parameters
    text = (
        f"{pruned.describe()}\nwrote {written}: {remaining / 1e6:.2f} of"
        f" {full / 1e6:.2f} M parameters ({1 - remaining / full:.1%} fewer)"
    )
    if pruned.plan.skipped:
        text += (
            "\nskipped halves of layers are not counted; the checkpoint keeps their shape, with"
            " zeros in the projections that end them, so that loaded by transformers alone it"
            " computes them"
        )
    if acts(recipe):
        text += (
            f"\nthe plan also reads {in_words(recipe)}, which a checkpoint cannot hold;"
            f" ask the checkpoint with {_thinning_options(recipe)} --drop 0"
        )
    result = {
        "model": lvlm.name,
        "out": str(expanded(args.out)) if args.out else None,
        "hub": address,
        "plan": pruned.to_json(),
        "visual_share": recipe.visual_share,
        "parameters": {"full": full, "pruned": remaining},
    }
    return result, text


def _thinning_options(recipe: Recipe) -> str:
    """What is typed for the visual tokens of a recipe."""
    unusual = recipe.unusual()
    typed = []
    for name in THINNING:
        if name in unusual:
            value = unusual[name]
            text = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
            typed.append(f"{OPTIONS[name].option} {text}")
    return " ".join(typed)


def _check_places(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures for the card. Raises InputError where the checkpoint could not be written to its
    places, or figures cannot be read, before the work.
    """
    if not args.out and not args.push_to_hub:
        raise InputError(
            "Found no --out; expected a folder for the checkpoint, or --push-to-hub USER/NAME; add"
            " one."
        )
    if args.private and not args.push_to_hub:
        raise InputError(
            "Found --private without --push-to-hub; expected a place on the Hub; add it, or leave"
            " --private out."
        )
    if args.out:
        _check_out(args.out, expanded(args.out))
    if args.push_to_hub:
        check_push(args.push_to_hub)
    return [_read_figures(name) for name in args.figures or ()]


def _read_figures(name: str) -> dict[str, Any]:
    """A command's result. Raises InputError for a file that holds none."""
    try:
        result = json.loads(expanded(name).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"Found that {name} cannot be read ({error.strerror}); expected what `svl evaluate"
            " --json` wrote; check --figures."
        ) from None
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise InputError(
            f"Found no result in {name}; expected what `svl evaluate --json` or `svl compare"
            " --json` wrote; check --figures."
        )
    return result


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
