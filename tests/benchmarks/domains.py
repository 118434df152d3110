"""Does it matter which questions redundancy is measured on? `python tests/benchmarks/domains.py`
-> results/domains.json and the second table of results/token_sets.md.

After "Understanding Pruning Regimes in Vision-Language Models Through Domain-Aware Layer Selection"
(2603.20275), which ranks layers by the similarity of their input and output on questions of one
domain, or mixes the domains' rankings. Here the domains are kinds of the world's questions. Every
choice of layers answers the same questions of each domain, without compensation. Intervals are over
calibration sets and questions together.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from arena_statistics import Table, difference, kept
from marks import PAGES, between, rewrite
from token_sets import Asked, most_redundant

import svl_core as svl
from svl_core.demo.labelled import Labelled
from svl_core.demo.questions import labelled
from svl_core.demo.worlds import WORLDS, World
from svl_core.pruning.plan import manual_plan

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "domains.json", PAGES / "token_sets.md"
BEGIN, END = "<!-- figures: tests/benchmarks/domains.py -->", "<!-- end of domains -->"
COUNTING = ("count-all", "count-category", "count-object", "compare")
PLACES = (
    "what-at",
    "where",
    "where-category",
    "is-at",
    "relation",
    "side",
    "next",
    "which-next",
)
DOMAINS = {
    "counting": COUNTING,
    "places": PLACES,
    "names": ("which", "exists-object", "exists-category", "colour"),
}
MIXED = "mixed"
"""Stands for the mean of the domains' scores."""

CRITERIA = ("svl", "shortgpt")
DROPS = (3, 5, 8)
FEW = 32  # calibration samples of one domain
QUESTION_SEED = 4_005


def of_domain(domain: str, n: int, seed: int, world: World) -> list[Labelled]:
    """`n` questions of the kinds of a domain."""
    found: list[Labelled] = []
    drawn = 4 * n
    while len(found) < n:
        asked = labelled(drawn, seed, world=world)
        found = [one for one in asked if one.kind in DOMAINS[domain]]
        drawn *= 2
    return found[:n]


def scores_by_domain(lvlm, seed: int, world: World) -> dict[tuple[str, str], np.ndarray]:
    """(layers,) redundancy by (criterion, domain) of one calibration set of each domain, and the
    domains' mean under `MIXED`.
    """
    found = {}
    for domain in DOMAINS:
        pairs = of_domain(domain, FEW, 1_000_000 + seed, world)
        trace = svl.trace(lvlm, [lvlm.encode(*pair) for pair in pairs])
        importance = svl.importance(trace)
        for criterion in CRITERIA:
            scores = svl.redundancy(trace, importance, criterion)
            found[criterion, domain] = np.asarray(scores.scores, float)
    for criterion in CRITERIA:
        own = [found[criterion, domain] for domain in DOMAINS]
        found[criterion, MIXED] = np.mean(own, axis=0)
    return found


def measured(lvlm, world: World, seeds: int, n: int) -> dict:
    """By "criterion domain drop": the layers of each calibration set, and for each domain the
    accuracy kept and the difference to the mixed ranking.
    """
    asked = {domain: Asked(lvlm, of_domain(domain, n, QUESTION_SEED, world)) for domain in DOMAINS}
    chosen: dict[tuple[str, str, int], list[tuple[int, ...]]] = {}
    for seed in range(seeds):
        for (criterion, domain), scores in scores_by_domain(lvlm, seed, world).items():
            for drop in DROPS:
                layers = most_redundant(scores, drop)
                chosen.setdefault((criterion, domain, drop), []).append(layers)
        print(f"calibration set {seed + 1} of {seeds}", file=sys.stderr)
    plans = {layers for own in chosen.values() for layers in own}
    models = {
        layers: svl.prune(lvlm, manual_plan(layers, lvlm.num_layers)) for layers in sorted(plans)
    }
    rows: dict[str, dict] = {}
    clusters = np.arange(n)
    for questions, one in asked.items():
        one.marks({"full": lvlm} | models)
        full = [Table(one.known["full"][None], clusters)]
        tables = {
            key: [Table(np.stack([one.known[layers] for layers in own]), clusters)]
            for key, own in chosen.items()
        }
        for (criterion, domain, drop), table in tables.items():
            row = rows.setdefault(
                f"{criterion} {domain} {drop}",
                {"layers": [list(layers) for layers in chosen[criterion, domain, drop]]},
            )
            row[questions] = {
                "kept": kept(table, full).to_json(),
                "minus mixed": difference(table, tables[criterion, MIXED, drop]).to_json(),
            }
    accuracies = {domain: float(one.known["full"].mean()) for domain, one in asked.items()}
    return {"full": accuracies, "questions": n, "models": len(models), "rows": rows}


def table(made: dict) -> str:
    """The figures as Markdown."""
    full = ", ".join(f"{name} {value:.1%}" for name, value in made["full"].items())
    lines = [
        f"{made['questions']} questions of each domain, {made['seeds']} calibration sets of {FEW}"
        f" samples a domain, {made['models']} different pruned models. The full model is right in:"
        f" {full}. Accuracy kept in percent of that, and in brackets the 95 % interval of the"
        " difference to the mixed ranking, in points.",
        "",
        "| criterion | measured on | dropped | " + " | ".join(DOMAINS) + " | mean |",
        "|---" * (4 + len(DOMAINS)) + "|",
    ]
    for criterion in CRITERIA:
        for drop in DROPS:
            for domain in (*DOMAINS, MIXED):
                row = made["rows"][f"{criterion} {domain} {drop}"]
                cells = [_cell(row[asked], domain) for asked in DOMAINS]
                mean = np.mean([row[asked]["kept"]["value"] for asked in DOMAINS])
                lines.append(
                    f"| {criterion} | {domain} | {drop} | "
                    + " | ".join(cells)
                    + f" | {100 * mean:.1f} |"
                )
    return "\n".join(lines)


def _cell(found: dict, domain: str) -> str:
    kept_here = f"{100 * found['kept']['value']:.1f}"
    if domain == MIXED:
        return kept_here
    low, high = found["minus mixed"]["interval"]
    return f"{kept_here} ({100 * low:+.1f} to {100 * high:+.1f})"


def with_figures(text: str, made: dict) -> str:
    """The page with its figures made anew."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a folder (default: the bundled model)")
    parser.add_argument("--world", default="grid", choices=sorted(WORLDS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--questions", type=int, default=300, help="of each domain")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    made = {
        "world": args.world,
        "seeds": args.seeds,
        **measured(svl.load(args.model), WORLDS[args.world], args.seeds, args.questions),
    }
    args.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
