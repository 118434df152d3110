"""Greedy answers follow a model's generation settings as the library's `generate` does."""

import dataclasses

import pytest
import torch
from tiny import tiny_llava

import svl_core as svl
from svl_core.lvlm import families, generation
from svl_core.lvlm.decoding import answers_together, image_token_ids
from svl_core.lvlm.model import LVLM

LIMIT = 8
SETTINGS = {  # each of them changes the plain answer
    "penalty": lambda plain: {"repetition_penalty": 1.7},
    "ngrams": lambda plain: {"no_repeat_ngram_size": 2},
    "suppressed": lambda plain: {"suppress_tokens": [plain[0]]},
    "not_first": lambda plain: {"begin_suppress_tokens": [plain[0]]},
    "bad words": lambda plain: {"bad_words_ids": [[plain[0]], [plain[1], plain[2]]]},
    "at least": lambda plain: {"min_new_tokens": 4, "eos_token_id": plain[1]},
    "several": lambda plain: {"forced_eos_token_id": 1, "repetition_penalty": 0.5},
}


@pytest.fixture(scope="module")
def lvlm():
    """A LLaVA of its own, whose plain answers repeat themselves."""
    model, processor = tiny_llava()
    return LVLM(model, processor, families.family_of(model.config), "steered")


@pytest.fixture
def samples(lvlm, image):
    return [lvlm.encode(image, words) for words in ("a cat", "what is in the top left ?")]


def with_settings(lvlm, **settings):
    model = lvlm.model
    before = model.generation_config
    model.generation_config = type(before).from_dict({**before.to_dict(), **settings})
    return before


def generated(lvlm, sample):
    """The library's greedy answer; no token of an image, as here."""
    own = lvlm.model.generation_config
    banned = [*image_token_ids(lvlm), *(own.suppress_tokens or ())]
    with torch.inference_mode():
        whole = lvlm.model.generate(
            **sample.inputs,
            do_sample=False,
            max_new_tokens=LIMIT,
            suppress_tokens=banned,
            eos_token_id=list(lvlm.eos_token_ids),
            pad_token_id=0,
        )
    return tuple(whole[0, sample.length :].tolist())


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_are_the_librarys(lvlm, samples, name):
    """Alone, and in a batch whose rows have different lengths."""
    plain = dataclasses.replace(lvlm, plain=True)
    unsteered = [svl.answer(plain, sample, max_new_tokens=LIMIT).token_ids for sample in samples]
    before = with_settings(lvlm, **SETTINGS[name](unsteered[0]))
    try:
        expected = [generated(lvlm, sample) for sample in samples]
        alone = [svl.answer(lvlm, sample, max_new_tokens=LIMIT).token_ids for sample in samples]
        together = answers_together(lvlm, samples, LIMIT)
    finally:
        lvlm.model.generation_config = before
    assert alone == expected and together == expected
    assert unsteered != expected


def test_scores_are_of_the_predictions_themselves(lvlm, samples):
    """A full and a pruned model that are one differ in nothing, however answers are steered."""
    before = with_settings(lvlm, repetition_penalty=1.7)
    try:
        report = svl.compare(lvlm, lvlm, samples[0], max_new_tokens=4)
    finally:
        lvlm.model.generation_config = before
    assert report.kl == pytest.approx(0, abs=1e-6) and report.agreement == 1
    assert report.first_divergence is None


def test_what_is_followed_is_told(lvlm):
    ends = lvlm.eos_token_ids
    config = lvlm.model.generation_config
    assert generation.told(config, ends, False) == "" and lvlm.computes_in == "float32"
    before = with_settings(lvlm, repetition_penalty=1.2, suppress_tokens=[5], num_beams=4)
    try:
        assert generation.told(lvlm.model.generation_config, ends, False) == (
            "answers follow its repetition_penalty 1.2, suppress_tokens; answers are greedy without"
            " its num_beams 4"
        )
        plain = dataclasses.replace(lvlm, plain=True)
        told = plain.computes_in
    finally:
        lvlm.model.generation_config = before
    assert told == (
        "float32; answers are greedy without its repetition_penalty 1.2, suppress_tokens,"
        " num_beams 4"
    )
