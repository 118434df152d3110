"""Processors that put an image's positions into the sequence by themselves: Kosmos' mark them with
a mask, InstructBLIP's put them ahead of the text and read the question by a second tokenizer.
"""

import numpy as np
import pytest
import torch
from builders import weighted
from state_table import loaded
from tiny import picture
from zoo_h_to_z import ZOO

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.families import GENERIC
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.probing import entering

POSITIONS = {"kosmos-2": 64, "kosmos-2.5": 6, "instructblip": 6}  # of each image
QUESTION = "what is in the top left ?"


@pytest.fixture(scope="module", params=POSITIONS)
def asked(request):
    """(entry, model, sample)"""
    lvlm = loaded(request.param, ZOO[request.param])
    return request.param, lvlm, lvlm.encode(picture(100, 60), QUESTION)


def test_visual_positions_and_words(asked):
    entry, lvlm, sample = asked
    assert len(sample.visual) == POSITIONS[entry]
    marks = sample.inputs.get("image_embeds_position_mask")
    if marks is not None:
        assert np.array_equal(sample.visual, np.flatnonzero(marks[0].numpy() == 1))
    words = "".join(sample.tokens[position] for position in sample.prompt_positions)
    assert words.strip() == QUESTION
    assert not set(sample.prompt_positions) & set(sample.visual)


def test_the_image_enters_at_the_visual_positions_alone(asked):
    _, lvlm, sample = asked
    other = lvlm.encode(picture(100, 60, seed=1), QUESTION)
    moved = (entering(lvlm, other) != entering(lvlm, sample)).any(dim=1)
    assert moved[torch.tensor(sample.visual)].all()
    assert not moved[torch.tensor(sample.textual)].any()


def test_answers_are_those_of_the_librarys_own_loop(asked):
    """Token by token behind the cache, although the whole model would want a picture each time."""
    entry, lvlm, sample = asked
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    wanted = lvlm.model.generate(**sample.inputs, **options, eos_token_id=None)[0, -4:].tolist()
    answer = svl.answer(lvlm, sample, max_new_tokens=4)
    count = len(answer.token_ids)
    assert list(answer.token_ids) == wanted[:count] and count > 1


def test_a_picture_is_wanted(asked):
    _, lvlm, _ = asked
    assert lvlm.family.image_required
    with pytest.raises(InputError, match=f"for {lvlm.name} answers about images only; add an"):
        lvlm.encode(None, QUESTION)


def test_the_last_layer_reads_as_what_the_model_says(asked):
    _, lvlm, sample = asked
    assert (svl.lens(lvlm, sample).rank[-1] == 0).all()


def test_an_answer_holds_no_image():
    lvlm = loaded("kosmos-2.5", ZOO["kosmos-2.5"])
    sample = lvlm.encode(picture(60, 60), QUESTION)
    marks = lengthened(sample, [7, 8, 9])["image_embeds_position_mask"][0]
    assert marks[-2:].tolist() == [0, 0] and int((marks == 1).sum()) == 6


def test_the_second_tokenizer_reads_the_question():
    """And so an image is seen for one question: its features are another question's no more."""
    lvlm = loaded("instructblip", ZOO["instructblip"])
    image = picture(60, 60)
    sample = lvlm.encode(image, QUESTION)
    words = lvlm.processor.qformer_tokenizer(QUESTION)["input_ids"]
    assert sample.inputs["qformer_input_ids"][0].tolist() == words
    other = lvlm.encode(image, "how many ?")
    assert not torch.equal(entering(lvlm, other)[:6], entering(lvlm, sample)[:6])
    assert not lvlm.family.sees_once


def test_a_processor_that_writes_texts_of_its_own():
    """One a policy (ShieldGemma 2)."""
    config, processor = ZOO["shieldgemma2"]()
    lvlm = LVLM(weighted(config).eval(), processor, GENERIC, "x")
    with pytest.raises(InputError, match="writes 3 texts of its own for one question; expected"):
        lvlm.encode(picture(60, 60), QUESTION)
