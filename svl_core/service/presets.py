"""Which preset the settings are, and what a preset sets for a model with its calibration sets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import svl_core as svl
from svl_core.recipe import DEMO, OWN, THIS
from svl_core.service.calibration import MOST_SCENES, sources_for
from svl_core.service.settings import VisitorSettings


def preset_values(
    preset: svl.Preset,
    name: str,
    scene_models: Collection[str],
    settings: VisitorSettings,
    most: int = MOST_SCENES,
) -> dict[str, Any]:
    """The recipe fields that a preset stands for, by name; one whose criteria compete needs a set
    for it, any other takes what there is.

    name: the model's.
    scene_models: names of the models that know the bundled scenes.
    settings: what is chosen otherwise; the calibration source depends on it.
    most: calibration samples allowed.
    """
    values = {field: getattr(preset.recipe, field) for field in preset.sets}
    sources = sources_for(name, scene_models, settings)
    fit = sources.fit
    if preset.rivals and sources.rank == THIS:
        fit = values["calibration"] = _own_or_demo(name, scene_models, settings)
    size = values.pop("calibration_size", None)
    if size is not None and fit == DEMO:
        values["calibration_size"] = min(size, MOST_SCENES, most)
    return values


def _own_or_demo(name: str, scene_models: Collection[str], settings: VisitorSettings) -> str:
    """The set that a competition of criteria is held on; this image where there is no set."""
    if settings.own:
        return OWN
    return DEMO if name in scene_models else THIS


def contested_preset(
    name: str,
    scene_models: Collection[str],
    settings: VisitorSettings,
    most: int = MOST_SCENES,
) -> svl.Preset | None:
    """The preset with rivals whose settings these are, the criterion being one of those that
    competed; None for other settings.
    """
    for preset in svl.PRESETS.values():
        if not preset.rivals or settings.criterion not in preset.criteria:
            continue
        wanted = preset_values(preset, name, scene_models, settings, most)
        if matches(wanted, settings, but="criterion"):
            return preset
    return None


def matches(wanted: Mapping[str, Any], settings: VisitorSettings, but: str = "") -> bool:
    """Whether the settings have the wanted values, but for the field `but`."""
    return all(getattr(settings, field) == value for field, value in wanted.items() if field != but)


def contest_key(preset: svl.Preset, count: int, settings: VisitorSettings) -> tuple:
    """Under which the ranking that won at `count` layers is stored, with the samples it won on."""
    return "competed", preset.name, count, settings.protect_ends
