"""Calibration sets: folders and JSON Lines, draws, and the wall between what is fitted and what is
measured.
"""

import json
from types import SimpleNamespace

import pytest
from tiny import picture

from svl_core.comparison.calibration import (
    DEFAULT_PROMPT,
    disjoint,
    draw,
    encode_all,
    read_calibration,
    split,
)
from svl_core.errors import InputError


def samples(*keys):
    return [SimpleNamespace(key=key) for key in keys]


@pytest.fixture
def folder(tmp_path, image):
    for name in ("b.png", "a.PNG", "c.png"):
        image.save(tmp_path / name)
    (tmp_path / "b.txt").write_text("how many?\n")
    (tmp_path / "notes.md").write_text("not an image")
    return tmp_path


def test_folder(folder):
    assert read_calibration(folder) == [
        (folder / "a.PNG", DEFAULT_PROMPT),
        (folder / "b.png", "how many?"),
        (folder / "c.png", DEFAULT_PROMPT),
    ]
    assert read_calibration(folder, prompt="what?", limit=1) == [(folder / "a.PNG", "what?")]


def test_jsonl(folder):
    rows = [
        {"image": "b.png", "prompt": "p"},
        {"image": "c.png", "question": "q"},
        {"image": "c.png"},
    ]
    path = folder / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [prompt for _, prompt in read_calibration(path, prompt="default")] == [
        "p",
        "q",
        "default",
    ]
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps({"image": "none.png"}))
    with pytest.raises(InputError, match="line 2 of c.jsonl"):
        read_calibration(path)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="Found nothing"):
        read_calibration(tmp_path)
    with pytest.raises(InputError, match="no file"):
        read_calibration(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="calibration size of 0"):
        draw([1], 0)


def test_draw_is_seeded_and_keeps_the_order():
    assert draw(range(100), 10, seed=3) == sorted(draw(range(100), 10, seed=3))
    assert draw(range(100), 10, seed=3) != draw(range(100), 10, seed=4)
    assert draw(range(3), 10, seed=3) == [0, 1, 2]


def test_encode_all(tiny, folder):
    assert [s.length > 0 for s in encode_all(tiny, read_calibration(folder))] == [True] * 3


def test_fit_and_measurement_share_no_sample():
    assert [s.key for s in disjoint(samples("a", "b", "c"), samples("b"))] == ["a", "c"]
    with pytest.raises(InputError, match="among those measured"):
        disjoint(samples("a"), samples("a"))
    fit, measured = split(samples(*"abcdefa"), 0.5, seed=1)
    assert {s.key for s in fit} | {s.key for s in measured} == set("abcdef") and len(fit) == len(
        measured
    ) == 3
    assert not {s.key for s in fit} & {s.key for s in measured}
    fit, measured = split(samples("a", "b"), 0.99)
    assert len(fit) == len(measured) == 1
    with pytest.raises(InputError, match="at least two"):
        split(samples("a", "a"))


def test_sidecars_in_other_encodings_and_files_that_are_none(tmp_path):
    """A byte order mark is no part of a prompt, Latin-1 is read, and what macOS puts beside files
    is no image.
    """
    for name in ("a.png", "b.avif", "c.tga"):
        picture().save(tmp_path / name)
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "a.txt").write_text("où?", encoding="utf-8-sig")
    (tmp_path / "b.txt").write_text("où?", encoding="latin-1")
    pairs = read_calibration(tmp_path)
    assert [(path.name, prompt) for path, prompt in pairs] == [
        ("a.png", "où?"),
        ("b.avif", "où?"),
        ("c.tga", DEFAULT_PROMPT),
    ]


def test_a_bad_image_of_a_set_is_named(tiny, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="^In the file 'broken.png': found data that is not"):
        encode_all(tiny, read_calibration(tmp_path))
