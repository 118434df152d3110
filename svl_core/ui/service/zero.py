"""ZeroGPU Spaces: a GPU is lent for one call at a time, to a forked process.

The page's own process never touches CUDA: it keeps models on the CPU, reads images and prompts, and
draws. Each call names a model and carries packed values (`border`); the worker finds the model in
the memory it was forked with, or loads it from the disk where it is older than the model, moves it
to its GPU, and sends packed values back. What a worker stores stays there.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import svl_core as svl
from svl_core.errors import Cancelled, InputError, SVLError
from svl_core.ui.service import border, guard, tasks
from svl_core.ui.service.bench import Bench, Show, Tell
from svl_core.ui.service.limits import Limits
from svl_core.ui.service.store import Models
from svl_core.ui.state.settings import Settings

TASKS = ("trace", "compare")  # of `Bench`, which a call may name
NEAR = frozenset(
    {"demo"}
)  # models small enough for the page's own CPU: answered at once, on nobody's GPU time

# What the estimate of a call's duration rests on; cautious figures for one half of an H200, not
# measured.
START_S, PASS_S, STEP_S = (
    5.0,
    0.3,
    0.04,
)  # a new worker; a forward pass and a decoding step of the smallest model
MOVED_GB_S, COMPUTED_TFLOPS, READ_GB_S = (
    1.5,
    20.0,
    300.0,
)  # weights to the GPU; passes; weights read at each step
MARGIN, SHORTEST_S = 1.5, 10


def load_options(name: str) -> dict[str, str]:
    """For `svl.load` in the page's own process: on the CPU, in half precision as the GPU will want
    it.
    """
    return {"device": "cpu", "dtype": "auto" if name in NEAR else "bfloat16"}


def seconds(weights_gb: float, positions: int, passes: int, steps: int) -> int:
    """GPU time to ask for: the worker's start, the weights' move, `passes` over `positions` each,
    `steps` of decoding, and a margin.

    weights_gb: size of the weights in half precision, so that a pass computes weights_gb * 1e9
    operations a position.
    """
    once = START_S + weights_gb / MOVED_GB_S
    work = passes * (PASS_S + weights_gb * 1e9 * positions / (COMPUTED_TFLOPS * 1e12)) + steps * (
        STEP_S + weights_gb / READ_GB_S
    )
    return max(SHORTEST_S, math.ceil(MARGIN * (once + work)))


def _duration(call: dict) -> int:
    return call["seconds"]


class ZeroBench(Bench):
    """`Bench` whose work happens in a worker with a GPU, but for the models in `near`."""

    def __init__(
        self,
        models: Models,
        world: frozenset[str] = frozenset(),
        limits: Limits = Limits(),
        near: frozenset[str] = NEAR,
    ) -> None:
        import spaces  # imported by app.py before anything else

        super().__init__(models, world, limits)
        self.near = near
        self._there: tuple[int, Bench] | None = None  # in a worker: its process and its own bench

        def lent(call: dict) -> Iterator[dict]:
            yield from self._serve(call)

        self._lent = spaces.GPU(duration=_duration)(lent)

    # ------------------------------------------------------------------ in the page's process
    def trace(
        self, name: str, sample: svl.Sample, tell: Tell, cancel: threading.Event
    ) -> svl.Trace:
        if name in self.near:
            return super().trace(name, sample, tell, cancel)
        made = self._far("trace", name, (sample,), sample.length, 1, 0, tell, None, cancel)
        return replace(made, samples=tuple(replace(each, sample=sample) for each in made.samples))

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
        if name in self.near:
            return super().compare(name, sample, plan, now, fit, tell, show, cancel)
        return self._far(
            "compare",
            name,
            (sample, plan, now, tuple(fit)),
            sample.length,
            6 + 2 * len(fit),
            2 * now.max_new_tokens,
            tell,
            show,
            cancel,
        )

    def traced(
        self,
        name: str,
        samples: Sequence[svl.Sample],
        mlp: bool,
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.Trace:
        self._check_near(name)
        return super().traced(name, samples, mlp, tell, cancel)

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
        self._check_near(name)
        return super().rank(name, samples, trace, criterion, protect_ends, rounds, tell, cancel)

    def choose(
        self,
        name: str,
        preset: str,
        samples: Sequence[svl.Sample],
        plans: Sequence[svl.DropPlan],
        tell: Tell,
        cancel: threading.Event,
    ) -> svl.DropPlan:
        self._check_near(name)
        return super().choose(name, preset, samples, plans, tell, cancel)

    def sweep(self, name: str, *rest) -> Any:
        self._check_near(name)
        return super().sweep(name, *rest)

    def ablate(self, name: str, *rest) -> Any:
        self._check_near(name)
        return super().ablate(name, *rest)

    def evaluate(self, name: str, *rest):
        self._check_near(name)
        return super().evaluate(name, *rest)

    def save(self, name: str, *rest) -> Path:
        self._check_near(name)
        return super().save(name, *rest)

    def _check_near(self, name: str) -> None:
        """Raises InputError for a model that waits for a lent GPU: work on whole sets outlasts the
        loan.
        """
        if name not in self.near:
            raise InputError(
                "Found work on many samples for a model that borrows its GPU; expected a question"
                " at a time here; choose the bundled model, or run the project on your own machine."
            )

    def _far(
        self,
        task: str,
        name: str,
        values: tuple,
        positions: int,
        passes: int,
        steps: int,
        tell: Tell,
        show: Show | None,
        cancel: threading.Event,
    ) -> Any:
        lvlm = self._lvlm(name)
        gigabytes = lvlm.num_parameters * 2 / 1e9
        asked = min(seconds(gigabytes, positions, passes, steps), math.ceil(self.limits.request_s))
        call = {"task": task, "model": name, "values": border.pack(values), "seconds": asked}
        tell(f"Asking for a GPU, {asked} s …")
        with closing(self._lent(call)) as messages:
            for message in messages:
                if cancel.is_set():
                    raise Cancelled("Stopped.")
                kind, value = message["kind"], border.unpack(message["value"])
                if kind == "tell":
                    tell(*value)
                elif kind == "show" and show is not None:
                    show(*value)
                elif kind == "error":
                    raise _error(*value)
                elif kind == "done":
                    return value
        raise SVLError("Found no result from the GPU; expected one; ask again.")

    # ------------------------------------------------------------------ in the worker
    def _serve(self, call: dict) -> Iterator[dict]:
        """Messages {"kind": "beat" | "tell" | "show" | "error" | "done", "value": packed}."""

        def work(emit, cancel):
            if call["task"] not in TASKS:
                raise SVLError(
                    f"Found the task {call['task']!r}; expected one of {', '.join(TASKS)}."
                )
            bench, values = self._own(), border.unpack(call["values"])
            shown = (lambda *value: emit(("show", value)),) if call["task"] == "compare" else ()
            return "done", getattr(bench, call["task"])(
                call["model"], *values, lambda *value: emit(("tell", value)), *shown, cancel
            )

        try:
            for item in tasks.run(work, tasks.Jobs(), "worker", self.limits.request_s):
                kind, value = item or ("beat", None)
                yield {"kind": kind, "value": border.pack(value)}
        except Exception as error:
            if guard.out_of_memory(error):
                self._there = None
                guard.free_memory()
            yield {
                "kind": "error",
                "value": border.pack(
                    (
                        "MemoryError" if guard.out_of_memory(error) else type(error).__name__,
                        str(error),
                    )
                ),
            }

    def _own(self) -> Bench:
        """This worker's bench, with locks of its own: a fork copies locks as they were held."""
        if self._there is None or self._there[0] != os.getpid():
            torch.set_num_threads(1)  # OpenMP does not survive a fork
            self._there = os.getpid(), _Worker(self.models.forked(), self.world, self.limits)
        return self._there[1]


class _Worker(Bench):
    def _lvlm(self, name: str) -> svl.LVLM:
        lvlm = super()._lvlm(name)
        if torch.cuda.is_available() and lvlm.device.type == "cpu":
            lvlm.model.to("cuda")
        return lvlm


def _error(name: str, text: str) -> Exception:
    known = {
        "InputError": InputError,
        "Cancelled": Cancelled,
        "SVLError": SVLError,
        "MemoryError": MemoryError,
    }
    return known[name](text) if name in known else RuntimeError(f"{name}: {text}")
