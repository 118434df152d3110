"""Lists of images and texts: every shape that is read, and the line that an error names."""

import base64
import io
import json

import pytest
from tiny import picture

from svl_core.comparison import jsonl
from svl_core.comparison.calibration import DEFAULT_PROMPT, read_calibration
from svl_core.comparison.evaluation import Question, is_right, read_jsonl
from svl_core.errors import InputError
from svl_core.lvlm.chat import Chat, Turn


@pytest.fixture
def listed(tmp_path):
    """Writes a list beside two images; gives its path."""
    for name in ("cat.png", "dog.png"):
        picture().save(tmp_path / name)

    def write(*rows, encoding="utf-8", name="asked.jsonl"):
        text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / name).write_text(text, encoding=encoding)
        return tmp_path / name

    return write


def entries(path):
    return [(entry.prompt, entry.answers) for entry in jsonl.read_entries(path)]


def png_base64():
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_rows_with_their_places(listed):
    """Empty lines count but are passed over; a byte order mark is no part of the first line."""
    path = listed(
        {"image": "cat.png", "prompt": "a?"},
        "",
        {"image": None, "prompt": "b?", "answer": "yes", "kind": "k"},
        encoding="utf-8-sig",
    )
    first, second = jsonl.read_entries(path)
    assert first == jsonl.Entry("line 1 of asked.jsonl", path.parent / "cat.png", "a?")
    assert second == jsonl.Entry("line 3 of asked.jsonl", None, "b?", ("yes",), "k")


def test_an_array_is_a_list_too(listed):
    path = listed('[{"image": "cat.png", "prompt": "a?"},\n {"image": null, "prompt": "b?"}]')
    assert [entry.where for entry in jsonl.read_entries(path)] == [
        "entry 1 of asked.jsonl",
        "entry 2 of asked.jsonl",
    ]
    with pytest.raises(InputError, match="no valid JSON in line 2 of asked.jsonl"):
        list(jsonl.read_entries(listed('[{"image": null, "prompt": "a?"},\n oops]')))


CHATS = {
    "trainers": {
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
        ],
        "images": ["cat.png"],
    },
    "plain": {
        "messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "yes"}],
        "image": "cat.png",
    },
    "image inside": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "cat.png"},
                    {"type": "text", "text": "a?"},
                ],
            },
            {"role": "assistant", "content": "yes"},
        ]
    },
    "llava": {
        "id": "7",
        "image": "cat.png",
        "conversations": [
            {"from": "human", "value": "<image>\na?"},
            {"from": "gpt", "value": "yes"},
        ],
    },
    "instruction": {"image": "cat.png", "instruction": "a?", "input": "", "output": "yes"},
    "vqa": {"image": "cat.png", "question": "a?", "answers": [{"answer": "yes", "answer_id": 1}]},
    "path": {"image_path": "cat.png", "query": "a?", "label": "yes"},
    "datasets": {"image": {"bytes": None, "path": "cat.png"}, "question": "a?", "answer": True},
}


@pytest.mark.parametrize("shape", CHATS)
def test_the_shapes_that_data_sets_have(listed, shape):
    (entry,) = jsonl.read_entries(listed(CHATS[shape]))
    assert (entry.image.name, entry.prompt, entry.answers) == ("cat.png", "a?", ("yes",))


def test_several_images_and_earlier_turns(listed):
    """A row may show several images, and a chat with more than one question is asked whole."""
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "<image> a?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "b?"}]},
        {"role": "assistant", "content": "no"},
    ]
    images = ["cat.png", "dog.png"]
    plain, whole = jsonl.read_entries(
        listed({"images": images, "prompt": "a?"}, {"messages": turns, "images": images})
    )
    assert [path.name for path in plain.image] == images and plain.prompt == "a?"
    assert whole.image == plain.image and whole.answers == ("no",)
    assert whole.prompt == Chat(
        (
            Turn("system", "be brief"),
            Turn("user", "a?", 1),
            Turn("assistant", "yes"),
            Turn("user", "b?", 1),
        )
    )


def test_images_inside_the_row(listed):
    text = png_base64()
    for value in (text, f"data:image/png;base64,{text}", {"bytes": text, "path": "x.png"}):
        (entry,) = jsonl.read_entries(listed({"image": value, "prompt": "a?"}))
        assert entry.image == base64.b64decode(text)
    with pytest.raises(InputError, match="^In line 1 of asked.jsonl: found data that is not a"):
        list(jsonl.read_entries(listed({"image": "data:image/png;base64,aGVsbG8=", "prompt": "a"})))
    with pytest.raises(InputError, match="neither a file's name nor base64"):
        list(jsonl.read_entries(listed({"image": "?" * 600, "prompt": "a"})))


def test_answers_of_every_kind(listed):
    rows = [
        {"image": None, "question": "a?", "answer": answer}
        for answer in ("yes", 3, 2.5, False, ["3", "three", "3"])
    ]
    assert [answers for _, answers in entries(listed(*rows))] == [
        ("yes",),
        ("3",),
        ("2.5",),
        ("no",),
        ("3", "three"),
    ]
    question = list(read_jsonl(listed(rows[-1])))[0]
    assert question.answer == "3" and is_right("Three.", question) and is_right("3", question)
    assert not is_right("four", question) and is_right("Yes", Question(None, "a?", "yes"))


@pytest.mark.parametrize(
    "row, fault",
    [
        ("{", "no valid JSON in line 2"),
        ("[1]x", "no valid JSON in line 2"),
        ("3", "an? int in line 2"),
        ({"image": None, "prompt": " "}, 'no text under "prompt" in line 2'),
        ({"image": None, "prompt": 3}, 'no text under "prompt" in line 2'),
        ({"image": None, "promt": "a?"}, 'the key "promt" in line 2 .*expected "prompt"'),
        ({"image": None, "prompt": "a", "anwser": "b"}, 'the key "anwser" in line 2'),
        ({"image": None, "words": "a?"}, 'the key "words" in line 2 .*, which has no prompt'),
        ({"prompt": "a?"}, 'no text under "image" in line 2'),
        ({"image": "bird.png", "prompt": "a?"}, "no image .*bird.png for line 2"),
        ({"image": "http://x/y.png", "prompt": "a?"}, "the web address 'http://x/y.png' in line 2"),
        ({"image": None, "prompt": "a?", "video": "x.mp4"}, "a video in line 2 .*its frames"),
        ({"image": None, "prompt": "a?", "answer": []}, 'no text under "answer" in line 2'),
        ({"messages": [{"role": "system", "content": "a"}]}, "a chat without a question in line 2"),
        (
            {"messages": [{"role": "user", "content": "<image> a?"}]},
            "In line 2 .*: found 0 images for a chat that shows 1",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "a turn of 'tool' in line 2"),
        ({"messages": "a?"}, "a chat in line 2 .* that is no list of turns"),
        ({"messages": []}, "a chat without a question in line 2"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "video": "x"}]}]},
            "a video in line 2",
        ),
    ],
)
def test_a_line_that_does_not_do_is_named(listed, row, fault):
    with pytest.raises(InputError, match=fault):
        list(jsonl.read_entries(listed({"image": None, "prompt": "a?"}, row)))


def test_a_row_of_an_image_alone_gets_the_default_prompt(listed):
    path = listed({"image": "cat.png"}, {"image": "dog.png", "id": 3, "source": "x"})
    assert [prompt for _, prompt in read_calibration(path)] == [DEFAULT_PROMPT] * 2
    with pytest.raises(InputError, match='no text under "question" in line 1'):
        list(read_jsonl(path))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no file"):
        list(jsonl.read_entries(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read"):
        list(jsonl.read_entries(tmp_path / "latin.jsonl"))
