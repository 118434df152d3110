"""The analysis pass against a plain forward pass, in one run: `python tests/benchmarks/analysis_pass.py` -> results/analysis_pass.json.

A LLaVA of 12 layers x 768 with random weights, at 640, 2,048 and 4,096 positions. For each length: time of `trace` over time of
a plain forward pass (median of alternating repeats), and its extra peak memory over what one hidden state a layer takes. The
usual way (eager attention with all maps and hidden states kept) stands beside it for the shortest two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LENGTHS, LAYERS, WIDTH, VISUAL = (640, 2048, 4096), 12, 768, 576


def model_and_sample(length: int):
    """A decoder of the given size behind a small vision tower, and a sample of `length` positions of which 9 in 10 are visual."""
    sys.path.insert(0, str(HERE.parent))
    import numpy as np
    import torch
    from tiny import picture, tiny_tokenizer
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    import svl_core as svl
    from svl_core.lvlm.families import family_of

    tokenizer = tiny_tokenizer()
    side = int((length * 0.9) ** 0.5)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=side * 4, patch_size=4, projection_dim=32)
    text = LlamaConfig(hidden_size=WIDTH, intermediate_size=2048, num_hidden_layers=LAYERS, num_attention_heads=12, num_key_value_heads=12, vocab_size=len(tokenizer), max_position_embeddings=8192)
    torch.manual_seed(0)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_id=image_id, vision_feature_layer=-1)).eval().requires_grad_(False)
    lvlm = svl.LVLM(model, tokenizer, family_of(model.config), "benchmark")
    ids = torch.full((1, length), 20)
    ids[0, 1:1 + side * side] = image_id
    visual = np.arange(1, 1 + side * side)
    textual = np.setdiff1d(np.arange(length), visual)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, side * 4, side * 4)}
    geometry = dataclasses.replace(svl.PatchGeometry.empty(), rects=np.full((len(visual), 4), np.nan), image_index=np.zeros(len(visual)))
    return lvlm, svl.Sample(inputs, visual, textual, textual[-3:], ("x",) * length, geometry, (picture(),), "benchmark", "0")


def plain(lvlm, sample):
    import torch

    with torch.inference_mode():
        return lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=1).logits


def usual(lvlm, sample):
    """What other tools do: eager attention, every map and hidden state kept."""
    import torch

    config = lvlm.decoder.config
    own, config._attn_implementation = config._attn_implementation, "eager"
    try:
        with torch.inference_mode():
            return lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=1, output_attentions=True, output_hidden_states=True)
    finally:
        config._attn_implementation = own


def analysis(lvlm, sample):
    import svl_core as svl

    return svl.trace(lvlm, sample)


def peak(length: int, which: str, pipe) -> None:
    """In a process of its own: peak memory in bytes added by one run, after a plain pass on a short sample has warmed up."""
    lvlm, sample = model_and_sample(length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = globals()[which](lvlm, sample)
    pipe.send(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
    del kept


def peak_of(length: int, which: str) -> int:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=peak, args=(length, which, there))
    process.start()
    process.join()
    return here.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = []
    for length in LENGTHS:
        import torch

        lvlm, sample = model_and_sample(length)
        ways = {"plain": plain, "analysis": analysis} | ({"usual": usual} if length < 4096 else {})
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                kept = way(lvlm, sample)
                times[name].append(time.perf_counter() - began)
                if name == "analysis":
                    last = kept.samples[0].logits_last
                del kept
        identical = bool((torch.from_numpy(last) == plain(lvlm, sample)[0, -1]).all())
        middle = {name: statistics.median(values[1:]) for name, values in times.items()}
        hidden = (LAYERS + 1) * length * WIDTH * 4
        extra = {name: peak_of(length, name) for name in ways}
        rows.append({"positions": length, "time_ratio": middle["analysis"] / middle["plain"], "usual_time_ratio": middle["usual"] / middle["plain"] if "usual" in middle else None,
                     "extra_memory_over_hidden_states": (extra["analysis"] - extra["plain"]) / hidden, "usual_extra_memory_over_hidden_states": (extra["usual"] - extra["plain"]) / hidden if "usual" in extra else None,
                     "bit_identical": identical, "plain_s": middle["plain"]})
        print(json.dumps(rows[-1]), flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "analysis_pass.json").write_text(json.dumps({"rows": rows, "layers": LAYERS, "width": WIDTH, "cores": os.cpu_count(), "machine": platform.machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
