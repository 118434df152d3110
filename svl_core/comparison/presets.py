"""Presets: whole recipes by name (criterion, calibration, compensation and their settings), so that
one choice sets them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from svl_core.analysis.importance import TokenImportance, TopP
from svl_core.analysis.redundancy import CRITERIA, LayerScores, redundancy
from svl_core.errors import InputError
from svl_core.lvlm.sample import Sample
from svl_core.pruning.compensation import COMPENSATIONS

if TYPE_CHECKING:
    from svl_core.analysis.trace import Trace
    from svl_core.lvlm.model import LVLM
    from svl_core.pruning.plan import DropPlan


@dataclass(frozen=True)
class Preset:
    """A recipe. settings: options of `prune`; samples: calibration samples that it asks for (None:
    however many there are); rivals: criteria whose layers compete with those of `criterion`, each
    compensated, for the lowest held-out KL; ranked_on: samples at most on which criteria that run
    the model rank, for each costs many passes over them.
    """

    name: str
    title: str
    explanation: str
    criterion: str
    compensation: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    top_p: TopP = TopP()
    samples: int | None = None
    rivals: tuple[str, ...] = ()
    ranked_on: int = 32

    def __post_init__(self):
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def fit(
        self,
        lvlm: LVLM,
        samples: Sequence[Sample],
        *,
        spool: str | Path | None = None,
        progress: Callable[[float, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Fitted:
        """Traces the calibration samples; spool: as for `trace`.

        Raises InputError for none, Cancelled.
        """
        from svl_core.analysis.importance import importance
        from svl_core.analysis.trace import trace

        traced = trace(
            lvlm,
            samples,
            mlp=COMPENSATIONS[self.compensation].needs_mlp,
            spool=spool,
            progress=progress,
            cancel=cancel,
        )
        return Fitted(self, lvlm, samples, traced, importance(traced))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A preset on calibration samples of one model: its ranking, and pruned models for any plan."""

    preset: Preset
    lvlm: LVLM
    samples: Sequence[Sample]
    trace: Trace
    importance: TokenImportance

    def rank(
        self,
        criterion: str | None = None,
        *,
        seed: int = 0,
        rounds: int | None = None,
        progress: Callable[[float, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> LayerScores:
        """The layers by the preset's criterion (or another one); `rounds` as in `redundancy`."""
        name = criterion or self.preset.criterion
        samples = (
            self.samples[: self.preset.ranked_on]
            if CRITERIA[name].needs == "model"
            else self.samples
        )
        return redundancy(
            self.trace,
            self.importance,
            name,
            top_p=self.preset.top_p,
            seed=seed,
            lvlm=self.lvlm,
            samples=samples,
            rounds=rounds,
            progress=progress,
            cancel=cancel,
        )

    def choose(
        self,
        plans: Sequence[DropPlan],
        *,
        seed: int = 0,
        progress: Callable[[float, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> DropPlan:
        """The best of the criterion's and the rivals' plans, see `choose_plan`."""
        from svl_core.comparison.ranks import choose_plan

        return choose_plan(
            self.lvlm,
            plans,
            self.preset.compensation,
            self.samples,
            seed=seed,
            settings={"top_p": self.preset.top_p, **self.preset.settings},
            traced=self.trace,
            spool=self.trace.spool,
            progress=progress,
            cancel=cancel,
        )

    def plan(
        self,
        drop: int,
        *,
        seed: int = 0,
        rounds: int | None = None,
        progress: Callable[[float, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> DropPlan:
        """`drop` layers by the preset's criterion, or by whichever of it and its rivals does best.

        Raises InputError, Cancelled.
        """
        from svl_core.pruning.plan import plan

        plans = [
            plan(
                self.rank(name, seed=seed, rounds=rounds or drop, progress=progress, cancel=cancel),
                drop,
            )
            for name in (self.preset.criterion, *self.preset.rivals)
        ]
        return self.choose(plans, seed=seed, progress=progress, cancel=cancel)

    def prune(self, chosen: DropPlan) -> LVLM:
        """The model without the plan's layers, compensated as the preset says."""
        from svl_core.pruning.prune import prune

        return prune(
            self.lvlm,
            chosen,
            self.preset.compensation,
            self.trace,
            self.importance,
            top_p=self.preset.top_p,
            **self.preset.settings,
        )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        row.name: row
        for row in (
            Preset(
                "as-published",
                "SVL as published",
                "Short-LVLM, arXiv 2507.23362: layers by the cosine on important tokens, then SCP.",
                "svl",
                "scp",
            ),
            Preset(
                "best",
                "Best found",
                "The layers of SVL or of greedy KL, whichever leave the answers' distribution"
                " nearest once every later layer is refitted in closed form.",
                "svl",
                "refit",
                samples=512,
                rivals=("greedy-kl",),
            ),
        )
    }
)


def preset_of(name: str) -> Preset:
    """The registry's entry. Raises InputError for an unknown name, naming the valid ones."""
    if name not in PRESETS:
        raise InputError(
            f"Found the preset {name!r}; expected one of {', '.join(PRESETS)}; choose one."
        )
    return PRESETS[name]
