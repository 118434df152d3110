"""Token sets: the positions of each sample on which a measure is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from svl_core.analysis.importance import DEFAULT_TOP_P, TokenImportance, TopP
from svl_core.analysis.importance import importance as token_importance
from svl_core.errors import InputError
from svl_core.lvlm.spool import store_values
from svl_core.recipe import TOKEN_SETS

if TYPE_CHECKING:
    from svl_core.analysis.trace import SampleTrace, Trace


def token_positions(
    trace: Trace,
    importance: TokenImportance | None = None,
    tokens: str = "important",
    top_p: TopP | float = DEFAULT_TOP_P,
) -> Sequence[np.ndarray]:
    """One increasing int array of positions per sample, kept where the trace is.

    importance: TIS of the traced samples (default: computed with its own defaults).
    tokens: "important", the top-p of the visual and of the textual tokens, chosen apart by their
        TIS averaged over layers; "all"; "visual", of which a sample without image has none;
        "textual"; "last", the prompt's last position.
    top_p: which tokens count as important, a `TopP` or its share.

    Raises InputError for an unknown set.
    """
    if tokens not in TOKEN_SETS:
        raise InputError(
            f"Found the token set {tokens!r}; expected one of {', '.join(TOKEN_SETS)}; choose one."
        )
    if tokens == "important":
        positions = _important(
            trace,
            importance or token_importance(trace),
            TopP.of(top_p),
        )
    else:
        positions = (_of_kind(sample, tokens) for sample in trace.samples)
    return store_values(
        positions,
        len(trace.samples),
        trace.spool,
    )


def _of_kind(
    sample: SampleTrace,
    tokens: str,
) -> np.ndarray:
    if tokens == "visual":
        return sample.visual
    if tokens == "textual":
        return sample.textual
    everything = np.arange(sample.length)
    return everything if tokens == "all" else everything[-1:]


def _important(
    trace: Trace,
    importance: TokenImportance,
    top_p: TopP,
) -> Iterator[np.ndarray]:
    for number, sample in enumerate(trace.samples):
        visual_scores, text_scores = importance.averaged(number)
        visual = sample.visual[top_p.select(visual_scores)]
        textual = sample.textual[top_p.select_text(text_scores)]
        yield np.sort(np.concatenate([visual, textual]))
