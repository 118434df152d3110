"""Importance corrected for position: what a visual token's place alone gives it is taken out.

Under a causal mask an early token is seen by more queries, each of which has fewer keys to share
its attention among, so scores fall along the sequence whatever the image shows.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svl_core.errors import InputError
from svl_core.files import stored_beside
from svl_core.lvlm.catalogue import DEMO, DEMO_PLACES

if TYPE_CHECKING:
    from svl_core.analysis.importance import TokenImportance
    from svl_core.analysis.trace import SampleTrace, Trace
    from svl_core.recipe import Recipe

STORED = "positions.json"
"""The file beside the bundled model's weights that holds its baseline."""


@dataclass(frozen=True, eq=False)
class PositionBaseline:
    """What the V visual tokens of a prompt owe to their places, layer by layer.

    visual: (L, V) in the unit of the scores; NaN for a layer without self-attention.
    samples: of a calibration set, whose mean it is; 0: it follows from the attention mask.
    """

    visual: np.ndarray
    samples: int = 0

    def __post_init__(self):
        self.visual.setflags(write=False)

    def corrected(self, scores: np.ndarray) -> np.ndarray:
        """Scores (L, V) less their baseline: 0 is what the place alone gives. Raises ValueError for
        another shape.
        """
        if scores.shape != self.visual.shape:
            raise ValueError(
                f"Found scores of shape {scores.shape}; expected {self.visual.shape}, as the"
                " baseline has."
            )
        return scores - self.visual

    @property
    def in_words(self) -> str:
        """What is taken out, as the end of a sentence."""
        if self.samples:
            return (
                f"what each place gets on average over {self.samples} scenes of a calibration set"
            )
        return "what the attention mask alone gives each place, fitted to this image"


def position_baseline(
    trace: Trace,
    importance: TokenImportance,
    *,
    sample: int = 0,
    calibration: TokenImportance | None = None,
    causal_correction: bool = False,
) -> PositionBaseline:
    """What the places of a sample's visual tokens alone give them.

    With a calibration set, the mean of its scores. Without one it follows from the attention mask:
    each half of the score (received from visual, from textual queries) is computed for attention
    that is even over all keys that a query sees, and in each layer the sum of both, each times a
    number, that is nearest to the scores by least squares is the baseline. So even attention has
    none of it left, and attention without a mask over the image only loses its mean.

    trace: the model's passes.
    importance: TIS of the trace.
    sample: which of its samples.
    calibration: TIS of other samples with visual tokens at the same places.
    causal_correction: whether `importance` was made with it.

    Raises InputError for a calibration set with other numbers of visual tokens.
    """
    scores = importance.visual[sample]
    if calibration is not None:
        return _mean_of(calibration, scores.shape)
    halves = _even_halves(trace.samples[sample], causal_correction)
    return PositionBaseline(_nearest(halves, scores))


def baseline_of(
    trace: Trace,
    importance: TokenImportance,
    recipe: Recipe,
) -> PositionBaseline:
    """`position_baseline` of a trace's first sample, the bundled model's from its stored mean.

    recipe: how `importance` weighs attention.
    """
    correction = recipe.causal_correction
    stored = _bundled(correction) if trace.model_name == DEMO else None
    if stored is not None and stored.visual.shape == importance.visual[0].shape:
        return stored
    return position_baseline(trace, importance, causal_correction=correction)


def stored_baseline(
    folder: str | Path,
    causal_correction: bool = False,
) -> PositionBaseline | None:
    """The baseline beside a checkpoint; None where there is none or the weights are others by
    now.
    """
    data = stored_beside(folder, STORED)
    if data is None:
        return None
    name = "causally corrected" if causal_correction else "as published"
    try:
        return PositionBaseline(np.array(data["mean"][name], np.float32), int(data["samples"]))
    except (ValueError, KeyError, TypeError):
        return None


@functools.cache
def _bundled(causal_correction: bool) -> PositionBaseline | None:
    found = (stored_baseline(place, causal_correction) for place in DEMO_PLACES)
    return next(filter(None, found), None)


def _mean_of(
    calibration: TokenImportance,
    shape: tuple[int, ...],
) -> PositionBaseline:
    """The mean of a set's scores, each of this shape."""
    total = np.zeros(shape)
    count = len(calibration.visual)
    for scores in calibration.visual:
        if scores.shape != shape:
            raise InputError(
                f"Found a calibration sample of {scores.shape[1]} visual tokens; expected"
                f" {shape[1]}, as the image has; choose images of its size."
            )
        total += scores
    return PositionBaseline((total / count).astype(np.float32), count)


def _even_halves(
    sample: SampleTrace,
    causal_correction: bool,
) -> np.ndarray:
    """(1 or 2, L, V): both halves of the score under even attention, one without words."""
    statistics = sample.attention
    halves = []
    for name, queries in (
        ("visual_from_visual", len(sample.visual)),
        ("visual_from_text", len(sample.textual)),
    ):
        if not queries:
            continue
        even = getattr(statistics, f"{name}_even")
        seen = np.maximum(getattr(statistics, f"{name}_seen"), 1)
        halves.append(even / (seen if causal_correction else queries))
    return np.stack(halves).astype(np.float64)


def _nearest(
    halves: np.ndarray,
    scores: np.ndarray,
) -> np.ndarray:
    """(L, V): in each layer the sum of the halves (n, L, V), each times a number, that is nearest
    to the scores (L, V).
    """
    nearest = np.full(scores.shape, np.nan, np.float32)
    for layer in range(len(scores)):
        columns = halves[:, layer].T
        if np.isfinite(scores[layer]).all() and len(columns):
            weights = np.linalg.lstsq(columns, scores[layer].astype(np.float64), rcond=None)[0]
            nearest[layer] = columns @ weights
    return nearest
