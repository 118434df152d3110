"""Command lines that repeat what the page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from svl_core.recipe import CALIBRATION, DEMO, DETAIL, HALF, OPTIONS, OWN, RANKING, THIS
from svl_core.ui.state.settings import Settings

IMAGE = "image.png"
"""What stands for the picture, which is the visitor's."""
OWN_FILES = "calibration/"
"""What stands for the visitor's own set."""
OUT = "pruned"


def prune_halves(
    state: Mapping,
    count: int,
    settings: Settings,
    source: str,
) -> str:
    """The line that prunes the halves of layers that the page's criterion takes.

    count: how many go.
    source: what ranks, `THIS`, `DEMO` or `OWN`.
    """
    words = ["svl", "prune", "--model", state["model"]]
    words += ["--granularity", HALF, "--drop", str(count)]
    words += _ranked(settings.at(state), source)
    words += _calibrated(state, source)
    words += ["--out", OUT]
    return shlex.join(words)


def _ranked(
    settings: Settings,
    source: str,
) -> list[str]:
    """Options of the ranking that are not the command's defaults."""
    words = []
    draws = source == DEMO or settings.criterion == "random"
    for name, value in settings.recipe.unusual().items():
        option = OPTIONS[name]
        unread = name == "seed" and not draws
        unread = unread or name == "calibration_size" and source != DEMO
        if option.group in (RANKING, CALIBRATION, DETAIL) and name != "calibration" and not unread:
            words += _typed(option.option, value)
    return words


def _typed(
    option: str,
    value: Any,
) -> list[str]:
    if isinstance(value, bool):
        return [option]  # whichever value is not the default
    return [option, str(value)]


def _calibrated(
    state: Mapping,
    source: str,
) -> list[str]:
    """What the layers are ranked on."""
    if source == OWN:
        return ["--calibration", OWN_FILES]
    words = ["--calibration", source]
    if source != THIS:
        return words
    if state["path"]:
        words += ["--image", IMAGE]
    return [*words, "--prompt", state["prompt"]]
