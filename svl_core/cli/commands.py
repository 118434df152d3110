"""What runs behind a parsed command line. Importing this brings torch and transformers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import transformers

from svl_core.analysis.redundancy import CRITERIA
from svl_core.cli.ablate import ablate
from svl_core.cli.analyze import analyze
from svl_core.cli.compare import compare
from svl_core.cli.evaluate import evaluate
from svl_core.cli.lens import lens
from svl_core.cli.models import models
from svl_core.cli.options import recipe_of
from svl_core.cli.output import check_files, write_result
from svl_core.cli.prune import prune
from svl_core.cli.sweep import chosen_names, sweep
from svl_core.errors import InputError
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.recipe import Recipe

Command = Callable[[argparse.Namespace, Recipe], tuple[dict[str, Any], str]]
COMMANDS: dict[str, Command] = {
    "analyze": analyze,
    "compare": compare,
    "lens": lens,
    "sweep": sweep,
    "evaluate": evaluate,
    "ablate": ablate,
    "prune": prune,
    "models": models,
}
"""Each command by its name: from the arguments and the recipe to its JSON and its text."""

SHARED = ("analyze", "sweep", "evaluate", "ablate")
"""Those with pieces of work for several processes."""


def run_command(args: argparse.Namespace) -> None:
    """Runs the command that `args` name and writes its result. Raises InputError."""
    transformers.utils.logging.disable_progress_bar()
    _check_team(args)
    check_files(args)
    recipe = recipe_of(args)
    criteria, compensations = [recipe.criterion], [recipe.compensation]
    if args.command == "sweep":
        criteria, compensations = chosen_names(args)
    for name in criteria:
        _check_name("criterion", name, CRITERIA)
    for name in compensations:
        _check_name("compensation", name, COMPENSATIONS)
    result, text = COMMANDS[args.command](args, recipe)
    write_result(args, result, text)


def _check_team(args: argparse.Namespace) -> None:
    """Raises InputError where several processes have nothing to share, or one GPU would be asked to
    serve them all.
    """
    count = args.team.count
    if count == 1:
        return
    if args.command not in SHARED:
        raise InputError(
            f"Found {count} processes for `svl {args.command}`; expected one, for they share the"
            f" work of {', '.join(SHARED)} only; run it without a launcher."
        )
    if args.device_map:
        raise InputError(
            f"Found --device-map in {count} processes; expected either one model over all GPUs or"
            " one GPU for each process; leave the option or the launcher out."
        )


def _check_name(
    option: str,
    name: str,
    registry: Mapping[str, Any],
) -> None:
    """Raises InputError for a name that the registry lacks, or that ranks nothing."""
    if name in registry and getattr(registry[name], "needs", "") == "layers":
        raise InputError(
            f"Found the {option} '{name}', which ranks nothing; expected the layers themselves;"
            " give them with --layers."
        )
    if name not in registry:
        offered = [key for key, row in registry.items() if getattr(row, "needs", "") != "layers"]
        raise InputError(
            f"Found the {option} '{name}'; expected one of {', '.join(offered)}; choose one."
        )
