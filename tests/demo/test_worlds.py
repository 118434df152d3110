"""The free world: where its objects lie, what its questions ask, and how the two worlds share one
trainer.
"""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from svl_core.demo import art, build, questions, scenes, train
from svl_core.demo.worlds import FREE, GRID, PATCH

SCENE = scenes.compose({0: "cat", 2: "red circle", 4: "dog", 6: "bus"})
# Read off the scene by a person: the words of the question -> its answer.
ANSWERS = {
    "where-category": {"the vehicle": "bottom left", "the shape": "top right"},
    "next": {
        "below the dog": "bus",
        "right of the dog": "circle",
        "right of the red shape": "nothing",
        "below the vehicle": "nothing",
    },
    "which-next": {
        "animal is left of the circle": None,
        "animal is left of the dog": "cat",
        "animal is right of the cat": "dog",
        "vehicle is below the shape": "bus",
        "animal is above the bus": None,
    },
    "compare": {
        "more animals than vehicles?": "yes",
        "more vehicles than animals?": "no",
        "as many shapes as vehicles?": "yes",
        "more shapes than vehicles?": "no",
        "as many animals as vehicles?": "no",
    },
}


def test_further_styles_are_met_in_training_alone():
    rng = np.random.default_rng(1)
    wild = Counter(scenes.random_scene(rng, wild=True, world=FREE).style for _ in range(600))
    assert set(wild) == set(art.STYLES) - {"openmoji"}
    assert 0.4 < (wild["noto"] + wild["twemoji"]) / 600 < 0.6
    for world in (GRID, FREE):
        shown = {scenes.random_scene(rng, wild=world is GRID, world=world).style for _ in range(60)}
        assert shown == {"noto", "twemoji"}
    drawings = [art.sprites(style) for style in wild]
    for number, kind in enumerate(art.objects()):
        for style in drawings:
            assert np.asarray(style[number])[..., 3].any(), kind.name


def test_another_hand_s_drawings_are_met_in_the_free_world_s_training_alone():
    rng = np.random.default_rng(1)
    items = {
        (world.free, wild): [
            item
            for _ in range(60)
            for item in scenes.random_scene(rng, wild=wild, world=world).items
            if item.colour is None
        ]
        for world in (GRID, FREE)
        for wild in (False, True)
    }
    redrawn = [item for item in items.pop((True, True)) if item.bend or item.thicker or item.ink]
    assert len(redrawn) > 40
    assert all(
        item.bend is None and not item.thicker and not item.ink
        for kept in items.values()
        for item in kept
    )


def test_bends_move_a_drawing_and_its_dark_lines_grow_and_shrink():
    def drawn(**changes):
        (item,) = scenes.compose({4: "clock"}).items
        scene = scenes.Scene((dataclasses.replace(item, **changes),))
        return np.asarray(scenes.render(scene), float)

    plain, bold, fine = drawn(), drawn(thicker=1), drawn(thicker=-1)
    assert bold.mean() < plain.mean() < fine.mean()
    bent = drawn(bend=3)
    assert np.array_equal(bent, drawn(bend=3)) and not np.array_equal(bent, drawn(bend=4))
    ground = drawn()[0, 0]
    covers = [(picture != ground).any(2).mean() for picture in (plain, bent)]
    assert covers[1] == pytest.approx(covers[0], rel=0.35)


@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_read_by_hand(kind):
    rng = np.random.default_rng(1)
    met = Counter()
    for _ in range(3000):
        qa = questions.ask(
            SCENE,
            rng,
            kind,
            FREE,
        )
        for words, answer in ANSWERS[kind].items():
            if qa and words in qa.question:
                met[words] += 1
                assert qa.answer == answer, qa
    for words, answer in ANSWERS[kind].items():
        assert bool(met[words]) == (answer is not None), words


def test_every_object_lies_in_its_ninth_and_most_patches_show_ground():
    rng = np.random.default_rng(0)
    ninth = scenes.SIZE // 3
    covered = []
    for _ in range(200):
        scene = scenes.random_scene(rng, world=FREE)
        count = scenes.SIZE // PATCH
        touched = np.zeros((count, count), bool)
        for item in scene.items:
            left, top, width, height = scenes.box(item)
            assert item.column * ninth - 1 <= left
            assert left + width <= (item.column + 1) * ninth + 1
            assert item.row * ninth - 1 <= top
            assert top + height <= (item.row + 1) * ninth + 1
            across = slice(left // PATCH, (left + width - 1) // PATCH + 1)
            down = slice(top // PATCH, (top + height - 1) // PATCH + 1)
            touched[down, across] = True
        covered.append(touched.mean())
    assert np.mean(covered) < 0.35
    assert np.max(covered) > 0.4


def test_only_objects_differ_from_the_ground():
    rng = np.random.default_rng(3)
    for _ in range(20):
        scene = scenes.random_scene(rng, world=FREE)
        empty = scenes.Scene(**{**scene.__dict__, "items": ()})
        differs = np.asarray(scenes.render(scene)) != np.asarray(scenes.render(empty))
        outside = np.ones(differs.shape[:2], bool)
        for item in scene.items:
            left, top, width, height = scenes.box(item)
            outside[max(top, 0) : top + height, max(left, 0) : left + width] = False
        assert differs.any() and not differs[outside].any()


def test_grounds_range_from_plain_to_busy():
    rng = np.random.default_rng(5)
    spread = []
    for _ in range(80):
        scene = scenes.random_scene(rng, world=FREE)
        empty = scenes.Scene(**{**scene.__dict__, "items": ()})
        spread.append(np.asarray(scenes.render(empty), float).std((0, 1)).mean())
    assert min(spread) == 0 and max(spread) > 15


def test_the_old_world_is_what_it_was():
    """The shipped model's scenes and questions, by a digest from before the free one."""
    import hashlib

    digest = hashlib.sha256()
    for asked in questions.labelled(52, 4):
        digest.update(asked.image.tobytes())
        digest.update(f"{asked.question} {asked.answer}".encode())
    assert digest.hexdigest()[:16] == "821b1ecd970cb189"


def test_targets_name_the_patches_that_an_object_covers():
    recipe = train.Recipe(world="free")
    batches = train.Batches(recipe, "align")
    next(iter(batches))
    item = scenes.Item(
        "circle",
        4,
        "red",
        (0.0, 0.0),
        0.5,
    )
    names, colours = batches.targets(scenes.Scene((item,)))
    names = names.reshape(12, 12)
    # 48 px around the centre: exactly the four patches in the middle.
    assert (names[5:7, 5:7] == batches.ids["circle"]).all()
    assert (colours.reshape(12, 12)[5:7, 5:7] == list(scenes.COLOURS).index("red")).all()
    names[5:7, 5:7] = train.IGNORE
    assert set(np.unique(names)) == {train.IGNORE, batches.ids["nothing"]}
    assert 0.05 < (names == batches.ids["nothing"]).mean() < 0.3


def test_going_on_in_the_other_world_keeps_words_and_places():
    init = Path(__file__).parents[2] / "assets" / "demo_lvlm"
    words = build.tokenizer(FREE)
    model = build.untrained(words, world=FREE)
    train.begun_from(model, words, init)
    old_words = build.tokenizer(GRID)
    from transformers import AutoModelForImageTextToText

    old = AutoModelForImageTextToText.from_pretrained(init)
    known = old.get_input_embeddings().weight
    now = model.get_input_embeddings().weight
    for word in ("Ġcat", "Ġleft", build.USER, "?"):
        before = known[old_words.convert_tokens_to_ids(word)]
        torch.testing.assert_close(now[words.convert_tokens_to_ids(word)], before)
    for module in (old, model):
        assert module.lm_head.weight is module.get_input_embeddings().weight
    grid = model.model.vision_tower.embeddings.position_embedding.weight[1:]
    before = old.model.vision_tower.embeddings.position_embedding.weight[1:]
    # The mean over the picture is kept by interpolation, up to its edges.
    assert grid.shape == (144, 160) and before.shape == (36, 160)
    torch.testing.assert_close(grid.mean(0), before.mean(0), atol=0.02, rtol=0.1)


def test_a_system_turn_stands_before_the_question():
    processor = build.processor(FREE)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where?"}]},
    ]
    for system in ("Be brief.", [{"type": "text", "text": "Be brief."}]):
        turns[0]["content"] = system
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        assert text == "<s><image><system> Be brief.<user> where?<assistant>"
    alone = processor.apply_chat_template(turns[1:], add_generation_prompt=True)
    assert alone == "<s><image><user> where?<assistant>"


@pytest.mark.parametrize("world", [GRID, FREE])
def test_training_pixels_are_the_processors(world):
    rng = np.random.default_rng(0)
    images = [scenes.render(scenes.random_scene(rng), size) for size in (144, 288, 64)]
    processor = build.image_processor(world)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(build.pixels(images, world), expected, atol=1e-6, rtol=0)


def test_the_unfinished_model_can_be_gone_on_from():
    folder = Path(__file__).parent / "next_model"
    words = build.tokenizer(FREE)
    model = build.untrained(words, world=FREE)
    train.begun_from(model, words, folder)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).get_vocab() == words.get_vocab()
    weights = model.state_dict()
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert (folder / "model.safetensors").stat().st_size < 15e6
