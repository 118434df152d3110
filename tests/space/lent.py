"""Run by test_zero.py in a process of its own, as a ZeroGPU Space would be: the tiny model's work
on a lent GPU, beside the same work done here.

Prints what was found as JSON.
"""

import json
import sys
import threading
from pathlib import Path

import spaces  # first, as app.py does it

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import torch  # noqa: E402
from tiny import LAYERS, picture, tiny_llava  # noqa: E402
from unserved import unserved  # noqa: E402

import svl_core as svl  # noqa: E402
from svl_core.errors import Cancelled, InputError  # noqa: E402
from svl_core.lvlm.families import family_of  # noqa: E402
from svl_core.progress import Run  # noqa: E402
from svl_core.recipe import Recipe  # noqa: E402
from svl_core.service.backend import LocalBackend  # noqa: E402
from svl_core.service.stores import Models  # noqa: E402
from svl_core.service.zero_gpu import ZeroGpuBackend  # noqa: E402
from svl_core.ui.state.settings import Settings  # noqa: E402
from svl_core.ui.work.analysing import analyse  # noqa: E402
from svl_core.ui.work.answering import compare  # noqa: E402


def model(name, seed=0):
    made, processor = tiny_llava(seed=seed)
    return svl.LVLM(made, processor, family_of(made.config), name)


LOADED = []  # by this process


def load(name):
    LOADED.append(name)
    return model(name, seed=1)


def main() -> dict:
    tiny, found = model("tiny"), {}
    found["weights"] = sum(p.sum().item() for p in tiny.model.parameters())
    models = Models(tiny, load)
    page = unserved(models)
    near, far = LocalBackend(models), page.workspace.backend
    assert isinstance(far, ZeroGpuBackend)
    sample = tiny.encode(picture(), "what is in the top left?")
    here, there = near.trace("tiny", sample), far.trace("tiny", sample)
    found["features"] = (here.samples[0].features - there.samples[0].features).abs().max().item()
    found["statistics"] = max(
        abs(getattr(here.samples[0].attention, name) - getattr(there.samples[0].attention, name))
        .max()
        .item()
        for name in vars(here.samples[0].attention)
    )
    found["same_sample"] = there.samples[0].sample is sample and here.layer_ids == there.layer_ids
    plan = svl.manual_plan([2, 3], LAYERS)
    found["pairs"] = []
    for compensation in ("none", "scp", "lstsq"):
        recipe, shown = Recipe(compensation=compensation), []
        asked = "tiny", sample, plan, recipe, (sample,), 5
        here = near.compare(*asked)
        there = far.compare(*asked, lambda *answers, shown=shown: shown.append(answers))
        a, after = here.comparison, here.pruned_trace
        b, distant = there.comparison, there.pruned_trace
        found["pairs"].append(
            {
                "ids": [
                    a.full.token_ids == b.full.token_ids,
                    a.pruned.token_ids == b.pruned.token_ids,
                ],
                "text": a.pruned.text == b.pruned.text,
                "kl": [a.kl, b.kl],
                "grown": len(shown),
                "type": type(b).__name__,
                "after": (
                    (after.samples[0].features - distant.samples[0].features).abs().max().item()
                ),
            }
        )
    # a model that is younger than the worker
    young = models.request("young").result().encode(picture(), "what?")
    distant, local = far.trace("young", young), near.trace("young", young)
    found["young"] = (distant.samples[0].features - local.samples[0].features).abs().max().item()
    found["loaded_here"] = LOADED
    # an error and a stop; the worker goes on
    foreign = svl.manual_plan([1], LAYERS + 1)
    try:
        far.compare("tiny", sample, foreign, Recipe(compensation="scp"), (sample,), 64)
    except InputError as error:
        found["error"] = str(error)
    stop = threading.Event()
    try:
        far.compare(
            "tiny",
            sample,
            plan,
            Recipe(compensation="scp"),
            (sample,),
            60,
            lambda *answers: stop.set(),
            Run(cancel=stop),
        )
    except Cancelled:
        found["stopped"] = True
    # the page's own handlers
    found["handlers"] = handlers(page)
    found["calls"], found["cuda_touched"] = spaces.CALLS, torch.cuda.is_initialized()
    found["weights"] -= sum(p.sum().item() for p in tiny.model.parameters())
    return found


def handlers(page) -> dict:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "picture.png")
        picture().save(path)
        settings, out = Settings(max_new_tokens=4), {}
        asked = "tiny", path, "what is on the red chair?", None, None, "", None, settings
        for update in analyse(page, *asked):
            out |= update
        strip = {**out["strip"], "drop": [2, 3]}
        for update in compare(page, out["state"], strip, None, settings):
            out |= update
    return {
        "metrics": "2 of 6 layers gone" in out["metrics"],
        "figures": all(out[name] for name in ("plot-redundancy", "plot-pca", "overlay", "odds")),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
