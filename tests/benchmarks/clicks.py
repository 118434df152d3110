"""What the server spends when somebody clicks into an answer's words: `python
tests/benchmarks/clicks.py` -> results/clicks.json and results/speed.md.

On the bundled model the page's own events are processed as gradio does (inputs read, handlers,
outputs as JSON), of an answer of many words, each click on something that nobody asked for before.
On a decoder of 32 layers x 4096, whose layers share the random weights of one, `svl.lens` reads one
token of a made-up trace of 640 positions: the whole call, from the trace to the words. Counted is
processor time on one thread, so that other work on the machine does not count; for each figure, the
bytes that go to the browser.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from interactivity import GRID, LAYERS, WIDTH, WORDS, Visitor, large  # noqa: E402
from marks import PAGES, rewrite  # noqa: E402

HERE = Path(__file__).parent
BEGIN, END = "<!-- clicks: tests/benchmarks/clicks.py -->", "<!-- end of clicks -->"
QUESTION = "describe the picture."
TIMES = 7
"""Clicks of each kind, each on something else."""

AIM_MS, LENS_AIM_MS, AIM_BYTES = 150, 500, 300_000
VOCABULARY, INNER, HEADS = 32_000, 11_008, 32
"""Of the large decoder, as LLaVA-1.5-7B has them."""

CLICKS = {
    "a word": ("answer-words", lambda number: {"value": f"full-{number}"}, True),
    "a column of the lens": ("plot-lens", lambda number: {"x": TIMES + number, "y": 3}, True),
    "a head": ("plot-heads", lambda number: {"x": number % 5, "y": number}, False),
    "a patch": ("patch-names", lambda number: {"x": (number + 0.5) / TIMES, "y": 0.4}, True),
}
"""What is clicked -> the component, what the click of that number carries, and whether a second
event follows the first: what it asks for is then read."""

FIGURES = ("plot-lens", "plot-heads", "plot-split", "plot-patch-words", "head-map", "patch-names")
"""Of the section."""


def bundled() -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of each click, and the most bytes of each figure, on the bundled model."""
    from svl_core.ui.page import build

    page = build("demo")
    page.workspace.models.request("demo").result()
    visitor = Visitor(page)
    visitor.set("prompt", QUESTION)
    visitor.fire("analyze", "click", after=1)
    visitor.fire("run", "click", after=1)
    found = {"the section comes in sight": [visitor.fire("words-sight", "pick")]}
    for name, (elem_id, carried, read) in CLICKS.items():
        spent = []
        for number in range(TIMES):
            data = carried(number)
            first = visitor.fire(elem_id, "pick", data=data)
            then = visitor.fire(elem_id, "pick", after=1, data=data) if read else 0.0
            spent.append(first + then)
        found[name] = spent
    return found, visitor.sent


def large_model():
    """An LVLM of 32 layers x 4096 with the head of a vocabulary of 32,000, in float32: its layers
    are copies that share one layer's weights, 2 GB in all.
    """
    import torch
    from tiny import tiny_llava
    from transformers import LlamaConfig, LlavaForConditionalGeneration

    from svl_core.lvlm.families import family_of
    from svl_core.lvlm.model import LVLM

    small, processor = tiny_llava(1)
    config = copy.deepcopy(small.config)
    config.text_config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
    )
    model = LlavaForConditionalGeneration(config).float().eval().requires_grad_(False)
    decoder = model.get_decoder()
    [layer] = decoder.layers
    copies = []
    for number in range(LAYERS):
        one = copy.copy(layer)
        one.__dict__["_modules"] = dict(layer._modules)
        one._modules["self_attn"] = attention = copy.copy(layer.self_attn)
        attention.layer_idx = number
        copies.append(one)
    decoder.layers = torch.nn.ModuleList(copies)
    model.config.text_config.num_hidden_layers = LAYERS
    return LVLM(model, processor, family_of(model.config), "large")


def lens_of_a_token() -> list[float]:
    """Milliseconds of the whole call of `svl.lens` for one token, each time another one."""
    import svl_core as svl

    lvlm = large_model()
    _, trace = large()
    one = replace(trace.samples[0], features=trace.samples[0].features.float())
    trace = replace(trace, samples=(one,))
    spent = []
    for number in range(TIMES):
        began = time.process_time()
        found = svl.lens(lvlm, one.sample, [100 + number], traced=trace)
        spent.append(1000 * (time.process_time() - began))
        assert found.rank.shape == (LAYERS, 1)
    return spent


def summed_up(spent: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(spent), 1), "most": round(max(spent), 1)}


def table(made: dict) -> str:
    """The page's figures as Markdown."""
    lines = [
        "| clicked | server time: median (most of seven) | aim |",
        "| --- | --- | --- |",
    ]
    for name in CLICKS:
        spent = made["bundled_ms"][name]
        lines.append(f"| {name} | {spent['median']:.0f} ms ({spent['most']:.0f}) | {AIM_MS} ms |")
    lens = made["lens_ms"]
    lines.append(
        f"| `svl.lens` of one token, {LAYERS} layers x {WIDTH}, {GRID * GRID + WORDS} positions,"
        f" vocabulary of {VOCABULARY:,} | {lens['median']:.0f} ms ({lens['most']:.0f}) |"
        f" {LENS_AIM_MS} ms |"
    )
    sight = made["bundled_ms"]["the section comes in sight"]["median"]
    name, most = max(made["bundled_bytes"].items(), key=lambda item: item[1])
    whole = sum(made["bundled_bytes"].values())
    lines += [
        "",
        (
            "Before the first click, when the section comes in sight, both models' lenses, one"
            f" word's figures and all patches are read: {sight:.0f} ms. Largest figure as sent to"
            f" the browser: {most / 1000:.0f} kB ({name}); all of them together:"
            f" {whole / 1000:.0f} kB (aim {AIM_BYTES / 1000:.0f} kB)."
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    spent, sent = bundled()
    made = {
        "bundled_ms": {name: summed_up(each) for name, each in spent.items()},
        "bundled_bytes": {name: sent[name] for name in FIGURES},
        "lens_ms": summed_up(lens_of_a_token()),
        "time": "processor time of the server, one thread",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps(made), flush=True)
    target = HERE / "results" / "clicks.json"
    target.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    rewrite(PAGES / "speed.md", BEGIN, END, table(made))


if __name__ == "__main__":
    main()
