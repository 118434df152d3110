"""Measures what the page's lesson tells: `python tests/benchmarks/lesson.py [--only PART ...]` ->
svl_core/ui/static/lesson.json.

On the bundled model, with the hash of its weights:

- blocks: accuracy by kind of question with each block of three layers skipped;
- skills: accuracy by skill against the number of dropped layers, ranked on calibration scenes;
- decided: by which layer the answers are decided, and accuracy without the last layers that may go;
- shown: what both models answer in each state of the page that the lesson shows;
- arena: what it tells of the arena's results (`arena.py`).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from batched_match import batched_exact_match  # noqa: E402
from PIL import Image  # noqa: E402

import svl_core as svl  # noqa: E402
from svl_core.comparison.ablation import ablate_questions  # noqa: E402
from svl_core.comparison.evaluation import answer_batch, normalise  # noqa: E402
from svl_core.demo.evaluation import questions  # noqa: E402
from svl_core.demo.questions import calibration  # noqa: E402
from svl_core.files import weights_hash  # noqa: E402
from svl_core.lvlm.catalogue import demo_folder  # noqa: E402
from svl_core.ui import examples  # noqa: E402
from svl_core.ui.state.settings import DEFAULTS  # noqa: E402
from svl_core.ui.steps import lesson  # noqa: E402

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

PARTS = ("blocks", "skills", "decided", "shown", "arena")
"""Of the file, each measured for itself."""

CALIBRATION_SEED = DEFAULTS.seed
"""Of the calibration scenes, as on the page."""


def say(*words) -> None:
    """Prints at once, also into a file."""
    print(*words, flush=True)


def measure(parts: Collection[str], data: dict, log=say) -> dict:
    """`data` with these parts measured anew, and what they were made from.

    parts: some of PARTS.
    """
    lvlm = svl.load("demo")
    pairs = questions("scenes", ASKED, SEED)
    made = {
        "made_by": "python tests/benchmarks/lesson.py",
        "model": "assets/demo_lvlm",
        "weights": weights(),
        "layers": lvlm.num_layers,
        "questions": ASKED,
        "seed": SEED,
        "calibration": [CALIBRATION_SIZE, CALIBRATION_SEED],
        "block": BLOCK,
    }
    if "blocks" in parts:
        log(f"{ASKED} questions; skipping each block in turn")
        made |= blocks(lvlm, pairs)
    if "skills" in parts:
        log("dropping one layer after the other")
        made |= skills(lvlm, pairs)
    if "decided" in parts:
        log("by which layer the answers are decided")
        made["decided"] = decided(lvlm, pairs)
    if "shown" in parts:
        log("the lesson's own pictures")
        fitted = {CALIBRATION_SIZE: calibrated(lvlm, CALIBRATION_SIZE)}
        made["shown"] = shown(lvlm, fitted)
    if "arena" in parts:
        made["arena"] = arena()
    return {**data, **made}


def blocks(lvlm: svl.LVLM, pairs: list) -> dict:
    """{"full", "ablation": accuracy by kind of question and first layer of the skipped block}."""
    skipped = ablate_questions(lvlm, pairs, sizes=(BLOCK,), data="scenes")
    table = skipped.matrix("accuracy", BLOCK)
    full = {kind: skipped.tally(skipped.full, kind).accuracy for kind in skipped.columns}
    return {
        "full": {"by_kind": {kind: round(value, 4) for kind, value in full.items()}},
        "ablation": {
            kind: [round(float(v), 4) for v in table[:, k]]
            for k, kind in enumerate(skipped.columns)
        },
    }


def skills(lvlm: svl.LVLM, pairs: list) -> dict:
    """{"ranking", "kept": accuracy by number of dropped layers, "skills": the same of each skill},
    ranked on the page's calibration scenes, without compensation.
    """
    samples, ids, right = answered(lvlm, pairs)
    scores = svl.redundancy(*calibrated(lvlm, CALIBRATION_SIZE), "svl")
    pruned = [svl.prune(lvlm, svl.plan(scores, drop), "none") for drop in range(MOST + 1)]
    marks = batched_exact_match(lvlm, pruned, samples, ids) & right
    return {
        "ranking": [int(k) for k in scores.ranking[:MOST]],
        "kept": [round(float(row.mean()), 4) for row in marks],
        "skills": {
            skill: [round(float(row[chosen].mean()), 4) for row in marks]
            for skill, chosen in of_skill(pairs).items()
        },
    }


def answered(lvlm: svl.LVLM, pairs: list) -> tuple[list, list, np.ndarray]:
    """Questions as samples, the full model's answers as token ids, and which of them are right."""
    samples = [lvlm.encode(pair.image, pair.question) for pair in pairs]
    ids = []
    for start in range(0, len(pairs), 32):
        ids += answer_batch(lvlm, samples[start : start + 32])
    texts = [lvlm.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in ids]
    right = [
        normalise(text) == normalise(pair.answer) for text, pair in zip(texts, pairs, strict=True)
    ]
    return samples, ids, np.array(right)


def of_skill(pairs: list) -> dict[str, np.ndarray]:
    """{skill: which of the questions are of it}."""
    return {
        skill: np.array([pair.kind in kinds for pair in pairs])
        for skill, kinds in lesson.GROUPS.items()
    }


def decided(lvlm: svl.LVLM, pairs: list) -> dict:
    """{"last": for each question the layer by which its whole answer is decided, "answers" and
    "tokens": the share that is by each layer, "skills": of the answers of each skill, "kept_late":
    accuracy without the last layers that may go, without compensation}.
    """
    samples, ids, right = answered(lvlm, pairs)
    places = [deciding(lvlm, sample, said) for sample, said in zip(samples, ids, strict=True)]
    last = np.array([found.max() for found in places])
    plan = svl.manual_plan(list(lesson.LAST_OF_ALL), lvlm.num_layers, lvlm.protected)
    late = svl.prune(lvlm, plan, "none")
    [marks] = batched_exact_match(lvlm, [late], samples, ids)
    return {
        "last": " ".join(map(str, last)),
        "answers": by_layer(lvlm, last),
        "tokens": by_layer(lvlm, np.concatenate(places)),
        "skills": {
            skill: by_layer(lvlm, last[chosen]) for skill, chosen in of_skill(pairs).items()
        },
        "kept_late": round(float((marks & right).mean()), 4),
    }


def deciding(lvlm: svl.LVLM, sample: svl.Sample, said: list) -> np.ndarray:
    """For each token of the model's own answer the layer from which on it stays first."""
    found = svl.lens(lvlm, sample, said, top=1).decided
    assert None not in found, "a greedy answer's words stand first behind the last layer"
    return np.array(found)


def by_layer(lvlm: svl.LVLM, layers: np.ndarray) -> list[float]:
    """The share of these that is at most each layer."""
    return [round(float((layers <= layer).mean()), 4) for layer in lvlm.layer_ids]


def arena() -> dict:
    """What the lesson tells of the arena's results: accuracy on scenes against dropped layers."""
    found = json.loads((Path(__file__).parent / "results" / "arena.json").read_text())
    settings = found["settings"]
    few = (0, settings["calibration_samples"])  # 0: nothing is fitted
    rows = {
        (row["criterion"], row["compensation"], row["drop"]): row
        for row in found["rows"]
        if row["criterion"] == "preset" or row["size"] in few
    }
    drops = sorted({drop for _, _, drop in rows})

    def curve(data: str, recipe: tuple[str, str]) -> list[float]:
        marks = [found["full"][data]] + [rows[(*recipe, drop)]["data"][data] for drop in drops]
        return [round(each["accuracy"], 4) for each in marks]

    return {
        "weights": settings["weights"],
        "questions": settings["questions"],
        "draws": len(settings["seeds"]),
        "scenes": settings["calibration_samples"],
        "many": svl.PRESETS["best"].samples,
        "drops": [0, *drops],
        "curves": {
            data: {name: curve(data, recipe) for name, recipe in lesson.ARENA.items()}
            for data in settings["data"]
        },
    }


def weights() -> str:
    """The hash of the shipped weights, which all of this belongs to."""
    return weights_hash(demo_folder())


def calibrated(lvlm: svl.LVLM, size: int) -> tuple[svl.Trace, svl.TokenImportance]:
    """What layers are ranked and compensations fitted on: so many of the page's scenes."""
    scenes = calibration(size, CALIBRATION_SEED)
    traced = svl.trace(lvlm, [lvlm.encode(*scene) for scene in scenes], mlp=True)
    return traced, svl.importance(traced)


# ------------------------------------------------------------------ what the page shows
def picture(origin: str) -> Image.Image:
    """A scene as the page hands it to the model: gradio writes it as WebP."""
    buffer = io.BytesIO()
    examples.render(examples.from_origin(origin)[0]).save(buffer, "webp")
    return Image.open(buffer).convert("RGB")


def shown(lvlm: svl.LVLM, fitted: dict) -> dict:
    """{"stages": for each step {name: what the model answers there, "full": the full one's},
    "decided": the layer by which the first word of the fourth step's answer is, and the numbers of
    two figures}.

    fitted: by number of scenes, what compensations are fitted on.
    """
    samples, traces, full, stages = {}, {}, {}, []
    for step in lesson.STAGES:
        told = {}
        for name, stage in step.items():
            key = stage.origin, stage.prompt
            if key not in samples:
                samples[key] = lvlm.encode(picture(stage.origin), stage.prompt)
                traces[key] = svl.trace(lvlm, [samples[key]])
                full[key] = svl.answer(lvlm, samples[key]).text
            told.setdefault("full", full[key])
            if not stage.drop:
                continue
            plan = svl.manual_plan(list(stage.drop), lvlm.num_layers, lvlm.protected)
            fit = () if stage.compensation == "none" else fitted[stage.fitted_on]
            pruned = svl.prune(lvlm, plan, stage.compensation, *fit)
            told[name] = svl.answer(pruned, samples[key]).text
        stages.append(told)
    asked = lesson.STAGES[lesson.WHEN][""]
    first = svl.lens(lvlm, samples[asked.origin, asked.prompt], top=1).decided[0]
    return {"stages": stages, "decided": first, **figures_of(traces)}


def figures_of(traces: dict) -> dict:
    """{"angles": by which each layer turns the first step's hidden states, in degrees; "ranking":
    of the second step's picture; "gap": of the sixth step's plans, "steps" of its layers}.
    """
    flow, guess, gap = (
        traces[stage.origin, stage.prompt]
        for stage in (
            lesson.STAGES[number][""] for number in (lesson.FLOW, lesson.GUESS, lesson.GAP)
        )
    )
    importance = {id(trace): svl.importance(trace) for trace in (flow, guess, gap)}
    cosines = svl.redundancy(flow, importance[id(flow)], "svl").scores
    ranked = svl.redundancy(guess, importance[id(guess)], "svl")
    found = {
        name: svl.feature_gap(gap, list(stage.drop), importance[id(gap)], tokens="important")
        for name, stage in lesson.STAGES[lesson.GAP].items()
    }
    return {
        "tokens": [len(flow.samples[0].sample.visual), len(flow.samples[0].sample.textual)],
        "width": flow.hidden_size,
        "angles": [round(float(a), 2) for a in np.degrees(np.arccos(cosines))],
        "ranking": [int(k) for k in ranked.ranking],
        "steps": [round(float(step), 4) for step in found[""].per_layer],
        "gap": {
            name: [[run.first, run.last, round(float(run.relative), 4)] for run in curve.runs]
            for name, curve in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts")
    parts = parser.parse_args().only
    known = json.loads(OUT.read_text(encoding="utf-8")) if set(parts) != set(PARTS) else {}
    OUT.write_text(json.dumps(measure(parts, known), indent=1) + "\n", encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
