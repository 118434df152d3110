"""Pictures of one shape: every answer is read off the pixels anew, the calibration set holds them
where it says so, and the bundled model knows them.
"""

import re

import numpy as np
import pytest

from svl_core.demo import shapes
from svl_core.demo.questions import (
    MEASURED_SEED,
    SCENES_FIRST,
    calibration,
    labelled,
)
from svl_core.demo.shapes import COLOURS, SHAPES, labelled_shapes


def read(image):
    """(shape, colour) of a picture, from its pixels alone."""
    pixels = np.asarray(image).astype(int)
    ground = pixels[0, 0] if (pixels[0, 0] >= 230).all() else pixels[-1, -1]
    differs = np.abs(pixels - ground).sum(2) > 0
    rows, columns = np.where(differs)
    names, values = zip(*COLOURS.items(), strict=True)
    distance = np.abs(pixels[differs][:, None] - np.array(values)).sum(2)
    colour = names[np.bincount(distance.argmin(1)).argmax()]
    top, bottom, left = rows.min(), rows.max(), columns.min()
    corner = [differs[row : row + 2, left : left + 2].all() for row in (top, bottom - 1)]
    shape = {(True, True): "rectangle", (False, True): "triangle"}.get(tuple(corner), "circle")
    return shape, colour


def expected(question, shape, colour):
    """The answer, by reading the question word by word."""
    words = re.findall(r"[a-z]+", question)
    if "color" in words:
        return colour
    if words[0] == "what":
        return shape
    named = {word for word in words if word in COLOURS or word in SHAPES}
    there = named <= {shape, colour}
    negated = "not" in words or "no" in words
    return "yes" if there != negated else "no"


def test_every_answer_is_what_the_pixels_say():
    questions = labelled_shapes(400, seed=3)
    for asked in questions:
        shape, colour = read(asked.image)
        assert asked.answer == expected(asked.question, shape, colour), asked.question
    kinds = [asked.kind for asked in questions]
    assert kinds.count("yes/no") == 200
    answers = [asked.answer for asked in questions if asked.kind == "yes/no"]
    assert 70 < answers.count("yes") < 130


def test_a_seed_gives_the_same_and_another_gives_others():
    one, again, other = (
        [(asked.question, asked.image.tobytes()) for asked in labelled_shapes(20, seed)]
        for seed in (1, 1, 2)
    )
    assert one == again and not set(one) & set(other)


def test_a_large_calibration_set_holds_every_fifth():
    def asked(pairs):
        return [pair.question for pair in pairs]

    large = calibration(640, 5)
    small = calibration(SCENES_FIRST, 5)
    assert asked(large[:SCENES_FIRST]) == asked(small)
    assert asked(small) == asked(labelled(SCENES_FIRST, 1_000_005))
    sides = [pair.image.width for pair in large[SCENES_FIRST : SCENES_FIRST + 20]]
    assert [number for number, side in enumerate(sides) if side == shapes.SIDE] == [4, 9, 14, 19]
    count = len(large) - SCENES_FIRST
    drawn = [pair.open.args[0] for pair in large]
    assert sum(isinstance(one, shapes.ShapePicture) for one in drawn) == count // 5
    assert asked(calibration(300, 5)) == asked(large[:300])


def test_no_two_calibration_seeds_and_no_measured_question_share_a_picture():
    def pictures(seed):
        return {pair.image.tobytes() for pair in calibration(160, seed)[SCENES_FIRST:]}

    assert not pictures(0) & pictures(1)
    assert not pictures(0) & pictures(MEASURED_SEED)


@pytest.mark.slow
def test_the_bundled_model_knows_them():
    import svl_core as svl

    lvlm = svl.load("demo")
    asked = labelled_shapes(100, seed=11)
    right = [
        svl.answer(lvlm, lvlm.encode(one.image, one.question)).text == one.answer for one in asked
    ]
    assert np.mean(right) >= 0.97
