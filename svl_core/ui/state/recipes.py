"""Presets as the page's controls: what a preset sets, and which one the controls and the plan are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import svl_core as svl
from svl_core.recipe import DEMO, OWN, THIS
from svl_core.service import calibration
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by

CUSTOM = "custom"
CHOICES = (("Custom", CUSTOM), *((preset.title, name) for name, preset in svl.PRESETS.items()))


def values(
    preset: svl.Preset,
    name: str,
    world: Collection[str],
    now: Settings,
    most: int = calibration.MOST_SCENES,
) -> dict[str, object]:
    """The settings that a preset stands for, by field name; one whose criteria compete needs a set
    for it, any other takes what there is. most: calibration samples allowed.
    """
    recipe = preset.recipe
    out = {
        "criterion": recipe.criterion,
        "compensation": recipe.compensation,
        "rank": recipe.rank,
        "strength": recipe.strength,
        "attention_target": "attention" in recipe.targets,
        "top_p": recipe.top_p,
        "mode": recipe.top_p_mode,
        "causal_correction": recipe.causal_correction,
        "text_self": recipe.text_self,
    }
    if preset.rivals and calibration.sources_for(name, world, now).rank == THIS:
        out["calibration"] = OWN if now.own else DEMO if name in world else THIS
    if (
        preset.samples
        and out.get("calibration", calibration.sources_for(name, world, now).fit) == DEMO
    ):
        out["calibration_size"] = min(preset.recipe.calibration_size, calibration.MOST_SCENES, most)
    return out


def current(
    name: str,
    world: Collection[str],
    now: Settings,
    strip: Mapping,
    most: int = calibration.MOST_SCENES,
) -> str:
    """The preset that the settings and the plan are, else `CUSTOM`.

    What competed is a preset only for the layers that won.
    """
    for each in svl.PRESETS.values():
        plan = (
            strip.get("preset") == [each.name, *strip["drop"]]
            if each.rivals
            else ranked_by(strip) == each.recipe.criterion or not strip["drop"]
        )
        if (
            plan
            and now.visual_share == 1
            and _matches(
                values(each, name, world, now, most), now, "criterion" if each.rivals else ""
            )
        ):
            return each.name
    return CUSTOM


def contest(
    name: str, world: Collection[str], now: Settings, most: int = calibration.MOST_SCENES
) -> svl.Preset | None:
    """The preset with rivals whose settings these are, the criterion being one of those that
    competed.
    """
    fitting = (
        each
        for each in svl.PRESETS.values()
        if each.rivals and now.criterion in (each.recipe.criterion, *each.rivals)
    )
    return next(
        (
            each
            for each in fitting
            if _matches(values(each, name, world, now, most), now, "criterion")
        ),
        None,
    )


def contest_key(preset: svl.Preset, count: int, now: Settings) -> tuple:
    """Under which the winning ranking at `count` layers is stored with the samples on which it won."""
    return "competed", preset.name, count, now.protect_ends


def _matches(wanted: Mapping[str, object], now: Settings, but: str = "") -> bool:
    return all(getattr(now, field) == value for field, value in wanted.items() if field != but)


def told(current: str, strip: Mapping) -> str:
    """The chosen preset in a sentence."""
    if current == CUSTOM:
        return ""
    preset = svl.PRESETS[current]
    won = (
        f" At {len(strip['drop'])} layers the winner is {svl.CRITERIA[strip['criterion']].title};"
        " for another number choose the preset again."
        if preset.rivals and strip["criterion"] in svl.CRITERIA
        else ""
    )
    return preset.explanation + won
