"""Families outside the table: served in full by the general rules, places found by trying, or
refused by the probe that fails.
"""

import numpy as np
import pytest
import torch
import unlisted
from builders import weighted
from perturbation import hits
from tiny import picture
from transformers import AutoModelForImageTextToText

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.features import mapped
from svl_core.lvlm.vision import forward, see

pytestmark = pytest.mark.slow


def saved(builder, folder):
    config, processor = builder()
    weighted(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("builder", unlisted.SERVED, ids=lambda builder: builder.__name__)
def test_served_in_full(builder, tmp_path):
    lvlm = svl.load(saved(builder, tmp_path / "model"), dtype="float32")
    assert (lvlm.family.name, lvlm.family.geometry) == ("generic", unlisted.SERVED[builder])
    images = [picture(300, 110), picture(90, 200, seed=1)]
    sample = lvlm.encode(images, "what is in the top left ?")
    placed = ~np.isnan(sample.geometry.rects[:, 0])
    assert len(sample.visual) and (
        placed.sum() > 8 if lvlm.family.geometry != "unplaced" else not placed.any()
    )
    if placed.any():
        assert all(hits(lvlm, images))
    with torch.inference_mode():
        lone = lvlm.encode(images[0], "a cat")
        trace = svl.trace(lvlm, [lone])
        plan = svl.plan(svl.redundancy(trace, svl.importance(trace)), drop=2)
        assert not np.isnan(trace.samples[0].attention.text_to_visual).any()
        pruned = svl.prune(lvlm, plan)
        pruned.save(tmp_path / "pruned")
        model, report = AutoModelForImageTextToText.from_pretrained(
            tmp_path / "pruned", output_loading_info=True
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert torch.equal(model.eval()(**lone.inputs).logits, pruned.model(**lone.inputs).logits)
        seen = see(lvlm, lone)
        assert lvlm.family.sees_once and seen.features is not None
        kept = forward(lvlm, seen.inputs, seen.features).logits
        assert torch.equal(kept, lvlm.model(**lone.inputs).logits)
    assert svl.compare(lvlm, pruned, lone, max_new_tokens=2).kl > 0


def test_a_model_whose_kept_features_do_not_do_sees_anew(tmp_path, monkeypatch):
    """Here the features lose what its decoder reads: found as it loads, and its answers stay."""
    from svl_core.lvlm import vision

    monkeypatch.setattr(vision, "_kept", lambda output: mapped(output, torch.zeros_like))
    lvlm = svl.load(saved(unlisted.vipllava, tmp_path / "model"), dtype="float32")
    sample = lvlm.encode(picture(90, 200), "a cat")
    assert not lvlm.family.sees_once and see(lvlm, sample) is sample
    read = svl.trace(lvlm, sample).samples[0]
    assert read.sample.features is None
    with torch.inference_mode():
        plain = lvlm.model(**sample.inputs).logits[0, -1]
    assert np.allclose(read.logits_last, plain.numpy(), atol=1e-5)


@pytest.mark.parametrize("builder", unlisted.REFUSED, ids=lambda builder: builder.__name__)
def test_refused_by_the_probe_that_fails(builder, tmp_path):
    with pytest.raises(
        InputError, match=f'no known family, which fails the probe "{unlisted.REFUSED[builder]}"'
    ):
        svl.load(saved(builder, tmp_path / "model"))


def test_places_that_do_not_hold_are_not_taken(tmp_path, monkeypatch):
    """With only wrong rules on offer, places are found without one; where none are found either,
    positions have no place rather than a wrong one.
    """
    from svl_core.lvlm import finding, probing

    monkeypatch.setattr(
        probing,
        "GEOMETRIES",
        {name: rule for name, rule in probing.GEOMETRIES.items() if name != "square"},
    )
    folder = saved(unlisted.vipllava, tmp_path / "model")
    lvlm = svl.load(folder, dtype="float32")
    assert lvlm.family.geometry == "found"
    for size in ((300, 110), (90, 200)):
        assert all(hits(lvlm, [picture(*size)]))
    monkeypatch.setattr(finding, "LARGEST", 0)
    assert svl.load(folder).family.geometry == "unplaced"
