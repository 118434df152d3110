"""Where visual positions look: hand-computed rectangles, and perturbation as proof."""

import copy
import dataclasses
from types import FunctionType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from svl_core.lvlm import geometry
from svl_core.lvlm.geometry import View, clipped, grid_rects, processed_box, resized
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
    from svl_core.lvlm.geometry import padded_grid

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


# Pictures that are read in pieces, with numbers made by hand


def view(pixels, inputs=None, cuts=None, count=0, config=None, **settings):
    """What a rule looks at, of one picture of (width, height) `pixels`."""
    tensors = {name: torch.tensor(value) for name, value in (inputs or {}).items()}
    images = [Image.new("RGB", pixels)]
    whole = SimpleNamespace(**config or {})
    return View(whole, SimpleNamespace(**settings), tensors, images, cuts or {}, count)


def placed(rule, *args, **options):
    (places,) = geometry.GEOMETRIES[rule](view(*args, **options))
    return places


def test_squares_of_its_own_pixels():
    """40 x 16 pixels in squares of 16: three columns, the last half full. Inkling's own count has a
    fourth column, of nothing, where the width is a multiple.
    """
    told = {"image_grid_thw": [[1, 1, 3]]}
    places = placed("padded_squares", (40, 16), told, size={"height": 16, "width": 16})
    assert places.grid == (1, 3)
    assert places.rects[[0, 2]] == pytest.approx(np.array([[0, 0, 0.4, 1], [0.8, 0, 1, 1]]))
    more = {"num_patches": torch.tensor([4])}
    wide = placed("padded_squares", (48, 16), cuts=more, size={"height": 16, "width": 16})
    assert wide.rects[2] == pytest.approx([2 / 3, 0, 1, 1])
    assert np.isnan(wide.rects[3]).all()


def test_tiles_and_a_thumbnail_of_another_shape():
    """One row of two tiles of 2 x 2 positions, then the whole of 1 x 3; a small one has no tile."""
    cuts = {"image_rows": [1], "image_cols": [2]}
    shapes = {"spatial_shapes": [[4, 4], [4, 4], [2, 6]]}
    merge = {"downsample_factor": 2}
    places = placed("shaped_tiles", (9, 9), shapes, cuts, config=merge, use_thumbnail=True)
    assert places.grid is None and len(places.rects) == 11
    assert places.rects[1] == pytest.approx([0.25, 0, 0.5, 0.5])
    assert places.rects[4] == pytest.approx([0.5, 0, 0.75, 0.5])
    assert places.rects[8] == pytest.approx([0, 0, 1 / 3, 1])
    cuts = {"image_rows": [1], "image_cols": [1]}
    shapes = {"spatial_shapes": [[2, 6]]}
    small = placed("shaped_tiles", (9, 9), shapes, cuts, config=merge, use_thumbnail=True)
    assert small.grid == (1, 3)


def test_windows_then_the_whole():
    """Two rows of one window of 2 x 2 positions, then 3 x 3. What a position sees begins 3/8 of a
    cell before it: one and a half of its four patches.
    """
    settings = {"vision_patch_size": 2, "downsampler_stride": 4, "patch_size": 16}
    settings |= {"size": {"height": 24, "width": 24}, "_is_extreme_aspect": lambda *size: False}
    cuts = {"patch_newline_masks": [[True, False]]}
    places = placed("windows", (10, 20), {"num_local_patches": [2]}, cuts, **settings)
    assert len(places.rects) == 17
    edge = (1 - 3 / 8) / 2
    assert places.rects[0] == pytest.approx([0, 0, edge, edge / 2])
    assert places.rects[7] == pytest.approx([edge, 0.5 + edge / 2, 1, 1])
    third = 1 / 3 - 3 / 8 / 3
    assert places.rects[8] == pytest.approx([0, 0, third, third])
    assert places.rects[12] == pytest.approx([third, third, third + 1 / 3, third + 1 / 3])


def test_a_line_lies_at_the_head_of_its_square():
    """Of 40 x 10 pixels padded to 40 x 40, the first quarter of the rows shows the image."""
    settings = {"vision_patch_size": 2, "downsampler_stride": 4, "patch_size": 16}
    settings |= {"size": {"height": 16, "width": 16}, "_is_extreme_aspect": lambda *size: True}
    places = placed("windows", (40, 10), {"num_local_patches": [0]}, **settings)
    edge = (1 - 3 / 8) / 2
    assert places.rects[0] == pytest.approx([0, 0, edge, 1])
    assert np.isnan(places.rects[2:]).all()


def test_the_whole_then_slices():
    """4 x 2 patches as a whole, two slices of 2 x 2 beside each other; four patches a position."""
    sizes = {"target_sizes": [[4, 2], [2, 2], [2, 2]]}
    places = placed("slices", (9, 9), sizes, {"grids": [[1, 2]]}, count=4)
    expected = [[0, 0, 1, 0.5], [0, 0.5, 1, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    assert places.rects.tolist() == expected


def test_a_thumbnail_then_tiles_of_the_chosen_canvas():
    """Also a single tile comes behind its thumbnail."""
    settings = {"tile_size": 8, "_fit_image_to_canvas": lambda *asked: None}
    settings["_find_closest_aspect_ratio"] = lambda width, height, tile: (width // 8, height // 8)
    cuts = {"pixel_values": [torch.zeros(3, 1)]}
    places = placed("thumbnail_then_tiles", (16, 8), cuts=cuts, count=3, **settings)
    assert places.rects.tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    cuts = {"pixel_values": [torch.zeros(2, 1)]}
    single = placed("thumbnail_then_tiles", (8, 8), cuts=cuts, count=2, **settings)
    assert single.rects.tolist() == [[0, 0, 1, 1]] * 2


def test_an_overview_then_a_canvas_of_odd_patches():
    """Crops of 5 patches with 2 in common, pooled by 2: an overview of 3 x 3 whose last positions
    hold one patch; a canvas of two crops has 8 columns in 4 positions, and 5 rows in 3.
    """
    settings = {"size": {"height": 10, "width": 10}, "patch_size": 2, "pooling_size": [2, 2]}
    settings["overlap_margins"] = [1, 1]
    told = {"image_grids": [[3, 3, 3, 4]]}
    places = placed("overview_then_canvas", (9, 9), told, **settings)
    assert len(places.rects) == 9 + 12
    assert places.rects[0] == pytest.approx([0, 0, 0.4, 0.4])
    assert places.rects[8] == pytest.approx([0.8, 0.8, 1, 1])
    assert places.rects[9] == pytest.approx([0, 0, 0.25, 0.4])
    assert places.rects[-1] == pytest.approx([0.75, 0.8, 1, 1])


def test_tiles_whose_rows_are_joined():
    """Two tiles of 2 x 2 beside each other give rows of 4 and a newline; then the whole of 2 x 2 in
    a square, whose upper and lower quarter are padding, and one position more.
    """
    cuts = {"patches_grid": [[2, 1]], "num_local_patches": [2]}
    count = 2 * 5 + 2 * 3 + 1
    settings = {"tile_size": 8, "size": {"height": 8, "width": 8}}
    places = placed("joined_tiles", (20, 10), cuts=cuts, count=count, **settings)
    assert len(places.rects) == count
    assert np.flatnonzero(np.isnan(places.rects[:, 0])).tolist() == [4, 9, 12, 15, 16]
    edge = (1 - 3 / 8) / 2
    assert places.rects[1] == pytest.approx([edge / 2, 0, 0.5, edge])
    assert places.rects[7] == pytest.approx([0.5, edge, 0.5 + edge / 2, 1])
    # 0.3125 of the square's 20 pixels are 6.25, of which the first 5 are padding.
    assert places.rects[10] == pytest.approx([0, 0, edge, 0.125])


def test_grids_that_are_told_without_a_time():
    config = {"vision_config": SimpleNamespace()}
    told = {"image_grid_hw": [[4, 6]]}
    places = placed("merged_grid", (9, 9), told, config=config, downsample_ratio=0.5)
    assert places.grid == (2, 3)


def test_patches_that_the_processor_has_pooled():
    """Two rows of three positions and padding; four patches each where nothing pools them."""
    positions = [[[x, y] for y in range(2) for x in range(3)] + [[-1, -1]]]
    told = {"image_position_ids": positions}
    pooled = placed("pooled_grid", (9, 9), told, count=6, pooling_kernel_size=2)
    assert pooled.grid == (2, 3)
    positions = [[[x, y] for y in range(4) for x in range(6)]]
    patches = placed(
        "pooled_grid", (9, 9), {"image_position_ids": positions}, count=6, pooling_kernel_size=2
    )
    assert patches.grid == (2, 3)


def test_a_processor_s_own_canvas_is_asked_for():
    """Command A Vision chooses another canvas than InternVL: of 200 x 100 pixels the one that must
    be enlarged least.
    """

    asked = []

    def canvas(*given):
        asked.append(given)
        return 3, 1

    crop = FunctionType((lambda: None).__code__, {"get_optimal_tiled_canvas": canvas})
    settings = {"size": {"height": 8, "width": 8}, "min_patches": 1, "max_patches": 6}
    settings["crop_image_to_patches"] = crop
    cuts = {"num_patches": [4]}
    places = placed("canvas_tiles", (200, 100), cuts=cuts, count=4, **settings)
    assert asked == [((100, 200), (8, 8), 1, 6)]
    assert places.rects[1] == pytest.approx([1 / 3, 0, 2 / 3, 1])


@pytest.mark.parametrize(("count", "ends"), [(6, None), (8, 0), (10, 1)])
def test_positions_that_close_rows_and_images_have_no_place(count, ends):
    """Two rows of three merged patches: alone, with a position behind each row, and with one at
    either end of the image too.
    """
    told = {"image_grid_thw": [[1, 4, 6]]}
    vision = {"vision_config": SimpleNamespace(spatial_merge_size=2)}
    places = placed("merged_grid", (60, 60), told, count=count, config=vision)
    rects = places.rects
    assert len(rects) == count and places.grid == ((2, 3) if ends is None else None)
    nowhere = {None: [], 0: [3, 7], 1: [0, 4, 8, 9]}[ends]
    assert np.flatnonzero(np.isnan(rects[:, 0])).tolist() == nowhere
    cells = rects[~np.isnan(rects[:, 0])]
    assert cells[4] == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1])  # the second row's middle


def test_pixels_of_another_name():
    pixels = {"pixel_values_images": np.zeros((1, 3, 16, 32))}
    vision = {"vision_config": SimpleNamespace(patch_size=8)}
    places = placed("square", (60, 60), pixels, count=8, config=vision)
    assert places.grid == (2, 4)


def test_a_picture_that_is_fitted_into_a_padded_canvas():
    """Cells of 16 on a canvas of 32 x 48: 40 x 30 pixels stay as they are, for they are enough;
    where 8 cells are wanted at least 20 x 10 become 48 x 24.
    """
    told = {"image_grid_thw": [[1, 4, 6]]}
    settings = {"patch_size": 8, "merge_size": 2}
    kept = placed("padded_grid", (40, 30), told, min_image_tokens=1, **settings)
    assert kept.grid == (2, 3)
    assert kept.rects[0] == pytest.approx([0, 0, 16 / 40, 16 / 30])
    assert kept.rects[5] == pytest.approx([32 / 40, 16 / 30, 1, 1])
    raised = placed("padded_grid", (20, 10), told, min_image_tokens=8, **settings)
    assert raised.rects[0] == pytest.approx([0, 0, 1 / 3, 16 / 24])
    assert raised.rects[5] == pytest.approx([2 / 3, 16 / 24, 1, 1])
