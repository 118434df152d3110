"""Whatever a visitor does with a picture, the model sees it once, and reads its prompt once."""

from dataclasses import replace

import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.lvlm.vision import METHOD
from svl_core.recipe import THIS
from svl_core.service.settings import VisitorSettings as Settings

ASKED, ASKED_NEXT = "what is in the top left?", "how many apples are there?"


@pytest.fixture
def passes(tiny, monkeypatch):
    """How often the vision side ran, and over how many positions each decoder layer ran."""
    counted = {"seen": 0, "read": 0}
    inner = type(tiny.model.model)
    original = getattr(inner, METHOD)

    def seeing(self, *args, **kwargs):
        counted["seen"] += 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(inner, METHOD, seeing)
    layer = type(tiny.layers[0])
    run = layer.forward

    def reading(self, hidden_states, *args, **kwargs):
        counted["read"] += hidden_states.shape[1]
        return run(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", reading)
    return counted


def test_a_picture_is_seen_once_whatever_is_done_with_it(workspace, path, passes):
    analysis = workspace.analyse("tiny", path, ASKED)
    settings = Settings(max_new_tokens=3, calibration=THIS)
    for drop, compensation in (([2, 3], "scp"), ([3], "none"), ([1, 4], "lstsq"), ([2], "refit")):
        plan = svl.manual_plan(drop, 6)
        workspace.compare(analysis, plan, replace(settings, compensation=compensation))
    for criterion in ("sleb", "greedy-kl", "shortv"):
        workspace.rank(analysis, replace(settings, criterion=criterion))
    workspace.compare(analysis, plan, replace(settings, visual_share=0.5))
    workspace.analyse("tiny", path, ASKED_NEXT)
    options = {"drops": [1, 2], "allow_shared": True, "max_new_tokens": 3, "repeats": 1}
    samples = analysis.samples
    recipe = settings.recipe
    workspace.backend.sweep("tiny", samples, samples, recipe, options, lambda sweep: None)
    workspace.backend.ablate("tiny", samples, {"max_new_tokens": 3, "sizes": [1]})
    assert passes["seen"] == 1


def test_its_features_go_with_the_picture(workspace, path, passes):
    key = "tiny", workspace.analyse("tiny", path, ASKED).sample.image_key
    assert key in workspace.features
    workspace.analyses.clear()
    assert key not in workspace.features
    workspace.analyse("tiny", path, ASKED)
    assert passes["seen"] == 2


def test_a_moved_slider_runs_what_it_changes_alone(workspace, path, passes):
    """Counted by hand: layers times positions, of the prompt, of each new token, and of the full
    answer that the pruned model reads.
    """
    analysis = workspace.analyse("tiny", path, ASKED)
    length = analysis.sample.length
    assert passes["read"] == 6 * length
    settings = Settings(max_new_tokens=4)

    def compare(drop):
        before = passes["read"]
        compared = workspace.compare(analysis, svl.manual_plan(drop, 6), settings)
        full, pruned = compared.comparison.full, compared.comparison.pruned
        return passes["read"] - before, len(full.token_ids), len(pruned.token_ids)

    ran, full, pruned = compare([4])
    own = (full - 1) + (full - 1)  # decoding after the first token, and reading the whole answer
    assert ran == 6 * own + 5 * (pruned - 1 + full - 1) + 1 * length  # only layer 5 reads anew
    ran, full, pruned = compare([2, 3])
    assert ran == 4 * (pruned - 1 + full - 1) + 2 * length  # the full model does not run at all
    kept = workspace.compare(analysis, svl.manual_plan([2, 3], 6), settings)
    assert kept.comparison.full is analysis.full_answer[1].answer


def test_another_length_is_answered_anew(workspace, path):
    analysis = workspace.analyse("tiny", path, ASKED)
    plan = svl.manual_plan([2], 6)
    short = workspace.compare(analysis, plan, Settings(max_new_tokens=2)).comparison
    long = workspace.compare(analysis, plan, Settings(max_new_tokens=5)).comparison
    assert len(short.full.token_ids) == 2 < len(long.full.token_ids)
    assert long.full.token_ids[:2] == short.full.token_ids


def test_of_a_large_picture_a_small_one_stays(workspace, tiny, tmp_path):
    """But the model has read the large one."""
    large = picture().resize((4000, 3000))
    large.save(tmp_path / "large.png")
    analysis = workspace.analyse("tiny", str(tmp_path / "large.png"), ASKED)
    (traced,) = analysis.trace.samples
    assert max(analysis.sample.images[0].size) == 640
    whole = svl.trace(tiny, tiny.encode(large, ASKED)).samples[0]
    assert torch.equal(traced.features, whole.features)
