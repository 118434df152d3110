"""Measures what the page's lesson tells: `python tests/benchmarks/lesson.py` ->
svl_core/ui/static/lesson.json.

On the bundled model: accuracy by kind of question with each block of three layers skipped, and
accuracy against the number of dropped layers for two token sets and every exportable compensation.
Layers are ranked and compensations fitted on calibration scenes, accuracy is measured on other
questions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from batched_match import batched_exact_match  # noqa: E402

import svl_core as svl  # noqa: E402
from svl_core.comparison.ablation import ablate_questions  # noqa: E402
from svl_core.comparison.evaluation import answer_batch, normalise  # noqa: E402
from svl_core.demo.evaluation import questions  # noqa: E402
from svl_core.demo.questions import calibration  # noqa: E402
from svl_core.ui.state.settings import DEFAULTS  # noqa: E402

OUT = Path(svl.__file__).with_name("ui") / "static" / "lesson.json"
ASKED = 390
"""Questions."""

SEED = 3
"""Of the questions."""

MOST = 10
"""Layers dropped, at most."""

BLOCK = 3
"""Layers skipped together."""

CALIBRATION_SIZE = DEFAULTS.calibration_size
"""Calibration scenes, as on the page."""

CALIBRATION_SEED = DEFAULTS.seed
"""Of the calibration scenes, as on the page."""


def say(*words) -> None:
    """Prints at once, also into a file."""
    print(*words, flush=True)


def measure(asked: int = ASKED, most: int = MOST, log=say) -> dict:
    """{"ablation": accuracy by kind and first layer of the skipped block, "curves": accuracy by
    recipe and drop count, and what they were made from}.
    """
    lvlm = svl.load("demo")
    pairs = questions("scenes", asked, SEED)
    log(f"{len(pairs)} questions; skipping each block in turn")
    skipped = ablate_questions(lvlm, pairs, sizes=(BLOCK,), data="scenes")
    table = skipped.matrix("accuracy", BLOCK)
    full = {kind: skipped.tally(skipped.full, kind).accuracy for kind in skipped.columns}

    samples = [lvlm.encode(pair.image, pair.question) for pair in pairs]
    ids = []
    for start in range(0, asked, 32):
        ids += answer_batch(lvlm, samples[start : start + 32])
    right = [
        normalise(lvlm.tokenizer.decode(tokens, skip_special_tokens=True)) == normalise(pair.answer)
        for tokens, pair in zip(ids, pairs)
    ]
    scenes = calibration(CALIBRATION_SIZE, CALIBRATION_SEED)
    fitted = svl.trace(lvlm, [lvlm.encode(*scene) for scene in scenes], mlp=True)
    weights = svl.importance(fitted)
    recipes = [
        ("svl", "none"),
        ("svl-all", "none"),
        ("svl", "scp"),
        ("svl", "lstsq"),
        ("svl", "refit"),
    ]
    curves = {}
    layers = {}
    for criterion, compensation in recipes:
        log(f"{criterion}, {compensation}")
        scores = svl.redundancy(fitted, weights, criterion)
        pruned = [
            svl.prune(lvlm, svl.plan(scores, drop), compensation, fitted, weights)
            for drop in range(most + 1)
        ]
        marks = batched_exact_match(lvlm, pruned, samples, ids)
        curves[f"{criterion}, {compensation}"] = [
            round(float(row[right].sum()) / asked, 4) for row in marks
        ]
        layers[criterion] = [int(k) for k in scores.ranking[:most]]
    return {
        "made_by": "python tests/benchmarks/lesson.py",
        "model": "assets/demo_lvlm",
        "layers": lvlm.num_layers,
        "questions": asked,
        "seed": SEED,
        "calibration": [CALIBRATION_SIZE, CALIBRATION_SEED],
        "block": BLOCK,
        "full": {
            "accuracy": sum(right) / asked,
            "by_kind": {kind: round(value, 4) for kind, value in full.items()},
        },
        "ablation": {
            kind: [round(float(v), 4) for v in table[:, k]]
            for k, kind in enumerate(skipped.columns)
        },
        "rankings": layers,
        "curves": curves,
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    print(OUT)
