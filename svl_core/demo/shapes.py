"""Pictures of one plain shape with questions on them, drawn in the manner of easy-VQA: the other
part of what the bundled model was trained for.

A calibration set of scenes alone lets a fit with many degrees of freedom forget these pictures (see
`questions.calibration`). easy-VQA's own pictures are not used here: they stay an outside yardstick.

Source of the wordings and of the way of drawing: easy-VQA (Victor Zhou, MIT licence),
https://github.com/vzhou842/easy-VQA.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from svl_core.demo.labelled import Labelled

SIDE = 64
"""Pixels of a picture's side."""

DRAWN_AT = 4
"""A shape is drawn so many times larger and then reduced, so that its edges are soft."""

SHAPES = ("circle", "rectangle", "triangle")

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "brown": (165, 42, 42),
    "teal": (0, 128, 128),
}

KINDS = ("colour", "shape", "yes/no", "yes/no")
"""Kinds of questions in turn; every second one is answered by yes or no."""

ASK_COLOUR = (
    "what color is the {x}?",
    "what is the color of the {x}?",
)
ASK_SHAPE = (
    "what shape is in the image?",
    "what shape does the image contain?",
    "what shape is present?",
    "what is the {colour} shape?",
)
ASK_WHETHER = (
    "is there a {x}?",
    "is there a {x} in the image?",
    "does the image contain a {x}?",
    "is a {x} present?",
)
ASK_WHETHER_NOT = (
    "is there not a {x}?",
    "is there not a {x} in the image?",
    "does the image not contain a {x}?",
    "is no {x} present?",
)


@dataclass(frozen=True)
class ShapePicture:
    """One shape on a pale ground.

    shape, colour: words of `SHAPES` and `COLOURS`.
    ground: red, green and blue of the ground, 230..255.
    box: left, top, right and bottom of the shape in pixels, within 0..`SIDE`.
    """

    shape: str
    colour: str
    ground: tuple[int, int, int]
    box: tuple[int, int, int, int]

    def render(self) -> Image.Image:
        """The picture, `SIDE` x `SIDE` pixels."""
        large = SIDE * DRAWN_AT
        image = Image.new("RGB", (large, large), self.ground)
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = (DRAWN_AT * edge for edge in self.box)
        colour = COLOURS[self.colour]
        if self.shape == "circle":
            draw.ellipse((left, top, right, bottom), fill=colour)
        elif self.shape == "rectangle":
            draw.rectangle((left, top, right, bottom), fill=colour)
        else:
            middle = (left + right) / 2
            corners = [(middle, top), (left, bottom), (right, bottom)]
            draw.polygon(corners, fill=colour)
        return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def random_picture(rng: np.random.Generator) -> ShapePicture:
    """A shape of 10 to 32 pixels anywhere in the picture."""
    shape = str(rng.choice(SHAPES))
    width = int(rng.integers(10, 33))
    height = int(rng.integers(10, 33)) if shape == "rectangle" else width
    left = int(rng.integers(0, SIDE - width))
    top = int(rng.integers(0, SIDE - height))
    red, green, blue = (int(level) for level in rng.integers(230, 256, 3))
    return ShapePicture(
        shape,
        colour=str(rng.choice(list(COLOURS))),
        ground=(red, green, blue),
        box=(left, top, left + width, top + height),
    )


def ask(
    picture: ShapePicture,
    kind: str,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """A question of a kind of `KINDS`, and its answer."""
    if kind == "colour":
        named = str(rng.choice(["shape", picture.shape]))
        wording = str(rng.choice(ASK_COLOUR))
        return wording.format(x=named), picture.colour
    if kind == "shape":
        wording = str(rng.choice(ASK_SHAPE))
        return wording.format(colour=picture.colour), picture.shape
    named, there = _asked_for(picture, rng)
    negated = bool(rng.random() < 0.5)
    wordings = ASK_WHETHER_NOT if negated else ASK_WHETHER
    wording = str(rng.choice(wordings))
    return wording.format(x=named), "yes" if there != negated else "no"


def _asked_for(
    picture: ShapePicture,
    rng: np.random.Generator,
) -> tuple[str, bool]:
    """What a yes/no question names, and whether it is there; both as likely."""
    by_colour = rng.random() < 0.5
    words = list(COLOURS) if by_colour else list(SHAPES)
    own = picture.colour if by_colour else picture.shape
    named = own
    if rng.random() < 0.5:
        others = [word for word in words if word != own]
        named = str(rng.choice(others))
    return (f"{named} shape" if by_colour else named), named == own


def labelled_shapes(
    n: int,
    seed: int,
) -> list[Labelled]:
    """`n` questions, the kinds in turn, each on a picture of its own; same seed, same questions."""
    rng = np.random.default_rng([0x5A9E5, seed])
    questions = []
    for number in range(n):
        picture = random_picture(rng)
        kind = KINDS[number % len(KINDS)]
        question, answer = ask(picture, kind, rng)
        render = functools.partial(ShapePicture.render, picture)
        questions.append(Labelled(render, question, answer, kind))
    return questions
