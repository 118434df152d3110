"""`DropPlan`: which decoder layers go, and which halves of those that stay.

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
from svl_core.analysis.units import parted
from svl_core.errors import InputError
from svl_core.notebook import Shown
from svl_core.recipe import ATTENTION, LAYER, MANUAL, MLP


@dataclass(frozen=True, repr=False)
class DropPlan(Shown):
    """The layers that go, and those that stay without one of their halves.

    drop: 0-based indices below `num_layers`, sorted.
    num_layers: layers of the model that the plan is for.
    criterion, settings: where the choice comes from.
    attention, mlp: layers that stay and skip their attention, or their MLP; sorted. A layer that is
        named in both goes as a whole.

    Raises InputError for a repeated or missing layer, for half of one that goes, and where no layer
    would stay.
    """

    drop: tuple[int, ...]
    num_layers: int
    criterion: str = MANUAL
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        drop = self._checked("to drop", self.drop)
        attention = self._checked("to skip the attention of", self.attention)
        mlp = self._checked("to skip the MLP of", self.mlp)
        twice = sorted({*drop} & {*attention, *mlp})
        if twice:
            raise InputError(
                f"Found the layers {twice} to drop and to skip a half of; expected one of both;"
                " name each once."
            )
        both = {*attention} & {*mlp}
        settings = MappingProxyType(dict(self.settings))
        object.__setattr__(self, "drop", tuple(sorted({*drop, *both})))
        object.__setattr__(self, "attention", tuple(sorted({*attention} - both)))
        object.__setattr__(self, "mlp", tuple(sorted({*mlp} - both)))
        object.__setattr__(self, "settings", settings)
        if len(self.drop) >= self.num_layers:
            raise InputError(
                f"Found all {self.num_layers} layers to drop; expected at least one to stay; drop"
                " fewer."
            )

    def _checked(
        self,
        what: str,
        layers: Sequence[int],
    ) -> tuple[int, ...]:
        """The layers in order. what: what happens to them, in words. Raises InputError."""
        known = tuple(sorted(int(layer) for layer in layers))
        present = set(range(self.num_layers))
        if len(set(known)) != len(known) or set(known) - present:
            raise InputError(
                f"Found the layers {list(known)} {what}; expected different indices from 0 to"
                f" {self.num_layers - 1}; correct the choice."
            )
        return known

    def brief(self) -> dict[str, Any]:
        told = {"drop": self.drop, "num_layers": self.num_layers, "criterion": self.criterion}
        return told | self.skipped

    @property
    def skipped(self) -> dict[str, tuple[int, ...]]:
        """The layers that skip their attention and those that skip their MLP; {} for none."""
        if not self.attention and not self.mlp:
            return {}
        return {ATTENTION: self.attention, MLP: self.mlp}

    @property
    def changes(self) -> bool:
        """Whether anything goes."""
        return bool(self.drop or self.skipped)

    @property
    def key(self) -> tuple[tuple[int, ...], ...]:
        """What goes: plans of one model that are equal in it make the same view."""
        return self.drop, self.attention, self.mlp

    @property
    def halves(self) -> int:
        """How many halves of layers go, two for each whole one."""
        return 2 * len(self.drop) + len(self.attention) + len(self.mlp)

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
            **{half: list(layers) for half, layers in self.skipped.items()},
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
                attention=tuple(data.get(ATTENTION, ())),
                mlp=tuple(data.get(MLP, ())),
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"Found a plan without a usable {error}; expected the keys 'drop' and 'num_layers';"
                " use a plan written by this project."
            ) from None


def plan(scores: LayerScores, drop: int) -> DropPlan:
    """The most redundant layers; for a contiguous criterion its best block of layers. Of scores of
    halves the most redundant halves: where both of a layer go, it goes whole.

    drop: how many, 0..`scores.most`.

    Plans of one `scores` are nested, except those of contiguous criteria. Raises InputError for a
    number out of range, and where the criterion has no scores to drop by.
    """
    units = "layers" if scores.granularity == LAYER else "halves of layers"
    if not 0 <= drop <= scores.most:
        raise InputError(
            f"Found {drop} {units} to drop; expected 0 to {scores.most} ({len(scores.protected)} of"
            f" {len(scores.scores)} {units} are protected); choose a number in that range."
        )
    chosen = scores.chosen(drop)
    if any(math.isnan(scores.scores[unit]) for unit in chosen):
        raise InputError(
            f"Found no scores of the criterion {scores.criterion!r} to drop by; expected tokens of"
            " its kind in the samples; choose another criterion, or samples with an image."
        )
    parts = parted(chosen, scores.granularity)
    return DropPlan(
        drop=parts.layers,
        num_layers=scores.num_layers,
        criterion=scores.criterion,
        settings=scores.settings,
        attention=parts.attention,
        mlp=parts.mlp,
    )


def manual_plan(
    layers: Sequence[int],
    num_layers: int,
    protected: Sequence[int] = (),
    *,
    attention: Sequence[int] = (),
    mlp: Sequence[int] = (),
) -> DropPlan:
    """A plan of one's own choice.

    layers: those to drop, 0-based.
    num_layers: layers of the model.
    protected: layers that must stay; the MLP of one may be skipped.
    attention, mlp: layers that stay and skip their attention, or their MLP.

    Raises InputError for a protected, repeated or missing layer, and for half of a dropped one.
    """
    must_stay = sorted({*layers, *attention} & set(protected))
    if must_stay:
        raise InputError(
            f"Found the protected layers {must_stay} among those to drop; expected them to stay;"
            " leave them out."
        )
    return DropPlan(
        drop=tuple(layers),
        num_layers=num_layers,
        attention=tuple(attention),
        mlp=tuple(mlp),
    )
