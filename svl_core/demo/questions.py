"""Questions on a scene with their true answers: kinds of question, each in at least five wordings.

`ask(scene, rng)` draws one question; answers are short, lower-case and unique by construction (a
question whose answer would be ambiguous is never asked).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from svl_core.demo import art, shapes
from svl_core.demo.labelled import Labelled
from svl_core.demo.scenes import (
    PLACES,
    SHAPES,
    Item,
    Scene,
    category_of,
    random_scene,
    render,
)
from svl_core.demo.worlds import SHIPPED, World


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
    "where-category": (
        "where is the {category}?",
        "where can you see the {category}?",
        "in which place is the {category}?",
        "tell me where the {category} is.",
        "where do you find the {category}?",
    ),
    "next": (
        "what is {side} the {anchor}?",
        "what do you see {side} the {anchor}?",
        "what object is {side} the {anchor}?",
        "name the object {side} the {anchor}.",
        "which object is {side} the {anchor}?",
    ),
    "which-next": (
        "which {category} is {side} the {anchor}?",
        "which {category} do you see {side} the {anchor}?",
        "what {category} is {side} the {anchor}?",
        "name the {category} {side} the {anchor}.",
        "which {category} can you find {side} the {anchor}?",
    ),
    "compare": (
        "are there {more} {categories} {than} {others}?",
        "do you see {more} {categories} {than} {others}?",
        "can you see {more} {categories} {than} {others}?",
        "does the picture show {more} {categories} {than} {others}?",
        "can you find {more} {categories} {than} {others}?",
    ),
}
KINDS = SHIPPED.kinds
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
    return (*(kind.name for kind in art.objects()), *SHAPES)


@functools.cache
def all_categories() -> tuple[str, ...]:
    return (*(category.name for category in art.categories()), "shape")


def caption(scene: Scene) -> str:
    """The scene in reading order: "a cat in the top left, a red circle in the center and a bus in
    the right".
    """
    parts = []
    for item in scene.items:
        name = f"{item.colour} {item.name}" if item.colour else item.name
        parts.append(f"{with_article(name)} in the {item.place}")
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def true_relation(
    x: Item,
    side: str,
    y: Item,
) -> bool:
    """Whether item `x` stands on that side of `y`, by grid column or row."""
    return {
        "left of": x.column < y.column,
        "right of": x.column > y.column,
        "above": x.row < y.row,
        "below": x.row > y.row,
    }[side]


Content = tuple[dict[str, str], str]
"""The words that a kind's wording names, and the answer."""


class _Asked:
    """What the kinds of questions need to know of a scene.

    single: the items whose name stands in the scene once.
    """

    def __init__(
        self,
        scene: Scene,
        rng: np.random.Generator,
    ):
        self.scene = scene
        self.rng = rng
        self.items = scene.items
        self.names = Counter(item.name for item in scene.items)
        self.categories = Counter(item.category for item in scene.items)
        self.single = [item for item in scene.items if self.names[item.name] == 1]

    def pick(self, options: Sequence):
        index = int(self.rng.integers(len(options)))
        return options[index]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def absent_names(self) -> list[str]:
        return [name for name in all_names() if name not in self.names]


def _what_at(asked: _Asked) -> Content:
    taken = {item.cell for item in asked.items}
    free = [cell for cell in range(9) if cell not in taken]
    if asked.chance(0.15) and free:
        return {"place": PLACES[asked.pick(free)]}, "nothing"
    item = asked.pick(asked.items)
    return {"place": item.place}, item.name


def _where(asked: _Asked) -> Content | None:
    if asked.chance(0.08):
        return {"x": asked.pick(asked.absent_names())}, "nowhere"
    if not asked.single:
        return None
    item = asked.pick(asked.single)
    return {"x": item.name}, item.place


def _is_at(asked: _Asked) -> Content | None:
    if not asked.single:
        return None
    item = asked.pick(asked.single)
    if asked.chance(0.5):
        return {"x": item.name, "place": item.place}, "yes"
    places: Sequence[str] = PLACES
    occupied = [neighbour.place for neighbour in asked.items]
    if len(occupied) > 1 and asked.chance(0.5):
        places = occupied
    wrong = [place for place in places if place != item.place]
    place = asked.pick(wrong)
    return {"x": item.name, "place": place}, "no"


def _which(asked: _Asked) -> Content | None:
    if asked.chance(0.08):
        absent = [word for word in all_categories() if word not in asked.categories]
        if absent:
            return {"category": asked.pick(absent)}, "none"
    alone = []
    for item in asked.items:
        of_category = asked.categories[item.category]
        if of_category == asked.names[item.name]:
            alone.append(item)
    if not alone:
        return None
    item = asked.pick(alone)
    return {"category": item.category}, item.name


def _exists_object(asked: _Asked) -> Content:
    if asked.chance(0.5):
        return {"a_x": with_article(asked.pick(asked.items).name)}, "yes"
    absent = asked.absent_names()
    near = [name for name in absent if asked.chance(0.2) or category_of(name) in asked.categories]
    return {"a_x": with_article(asked.pick(near or absent))}, "no"


def _exists_category(asked: _Asked) -> Content:
    present = asked.chance(0.5)
    options = [word for word in all_categories() if (word in asked.categories) == present]
    word = asked.pick(options)
    words = {"category": word, "a_category": with_article(word), "categories": plural(word)}
    return words, "yes" if present else "no"


def _count_all(asked: _Asked) -> Content:
    return {}, str(len(asked.items))


def _count_category(asked: _Asked) -> Content:
    words = all_categories() if asked.chance(0.15) else sorted(asked.categories)
    word = asked.pick(words)
    return {"categories": plural(word)}, str(asked.categories[word])


def _count_object(asked: _Asked) -> Content:
    repeated = [name for name in asked.names if asked.names[name] > 1]
    if repeated and asked.chance(0.5):
        word = asked.pick(repeated)
    elif asked.chance(0.25):
        word = asked.pick(all_names())
    else:
        word = asked.pick(sorted(asked.names))
    return {"xs": plural(word)}, str(asked.names[word])


def _two_items(asked: _Asked) -> tuple[Item, Item, str] | None:
    """Two items, and a side that may be asked of them: not above or below within a row."""
    if len(asked.single) < 2:
        return None
    first, second = asked.rng.permutation(len(asked.single))[:2]
    x = asked.single[first]
    y = asked.single[second]
    vertical = x.row != y.row
    horizontal = x.column != y.column
    sides = [side for side in SIDES if (vertical if side in ("above", "below") else horizontal)]
    return x, y, asked.pick(sides)


def _relation(asked: _Asked) -> Content | None:
    items = _two_items(asked)
    if items is None:
        return None
    x, y, side = items
    words = {"x": x.name, "y": y.name, "side": side}
    return words, "yes" if true_relation(x, side, y) else "no"


def _side(asked: _Asked) -> Content | None:
    items = _two_items(asked)
    if items is None:
        return None
    x, y, side = items
    pair = next(pair for pair in EITHER_SIDE if side in pair)
    answer = next(side for side in pair if true_relation(x, side, y))
    words = {"x": x.name, "y": y.name, "sides": EITHER_SIDE[pair]}
    return words, answer.removesuffix(" of")


def _where_category(asked: _Asked) -> Content | None:
    alone = [item for item in asked.items if asked.categories[item.category] == 1]
    if not alone:
        return None
    item = asked.pick(alone)
    return {"category": item.category}, item.place


def _anchor(asked: _Asked) -> tuple[Item, str] | None:
    """An item and words that mean it alone: its name, its category or its colour as a shape."""
    options = [(item, item.name) for item in asked.single]
    for item in asked.items:
        if asked.categories[item.category] == 1:
            options.append((item, item.category))
    colours = Counter(item.colour for item in asked.items)
    for item in asked.items:
        if item.colour and colours[item.colour] == 1:
            options.append((item, f"{item.colour} shape"))
    return asked.pick(options) if options else None


def _beside(asked: _Asked) -> tuple[list[Item], dict[str, str]] | None:
    """The items on some side of an anchor, and the words for the side and the anchor."""
    found = _anchor(asked)
    if found is None:
        return None
    anchor, words = found
    side = asked.pick(SIDES)
    on_side = [item for item in asked.items if true_relation(item, side, anchor)]
    return on_side, {"side": side, "anchor": words}


def _next(asked: _Asked) -> Content | None:
    found = _beside(asked)
    if found is None:
        return None
    on_side, words = found
    if not on_side:
        return (words, "nothing") if asked.chance(0.2) else None
    return (words, on_side[0].name) if len(on_side) == 1 else None


def _which_next(asked: _Asked) -> Content | None:
    found = _beside(asked)
    if found is None:
        return None
    on_side, words = found
    categories = Counter(item.category for item in on_side)
    # A category with one object on this side, where it has more elsewhere: both facts are needed.
    alone = [item for item in on_side if categories[item.category] == 1]
    if not alone:
        return None
    item = asked.pick(alone)
    return words | {"category": item.category}, item.name


def _compare(asked: _Asked) -> Content | None:
    """Two categories whose numbers differ, or as many: asked so that yes and no are as likely."""
    present = sorted(asked.categories)
    first = asked.pick(present)
    others = [word for word in all_categories() if word != first]
    near = [word for word in present if word != first]
    second = asked.pick(near if near and asked.chance(0.8) else others)
    equal = asked.categories[first] == asked.categories[second]
    as_many = asked.chance(0.7 if equal else 0.25)
    if not as_many and asked.chance(0.5):
        first, second = second, first
    words = {
        "more": "as many" if as_many else "more",
        "than": "as" if as_many else "than",
        "categories": plural(first),
        "others": plural(second),
    }
    more = asked.categories[first] > asked.categories[second]
    return words, "yes" if (equal if as_many else more) else "no"


def _colour(asked: _Asked) -> Content | None:
    shapes = [item for item in asked.single if item.colour]
    if not shapes:
        return None
    item = asked.pick(shapes)
    return {"x": item.name}, item.colour


def _caption(asked: _Asked) -> Content:
    return {}, caption(asked.scene)


CONTENTS: dict[str, Callable[[_Asked], Content | None]] = {
    "what-at": _what_at,
    "where": _where,
    "is-at": _is_at,
    "which": _which,
    "exists-object": _exists_object,
    "exists-category": _exists_category,
    "count-all": _count_all,
    "count-category": _count_category,
    "count-object": _count_object,
    "relation": _relation,
    "side": _side,
    "colour": _colour,
    "caption": _caption,
    "where-category": _where_category,
    "next": _next,
    "which-next": _which_next,
    "compare": _compare,
}
"""For each kind its words and answer; None where the scene has no unambiguous such question."""


def ask(
    scene: Scene,
    rng: np.random.Generator,
    kind: str | None = None,
    world: World = SHIPPED,
) -> QA | None:
    """One question on the scene; None where it has no unambiguous question of that kind.

    kind: of the question (default: a random one of which there is a question).
    world: whose kinds are asked.
    """
    kinds = [kind]
    if kind is None:
        order = rng.permutation(len(world.kinds))
        kinds = [world.kinds[index] for index in order]
    asked = _Asked(scene, rng)
    for candidate in kinds:
        content = CONTENTS[candidate](asked)
        if content is not None:
            words, answer = content
            wording = asked.pick(WORDINGS[candidate])
            return QA(wording.format(**words), answer, candidate)
    return None


def labelled(
    n: int,
    seed: int,
    style: str | None = None,
    world: World = SHIPPED,
) -> list[Labelled]:
    """`n` questions on fresh scenes, the kinds in turn, each on a scene of its own; same seed, same
    questions.

    The stream is never that of training, whatever the seed. `style`: one of `art`'s styles, default
    a random one of training's. `world`: whose scenes and kinds they are.
    """
    rng = np.random.default_rng([0x5CE7E, seed])
    questions: list[Labelled] = []
    while len(questions) < n:
        scene = random_scene(rng, style, world=world)
        qa = ask(
            scene,
            rng,
            world.kinds[len(questions) % len(world.kinds)],
        )
        if qa is not None:
            picture = functools.partial(render, scene)
            questions.append(
                Labelled(
                    picture,
                    qa.question,
                    qa.answer,
                    qa.kind,
                )
            )
    return questions


MEASURED_SEED = 1_000_000  # a stream that no calibration seed of ordinary size draws from


SCENES_FIRST = 128
"""Calibration samples up to which all are scenes."""

SHAPE_EVERY = 5
"""Of the calibration samples beyond, every so manieth is a picture of one shape."""


def calibration(
    n: int = 32,
    seed: int = 7,
) -> list[Labelled]:
    """`n` (image, question) pairs: what the bundled model's layers are ranked and compensated on.

    The first `SCENES_FIRST` are fresh scenes, on which rankings need no more. A larger set is there
    for fits with many degrees of freedom and covers all that the model was trained for: beyond,
    every fifth is a picture of one shape (see `shapes`). A smaller set is the beginning of a larger
    one.
    """
    scenes = iter(labelled(n, 1_000_000 + seed))
    beyond = max(n - SCENES_FIRST, 0)
    of_shapes = iter(shapes.labelled_shapes(beyond // SHAPE_EVERY, 1_000_000 + seed))
    chosen = []
    for number in range(n):
        is_shape = number >= SCENES_FIRST and (number - SCENES_FIRST + 1) % SHAPE_EVERY == 0
        chosen.append(next(of_shapes if is_shape else scenes))
    return chosen


def measured_questions(n: int) -> list[Labelled]:
    """`n` labelled questions on scenes that no calibration set of an ordinary seed holds: what
    sweeps are measured on.
    """
    return labelled(n, 1_000_000 + MEASURED_SEED)
