"""Does it matter on which tokens redundancy is measured? `python tests/benchmarks/token_sets.py
[--model FOLDER --world free]` -> results/token_sets.json and results/token_sets.md.

Layers are ranked on each set of tokens, on several calibration sets, and every choice of layers
answers the same questions, without compensation and, for the important tokens, with SCP. Intervals
are over calibration sets and questions together. Then the same model sees scenes in which ever more
of the picture is ground, and the redundancy on important tokens is set against that on all tokens.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path

import numpy as np
from arena import answer_ids
from arena_statistics import Table, difference, kept
from batched_match import batched_exact_match
from marks import PAGES, rewrite

import svl_core as svl
from svl_core.demo.labelled import Labelled
from svl_core.demo.questions import ask, labelled
from svl_core.demo.scenes import SIZE, Scene, box, random_scene, render
from svl_core.demo.worlds import FREE, PATCH, WORLDS, World
from svl_core.pruning.plan import manual_plan

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "token_sets.json", PAGES / "token_sets.md"
BEGIN, END = "<!-- figures: tests/benchmarks/token_sets.py -->", "<!-- end of figures -->"
SETS = {
    "svl": "important tokens (SVL)",
    "svl-all": "all tokens",
    "svl-visual": "visual tokens",
    "svl-textual": "text tokens",
    "svl-last": "the last token",
}
DROPS = (3, 5, 8)
FEW = 32  # calibration samples that rankings see
QUESTION_SEED = 4_004
SHARES = (0.35, 0.5, 0.65, 0.8, 0.95)  # of the patches that show ground alone
NEAR = 0.05  # a scene belongs to a share that it is this near to


def ground_share(scene: Scene) -> float:
    """Share 0..1 of the patches that no object's box touches."""
    count = SIZE // PATCH
    ground = np.ones((count, count), bool)
    for item in scene.items:
        left, top, width, height = box(item)
        across = slice(max(left, 0) // PATCH, (left + width - 1) // PATCH + 1)
        down = slice(max(top, 0) // PATCH, (top + height - 1) // PATCH + 1)
        ground[down, across] = False
    return float(ground.mean())


def with_ground(share: float, n: int, seed: int) -> list[Labelled]:
    """`n` questions on scenes of the free world of which about that share is ground."""
    rng = np.random.default_rng([seed, round(100 * share)])
    found: list[Labelled] = []
    while len(found) < n:
        scene = random_scene(
            rng,
            n=int(rng.integers(1, 8)),
            world=FREE,
        )
        if abs(ground_share(scene) - share) > NEAR:
            continue
        asked = ask(
            scene,
            rng,
            FREE.kinds[len(found) % len(FREE.kinds)],
            FREE,
        )
        if asked:
            picture = functools.partial(render, scene)
            found.append(
                Labelled(
                    picture,
                    asked.question,
                    asked.answer,
                    asked.kind,
                )
            )
    return found


def ranked(lvlm, pairs) -> tuple:
    """(trace, importance, scores by token set) on calibration pairs."""
    samples = [lvlm.encode(*pair) for pair in pairs]
    trace = svl.trace(
        lvlm,
        samples,
        mlp=True,
    )
    importance = svl.importance(trace)
    scores = {
        name: svl.redundancy(
            trace,
            importance,
            name,
        )
        for name in SETS
    }
    return trace, importance, scores


class Asked:
    """The marks of pruned models on the same questions, each different model asked once."""

    def __init__(self, lvlm, questions):
        self.lvlm = lvlm
        self.samples = [lvlm.encode(*pair) for pair in questions]
        self.answers = [answer_ids(lvlm, one.answer) for one in questions]
        self.known: dict[tuple, np.ndarray] = {}

    def marks(self, models: dict) -> None:
        """Asks those of {key: model} that are not known yet."""
        new = {key: model for key, model in models.items() if key not in self.known}
        if not new:
            return
        found = batched_exact_match(
            self.lvlm,
            list(new.values()),
            self.samples,
            self.answers,
        )
        self.known.update(zip(new, found, strict=True))


def measured(lvlm, world: World, seeds: int, n: int) -> dict:
    """For each token set and drop count: the layers by seed and the accuracy kept."""
    asked = Asked(lvlm, labelled(n, QUESTION_SEED, world=world))
    asked.marks({"full": lvlm})
    chosen: dict[tuple[str, int], list] = {}
    for seed in range(seeds):
        pairs = labelled(
            FEW,
            1_000_000 + seed,
            world=world,
        )
        trace, importance, scores = ranked(lvlm, pairs)
        models = {}
        for name in SETS:
            for drop in DROPS:
                layers = tuple(sorted(scores[name].chosen(drop)))
                plan = manual_plan(layers, lvlm.num_layers)
                models[layers] = svl.prune(lvlm, plan)
                chosen.setdefault((name, drop), []).append(layers)
                if name == "svl":
                    key = (*layers, "scp", seed)
                    models[key] = svl.prune(
                        lvlm,
                        plan,
                        "scp",
                        trace,
                        importance,
                    )
                    chosen.setdefault(("svl + SCP", drop), []).append(key)
        asked.marks(models)
        print(f"calibration set {seed + 1} of {seeds}", file=sys.stderr)
    clusters = np.arange(n)
    full = [Table(asked.known["full"][None], clusters)]
    rows = {}
    for (name, drop), keys in chosen.items():
        table = [Table(np.stack([asked.known[key] for key in keys]), clusters)]
        row = {"layers": [[one for one in key if isinstance(one, int)] for key in keys]}
        row["layers"] = [layers[:drop] for layers in row["layers"]]
        row["kept"] = kept(table, full).to_json()
        own = chosen["svl", drop]
        svl_table = [Table(np.stack([asked.known[key] for key in own]), clusters)]
        row["minus svl"] = difference(table, svl_table).to_json()
        rows[f"{name} {drop}"] = row
    return {"full": float(asked.known["full"].mean()), "questions": n, "rows": rows}


def by_ground(lvlm, n: int) -> list[dict]:
    """For each share of ground: redundancy of each layer on important and on all tokens, how alike
    the two rank the layers, and the share of visual tokens that are important.
    """
    from scipy.stats import spearmanr

    found = []
    for share in SHARES:
        _, _, scores = ranked(lvlm, with_ground(share, n, 1))
        important, all_tokens = (
            list(map(float, scores[name].scores)) for name in ("svl", "svl-all")
        )
        found.append(
            {
                "ground": share,
                "important": important,
                "all": all_tokens,
                "rank correlation": float(spearmanr(important, all_tokens)[0]),
            }
        )
    return found


def percent(estimate: dict) -> str:
    low, high = estimate["interval"]
    return f"{100 * estimate['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def points(estimate: dict) -> str:
    low, high = estimate["interval"]
    return f"{100 * estimate['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def table(made: dict) -> str:
    """The figures as Markdown."""
    rows = made["choices"]["rows"]
    lines = [
        f"{made['choices']['questions']:,} questions, {made['seeds']} calibration sets of {FEW}"
        f" samples; the full model is right in {made['choices']['full']:.1%} of them."
        " Accuracy kept in percent of that, with 95 % intervals over sets and questions together,"
        " and the difference to SVL in points.",
        "",
        "| tokens | " + " | ".join(f"{drop} dropped | minus SVL" for drop in DROPS) + " |",
        "|---" * (1 + 2 * len(DROPS)) + "|",
    ]
    names = SETS | {"svl + SCP": "important tokens, with SCP"}
    for name, words in names.items():
        cells = []
        for drop in DROPS:
            row = rows[f"{name} {drop}"]
            cells += [percent(row["kept"]), "" if name == "svl" else points(row["minus svl"])]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Different choices of layers among the calibration sets, and sets on which the choice is"
        " that of SVL:",
        "",
        "| tokens | " + " | ".join(f"{drop} dropped" for drop in DROPS) + " |",
        "|---" * (1 + len(DROPS)) + "|",
    ]
    for name, words in SETS.items():
        cells = []
        for drop in DROPS:
            own = rows[f"{name} {drop}"]["layers"]
            same = sum(a == b for a, b in zip(own, rows[f"svl {drop}"]["layers"], strict=True))
            cells.append(f"{len({tuple(one) for one in own})}; {same} of {len(own)}")
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| ground, share of the patches | rank correlation of the layers' redundancy on important"
        " and on all tokens |",
        "|---|---|",
    ]
    for row in made["ground"]:
        lines.append(f"| {row['ground']:.0%} | {row['rank correlation']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="a folder (default: the bundled model)")
    parser.add_argument("--world", default="grid", choices=sorted(WORLDS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--questions", type=int, default=680)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    lvlm = svl.load(args.model)
    made = {
        "world": args.world,
        "seeds": args.seeds,
        "choices": measured(
            lvlm,
            WORLDS[args.world],
            args.seeds,
            args.questions,
        ),
        "ground": by_ground(lvlm, 4 * FEW),
    }
    args.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if args.out == RESULTS:
        rewrite(
            PAGE,
            BEGIN,
            END,
            table(made),
        )
    print(table(made))


if __name__ == "__main__":
    main()
