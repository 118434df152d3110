"""Places that no rule names: the map found by changing pictures equals the true one, and where
there is none, it is said why.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import IMAGE_SIDE, PATCH, tiny_llava
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from svl_core.errors import SVLError
from svl_core.lvlm import families, finding, probing
from svl_core.lvlm.geometry import grid_rects
from svl_core.lvlm.model import LVLM

SIDE = IMAGE_SIDE // PATCH
CELLS = SIDE * SIDE
ORDERS = {  # at a visual position: the number of the patch that it shows
    "columns": np.arange(CELLS).reshape(SIDE, SIDE).T.ravel(),
    "rows from the foot": np.arange(CELLS).reshape(SIDE, SIDE)[::-1].ravel(),
}


SIZES = ((120, 80), (61, 203))


class Eye:
    """A vision side written down: each position is a random map, with a noise of its own, of the
    pixels in its rectangle, mixed with a little of all positions' mean.
    """

    def __init__(self, rects, mixed=0.0, scale=96, width=48):
        self.calls = 0
        self.mixed = mixed
        self.scale = scale
        self.boxes = (np.asarray(rects) * scale).round().astype(int)
        seeded = np.random.default_rng(7)
        self.maps = [
            seeded.normal(size=(3 * (x1 - x0) * (y1 - y0), width)) for x0, y0, x1, y1 in self.boxes
        ]

    def __call__(self, picture):
        self.calls += 1
        pixels = np.asarray(picture.resize((self.scale, self.scale))) / 255 - 0.5
        parts = [pixels[y0:y1, x0:x1].ravel() for x0, y0, x1, y1 in self.boxes]
        seen = np.stack([part @ each for part, each in zip(parts, self.maps)])
        return seen + self.mixed * seen.mean(axis=0)


def agreeing(size, rects):
    return True


@pytest.fixture
def projecting(monkeypatch):
    """Makes a LLaVA that nobody knows, whose projector's features (1, n, d) are changed."""
    forward = LlavaMultiModalProjector.forward

    def made(change):
        monkeypatch.setattr(
            LlavaMultiModalProjector, "forward", lambda self, seen: change(forward(self, seen))
        )
        return LVLM(*tiny_llava(), families.GENERIC, "unknown")

    return made


@pytest.mark.parametrize("order", ORDERS)
def test_an_unusual_order_is_found(order, projecting):
    lvlm = probing.probe(projecting(lambda features: features[:, ORDERS[order].copy()]))
    assert lvlm.family.geometry == finding.FOUND and lvlm.unplaced_because is None
    expected = grid_rects(SIDE, SIDE)[ORDERS[order]]
    for size in SIZES:
        sample = lvlm.encode(probing.noise(*size, seed=5), "a cat")
        assert np.allclose(sample.geometry.rects, expected, atol=1e-6)
        assert sample.geometry.grid is None


def test_resampled_positions_have_no_place(projecting):
    weights = torch.randn(CELLS, CELLS, generator=torch.Generator().manual_seed(0)).softmax(1)
    lvlm = probing.probe(projecting(lambda features: weights @ features))
    assert lvlm.family.geometry == "unplaced" and lvlm.find is None
    assert lvlm.unplaced_because == "resampled: every position sees the whole picture"
    assert np.isnan(lvlm.encode(probing.noise(120, 80), "a cat").geometry.rects).all()


def test_stripes_cover_what_they_cover():
    """Eight pixels: one period, its quarter shift, and halves of it; a fourth level is too fine."""
    broad, shifted, half, *_ = finding.patterns(8, 0)
    assert broad.changed.tolist() == [True] * 4 + [False] * 4
    assert shifted.changed.tolist() == [True] * 2 + [False] * 4 + [True] * 2
    assert half.changed.tolist() == [True, True, False, False] * 2
    assert len(finding.patterns(8, 0)) == 4
    starts, ends = np.array([0.0, 0.25, 0.375]), np.array([0.25, 0.75, 1.0])
    assert broad.cover(starts, ends).tolist() == [1.0, 0.5, pytest.approx(0.2)]
    assert broad.rest.cover(starts, ends).tolist() == [0.0, 0.5, pytest.approx(0.8)]
    picture = probing.noise(8, 3)
    before, after = np.asarray(picture).astype(int), np.asarray(broad.on(picture)).astype(int)
    assert (np.abs(after - before)[:, :4] >= 128 - 1).all() and set(after[:, :4].ravel()) <= {
        0,
        255,
    }
    assert (after[:, 4:] == before[:, 4:]).all()


@pytest.mark.parametrize("mixed", [0.0, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_a_grid_in_any_order_is_found_exactly(size, mixed):
    order = np.random.default_rng(3).permutation(24)
    eye = Eye(grid_rects(4, 6)[order], mixed)
    found = finding.snapped(finding.find(eye, probing.noise(*size)))
    assert np.allclose(found.rects, grid_rects(4, 6)[order], atol=1e-6)
    assert found.grid is None and eye.calls <= finding.PASSES - 16


def test_a_grid_in_its_order_is_told_as_one():
    found = finding.snapped(finding.find(Eye(grid_rects(3, 8)), probing.noise(120, 80)))
    assert found.grid == (3, 8)


def test_tiles_and_an_overview_are_found():
    """Two tiles of 4 x 4 cells beside each other, and the whole picture in 4 x 4 more."""
    halves = [grid_rects(4, 4, (left, 0.0, left + 0.5, 1.0)) for left in (0.0, 0.5)]
    true = np.concatenate([*halves, grid_rects(4, 4)])
    found = finding.find(Eye(true), probing.noise(389, 167))
    assert np.allclose(found, true, atol=1e-6)


def test_positions_that_see_nothing_have_no_place():
    """Marks between rows: they are the same whatever is shown."""
    eye = Eye(grid_rects(4, 4))

    def with_marks(picture):
        seen = eye(picture).reshape(4, 4, -1)
        marks = np.ones((4, 1, seen.shape[2]))
        return np.concatenate([seen, marks], axis=1).reshape(20, -1)

    rects = finding.find(with_marks, probing.noise(120, 80)).reshape(4, 5, 4)
    assert np.isnan(rects[:, 4]).all() and not np.isnan(rects[:, :4]).any()
    found = finding.snapped(rects.reshape(20, 4))
    assert found.grid is None
    assert np.allclose(found.rects.reshape(4, 5, 4)[:, :4].reshape(16, 4), grid_rects(4, 4))


def refusal(look, size=(120, 80)):
    with pytest.raises(SVLError) as raised:
        finding.find(look, probing.noise(*size))
    return str(raised.value)


def test_why_there_is_no_map():
    eye = Eye(grid_rects(4, 4))
    weights = np.random.default_rng(0).random((16, 16))
    assert refusal(lambda picture: weights @ eye(picture)) == finding.RESAMPLED
    assert refusal(lambda picture: np.ones((4, 8))) == finding.NONE_ANSWERS
    numbers = iter(range(4, 99))
    assert "number of visual positions changes" in refusal(
        lambda picture: np.ones((next(numbers), 8))
    )
    assert "2 pixels is too short" in refusal(eye, (120, 2))
    assert "more than 4000000 pixels" in refusal(eye, (2001, 2000))
    first, second = Eye(grid_rects(4, 4)), Eye(grid_rects(4, 4)[::-1])
    scattered = refusal(lambda picture: first(picture) + second(picture))
    assert scattered == finding.UNSTEADY


def test_each_size_is_looked_at_once_and_only_a_confirmed_map_serves(tiny):
    eye = Eye(grid_rects(6, 6))
    asked = []

    def confirm(size, rects):
        asked.append((size, rects.shape))
        return size != (61, 203)

    finder = finding.Finder(eye, probing.noise, confirm)
    assert finder.map_of((120, 80)) is finder.map_of((120, 80)) and eye.calls <= finding.PASSES
    assert finder.map_of((61, 203)) == finding.UNCONFIRMED
    assert asked == [((120, 80), (36, 4)), ((61, 203), (36, 4))]
    family = dataclasses.replace(tiny.family, geometry="unplaced")
    blind = dataclasses.replace(tiny, family=family)
    one, two = probing.noise(120, 80), probing.noise(61, 203)
    placed = finder.placed(blind.encode(one, "a cat")).geometry
    assert np.allclose(placed.rects, grid_rects(6, 6)) and placed.grid == (6, 6)
    twice = finder.placed(blind.encode([one, one], "a cat")).geometry
    assert twice.grid is None and twice.image_index.tolist() == [0] * 36 + [1] * 36
    assert np.isnan(finder.placed(blind.encode([one, two], "a cat")).geometry.rects).all()
    assert np.isnan(finder.placed(blind.encode(two, "a cat")).geometry.rects).all()


def test_a_question_without_a_picture_stays_as_it_is(tiny):
    sample = tiny.encode(None, "a cat")
    assert finding.Finder(Eye(grid_rects(2, 2)), probing.noise, agreeing).placed(sample) is sample
