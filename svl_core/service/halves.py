"""What the page shows of halves of layers: how redundant each is, which would go in the place of
whole layers, and what the model answers without them.

Each is found once for all sessions, and kept with the analysis that it follows from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import svl_core as svl
from svl_core.errors import InputError
from svl_core.progress import QUIET, Run
from svl_core.recipe import HALVES
from svl_core.service.backend import Show, show_nothing
from svl_core.service.derived import tokens_key
from svl_core.service.settings import VisitorSettings
from svl_core.service.stores import Analysis
from svl_core.service.workspace import Workspace

TOKENS: Mapping[str, str] = {
    "svl-all": "all",
    "svl-visual": "visual",
    "svl-textual": "textual",
    "svl-last": "last",
    "shortgpt": "all",
}
"""The token set over which a criterion averages the cosines of halves, where it is not the
important ones.
"""


@dataclass(frozen=True, eq=False)
class Halves:
    """The halves of layers on one question, under a plan of whole layers.

    workspace: where the models are.
    analysis: of the question.
    ranked: what layers are ranked on; the same for this image alone.
    settings: how they are ranked.
    layers: how many go; two halves may go for each.
    """

    workspace: Workspace
    analysis: Analysis
    ranked: Analysis
    settings: VisitorSettings
    layers: int

    @property
    def criterion(self) -> svl.Criterion:
        """What ranks."""
        return svl.CRITERIA[self.settings.criterion]

    @property
    def tokens(self) -> str:
        """The token set that the halves are measured on: the criterion's own, where it has one."""
        return TOKENS.get(self.criterion.name, "important")

    @property
    def ranks_at_once(self) -> bool:
        """Whether the ranking is known, or costs no pass beside the one that measures."""
        if self._known_ranking() is not None:
            return True
        criterion = self.criterion
        if not criterion.serves_halves or criterion.score is not None:
            return True
        return criterion.needs == "trace" and self.ranked is self.analysis

    # ------------------------------------------------------------------ what is known already
    def known_scores(self) -> svl.SublayerScores | None:
        """How redundant each half is."""
        return self.analysis.memo.get(self._scores_key)

    def known_plan(self) -> svl.DropPlan | None:
        """Which halves would go; None where the ranking gives no such plan, see `refusal`."""
        scores = self._known_ranking()
        return None if scores is None or self.refusal() else self._planned(scores)

    def refusal(self) -> str:
        """Why a known ranking gives no plan, in a sentence; "" where it does or is not known."""
        scores = self._known_ranking()
        if scores is not None:
            try:
                self._planned(scores)
            except InputError as refusal:
                return str(refusal)
        return ""

    def known_comparison(self) -> svl.Comparison | None:
        """What both models answer."""
        plan = self.known_plan()
        return None if plan is None else self.analysis.memo.get(self._compared_key(plan))

    # ------------------------------------------------------------------ what is found
    def scores(self, run: Run = QUIET) -> svl.SublayerScores:
        """One pass over the question. Raises InputError as `sublayers` does; Cancelled."""
        found = self.known_scores()
        if found is None:
            name = self.analysis.model
            self.workspace.load_model(name, run)
            found = self.workspace.backend.sublayers(
                name,
                self.analysis.trace,
                self.settings.recipe,
                self.tokens,
                run,
            )
            self.analysis.memo.put(self._scores_key, found)
        return found

    def plan(self, run: Run = QUIET) -> svl.DropPlan:
        """As many halves as the layers that go have, at most those that may go.

        Raises InputError for a criterion that measures no halves; Cancelled.
        """
        measured = self.known_scores() if self.ranked is self.analysis else None
        scores = self.workspace.rank_halves(
            self.ranked,
            self.settings,
            run,
            measured,
        )
        return self._planned(scores)

    def compare(
        self,
        run: Run = QUIET,
        show: Show = show_nothing,
    ) -> svl.Comparison:
        """Both models' answers, the pruned one's without these halves and uncompensated.

        show: shown the answers as they grow.

        Raises InputError as `plan` does; Cancelled.
        """
        plan = self.plan(run)
        compared = self.workspace.compare(
            self.analysis,
            plan,
            self._uncompensated,
            run,
            show,
        )
        self.analysis.memo.put(self._compared_key(plan), compared.comparison)
        return compared.comparison

    # ------------------------------------------------------------------ the parts
    def _known_ranking(self) -> svl.LayerScores | None:
        return self.workspace.cached_halves(self.ranked, self.settings)

    def _planned(self, scores: svl.LayerScores) -> svl.DropPlan:
        count = len(HALVES) * self.layers
        return svl.plan(scores, min(count, scores.most))

    @cached_property
    def _uncompensated(self) -> VisitorSettings:
        return self.settings.changed(compensation="none")

    @property
    def _scores_key(self) -> tuple:
        return "sublayers", self.tokens, tokens_key(self.settings)

    def _compared_key(self, plan: svl.DropPlan) -> tuple:
        settings = self._uncompensated
        made = plan.key, settings.key_prune, settings.max_new_tokens
        return "halves", *made
