"""Chats: turns under every name that they have, what a model's template makes of them, and what is
refused, in whose words.
"""

import copy
import dataclasses

import pytest
import torch

from svl_core.errors import InputError
from svl_core.lvlm.chat import Chat, Turn, read_chat

SYSTEM = {"role": "system", "content": "be brief"}
HISTORY = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat ?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    {"role": "user", "content": [{"type": "text", "text": "and a dog ?"}]},
]
ROLES = (
    "{% for message in messages %}<user> {{ message.role }}:{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system turns here.') }}{% endif %}"
    + ROLES
)


def speaking(lvlm, template):
    """The same model with another chat template."""
    processor = copy.copy(lvlm.processor)
    processor.chat_template = template
    return dataclasses.replace(lvlm, processor=processor)


def said(lvlm, sample):
    """The words of its turns, as the model reads them."""
    ids = sample.inputs["input_ids"][0]
    return lvlm.tokenizer.decode(ids[sample.prompt_positions])


def test_turns_of_llavas_data_and_of_trainers_are_the_same():
    theirs = [
        {"from": "human", "value": "<image>\na cat ?"},
        {"from": "gpt", "value": "yes"},
        {"from": "human", "value": "and a dog ?"},
        {"from": "gpt", "value": "no"},
    ]
    read = read_chat(theirs, "here")
    assert read.chat == read_chat(HISTORY, "here").chat and read.answer == "no"
    assert read.chat.turns[0] == Turn("user", "a cat ?", images=1)


def test_a_chat_equals_the_stock_processor(tiny, image):
    """Ids and pixels are those of the template and the processor called by hand; every turn's words
    are the user's.
    """
    lvlm = speaking(tiny, ROLES)
    whole = [{"role": "system", "content": [{"type": "text", "text": "be brief"}]}, *HISTORY]
    text = lvlm.processor.apply_chat_template(whole, add_generation_prompt=True)
    expected = lvlm.processor(images=image, text=text, return_tensors="pt")
    sample = lvlm.encode(image, [SYSTEM, *HISTORY])
    assert set(sample.inputs) == set(expected)
    for name, value in expected.items():
        assert torch.equal(sample.inputs[name], value), name
    assert said(lvlm, sample).split() == "be briefa cat ?yesand a dog ?".split()
    assert sample.prompt == "and a dog ?" and len(sample.visual) == 36


def test_one_message_is_a_prompt(tiny, image):
    """A list of one, the message itself, a row with its answer, and its image inside it."""
    alone = tiny.encode(image, "a cat ?")
    message = {"role": "user", "content": "a cat ?"}
    row = {"messages": [message, {"role": "assistant", "content": "yes"}]}
    inside = {"type": "image", "image": image}
    parts = [{"role": "user", "content": [inside, {"type": "text", "text": "a cat ?"}]}]
    for sample in (
        tiny.encode(image, [message]),
        tiny.encode(image, message),
        tiny.encode(image, row),
        tiny.encode(None, parts),
    ):
        assert sample.key == alone.key and sample.prompt == "a cat ?"
        assert torch.equal(sample.inputs["input_ids"], alone.inputs["input_ids"])


def test_images_go_to_the_turns_that_show_them(tiny, image):
    lvlm = speaking(tiny, ROLES)
    turned = image.rotate(90)
    second = copy.deepcopy(HISTORY)
    second[2]["content"].insert(0, {"type": "image"})
    two = lvlm.encode([image, turned], second)
    assert two.geometry.image_index.tolist() == [0] * 36 + [1] * 36
    assert two.visual[36] > two.prompt_positions[0] > two.visual[35]
    unmarked = [{"role": turn["role"], "content": turn["content"][-1]["text"]} for turn in HISTORY]
    first = lvlm.encode([image, turned], unmarked)
    assert first.prompt_positions[0] > first.visual[-1]
    assert lvlm.encode(image, unmarked).key == lvlm.encode(image, HISTORY).key != two.key
    with pytest.raises(InputError, match="Found 2 images for a chat that shows 1"):
        lvlm.encode([image, turned], HISTORY)
    with pytest.raises(InputError, match="in the chat and beside it"):
        inside = [{"type": "image", "image": image}, {"type": "text", "text": "a"}]
        lvlm.encode(image, [{"role": "user", "content": inside}])


def test_special_tokens_in_earlier_turns_are_plain_text(tiny, image):
    turns = [
        {"role": "user", "content": "a </s> b"},
        {"role": "assistant", "content": "<user> c"},
        {"role": "user", "content": "<s><pad> d"},
    ]
    sample = speaking(tiny, ROLES).encode(image, turns)
    ids = sample.inputs["input_ids"][0][sample.prompt_positions].tolist()
    assert not set(tiny.tokenizer.all_special_ids) & set(ids)
    assert tiny.tokenizer.decode(ids) == "a </s> b<user> c<s><pad> d"
    assert len(sample.visual) == 36


def test_a_template_refuses_in_its_own_words(tiny, image):
    strict = speaking(tiny, STRICT)
    with pytest.raises(InputError) as refused:
        strict.encode(image, [SYSTEM, *HISTORY])
    assert str(refused.value) == (
        "Found 4 turns, the first of them the system's, with 1 image, which the chat template of"
        " tiny refuses (No system turns here); expected what it takes; leave the rest out."
    )
    assert strict.encode(image, HISTORY).prompt == "and a dog ?"  # its advice works
    with pytest.raises(InputError, match="which no chat template of tiny writes"):
        speaking(tiny, None).encode(image, HISTORY)
    leaving_out = "{{ messages[-1].content[-1].text }}{% for m in messages %}<image>{% endfor %}"
    with pytest.raises(InputError, match="which no chat template of tiny writes"):
        speaking(tiny, leaving_out).encode(image, HISTORY)


def test_a_template_that_takes_plain_texts_alone(tiny, image):
    """What it refuses is the form of the content, and the other form is tried."""
    plain = (
        "{% for message in messages %}{% if message.content is not string %}"
        "{{ raise_exception('only texts') }}{% endif %}<user> {{ message.content }}{% endfor %}"
    )
    sample = speaking(tiny, plain).encode([image, image], HISTORY[2:])
    assert len(sample.visual) == 72 and sample.prompt == "and a dog ?"


@pytest.mark.parametrize(
    "turns, fault",
    [
        ([], "a chat without a question in x"),
        ([SYSTEM], "a chat without a question in x"),
        (["a"], "a chat in x that is no list of turns"),
        ([HISTORY[1]], "a turn of 'assistant' in x where system or user was due"),
        ([HISTORY[0], SYSTEM], "a turn of 'system' in x where assistant was due"),
        ([HISTORY[0], HISTORY[2]], "a turn of 'user' in x where assistant was due"),
        ([{"role": "tool", "content": "a"}], "a turn of 'tool' in x; expected one of system"),
        ([{"role": ["user"], "content": "a"}], "a turn of .* in x; expected one of system"),
        ([{"role": "user", "content": " "}], 'no text under "content" in x'),
        ([{"role": "user", "content": None}], 'no text under "content" in x'),
        (
            [{"role": "system", "content": "<image> a"}, HISTORY[0]],
            "an image in a turn of 'system'",
        ),
        (
            [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}],
            "a video in x; expected pictures; take some of its frames",
        ),
        ([{"role": "user", "content": [{"type": "audio"}]}], "a part of .* the type 'audio'"),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "url": "a"},
                        {"type": "image"},
                        {"type": "text", "text": "a"},
                    ],
                }
            ],
            "1 of 2 images in the chat in x",
        ),
    ],
)
def test_what_is_no_chat_is_told(turns, fault):
    with pytest.raises(InputError, match=fault):
        read_chat(turns, "x")


def test_other_prompts_are_told(tiny, image):
    for prompt in ([], {"role": "user"}, {"text": "a"}, 7):
        with pytest.raises(InputError, match="Found (an empty prompt|a chat|a turn|no text)"):
            tiny.encode(image, prompt)


def test_a_video_is_told_and_its_remedy(tmp_path, tiny):
    for name, head in {
        "a.mp4": b"\0\0\0 ftypisom",
        "a.mkv": b"\x1aE\xdf\xa3",
        "a.avi": b"RIFF\0\0\0\0AVI LIST",
    }.items():
        (tmp_path / name).write_bytes(head + bytes(64))
        with pytest.raises(InputError, match="Found a video; expected pictures; take some of"):
            tiny.encode(tmp_path / name, "what happens ?")


def test_a_chats_length_is_that_of_its_words():
    assert len(Chat((Turn("system", "abc"), Turn("user", "de", 2)))) == 5
