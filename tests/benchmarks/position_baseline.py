"""What each place of the bundled model's image gets whatever the image shows: `python
tests/benchmarks/position_baseline.py [--limit 256]`.

Averages the importance of the patches over scenes, and writes assets/demo_lvlm/positions.json with
what it was made from. The page takes it out of the map that it shows, while the weights' hash
matches. Then says how far scores follow the place, and how the asked object stands out, before and
after, on other scenes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "assets" / "demo_lvlm" / "positions.json"

SEED = 9
"""Of the scenes of the mean; no calibration or evaluation by default draws it."""
ASKED = ("where", "colour", "relation", "count-object")
"""Kinds of question about an object that the picture shows."""


def asked_scenes(count: int, seed: int = 123) -> Iterator[tuple]:
    """(scene, question, items asked about): fresh scenes, the kinds in turn."""
    from svl_core.demo.questions import ask
    from svl_core.demo.scenes import random_scene

    rng = np.random.default_rng([0xA5, seed])
    made = 0
    while made < count:
        scene = random_scene(rng)
        asked = ask(scene, rng, ASKED[made % len(ASKED)])
        items = [item for item in scene.items if asked and f" {item.name}" in f" {asked.question}"]
        if items:
            made += 1
            yield scene, asked.question, items


def covered(items, rects: np.ndarray) -> np.ndarray:
    """(V,) bool: the patches of which more than half lies in the places of these items.

    rects: (V, 4) x0, y0, x1, y1 in 0..1.
    """
    found = np.zeros(len(rects), bool)
    for item in items:
        left, top = item.column / 3, item.row / 3
        across = np.minimum(rects[:, 2], left + 1 / 3) - np.maximum(rects[:, 0], left)
        down = np.minimum(rects[:, 3], top + 1 / 3) - np.maximum(rects[:, 1], top)
        inside = across.clip(0) * down.clip(0)
        area = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
        found |= inside > area / 2
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """0 for the smallest."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def measures(scores: np.ndarray, asked: np.ndarray, empty: np.ndarray) -> dict[str, float]:
    """How far a map follows the order of the patches, and how the asked object stands out.

    scores: (V,).
    asked, empty: (V,) bool: patches of the object asked about, and those without any object.
    """
    order = np.arange(len(scores))
    above = scores[asked][:, None] > scores[empty][None]
    return {
        "rank correlation with an earlier place": float(np.corrcoef(ranks(scores), -order)[0, 1]),
        "empty patches alone": float(np.corrcoef(ranks(scores[empty]), -order[empty])[0, 1])
        if empty.sum() > 3
        else np.nan,
        "asked object's best patch, its place from the top": float(
            1 + (scores > scores[asked].max()).sum()
        ),
        "asked object's patch above an empty one": float(above.mean()) if above.size else np.nan,
        "the first patch shows the asked object": float(asked[np.argmax(scores)]),
        "the first patch is empty": float(empty[np.argmax(scores)]),
    }


def measured(lvlm, count: int) -> dict[str, dict[str, float]]:
    """The mean of `measures` over `count` scenes, of the published and of the corrected maps."""
    import svl_core as svl
    from svl_core.analysis.position import baseline_of
    from svl_core.demo.scenes import render

    rows: dict[str, list[dict]] = {"published": [], "corrected": [], "corrected by the mask": []}
    for scene, question, items in asked_scenes(count):
        sample = lvlm.encode(render(scene), question)
        trace = svl.trace(lvlm, sample)
        importance = svl.importance(trace)
        scores = importance.visual[0]
        rects = sample.geometry.rects
        sides = covered(items, rects), ~covered(scene.items, rects)
        baselines = {
            "corrected": baseline_of(trace, importance, svl.Recipe()),
            "corrected by the mask": svl.position_baseline(trace, importance),
        }
        rows["published"].append(measures(scores.mean(0), *sides))
        for name, baseline in baselines.items():
            rows[name].append(measures(baseline.corrected(scores).mean(0), *sides))
    return {
        name: {key: float(np.nanmean([row[key] for row in found])) for key in found[0]}
        for name, found in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=256, help="scenes (default: %(default)s)")
    parser.add_argument(
        "--check", type=int, default=48, help="other scenes, for what it does (default: 48)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    options = parser.parse_args()

    import svl_core as svl
    from svl_core.demo.questions import labelled
    from svl_core.files import weights_hash

    lvlm = svl.load("demo")
    mean = {"as published": 0.0, "causally corrected": 0.0}
    for picture, question in labelled(options.limit, SEED):
        trace = svl.trace(lvlm, lvlm.encode(picture, question))
        for name in mean:
            correction = name == "causally corrected"
            scores = svl.importance(trace, causal_correction=correction).visual[0]
            mean[name] = mean[name] + scores.astype(np.float64) / options.limit
    result = {
        "weights": weights_hash(RESULTS.parent),
        "samples": options.limit,
        "seed": SEED,
        "versions": {"svl_core": svl.__version__},
        "made": date.today().isoformat(),
        "command": f"python tests/benchmarks/position_baseline.py --limit {options.limit}",
        "mean": {
            name: [[float(f"{value:.5g}") for value in row] for row in scores]
            for name, scores in mean.items()
        },
    }
    options.out.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
    print(options.out)
    for name, row in measured(lvlm, options.check).items():
        print(name, *(f"  {value:6.3f}  {key}" for key, value in row.items()), sep="\n")


if __name__ == "__main__":
    main()
