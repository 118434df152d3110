"""Scenes: validity, determinism, and that pictures show each item in its own place."""

import numpy as np
import pytest

from svl_core.demo import art, scenes
from svl_core.errors import InputError


def test_every_object_is_drawn_in_both_styles():
    assert len(art.objects()) == 96 and len({k.name for k in art.objects()}) == 96
    assert {k.category for k in art.objects()} == {c.name for c in art.categories()}
    for style in scenes.STYLES:
        for kind, sprite in zip(art.objects(), art.sprites(style), strict=True):
            alpha = np.asarray(sprite.getchannel("A"))
            assert sprite.size == (64, 64) and (alpha > 128).mean() > 0.1, (style, kind.name)


def test_same_seed_same_picture_other_seed_other_picture():
    first, again, other = (scenes.random_scene(np.random.default_rng(s)) for s in (3, 3, 4))
    assert first == again != other
    assert (
        scenes.render(first).tobytes()
        == scenes.render(again).tobytes()
        != scenes.render(other).tobytes()
    )


@pytest.mark.parametrize("cell", range(9))
def test_an_item_changes_only_its_own_ninth(cell):
    empty, full = scenes.Scene(()), scenes.compose({cell: "cat"})
    full = scenes.Scene(full.items)
    changed = (np.asarray(scenes.render(empty)).astype(int) != np.asarray(scenes.render(full))).any(
        -1
    )
    row, column = divmod(cell, 3)
    inside = changed[row * 96 : (row + 1) * 96, column * 96 : (column + 1) * 96]
    assert inside.mean() > 0.2 and inside.sum() == changed.sum()
    assert full.items[0].place == scenes.PLACES[cell]


def test_random_scenes_are_valid_and_varied():
    rng = np.random.default_rng(0)
    made = [scenes.random_scene(rng) for _ in range(300)]
    assert {len(s.items) for s in made} == {1, 2, 3, 4, 5} and {s.style for s in made} == set(
        scenes.STYLES
    )
    assert any(len({i.name for i in s.items}) < len(s.items) for s in made)
    for scene in made:
        for item in scene.items:
            assert (
                (item.colour is not None)
                == (item.name in scenes.SHAPES)
                == (item.category == "shape")
            )


def test_compose_takes_colours_and_refuses_what_it_cannot_draw():
    scene = scenes.compose({8: "blue star", 0: "Dog"})
    assert [(i.name, i.cell, i.colour) for i in scene.items] == [
        ("dog", 0, None),
        ("star", 8, "blue"),
    ]
    for wrong in ({0: "unicorn"}, {9: "cat"}, {0: "red cat"}, {0: "  "}):
        with pytest.raises(InputError, match="Found .*expected"):
            scenes.compose(wrong)


def test_tone_turns_colours_and_squeeze_the_shape_and_only_wild_scenes_have_them():
    def drawn(**changes):
        scene = scenes.Scene((scenes.Item("cat", 4, scale=0.9, **changes),), ground=(255, 255, 255))
        pixels = np.asarray(scenes.render(scene))[96:192, 96:192].astype(int)
        rows, columns = np.nonzero((pixels < 250).any(-1))
        return pixels, np.ptp(columns) / np.ptp(rows)

    _, plain = drawn()
    assert drawn(squeeze=0.8)[1] == pytest.approx(0.8 * plain, rel=0.05) and drawn(squeeze=1.25)[
        1
    ] == pytest.approx(1.25 * plain, rel=0.05)
    grey, _ = drawn(tone=(0.0, 0.0, 1.0))
    assert np.ptp(grey, axis=-1).max() <= 1  # no saturation: red, green and blue are one
    warm, cold = drawn(tone=(0.0, 1.0, 1.0))[0], drawn(tone=(180.0, 1.0, 1.0))[0]
    assert (
        warm[..., 0].sum() > warm[..., 2].sum() and cold[..., 0].sum() < cold[..., 2].sum()
    )  # a yellow cat turns blue
    rng = np.random.default_rng(0)

    def items(wild):
        return [i for _ in range(60) for i in scenes.random_scene(rng, wild=wild).items]

    assert not any(i.tone or i.squeeze != 1.0 for i in items(False)) and any(
        i.tone for i in items(True)
    )
