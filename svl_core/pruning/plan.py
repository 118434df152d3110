"""`DropPlan`: which decoder layers go.

Indices are 0-based positions among the layers of the model that is pruned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from svl_core.analysis.gap import runs_of
from svl_core.analysis.redundancy import LayerScores
from svl_core.errors import InputError
from svl_core.notebook import Shown
from svl_core.recipe import MANUAL


@dataclass(frozen=True, repr=False)
class DropPlan(Shown):
    """The layers that go.

    drop: 0-based indices below `num_layers`, sorted.
    num_layers: layers of the model that the plan is for.
    criterion, settings: where the choice comes from.

    Raises InputError for a repeated or missing layer, and where no layer would stay.
    """

    drop: tuple[int, ...]
    num_layers: int
    criterion: str = MANUAL
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        drop = tuple(sorted(int(layer) for layer in self.drop))
        settings = MappingProxyType(dict(self.settings))
        object.__setattr__(self, "drop", drop)
        object.__setattr__(self, "settings", settings)
        different = set(drop)
        present = set(range(self.num_layers))
        if len(different) != len(drop) or different - present:
            raise InputError(
                f"Found the layers {list(self.drop)} to drop; expected different indices from 0 to"
                f" {self.num_layers - 1}; correct the choice."
            )
        if len(self.drop) >= self.num_layers:
            raise InputError(
                f"Found all {self.num_layers} layers to drop; expected at least one to stay; drop"
                " fewer."
            )

    def brief(self) -> dict[str, Any]:
        return {"drop": self.drop, "num_layers": self.num_layers, "criterion": self.criterion}

    @property
    def keep(self) -> tuple[int, ...]:
        """The layers that stay, 0-based."""
        return tuple(layer for layer in range(self.num_layers) if layer not in self.drop)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Maximal runs (first, last) of consecutive dropped layers."""
        return runs_of(self.drop)

    def to_json(self) -> dict[str, Any]:
        return {
            "drop": list(self.drop),
            "keep": list(self.keep),
            "num_layers": self.num_layers,
            "criterion": self.criterion,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DropPlan:
        """Reads what `to_json` wrote. Raises InputError where a key is missing."""
        try:
            return cls(
                drop=tuple(data["drop"]),
                num_layers=int(data["num_layers"]),
                criterion=str(data.get("criterion", MANUAL)),
                settings=data.get("settings", {}),
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"Found a plan without a usable {error}; expected the keys 'drop' and 'num_layers';"
                " use a plan written by this project."
            ) from None


def plan(scores: LayerScores, drop: int) -> DropPlan:
    """The most redundant layers; for a contiguous criterion its best block of layers.

    drop: how many, 0..`scores.most`.

    Plans of one `scores` are nested, except those of contiguous criteria. Raises InputError for a
    number out of range, and where the criterion has no scores to drop by.
    """
    if not 0 <= drop <= scores.most:
        raise InputError(
            f"Found {drop} layers to drop; expected 0 to {scores.most} ({len(scores.protected)} of"
            f" {len(scores.scores)} layers are protected); choose a number in that range."
        )
    chosen = scores.chosen(drop)
    if any(math.isnan(scores.scores[layer]) for layer in chosen):
        raise InputError(
            f"Found no scores of the criterion {scores.criterion!r} to drop by; expected tokens of"
            " its kind in the samples; choose another criterion, or samples with an image."
        )
    return DropPlan(
        drop=chosen,
        num_layers=len(scores.scores),
        criterion=scores.criterion,
        settings=scores.settings,
    )


def manual_plan(
    layers: Sequence[int],
    num_layers: int,
    protected: Sequence[int] = (),
) -> DropPlan:
    """A plan of one's own choice.

    layers: those to drop, 0-based.
    num_layers: layers of the model.
    protected: layers that must stay.

    Raises InputError for a protected, repeated or missing layer.
    """
    must_stay = sorted(set(layers) & set(protected))
    if must_stay:
        raise InputError(
            f"Found the protected layers {must_stay} among those to drop; expected them to stay;"
            " leave them out."
        )
    return DropPlan(tuple(layers), num_layers)
