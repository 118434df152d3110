"""Places and attention statistics of the mapping's entries from "hunyuan_vl" to "video_llava"."""

import dataclasses
import functools

import builders
import pytest
from eager_maps import statistics_equal_eager_maps
from perturbation import hits
from tiny import picture
from zoo_h_to_z import ZOO

import svl_core as svl
from svl_core.analysis import skipping
from svl_core.comparison.calibration import with_answers
from svl_core.lvlm.families import GENERIC
from svl_core.lvlm.model import LVLM

PLACED = {
    "hunyuan_vl": "merged_grid",
    "hy_v4_vl": "merged_grid",
    "lfm3_vl": "merged_grid",
    "minicpmv4_6": "slices",
    "minicpmv4_7": "slices",
    "mistral_large4": "row_breaks",
    "pp_chart2table": "square",
    "qianfan_ocr": "canvas_tiles",
    "qwen2_5_omni_thinker": "merged_grid",
    "qwen3_omni_moe_thinker": "merged_grid",
    "qwen4_exp": "merged_grid",
    "video_llava": "square",
}
MARKING = ("instructblip", "kosmos-2", "kosmos-2.5")
"""Entries whose processors put an image's positions into the sequence themselves."""
ALONE = ("pp_chart2table",)  # whose template writes one image's positions


@functools.lru_cache
def built(entry):
    """The tiny model, as one without a row of its own, and without any probe."""
    config, processor = ZOO[entry]()
    model = builders.weighted(config).eval().requires_grad_(False)
    marks = {"mark": "none"} if entry in MARKING else {"geometry": PLACED[entry]}
    return LVLM(model, processor, dataclasses.replace(GENERIC, **marks), entry)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [entry for entry in PLACED if entry in ZOO])
def test_each_position_answers_to_its_own_pixels(entry):
    """Of two pictures at once, then of each alone; one is tall."""
    lvlm = built(entry)
    wide, tall = picture(150, 90), picture(70, 210)
    together = [] if entry in ALONE else [[wide, tall]]
    for images in (*together, [wide], [tall]):
        found = hits(lvlm, images, positions=5)
        assert sum(found) >= 0.8 * len(found)


@pytest.mark.parametrize("entry", [entry for entry in (*PLACED, *MARKING) if entry in ZOO])
def test_attention_statistics_equal_those_of_eager_maps(entry):
    """Also where an indexer hides keys, a sink takes a share, or layers mix streams."""
    lvlm = built(entry)
    statistics_equal_eager_maps(lvlm)


@pytest.mark.parametrize("place", [0, 2])
def test_an_answer_that_opens_a_picture_is_cut_there(place, monkeypatch):
    """No picture follows, and the model would look for it in a prompt."""
    lvlm = built("qwen2_5_omni_thinker")
    ids = [3, 4, 5, 6]
    ids[place] = lvlm.model.config.vision_start_token_id
    monkeypatch.setattr(skipping, "answers_together", lambda *given: [tuple(ids)])
    samples = [lvlm.encode(picture(90, 90), "what is there?")]
    (longer,) = with_answers(lvlm, samples)
    assert longer.length == samples[0].length + place
    assert longer.inputs["input_ids"][0, samples[0].length :].tolist() == ids[:place]
    plan = svl.DropPlan((1,), lvlm.num_layers, "svl")
    svl.prune(lvlm, plan, "refit", svl.trace(lvlm, samples, mlp=True), ridge=1.0)
