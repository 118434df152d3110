"""The analysis pass against a plain forward pass, in one run: `python
tests/benchmarks/analysis_pass.py` -> results/analysis_pass.json and results/speed.md.

LLaVAs with random weights, one narrow and one of the width of a 1B model, at 640, 2,048 and 4,096
positions. For each length: time of `trace` over time of a plain forward pass right before it
(median of the repeats), and its extra peak memory (one thread) over what one hidden state a layer
takes. The usual way (eager attention with all maps and hidden states kept) stands beside it where
its maps fit. With --shared-machine one thread's processor time is counted instead of the clock's,
so that other work on the machine does not.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from marks import PAGES, rewrite

HERE = Path(__file__).parent
BEGIN, END = "<!-- pass: tests/benchmarks/analysis_pass.py -->", "<!-- end of pass -->"
RESULTS = HERE / "results" / "analysis_pass.json"
MMAP_THRESHOLD = -3  # of <malloc.h>
LENGTHS = 640, 2048, 4096
SHAPES = {
    "12 layers x 768": (12, 768, 2048, 12, 12),
    "4 layers x 2,048": (4, 2048, 8192, 32, 8),
}  # layers, width, MLP width, heads, key and value heads; the second as in Llama 3.2 1B


def model_and_sample(shape: str, length: int):
    """A decoder of the given shape behind a small vision tower, and a sample of `length` positions
    of which 9 in 10 are visual.
    """
    sys.path.insert(0, str(HERE.parent))
    import numpy as np
    import torch
    from tiny import picture, tiny_tokenizer
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    import svl_core as svl
    from svl_core.lvlm.families import family_of

    layers, width, inner, heads, shared = SHAPES[shape]
    tokenizer = tiny_tokenizer()
    side = int((length * 0.9) ** 0.5)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=side * 4,
        patch_size=4,
        projection_dim=32,
    )
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=len(tokenizer),
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    model = (
        LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config=text,
                image_token_id=image_id,
                vision_feature_layer=-1,
            )
        )
        .eval()
        .requires_grad_(False)
    )
    lvlm = svl.LVLM(model, tokenizer, family_of(model.config), "benchmark")
    ids = torch.full((1, length), 20)
    ids[0, 1 : 1 + side * side] = image_id
    visual = np.arange(1, 1 + side * side)
    textual = np.setdiff1d(np.arange(length), visual)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, side * 4, side * 4),
    }
    geometry = dataclasses.replace(
        svl.PatchGeometry.empty(),
        rects=np.full((len(visual), 4), np.nan),
        image_index=np.zeros(len(visual)),
    )
    return lvlm, svl.Sample(
        inputs,
        visual,
        textual,
        textual[-3:],
        ("x",) * length,
        geometry,
        (picture(),),
        "benchmark",
        "0",
    )


def plain(lvlm, sample):
    import torch

    with torch.inference_mode():
        return lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=1).logits


def usual(lvlm, sample):
    """What other tools do: eager attention, every map and hidden state kept."""
    import torch

    own = lvlm.decoder.config._attn_implementation
    lvlm.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            kept = lvlm.model(
                **sample.inputs,
                use_cache=False,
                logits_to_keep=1,
                output_attentions=True,
                output_hidden_states=True,
            )
        assert kept.attentions[0].shape[-1] == sample.length
        return kept
    finally:
        lvlm.model.set_attn_implementation(own)


def analysis(lvlm, sample):
    import svl_core as svl

    return svl.trace(lvlm, sample)


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM the most since it was last set back (Linux)."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return 1024 * int(line.split()[1])


def peak(shape: str, length: int, which: str, pipe) -> None:
    """In a process of its own: peak memory in bytes added by one run, after one on a short sample
    has warmed up. Blocks go back to the system when they are freed, so that no gaps count.
    """
    import torch

    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)
    torch.set_num_threads(1)
    globals()[which](*model_and_sample(shape, 64))
    lvlm, sample = model_and_sample(shape, length)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory("VmRSS")
    kept = globals()[which](lvlm, sample)
    pipe.send(memory("VmHWM") - before)
    del kept


def peak_of(shape: str, length: int, which: str) -> int:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak, args=(shape, length, which, there))
    process.start()
    process.join()
    return here.recv()


def table(rows: list[dict]) -> str:
    """The page's figures as Markdown."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}x"

    lines = [
        (
            "| decoder | positions | time: analysis / plain pass (aim 1.25x) | usual way | extra"
            " memory / one hidden state a layer (aim 1.15x) | usual way |"
        ),
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(
        lines
        + [
            f"| {r['shape']} | {r['positions']:,} | {shown(r['time_ratio'])}"
            f" ({r['time_ratios'][0]:.2f}-{r['time_ratios'][-1]:.2f}) |"
            f" {shown(r['usual_time_ratio'])} | {shown(r['extra_memory_over_hidden_states'])} |"
            f" {shown(r['usual_extra_memory_over_hidden_states'])} |"
            for r in rows
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=LENGTHS,
        help="the others keep the figures they have",
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--shared-machine", action="store_true", help="one thread, processor time")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    options = parser.parse_args()
    import torch

    clock = time.process_time if options.shared_machine else time.perf_counter
    if options.shared_machine:
        torch.set_num_threads(1)
    asked = [(shape, length) for shape in options.shapes for length in options.lengths]
    rows = []
    if options.out.exists():
        stored = json.loads(options.out.read_text(encoding="utf-8"))["rows"]
        rows = [row for row in stored if (row["shape"], row["positions"]) not in asked]
    for shape, length in asked:
        lvlm, sample = model_and_sample(shape, length)
        ways = {"plain": plain, "analysis": analysis}
        if length < 4096:
            ways["usual"] = usual
        took = {name: [] for name in ways}
        for _ in range(options.repeats + 1):
            for name, way in ways.items():
                began = clock()
                result = way(lvlm, sample)
                took[name].append(clock() - began)
                if name == "analysis":
                    last = result.samples[0].logits_last
                del result
        identical = bool((torch.from_numpy(last) == plain(lvlm, sample)[0, -1]).all())
        hidden = (lvlm.num_layers + 1) * length * lvlm.hidden_size * 4
        extra = {name: peak_of(shape, length, name) for name in ways}
        over = {name: (extra[name] - extra["plain"]) / hidden for name in ways}
        ratios = {
            name: [own / beside for own, beside in zip(took[name], took["plain"], strict=True)][1:]
            for name in ways
        }  # the first round warms up
        rows.append(
            {
                "shape": shape,
                "positions": length,
                "time_ratio": statistics.median(ratios["analysis"]),
                "time_ratios": sorted(ratios["analysis"]),
                "usual_time_ratio": statistics.median(ratios["usual"]) if "usual" in ways else None,
                "extra_memory_over_hidden_states": over["analysis"],
                "usual_extra_memory_over_hidden_states": over.get("usual"),
                "bit_identical": identical,
                "plain_s": min(took["plain"]),
                "plain_peak_mb": extra["plain"] / 1e6,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    rows.sort(key=lambda row: (list(SHAPES).index(row["shape"]), row["positions"]))
    how = "one thread's processor time" if options.shared_machine else "wall time"
    options.out.write_text(
        json.dumps(
            {"rows": rows, "time": how, "cores": os.cpu_count(), "machine": platform.machine()},
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    if options.out == RESULTS:
        rewrite(PAGES / "speed.md", BEGIN, END, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
