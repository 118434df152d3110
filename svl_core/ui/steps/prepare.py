"""Computes the first screens of the shipped examples: `python -m svl_core.ui.steps.prepare`.

Run it again whenever the weights, the examples or the method change; a test says so.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import svl_core as svl
from svl_core.files import weights_hash
from svl_core.lvlm.catalogue import demo_folder
from svl_core.service import calibration
from svl_core.service.deployment import models_for
from svl_core.service.limits import HOME
from svl_core.service.tasks import Task
from svl_core.service.workspace import Workspace
from svl_core.ui import examples
from svl_core.ui.drawing import View
from svl_core.ui.prepared import NAME
from svl_core.ui.state.settings import DEFAULTS
from svl_core.ui.state.strip import droppable
from svl_core.ui.steps import hero
from svl_core.ui.work.answering import plan_of
from svl_core.ui.work.ranking import strip_of

DECIMALS = 4


def main() -> None:
    file, space = demo_folder() / NAME, workspace()
    made = {
        "weights": weights_hash(file.parent),
        "version": svl.__version__,
        "examples": [first_screen(space, example) for example in examples.SHIPPED],
    }
    text = json.dumps(made, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
    print(f"{file}: {len(made['examples'])} examples")


def workspace() -> Workspace:
    """A workspace of the bundled model, as the page has one."""
    return Workspace(models_for("demo", HOME), frozenset({"demo"}), HOME, tempfile.gettempdir)


def first_screen(space: Workspace, example: examples.Shipped) -> dict:
    """All that the first screen of an example shows, as the page itself would compute it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        examples.picture_of(example.origin).save(path)
        analysis = space.analyse("demo", str(path), example.question, Task())
    state = {"model": "demo", "prompt": example.question, "key": analysis.sample.key}
    scores = space.rank_for_count(analysis, DEFAULTS, example.count, Task())
    strip = strip_of(analysis, scores, scores.chosen(example.count), DEFAULTS)
    view = View(space, state, DEFAULTS, strip, at_hand=analysis)
    asked = hero.draw_asked(view)
    layers = hero.draw_layers(view)
    counts = [at_count(space, view, scores, count) for count in range(droppable(strip) + 1)]
    return {
        "origin": example.origin,
        "question": example.question,
        "count": example.count,
        "asked": {name: asked[name] for name in ("patches", "words")},
        "layers": {name: layers[name] for name in ("change", "cosines")},
        "strip": strip,
        "full": counts[0]["pruned"],
        **{name: [each[name] for each in counts] for name in ("gaps", "pruned", "saved")},
    }


@functools.cache
def fit_trace(space: Workspace) -> svl.Trace:
    """What compensation is fitted on: the bundled set, the same for every example."""
    samples = space.samples("demo", calibration.DEMO, None, DEFAULTS, Task())
    return svl.trace(space.load_model("demo"), samples)


def at_count(space: Workspace, view: View, scores: svl.LayerScores, count: int) -> dict:
    """What the first screen shows with so many layers dropped; nothing is timed."""
    analysis = view.analysis
    strip = strip_of(analysis, scores, scores.chosen(count), DEFAULTS)
    lvlm = space.load_model("demo")
    plan = plan_of(strip, lvlm)
    pruned = svl.prune(lvlm, plan)
    if count:
        pruned = svl.prune(lvlm, plan, DEFAULTS.recipe, fit_trace(space))
    answer = svl.answer(pruned, analysis.sample, max_new_tokens=DEFAULTS.max_new_tokens)
    here = View(space, view.state, DEFAULTS, strip, at_hand=analysis)
    return {
        "pruned": answer.text,
        "saved": round(1 - pruned.num_parameters / lvlm.num_parameters, DECIMALS),
        "gaps": hero.draw_layers(here)["gaps"],
    }


if __name__ == "__main__":
    main()
