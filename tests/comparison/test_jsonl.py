"""JSON Lines of images and texts: what is read, and the line that an error names."""

import pytest

from svl_core.comparison import jsonl
from svl_core.errors import InputError


def written(folder, text, encoding="utf-8"):
    file = folder / "asked.jsonl"
    file.write_text(text, encoding=encoding)
    return file


def test_rows_with_their_places(tmp_path):
    """Empty lines count but are passed over; a byte order mark is no part of the first line."""
    file = written(
        tmp_path,
        '{"prompt": "a?"}\n\n{"prompt": "b?", "answer": "yes"}\n',
        encoding="utf-8-sig",
    )
    assert list(jsonl.read_rows(file, ["prompt"])) == [
        ("line 1 of asked.jsonl", {"prompt": "a?"}),
        ("line 3 of asked.jsonl", {"prompt": "b?", "answer": "yes"}),
    ]


def test_one_of_several_keys_is_enough(tmp_path):
    file = written(tmp_path, '{"prompt": "a?", "answers": "b"}')
    ((_, row),) = jsonl.read_rows(file, ["prompt"], one_of=["answer", "answers"])
    assert row["answers"] == "b"
    with pytest.raises(InputError, match='no text under "answer" in line 1'):
        list(jsonl.read_rows(written(tmp_path, '{"prompt": "a?"}'), ["prompt"], one_of=["answer"]))


@pytest.mark.parametrize(
    "line, fault",
    [
        ("{", "no valid JSON in line 2"),
        ("[1]", "a list in line 2"),
        ('{"prompt": " "}', 'no text under "prompt" in line 2'),
        ('{"prompt": 3}', 'no text under "prompt" in line 2'),
    ],
)
def test_a_line_that_does_not_do_is_named(tmp_path, line, fault):
    file = written(tmp_path, '{"prompt": "a?"}\n' + line)
    with pytest.raises(InputError, match=fault) as raised:
        list(jsonl.read_rows(file, ["prompt"]))
    assert 'expected {"prompt": text}' in str(raised.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no file"):
        list(jsonl.read_rows(tmp_path / "none.jsonl", ["prompt"]))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read"):
        list(jsonl.read_rows(tmp_path / "latin.jsonl", ["prompt"]))


def test_the_image_lies_beside_the_file(tmp_path):
    file = written(tmp_path, "")
    (tmp_path / "cat.png").write_bytes(b"")
    assert jsonl.image_path({"image": "cat.png"}, file, "line 1") == tmp_path / "cat.png"
    assert jsonl.image_path({"image": None}, file, "line 1") is None
    with pytest.raises(InputError, match="no image .*dog.png for line 1"):
        jsonl.image_path({"image": "dog.png"}, file, "line 1")
    with pytest.raises(InputError, match='no text under "image" in line 1'):
        jsonl.image_path({}, file, "line 1")
