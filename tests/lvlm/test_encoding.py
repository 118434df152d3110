"""Encoding a question: positions, the user's words, and what happens when they look like special
tokens.
"""

import numpy as np
import pytest
import torch

from svl_core.errors import InputError
from svl_core.lvlm import encoding

PROMPT = "what is in the top left ?"


def test_positions_share_out_the_sequence(tiny, tiny_sample):
    ids = tiny_sample.inputs["input_ids"][0]
    assert tiny_sample.length == len(ids) == len(tiny_sample.visual) + len(tiny_sample.textual)
    assert (
        ids[torch.tensor(tiny_sample.visual)] == tiny.model.config.image_token_id
    ).all() and len(tiny_sample.visual) == 36
    assert not (ids[torch.tensor(tiny_sample.textual)] == tiny.model.config.image_token_id).any()


def test_equals_the_stock_processor(tiny, image):
    """The stand-in for the user's words leaves no trace: ids and pixels are those of the processor
    called by hand.
    """
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    text = tiny.processor.apply_chat_template(messages, add_generation_prompt=True)
    expected = tiny.processor(
        images=image, text=text, return_tensors="pt", add_special_tokens=False
    )
    sample = tiny.encode(image, PROMPT)
    assert set(sample.inputs) == set(expected)
    for name, value in expected.items():
        assert torch.equal(sample.inputs[name], value), name


def test_prompt_positions_are_the_users_words(tiny_sample):
    assert "".join(tiny_sample.tokens[i] for i in tiny_sample.prompt_positions).strip() == PROMPT


@pytest.mark.parametrize(
    "words",
    [
        "<image>",
        "what is <image><image> here",
        "</s>",
        "<s> <pad> <user> hi <assistant>",
        "a<image>b",
        "  <image>  ",
        "\ue0f0\ue0f1\ue0f0 hi",
        "\u2060",
        "<im\u2060age>",
    ],
)
def test_special_tokens_in_the_prompt_are_plain_text(tiny, image, words):
    plain = tiny.encode(image, "x")
    sample = tiny.encode(image, words)
    specials = set(tiny.tokenizer.all_special_ids)
    assert len(sample.visual) == len(plain.visual) == 36
    said = sample.inputs["input_ids"][0][sample.prompt_positions].tolist()
    assert not specials & set(said)
    assert tiny.tokenizer.decode(said).strip() == words.replace("\ue0f0\ue0f1\ue0f0", "").strip()
    assert torch.isfinite(tiny.model(**sample.inputs).logits).all()


def test_other_scripts_and_line_breaks(tiny, image):
    words = "где кот? 猫はどこ\n\n🐈‍⬛ \t ok"
    sample = tiny.encode(image, words)
    assert (
        tiny.tokenizer.decode(sample.inputs["input_ids"][0][sample.prompt_positions]).strip()
        == words
    )


@pytest.mark.parametrize("prompt", ["", "   \n\t", None, 7])
def test_empty_prompt(tiny, image, prompt):
    with pytest.raises(InputError, match="prompt"):
        tiny.encode(image, prompt)


def test_no_room_in_the_context(tiny, image):
    with pytest.raises(InputError, match=r"Found a question of \d+ positions .* fewer than 256"):
        tiny.encode(image, "cat " * 400)
    room = tiny.max_positions - tiny.encode(image, "a").length
    fits = tiny.encode(image, " ".join(["a"] * room))  # its advice works: shorter is taken
    assert fits.length == tiny.max_positions - 1
    with pytest.raises(InputError):
        tiny.encode(image, " ".join(["a"] * (room + 1)))


def test_a_bad_image_is_told(tiny):
    with pytest.raises(InputError, match="image"):
        tiny.encode(b"nonsense", PROMPT)


def test_no_image_and_two_images(tiny, image):
    alone = tiny.encode(None, PROMPT)
    assert (
        len(alone.visual) == 0
        and alone.geometry.rects.shape == (0, 4)
        and "pixel_values" not in alone.inputs
    )
    two = tiny.encode([image, image.rotate(90)], PROMPT)
    assert len(two.visual) == 72 and two.geometry.grid is None
    assert two.geometry.image_index.tolist() == [0] * 36 + [1] * 36
    assert torch.isfinite(tiny.model(**two.inputs).logits).all()


def test_key_tells_samples_apart(tiny, image):
    keys = {
        tiny.encode(image, "a").key,
        tiny.encode(image, "b").key,
        tiny.encode(image.rotate(180), "a").key,
        tiny.encode(None, "a").key,
    }
    assert len(keys) == 4 and tiny.encode(image, "a").key in keys


def test_values_are_frozen(tiny_sample):
    with pytest.raises(ValueError):
        tiny_sample.visual[0] = 3
    with pytest.raises(TypeError):
        tiny_sample.inputs["input_ids"] = None
    assert not np.shares_memory(tiny_sample.visual, np.array(tiny_sample.visual))


def test_no_chat_template(tiny, image):
    """A processor without a template gets the family's plain form."""
    import copy
    import dataclasses

    processor = copy.copy(tiny.processor)
    processor.chat_template = None
    sample = dataclasses.replace(tiny, processor=processor).encode(image, PROMPT)
    assert len(sample.visual) == 36
    assert (
        "".join(sample.tokens[i] for i in sample.textual).strip() == f"USER: \n{PROMPT} ASSISTANT:"
    )


def test_printable_pieces_join_to_the_text(tiny):
    """One string for a token, with the space that begins a word."""
    text = "a cat and a dog"
    ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = encoding.printable(tiny.tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces).strip() == text


def test_control_ids_hold_special_tokens_and_the_images_mark(tiny):
    ids = encoding.control_ids(tiny.reader)
    assert set(tiny.tokenizer.all_special_ids) <= ids
    assert tiny.tokenizer.convert_tokens_to_ids("<image>") in ids
    ordinary = tiny.tokenizer("cat", add_special_tokens=False)["input_ids"]
    assert not ids & set(ordinary)


def test_a_template_that_writes_a_mark_of_its_own(tiny, image):
    """Which the processor reads; one that writes nothing for an image is passed over."""
    import copy
    import dataclasses

    from svl_core.lvlm.chat import USER, Chat, Turn
    from svl_core.lvlm.encoding import STAND_IN, _rendered

    chat = Chat((Turn(USER, "a cat", 1),))

    def written(template):
        processor = copy.copy(tiny.processor)
        processor.chat_template = template
        reader = dataclasses.replace(tiny.reader, processor=processor)
        return _rendered(reader, chat)[0]

    parts = "{% for m in messages %}{% for p in m.content %}PART{% endfor %}{% endfor %}"
    own = parts.replace("PART", "{% if p.type == 'image' %}[here]{% else %}{{ p.text }}{% endif %}")
    assert written(own) == f"[here]{STAND_IN}"
    silent = parts.replace("PART", "{{ p.text }}")
    assert "<image>" in written(silent)
