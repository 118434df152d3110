"""Where models compute: `LocalBackend` does it in this process, one request at a time.

`zero_gpu.ZeroGpuBackend` borrows a GPU for each request. Arguments and results are values of the
line (samples, plans, traces, comparisons), so that either backend can take them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import svl_core as svl
from svl_core.analysis.ranking import importance_of, rank_layers, top_p_of
from svl_core.lvlm.stopping import stoppable
from svl_core.progress import QUIET, Run
from svl_core.pruning.selectors import acts
from svl_core.recipe import FULL, Recipe
from svl_core.service import calibration
from svl_core.service.limits import HOME, Limits
from svl_core.service.stores import BoundedStore, Models, set_key
from svl_core.service.tasks import BEAT, in_percent

if TYPE_CHECKING:
    from svl_core.comparison.calibration import Pair
    from svl_core.comparison.fidelity import Compared
    from svl_core.comparison.pair import Known
    from svl_core.lvlm.features import KnownFeatures

Show = Callable[[Sequence, Sequence[int]], None]
"""Called with the answers of (full, pruned) and the indices of those that still grow."""

Prepare = Callable[[svl.Sample], svl.Sample]
"""Makes of a sample the one that a pruned model reads."""

SET_TRACES = 4  # traces of sets of samples that are stored
VIEWS, VIEW_BYTES = 4, 256 * 2**20  # pruned models that are kept, by what they hold of their own
Found = TypeVar("Found")
YIELD_S = 0.001  # a lock let go and taken again at once reaches nobody else


def show_nothing(answers: Sequence, growing: Sequence[int]) -> None:
    """Nobody watches the answers grow."""


@dataclass(frozen=True, eq=False)
class Both:
    """The full and the pruned model, each with what it reads.

    pruned: None where nothing is pruned.
    pruned_sample: what the pruned model reads, the same as `sample` but for fewer visual tokens.
    """

    full: svl.LVLM
    pruned: svl.LVLM | None
    sample: svl.Sample
    pruned_sample: svl.Sample


class LocalBackend:
    """Work with a model's weights, in this process.

    Every method takes the model's name, raises Cancelled once its `run` is cancelled, even within a
    forward pass, and changes no model.
    """

    keeps_prompts = True
    """Whether what a pass over a prompt leaves behind stays with its trace."""

    def __init__(self, models: Models, limits: Limits = HOME) -> None:
        self.models, self.limits = models, limits
        self.set_traces = BoundedStore(SET_TRACES, 2 * calibration.MOST_BYTES)
        self.views = BoundedStore(VIEWS, VIEW_BYTES)
        """Pruned views of the first model, for one word after the other is asked about."""

    def computes_here(self, name: str) -> bool:
        """Whether a model computes on the device where its weights lie."""
        return True

    # ------------------------------------------------------------------ what pages ask for
    def trace(self, name: str, sample: svl.Sample, run: Run = QUIET) -> svl.Trace:
        """One forward pass over one sample, which keeps what its answers begin with."""
        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            return svl.trace(
                lvlm,
                [_on_device(lvlm, sample)],
                keep_prompt=self.keeps_prompts,
                run=in_percent(run, "Analysing"),
            )

    def encode(
        self,
        name: str,
        pairs: Sequence[Pair],
        known: KnownFeatures,
        run: Run = QUIET,
        detail: str = FULL,
        max_visual_tokens: int | None = None,
    ) -> tuple[svl.Sample, ...]:
        """Samples of (image, prompt) pairs, each image seen once.

        known: features of images that have been seen before.
        detail, max_visual_tokens: how closely the images are looked at.
        """
        from svl_core.comparison.calibration import encode_all

        lvlm = self._lvlm(name).reading(detail, max_visual_tokens)
        with self._turn(run, lvlm):
            return tuple(encode_all(lvlm, pairs, known=known, run=self._giving_way(run)))

    def traced(
        self, name: str, samples: Sequence[svl.Sample], mlp: bool, run: Run = QUIET
    ) -> svl.Trace:
        """The trace of a set of samples, stored for the next one who asks.

        mlp: whether with what compensations that fit the MLP need.
        """
        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            return self._traced(name, lvlm, samples, mlp, run)

    def rank(
        self,
        name: str,
        samples: Sequence[svl.Sample],
        trace: svl.Trace,
        recipe: Recipe,
        run: Run = QUIET,
        halves: svl.SublayerScores | None = None,
    ) -> svl.LayerScores:
        """The layers by the recipe's criterion, one that runs the model.

        samples: those that the model is run on, the first of the traced ones.
        halves: what is known of the halves of the one traced sample.
        """
        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            return rank_layers(
                recipe,
                trace,
                lvlm=lvlm,
                samples=_all_on_device(lvlm, samples),
                halves=halves,
                run=in_percent(run, svl.CRITERIA[recipe.criterion].title),
            )

    def sublayers(
        self,
        name: str,
        trace: svl.Trace,
        recipe: Recipe,
        tokens: str,
        run: Run = QUIET,
    ) -> svl.SublayerScores:
        """How redundant each half of a layer is on the traced samples, in one pass over each.

        tokens: the token set that is measured on.
        """
        lvlm = self._lvlm(name)
        weights = importance_of(trace, recipe)
        with self._turn(run, lvlm):
            return svl.sublayers(
                lvlm,
                trace,
                weights,
                tokens=tokens,
                top_p=top_p_of(recipe),
                run=in_percent(run, "Measuring the halves of layers"),
            )

    def choose(
        self,
        name: str,
        preset: str,
        samples: Sequence[svl.Sample],
        plans: Sequence[svl.DropPlan],
        run: Run = QUIET,
    ) -> svl.DropPlan:
        """Which plan leaves the answers nearest once compensated as the preset says."""
        from svl_core.comparison.selection import choose_plan

        lvlm, recipe = self._lvlm(name), svl.PRESETS[preset].recipe
        needs_mlp = svl.COMPENSATIONS[recipe.compensation].needs_mlp
        with self._turn(run, lvlm):
            return choose_plan(
                lvlm,
                plans,
                recipe,
                _all_on_device(lvlm, samples),
                traced=self._traced(name, lvlm, samples, needs_mlp, run),
                run=in_percent(run, "Trying the plans"),
            )

    def sweep(
        self,
        name: str,
        measured: Sequence[svl.Sample],
        fit: Sequence[svl.Sample],
        recipe: Recipe,
        options: Mapping[str, Any],
        each: Callable[[Any], None],
        run: Run = QUIET,
    ) -> Any:
        """`comparison.sweep.sweep` with `options`; others may use the models between its rows.

        recipe: the settings that all rows share.
        each: called with the sweep so far after every row.
        """
        from svl_core.comparison.sweep import sweep

        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            return sweep(
                lvlm,
                _all_on_device(lvlm, measured),
                _all_on_device(lvlm, fit),
                recipe,
                each=each,
                run=self._giving_way(run),
                **options,
            )

    def ablate(
        self,
        name: str,
        samples: Sequence[svl.Sample],
        options: Mapping[str, Any],
        run: Run = QUIET,
    ) -> Any:
        """`comparison.ablation.ablate` with `options`; others may use the models between its
        blocks.
        """
        from svl_core.comparison.ablation import ablate

        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            samples = _all_on_device(lvlm, samples)
            return ablate(lvlm, samples, run=self._giving_way(run), **options)

    def compare(
        self,
        name: str,
        sample: svl.Sample,
        plan: svl.DropPlan,
        recipe: Recipe,
        fit: Sequence[svl.Sample],
        max_new_tokens: int,
        show: Show = show_nothing,
        run: Run = QUIET,
        known: Known | None = None,
        fitted: svl.Trace | None = None,
    ) -> Compared:
        """Both models' answers and what separates them; and the pruned model's own trace (None:
        nothing was dropped).

        fit: what compensation is fitted on.
        max_new_tokens: of each answer.
        show: shown the answers as they grow.
        known: what is there already of the full model's side.
        fitted: the trace of `fit`, where it is there already.
        """
        from svl_core.comparison.fidelity import compare_known

        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            sample = _on_device(lvlm, sample)
            pruned = self._pruned(name, lvlm, fit, plan, recipe, run, fitted)
            traced = None if known is None else known.traced
            thinned = svl.thin(lvlm, sample, recipe, traced)

            def shown(answers: Sequence, growing: Sequence[int]) -> None:
                show(answers, growing)
                if not growing:
                    run.report(None, "Measuring how far apart they are …")

            with stoppable(pruned, run):
                compared = compare_known(
                    lvlm,
                    pruned,
                    sample,
                    known=known,
                    watched=plan.changes,
                    max_new_tokens=max_new_tokens,
                    show=shown,
                    pruned_sample=thinned,
                    run=run.silent(),
                )
                if plan.changes and compared.pruned_trace is None:
                    traced = svl.trace(pruned, [sample], run=run.silent())
                    compared = replace(compared, pruned_trace=traced)
        return compared

    def read_words(
        self,
        name: str,
        sample: svl.Sample,
        plan: svl.DropPlan | None,
        recipe: Recipe,
        fit: Sequence[svl.Sample],
        read: Callable[[Both, Run], Found],
        run: Run = QUIET,
        traced: svl.Trace | None = None,
        fitted: svl.Trace | None = None,
    ) -> Found:
        """What `read` finds of the full model and the pruned one; others may use the models each
        time it reports.

        plan: None where the full model alone is read.
        fit, fitted: see `compare`.
        traced: the full model's trace of the sample.
        """
        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            sample = _on_device(lvlm, sample)
            giving_way = self._giving_way(run)
            pruned, thinned = None, sample
            if plan is not None:
                thinned = svl.thin(lvlm, sample, recipe, traced)
            if plan is not None and (plan.changes or thinned is not sample):
                pruned = self._view(name, lvlm, fit, plan, recipe, run, fitted)
            both = Both(lvlm, pruned, sample, thinned)
            if pruned is None:
                return read(both, giving_way)
            with stoppable(pruned, run):
                return read(both, giving_way)

    def evaluate(
        self,
        name: str,
        questions: Sequence,
        plan: svl.DropPlan,
        recipe: Recipe,
        fit: Sequence[svl.Sample],
        max_new_tokens: int,
        run: Run = QUIET,
        alone: bool = False,
    ):
        """Marks of labelled questions: the full model's where nothing is dropped and no visual
        token thinned, else full and pruned, paired.

        alone: the marks of the one model that the plan makes, whatever it drops.
        """
        from svl_core.comparison.evaluation import PairedEvaluation
        from svl_core.lvlm.features import FeatureStore

        def marks(model: svl.LVLM, what: str, prepare: Prepare | None = None):
            return svl.evaluate(
                model,
                questions,
                data="scenes",
                max_new_tokens=max_new_tokens,
                prepare=prepare,
                known=seen,
                run=in_percent(run, what),
            )

        seen = FeatureStore()  # each image once for both models
        lvlm = self._lvlm(name).reading(recipe.detail, recipe.max_visual_tokens)
        with self._turn(run, lvlm):
            full = None
            changed = plan.changes or acts(recipe)
            if not alone or not changed:
                full = marks(lvlm, "Asking the full model")
            if full is not None and not changed:
                return full
            pruned = self._pruned(name, lvlm, fit, plan, recipe, run)
            with stoppable(pruned, run):
                asked = marks(
                    pruned,
                    "Asking the pruned model",
                    lambda sample: svl.thin(lvlm, sample, recipe),
                )
            return asked if full is None else PairedEvaluation(full, asked)

    def save(
        self,
        name: str,
        plan: svl.DropPlan,
        recipe: Recipe,
        fit: Sequence[svl.Sample],
        folder: Path,
        run: Run = QUIET,
    ) -> Path:
        """Writes the pruned model as a checkpoint into a new folder."""
        lvlm = self._lvlm(name)
        with self._turn(run, lvlm):
            pruned = self._pruned(name, lvlm, fit, plan, recipe, run)
            run.report(None, "Writing the checkpoint …")
            return pruned.save(folder)

    def relieve(self) -> None:
        """Forgets everything that can be computed or loaded again."""
        self.set_traces.clear()
        self.views.clear()
        self.models.shed()

    # ------------------------------------------------------------------ the parts
    def _giving_way(self, run: Run) -> Run:
        """The same run, which lets others have the models each time it reports."""

        def progress(share: float | None, what: str) -> None:
            run.report(share, what)
            self.models.busy.release()
            time.sleep(YIELD_S)
            while not self.models.busy.acquire(timeout=BEAT):
                pass  # the turn is this thread's to give back, cancelled or not
            run.check()

        return run.telling(progress)

    def _lvlm(self, name: str) -> svl.LVLM:
        return self.models.request(name).result()

    @contextmanager
    def _turn(self, run: Run, *lvlms: svl.LVLM) -> Iterator[None]:
        """Waits for the models, but not past `run`; passes through `lvlms` then end with it."""
        while not self.models.busy.acquire(timeout=BEAT):
            run.check()
        try:
            with ExitStack() as stack:
                for lvlm in lvlms:
                    stack.enter_context(stoppable(lvlm, run))
                yield
        finally:
            self.models.busy.release()

    def _traced(
        self,
        name: str,
        lvlm: svl.LVLM,
        samples: Sequence[svl.Sample],
        mlp: bool,
        run: Run,
    ) -> svl.Trace:
        key = set_key(name, samples)
        stored = self.set_traces.get(key)
        if stored is not None and (stored.samples[0].mlp is not None or not mlp):
            return stored
        bytes_per_value = lvlm.dtype.itemsize
        calibration.check_size(samples, lvlm.num_layers, lvlm.hidden_size, bytes_per_value, mlp)
        what = "Reading the calibration set" if len(samples) > 1 else "Analysing"
        samples = _all_on_device(lvlm, samples)
        trace = svl.trace(lvlm, samples, mlp=mlp, run=in_percent(run, what))
        self.set_traces.put(key, trace)
        return trace

    def _view(
        self,
        name: str,
        lvlm: svl.LVLM,
        fit: Sequence[svl.Sample],
        plan: svl.DropPlan,
        recipe: Recipe,
        run: Run,
        fitted: svl.Trace | None,
    ) -> svl.LVLM:
        """`_pruned`, kept for the next who asks; of the first model alone, for a view keeps its
        model in memory.
        """
        key = plan.key, recipe, set_key(name, fit)
        kept = self.views.get(key)
        if kept is not None:
            return kept
        pruned = self._pruned(name, lvlm, fit, plan, recipe, run, fitted)
        size = _own_bytes(lvlm, pruned)
        if name == self.models.first and size <= VIEW_BYTES:
            self.views.put(key, pruned, size)
        return pruned

    def _pruned(
        self,
        name: str,
        lvlm: svl.LVLM,
        fit: Sequence[svl.Sample],
        plan: svl.DropPlan,
        recipe: Recipe,
        run: Run,
        fitted: svl.Trace | None = None,
    ) -> svl.LVLM:
        """The model by the plan and the recipe. fitted: the trace of `fit`, if it is there."""
        if not plan.changes:
            return svl.prune(lvlm, plan)
        if not recipe.fits:
            return svl.prune(lvlm, plan, recipe)
        needs_mlp = svl.COMPENSATIONS[recipe.compensation].traces_mlp(recipe.targets)
        trace = fitted
        if trace is None or (needs_mlp and trace.samples[0].mlp is None):
            trace = self._traced(name, lvlm, fit, needs_mlp, run)
        run.report(None, "Fitting the compensation …")
        importance = importance_of(trace, recipe)
        fitting = in_percent(run, "Fitting the compensation")
        return svl.prune(lvlm, plan, recipe, trace, importance, run=fitting)


def _own_bytes(full: svl.LVLM, pruned: svl.LVLM) -> int:
    """Of the pruned model's weights, those that the full one has not got."""
    shared = {weights.data_ptr() for weights in full.model.parameters()}
    own = (weights for weights in pruned.model.parameters() if weights.data_ptr() not in shared)
    return sum(weights.nbytes for weights in own)


def _on_device(lvlm: svl.LVLM, sample: svl.Sample) -> svl.Sample:
    """`sample` with its inputs on the model's device."""
    if all(value.device == lvlm.device for value in sample.inputs.values()):
        return sample
    inputs = {name: value.to(lvlm.device) for name, value in sample.inputs.items()}
    return replace(sample, inputs=inputs)


def _all_on_device(lvlm: svl.LVLM, samples: Sequence[svl.Sample]) -> list[svl.Sample]:
    return [_on_device(lvlm, sample) for sample in samples]
