"""What models of no row of their own need, found by the part that it plays: a cache that is handed
over, marks that a processor writes itself, types of tokens, tiles of fewer positions.
"""

import dataclasses
import functools

import builders
import numpy as np
import pytest
import torch
import unlisted
import zoo_a_to_g as zoo
from perturbation import hits
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import decoding, families, probing
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.vision import see

pytestmark = pytest.mark.slow

QUESTION = "what is in the top left ?"


@functools.cache
def unprobed(builder):
    config, processor = builder()
    model = builders.weighted(config).eval().requires_grad_(False)
    return LVLM(model, processor, families.GENERIC, builder.__name__)


@functools.cache
def probed(builder):
    return probing.probe(unprobed(builder))


def asked(builder, *size):
    return probed(builder).encode(picture(*size or (150, 90)), QUESTION)


@torch.inference_mode()
def decoded_and_whole(lvlm, sample, ids):
    """Predictions of the decode loop, and of one pass a token over all that is there."""
    seen = see(lvlm, sample)
    loop = decoding.Decoding(lvlm, seen.inputs, features=seen.features)
    pairs = []
    for count, token in enumerate(ids):
        inputs = lengthened(sample, [*ids[:count], 0])
        pairs.append((loop.logits, lvlm.model(**inputs, use_cache=False).logits[:, -1]))
        loop.feed(torch.tensor([[token]]))
    return pairs


# Caches


def test_a_pass_that_makes_no_cache_is_handed_one():
    lvlm = probed(zoo.granite4_vision)
    assert not lvlm.family.makes_cache and probed(zoo.cosmos3_edge).family.makes_cache
    for loop, whole in decoded_and_whole(lvlm, asked(zoo.granite4_vision), [270, 280, 290]):
        assert torch.allclose(loop, whole, atol=1e-4)


def test_decode_steps_without_pixels_go_to_the_language_model():
    lvlm = probed(unlisted.blip_2)
    assert decoding.stepping(lvlm) is lvlm.model.language_model
    assert decoding.stepping(probed(zoo.cosmos3_edge)) is probed(zoo.cosmos3_edge).model
    for loop, whole in decoded_and_whole(lvlm, asked(unlisted.blip_2), [270, 280, 290]):
        assert torch.allclose(loop, whole, atol=1e-4)


def test_a_loop_of_the_library_that_fails_without_a_cache_is_not_the_yardstick():
    """Its own loop forgets the types of a mixture's experts; passes over all of it stand in."""
    lvlm = probed(zoo.ernie4_5_vl_moe)
    sample = asked(zoo.ernie4_5_vl_moe)
    with pytest.raises(IndexError), torch.inference_mode():
        lvlm.model.generate(**sample.inputs, use_cache=False, max_new_tokens=3)
    with torch.inference_mode():
        tokens, predicted = probing._uncached(lvlm, sample)
    assert len(tokens) == len(predicted) == probing.ANSWERED
    whole = [pair[1] for pair in decoded_and_whole(lvlm, sample, tokens)]
    assert all(map(torch.equal, predicted, whole))


# Inputs


def test_types_of_experts_behind_a_prompt_are_those_of_words():
    sample = asked(zoo.ernie4_5_vl_moe)
    types = lengthened(sample, [270, 280, 290])["moe_mm_token_type_ids"][0]
    assert types[sample.visual].eq(1).all() and types[-2:].tolist() == [0, 0]
    assert len(types) == sample.length + 2


def test_types_are_asked_for_where_positions_are_counted_by_them():
    sample = asked(zoo.cosmos3_edge)
    types = sample.inputs["mm_token_type_ids"][0]
    assert np.array_equal(np.flatnonzero(types), sample.visual)
    assert "mm_token_type_ids" not in asked(zoo.got_ocr2).inputs


def test_a_mark_that_the_processor_writes_is_not_written_twice():
    sample = asked(unlisted.blip_2)
    assert probed(unlisted.blip_2).family.mark == "none"
    assert sample.visual.tolist() == [0, 1, 2, 3]  # as many as there are queries
    assert probed(zoo.got_ocr2).family.mark == "image"


def test_a_processor_that_takes_no_picture_is_called_one():
    with pytest.raises(InputError, match="its processor takes none of the pictures tried: transp"):
        probed(unlisted.fuyu)


def test_a_processor_without_its_video_half_is_saved(tmp_path):
    """The stock class would copy a font that its video half names."""
    probed(zoo.ernie4_5_vl_moe).processor.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()


# What is left of a model


def test_a_pruned_model_that_has_nothing_more_to_drop_is_loaded(tmp_path):
    lvlm = probed(zoo.granite4_vision)
    assert set(lvlm.protected) == {0, 1, 2, 3}
    pruned = svl.pruned_view(lvlm, [0, 1, 2, 3, 5])
    again = svl.load(pruned.save(tmp_path / "out"), dtype="float32")
    assert again.layer_ids == (0, 1, 2, 3, 5) and set(again.protected) == {0, 1, 2, 3}
    sample = asked(zoo.granite4_vision)
    with torch.inference_mode():
        expected = pruned.model(**sample.inputs).logits
        assert torch.equal(again.model(**sample.inputs).logits, expected)
    whole = dataclasses.replace(again, provenance={})
    with pytest.raises(InputError, match="every layer between the first and the last has to stay"):
        probing.probe(whole)


# Places


@pytest.mark.parametrize(
    ("builder", "rule"),
    [
        (zoo.deepseek_vl_hybrid, "padded_square"),
        (zoo.fast_vlm, "square"),
        (zoo.got_ocr2, "square"),
        (zoo.granite4_vision, "resolution_grids"),
        (zoo.granite_docling, "row_column_tiles"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_places_answer_to_their_own_pixels(builder, rule):
    lvlm = probed(builder)
    assert lvlm.family.geometry == rule
    for size in ((300, 110), (90, 200), (64, 64)):
        assert all(hits(lvlm, [picture(*size)])), size


def test_one_tile_is_the_whole_page():
    sample = asked(zoo.granite_docling, 64, 64)
    assert sample.geometry.grid == (4, 4) and len(sample.visual) == 16
    assert np.allclose(sample.geometry.rects[5], (0.25, 0.25, 0.5, 0.5))


def test_padding_that_is_not_there_is_not_believed():
    """The picture is stretched: where a rule says that there is only padding, positions answer."""
    lvlm = probed(zoo.got_ocr2)
    wrong = dataclasses.replace(
        lvlm, family=dataclasses.replace(lvlm.family, geometry="padded_square")
    )
    wide = probing.noise(*probing.SHAPES[1])
    assert probing.places_hold(lvlm, wide)
    assert not probing.places_hold(wrong, wide)


def test_codes_of_a_vocabulary_have_no_places():
    """Each of them is chosen by what all of the picture makes of it."""
    assert probed(zoo.emu3).family.geometry == "unplaced"
    assert np.isnan(asked(zoo.emu3).geometry.rects).all()
