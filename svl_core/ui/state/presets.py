"""Presets in the page's words: the choices, and which of them the controls and the plan are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import svl_core as svl
from svl_core.pruning.selectors import acts
from svl_core.service.calibration import MOST_SCENES
from svl_core.service.presets import matches, preset_values
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by

CUSTOM = "custom"
CHOICES = (("Custom", CUSTOM), *((preset.title, name) for name, preset in svl.PRESETS.items()))


def current(
    model: str,
    scene_models: Collection[str],
    settings: Settings,
    strip: Mapping,
    most: int = MOST_SCENES,
) -> str:
    """The preset that the settings and the plan are, else `CUSTOM`.

    What competed is a preset only for the layers that won. scene_models: models that know the
    bundled scenes. most: calibration samples allowed.
    """
    if acts(settings):
        return CUSTOM
    for preset in svl.PRESETS.values():
        wanted = preset_values(preset, model, scene_models, settings, most)
        competes = "criterion" if preset.rivals else ""
        if _has_plan(preset, strip) and matches(wanted, settings, but=competes):
            return preset.name
    return CUSTOM


def _has_plan(preset: svl.Preset, strip: Mapping) -> bool:
    """Whether the strip's layers are the preset's."""
    if preset.rivals:
        return strip.get("preset") == [preset.name, *strip["drop"]]
    return ranked_by(strip) == preset.recipe.criterion or not strip["drop"]


def in_words(current: str, strip: Mapping) -> str:
    """The chosen preset in a sentence."""
    if current == CUSTOM:
        return ""
    preset, winner = svl.PRESETS[current], strip["criterion"]
    if not preset.rivals or winner not in svl.CRITERIA:
        return preset.explanation
    return (
        f"{preset.explanation} At {len(strip['drop'])} layers the winner is"
        f" {svl.CRITERIA[winner].title}; for another number choose the preset again."
    )
