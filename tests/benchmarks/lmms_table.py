"""Turns lmms-eval's results into the paper's table: `python tests/benchmarks/lmms_table.py FULL
PRUNED [PRUNED ...] [--json FILE]`.

Each argument is a results file of lmms-eval (`..._results.json`) or a folder under which the newest
one of every task is taken. The first is the full model. Shown are the scores and, as in the paper,
the mean over the tasks of score / full score ("accuracy kept"). A-OKVQA, the paper's sixth suite,
is no task of lmms-eval and is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

SUITES: Mapping[
    str, tuple[tuple[str, ...], tuple[str, ...], float]
] = {  # name -> tasks that measure it, metrics summed, what a score of 100 % is
    "MME": (("mme",), ("mme_perception_score", "mme_cognition_score"), 2800),
    "POPE": (("pope",), ("pope_accuracy",), 1),
    "MMBench": (("mmbench_en_dev", "mmbench_en_dev_static"), ("gpt_eval_score",), 100),
    "SEED-Bench": (("seedbench",), ("seed_all",), 1),
    "ScienceQA": (("scienceqa_img",), ("exact_match",), 1),
}


def results_of(path: Path) -> dict[str, dict]:
    """{task: metrics} of a results file, or of all files below a folder, newer ones over older.

    Raises SystemExit where there is none.
    """
    files = (
        [path]
        if path.is_file()
        else sorted(path.rglob("*results.json"), key=lambda file: (file.stat().st_mtime, file.name))
    )
    found: dict[str, dict] = {}
    for file in files:
        found |= json.loads(file.read_text(encoding="utf-8")).get("results", {})
    if not found:
        raise SystemExit(
            f"Found no results of lmms-eval in {path}; expected a ..._results.json; give the folder"
            " of --output_path."
        )
    return found


def scores(results: Mapping[str, Mapping]) -> dict[str, float]:
    """{suite: score as a share 0..1} of the suites that were run; metric names may carry a filter's
    name behind a comma.
    """
    found = {}
    for suite, (tasks, metrics, whole) in SUITES.items():
        for task in tasks:
            values = [
                next(
                    (
                        float(value)
                        for key, value in results.get(task, {}).items()
                        if key.split(",")[0] == metric
                    ),
                    None,
                )
                for metric in metrics
            ]
            if None not in values:
                found[suite] = sum(values) / whole
    return found


def kept(full: Mapping[str, float], pruned: Mapping[str, float]) -> float:
    """Mean over the suites that both ran of pruned / full. Raises SystemExit for none."""
    both = [suite for suite in full if suite in pruned and full[suite]]
    if not both:
        raise SystemExit(
            "Found no suite that both models ran; expected the same tasks; run lmms-eval with the"
            " same --tasks."
        )
    return sum(pruned[suite] / full[suite] for suite in both) / len(both)


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown; the first row is the full model.

    Each cell: score in percent, and what it is of the full model's.
    """
    full = next(iter(rows.values()))
    lines = [
        "| model | " + " | ".join(full) + " | accuracy kept |",
        "| --- |" + " --- |" * (len(full) + 1),
    ]
    for name, row in rows.items():
        cells = [
            f"{row[suite]:.1%} ({row[suite] / full[suite]:.1%})" if suite in row else "-"
            for suite in full
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {kept(full, row):.1%} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, help="results of the full model, then of each pruned one"
    )
    parser.add_argument("--json", type=Path, help="write the scores as JSON too")
    args = parser.parse_args(argv)
    rows = {
        path.stem.removesuffix("_results") if path.is_file() else path.name: scores(
            results_of(path)
        )
        for path in args.runs
    }
    if len(rows) < len(args.runs):
        raise SystemExit(
            "Found runs of the same name; expected different ones; rename the folders."
        )
    if args.json:
        full = next(iter(rows.values()))
        args.json.write_text(
            json.dumps(
                {name: {"scores": row, "kept": kept(full, row)} for name, row in rows.items()},
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )
    print(table(rows))


if __name__ == "__main__":
    main()
