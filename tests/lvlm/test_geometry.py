"""Where visual positions look: hand-computed rectangles, and perturbation as proof."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from svl_core.lvlm.geometry import clipped, grid_rects, processed_box, resized
from svl_core.lvlm.sample import PatchGeometry


def test_grid_of_two_by_three():
    rects = grid_rects(2, 3)
    assert rects.shape == (6, 4)
    assert rects[0].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2]) and rects[
        5
    ].tolist() == pytest.approx([2 / 3, 1 / 2, 1, 1])


def test_cells_outside_the_image_have_no_place():
    rects = grid_rects(1, 4, (-0.5, 0, 1.5, 1))
    assert np.isnan(rects[[0, 3]]).all() and rects[1].tolist() == [0, 0, 0.5, 1]
    assert np.isnan(clipped(np.array([[0.5, 0.5, 0.5, 0.9]]))).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [((336, 672), (0, 0.25, 1, 0.75)), ((672, 336), (0.25, 0, 0.75, 1)), ((50, 50), (0, 0, 1, 1))],
)
def test_centre_crop_shows_the_middle(size, box):
    class Clip:
        do_resize, size, do_center_crop, crop_size = (
            True,
            {"shortest_edge": 336},
            True,
            {"height": 336, "width": 336},
        )

    assert processed_box(Clip, Image.new("RGB", size), 336, 336) == pytest.approx(box)


def test_resize_rules():
    assert resized(Image.new("RGB", (300, 200)), {"shortest_edge": 100}) == (100, 150)
    assert resized(Image.new("RGB", (200, 300)), {"height": 7, "width": 9}) == (7, 9)


def test_bad_geometry_is_refused():
    with pytest.raises(ValueError):
        PatchGeometry([[0, 0, 1.2, 1]], [0])
    with pytest.raises(ValueError):
        PatchGeometry([[0, 0, 1, 1]], [0, 0])
    with pytest.raises(ValueError):
        PatchGeometry([[0, 0, 1, 1]], [0], (2, 2))


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("size", [(96, 96), (240, 96), (90, 200)])
def test_changing_a_rectangle_changes_its_own_feature_most(tiny, size, crop):
    """Patch embeddings, before attention mixes them: only the features of positions that overlap
    the change move.
    """
    from tiny import picture

    if crop:
        processor = copy.copy(tiny.processor)
        processor.image_processor = copy.copy(processor.image_processor)
        processor.image_processor.size = (
            type(processor.image_processor.size)(shortest_edge=96)
            if not isinstance(processor.image_processor.size, dict)
            else {"shortest_edge": 96}
        )
        processor.image_processor.do_center_crop = True
        tiny = dataclasses.replace(tiny, processor=processor)
    image = picture(*size)
    sample = tiny.encode(image, "x")
    embed = tiny.model.model.vision_tower.embeddings.patch_embedding
    before = embed(sample.inputs["pixel_values"]).flatten(2)[0].T
    for index in (0, 7, 20, 35):
        x0, y0, x1, y1 = sample.geometry.rects[index] * np.array([*size, *size])
        changed = np.array(image)
        changed[
            round(y0) : max(round(y1), round(y0) + 1), round(x0) : max(round(x1), round(x0) + 1)
        ] = (
            255
            - changed[
                round(y0) : max(round(y1), round(y0) + 1), round(x0) : max(round(x1), round(x0) + 1)
            ]
        )
        after = (
            embed(tiny.encode(Image.fromarray(changed), "x").inputs["pixel_values"]).flatten(2)[0].T
        )
        assert int(torch.linalg.vector_norm(after - before, dim=1).argmax()) == index


def test_padding_on_the_right_and_at_the_foot():
    """A picture of 300 x 30 pixels, cells of 28: two rows, the second of 2 pixels; and one that is
    halved first, for its 200 patches are four times too many.
    """
    from types import SimpleNamespace

    from svl_core.lvlm.geometry import View, padded_grid

    def boxes(width, height, grid, max_patches):
        settings = SimpleNamespace(
            patch_size=14,
            merge_size=2,
            max_patches=max_patches,
            size={"max_height": 512, "max_width": 512},
        )
        inputs = {"image_grid_thw": torch.tensor([[1, *grid]])}
        (places,) = padded_grid(
            View(None, settings, inputs, [Image.new("RGB", (width, height))], {}, 0)
        )
        assert places.grid == (grid[0] // 2, grid[1] // 2)
        return places.rects

    rects = boxes(300, 30, (4, 22), 400)
    assert rects[0] == pytest.approx([0, 0, 28 / 300, 28 / 30])
    assert rects[-1] == pytest.approx([280 / 300, 28 / 30, 1, 1])
    halved = boxes(280, 140, (6, 10), 50)  # 140 x 70, padded to 140 x 84
    assert halved[0] == pytest.approx([0, 0, 0.2, 0.4]) and halved[-1][1] == pytest.approx(0.8)
