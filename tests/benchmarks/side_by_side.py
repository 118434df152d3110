"""What pruned models share with the full one, in one run: `python tests/benchmarks/side_by_side.py`
-> results/side_by_side.json and results/speed.md.

Pruned view of a 1.3B-parameter LLaVA (sizes only, no weights): time and memory of its own. Prefill
of a pruned answer beside the full one against alone, and decode speed-up against (all layers +
rest) / (kept layers + rest), on a LLaVA of 12 layers x 768 with random weights at 640 positions. A
sweep over every drop count of the bundled model against each point alone. Both ways are timed in
turn; the best time of each counts, since other work on the machine only ever adds to it. With
--shared-machine one thread's processor time is counted instead of the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from marks import PAGES, rewrite

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
BEGIN, END = "<!-- sharing: tests/benchmarks/side_by_side.py -->", "<!-- end of sharing -->"
RESULTS = HERE / "results" / "side_by_side.json"
CLOCK = {"now": time.perf_counter}
PARTS = ("view", "prefill", "decode", "sweep")
DROPPED, LENGTH, TOKENS = (7, 8, 9), 640, 12  # of 12 layers


def in_turn(repeats: int, **ways) -> dict[str, float]:
    """Best seconds of each way, all run alternately after one untimed round."""
    best = {name: float("inf") for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            began = CLOCK["now"]()
            way()
            if number:
                best[name] = min(best[name], CLOCK["now"]() - began)
    return best


def view_of_a_billion(repeats: int) -> dict:
    from tiny import tiny_tokenizer
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    import svl_core as svl
    from svl_core.lvlm.families import family_of
    from svl_core.lvlm.skeleton import empty

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=16,
        vocab_size=32064,
    )
    model = empty(
        LlavaForConditionalGeneration,
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-1
        ),
    ).eval()
    lvlm = svl.LVLM(model, tiny_tokenizer(), family_of(model.config), "1B")
    keep = [layer for layer in range(24) if layer not in (10, 11, 14)]
    seconds = in_turn(repeats, view=lambda: svl.pruned_view(lvlm, keep))["view"]
    own = {id(tensor) for tensor in model.parameters()}
    added = sum(
        tensor.numel()
        for tensor in svl.pruned_view(lvlm, keep).model.parameters()
        if id(tensor) not in own
    )
    return {"parameters": lvlm.num_parameters, "view_ms": 1000 * seconds, "own_parameters": added}


def prefill(repeats: int) -> dict:
    """Seconds of the pruned model's prefill alone, and of what is left of it where the full model
    answered beside it.
    """
    from analysis_pass import model_and_sample

    import svl_core as svl
    from svl_core.lvlm.decoding import Decoding
    from svl_core.lvlm.prefill import shared_depth

    lvlm, sample = model_and_sample("12 layers x 768", LENGTH)
    pruned = svl.pruned_view(
        lvlm, [layer for layer in range(lvlm.num_layers) if layer not in DROPPED]
    )
    depth = shared_depth(lvlm, pruned)
    prefill = Decoding(lvlm, sample.inputs, keep=[depth]).prefill
    best = in_turn(
        repeats,
        full=lambda: Decoding(lvlm, sample.inputs),
        alone=lambda: Decoding(pruned, sample.inputs),
        beside=lambda: Decoding(pruned, sample.inputs, resume=(prefill, depth)),
    )
    layers = pruned.num_layers
    return {
        "kept_layers": layers,
        "shared_layers": depth,
        "full_s": best["full"],
        "alone_s": best["alone"],
        "beside_s": best["beside"],
        "ratio": best["beside"] / best["alone"],
        "layers_ratio": (layers - depth) / layers,
    }


def decode(repeats: int) -> dict:
    """Decode speed-up of a view against what the cost of its layers lets one expect; that cost
    comes from a view of one layer.
    """
    import torch
    from analysis_pass import model_and_sample

    import svl_core as svl
    from svl_core.lvlm.decoding import Decoding

    lvlm, sample = model_and_sample("12 layers x 768", LENGTH)
    views = {
        "full": lvlm,
        "pruned": svl.pruned_view(
            lvlm, [layer for layer in range(lvlm.num_layers) if layer not in DROPPED]
        ),
        "one": svl.pruned_view(lvlm, [0]),
    }
    prompts = {name: Decoding(view, sample.inputs) for name, view in views.items()}

    def answer(name: str):
        decoding = prompts[name].fork()
        for _ in range(TOKENS):
            decoding.feed(torch.tensor([[20]]))

    best = in_turn(repeats, **{name: lambda name=name: answer(name) for name in views})
    layer = (best["full"] - best["one"]) / (lvlm.num_layers - 1)
    rest = best["one"] - layer
    wanted = best["full"] / (rest + layer * views["pruned"].num_layers)
    return {
        "speedup": best["full"] / best["pruned"],
        "expected": wanted,
        "ratio": best["full"] / best["pruned"] / wanted,
    }


def sweeps(points: int, samples: int) -> dict:
    """Seconds of one sweep over every drop count, and of as many sweeps over one; their measures
    must be equal.
    """
    import svl_core as svl
    from svl_core.comparison.calibration import encode_all
    from svl_core.comparison.sweep import sweep
    from svl_core.demo.questions import calibration

    lvlm = svl.load("demo")
    measured = encode_all(lvlm, calibration(samples, 1_000_000))
    fit = encode_all(lvlm, calibration(16, 0))
    drops = [round(k * 14 / (points - 1)) for k in range(points)]
    began = CLOCK["now"]()
    whole = sweep(lvlm, measured, fit, drops=drops).rows
    middle = CLOCK["now"]()
    alone = [sweep(lvlm, measured, fit, drops=[drop]).rows[0] for drop in drops]
    ended = CLOCK["now"]()
    measures = [(row.kl, row.agreement, row.exact) for row in whole]
    equal = measures == [(row.kl, row.agreement, row.exact) for row in alone]
    return {
        "points": points,
        "samples": samples,
        "sweep_s": middle - began,
        "alone_s": ended - middle,
        "ratio": (middle - began) / (ended - middle),
        "equal_numbers": equal,
    }


def table(made: dict) -> str:
    view, first, later, all_points = made["view"], made["prefill"], made["decode"], made["sweep"]
    rows = [
        ("pruned view of a 1.3B model, time", f"{view['view_ms']:.0f} ms", "50 ms"),
        ("its own memory, parameters", f"{view['own_parameters']}", "0 (edited weights only)"),
        (
            (
                "prefill of the pruned answer beside the full one / alone"
                f" ({first['shared_layers']} of {first['kept_layers']} layers and the image shared)"
            ),
            f"{first['ratio']:.2f}",
            f"{first['layers_ratio']:.2f} (its own layers)",
        ),
        (
            f"decode speed-up, {len(DROPPED)} of 12 layers dropped / expected of its layers",
            f"{later['ratio']:.2f}",
            "0.95",
        ),
        (
            (
                f"sweep over {all_points['points']} drop counts on {all_points['samples']} samples"
                f" / each alone, equal numbers: {'yes' if all_points['equal_numbers'] else 'no'}"
            ),
            f"{all_points['ratio']:.2f}",
            "0.60",
        ),
    ]
    return "\n".join(
        ["| | measured | aim |", "| --- | --- | --- |"]
        + [f"| {what} | {value} | {aim} |" for what, value, aim in rows]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--points", type=int, default=15, help="drop counts of the sweep, of 0 to 14"
    )
    parser.add_argument(
        "--samples", type=int, default=32, help="samples that the sweep measures on"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="the others keep the figures they have",
    )
    parser.add_argument("--shared-machine", action="store_true", help="one thread, processor time")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    options = parser.parse_args()
    if options.shared_machine:
        import torch

        torch.set_num_threads(1)
        CLOCK["now"] = time.process_time
    ways = {
        "view": lambda: view_of_a_billion(options.repeats),
        "prefill": lambda: prefill(options.repeats),
        "decode": lambda: decode(options.repeats),
        "sweep": lambda: sweeps(options.points, options.samples),
    }
    made = {}
    if set(options.only) != set(PARTS):
        made = json.loads(options.out.read_text(encoding="utf-8"))
    for name in options.only:
        made[name] = ways[name]()
        print(name, json.dumps(made[name]), flush=True)
    options.out.write_text(
        json.dumps(
            {
                **made,
                "time": "one thread's processor time" if options.shared_machine else "wall time",
                "cores": os.cpu_count(),
                "machine": platform.machine(),
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    if options.out == RESULTS:
        rewrite(PAGES / "speed.md", BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
