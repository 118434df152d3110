"""Example scenes of the bundled model's world, the composer's choices and questions that fit a
scene.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from svl_core.demo import art
from svl_core.demo.questions import ask
from svl_core.demo.scenes import COLOURS, SHAPES, STYLES, Scene, compose, random_scene, render

# places -> objects, art style, seed of the small variations, question, true answer
EXAMPLES: tuple[tuple[Mapping[int, str], str, int, str, str], ...] = (
    (
        {0: "cat", 2: "bus", 4: "apple", 7: "guitar"},
        "noto",
        3,
        "describe the picture.",
        (
            "a cat in the top left, a bus in the top right, an apple in the center and a guitar in"
            " the bottom"
        ),
    ),
    (
        {1: "dog", 3: "rabbit", 5: "pizza", 8: "owl"},
        "twemoji",
        4,
        "how many animals are there?",
        "3",
    ),
    (
        {0: "red circle", 4: "rocket", 6: "blue star", 8: "cactus"},
        "noto",
        5,
        "what color is the star?",
        "blue",
    ),
    (
        {2: "violin", 3: "hammer", 7: "strawberry"},
        "twemoji",
        6,
        "which instrument is there?",
        "violin",
    ),
    (
        {0: "penguin", 2: "penguin", 4: "teapot", 7: "penguin"},
        "noto",
        7,
        "how many penguins are there?",
        "3",
    ),
    (
        {3: "laptop", 5: "sailboat", 7: "sunflower"},
        "twemoji",
        9,
        "is the laptop left of the sailboat?",
        "yes",
    ),
)


@dataclass(frozen=True)
class Shipped:
    """An example that the page offers, and what happens to it.

    origin: of the scene, see `from_origin`.
    question: what is asked, and truth: the right answer.
    count: layers that are dropped, by the page's first settings.
    caption: what then happens, in a few words; a test holds it.
    """

    origin: str
    question: str
    truth: str
    count: int
    caption: str


SHIPPED = (
    Shipped("example:4", "how many penguins are there?", "3", 4, "without 4 layers it counts 2"),
    Shipped(
        "draw:1",
        "give a caption.",
        "a broom in the top right, a kimono in the left, an axe in the center, a kimono in the"
        " bottom left and a shovel in the bottom",
        4,
        "without 4 layers the axe is a clock",
    ),
    Shipped(
        "draw:19",
        "do you see the flashlight below the hammer?",
        "yes",
        4,
        "without 4 layers it says no",
    ),
    Shipped(
        "draw:7",
        "how many trumpets are in the picture?",
        "1",
        3,
        "without 3 layers it counts 2",
    ),
    Shipped(
        "draw:41",
        "what is in the picture?",
        "a strawberry in the top right, an egg in the right, a banana in the bottom left and a"
        " pineapple in the bottom",
        3,
        "without 3 layers the egg is gone",
    ),
    Shipped(
        "example:0",
        "describe the picture.",
        "a cat in the top left, a bus in the top right, an apple in the center and a guitar in"
        " the bottom",
        4,
        "not a word is lost without 4 layers",
    ),
)
"""The page opens on the first."""


@functools.cache
def picture_of(origin: str) -> Image.Image:
    """The picture of a scene. Raises ValueError for what is no origin of one."""
    found = from_origin(origin)
    if found is None:
        raise ValueError(f"Found the origin {origin[:40]!r}; expected one of a scene; correct it.")
    return render(found[0])


@functools.cache
def example(index: int) -> tuple[Scene, str, str]:
    """Scene, question and true answer."""
    items, style, seed, question, answer = EXAMPLES[index]
    return compose(items, style, seed), question, answer


def random_example(rng: np.random.Generator) -> tuple[Scene, str, str]:
    """A scene drawn at random with a question about it and its true answer."""
    scene = random_scene(rng)
    qa = ask(scene, rng)
    return scene, qa.question, qa.answer


def composed(items: Mapping[int, str], style: str) -> Scene:
    """A composed scene; its small variations follow from its content, so that the same choice gives
    the same picture.
    """
    seed = int(hashlib.sha256(origin_of(items, style).encode()).hexdigest()[:8], 16)
    return compose(items, style, seed)


def origin_of(items: Mapping[int, str], style: str) -> str:
    return f"compose:{style}:" + ",".join(f"{k}={items[k]}" for k in sorted(items))


def from_origin(origin: str) -> tuple[Scene, str, str] | None:
    """Scene, question and answer ("" where open) of "example:3", "draw:123" or
    "compose:noto:0=cat,4=red circle"; None for anything else.
    """
    kind, _, rest = origin.partition(":")
    try:
        if kind == "example" and rest.isdecimal():
            return example(int(rest))
        if kind == "draw" and rest.isdecimal():
            return random_example(np.random.default_rng(int(rest)))
        if kind == "compose":
            style, _, items = rest.partition(":")
            return (
                composed(
                    {int(k): name for k, name in (pair.split("=") for pair in items.split(","))},
                    style if style in STYLES else STYLES[0],
                ),
                "",
                "",
            )
    except (ValueError, IndexError):  # InputError is a ValueError
        pass
    return None


def groups() -> list[tuple[str, list[str]]]:
    """The composer's choices by category."""
    by_category: dict[str, list[str]] = {}
    for kind in art.objects():
        by_category.setdefault(kind.category, []).append(kind.name)
    shapes = [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS]
    return [(category, names) for category, names in by_category.items()] + [("shape", shapes)]


def items_of(scene: Scene) -> dict[str, str]:
    """The scene as the composer's value."""
    return {str(i.cell): f"{i.colour} {i.name}" if i.colour else i.name for i in scene.items}


def questions_on(scene: Scene, seed: int = 0, tries: int = 6, limit: int = 5) -> dict[str, str]:
    """{question: true answer} for a scene, of different kinds, each in the shortest of a few
    wordings.
    """
    rng = np.random.default_rng(seed)
    questions: dict[str, str] = {}
    for kind in ("what-at", "where", "count-category", "relation", "which", "colour", "caption"):
        drawn = [
            qa
            for qa in (ask(scene, rng, kind) for _ in range(tries))
            if qa is not None and qa.answer not in ("nothing", "nowhere", "none")
        ]
        if drawn:
            best = min(drawn, key=lambda qa: len(qa.question))
            questions[best.question] = best.answer
    return dict(list(questions.items())[:limit])
