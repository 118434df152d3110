"""Where models compute.

`Bench` does it in this process, one request at a time; `zero.ZeroBench` borrows a GPU for each
request.

Arguments and results are values of the line (samples, plans, traces, comparisons), so that either
bench can take them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import svl_core as svl
from svl_core.errors import Cancelled
from svl_core.lvlm.stopping import stoppable
from svl_core.ui.service import tasks
from svl_core.ui.service.limits import Limits, on_zero_gpu
from svl_core.ui.service.store import Bounded, Models
from svl_core.ui.state import grounds
from svl_core.ui.state.settings import Settings

Tell = Callable[..., None]  # tell(text, share=None): what is being done, and how much of it is
Show = Callable[
    [Sequence, Sequence[int]], None
]  # show(answers of (full, pruned), those still growing)


def load_options(name: str) -> dict[str, str]:
    """For `svl.load` in the page's process, where its defaults will not do."""
    if on_zero_gpu():
        from svl_core.ui.service import zero

        return zero.load_options(name)
    return {}


def bench_for(models: Models, world: frozenset[str], limits: Limits) -> Bench:
    """The bench that suits this machine."""
    if on_zero_gpu():
        from svl_core.ui.service.zero import ZeroBench

        return ZeroBench(models, world, limits)
    return Bench(models, world, limits)


class Bench:
    """Work with a model's weights.

    Every method takes the model's name, raises Cancelled once `cancel` is set, even within a pass,
    and changes no model.
    """

    def __init__(
        self, models: Models, world: frozenset[str] = frozenset(), limits: Limits = Limits()
    ) -> None:
        self.models, self.world, self.limits = models, world, limits
        self.sets = Bounded(4, 2 * grounds.MOST_BYTES)  # traces of sets of samples

    # ------------------------------------------------------------------ what pages ask for
    def trace(
        self, name: str, sample: svl.Sample, tell: Tell, cancel: threading.Event
    ) -> svl.Trace:
        """One forward pass over one sample."""
        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            return svl.trace(
                lvlm, [_beside(lvlm, sample)], progress=told(tell, "Analysing"), cancel=cancel
            )

    def traced(
        self,
        name: str,
        samples: Sequence[svl.Sample],
        mlp: bool,
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.Trace:
        """The trace of a set of samples, stored for the next one who asks; mlp: with what lstsq
        needs.
        """
        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            return self._traced(name, lvlm, samples, mlp, tell, cancel)

    def rank(
        self,
        name: str,
        samples: Sequence[svl.Sample],
        trace: svl.Trace,
        criterion: str,
        protect_ends: bool,
        rounds: int | None,
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.LayerScores:
        """The layers by a criterion that runs the model; rounds: as in `redundancy`."""
        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            return svl.redundancy(
                trace,
                None,
                criterion,
                protect_ends=protect_ends,
                lvlm=lvlm,
                samples=[_beside(lvlm, each) for each in samples],
                rounds=rounds,
                progress=told(tell, svl.CRITERIA[criterion].title),
                cancel=cancel,
            )

    def choose(
        self,
        name: str,
        preset: str,
        samples: Sequence[svl.Sample],
        plans: Sequence[svl.DropPlan],
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.DropPlan:
        """Which plan leaves the answers nearest once compensated as the preset says."""
        from svl_core.comparison.ranks import choose_plan

        lvlm, chosen = self._lvlm(name), svl.PRESETS[preset]
        with self._turn(cancel, lvlm):
            traced = self._traced(
                name, lvlm, samples, svl.COMPENSATIONS[chosen.compensation].needs_mlp, tell, cancel
            )
            return choose_plan(
                lvlm,
                plans,
                chosen.compensation,
                [_beside(lvlm, each) for each in samples],
                settings={"top_p": chosen.top_p, **chosen.settings},
                traced=traced,
                progress=told(tell, "Trying the plans"),
                cancel=cancel,
            )

    def sweep(
        self,
        name: str,
        measured: Sequence[svl.Sample],
        fit: Sequence[svl.Sample],
        options: Mapping[str, Any],
        each: Callable[[Any], None],
        tell: Tell,
        cancel: threading.Event,
    ) -> Any:
        """`comparison.sweep.sweep` with `options`; others may use the models between its rows."""
        from svl_core.comparison.sweep import sweep

        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            return sweep(
                lvlm,
                [_beside(lvlm, one) for one in measured],
                [_beside(lvlm, one) for one in fit],
                each=each,
                progress=self._in_turns(tell, cancel),
                cancel=cancel,
                **options,
            )

    def ablate(
        self,
        name: str,
        samples: Sequence[svl.Sample],
        options: Mapping[str, Any],
        tell: Tell,
        cancel: threading.Event,
    ) -> Any:
        """`comparison.ablation.ablate` with `options`; others may use the models between its
        blocks.
        """
        from svl_core.comparison.ablation import ablate

        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            return ablate(
                lvlm,
                [_beside(lvlm, one) for one in samples],
                progress=self._in_turns(tell, cancel),
                cancel=cancel,
                **options,
            )

    def compare(
        self,
        name: str,
        sample: svl.Sample,
        plan: svl.DropPlan,
        now: Settings,
        fit: Sequence[svl.Sample],
        tell: Tell,
        show: Show,
        cancel: threading.Event,
    ) -> tuple[svl.Comparison, svl.Trace | None]:
        """Both models' answers, shown as they grow; what separates them; and the pruned model's own
        trace (None: nothing was dropped).

        fit: what compensation is fitted on.
        """
        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            sample = _beside(lvlm, sample)
            pruned = self._pruned(name, lvlm, fit, plan, now, tell, cancel)
            thin = svl.keep_visual(lvlm, sample, now.visual_share)
            with stoppable(pruned, cancel):

                def shown(answers, live):
                    show(answers, live)
                    if not live:
                        tell("Measuring how far apart they are …")

                result = svl.compare(
                    lvlm,
                    pruned,
                    sample,
                    max_new_tokens=now.max_new_tokens,
                    cancel=cancel,
                    show=shown,
                    pruned_sample=thin,
                )
                return result, svl.trace(pruned, [sample], cancel=cancel) if plan.drop else None

    def evaluate(
        self,
        name: str,
        questions: Sequence,
        plan: svl.DropPlan,
        now: Settings,
        fit: Sequence[svl.Sample],
        tell: Tell,
        cancel: threading.Event,
    ):
        """Marks of labelled questions: the full model's where nothing is dropped, else full and
        pruned, paired.
        """
        from svl_core.comparison.evaluation import PairedEvaluation

        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            full = svl.evaluate(
                lvlm,
                questions,
                data="scenes",
                max_new_tokens=now.max_new_tokens,
                progress=told(tell, "Asking the full model"),
                cancel=cancel,
            )
            if not plan.drop:
                return full
            pruned = self._pruned(name, lvlm, fit, plan, now, tell, cancel)
            with stoppable(pruned, cancel):
                return PairedEvaluation(
                    full,
                    svl.evaluate(
                        pruned,
                        questions,
                        data="scenes",
                        max_new_tokens=now.max_new_tokens,
                        progress=told(tell, "Asking the pruned model"),
                        cancel=cancel,
                    ),
                )

    def save(
        self,
        name: str,
        plan: svl.DropPlan,
        now: Settings,
        fit: Sequence[svl.Sample],
        folder: Path,
        tell: Tell,
        cancel: threading.Event,
    ) -> Path:
        """Writes the pruned model as a checkpoint into a new folder."""
        lvlm = self._lvlm(name)
        with self._turn(cancel, lvlm):
            pruned = self._pruned(name, lvlm, fit, plan, now, tell, cancel)
            tell("Writing the checkpoint …")
            return pruned.save(folder)

    def relieve(self) -> None:
        """Forget everything that can be computed or loaded again."""
        self.sets.clear()
        self.models.shed()

    # ------------------------------------------------------------------ the parts
    def _in_turns(self, tell: Tell, cancel: threading.Event) -> Callable[[float, str], None]:
        """Progress of long work that lets others have the models each time it reports."""

        def report(share: float, what: str) -> None:
            tell(what, share)
            self.models.busy.release()
            time.sleep(0.001)  # a lock let go and taken again at once reaches nobody else
            while not self.models.busy.acquire(timeout=tasks.BEAT):
                pass  # the turn is this thread's to give back, cancelled or not
            if cancel.is_set():
                raise Cancelled("Stopped.")

        return report

    def _lvlm(self, name: str) -> svl.LVLM:
        return self.models.request(name).result()

    @contextmanager
    def _turn(self, cancel: threading.Event, *lvlms: svl.LVLM) -> Iterator[None]:
        """Wait for the models, but not past `cancel`; passes through `lvlms` then end with it."""
        while not self.models.busy.acquire(timeout=tasks.BEAT):
            if cancel.is_set():
                raise Cancelled("Stopped.")
        try:
            with ExitStack() as stack:
                for lvlm in lvlms:
                    stack.enter_context(stoppable(lvlm, cancel))
                yield
        finally:
            self.models.busy.release()

    def _traced(
        self,
        name: str,
        lvlm: svl.LVLM,
        samples: Sequence[svl.Sample],
        mlp: bool,
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.Trace:
        key = set_key(name, samples)
        held = self.sets.get(key)
        if held is not None and (held.samples[0].mlp is not None or not mlp):
            return held
        grounds.check_size(samples, lvlm.num_layers, lvlm.hidden_size, lvlm.dtype.itemsize, mlp)
        made = svl.trace(
            lvlm,
            [_beside(lvlm, each) for each in samples],
            mlp=mlp,
            progress=told(tell, "Reading the calibration set" if len(samples) > 1 else "Analysing"),
            cancel=cancel,
        )
        self.sets.put(key, made)
        return made

    def _pruned(
        self,
        name: str,
        lvlm: svl.LVLM,
        fit: Sequence[svl.Sample],
        plan: svl.DropPlan,
        now: Settings,
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.LVLM:
        if now.compensation == "none" or not plan.drop:
            return svl.prune(lvlm, plan)
        trace = self._traced(
            name, lvlm, fit, svl.COMPENSATIONS[now.compensation].needs_mlp, tell, cancel
        )
        tell("Fitting the compensation …")
        fitted = told(tell, "Fitting the compensation")
        importance = svl.importance(
            trace, causal_correction=now.causal_correction, text_self=now.text_self
        )
        return svl.prune(
            lvlm,
            plan,
            now.compensation,
            trace,
            importance,
            rank=now.rank,
            strength=now.strength,
            targets=("mlp", "attention") if now.attention_target else ("mlp",),
            top_p=svl.TopP(now.top_p, now.mode),
            progress=fitted,
            cancel=cancel,
        )


def set_key(name: str, samples: Sequence[svl.Sample]) -> tuple[str, tuple[str, ...]]:
    """A set by content: the model's name and its samples' keys."""
    return name, tuple(sample.key for sample in samples)


def told(tell: Tell, what: str) -> Callable[[float, str], None]:
    return lambda share, detail="": tell(f"{what} … {100 * share:.0f} %", share)


def paced(tell: Tell, pace: tasks.Pace | None = None) -> Tell:
    """`tell` with the time that is left behind its words, once the pace can be told."""
    pace = pace or tasks.Pace()

    def tell_paced(text: str, share: float | None = None) -> None:
        left = pace.left(share)
        tell(text if left is None else f"{text}; about {tasks.duration(left)} left", share)

    return tell_paced


def _beside(lvlm: svl.LVLM, sample: svl.Sample) -> svl.Sample:
    """`sample` with its inputs on the model's device."""
    if all(value.device == lvlm.device for value in sample.inputs.values()):
        return sample
    return replace(
        sample, inputs={name: value.to(lvlm.device) for name, value in sample.inputs.items()}
    )
