"""Options that describe a recipe, made from the recipe's fields; and the recipe that they mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from svl_core.errors import InputError
from svl_core.recipe import CHOICE, OPTIONS, Option, Recipe

HALF_CHOICES = ("drop_attention", "drop_mlp")
"""Fields that name halves of layers to skip."""
CHOICES = ("drop", "layers", *HALF_CHOICES)
"""Fields that say what goes."""


def add_recipe_options(
    parser: argparse.ArgumentParser,
    names: Iterable[str],
    defaults: dict[str, str] | None = None,
) -> None:
    """Adds an option for each of these fields, under its heading.

    Only what is typed lands in the parsed arguments, so that a preset or a plan gives way to it.
    defaults: words for `--help` where a command's default is not the field's.
    """
    groups: dict[str, Any] = {}
    for name in names:
        option = OPTIONS[name]
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        add_option(
            groups[option.group],
            option,
            (defaults or {}).get(name),
        )


def add_option(
    group: Any,
    option: Option,
    default: str | None = None,
) -> None:
    """Adds one field's option to a group of options."""
    if option.kind is bool:
        group.add_argument(
            option.option,
            dest=option.name,
            action="store_const",
            const="0" if option.inverted else "1",
            default=argparse.SUPPRESS,
            help=option.help,
        )
        return
    shown = _in_words(option.default) if default is None else default
    choices = "{" + ",".join(option.choices) + "}" if option.choices else ""
    group.add_argument(
        option.option,
        dest=option.name,
        default=argparse.SUPPRESS,
        metavar=option.metavar or choices or option.name.upper(),
        help=option.help + (f" (default: {shown})" if shown else ""),
    )


def _in_words(default: Any) -> str:
    if default is None:
        return ""
    return ",".join(default) if isinstance(default, tuple) else str(default)


def typed_values(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that were typed. Raises InputError for a value that is not accepted."""
    values = {}
    for name, option in OPTIONS.items():
        if hasattr(args, name):
            values[name] = _parsed(option, getattr(args, name))
    return values


def _parsed(option: Option, text: str) -> Any:
    """The value of a typed option. What to drop is left open by leaving its option out, not by
    "none". Raises InputError.
    """
    if option.group == CHOICE:
        option = replace(option, nullable=False)
    try:
        option.read(text)
    except ValueError:
        raise InputError(
            f"Found {text!r} for {option.option}; expected {option.expected}; correct it."
        ) from None
    return option.parsed(text)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the command line means: a plan or a preset, and over it what was typed.

    Raises InputError for a value that is not accepted, an unknown preset, a file that holds no plan
    for the model, a plan together with a preset, nothing to drop where something must be said, and
    a number to drop beside what to drop.
    """
    typed = typed_values(args)
    _check_choice(args, typed)
    plan_file, preset = getattr(args, "plan_file", None), typed.pop("preset", None)
    if plan_file is not None and preset is not None:
        raise InputError(
            "Found both --from and --preset; expected one of them, for each is a whole recipe;"
            " leave the other out."
        )
    recipe = Recipe()
    if plan_file is not None:
        recipe = _planned(plan_file, args.model)
    elif preset is not None:
        from svl_core.comparison.presets import preset_of

        recipe = preset_of(preset).applied(recipe)
    recipe = recipe.changed(**typed)
    return _without_lost_preset(recipe)


def _check_choice(
    args: argparse.Namespace,
    typed: Mapping[str, Any],
) -> None:
    """Raises InputError where what goes is not said, or is said twice.

    typed: the recipe's fields that were typed.
    """
    named = [name for name in HALF_CHOICES if name in typed]
    said = any(name in typed for name in CHOICES)
    planned = getattr(args, "plan_file", None) is not None
    if getattr(args, "must_drop", False) and not said and not planned:
        options = " ".join(OPTIONS[name].option for name in CHOICES)
        raise InputError(
            f"Found none of the options {options} --from; expected one of them; add it; see"
            f" `svl {args.command} --help`."
        )
    if named and "drop" in typed:
        option = OPTIONS[named[0]].option
        raise InputError(
            f"Found both --drop and {option}; expected a number to drop, or what to drop; leave the"
            " other out."
        )


def _without_lost_preset(recipe: Recipe) -> Recipe:
    """The recipe, no longer called by a preset that typed options changed."""
    if recipe.preset is None:
        return recipe
    from svl_core.comparison.presets import PRESETS

    preset = PRESETS.get(recipe.preset)
    return recipe if preset and preset.matches(recipe) else recipe.changed(preset=None)


def _planned(plan_file: str, model: str) -> Recipe:
    from svl_core.pruning.plan_file import read_plan

    plan = read_plan(plan_file)
    if not plan.is_for(model):
        raise InputError(
            f"Found a plan for the model {plan.model}; expected one for {model}; add"
            f" --model {plan.model} or choose another plan."
        )
    return plan.recipe
