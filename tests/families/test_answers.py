"""Our decode loop in every family: equal to `generate()`, batched with left padding, and scored by teacher forcing."""

import pytest
import torch
from tiny import picture

from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import answer_batch
from svl_core.lvlm.decoding import image_token_ids
from svl_core.lvlm.forcing import forced_logits

PROMPTS = ["a cat", "what is in the top left of this picture ?", "how many apples are there"]


@pytest.fixture
def endless(family, monkeypatch):
    monkeypatch.setattr(type(family), "eos_token_ids", property(lambda self: ()))
    return family


def generated(lvlm, sample, n):
    with torch.no_grad():
        out = lvlm.model.generate(**sample.inputs, max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0, suppress_tokens=list(image_token_ids(lvlm)))
    return tuple(out[0, sample.length :].tolist())


def test_answer_equals_generate(endless):
    for prompt in PROMPTS:
        sample = endless.encode(picture(120, 80), prompt)
        assert answer(endless, sample, max_new_tokens=8).token_ids == generated(endless, sample, 8)


def test_batch_equals_one_by_one(endless):
    samples = [endless.encode(picture(120, 80, seed=i), prompt) for i, prompt in enumerate(PROMPTS)]
    assert answer_batch(endless, samples, max_new_tokens=6) == [answer(endless, s, max_new_tokens=6).token_ids for s in samples]


def test_forcing_the_answer_reproduces_it(endless):
    sample = endless.encode(picture(120, 80), PROMPTS[1])
    ids = answer(endless, sample, max_new_tokens=6).token_ids
    logits = forced_logits(endless, [sample], [ids])[0].clone()
    logits[:, list(image_token_ids(endless))] = float("-inf")
    assert tuple(logits.argmax(-1).tolist()) == ids
