"""Does it matter on which tokens redundancy is measured? `python tests/benchmarks/token_sets.py`
and the same with `--model FOLDER --world free` -> results/token_sets.json, the first tables of
results/token_sets.md and the figure results/token_sets.svg.

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
from marks import PAGES, between

import svl_core as svl
from svl_core.analysis.measures import layer_cosines
from svl_core.analysis.redundancy import ranked as in_order
from svl_core.demo.labelled import Labelled
from svl_core.demo.questions import ask, labelled
from svl_core.demo.scenes import SIZE, Scene, box, random_scene, render
from svl_core.demo.worlds import FREE, PATCH, WORLDS, World
from svl_core.figures.still import still
from svl_core.figures.style import TOKEN_SETS, drawn
from svl_core.pruning.plan import manual_plan

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "token_sets.json", PAGES / "token_sets.md"
FIGURE = PAGES / "token_sets.svg"
BEGIN, END = "<!-- figures: tests/benchmarks/token_sets.py -->", "<!-- end of figures -->"
SETS = {
    "svl": "important tokens (SVL)",
    "svl 10%": "important tokens, the top 10 %",
    "svl-all": "all tokens",
    "svl-visual": "visual tokens",
    "svl-textual": "text tokens",
    "svl-last": "the last token",
    "objects": "patches of objects, known from the scene",
    "ground": "patches of ground alone, known from the scene",
}
FEWER = "svl 10%"
BESIDE = {"svl": "minus svl", "svl-all": "minus all"}
"""Token sets that all others are set against, with the names of the differences."""

PAIRS = ("svl, all", "top 10 %, all", "ground, objects")
CRITERIA = ("svl", "svl-all", "svl-visual", "svl-textual", "svl-last")
DROPS = (3, 5, 8)
FEW = 32  # calibration samples that rankings see
QUESTION_SEED = 4_004
SHARES = (0.15, 0.35, 0.55, 0.75, 0.95)  # of the patches that show ground alone
NEAR = 0.05  # a scene belongs to a share that it is this near to


def ground_of(scene: Scene, world: World) -> np.ndarray:
    """(patches,) of a picture, True where no object's box touches one."""
    count = world.side // PATCH
    wide = SIZE // count  # px of a patch where boxes are counted
    ground = np.ones((count, count), bool)
    for item in scene.items:
        left, top, width, height = box(item)
        across = slice(max(left, 0) // wide, (left + width - 1) // wide + 1)
        down = slice(max(top, 0) // wide, (top + height - 1) // wide + 1)
        ground[down, across] = False
    return ground.ravel()


def with_ground(share: float, n: int, seed: int) -> list[Labelled]:
    """`n` questions on scenes of the free world of which about that share is ground."""
    rng = np.random.default_rng([seed, round(100 * share)])
    found: list[Labelled] = []
    while len(found) < n:
        scene = random_scene(
            rng,
            n=int(rng.integers(1, 10)),
            world=FREE,
        )
        if abs(ground_of(scene, FREE).mean() - share) > NEAR:
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


def scene_of(one: Labelled) -> Scene:
    """The scene that a question is about."""
    assert isinstance(one.open, functools.partial), "scenes are rendered when asked for"
    return one.open.args[0]


def ranked(lvlm, asked: list[Labelled], world: World) -> tuple:
    """(trace, importance, {token set: (layers,) redundancy}) on calibration questions."""
    samples = [lvlm.encode(*one) for one in asked]
    trace = svl.trace(lvlm, samples)
    importance = svl.importance(trace)
    scores = {name: svl.redundancy(trace, importance, name).scores for name in CRITERIA}
    scores[FEWER] = svl.redundancy(trace, importance, "svl", top_p=0.1).scores
    grounds = [ground_of(scene_of(one), world) for one in asked]
    visual = [sample.visual for sample in trace.samples]
    for name, wanted in (("ground", True), ("objects", False)):
        positions = [own[ground == wanted] for own, ground in zip(visual, grounds, strict=True)]
        scores[name] = layer_cosines(trace, positions)
    return trace, importance, {name: np.asarray(own, float) for name, own in scores.items()}


def most_redundant(scores: np.ndarray, drop: int) -> tuple[int, ...]:
    """The `drop` layers of the highest scores, but for the first and the last one."""
    order = in_order(scores, (0, len(scores) - 1))
    return tuple(sorted(order[:drop]))


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
    """For each token set and drop count: the layers by seed, the accuracy kept, and the difference
    to that of `BESIDE`.
    """
    asked = Asked(lvlm, labelled(n, QUESTION_SEED, world=world))
    asked.marks({"full": lvlm})
    chosen: dict[tuple[str, int], list] = {}
    for seed in range(seeds):
        pairs = labelled(
            FEW,
            1_000_000 + seed,
            world=world,
        )
        trace, importance, scores = ranked(lvlm, pairs, world)
        models = {}
        for name in SETS:
            for drop in DROPS:
                layers = most_redundant(scores[name], drop)
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
        for other, words in BESIDE.items():
            keys = chosen[other, drop]
            theirs = [Table(np.stack([asked.known[key] for key in keys]), clusters)]
            row[words] = difference(table, theirs).to_json()
        rows[f"{name} {drop}"] = row
    return {"full": float(asked.known["full"].mean()), "questions": n, "rows": rows}


def by_ground(lvlm, n: int) -> list[dict]:
    """For each share of ground: redundancy of each layer on important and on all tokens, how alike
    pairs of token sets rank the layers, and the largest length of a hidden state against the median
    one, of the layer where that is most.
    """
    from scipy.stats import spearmanr

    def alike(one: np.ndarray, other: np.ndarray) -> float:
        return float(spearmanr(one[1:-1], other[1:-1])[0])

    found = []
    for share in SHARES:
        trace, _, scores = ranked(lvlm, with_ground(share, n, 1), FREE)
        found.append(
            {
                "ground": share,
                **{name: scores[name].tolist() for name in ("svl", FEWER, "svl-all")},
                "svl, all": alike(scores["svl"], scores["svl-all"]),
                "top 10 %, all": alike(scores[FEWER], scores["svl-all"]),
                "ground, objects": alike(scores["ground"], scores["objects"]),
                "longest": max(map(_longest, trace.samples)),
            }
        )
    return found


def _longest(sample) -> float:
    """The longest hidden state between two layers as a multiple of the median one."""
    lengths = np.linalg.norm(np.asarray(sample.features, float)[1:-1], axis=2)
    return float((lengths.max(1) / np.median(lengths, 1)).max())


def _cell(row: dict, name: str) -> str:
    """A row's accuracy kept, with what sets it apart from all tokens."""
    share = f"{100 * row['kept']['value']:.1f}"
    if name == "svl-all":
        return share
    found = row["minus all"]
    low, high = found["interval"]
    return f"{share} ({100 * found['value']:+.1f}; {100 * low:+.1f} to {100 * high:+.1f})"


MODELS = {
    "grid": "The bundled model: 36 visual tokens, nearly all of them of objects",
    "free": "A model of the free world: 144 visual tokens, most of them of the ground",
}
"""What the worlds' models are, as headings."""


def tables(made: dict) -> str:
    """The figures of every model as Markdown. made: by world."""
    parts = [f"### {MODELS[world]}\n\n{table(made[world])}" for world in MODELS if world in made]
    return "\n\n".join(parts)


def with_figures(text: str, made: dict) -> str:
    """The page with its figures made anew."""
    return between(text, BEGIN, END, tables(made))


def figure(made: dict) -> str:
    """Redundancy on important and on all tokens against the share of ground, as SVG: the mean of
    the layers that may go. made: by world.
    """
    rows = made["free"]["ground"]
    lines = []
    for name, of in (("svl", "important"), ("svl-all", "all")):
        look = TOKEN_SETS[of]
        lines.append(
            {
                "type": "scatter",
                "x": [100 * row["ground"] for row in rows],
                "y": [float(np.mean(row[name][1:-1])) for row in rows],
                "name": look["label"],
                "mode": "lines+markers",
                "line": {"color": look["colour"], "dash": look["dash"], "width": 2.5},
                "marker": {"symbol": look["symbol"], "size": 8},
            }
        )
    plot = drawn(
        lines,
        x="ground, % of the patches",
        y="mean cosine of the layers",
        height=360,
        legend=True,
    )
    drawing = still(
        plot.to_json(),
        "Redundancy on important and on all tokens against the share of ground",
    )
    return drawing.replace("<svg", '<svg style="background:#fff;color:#222"', 1) + "\n"


def table(made: dict) -> str:
    """The figures of one model as Markdown."""
    rows = made["choices"]["rows"]
    lines = [
        f"{made['choices']['questions']:,} questions, {made['seeds']} calibration sets of {FEW}"
        f" samples; the full model is right in {made['choices']['full']:.1%} of them."
        " Accuracy kept in percent of that; in brackets the difference to all tokens in points,"
        " with its 95 % interval over sets and questions together.",
        "",
        "| tokens | " + " | ".join(f"{drop} dropped" for drop in DROPS) + " |",
        "|---" * (1 + len(DROPS)) + "|",
    ]
    names = SETS | {"svl + SCP": "important tokens, with SCP"}
    for name, words in names.items():
        cells = [_cell(rows[f"{name} {drop}"], name) for drop in DROPS]
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
    if not made["ground"]:
        return "\n".join(lines)
    lines += [
        "",
        "Rank correlation of the layers' redundancy on two token sets, by the share of the patches"
        " that shows ground alone; and the longest hidden state against the median one.",
        "",
        "| ground | important and all tokens | the top 10 % and all tokens | ground and objects |"
        " longest |",
        "|---|---|---|---|---|",
    ]
    for row in made["ground"]:
        cells = [f"{row[name]:.2f}" for name in PAIRS]
        lines.append(f"| {row['ground']:.0%} | {' | '.join(cells)} | {row['longest']:.1f} times |")
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
    own = {
        "model": args.model,
        "seeds": args.seeds,
        "choices": measured(
            lvlm,
            WORLDS[args.world],
            args.seeds,
            args.questions,
        ),
        "ground": by_ground(lvlm, 4 * FEW) if WORLDS[args.world].free else [],
    }
    known = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    made = known | {args.world: own}
    args.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if args.out == RESULTS:
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
        if "free" in made:
            FIGURE.write_text(figure(made), encoding="utf-8")
    print(table(own))


if __name__ == "__main__":
    main()
