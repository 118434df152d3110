"""The methods on offer as plain values: criteria, compensations, token selectors and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from svl_core.analysis.redundancy import CRITERIA
from svl_core.comparison.presets import PRESETS, Preset
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.selectors import SELECTORS

CRITERION_FIELDS = (
    "name",
    "title",
    "source",
    "formula",
    "direction",
    "cost_forward_passes",
    "serves_halves",
)
SELECTOR_FIELDS = ("name", "title", "source", "formula", "cost")
COMPENSATION_FIELDS = ("name", "title", "source", "formula", "exportable")


def methods() -> dict[str, list[dict[str, Any]]]:
    """{"criteria", "compensations", "selectors", "presets"}: each method by its name, with its
    source.
    """
    return {
        "criteria": _entries(CRITERIA, CRITERION_FIELDS),
        "compensations": _entries(COMPENSATIONS, COMPENSATION_FIELDS),
        "selectors": _entries(SELECTORS, SELECTOR_FIELDS),
        "presets": [_preset(preset) for preset in PRESETS.values()],
    }


def _entries(registry: Mapping[str, Any], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: getattr(entry, name) for name in fields} for entry in registry.values()]


def _preset(preset: Preset) -> dict[str, Any]:
    """A preset; its settings are those beside its criterion, compensation and samples."""
    told = ("criterion", "compensation", "calibration_size")
    unusual = preset.recipe.unusual()
    return {
        "name": preset.name,
        "title": preset.title,
        "explanation": preset.explanation,
        "criterion": preset.recipe.criterion,
        "compensation": preset.recipe.compensation,
        "settings": {name: value for name, value in unusual.items() if name not in told},
        "samples": preset.samples,
    }
