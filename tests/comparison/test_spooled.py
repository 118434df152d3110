"""Large calibration sets: whatever fits on one can keep its features in files, with the same numbers, and says where there is no room."""

from dataclasses import replace

import pytest
from tiny import picture

from svl_core.comparison.presets import Preset
from svl_core.comparison.ranks import choose_plan, choose_rank
from svl_core.comparison.sweep import sweep
from svl_core.errors import InputError
from svl_core.pruning.plan import manual_plan

PLANS = [manual_plan(layers, 6) for layers in ((1, 2), (3, 4))]
WAYS = {
    "sweep": lambda lvlm, samples, spool: [replace(row, speedup=1, speedup_prefill=1, speedup_decode=1) for row in sweep(lvlm, samples[:1], samples[1:], compensations=["scp", "lstsq"], drops=[1, 2], max_new_tokens=2, repeats=1, spool=spool).rows],
    "rank": lambda lvlm, samples, spool: choose_rank(lvlm, PLANS[0], "scp", samples, ranks=(0, 2), max_new_tokens=2, spool=spool).kl,
    "plan": lambda lvlm, samples, spool: choose_plan(lvlm, PLANS, "lstsq", samples, spool=spool),
    "preset": lambda lvlm, samples, spool: Preset("p", "p", "", "svl", "lstsq", rivals=("shortgpt", "svl-last")).fit(lvlm, samples, spool=spool).plan(2),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_features_in_files_give_the_same(tiny, tmp_path, way):
    samples = [tiny.encode(picture(seed=seed), "what is in the picture") for seed in range(4)]
    assert way(tiny, samples, tmp_path) == way(tiny, samples, None) and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no room"):
        way(tiny, samples, tmp_path / "absent")


def test_the_contest_between_plans_spools_too(tiny, tmp_path):
    """`plan` of a preset traces half of the set anew; a folder that has gone meanwhile shows that it asks for it."""
    samples = [tiny.encode(picture(seed=seed), "what is in the picture") for seed in range(4)]
    fitted = Preset("p", "p", "", "svl", "lstsq").fit(tiny, samples, spool=tmp_path)
    with pytest.raises(InputError, match="no room"):
        replace(fitted, spool=tmp_path / "absent").choose(PLANS)
