"""Places of families whose pictures torchvision alone reads, proved by changed pixels, and what the
probes found out about their decoders.
"""

import dataclasses
import functools

import builders
import pytest
import state_table
from eager_maps import statistics_equal_eager_maps
from perturbation import hits
from tiny import picture
from zoo_torchvision import ZOO

from svl_core.errors import InputError
from svl_core.lvlm import probing
from svl_core.lvlm.families import GENERIC
from svl_core.lvlm.model import LVLM

PLACED = {
    "cohere2_vision": "canvas_tiles",
    "gemma4_unified": "pooled_grid",
    "inkling_mm_model": "padded_squares",
    "kimi_k25": "padded_grid",
    "lfm2_vl": "shaped_tiles",
    "minicpm_ocr": "slices",
    "minimax_m3_vl": "merged_grid",
    "molmo2": "overview_then_canvas",
    "muse_glimmer": "merged_grid",
    "nemotron_h_omni": "merged_grid",
    "perception_lm": "thumbnail_then_tiles",
    "step3p7": "windows",
    "unlimited_ocr": "joined_tiles",
}


# Those whose processor or class takes one picture at a time.
ALONE = ("perception_lm", "unlimited_ocr")


@functools.lru_cache
def built(entry):
    """The tiny model, of no known family and without any probe."""
    config, processor = ZOO[entry]()
    model = builders.weighted(config).eval().requires_grad_(False)
    return LVLM(model, processor, GENERIC, entry)


def by(rule, entry):
    """The tiny model with a rule, as if it had a row of its own."""
    family = dataclasses.replace(GENERIC, geometry=rule)
    return dataclasses.replace(built(entry), family=family)


@pytest.mark.slow
@pytest.mark.parametrize("entry", PLACED)
def test_each_position_answers_to_its_own_pixels(entry):
    """Of two pictures at once, then of each alone; one is tall."""
    lvlm = by(PLACED[entry], entry)
    wide, tall = picture(150, 90), picture(70, 210)
    together = [] if entry in ALONE else [[wide, tall]]
    for images in (*together, [wide], [tall]):
        found = hits(lvlm, images, positions=5)
        assert sum(found) >= 0.8 * len(found)


def test_kimi_pads_on_the_right_and_at_the_foot():
    """45 x 37 pixels are three by three squares of 16, of which the last ones are rims: 13 and 5
    pixels; 300 x 30 are made smaller first, to 128 x 12 (sixteen patches of 8 at most), one row of
    16 with 4 of padding.
    """
    lvlm = by("padded_grid", "kimi_k25")
    found = lvlm.encode(picture(45, 37), "x").geometry
    assert found.grid == (3, 3)
    assert found.rects[4] == pytest.approx([16 / 45, 16 / 37, 32 / 45, 32 / 37])
    assert found.rects[8] == pytest.approx([32 / 45, 32 / 37, 1, 1])
    flat = lvlm.encode(picture(300, 30), "x").geometry
    assert flat.grid == (1, 8)
    assert flat.rects[1] == pytest.approx([1 / 8, 0, 2 / 8, 1])


def test_kimi_does_not_stretch():
    """On pictures of which the rim is a large part, stretched places miss their pixels."""
    shapes = [(45, 37), (31, 211), (167, 389), (389, 167)]
    padded = [hits(by("padded_grid", "kimi_k25"), [picture(*shape)]) for shape in shapes]
    assert all(map(all, padded))
    stretched = [hits(by("merged_grid", "kimi_k25"), [picture(*shape)]) for shape in shapes[:2]]
    assert not any(map(all, stretched))


SERVED = [
    pytest.param(entry, marks=() if entry == "inkling_mm_model" else pytest.mark.slow)
    for entry in (*PLACED, "apertus1p5", "muse_spark")
]


@pytest.mark.parametrize("entry", SERVED)
def test_attention_statistics_equal_those_of_eager_maps(entry):
    """Also where scores have a bias by position (Inkling), or an indexer hides blocks of keys."""
    lvlm = built(entry)
    statistics_equal_eager_maps(lvlm)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("inkling2", "its layers read what earlier blocks of layers gave"),
        ("pi0", "PI0ForConditionalGeneration generates no text"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(entry, reason):
    with pytest.raises(InputError, match=reason):
        state_table.loaded(entry, ZOO[entry])


def test_inputs_that_are_lists_make_no_batch():
    lvlm = by("joined_tiles", "unlimited_ocr")
    sample = probing.question_of(lvlm)
    assert not probing._together(lvlm, sample).family.batched
