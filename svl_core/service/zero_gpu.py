"""ZeroGPU Spaces: a GPU is lent for one call at a time, to a forked process.

The page's own process never touches CUDA: it keeps models on the CPU, reads images and prompts, and
draws. Each call names a model and carries packed values (`serialization`); the worker finds the
model in the memory it was forked with, or loads it from the disk where it is older than the model,
moves it to its GPU, and sends packed values back. What a worker stores stays there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import svl_core as svl
from svl_core.comparison.calibration import Pair
from svl_core.comparison.fidelity import Compared
from svl_core.comparison.pair import Known
from svl_core.errors import Cancelled, InputError, SVLError
from svl_core.lvlm.features import KnownFeatures
from svl_core.progress import QUIET, Run
from svl_core.recipe import FULL, Recipe
from svl_core.service import errors, tasks
from svl_core.service.backend import LocalBackend, Show, show_nothing
from svl_core.service.limits import HOME, Limits
from svl_core.service.serialization import pack, unpack
from svl_core.service.stores import Models

LENT_TASKS = ("trace", "compare")  # methods of `LocalBackend` that a call may name
LOCAL_MODELS = frozenset({"demo"})
"""Models small enough for the page's own CPU: answered at once, on nobody's GPU time."""

# What the estimate of a call's duration rests on; cautious figures for one half of an H200, not
# measured.
START_S = 5.0  # of a new worker
PASS_S = 0.3  # a forward pass of the smallest model
STEP_S = 0.04  # a decoding step of the smallest model
MOVED_GB_S = 1.5  # weights to the GPU
COMPUTED_TFLOPS = 20.0  # of forward passes
READ_GB_S = 300.0  # weights, at each decoding step
MARGIN = 1.5
SHORTEST_S = 10


def load_options(name: str) -> dict[str, str]:
    """For `svl.load` in the page's own process: on the CPU, in half precision as the GPU will want
    it.
    """
    return {"device": "cpu", "dtype": "auto" if name in LOCAL_MODELS else "bfloat16"}


@dataclass(frozen=True)
class Work:
    """How much a call computes.

    positions: of each forward pass. passes: forward passes. steps: decoding steps.
    """

    positions: int
    passes: int
    steps: int = 0


def seconds(weights_gb: float, work: Work) -> int:
    """GPU time to ask for: the worker's start, the weights' move, the work, and a margin.

    weights_gb: size of the weights in half precision, so that a pass computes weights_gb * 1e9
        operations a position.
    """
    once_s = START_S + weights_gb / MOVED_GB_S
    pass_s = PASS_S + weights_gb * 1e9 * work.positions / (COMPUTED_TFLOPS * 1e12)
    step_s = STEP_S + weights_gb / READ_GB_S
    total_s = once_s + work.passes * pass_s + work.steps * step_s
    return max(SHORTEST_S, math.ceil(MARGIN * total_s))


def _duration(call: dict) -> int:
    return call["seconds"]


class ZeroGpuBackend(LocalBackend):
    """`LocalBackend` whose work happens in a worker with a lent GPU, but for `local_models`."""

    def __init__(
        self,
        models: Models,
        limits: Limits = HOME,
        local_models: frozenset[str] = LOCAL_MODELS,
    ) -> None:
        import spaces  # imported by app.py before anything else

        super().__init__(models, limits)
        self.local_models = local_models
        self._in_worker: tuple[int, LocalBackend] | None = None  # its process and its backend

        def lent(call: dict) -> Iterator[dict]:
            yield from self._serve(call)

        self._lent = spaces.GPU(duration=_duration)(lent)

    def computes_here(self, name: str) -> bool:
        return name in self.local_models

    # ------------------------------------------------------------------ in the page's process
    def trace(self, name: str, sample: svl.Sample, run: Run = QUIET) -> svl.Trace:
        if name in self.local_models:
            return super().trace(name, sample, run)
        trace = self._remote("trace", name, (sample,), Work(sample.length, passes=1), run)
        samples = [replace(traced, sample=sample) for traced in trace.samples]
        return replace(trace, samples=tuple(samples))

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
        if name in self.local_models:
            return super().compare(
                name, sample, plan, recipe, fit, max_new_tokens, show, run, known, fitted
            )
        work = Work(sample.length, passes=6 + 2 * len(fit), steps=2 * max_new_tokens)
        values = sample, plan, recipe, tuple(fit), max_new_tokens
        comparison, trace = self._remote("compare", name, values, work, run, show)
        return Compared(comparison, None, trace)

    def encode(
        self,
        name: str,
        pairs: Sequence[Pair],
        known: KnownFeatures,
        run: Run = QUIET,
        detail: str = FULL,
        max_visual_tokens: int | None = None,
    ) -> tuple[svl.Sample, ...]:
        if name in self.local_models:
            return super().encode(name, pairs, known, run, detail, max_visual_tokens)
        lvlm, samples = self._lvlm(name).reading(detail, max_visual_tokens), []
        for image, prompt in pairs:  # this process has no accelerator to see them with
            run.check()
            samples.append(lvlm.encode(image, prompt))
        return tuple(samples)

    def traced(self, name: str, *rest, **options) -> svl.Trace:
        self._check_local(name)
        return super().traced(name, *rest, **options)

    def rank(self, name: str, *rest, **options) -> svl.LayerScores:
        self._check_local(name)
        return super().rank(name, *rest, **options)

    def sublayers(self, name: str, *rest, **options) -> svl.SublayerScores:
        self._check_local(name)
        return super().sublayers(name, *rest, **options)

    def choose(self, name: str, *rest, **options) -> svl.DropPlan:
        self._check_local(name)
        return super().choose(name, *rest, **options)

    def sweep(self, name: str, *rest, **options) -> Any:
        self._check_local(name)
        return super().sweep(name, *rest, **options)

    def ablate(self, name: str, *rest, **options) -> Any:
        self._check_local(name)
        return super().ablate(name, *rest, **options)

    def read_words(self, name: str, *rest, **options) -> Any:
        if name not in self.local_models:
            raise InputError(
                "Found words to be read of a model that borrows its GPU; expected one that computes"
                " here; choose the bundled model, or run the project on your own machine."
            )
        return super().read_words(name, *rest, **options)

    def evaluate(self, name: str, *rest, **options):
        self._check_local(name)
        return super().evaluate(name, *rest, **options)

    def save(self, name: str, *rest, **options) -> Path:
        self._check_local(name)
        return super().save(name, *rest, **options)

    def _check_local(self, name: str) -> None:
        """Raises InputError for a model that waits for a lent GPU: work on whole sets outlasts the
        loan.
        """
        if name not in self.local_models:
            raise InputError(
                "Found work on many samples for a model that borrows its GPU; expected a question"
                " at a time here; choose the bundled model, or run the project on your own machine."
            )

    def _remote(
        self,
        task: str,
        name: str,
        values: tuple,
        work: Work,
        run: Run,
        show: Show = show_nothing,
    ) -> Any:
        """A task of `LENT_TASKS` with a lent GPU.

        values: its arguments between the model's name and `run`.
        work: how much it computes, for the time to ask for.
        """
        weights_gb = self._lvlm(name).num_parameters * 2 / 1e9
        asked_s = min(seconds(weights_gb, work), math.ceil(self.limits.request_s))
        call = {"task": task, "model": name, "values": pack(values), "seconds": asked_s}
        run.report(None, f"Asking for a GPU, {asked_s} s …")
        with closing(self._lent(call)) as messages:
            for message in messages:
                run.check()
                kind, value = message["kind"], unpack(message["value"])
                if kind == "report":
                    run.report(*value)
                elif kind == "show":
                    show(*value)
                elif kind == "error":
                    raise _error(*value)
                elif kind == "done":
                    return value
        raise SVLError("Found no result from the GPU; expected one; ask again.")

    # ------------------------------------------------------------------ in the worker
    def _serve(self, call: dict) -> Iterator[dict]:
        """Messages {"kind": "beat" | "report" | "show" | "error" | "done", "value": packed}."""

        def work(task: tasks.Task) -> dict:
            if call["task"] not in LENT_TASKS:
                raise SVLError(
                    f"Found the task {call['task']!r}; expected one of {', '.join(LENT_TASKS)}."
                )
            method = getattr(self._worker_backend(), call["task"])
            run = Run(lambda *report: task.emit(_message("report", report)), task.cancel)
            options: dict[str, Any] = {"run": run}
            if call["task"] == "compare":
                options["show"] = lambda *shown: task.emit(_message("show", shown))
            result = _for_the_page(method(call["model"], *unpack(call["values"]), **options))
            return _message("done", result)

        try:
            for message in tasks.run(work, tasks.Jobs(), "worker", self.limits.request_s):
                yield message or _message("beat", None)
        except Exception as error:
            name = type(error).__name__
            if errors.out_of_memory(error):
                name = "MemoryError"
                self._in_worker = None
                errors.free_memory()
            yield _message("error", (name, str(error)))

    def _worker_backend(self) -> LocalBackend:
        """This worker's backend, with locks of its own: a fork copies locks as they were held."""
        if self._in_worker is None or self._in_worker[0] != os.getpid():
            torch.set_num_threads(1)  # OpenMP does not survive a fork
            self._in_worker = os.getpid(), _WorkerBackend(self.models.forked(), self.limits)
        return self._in_worker[1]


def _for_the_page(result: svl.Trace | Compared) -> Any:
    """What of a task's result travels: traces without their samples, which the page has."""
    if isinstance(result, Compared):
        return result.comparison, _for_the_page(result.pruned_trace)
    if isinstance(result, svl.Trace):
        samples = [replace(traced, sample=None, prompt=None) for traced in result.samples]
        return replace(result, samples=tuple(samples))
    return result


def _message(kind: str, value: Any) -> dict:
    return {"kind": kind, "value": pack(value)}


class _WorkerBackend(LocalBackend):
    """In the worker nothing stays from one call to the next, so nothing is kept for it."""

    keeps_prompts = False

    def _lvlm(self, name: str) -> svl.LVLM:
        lvlm = super()._lvlm(name)
        if torch.cuda.is_available() and lvlm.device.type == "cpu":
            lvlm.model.to("cuda")
        return lvlm


ERRORS = {error.__name__: error for error in (InputError, Cancelled, SVLError, MemoryError)}
"""Those that keep their type on the way back."""


def _error(name: str, text: str) -> Exception:
    return ERRORS[name](text) if name in ERRORS else RuntimeError(f"{name}: {text}")
