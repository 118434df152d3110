"""Large calibration sets: whatever fits on one can keep it in files, with the same numbers, in the
memory of one sample, and says where there is no room.
"""

import ctypes
import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import picture

import svl_core as svl
from svl_core.comparison.calibration import encode_all
from svl_core.comparison.presets import Preset
from svl_core.comparison.selection import choose_plan, choose_rank
from svl_core.comparison.sweep import sweep
from svl_core.errors import InputError
from svl_core.pruning.plan import manual_plan
from svl_core.recipe import Recipe

PLANS = [manual_plan(layers, 6) for layers in ((1, 2), (3, 4))]
PROMPTS = ("what is in the picture", "how many apples are there , and where is the guitar ?")


def scores(lvlm, samples, spool):
    trace = svl.trace(lvlm, samples, spool=spool)
    importance = svl.importance(trace)
    found = [
        svl.redundancy(trace, importance, name, lvlm=lvlm, samples=samples, rounds=1).scores
        for name, row in svl.CRITERIA.items()
        if row.needs != "layers"
    ]
    gaps = svl.feature_gap(trace, (2, 3), importance)
    return [
        each.tolist()
        for each in (
            *found,
            svl.similarity(trace, importance),
            gaps.per_layer,
            gaps.runs[0].spectrum,
            svl.stability(trace, importance, drop=2, draws=20).deviation,
        )
    ]


def weights(lvlm, samples, spool):
    trace = svl.trace(lvlm, samples, mlp=True, spool=spool)
    made = [
        svl.prune(lvlm, PLANS[1], name, trace, weighted=weighted)
        for name, weighted in (("scp", False), ("lstsq", True), ("bridge", True), ("refit", False))
    ]
    return [value.tolist() for each in made for value in each.model.state_dict().values()]


WAYS = {
    "sweep": lambda lvlm, samples, spool: [
        replace(row, speedup=1, speedup_prefill=1, speedup_decode=1, expected=1, noise=None)
        for row in sweep(
            lvlm,
            samples[:1],
            samples[1:],
            compensations=["scp", "lstsq"],
            drops=[1, 2],
            max_new_tokens=2,
            repeats=1,
            spool=spool,
        ).rows
    ],
    "rank": (
        lambda lvlm, samples, spool: (
            choose_rank(
                lvlm, PLANS[0], "scp", samples, ranks=(0, 2), max_new_tokens=2, spool=spool
            ).kl
        )
    ),
    "plan": lambda lvlm, samples, spool: choose_plan(lvlm, PLANS, "lstsq", samples, spool=spool),
    "preset": (
        lambda lvlm, samples, spool: (
            Preset("p", "p", "", Recipe(compensation="lstsq"), rivals=("shortgpt", "svl-last"))
            .fit(lvlm, samples, spool=spool)
            .plan(2)
        )
    ),
    "every criterion": scores,
    "every compensation": weights,
}


def pairs(n):
    return [(picture(seed=seed), PROMPTS[seed % 2]) for seed in range(n)]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_files_give_the_same(tiny, tmp_path, way):
    held, filed = encode_all(tiny, pairs(5)), encode_all(tiny, pairs(5), spool=tmp_path)
    assert way(tiny, filed, tmp_path) == way(tiny, held, None) and not list(
        tmp_path.iterdir()
    )  # no name is left to clean up
    with pytest.raises(InputError, match="no room"):
        way(tiny, filed, tmp_path / "absent")


def test_no_room_for_the_samples(tiny, tmp_path):
    with pytest.raises(InputError, match="no room.*existing folder"):
        encode_all(tiny, pairs(1), spool=tmp_path / "absent")


def test_the_contest_between_plans_spools_too(tiny, tmp_path):
    """`plan` of a preset traces half of the set anew; a folder that has gone meanwhile shows that
    it asks for it.
    """
    fitted = Preset("p", "p", "", Recipe(compensation="lstsq")).fit(
        tiny, encode_all(tiny, pairs(4)), spool=tmp_path
    )
    with pytest.raises(InputError, match="no room"):
        replace(fitted, trace=replace(fitted.trace, spool=tmp_path / "absent")).choose(PLANS)


def anonymous() -> int:
    """Bytes of this process that are no file's, nor free already."""
    gc.collect()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )


def in_use(lvlm, files, spool):
    """Bytes in use after ranking and compensating in two ways on large pictures, with all that was
    made on the way.
    """
    samples = encode_all(
        lvlm, [(file, "what is in the picture " * 20) for file in files], spool=spool
    )
    trace = svl.trace(lvlm, samples, mlp=True, spool=spool)
    importance = svl.importance(trace)
    held = [
        svl.redundancy(trace, importance, "streamline"),
        *(svl.prune(lvlm, PLANS[1], name, trace, importance) for name in ("lstsq", "refit")),
    ]
    return anonymous(), held


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's account of memory"
)
def test_memory_does_not_grow_with_the_samples(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "svl_core.pruning.refit.BATCH", 2
    )  # samples in one pass, however many there are
    monkeypatch.setattr("svl_core.analysis.skipping.MAX_ANSWER", 2)
    files = [tmp_path / f"{number}.png" for number in range(16)]
    for number, file in enumerate(files):
        Image.fromarray(np.full((1000, 1000, 3), number, np.uint8)).save(file)
    few = [in_use(tiny, files[:n], tmp_path)[0] for n in (2, 4)][-1]  # the first warms up
    assert in_use(tiny, files, tmp_path)[0] - few < 4e6
    assert in_use(tiny, files, None)[0] - few > 40e6  # else the measure would show nothing
