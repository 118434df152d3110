"""What figures are drawn from, and the measures that several of them share.

Nothing here runs a model: everything is derived from the stored trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import svl_core as svl
from svl_core.analysis.ranking import top_p_of
from svl_core.pruning.selectors import acts
from svl_core.service.calibration import CalibrationSources
from svl_core.service.derived import importance_of, tokens_key
from svl_core.service.stores import Analysis, PrunedTrace
from svl_core.service.words import Words
from svl_core.service.workspace import Workspace
from svl_core.ui.state.settings import Settings

Update = dict[str, object]
"""What a handler returns: component name -> value; what is left out stays as it is."""


@dataclass(frozen=True, eq=False)
class View:
    """One state of the page, as its figures are drawn from it.

    workspace: the models and the stored results.
    state: which analysis: model, key, path, prompt, origin.
    settings: the controls.
    strip: the layers, see `strip_value`.
    focus: the patch or the word that was picked, if any.
    truth: right answers by question.
    answered: whether answers are shown.
    picked: the "head" (layer and head) and the "patch" that were picked for a word, if any.
    at_hand: the analysis, for work that holds it; else the stored one, made anew where the store
        has dropped it, and then without the answers.
    """

    workspace: Workspace
    state: Mapping
    settings: Settings
    strip: dict | None = None
    focus: Mapping | None = None
    truth: Mapping | None = None
    answered: bool = True
    picked: Mapping | None = None
    at_hand: Analysis | None = None

    @cached_property
    def analysis(self) -> Analysis:
        """The image and prompt as the model sees them."""
        return self.at_hand or self.workspace.analysis_of(self.state)

    @cached_property
    def ranked(self) -> Analysis:
        """What the layers are ranked on."""
        return self.workspace.ranking_analysis(self.state, self.settings)

    @cached_property
    def sources(self) -> CalibrationSources:
        """What ranks the layers and what compensation is fitted on."""
        return self.workspace.sources(self.state["model"], self.settings)

    @cached_property
    def comparison(self) -> svl.Comparison | None:
        """Both models' answers to this plan, None until they answered."""
        if not self.answered or not self.strip:
            return None
        return self.workspace.comparison_of(self.analysis, self.strip, self.settings)

    @cached_property
    def pruned_trace(self) -> PrunedTrace | None:
        """What is kept of the pruned model's own trace, None until both models answered."""
        if not self.answered or not self.strip:
            return None
        return self.workspace.pruned_trace_of(self.analysis, self.strip, self.settings)

    @cached_property
    def words(self) -> Words | None:
        """What is read of both answers' words, None until both models answered."""
        comparison, strip = self.comparison, self.strip
        if comparison is None or strip is None:
            return None
        plan = svl.manual_plan(strip["drop"], len(strip["ids"]), strip["protected"])
        answers = comparison.full.token_ids, comparison.pruned.token_ids
        return Words(self.workspace, self.analysis, plan, self.settings, answers)

    @property
    def correct(self) -> str | None:
        """The right answer to the question, where it is known."""
        return (self.truth or {}).get(self.state["prompt"].strip())

    @property
    def layer_ids(self):
        """(L,) the layers' indices in the original model, 0-based."""
        return self.analysis.trace.layer_ids

    @property
    def fits(self) -> bool:
        """Whether compensation is fitted for this plan."""
        return self.settings.fits and bool(self.strip["drop"])

    def of_focus(self, kind: str) -> int | None:
        """The index of the picked "patch" or "word", None where none is picked."""
        return self.focus["index"] if self.focus and self.focus["kind"] == kind else None


# ------------------------------------------------------------------------ measures
def matrix_of(analysis: Analysis, settings: Settings, tokens: str) -> np.ndarray:
    """((L+1), (L+1)) cosines between the hidden states after every two layers."""
    return analysis.memoized(
        ("similarity", tokens, tokens_key(settings)),
        lambda: svl.similarity(
            analysis.trace,
            importance_of(analysis, settings),
            tokens,
            top_p=top_p_of(settings),
        ),
    )


def gap_of(shown: View) -> svl.GapCurve:
    """The gap that the plan tears open, on the important tokens."""
    analysis, settings, drop = shown.analysis, shown.settings, shown.strip["drop"]
    return analysis.memoized(
        ("gap", tuple(drop), tokens_key(settings)),
        lambda: svl.feature_gap(
            analysis.trace,
            drop,
            importance_of(analysis, settings),
            tokens="important",
            top_p=top_p_of(settings),
            spectra=False,
        ),
    )


def visual_kept(analysis: Analysis, settings: Settings) -> tuple[int, int] | None:
    """How many visual tokens there are and how many stay to the pruned model's last layer, which
    are all where layers only skip them; None where it reads them as the full model does.
    """
    count = len(analysis.sample.visual)
    if not acts(settings) or not count:
        return None
    if svl.SELECTORS[settings.visual_tokens].parts:
        return count, count
    kept = svl.TopP(settings.visual_share).select(np.arange(count))
    return count, int(kept.sum())


def places_of(sample: svl.Sample) -> np.ndarray:
    """(V, 4) the patches' rectangles in the first image, 0..1, NaN for those of other images."""
    return places_in(sample.geometry)


def places_in(geometry: svl.PatchGeometry) -> np.ndarray:
    """(V, 4) the same of a geometry."""
    first = (geometry.image_index == 0)[:, None]
    return np.where(first, geometry.rects, np.nan)


def patch_at(rects: np.ndarray, x: float, y: float) -> int | None:
    """The smallest of the patches at a place of the image, None where there is none.

    rects: (V, 4), see `places_of`.
    x, y: 0..1 of the image.
    """
    left, top, right, bottom = rects.T
    across = (left <= x) & (x < right)
    down = (top <= y) & (y < bottom)
    inside = np.flatnonzero(across & down)
    if not len(inside):
        return None
    areas = ((right - left) * (bottom - top))[inside]
    return int(inside[np.argmin(areas)])


def range_of(scores: np.ndarray) -> tuple[float, float]:
    """Colours' range: to the 99.5th percentile, so that one sink does not darken the rest."""
    if not scores.size:
        return 0.0, 1.0
    low, high = float(np.nanmin(scores)), float(np.nanquantile(scores, 0.995))
    return (low, high) if high > low else (low, float(np.nanmax(scores)) + math.ulp(1.0))


def figure(drawn, alt: str) -> dict:
    """A plotly figure as the value of `parts.plot`."""
    return {"figure": drawn.to_json(), "alt": alt}
