"""What each part of the preset `best` brings: `python tests/benchmarks/refit_parts.py`.

One part at a time is put back (the attention's projection, the order of both, the pictures of one
shape in the calibration set, the weight of answers, the ridge, the number of samples), for fixed
sets of layers, so that the choice of layers plays no part. Accuracy kept is measured on scenes and
on easy-VQA, with questions that no other benchmark asks. Results go to results/refit_parts.json
and, as a table, to results/arena.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from arena import answer_ids, layers_of_model, start
from batched_match import batched_exact_match
from marks import PAGES, between, rewrite

RESULTS = Path(__file__).parent / "results" / "refit_parts.json"
PAGE = PAGES / "arena.md"
BEGIN, END = "<!-- parts: tests/benchmarks/refit_parts.py -->", "<!-- end of parts -->"

LAYER_SETS = ((2, 3, 6, 8, 9, 11, 12, 13), (3, 5, 6, 8, 9, 11, 12, 13))
"""Halves of the bundled model's layers: one that bears a fit on scenes alone, and one that does
not.
"""

QUESTION_SEED = 9_009
BOTH = ("mlp", "attention")


@dataclass(frozen=True)
class Part:
    """One way to fit.

    what: its name in the table.
    targets, answer_weight, ridge: as in `Recipe`.
    order: in which the projections of a layer are fitted.
    samples: of the calibration set.
    shapes: whether pictures of one shape are among them.
    """

    what: str
    targets: tuple[str, ...] = BOTH
    answer_weight: float = 5.0
    ridge: float = 0.1
    order: tuple[str, ...] = BOTH
    samples: int = 640
    shapes: bool = True


PARTS = (
    Part("the preset `best`"),
    Part("256 samples, as on the page", samples=256),
    Part("1,280 samples", samples=1280),
    Part("scenes alone", shapes=False),
    Part("the MLP's projection alone", targets=("mlp",)),
    Part("the attention's projection first", order=("attention", "mlp")),
    Part("answers weighted 20", answer_weight=20.0),
    Part("ridge 0.3", ridge=0.3),
    Part("ridge 0.03", ridge=0.03),
    Part(
        "none of it: MLP alone, scenes alone, 512, answers 20",
        ("mlp",),
        20.0,
        0.1,
        BOTH,
        512,
        False,
    ),
)


def calibration_trace(lvlm, part: Part, seed: int):
    """A trace of the part's calibration samples."""
    import svl_core as svl
    from svl_core.demo.questions import calibration, labelled

    pairs = calibration(part.samples, seed)
    if not part.shapes:
        pairs = labelled(part.samples, 1_000_000 + seed)
    return svl.trace(lvlm, [lvlm.encode(*pair) for pair in pairs])


def fitted(lvlm, part: Part, layers: Sequence[int], trace):
    """The model without `layers`, refitted as the part says."""
    import svl_core as svl
    from svl_core.pruning import refit

    usual = refit.ORDER
    refit.ORDER = part.order
    try:
        return svl.prune(
            lvlm,
            svl.manual_plan(layers, lvlm.num_layers),
            "refit",
            trace,
            targets=part.targets,
            answer_weight=part.answer_weight,
            ridge=part.ridge,
        )
    finally:
        refit.ORDER = usual


def asked(lvlm, data: str, n: int) -> tuple[list, list]:
    """(samples, token ids of the answers) of n questions; easy-VQA's from its training part, of
    whose pictures the calibration holds none.
    """
    from svl_core.demo import easy_vqa
    from svl_core.demo.evaluation import questions

    if data == "easy-vqa":
        rng = np.random.default_rng(QUESTION_SEED)
        groups = easy_vqa.grouped("train")
        chosen = [groups[number] for number in rng.permutation(len(groups))[:n]]
        triples = [(image(), *pairs[rng.integers(len(pairs))]) for image, pairs in chosen]
    else:
        found = questions(data, n, QUESTION_SEED)
        triples = [(one.image, one.question, one.answer) for one in found]
    samples = [lvlm.encode(image, question) for image, question, _ in triples]
    return samples, [answer_ids(lvlm, answer) for *_, answer in triples]


def measure(n: int, seeds: int) -> dict:
    lvlm = start()
    models, places = [], []
    for seed in range(seeds):
        for part in PARTS:
            trace = calibration_trace(lvlm, part, seed)
            for layers in LAYER_SETS:
                models.append(fitted(lvlm, part, layers, trace))
                places.append((part.what, layers))
            print(seed, part.what, flush=True)
    kept = {}
    for data in ("scenes", "easy-vqa"):
        samples, answers = asked(lvlm, data, n)
        shares = batched_exact_match(lvlm, [lvlm, *models], samples, answers).mean(1)
        kept[data] = shares[1:] / shares[0]
    rows = []
    for part in PARTS:
        for layers in LAYER_SETS:
            at = [i for i, place in enumerate(places) if place == (part.what, layers)]
            values = {data: [float(found[i]) for i in at] for data, found in kept.items()}
            rows.append({"part": asdict(part), "layers": list(layers), "kept": values})
    return {"questions": n, "seeds": seeds, "layers": layers_of_model(), "rows": rows}


def table(made: dict) -> str:
    """The figures as Markdown."""
    sets = [list(layers) for layers in LAYER_SETS]
    named = " and ".join(str(layers) for layers in sets)
    lines = [
        f"Accuracy kept in per cent without the layers {named} of {made['layers']}: scenes /"
        f" easy-VQA, {made['questions']:,} questions of each, mean of {made['seeds']} calibration"
        " seeds. One part of the preset is changed in each row.",
        "",
        "| fit | first set | second set |",
        "| --- | --- | --- |",
    ]
    for part in PARTS:
        cells = []
        for layers in sets:
            row = next(
                row
                for row in made["rows"]
                if row["part"]["what"] == part.what and row["layers"] == layers
            )
            means = [f"{100 * np.mean(values):.1f}" for values in row["kept"].values()]
            cells.append(" / ".join(means))
        lines.append(f"| {part.what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=600, metavar="N")
    parser.add_argument("--seeds", type=int, default=2, metavar="K")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    made = measure(args.questions, args.seeds)
    args.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
