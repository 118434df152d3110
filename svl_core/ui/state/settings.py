"""The page's controls as one validated value: a `Recipe`, and what is only displayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from svl_core.errors import InputError
from svl_core.recipe import AUTO, FULL, OPTIONS, TOKEN_SETS, Option
from svl_core.service.settings import VisitorSettings
from svl_core.service.words import Word

DISPLAY = "what the page shows"
CORRECTED, PUBLISHED = MAPS = ("corrected", "published")
MOST_SCENES = 4096  # samples of the bundled set that a link may ask for

PLAN = ("drop", "layers", "granularity", "drop_attention", "drop_mlp", "preset")
"""Fields of a recipe that the page's strip holds, not its controls; halves of layers follow from
the strip in their own fold (`steps/halves.py`), and no link carries them.
"""


def _displayed(default: Any, label: str, help: str, **more: Any) -> Any:
    """A field of `Settings` that no pruned model depends on, with what `Option` says of it."""
    metadata = {"label": label, "help": help, "group": DISPLAY, **more}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings(VisitorSettings):
    """What the controls say.

    The fields of `Recipe`, of which the page begins with its own defaults, and those that only
    change what is displayed. Raises InputError for a value that is not accepted.
    """

    detail: str = AUTO
    compensation: str = "scp"
    calibration: str = AUTO
    calibration_size: int = 32
    seed: int = 7

    all_layers: bool = _displayed(
        True, "the average over layers", "importance averaged over the layers, else of one alone"
    )
    layer: int = _displayed(0, "the layer", "the layer whose importance is shown", low=0)
    map: str = _displayed(
        CORRECTED, "the map", "importance corrected for position, or as published", choices=MAPS
    )
    opacity: float = _displayed(
        0.55, "the opacity", "of the importance over the image", low=0, high=1
    )
    token_set: str = _displayed(
        "important", "the token set", "tokens of the similarity heatmap", choices=TOKEN_SETS
    )
    max_new_tokens: int = _displayed(
        64, "the answer length", "tokens of an answer, at most", low=1, high=512
    )
    word: str = _displayed(
        "", "the word", "of an answer that is looked at, such as full-0 or pruned-2"
    )
    own: str = _displayed("", "the visitor's set", "digest of the visitor's own files, if any")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, option in DISPLAYED.items():
            object.__setattr__(self, name, option.checked(getattr(self, name)))
        if self.word and Word.of(self.word) is None:
            raise InputError(
                f"Found the word {self.word[:20]!r}; expected the model that says it and its place"
                " from 0, such as full-0 or pruned-2; change it."
            )
        if self.calibration_size > MOST_SCENES:
            raise InputError(
                f"Found {self.calibration_size} samples of the bundled set; expected 1 to"
                f" {MOST_SCENES}; move the slider."
            )

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings of the given fields; None stands for a field's default.

        Raises InputError for a name that is no field.
        """
        unknown = [name for name in values if name not in ACCEPTED]
        if unknown:
            raise InputError(
                f"Found the setting {unknown[0]!r}; expected one of {', '.join(ACCEPTED)};"
                " correct it."
            )
        return cls(**{name: value for name, value in values.items() if value is not None})

    def at(self, state: Mapping) -> Settings:
        """The same settings with the detail that the analysis of a state was read in."""
        detail = state.get("detail", FULL if self.detail == AUTO else self.detail)
        return self.changed(detail=detail)

    def changed(self, **values: Any) -> Settings:
        """The same settings with other values of some fields. Raises InputError."""
        return replace(self, **values)


DISPLAYED: Mapping[str, Option] = MappingProxyType(
    {
        shown.name: Option(
            name=shown.name, kind=type(shown.default), default=shown.default, **shown.metadata
        )
        for shown in fields(Settings)
        if shown.name not in OPTIONS
    }
)
"""What each field that is only displayed accepts, by its name."""

ACCEPTED: Mapping[str, Option] = MappingProxyType({**OPTIONS, **DISPLAYED})
"""What each field of `Settings` accepts, by its name."""

DEFAULTS = Settings()
"""The settings that the page begins with."""
