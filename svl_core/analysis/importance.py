"""Token Importance Scores (TIS): how much each visual and textual token matters to the model
(paper, part (a) of the method figure).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np

from svl_core.errors import InputError
from svl_core.lvlm.spool import value_store

if TYPE_CHECKING:
    from svl_core.analysis.trace import SampleTrace, Trace

TEXT_SELF = ("received", "given")


@dataclass(frozen=True)
class TopP:
    """Which of n scored tokens count as important.

    p: share, above 0 and at most 1. mode "fraction": the best ceil(p n) tokens; "mass": the fewest
    tokens that hold a share p of the summed score. Ties go to the earlier token; at least one token
    is chosen when n > 0.
    """

    p: float = 0.5
    mode: Literal["fraction", "mass"] = "fraction"

    def __post_init__(self):
        if not 0 < self.p <= 1:
            raise InputError(
                f"Found a top-p of {self.p}; expected a share above 0 and at most 1; change it."
            )
        if self.mode not in ("fraction", "mass"):
            raise InputError(
                f"Found the top-p mode {self.mode!r}; expected 'fraction' or 'mass'; change it."
            )

    def select(self, scores: np.ndarray) -> np.ndarray:
        """(n,) scores >= 0 -> (n,) bool."""
        scores = np.asarray(scores, np.float64)
        chosen = np.zeros(len(scores), bool)
        if not len(scores):
            return chosen
        order = np.argsort(-scores, kind="stable")
        if self.mode == "fraction" or scores.sum() <= 0:
            count = int(np.ceil(round(self.p * len(scores), 9)))
        else:
            count = int(
                np.searchsorted(
                    np.cumsum(scores[order]),
                    self.p * scores.sum() * (1 - 1e-12),
                )
                + 1
            )
        chosen[order[: max(1, min(count, len(scores)))]] = True
        return chosen


@dataclass(frozen=True, eq=False)
class TokenImportance:
    """TIS of every sample: `visual[i]` (L, V) and `text[i]` (L, T), non-negative, one row a layer
    (NaN: a layer without self-attention); kept where the trace is.
    """

    visual: Sequence[np.ndarray]
    text: Sequence[np.ndarray]

    def __post_init__(self):
        for array in chain(self.visual, self.text):
            array.setflags(write=False)

    def layer(self, sample: int, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores of one layer: (V,), (T,)."""
        return self.visual[sample][layer], self.text[sample][layer]

    def averaged(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean over layers: (V,), (T,)."""
        return np.nanmean(self.visual[sample], axis=0), np.nanmean(self.text[sample], axis=0)


def importance(
    trace: Trace,
    *,
    causal_correction: bool = False,
    text_self: str = "received",
) -> TokenImportance:
    """TIS per layer (paper, section on token importance scores).

    Visual token j: the mean of (mean over visual queries i of A[i, j]) and (mean over textual
    queries of A[i, j]). Text token i: the mean of (mean over visual keys j of A[i, j]) and its part
    in the textual self-attention block: text_self "received": mean over textual queries of A[., i];
    "given": mean over textual keys of A[i, .].
    causal_correction: divide by the number of pairs that the causal mask leaves (off = as
    published: by all pairs). A half without tokens (no image, say) is left out.
    """
    if text_self not in TEXT_SELF:
        raise InputError(
            f"Found text_self={text_self!r}; expected one of {', '.join(TEXT_SELF)}; choose one."
        )
    visual, text = (value_store(len(trace.samples), trace.spool) for _ in range(2))
    for number, sample in enumerate(trace.samples):
        visual[number], text[number] = _sample(sample, causal_correction, text_self)
    return (
        TokenImportance(tuple(visual), tuple(text))
        if trace.spool is None
        else TokenImportance(visual, text)
    )


def _sample(sample: SampleTrace, corrected: bool, text_self: str) -> tuple[np.ndarray, np.ndarray]:
    stats = sample.attention
    n_visual = len(sample.visual)
    n_text = len(sample.textual)

    def mean(name: str, pairs: int) -> np.ndarray | None:
        total = getattr(stats, name)
        seen = getattr(stats, name + "_seen")
        if not pairs:
            return None
        return total / np.maximum(seen, 1) if corrected else total / pairs

    def halves(first: np.ndarray | None, second: np.ndarray | None, n: int) -> np.ndarray:
        given = [half for half in (first, second) if half is not None]
        return (
            np.mean(given, axis=0).astype(np.float32)
            if n
            else np.zeros((len(stats.text_to_text), 0), np.float32)
        )

    own = {"received": "text_from_text", "given": "text_to_text"}[text_self]
    return (
        halves(
            mean("visual_from_visual", n_visual),
            mean("visual_from_text", n_text),
            n_visual,
        ),
        halves(mean("text_to_visual", n_visual), mean(own, n_text), n_text),
    )
