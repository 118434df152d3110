"""Layers, visual tokens and bits of the weights pruned, alone and together, on the bundled model:
`python tests/benchmarks/visual_tokens.py [--limit N]`.

Visual tokens are ranked by each question's own importance (one pass of the full model, not counted
in the speed-up), layers by the preset `--preset`. For 8-bit weights the pruned model is saved and
loaded again through bitsandbytes (extra `large`; without it that block is left out). Results go to
results/visual_tokens.json and results/visual_tokens.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
from marks import PAGES, between, rewrite

import svl_core as svl
from svl_core.comparison.evaluation import PairedEvaluation
from svl_core.comparison.speed import measure_speedup
from svl_core.demo.evaluation import questions
from svl_core.demo.questions import calibration

HERE = Path(__file__).parent
RESULTS, ROOT = HERE / "results" / "visual_tokens.json", HERE.parents[1]
PAGE = PAGES / "visual_tokens.md"
BEGIN, END = "<!-- tokens: tests/benchmarks/visual_tokens.py -->", "<!-- end of tokens -->"
SEED = 5_005  # of the questions
DROPS, SHARES, SHARES_8BIT = (0, 3, 5), (1.0, 0.75, 0.5, 0.25), (1.0, 0.5)


def measure(limit: int, name: str, repeats: int) -> dict:
    lvlm = svl.load("demo")
    asked = questions("scenes", limit, SEED)
    full = svl.evaluate(lvlm, asked, data="scenes")
    preset = svl.PRESETS[name]
    scenes = calibration(preset.samples or 32)
    fitted = preset.fit(lvlm, [lvlm.encode(*pair) for pair in scenes])
    known: dict[str, object] = {}

    def thinned(share):
        def prepare(sample):
            if sample.key not in known:
                known[sample.key] = svl.visual_scores(lvlm, sample)
            return svl.keep_visual(lvlm, sample, share, known[sample.key])

        return prepare

    first, rows, eight = lvlm.encode(asked[0].image, asked[0].question), [], []
    for drop in DROPS:
        pruned = fitted.prune(fitted.plan(drop))
        for share in SHARES:
            pair = PairedEvaluation(
                full, svl.evaluate(pruned, asked, data="scenes", prepare=thinned(share))
            )
            speed = measure_speedup(
                lvlm, pruned, first, repeats=repeats, pruned_sample=thinned(share)(first)
            )
            rows.append(
                {
                    "drop": drop,
                    "share": share,
                    "accuracy": pair.pruned.accuracy,
                    "interval": pair.pruned.overall.interval,
                    "kept": pair.accuracy_kept,
                    "kept_interval": pair.interval,
                    "speedup_prefill": speed.prefill.measured,
                    "speedup": speed.total.measured,
                }
            )
            print(rows[-1], file=sys.stderr)
        if importlib.util.find_spec("bitsandbytes"):
            small = in_8bit(pruned)
            for share in SHARES_8BIT:
                pair = PairedEvaluation(
                    full, svl.evaluate(small, asked, data="scenes", prepare=thinned(share))
                )
                eight.append(
                    {
                        "drop": drop,
                        "share": share,
                        "accuracy": pair.pruned.accuracy,
                        "kept": pair.accuracy_kept,
                        "kept_interval": pair.interval,
                        "megabytes": small.model.get_memory_footprint() / 1e6,
                        "megabytes_float": pruned.model.get_memory_footprint() / 1e6,
                    }
                )
                print(eight[-1], file=sys.stderr)
    return {
        "seed": SEED,
        "n": full.n,
        "layers": lvlm.num_layers,
        "visual_tokens": len(first.visual),
        "calibration_samples": len(scenes),
        "preset": name,
        "threads": torch.get_num_threads(),
        "full": full.overall.to_json(),
        "rows": rows,
        "rows_8bit": eight,
    }


def in_8bit(lvlm):
    """The model as a user gets it who saves it and loads it in 8-bit."""
    with tempfile.TemporaryDirectory() as folder:
        lvlm.save(folder)
        return svl.load(folder, quantize="8bit", device="cpu")


def table(made: dict) -> str:
    lines = [
        (
            f"{made['n']} scene questions, {made['visual_tokens']} visual tokens, preset"
            f" `{made['preset']}`; each cell: accuracy kept (95 % interval), speed-up of the"
            " prefill."
        ),
        "",
        "| layers dropped | "
        + " | ".join(f"{share:.0%} of the visual tokens" for share in SHARES)
        + " |",
        "| --- |" + " --- |" * len(SHARES),
    ]
    for drop in DROPS:
        cells = [row for row in made["rows"] if row["drop"] == drop]
        lines.append(
            f"| {drop} of {made['layers']} | "
            + " | ".join(
                f"{c['kept']:.1%} ({c['kept_interval'][0]:.1%} to {c['kept_interval'][1]:.1%}),"
                f" {c['speedup_prefill']:.2f}x"
                for c in cells
            )
            + " |"
        )
    if made["rows_8bit"]:
        lines += [
            "",
            (
                "The same models saved and loaded with 8-bit weights (bitsandbytes; embeddings and"
                " norms stay as they are): accuracy kept (95 % interval)."
            ),
            "",
            "| layers dropped | weights, 8-bit (float32) | "
            + " | ".join(f"{share:.0%} of the visual tokens" for share in SHARES_8BIT)
            + " |",
            "| --- | --- |" + " --- |" * len(SHARES_8BIT),
        ]
        for drop in DROPS:
            cells = [row for row in made["rows_8bit"] if row["drop"] == drop]
            lines.append(
                f"| {drop} of {made['layers']} | {cells[0]['megabytes']:.1f} MB"
                f" ({cells[0]['megabytes_float']:.1f} MB) | "
                + " | ".join(
                    f"{c['kept']:.1%} ({c['kept_interval'][0]:.1%} to {c['kept_interval'][1]:.1%})"
                    for c in cells
                )
                + " |"
            )
    return "\n".join(lines)


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limit", type=int, default=500, help="scene questions (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        default="as-published",
        choices=svl.PRESETS,
        help="what drops the layers (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats", type=int, default=30, help="timed answers (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    args = parser.parse_args()
    made = measure(args.limit, args.preset, args.repeats)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
