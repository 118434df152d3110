"""Whole layers or halves of layers: `python tests/benchmarks/halves.py [--limit 390]`.

The bundled model loses as many halves, once as whole layers and once as whichever halves rank
first, uncompensated; and as many attentions or MLPs alone, where there are enough. Accuracy kept is
measured on scenes that no other benchmark asks about, what an answer costs is counted. Results go
to results/halves.json and, as a table, to results/halves.md.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from marks import PAGES, between, rewrite

RESULTS = Path(__file__).parent / "results" / "halves.json"
PAGE = PAGES / "halves.md"
BEGIN, END = "<!-- figures: tests/benchmarks/halves.py -->", "<!-- end of figures -->"
GUIDE = Path(__file__).resolve().parents[2] / "svl_core" / "GUIDE.md"
WORDS_BEGIN = "<!-- halves in words: tests/benchmarks/halves.py -->"
WORDS_END = "<!-- end of halves in words -->"

CRITERIA = ("svl", "greedy-kl")
BUDGETS = (8, 16)
"""Halves that go."""
KINDS = ("layers", "halves", "attention", "mlp")
QUESTION_SEED = 17_005
CALIBRATION_SIZE, CALIBRATION_SEED = 16, 7


def plans_of(layers, halves) -> dict[tuple[str, int], Any]:
    """(kind, budget) -> the plan, where there are so many that may go.

    layers, halves: the rankings of both granularities.
    """
    import svl_core as svl

    plans = {}
    count = layers.num_layers
    alone = {
        half: [number // 2 for number in halves.ranking if number % 2 == place]
        for place, half in enumerate(("attention", "mlp"))
    }
    for budget in BUDGETS:
        plans["layers", budget] = svl.plan(layers, budget // 2)
        plans["halves", budget] = svl.plan(halves, budget)
        for half, ranked in alone.items():
            if budget <= len(ranked):
                chosen = {half: ranked[:budget]}
                plans[half, budget] = svl.manual_plan([], count, **chosen)
    return plans


def measure(limit: int, log=print) -> dict[str, Any]:
    """Everything that the table holds."""
    import svl_core as svl
    from svl_core.comparison.speed import possible
    from svl_core.demo.evaluation import questions
    from svl_core.demo.questions import calibration
    from svl_core.files import weights_hash
    from svl_core.lvlm.features import FeatureStore

    lvlm = svl.load("demo")
    seen = FeatureStore()
    pairs = questions("scenes", limit, QUESTION_SEED)
    full = svl.evaluate(lvlm, pairs, known=seen).accuracy
    samples = [lvlm.encode(*pair) for pair in calibration(CALIBRATION_SIZE, CALIBRATION_SEED)]
    read = svl.trace(lvlm, samples)
    weights = svl.importance(read)
    rows = []
    for criterion in CRITERIA:
        scores = [
            svl.redundancy(
                read,
                weights,
                criterion,
                lvlm=lvlm,
                samples=samples,
                rounds=BUDGETS[-1],
                granularity=granularity,
            )
            for granularity in ("layer", "half")
        ]
        log(criterion, "ranked")
        for (kind, budget), plan in plans_of(*scores).items():
            pruned = svl.prune(lvlm, plan)
            allowed = possible((lvlm, samples[0]), (pruned, samples[0]))
            asked = svl.evaluate(pruned, pairs, known=seen)
            rows.append(
                {
                    "criterion": criterion,
                    "kind": kind,
                    "halves": budget,
                    "layers": list(plan.drop),
                    "attention": list(plan.attention),
                    "mlp": list(plan.mlp),
                    "kept": asked.accuracy / full,
                    "prefill": allowed[0].expected,
                    "decode": allowed[1].expected,
                    "parameters": pruned.num_parameters,
                }
            )
            log(criterion, kind, budget, f"{rows[-1]['kept']:.3f}")
    return {
        "made_by": f"python tests/benchmarks/halves.py --limit {limit}",
        "made": date.today().isoformat(),
        "versions": {"svl_core": svl.__version__},
        "model": "assets/demo_lvlm",
        "weights": weights_hash(lvlm.folder),
        "parameters": lvlm.num_parameters,
        "questions": limit,
        "seed": QUESTION_SEED,
        "calibration": [CALIBRATION_SIZE, CALIBRATION_SEED],
        "accuracy": full,
        "rows": rows,
    }


def _cell(row: Mapping[str, Any] | None) -> str:
    """Accuracy kept, and the speed-up of the prefill that the work left allows."""
    return "-" if row is None else f"{row['kept']:.1%} ({row['prefill']:.2f}x)"


def figures(made: Mapping[str, Any]) -> str:
    """The table of a results file."""
    rows: Sequence[Mapping[str, Any]] = made["rows"]
    lines = [
        f"Of the full model's {made['accuracy']:.1%} on {made['questions']} questions, kept:",
        "",
        "| criterion | halves | as whole layers | whichever first | attention alone | MLP alone |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = {(row["criterion"], row["halves"], row["kind"]): row for row in rows}
    for criterion in CRITERIA:
        for budget in BUDGETS:
            cells = [_cell(found.get((criterion, budget, kind))) for kind in KINDS]
            lines.append(f"| {criterion} | {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_figures(text: str, made: Mapping[str, Any]) -> str:
    return between(text, BEGIN, END, figures(made))


def in_words(made: Mapping[str, Any]) -> str:
    """What the guide says of a results file."""
    kept = {
        (row["criterion"], row["kind"], row["halves"]): f"{100 * row['kept']:.1f} %"
        for row in made["rows"]
    }
    most, few = BUDGETS[-1], BUDGETS[0]
    by_svl = {kind: kept.get(("svl", kind, most)) for kind in ("layers", "halves")}
    by_kl = {kind: kept.get(("greedy-kl", kind, most)) for kind in ("layers", "halves")}
    alone = {half: [kept[name, half, few] for name in CRITERIA] for half in ("attention", "mlp")}
    text = (
        f"Measured on the bundled model, uncompensated, on {made['questions']} questions, which"
        f" tell a share to within four points: without {most} halves it keeps, ranked by SVL,"
        f" {by_svl['layers']} of its accuracy where they are whole layers and {by_svl['halves']}"
        " where they are whichever rank first; by greedy KL"
        f" {by_kl['layers']} and {by_kl['halves']}. Without {few} attentions alone it keeps"
        f" {alone['attention'][0]} by SVL and {alone['attention'][1]} by greedy KL, without {few}"
        f" MLPs alone {alone['mlp'][0]} and {alone['mlp'][1]}: [every figure, with what is saved]"
        "(../tests/benchmarks/results/halves.md)."
    )
    return textwrap.fill(text, 100, break_on_hyphens=False)


def guide_with_words(text: str, made: Mapping[str, Any]) -> str:
    return between(text, WORDS_BEGIN, WORDS_END, in_words(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limit",
        type=int,
        default=390,
        help="questions, of the thirteen kinds in turn (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args()
    made = measure(options.limit)
    options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if options.out == RESULTS:
        rewrite(PAGE, BEGIN, END, figures(made))
        rewrite(GUIDE, WORDS_BEGIN, WORDS_END, in_words(made))
    print(figures(made))


if __name__ == "__main__":
    main()
