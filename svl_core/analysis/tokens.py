"""Token sets: the positions of each sample on which a measure is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.importance import importance as score
from svl_core.errors import InputError
from svl_core.lvlm.spool import store_values
from svl_core.recipe import TOKEN_SETS

if TYPE_CHECKING:
    from svl_core.analysis.trace import Trace


def token_positions(
    trace: Trace,
    importance: TokenImportance | None = None,
    tokens: str = "important",
    top_p: TopP = TopP(),
) -> Sequence[np.ndarray]:
    """One increasing int array of positions per sample, kept where the trace is.

    "important": top-p of the visual and of the textual tokens, chosen apart by their TIS averaged
    over layers (computed with the defaults where `importance` is None); "all", "visual", "textual",
    "last" (the prompt's last position). A sample without image has no visual positions. Raises
    InputError for an unknown set.
    """
    if tokens not in TOKEN_SETS:
        raise InputError(
            f"Found the token set {tokens!r}; expected one of {', '.join(TOKEN_SETS)}; choose one."
        )
    if tokens == "important":
        importance = importance or score(trace)
        found = (
            _important(
                sample.visual,
                sample.textual,
                *importance.averaged(number),
                top_p,
            )
            for number, sample in enumerate(trace.samples)
        )
    else:
        found = (
            {
                "all": np.arange(sample.length),
                "visual": sample.visual,
                "textual": sample.textual,
                "last": np.array([sample.length - 1]),
            }[tokens]
            for sample in trace.samples
        )
    return store_values(found, len(trace.samples), trace.spool)


def _important(visual, textual, visual_scores, text_scores, top_p: TopP) -> np.ndarray:
    return np.sort(
        np.concatenate(
            [
                visual[top_p.select(visual_scores)],
                textual[top_p.select(text_scores)],
            ]
        )
    )
