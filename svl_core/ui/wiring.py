"""From events to handlers: a handler returns {component name: value}, and the names that it leaves
out stay as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields

import gradio as gr

from svl_core.ui.errors import polite
from svl_core.ui.gradio_patches import update_marks
from svl_core.ui.handlers import RANKING, Desk
from svl_core.ui.state.settings import Settings

QUICK = {"concurrency_limit": 8, "show_progress": "hidden"}
CONTROLS = [field.name for field in fields(Settings)]


class Wiring:
    """The page's components by name, the groups of them that handlers read and write, and the
    chains that start the model's work.
    """

    def __init__(self, c: dict, desk: Desk) -> None:
        self.c, self.desk = c, desk
        self.controls = [c[name] for name in CONTROLS]
        self.heavy = {"concurrency_id": "model", "concurrency_limit": desk.limits.heavy_jobs}
        self.figures = [
            "plot-redundancy",
            "plot-similarity",
            "plot-gap",
            "plot-pca",
            "plot-blocks",
            "criteria",
            "plan-line",
            "link",
            "code-python",
            "code-plan",
            "code-mergekit",
            "calibration-note",
            "preset",
            "preset-note",
        ]
        self.look = ["overlay", "scale", "overlay-note", "tokens", "token-curve"]
        answers = ["answer-full", "answer-pruned", "metrics", "glance", "odds", "difference"]
        self.analysed = [
            "status",
            "model",
            "state",
            "strip",
            "focus",
            "wanted",
            "drop",
            "layer",
            "rank",
            "calibration",
            "sweep-most",
            *answers,
            *self.look,
            *self.figures,
        ]
        self.compared = ["status", *answers, "plot-pca"]
        self.look_in = [c["state"], c["focus"], *self.controls]
        self.plan_in = [c["state"], c["strip"], *self.controls]
        self.select_in = [c["state"], c["strip"], c["focus"], *self.controls]
        self.compare_in = [c["state"], c["strip"], c["truth"], *self.controls]

    def on(
        self,
        trigger: Callable,
        method: Callable,
        inputs: Sequence,
        outputs: Sequence[str],
        **options,
    ):
        """Attach a handler that returns {name: value}; it is no public endpoint."""
        return trigger(
            mapped(method, outputs, self.desk.limits.details),
            list(inputs),
            [self.c[name] for name in outputs],
            api_visibility="private",
            **{"show_progress": "hidden", **options},
        )

    def analyse(self, trigger: Callable):
        c = self.c
        inputs = [
            c["model"],
            c["image"],
            c["prompt"],
            c["state"],
            c["drop"],
            c["origin"],
            c["wanted"],
            *self.controls,
        ]
        return self.on(
            trigger, self.desk.analyse, inputs, self.analysed, trigger_mode="multiple", **self.heavy
        )

    def compare(
        self, trigger: Callable, method: Callable | None = None, inputs: Sequence | None = None
    ):
        return self.on(
            trigger,
            method or self.desk.compare,
            inputs or self.compare_in,
            self.compared,
            trigger_mode="multiple",
            **self.heavy,
        )

    def both(self, trigger: Callable):
        """Analyse, then let both models answer."""
        return self.compare(self.analyse(trigger).success)

    def rank(self, trigger: Callable, **options):
        """Rank the layers by the settings and drop as many as before."""
        return self.on(
            trigger,
            self.desk.select,
            self.select_in,
            ["status", "strip", "drop", "criterion", "calibration", *self.look, *self.figures],
            **{**QUICK, "trigger_mode": "multiple", **options},
        )

    def halt_ranking(self, trigger: Callable):
        """Ends a ranking that still runs, for another one is wanted."""
        return self.on(
            trigger,
            lambda request: self.desk.stop(request, RANKING, replaced=True),
            [],
            ["status"],
            queue=False,
        )

    def halt(self, trigger: Callable):
        """Ends this session's running work first, so that new work need not wait for it."""
        return self.on(trigger, self.desk.stop, [], ["status"], queue=False)

    def then_live(self, event):
        """After `event`, answer again where the page's checkbox says so."""

        def compare_live(live: bool, *values, request: gr.Request | None = None):
            if live:
                yield from self.desk.compare(*values, request=request)

        return self.compare(
            self.halt(event.then).then, compare_live, [self.c["live"], *self.compare_in]
        )


def mapped(method: Callable, outputs: Sequence[str], details: bool) -> Callable:
    """A gradio handler around `method`: {name: value} -> one value for each output, in order."""
    wants = inspect.signature(method).parameters

    def call(values, request, event):
        extra = {}
        if "request" in wants:
            extra["request"] = request
        if "event" in wants:
            extra["event"] = EventValues(event)
        return method(*map(update_marks.apply, values), **extra)

    def ordered(update: dict) -> list:
        return (
            [update.get(name, gr.skip()) for name in outputs]
            if len(outputs) > 1
            else update.get(outputs[0], gr.skip())
        )

    if inspect.isgeneratorfunction(method):

        def handler(request: gr.Request, event: gr.EventData, *values):
            try:
                for update in call(values, request, event):
                    yield ordered(update)
            except Exception as error:
                raise polite(error, details) from None

    else:

        def handler(request: gr.Request, event: gr.EventData, *values):
            try:
                return ordered(call(values, request, event))
            except Exception as error:
                raise polite(error, details) from None

    return handler


class EventValues:
    """What an event of a view or a figure brings, by name."""

    def __init__(self, event: gr.EventData) -> None:
        self._event = event

    def __getitem__(self, name: str):
        try:
            return getattr(self._event, name)
        except AttributeError:
            raise KeyError(name) from None

    def get(self, name: str, default=None):
        return getattr(self._event, name, default)


def picked(method: Callable, kind: type) -> Callable:
    """`method` called with what was picked in a view."""
    return lambda event: method(kind(event["value"]))
