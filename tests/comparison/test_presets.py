"""Presets: settings that the registries know, plans by the criterion or by the contest under
compensation.
"""

import numpy as np
import pytest
from tiny import picture

import svl_core as svl
from svl_core.comparison.calibration import split
from svl_core.comparison.presets import PRESETS, Preset, preset_of
from svl_core.comparison.selection import Contest, Option, Trial, choose_plan, held_out
from svl_core.errors import InputError
from svl_core.pruning.plan import manual_plan
from svl_core.recipe import Recipe


@pytest.fixture(scope="module")
def samples(tiny):
    return [tiny.encode(picture(seed=seed), "what is in the picture") for seed in range(4)]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_each_preset_prunes(tiny, samples, preset):
    assert (
        set(preset.criteria) <= set(svl.CRITERIA)
        and preset.recipe.compensation in svl.COMPENSATIONS
    )
    fitted = preset.fit(tiny, samples)
    chosen = fitted.plan(2)
    pruned = fitted.prune(chosen)
    assert (
        pruned.num_layers == 4
        and pruned.provenance["compensation"]["name"] == preset.recipe.compensation
    )
    assert chosen.drop in [svl.plan(fitted.rank(name), 2).drop for name in preset.criteria]


def test_without_rivals_the_criterion_decides(tiny, samples):
    fitted = Preset("p", "p", "", Recipe(criterion="shortgpt")).fit(tiny, samples)
    assert fitted.plan(3).drop == svl.plan(fitted.rank(), 3).drop


def test_criteria_that_run_the_model_rank_on_a_few_samples(tiny, samples):
    fitted = Preset("p", "p", "", Recipe(criterion="greedy-kl"), ranked_on=2).fit(tiny, samples)
    assert (
        fitted.rank(rounds=1).settings["samples"] == 2
        and fitted.rank("svl").settings["samples"] == 4
    )


def test_the_contest_is_won_by_exact_answers_then_by_kl(tiny, samples, monkeypatch):
    plans = [manual_plan(layers, tiny.num_layers) for layers in ((1, 2), (3, 4), (2, 4), (1, 4))]
    found = [Trial(0.90, 0.33), Trial(0.95, 1.49), Trial(0.95, 1.20), Trial(0.95, 1.20)]
    monkeypatch.setattr(Contest, "trials", lambda *_: found)
    assert choose_plan(tiny, plans, "refit", samples) is plans[2]


def test_a_trial_counts_what_was_left_out_of_the_fit(tiny, samples):
    """Exact answers and KL as they are found by hand, on the samples that `split` leaves out."""
    recipe = Recipe(compensation="refit")
    plans = [manual_plan(layers, tiny.num_layers) for layers in ((1, 2), (3, 4), (2, 1))]
    trials, n = held_out(tiny, [Option("", plan, recipe) for plan in plans], samples)
    fit, left_out = split(samples, 0.5, 0)
    assert n == len(left_out) == 2 and trials[0] == trials[2] != trials[1]
    pruned = svl.prune(tiny, plans[1], recipe, svl.trace(tiny, fit))
    alone = [svl.compare(tiny, pruned, sample, max_new_tokens=64) for sample in left_out]
    assert trials[1].exact == np.mean([one.agreement == 1 for one in alone])
    assert trials[1].kl == pytest.approx(np.mean([one.kl for one in alone]), rel=1e-4)


def test_what_was_traced_serves_the_contest(tiny, samples, monkeypatch):
    """The same KL to the bit from the part of a trace of all samples, which is not made again."""
    plans = [manual_plan((1, 2), tiny.num_layers), manual_plan((3, 4), tiny.num_layers)]
    for compensation in ("refit", "lstsq"):
        recipe = Recipe(compensation=compensation)
        options = [Option("", plan, recipe) for plan in plans]
        traced = svl.trace(tiny, samples, mlp=compensation == "lstsq")
        alone = held_out(tiny, options, samples)
        with monkeypatch.context() as patch:
            patch.setattr("svl_core.comparison.selection.trace", None)
            assert held_out(tiny, options, samples, traced=traced) == alone
    assert (
        held_out(tiny, options, samples, traced=svl.trace(tiny, samples)) == alone
    )  # one without the MLP outputs does not do


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(InputError, match="as-published, best"):
        preset_of("worst")


def test_too_many_layers_are_refused_before_the_rivals_rank(tiny, samples, monkeypatch):
    fitted = PRESETS["best"].fit(tiny, samples)
    monkeypatch.setattr("svl_core.analysis.skipping.by_kl", None)
    with pytest.raises(InputError, match="99 layers to drop"):
        fitted.plan(99)
