"""Measures the bundled model and writes the figures into its card and results/demo_model.md:
`python tests/benchmarks/demo_model.py [--limit N]`.

Fresh scenes in the styles of training, the same in a style never seen, and easy-VQA's whole test
set, each asked by greedy generation, exact match; then the scenes again with layers dropped.
Results go to results/demo_model.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from pathlib import Path

from marks import PAGES, between, rewrite

import svl_core as svl
from svl_core.demo.evaluation import DATA, questions
from svl_core.demo.questions import calibration
from svl_core.progress import Run

HERE = Path(__file__).parent
RESULTS, ROOT = HERE / "results" / "demo_model.json", HERE.parents[1]
DOCUMENTS = (PAGES / "demo_model.md", ROOT / "assets" / "demo_lvlm" / "README.md")
SEED = 2026  # of the evaluation's scenes; training's stream is another, whatever the seed
DROPS, COMPENSATIONS = (2, 3, 4, 5, 6, 8), ("none", "scp", "lstsq")
BEGIN, END = "<!-- figures: tests/benchmarks/demo_model.py -->", "<!-- end of figures -->"


def show(data: str, share: float | None, what: str) -> None:
    """How far the questions of a data set are."""
    print(f"\r{data} {share or 0:.0%}", end="", file=sys.stderr)


def measure(limit: int | None, pruned_limit: int) -> dict:
    lvlm = svl.load("demo")
    made = {
        "seed": SEED,
        "layers": lvlm.num_layers,
        "parameters": lvlm.num_parameters,
        "full": {},
        "pruned": [],
    }
    for data in DATA:
        began = time.perf_counter()
        found = svl.evaluate(
            lvlm,
            questions(data, limit, SEED),
            data=data,
            run=Run(functools.partial(show, data)),
        )
        made["full"][data] = found.to_json() | {"seconds": round(time.perf_counter() - began)}
    asked = questions("scenes", pruned_limit, SEED + 1)
    full = svl.evaluate(lvlm, asked, data="scenes").accuracy
    trace = svl.trace(lvlm, [lvlm.encode(*pair) for pair in calibration()], mlp=True)
    scores = svl.redundancy(trace)
    for drop in DROPS:
        for compensation in COMPENSATIONS:
            pruned = svl.prune(lvlm, svl.plan(scores, drop), compensation, trace)
            accuracy = svl.evaluate(pruned, asked, data="scenes").accuracy
            made["pruned"].append(
                {
                    "drop": drop,
                    "layers": list(scores.ranking[:drop]),
                    "compensation": compensation,
                    "n": len(asked),
                    "accuracy": accuracy,
                    "accuracy_kept": accuracy / full,
                }
            )
            print(f"\rdrop {drop} {compensation} {accuracy / full:.3f}", file=sys.stderr)
    return made


def table(made: dict) -> str:
    """The card's figures as Markdown."""
    full = made["full"]
    lines = ["| questions | n | exact (95 % interval) |", "| --- | --- | --- |"]
    names = {
        "scenes": "fresh scenes, art styles of training",
        "openmoji": "fresh scenes, OpenMoji art (never seen)",
        "easy-vqa": "easy-VQA test set",
    }
    for data, found in full.items():
        low, high = found["interval"]
        lines.append(
            f"| {names[data]} | {found['n']} | **{found['accuracy']:.1%}** ({low:.1%} to"
            f" {high:.1%}) |"
        )
    lines += [
        "",
        "| kind | " + " | ".join(names[d] for d in ("scenes", "openmoji")) + " |",
        "| --- | --- | --- |",
    ]
    for kind, found in full["scenes"]["by_kind"].items():
        lines.append(
            f"| {kind} | {found['accuracy']:.1%} |"
            f" {full['openmoji']['by_kind'][kind]['accuracy']:.1%} |"
        )
    lines += [
        "",
        (
            "Accuracy kept when the most redundant layers are dropped (criterion `svl`,"
            f" {made['pruned'][0]['n']} scene questions, {made['layers']} layers):"
        ),
        "",
        "| dropped | no compensation | SCP | least squares |",
        "| --- | --- | --- | --- |",
    ]
    for drop in DROPS:
        kept = {
            row["compensation"]: row["accuracy_kept"]
            for row in made["pruned"]
            if row["drop"] == drop
        }
        lines.append(
            f"| {drop} ({drop / made['layers']:.0%}) | "
            + " | ".join(f"{kept[c]:.1%}" for c in COMPENSATIONS)
            + " |"
        )
    return "\n".join(lines)


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limit", type=int, help="questions of each data set (default: the full numbers)"
    )
    parser.add_argument(
        "--pruned-limit", type=int, default=660, help="scene questions for the pruned models"
    )
    args = parser.parse_args()
    made = measure(args.limit, args.pruned_limit)
    if args.limit is None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        for path in DOCUMENTS:
            rewrite(path, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
