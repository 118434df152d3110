"""The arguments of the page's endpoints, those that describe a recipe made from its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio_client.utils import python_type_to_json_schema

import svl_core as svl
from svl_core.errors import InputError
from svl_core.recipe import AUTO, COMPENSATION, DEMO, DETAIL, OPTIONS, RANKING, THIS
from svl_core.ui.errors import polite
from svl_core.ui.state.settings import ACCEPTED, DEFAULTS

REQUIRED = inspect.Parameter.empty
NAMES: Mapping[str, Collection[str]] = {
    "criterion": [name for name, row in svl.CRITERIA.items() if row.needs != "layers"],
    "compensation": list(svl.COMPENSATIONS),
    "preset": list(svl.PRESETS),
    "visual_tokens": list(svl.SELECTORS),
    "calibration": [AUTO, THIS, DEMO],  # nothing is read from the server's disk
}
"""What is accepted for a name, and offered as an enumeration."""

HELP: Mapping[str, str] = {
    "criterion": "what ranks the layers, such as svl, shortgpt or svl-textual",
    "protect_ends": "whether the first and the last layer always stay",
    "rank": (
        "directions that scp amplifies, or 'auto': those of lowest KL on half of the calibration"
        " set, fitted on the other half"
    ),
    "energy": (
        "choose each run's rank as the fewest directions that hold this share of its gap's energy,"
        " instead of rank"
    ),
    "strength": "of scp, 1 as published",
    "calibration": (
        "what layers are ranked and compensations fitted on: 'demo' (the bundled scenes, for models"
        " that know them), 'this' (the picture and the question), 'auto' (ranked on 'this', fitted"
        " on 'demo')"
    ),
    "calibration_size": "samples of the bundled scenes",
    "granularity": (
        "what is ranked and dropped: each 'layer' as a whole, or each 'half' of one, its attention"
        " or its MLP; the number to drop counts these"
    ),
    "drop_attention": "layers (0-based) that stay and skip their attention, instead of a number",
    "drop_mlp": "layers (0-based) that stay and skip their MLP, instead of a number",
    "preset": (
        "a whole recipe by name, which sets criterion, compensation and their settings at once;"
        " arguments that differ from their defaults change it"
    ),
    "detail": (
        "how closely pictures are looked at: 'full', with fewer visual tokens 'balanced' or"
        " 'quick', or 'auto' (without a GPU what keeps one pass within a few seconds)"
    ),
    "visual_share": "share of the visual tokens that the pruned model reads, by visual_tokens",
    "visual_tokens": (
        "which visual tokens stay (tis, random, fastv, vitcop, cluster), or how layers skip them"
        " (shortv, skip-attention, skip-mlp)"
    ),
    "visual_from": (
        "layer (0-based) from which on visual tokens are gone or skipped; 0: gone at the input"
    ),
    "visual_layers": "only these layers (0-based) skip visual tokens",
    "max_visual_tokens": "the highest detail up to that one which keeps within so many",
}
"""For programs, where a field's own help is worded for the command line."""


@dataclass(frozen=True)
class Argument:
    """An argument of an endpoint.

    name: as programs write it.
    kind: its type; gradio reads it.
    help: one line for the endpoint's description.
    default: its value where it is left out, `REQUIRED` where it may not be.
    """

    name: str
    kind: Any
    help: str
    default: Any = REQUIRED


def of_recipe(name: str, default: Any = REQUIRED, help: str = "") -> Argument:
    """The argument of a recipe's field, with what it accepts and its help.

    default: by default the page's own, but that detail is full where nobody waits.
    help: by default that of `HELP`, else the field's.
    """
    option = OPTIONS[name]
    usual = option.default if option.group == DETAIL else getattr(DEFAULTS, name)
    value = usual if default is REQUIRED else default
    kind = Literal[tuple(NAMES[name])] if name in NAMES else option.annotation
    if option.nullable:
        kind = option.kind if value is not None else kind | None
    text = help or HELP.get(name, option.help)
    return Argument(name, kind, text, list(value) if _is_many(value) else value)


def _is_many(value: Any) -> bool:
    return isinstance(value, tuple)


def schema(arguments: Sequence[Argument]) -> dict[str, Any]:
    """The arguments as the JSON schema of an object, in their order."""
    required = [argument.name for argument in arguments if argument.default is REQUIRED]
    properties = {argument.name: _schema(argument) for argument in arguments}
    return {"type": "object", "properties": properties, "required": required}


def _schema(argument: Argument) -> dict[str, Any]:
    kind = python_type_to_json_schema(argument.kind)
    for bounded in (kind, *kind.get("anyOf", ()), *kind.get("oneOf", ())):
        if bounded.get("type") in ("integer", "number"):
            bounded.update(_bounds(argument.name))
    default = {} if argument.default is REQUIRED else {"default": argument.default}
    return {**kind, "description": argument.help, **default}


def _bounds(name: str) -> dict[str, Any]:
    """The least and the largest number that a field takes."""
    option = ACCEPTED.get(name)
    if option is None:
        return {}
    least = "exclusiveMinimum" if option.above else "minimum"
    bounds = {least: option.low, "maximum": option.high}
    return {key: bound for key, bound in bounds.items() if bound is not None}


IN_SWEEPS = ("criterion", "compensation", "drop", "layers", "preset")
"""Fields that a sweep varies itself."""

RANKS = tuple(name for name, option in OPTIONS.items() if option.group == RANKING)
"""Fields that rank the layers."""
FITS = (
    *(name for name, option in OPTIONS.items() if option.group == COMPENSATION),
    "calibration",
    "calibration_size",
)
"""Fields of what is fitted, and on which samples."""


UNITS = ("granularity", "drop_attention", "drop_mlp")
"""Fields by which halves of layers go."""

LOOKS = tuple(name for name, option in OPTIONS.items() if option.group == DETAIL)
"""Fields of how closely pictures are looked at."""


def more(given: Sequence[Argument], *others: str | Argument) -> list[Argument]:
    """`given`, and behind them the others that are not among them; a name is a recipe's field."""
    there = {argument.name for argument in given}
    added = [of_recipe(other) if isinstance(other, str) else other for other in others]
    return [*given, *(argument for argument in added if argument.name not in there)]


def checked(arguments: Sequence[Argument], given: Mapping[str, Any]) -> dict[str, Any]:
    """An endpoint's arguments in their own types: fields of settings as the field says, others by
    their kind. Raises InputError in the field's own sentence.
    """
    return {
        argument.name: given[argument.name]
        if given[argument.name] is None and _may_be_left_out(argument)
        else _checked(argument, given[argument.name])
        for argument in arguments
    }


def _may_be_left_out(argument: Argument) -> bool:
    return argument.default is None or argument.name not in ACCEPTED and _is_text(argument)


def _parts(kind: Any) -> set[Any]:
    """A type's parts and their parts: of `list[int] | None` list, int and None's type."""
    inner = [_parts(part) for part in get_args(kind) if isinstance(part, type) or get_args(part)]
    return {get_origin(kind) or kind, *chain.from_iterable(inner)}


def _is_text(argument: Argument) -> bool:
    """Whether it takes a text, or words that are texts, and nothing else."""
    united = get_origin(argument.kind) in (Union, UnionType)
    parts = get_args(argument.kind) if united else (argument.kind,)
    return all(part is str or get_origin(part) is Literal for part in parts)


def _checked(argument: Argument, value: Any) -> Any:
    option = ACCEPTED.get(argument.name)
    if option is not None:
        if value is None:
            raise option.refusal(value)
        return option.checked(value)
    if argument.kind is bool and not isinstance(value, bool):
        raise _refusal(argument, value, "true or false")
    if argument.kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise _refusal(argument, value, "a whole number")
    if _is_text(argument) and not isinstance(value, str):
        raise _refusal(argument, value, "text")
    kind = get_origin(argument.kind) or argument.kind
    lists = kind is list or any(get_origin(part) is list for part in get_args(argument.kind))
    if lists and not isinstance(value, list):
        raise _refusal(argument, value, "a list")
    numbers = lists and int in _parts(argument.kind)
    if numbers and any(isinstance(part, bool) or not isinstance(part, int) for part in value):
        raise _refusal(argument, value, "a list of whole numbers")
    return value


def _refusal(argument: Argument, value: Any, expected: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InputError(f"Found {argument.name} = {shown}; expected {expected}; change it.")


def endpoint(work: Callable, arguments: Sequence[Argument]) -> Callable:
    """`work(given, request)` as a function that gradio publishes with these arguments.

    given: the arguments' values by name. The description is the docstring of `work`, with a line
    for each argument before what it returns.
    """
    parameters = [
        inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default,
            annotation=argument.kind,
        )
        for argument in arguments
    ]
    request = inspect.Parameter(
        "request",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=gr.Request | None,
    )
    signature = inspect.Signature([*parameters, request], return_annotation=dict)

    def published(*values, **named):
        bound = signature.bind(*values, **named)
        bound.apply_defaults()
        given = dict(bound.arguments)
        request = given.pop("request")
        try:
            given = checked(arguments, given)
        except InputError as error:
            raise polite(error) from None
        yield from work(given, request)

    description, _, returned = inspect.getdoc(work).partition("Returns:")
    lines = "\n".join(f"    {argument.name}: {argument.help}" for argument in arguments)
    published.__name__ = work.__name__
    published.__doc__ = f"{description}Parameters:\n{lines}\nReturns:{returned}"
    published.__signature__ = signature
    published.__annotations__ = {
        parameter.name: parameter.annotation for parameter in signature.parameters.values()
    } | {"return": dict}
    return published
