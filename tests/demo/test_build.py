"""The bundled model's chat template: what it writes, what it leaves out, what it refuses."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from svl_core.demo import build
from svl_core.errors import InputError

TEMPLATE_FILE = Path(__file__).parents[2] / "assets" / "demo_lvlm" / "chat_template.jinja"
QUESTION = {
    "role": "user",
    "content": [{"type": "image"}, {"type": "text", "text": " where is the cat? "}],
}
ANSWER = {"role": "assistant", "content": "left"}
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


@pytest.fixture(scope="module")
def bundled(tiny):
    """The tiny model with the bundled one's template."""
    processor = copy.copy(tiny.processor)
    processor.chat_template = build.TEMPLATE
    return dataclasses.replace(tiny, processor=processor)


def written(lvlm, *messages, **options):
    return lvlm.processor.apply_chat_template(list(messages), tokenize=False, **options)


def test_the_shipped_template_is_this_one():
    assert TEMPLATE_FILE.read_text(encoding="utf-8") == build.TEMPLATE


def test_a_question_as_it_was_trained_on(bundled):
    """The very texts, written by hand, that the weights were trained on."""
    asked = "<s><image><user> where is the cat?"
    assert written(bundled, QUESTION, add_generation_prompt=True) == f"{asked}<assistant>"
    assert written(bundled, QUESTION, ANSWER) == f"{asked}<assistant> left</s>"
    plain = {"role": "user", "content": "where is the cat?"}
    assert written(bundled, plain, ANSWER) == "<s><user> where is the cat?<assistant> left</s>"


def test_a_system_turn_is_left_out(bundled, image):
    for turns in ([QUESTION], [QUESTION, ANSWER]):
        assert written(bundled, SYSTEM, *turns) == written(bundled, *turns)
    alone = bundled.encode(image, "where is the cat?")
    with_system = bundled.encode(image, [SYSTEM, QUESTION])
    assert torch.equal(with_system.inputs["input_ids"], alone.inputs["input_ids"])
    assert with_system.key == alone.key
    assert with_system.prompt_positions.tolist() == alone.prompt_positions.tolist()


@pytest.mark.parametrize(
    "images, turns, words",
    [
        (1, [QUESTION, ANSWER, {"role": "user", "content": "and the dog?"}], "it answers one"),
        (2, "where is the cat?", "it looks at one image; it has not learnt to compare"),
    ],
)
def test_more_than_one_is_refused_in_words(bundled, image, images, turns, words):
    with pytest.raises(InputError, match=rf"which the chat template of tiny refuses \({words}"):
        bundled.encode([image] * images, turns)


def test_a_video_is_refused_in_words(bundled):
    shown = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "a?"}]}
    with pytest.raises(Exception, match="it has not learnt to watch a video"):
        written(bundled, shown)
