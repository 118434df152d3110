"""What the server spends when a control moves: `python tests/benchmarks/interactivity.py` ->
results/interactivity.json and results/speed.md.

Events of the page are processed as gradio does (inputs read, handler, outputs as JSON), for the
bundled model and for a made-up trace of 32 layers x 4096 over 640 tokens. Counted is processor time
of this process on one thread, so that other work on the machine does not count; for each figure,
the bytes that go to the browser. Each change asks for something that the server has not made
before.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

from marks import PAGES, rewrite

HERE = Path(__file__).parent
BEGIN, END = (
    "<!-- interactivity: tests/benchmarks/interactivity.py -->",
    "<!-- end of interactivity -->",
)
LAYERS, WIDTH, GRID, WORDS = 32, 4096, 24, 64
AIMS = {"bundled": 100, "large": 300}  # ms
MOVES = (3, 6, 4, 5, 2, 7, 8)  # layers to drop, in turn
PICTURES = ("overlay", "token-curve", "head-map", "patch-names")
"""Figures of other names than "plot-..."."""

CHANGES = {  # control -> its event, and values that it takes in turn
    "drop slider": ("bridge", "settle_drop", "strip", None),
    "layer": ("layer", "input", "layer", (3, 7, 5, 2, 9, 4, 8)),
    "top-p": ("bridge", "settle_top_p", "top-p", (0.3, 0.7, 0.45, 0.6, 0.35, 0.8, 0.25)),
    "criterion": (
        "criterion",
        "input",
        "criterion",
        ("shortgpt", "angular", "streamline", "svl-visual", "svl-last", "svl-textual", "svl-all"),
    ),
    "rank": ("bridge", "settle_rank", "rank", (8, 12, 16, 3, 24, 32, 2)),
}


def large():
    """A stand-in for a 7B model: it encodes every question as one and the same sample, whose trace
    is made up of random steps, and nothing else.
    """
    import numpy as np
    import torch
    from PIL import Image

    import svl_core as svl
    from svl_core.analysis.attention import STATISTICS, AttentionStatistics
    from svl_core.analysis.trace import SampleTrace, Trace

    rng, length = np.random.default_rng(0), GRID * GRID + WORDS
    torch.manual_seed(0)
    features = torch.empty(LAYERS + 1, length, WIDTH, dtype=torch.bfloat16)
    features[0] = torch.randn(length, WIDTH)
    for layer in range(LAYERS):
        features[layer + 1] = features[layer] + (
            0.1 + 0.4 * abs(layer / LAYERS - 0.5)
        ) * torch.randn(length, WIDTH)
    visual, textual = (
        np.arange(5, 5 + GRID * GRID),
        np.r_[np.arange(5), np.arange(5 + GRID * GRID, length)],
    )
    size = {name: len(visual) if name.startswith("visual") else len(textual) for name in STATISTICS}
    statistics_ = AttentionStatistics(
        **{name: rng.random((LAYERS, size[name])).astype(np.float32) for name in STATISTICS}
    )
    places = np.array([(x, y, x + 1, y + 1) for y in range(GRID) for x in range(GRID)]) / GRID
    image = Image.fromarray(rng.integers(0, 255, (480, 640, 3), np.uint8))
    sample = svl.Sample(
        {},
        visual,
        textual,
        textual[-20:],
        ("token",) * length,
        svl.PatchGeometry(places, np.zeros(len(visual)), (GRID, GRID)),
        (image,),
        "benchmark",
        "0",
    )
    trace = Trace(
        (
            SampleTrace(
                features,
                visual,
                textual,
                statistics_,
                np.zeros(8, np.float32),
                sample.key,
                sample=sample,
            ),
        ),
        "large",
        tuple(range(LAYERS)),
        (),
        0.0,
    )
    return (
        SimpleNamespace(name="large", encode=lambda image, prompt: sample, num_layers=LAYERS),
        trace,
    )


class Visitor:
    """A page's state as a browser holds it: fires events, and takes their outputs over."""

    def __init__(self, page) -> None:
        from gradio.state_holder import SessionState

        self.page, self.session = page, SessionState(page)
        self.ids = {
            block.elem_id: block._id
            for block in page.blocks.values()
            if getattr(block, "elem_id", None)
        }
        self.names = {number: name for name, number in self.ids.items()}
        self.values = {
            number: getattr(block, "value", None) for number, block in page.blocks.items()
        }
        self.sent: dict[str, int] = {}  # the most bytes that a figure took

    def fire(self, elem_id: str, event: str, after: int = 0, data: dict | None = None) -> float:
        """Processes what follows an event first (or what follows that, `after` > 0); milliseconds
        of processor time. data: what the event carries.
        """
        found = next(
            fn
            for fn in self.page.fns.values()
            if (self.ids[elem_id], event) in fn.targets and fn.fn
        )
        for _ in range(after):
            found = next(fn for fn in self.page.fns.values() if fn.trigger_after == found._id)
        return 1000 * asyncio.run(self._process(found, data))

    async def _process(self, fn, data: dict | None) -> float:
        import gradio as gr

        inputs, iterator, spent = [self.values.get(block._id) for block in fn.inputs], None, 0.0
        while True:
            began = time.process_time()
            made = await self.page.process_api(
                fn,
                inputs,
                state=self.session,
                request=gr.Request(),
                event_data=gr.EventData(None, data),
                iterator=iterator,
            )
            text = [json.dumps(each) for each in made["data"]]
            spent += time.process_time() - began
            if iterator is not None and not made["is_generating"]:
                return spent  # the sign that a generator has ended carries nothing
            for block, value, written in zip(fn.outputs, made["data"], text):
                update = isinstance(value, dict) and value.get("__type__") == "update"
                if not update or "value" in value:
                    self.values[block._id] = value["value"] if update else value
                    name = self.names.get(block._id, "")
                    if name.startswith("plot-") or name in PICTURES:
                        self.sent[name] = max(self.sent.get(name, 0), len(written))
            iterator = made.get("iterator")
            if not made["is_generating"]:
                return spent

    def set(self, elem_id: str, value: object) -> None:
        self.values[self.ids[elem_id]] = value


def measure(page) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Median and most milliseconds of each change, and the most bytes of each figure, on an
    analysed page.
    """
    visitor = Visitor(page)
    visitor.fire("analyze", "click", after=1)
    found: dict[str, dict[str, float]] = {}
    strip = visitor.ids["strip"]
    for change, (elem_id, event, control, values) in CHANGES.items():
        spent = []
        for value in values or MOVES:
            if values is None:
                value = {
                    **visitor.values[strip],
                    "drop": sorted(visitor.values[strip]["ranking"][:value]),
                }
            visitor.set(control, value)
            spent.append(visitor.fire(elem_id, event, after=1 if change == "criterion" else 0))
        found[change] = {"median": round(statistics.median(spent), 1), "most": round(max(spent), 1)}
    return found, visitor.sent


def table(made: dict) -> str:
    """The page's figures as Markdown."""
    lines = [
        (
            "| control moved: median (most of seven) | bundled model (aim 100 ms) | 32 layers x"
            " 4096, 640 tokens (aim 300 ms) |"
        ),
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {change} | "
        + " | ".join(
            f"{made[f'{which}_ms'][change]['median']:.0f} ms"
            f" ({made[f'{which}_ms'][change]['most']:.0f})"
            for which in AIMS
        )
        + " |"
        for change in CHANGES
    ]
    name, most = max(
        (
            (name, max(made[f"{which}_bytes"].get(name, 0) for which in AIMS))
            for name in made["large_bytes"]
        ),
        key=lambda item: item[1],
    )
    return "\n".join(
        lines
        + ["", f"Largest figure as sent to the browser: {most / 1000:.0f} kB ({name}; aim 300 kB)."]
    )


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    import svl_core as svl
    from svl_core.service.stores import Analysis
    from svl_core.ui.page import build

    made: dict = {}
    for which in AIMS:
        if which == "bundled":
            page = build("demo")
            page.workspace.models.request("demo").result()
        else:
            lvlm, trace = large()
            page = build(lvlm, knows_scenes=False)
            page.workspace.analyses.put(
                (lvlm.name, "0"),
                Analysis(lvlm.name, (trace.samples[0].sample,), trace, svl.importance(trace)),
            )
        made[f"{which}_ms"], made[f"{which}_bytes"] = measure(page)
        print(
            which, json.dumps(made[f"{which}_ms"]), json.dumps(made[f"{which}_bytes"]), flush=True
        )
    made |= {
        "time": "processor time of the server, one thread",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    (HERE / "results" / "interactivity.json").write_text(
        json.dumps(made, indent=1) + "\n", encoding="utf-8"
    )
    rewrite(PAGES / "speed.md", BEGIN, END, table(made))


if __name__ == "__main__":
    main()
