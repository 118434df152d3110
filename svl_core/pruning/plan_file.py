"""Plan files: a recipe with the layers that it came to, as the page and the commands write it and
`svl --from` reads it.

There is one dialect: a JSON object with `model` and `recipe`, at the top or under `plan`, whose
recipe names its `layers`. Three older ones are still read: the page's plan with its `settings`, a
command's result, and the record beside a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.recipe import (
    ATTENTION,
    AUTO,
    DEMO,
    HALF,
    HALVES,
    MANUAL,
    MLP,
    OPTIONS,
    Recipe,
)

RENAMED = {"mode": "top_p_mode"}
"""Fields of older plans under their present names."""

NO_HALVES: Mapping[str, Sequence[int]] = MappingProxyType({})
"""Of a plan that skips none."""

SOURCES = {"bundled": DEMO}
"""Calibration sets of older plans under their present names."""


@dataclass(frozen=True)
class SavedPlan:
    """What a plan file says.

    model, revision: what it was made for; None where the file does not say.
    recipe: always with explicit `layers`.
    """

    model: str | None
    revision: str | None
    recipe: Recipe

    def is_for(self, name: str) -> bool:
        """Whether the plan was made for the model `name`; folders count by where they lie."""
        if self.model is None or self.model == name:
            return True
        ours = expanded(name)
        theirs = expanded(self.model)
        if not ours.is_dir() or not theirs.is_dir():
            return False
        return ours.resolve() == theirs.resolve()


def naming(
    recipe: Recipe,
    drop: Sequence[int],
    skipped: Mapping[str, Sequence[int]] = NO_HALVES,
) -> dict[str, Any]:
    """The fields of a recipe that name what goes, and how much that is in the recipe's units.

    drop: layers, 0-based.
    skipped: layers that stay, by the half that they skip (see `DropPlan.skipped`).
    """
    attention = tuple(skipped.get(ATTENTION, ()))
    mlp = tuple(skipped.get(MLP, ()))
    count = len(drop)
    if recipe.granularity == HALF:
        count = len(HALVES) * len(drop) + len(attention) + len(mlp)
    return {
        "drop": count,
        "layers": tuple(drop),
        "drop_attention": attention or None,
        "drop_mlp": mlp or None,
    }


def saved_plan(
    recipe: Recipe,
    drop: Sequence[int],
    keep: Sequence[int],
    *,
    skipped: Mapping[str, Sequence[int]] = NO_HALVES,
    criterion: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A plan as it is written: the layers that go and stay, and the recipe with them; where halves
    of layers are skipped, these under "attention" and "mlp".

    drop, keep: 0-based layers.
    skipped: see `naming`.
    criterion: by which the layers were chosen, where that is not the recipe's ("manual").
    more: further entries, such as `model`.
    """
    recipe = recipe.changed(**naming(recipe, drop, skipped))
    return {
        **more,
        "drop": [int(layer) for layer in drop],
        "keep": [int(layer) for layer in keep],
        **{half: [int(layer) for layer in layers] for half, layers in skipped.items()},
        "criterion": criterion or recipe.criterion,
        "compensation": recipe.compensation,
        "recipe": recipe.to_json(),
    }


def read_plan(file: str | Path) -> SavedPlan:
    """The plan in a file. Raises InputError for a file that cannot be read or holds none."""
    try:
        text = expanded(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"Found that {file} cannot be read ({error.strerror}); expected a plan as JSON, taken"
            " from the page or written by a command; check --from."
        ) from None
    except UnicodeDecodeError:
        raise _no_plan(file) from None
    try:
        written = json.loads(text)
        plan = written.get("plan", written)
        recipe = written.get("recipe") or plan.get("recipe")
        if recipe is None:
            recipe = _older_recipe(written, plan)
        if recipe.get("layers") is None:
            raise KeyError("layers")
        model = written.get("model")
        revision = written.get("revision")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _no_plan(file) from None
    known = {name: value for name, value in recipe.items() if name in OPTIONS}
    try:
        return SavedPlan(model, revision, Recipe.from_json(known))
    except InputError as error:
        raise InputError(f"Found no plan in {file}: {error}") from None


def _no_plan(file: str | Path) -> InputError:
    return InputError(
        f"Found no plan in {file}; expected the page's plan as JSON, what a command wrote with"
        " --json, or a checkpoint's svl_plan.json; check --from."
    )


def _older_recipe(
    written: Mapping[str, Any],
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    """The recipe's fields as older versions wrote them.

    written: the whole file. plan: what it holds under `plan`, or all of it.

    Raises KeyError, TypeError or ValueError where there are none.
    """
    layers = [int(layer) for layer in plan["drop"]]
    settings: dict[str, Any]
    if "keep" in written:
        # the page's plan
        settings = dict(written["settings"])
        settings.setdefault("seed", written.get("seed", 0))
    elif "layer_ids" in written:
        # the record beside a checkpoint
        settings = dict(written["compensation"])
        settings["compensation"] = settings.pop("name")
    else:
        # a command's result
        settings = dict(plan["settings"]["compensation"] or {})
        settings.pop("name", None)
        settings["compensation"] = plan["compensation"]
        settings["visual_share"] = written.get("visual_share", 1.0)
        calibration = plan.get("calibration", {"set": AUTO, "samples": Recipe.calibration_size})
        settings["calibration"] = calibration["set"]
        settings["calibration_size"] = max(calibration["samples"], 1)
    if settings.pop("attention_target", False):
        settings["targets"] = ["mlp", "attention"]
    recipe = {RENAMED.get(name, name): value for name, value in settings.items()}
    source = recipe.get("calibration", AUTO)
    recipe["calibration"] = SOURCES.get(source, source)
    criterion = plan.get("criterion", MANUAL)
    if criterion != MANUAL:
        # layers of one's own choice follow no criterion
        recipe["criterion"] = criterion
    recipe["compensation"] = str(settings["compensation"])
    known = {name: value for name, value in recipe.items() if name in OPTIONS and value is not None}
    return known | {"layers": layers}
