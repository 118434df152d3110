"""Questions on a scene with their true answers: thirteen kinds, each in at least five wordings.

`ask(scene, rng)` draws one question; answers are short, lower-case and unique by construction (a
question whose answer would be ambiguous is never asked).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from svl_core.demo import art
from svl_core.demo.scenes import (
    PLACES,
    SHAPES,
    Item,
    Scene,
    category_of,
    random_scene,
    render,
)


@dataclass(frozen=True)
class QA:
    """A question, its exact answer and its kind (a key of WORDINGS)."""

    question: str
    answer: str
    kind: str


WORDINGS: dict[str, tuple[str, ...]] = {
    "what-at": (
        "what is in the {place}?",
        "what is at the {place}?",
        "what do you see in the {place}?",
        "what object is in the {place}?",
        "name the object in the {place}.",
        "which object is at the {place}?",
    ),
    "where": (
        "where is the {x}?",
        "where can you see the {x}?",
        "in which place is the {x}?",
        "tell me where the {x} is.",
        "where do you find the {x}?",
        "what is the place of the {x}?",
    ),
    "is-at": (
        "is the {x} in the {place}?",
        "is the {x} at the {place}?",
        "do you see the {x} in the {place}?",
        "can you find the {x} in the {place}?",
        "does the {x} lie in the {place}?",
    ),
    "which": (
        "which {category} is there?",
        "what {category} do you see?",
        "which {category} is in the picture?",
        "name the {category}.",
        "what kind of {category} is there?",
        "which {category} can you see?",
    ),
    "exists-object": (
        "is there {a_x}?",
        "do you see {a_x}?",
        "is there {a_x} in the picture?",
        "can you see {a_x}?",
        "does the picture show {a_x}?",
        "is {a_x} in the image?",
    ),
    "exists-category": (
        "is there any {category}?",
        "do you see any {category}?",
        "is there {a_category} in the picture?",
        "are there any {categories}?",
        "can you see {a_category}?",
        "does the picture show any {category}?",
    ),
    "count-all": (
        "how many objects are there?",
        "how many things do you see?",
        "count the objects.",
        "how many objects are in the picture?",
        "what is the number of objects?",
        "how many things are in the image?",
    ),
    "count-category": (
        "how many {categories} are there?",
        "how many {categories} do you see?",
        "count the {categories}.",
        "how many {categories} are in the picture?",
        "what is the number of {categories}?",
    ),
    "count-object": (
        "how many {xs} are there?",
        "how many {xs} do you see?",
        "count the {xs}.",
        "how many {xs} are in the picture?",
        "what is the number of {xs}?",
    ),
    "relation": (
        "is the {x} {side} the {y}?",
        "is the {x} placed {side} the {y}?",
        "do you see the {x} {side} the {y}?",
        "does the {x} lie {side} the {y}?",
        "can you say that the {x} is {side} the {y}?",
    ),
    "side": (
        "is the {x} {sides} the {y}?",
        "is the {x} placed {sides} the {y}?",
        "do you see the {x} {sides} the {y}?",
        "does the {x} lie {sides} the {y}?",
        "tell me, is the {x} {sides} the {y}?",
    ),
    "colour": (
        "what color is the {x}?",
        "what colour is the {x}?",
        "which color does the {x} have?",
        "what is the color of the {x}?",
        "tell me the color of the {x}.",
        "which colour is the {x}?",
    ),
    "caption": (
        "describe the picture.",
        "what does the picture show?",
        "what is in the picture?",
        "describe the image.",
        "give a caption.",
        "tell me what you see.",
    ),
}
KINDS = tuple(WORDINGS)
SIDES = ("left of", "right of", "above", "below")
EITHER_SIDE = {
    ("left of", "right of"): "left or right of",
    ("above", "below"): "above or below",
}
PLURALS = {
    "circle": "circles",
    "rectangle": "rectangles",
    "triangle": "triangles",
    "star": "stars",
    "shape": "shapes",
}


@functools.cache
def plural(word: str) -> str:
    """Plural of an object, shape or category word."""
    known = (
        PLURALS
        | {k.name: k.plural for k in art.objects()}
        | {c.name: c.plural for c in art.categories()}
    )
    return known[word]


def with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


@functools.cache
def all_names() -> tuple[str, ...]:
    return tuple(k.name for k in art.objects()) + SHAPES


@functools.cache
def all_categories() -> tuple[str, ...]:
    return tuple(c.name for c in art.categories()) + ("shape",)


def caption(scene: Scene) -> str:
    """The scene in reading order: "a cat in the top left, a red circle in the center and a bus in
    the right".
    """
    parts = [
        f"{with_article(f'{i.colour} {i.name}' if i.colour else i.name)} in the {i.place}"
        for i in scene.items
    ]
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def true_relation(x: Item, side: str, y: Item) -> bool:
    """Whether item `x` stands on that side of `y`, by grid column or row."""
    return {
        "left of": x.column < y.column,
        "right of": x.column > y.column,
        "above": x.row < y.row,
        "below": x.row > y.row,
    }[side]


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _content(
    scene: Scene, rng: np.random.Generator, kind: str
) -> tuple[dict[str, str], str] | None:
    """Words for the kind's wording and the answer, or None where this scene has no unambiguous
    question of the kind.
    """
    names = Counter(i.name for i in scene.items)
    categories = Counter(i.category for i in scene.items)
    single = [i for i in scene.items if names[i.name] == 1]
    if kind == "what-at":
        free = [c for c in range(9) if c not in {i.cell for i in scene.items}]
        if rng.random() < 0.15 and free:
            return {"place": PLACES[_pick(rng, free)]}, "nothing"
        item = _pick(rng, scene.items)
        return {"place": item.place}, item.name
    if kind == "where":
        if rng.random() < 0.08:
            return {"x": _pick(rng, [n for n in all_names() if n not in names])}, "nowhere"
        return ({"x": (item := _pick(rng, single)).name}, item.place) if single else None
    if kind == "is-at":
        if not single:
            return None
        item = _pick(rng, single)
        others = [i.place for i in scene.items]
        place = (
            item.place
            if rng.random() < 0.5
            else _pick(
                rng,
                [
                    p
                    for p in (others if len(others) > 1 and rng.random() < 0.5 else PLACES)
                    if p != item.place
                ],
            )
        )
        return {
            "x": item.name,
            "place": place,
        }, "yes" if place == item.place else "no"
    if kind == "which":
        if rng.random() < 0.08 and (absent := [c for c in all_categories() if c not in categories]):
            return {"category": _pick(rng, absent)}, "none"
        one = [i for i in scene.items if categories[i.category] == names[i.name]]
        return ({"category": (item := _pick(rng, one)).category}, item.name) if one else None
    if kind == "exists-object":
        if rng.random() < 0.5:
            return {"a_x": with_article(_pick(rng, scene.items).name)}, "yes"
        near = [
            n
            for n in all_names()
            if n not in names and (rng.random() < 0.2 or category_of(n) in categories)
        ]
        return {
            "a_x": with_article(_pick(rng, near or [n for n in all_names() if n not in names]))
        }, "no"
    if kind == "exists-category":
        present = rng.random() < 0.5
        options = [c for c in all_categories() if (c in categories) == present]
        word = _pick(rng, options)
        return {
            "category": word,
            "a_category": with_article(word),
            "categories": plural(word),
        }, ("yes" if present else "no")
    if kind == "count-all":
        return {}, str(len(scene.items))
    if kind == "count-category":
        word = (
            _pick(rng, all_categories()) if rng.random() < 0.15 else _pick(rng, sorted(categories))
        )
        return {"categories": plural(word)}, str(categories[word])
    if kind == "count-object":
        repeated = [n for n in names if names[n] > 1]
        if repeated and rng.random() < 0.5:
            word = _pick(rng, repeated)
        else:
            word = _pick(rng, all_names()) if rng.random() < 0.25 else _pick(rng, sorted(names))
        return {"xs": plural(word)}, str(names[word])
    if kind in ("relation", "side"):
        if len(single) < 2:
            return None
        first, second = rng.permutation(len(single))[:2]
        x = single[first]
        y = single[second]
        sides = [
            s
            for s in SIDES
            if (x.row != y.row if s in ("above", "below") else x.column != y.column)
        ]
        side = _pick(rng, sides)
        if kind == "side":
            pair = next(pair for pair in EITHER_SIDE if side in pair)
            answer = next(s for s in pair if true_relation(x, s, y)).removesuffix(" of")
            return {
                "x": x.name,
                "y": y.name,
                "sides": EITHER_SIDE[pair],
            }, answer
        return {"x": x.name, "y": y.name, "side": side}, (
            "yes" if true_relation(x, side, y) else "no"
        )
    if kind == "colour":
        shapes = [i for i in single if i.colour]
        return ({"x": (item := _pick(rng, shapes)).name}, item.colour) if shapes else None
    if kind == "caption":
        return {}, caption(scene)
    raise KeyError(kind)


def ask(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> QA | None:
    """One question on the scene, of the given kind or a random one; None where the scene has no
    unambiguous question of that kind.
    """
    for candidate in [kind] if kind else [KINDS[k] for k in rng.permutation(len(KINDS))]:
        if (content := _content(scene, rng, candidate)) is not None:
            words, answer = content
            return QA(
                _pick(rng, WORDINGS[candidate]).format(**words),
                answer,
                candidate,
            )
    return None


@dataclass(frozen=True)
class Labelled:
    """One labelled question of a data set; `image` is drawn or opened when asked for, so thousands
    cost no memory. Taken apart, it is an (image, question) pair.
    """

    open: Callable[[], Image.Image]
    question: str
    answer: str
    kind: str

    @property
    def image(self) -> Image.Image:
        return self.open()

    def __iter__(self) -> Iterator:
        return iter((self.image, self.question))


def labelled(n: int, seed: int, style: str | None = None) -> list[Labelled]:
    """`n` questions on fresh scenes, the kinds in turn, each on a scene of its own; same seed, same
    questions.

    The stream is never that of training, whatever the seed. `style`: one of `art`'s styles, default
    a random one of training's.
    """
    rng = np.random.default_rng([0x5CE7E, seed])
    made: list[Labelled] = []
    while len(made) < n:
        scene = random_scene(rng, style)
        if (qa := ask(scene, rng, KINDS[len(made) % len(KINDS)])) is not None:
            made.append(
                Labelled(
                    functools.partial(render, scene),
                    qa.question,
                    qa.answer,
                    qa.kind,
                )
            )
    return made


MEASURED_SEED = 1_000_000  # a stream that no calibration seed of ordinary size draws from


def calibration(n: int = 32, seed: int = 7) -> list[Labelled]:
    """`n` (image, question) pairs on fresh scenes: what the bundled model's layers are ranked and
    compensated on.
    """
    return labelled(n, 1_000_000 + seed)


def measured_questions(n: int) -> list[Labelled]:
    """`n` labelled questions on scenes that no calibration set of an ordinary seed holds: what
    sweeps are measured on.
    """
    return labelled(n, 1_000_000 + MEASURED_SEED)
