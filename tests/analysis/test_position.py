"""What a patch's place alone gives it: on paper, for even attention, and on the shipped weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from position_baseline import measured

import svl_core as svl
from svl_core.analysis.attention import Collector
from svl_core.analysis.importance import TokenImportance
from svl_core.analysis.position import stored_baseline
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.errors import InputError
from svl_core.lvlm.catalogue import DEMO_PLACES

VISUAL, TEXTUAL = np.array([1, 2, 3, 5]), np.array([0, 4, 6, 7])
CAUSAL = np.tril(np.ones((8, 8)))
WINDOW = CAUSAL * np.triu(np.ones((8, 8)), -2)
OVER_IMAGE = np.where(
    np.isin(np.arange(8), VISUAL)[:, None] & np.isin(np.arange(8), VISUAL), 1, CAUSAL
)


def traced(attention, visual=VISUAL, textual=TEXTUAL):
    """A trace whose only layer has this attention (S, S)."""
    collector = Collector(1, visual, textual)
    zeros = torch.zeros(1, 1, len(attention), 3)
    with np.errstate(divide="ignore"):
        mask = torch.from_numpy(np.log(attention)).float()[None, None]
    mask = mask.clamp_min(torch.finfo(torch.float32).min)
    collector.add(0, zeros, zeros, mask, 1.0, None)
    sample = SampleTrace(
        torch.ones(2, len(attention), 5),
        visual,
        textual,
        collector.statistics(),
        np.zeros(3),
        "k",
    )
    return Trace((sample,), "paper", (0,), (), 0.0)


def even(mask):
    return mask / mask.sum(1, keepdims=True)


def test_even_attention_on_paper():
    """Rows 1; 1/2; 1/3; 1/4: the visual keys 0 and 2 receive 1 + 1/3 and 1/3 of visual queries,
    1/2 + 1/4 and 1/4 of textual ones.
    """
    attention = np.array(
        [[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0.2, 0.6, 0], [0.1, 0.2, 0.3, 0.4]]
    )
    (sample,) = traced(attention, np.array([0, 2]), np.array([1, 3])).samples
    np.testing.assert_allclose(
        sample.attention.visual_from_visual_even, [[4 / 3, 1 / 3]], rtol=1e-6
    )
    np.testing.assert_allclose(sample.attention.visual_from_text_even, [[3 / 4, 1 / 4]], rtol=1e-6)


def test_even_attention_of_a_model_s_own_pass(tiny, tiny_sample):
    """Where there is no mask to read, the causal one is counted."""
    (sample,) = svl.trace(tiny, tiny_sample).samples
    rows = even(np.tril(np.ones((sample.length, sample.length))))
    for name, queries in (("visual", sample.visual), ("text", sample.textual)):
        counted = getattr(sample.attention, f"visual_from_{name}_even")
        expected = rows[np.ix_(queries, sample.visual)].sum(0)
        np.testing.assert_allclose(counted, [expected] * tiny.num_layers, rtol=1e-5)


@pytest.mark.parametrize("mask", [CAUSAL, WINDOW, OVER_IMAGE], ids=["causal", "window", "image"])
@pytest.mark.parametrize("causal_correction", [False, True])
def test_nothing_is_left_of_even_attention(mask, causal_correction):
    trace = traced(even(mask))
    scores = svl.importance(trace, causal_correction=causal_correction)
    baseline = svl.position_baseline(trace, scores, causal_correction=causal_correction)
    np.testing.assert_allclose(baseline.corrected(scores.visual[0]), 0, atol=1e-6)


def test_a_patch_that_is_looked_at_stands_out_wherever_it_is():
    """Of 30 patches between 2 and 6 words; as published the first one scores most."""
    visual, textual = np.arange(2, 32), np.r_[:2, 32:38]
    for patch in (5, 15, 29):
        attention = even(np.tril(np.ones((38, 38))))
        attention[visual[patch] :, visual[patch]] += 0.02
        trace = traced(attention, visual, textual)
        scores = svl.importance(trace)
        left = svl.position_baseline(trace, scores).corrected(scores.visual[0])[0]
        assert np.argmax(left) == patch
        assert np.argmax(scores.visual[0][0]) == 0


def test_attention_over_the_whole_image_loses_its_mean_alone():
    trace = traced(even(np.ones((8, 8)) * [1, 4, 1, 2, 1, 3, 1, 1]))
    scores = svl.importance(trace)
    left = svl.position_baseline(trace, scores).corrected(scores.visual[0])
    np.testing.assert_allclose(left, scores.visual[0] - scores.visual[0].mean(), atol=1e-6)


def test_a_layer_without_self_attention_and_no_patches():
    trace = traced(even(CAUSAL))
    scores = TokenImportance((np.full((1, 4), np.nan),), (np.full((1, 4), np.nan),))
    assert np.isnan(svl.position_baseline(trace, scores).visual).all()
    words = traced(even(CAUSAL), np.array([], int), np.arange(8))
    assert svl.position_baseline(words, svl.importance(words)).visual.shape == (1, 0)


def test_the_mean_of_a_calibration_set_on_paper():
    set_ = TokenImportance((np.array([[1.0, 2]]), np.array([[3.0, 6]])), (np.zeros((1, 1)),) * 2)
    scores = TokenImportance((np.array([[5.0, 5]]),), (np.zeros((1, 1)),))
    baseline = svl.position_baseline(None, scores, calibration=set_)
    assert baseline.corrected(scores.visual[0]).tolist() == [[3, 1]]
    assert baseline.in_words.endswith("average over 2 scenes of a calibration set")
    wider = TokenImportance((np.zeros((1, 3)),), (np.zeros((1, 1)),))
    with pytest.raises(InputError, match="2 visual tokens; expected 3"):
        svl.position_baseline(None, wider, calibration=set_)
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        baseline.corrected(wider.visual[0])


def test_a_stored_baseline_is_that_of_its_weights_alone(tmp_path):
    (place,) = [place for place in DEMO_PLACES if place.is_dir()][:1]
    stored = stored_baseline(place)
    assert stored.visual.shape == (16, 36) and stored.samples >= 200
    shutil.copy(place / "positions.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert stored_baseline(tmp_path) is None
    assert stored_baseline(tmp_path / "nowhere") is None
    data = json.loads((place / "positions.json").read_text(encoding="utf-8"))
    assert not np.array_equal(data["mean"]["as published"], data["mean"]["causally corrected"])


def test_on_the_shipped_weights_the_asked_object_stands_out_and_the_place_does_not():
    """24 scenes: what the page and the guide say of both baselines."""
    lvlm = svl.load("demo")
    found = measured(lvlm, 24)
    place, empty, best, above, first, hollow = found["published"]
    published = found["published"]
    assert published[place] > 0.5 and published[empty] > 0.8
    for name in ("corrected", "corrected by the mask"):
        row = found[name]
        assert abs(row[place]) < 0.25 and abs(row[empty]) < 0.35
        assert row[above] > published[above]
        assert row[best] < published[best]
        assert row[first] > published[first]
        assert row[hollow] == 0 < published[hollow]
