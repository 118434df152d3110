"""Token Importance Scores (TIS): how much each visual and textual token matters to the model
(paper, part (a) of the method figure).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.errors import InputError
from svl_core.lvlm.spool import value_store
from svl_core.notebook import Shown
from svl_core.recipe import TEXT_ENDS

if TYPE_CHECKING:
    from svl_core.analysis.trace import SampleTrace, Trace

TEXT_SELF = ("received", "given")
SCORED, SINK_AWARE = TEXT_ENDS


@dataclass(frozen=True)
class TopP:
    """Which of n scored tokens count as important.

    Ties go to the earlier token; at least one token is chosen when n > 0.

    p: share, above 0 and at most 1.
    mode: "fraction", the best ceil(p n) tokens; "mass", the fewest tokens that hold a share p of
        the summed score.
    text_ends: the first and the last text token of a prompt: "scored", as every other one;
        "sink-aware", the first, on which attention rests whatever it says, never counts, and the
        last, from which the answer is predicted, always does.

    Raises InputError for a value out of range.
    """

    p: float = 0.5
    mode: str = "fraction"
    text_ends: str = SCORED

    def __post_init__(self):
        if not 0 < self.p <= 1:
            raise InputError(
                f"Found a top-p of {self.p}; expected a share above 0 and at most 1; change it."
            )
        if self.mode not in ("fraction", "mass"):
            raise InputError(
                f"Found the top-p mode {self.mode!r}; expected 'fraction' or 'mass'; change it."
            )
        if self.text_ends not in TEXT_ENDS:
            raise InputError(
                f"Found the text ends {self.text_ends!r}; expected one of {', '.join(TEXT_ENDS)};"
                " change it."
            )

    @classmethod
    def of(cls, value: TopP | float) -> TopP:
        """The value itself, or the one of that share. Raises InputError."""
        return value if isinstance(value, TopP) else cls(value)

    def select(self, scores: np.ndarray) -> np.ndarray:
        """Which tokens count: (n,) scores >= 0 -> (n,) bool."""
        scores = np.asarray(scores, np.float64)
        chosen = np.zeros(len(scores), bool)
        if not len(scores):
            return chosen
        order = np.argsort(-scores, kind="stable")
        total = scores.sum()
        if self.mode == "fraction" or total <= 0:
            count = int(np.ceil(round(self.p * len(scores), 9)))
        else:
            share = self.p * total * (1 - 1e-12)
            count = int(np.searchsorted(np.cumsum(scores[order]), share)) + 1
        count = max(1, min(count, len(scores)))
        chosen[order[:count]] = True
        return chosen

    def select_text(self, scores: np.ndarray) -> np.ndarray:
        """Which text tokens of one prompt count: (T,) scores >= 0, first token first -> (T,) bool.

        Sink-aware, p is a share of the tokens behind the first one, and the last one counts beside
        them where its score is too low. The only token of a prompt counts.
        """
        if self.text_ends == SCORED or len(scores) < 2:
            return self.select(scores)
        chosen = np.zeros(len(scores), bool)
        chosen[1:] = self.select(scores[1:])
        chosen[-1] = True
        return chosen


DEFAULT_TOP_P = TopP()


@dataclass(frozen=True, eq=False, repr=False)
class TokenImportance(Shown):
    """TIS of every sample; a row is one layer's, NaN for a layer without self-attention.

    visual: for each sample (L, V), non-negative.
    text: for each sample (L, T), non-negative.
    Both are in memory or in files, as the trace is.
    causal_correction, text_self: how attention was read, as for `importance`.
    """

    visual: Sequence[np.ndarray]
    text: Sequence[np.ndarray]
    causal_correction: bool = False
    text_self: str = "received"

    def __post_init__(self):
        for array in chain(self.visual, self.text):
            array.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        layers, visual = self.visual[0].shape
        return {
            "samples": len(self.visual),
            "layers": layers,
            "visual": visual,
            "text": self.text[0].shape[1],
        }

    def layer(
        self,
        sample: int,
        layer: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of one layer: (V,), (T,)."""
        return self.visual[sample][layer], self.text[sample][layer]

    def averaged(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean over layers: (V,), (T,)."""
        if not isinstance(self.visual, tuple):  # in a file, as the averages would have to be
            return self._average(sample)
        if sample not in self._averages:
            self._averages[sample] = self._average(sample)
        return self._averages[sample]

    @cached_property
    def _averages(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def _average(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        visual = np.nanmean(self.visual[sample], axis=0)
        text = np.nanmean(self.text[sample], axis=0)
        visual.setflags(write=False)
        text.setflags(write=False)
        return visual, text


def importance(
    trace: Trace,
    *,
    causal_correction: bool = False,
    text_self: str = "received",
) -> TokenImportance:
    """TIS per layer, from the head-averaged attention A (rows i = queries, columns j = keys).

    Visual token j: the mean of (mean over visual queries i of A[i, j]) and (mean over textual
    queries of A[i, j]). Text token i: the mean of (mean over visual keys j of A[i, j]) and its part
    in the textual self-attention block. A half without tokens (no image, say) is left out.

    trace: the model's passes.
    causal_correction: divide by the number of pairs that the causal mask leaves (off = as
        published: by all pairs).
    text_self: a text token's part in the textual block: "received", the mean over textual queries
        of A[., i]; "given", the mean over textual keys of A[i, .].

    Raises InputError for another `text_self`.
    Source: the paper's section on token importance scores.
    """
    if text_self not in TEXT_SELF:
        raise InputError(
            f"Found text_self={text_self!r}; expected one of {', '.join(TEXT_SELF)}; choose one."
        )
    count = len(trace.samples)
    visual = value_store(count, trace.spool)
    text = value_store(count, trace.spool)
    for number, sample in enumerate(trace.samples):
        scores = _SampleImportance(sample, causal_correction)
        visual[number] = scores.visual()
        text[number] = scores.text(text_self)
    reading = causal_correction, text_self
    if trace.spool is None:
        return TokenImportance(tuple(visual), tuple(text), *reading)
    return TokenImportance(visual, text, *reading)


class _SampleImportance:
    """TIS of one sample's tokens."""

    def __init__(self, sample: SampleTrace, causal_correction: bool):
        self.statistics = sample.attention
        self.causal_correction = causal_correction
        self.count = {"visual": len(sample.visual), "text": len(sample.textual)}
        self.layers = len(sample.attention.text_to_text)

    def visual(self) -> np.ndarray:
        """(L, V) float32."""
        return self._mean_of_halves(
            "visual",
            self._mean("visual_from_visual", "visual"),
            self._mean("visual_from_text", "text"),
        )

    def text(self, text_self: str) -> np.ndarray:
        """(L, T) float32."""
        textual = {"received": "text_from_text", "given": "text_to_text"}[text_self]
        return self._mean_of_halves(
            "text",
            self._mean("text_to_visual", "visual"),
            self._mean(textual, "text"),
        )

    def _mean(
        self,
        sums: str,
        others: str,
    ) -> np.ndarray | None:
        """A sum of `AttentionStatistics` as a mean over the other tokens; None without any."""
        pairs = self.count[others]
        if not pairs:
            return None
        total = getattr(self.statistics, sums)
        if self.causal_correction:
            return total / np.maximum(getattr(self.statistics, sums + "_seen"), 1)
        return total / pairs

    def _mean_of_halves(self, tokens: str, *halves: np.ndarray | None) -> np.ndarray:
        if not self.count[tokens]:
            return np.zeros((self.layers, 0), np.float32)
        present = [half for half in halves if half is not None]
        return np.mean(present, axis=0).astype(np.float32)
