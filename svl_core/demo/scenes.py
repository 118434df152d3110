"""Scenes of the bundled model's world: up to nine objects on a 3 x 3 grid, as frozen values that
render to an image.

A `Scene` holds everything its picture needs (places, jitter, ground), so one seed gives one picture
and one set of true answers. Objects come from `art` (one drawing per style); plain coloured shapes
are drawn here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from svl_core.demo import art
from svl_core.errors import InputError

PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
SHAPES = ("circle", "rectangle", "triangle", "star")
# The eight colour words of easy-VQA, so that both worlds share one vocabulary.
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (222, 45, 38),
    "green": (44, 160, 44),
    "blue": (31, 90, 214),
    "yellow": (250, 213, 40),
    "black": (20, 20, 20),
    "gray": (136, 136, 136),
    "brown": (128, 78, 36),
    "teal": (20, 150, 150),
}
STYLES = ("noto", "twemoji")  # the two styles of training; "openmoji" is left for testing
SIZE = 288  # pixels of a rendered scene's side; the model's processor resizes it


@dataclass(frozen=True)
class Item:
    """One object of a scene.

    `cell` counts 0..8 row by row; `shift`, `scale` are shares of a cell; `angle` in degrees.
    """

    name: str
    cell: int
    colour: str | None = None  # set for plain shapes only
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 0.86
    angle: float = 0.0
    flip: bool = False
    outline: bool = False  # a dark contour: a training augmentation, like the two below
    squeeze: float = 1.0  # width over height of the drawing
    # (hue turn in degrees, saturation, lightness) of the drawing, and flat areas
    tone: tuple[float, float, float] | None = None

    @property
    def place(self) -> str:
        return PLACES[self.cell]

    @property
    def row(self) -> int:
        return self.cell // 3

    @property
    def column(self) -> int:
        return self.cell % 3

    @property
    def category(self) -> str:
        return "shape" if self.colour else category_of(self.name)


@dataclass(frozen=True)
class Scene:
    """Items in reading order (increasing `cell`, one per cell) on a ground of one colour with a
    soft pattern.
    """

    items: tuple[Item, ...]
    style: str = "noto"
    ground: tuple[int, int, int] = (245, 243, 238)
    pattern: str = "plain"  # plain | stripes | dots | gradient

    def __post_init__(self) -> None:
        cells = [item.cell for item in self.items]
        if cells != sorted(set(cells)) or any(not 0 <= cell < 9 for cell in cells):
            raise InputError(
                f"Found the cells {cells}; expected at most one object in each of the places 0 to"
                " 8, in order; give each object its own place."
            )


@functools.cache
def _catalogue() -> dict[str, str]:
    categories = {kind.name: kind.category for kind in art.objects()}
    return categories | dict.fromkeys(SHAPES, "shape")


def category_of(name: str) -> str:
    """Category word of an object or shape name. Raises InputError for a name outside this world."""
    try:
        return _catalogue()[name]
    except KeyError:
        raise InputError(
            f"Found the object '{name}', which this world has no drawing of; expected one of:"
            f" {', '.join(sorted(_catalogue()))}."
        ) from None


def _item(rng: np.random.Generator, name: str, cell: int, *, wild: bool) -> Item:
    colour = str(rng.choice(list(COLOURS))) if name in SHAPES else None
    low, high = (0.68, 0.98) if wild else (0.78, 0.92)
    reach = 0.07 if wild else 0.04
    shift = tuple(np.round(rng.uniform(-reach, reach, 2), 3).tolist())
    scale = round(float(rng.uniform(low, high)), 3)
    item = Item(name, cell, colour, shift, scale)
    if not wild:
        return item
    item = replace(item, angle=round(float(rng.uniform(-18, 18)), 1), flip=bool(rng.random() < 0.5))
    if colour is not None:
        return item
    outline = bool(rng.random() < 0.45)
    squeeze = round(float(rng.uniform(0.76, 1.3)), 2)
    item = replace(item, outline=outline, squeeze=squeeze)
    return replace(item, tone=_tone(rng)) if rng.random() < 0.6 else item


def _tone(rng: np.random.Generator) -> tuple[float, float, float]:
    """(hue turn in degrees, saturation, lightness)."""
    turn = round(float(rng.normal(0, 22)), 1)
    saturation = round(float(rng.uniform(0.4, 1.7)), 2)
    lightness = round(float(rng.uniform(0.75, 1.3)), 2)
    return turn, saturation, lightness


def _ground(rng: np.random.Generator) -> tuple[tuple[int, int, int], str]:
    base = rng.integers(196, 256) + rng.integers(-18, 19, 3)
    red, green, blue = (int(value) for value in np.clip(base, 170, 255))
    pattern = rng.choice(["plain", "plain", "stripes", "dots", "gradient"])
    return (red, green, blue), str(pattern)


def random_scene(
    rng: np.random.Generator,
    style: str | None = None,
    n: int | None = None,
    *,
    wild: bool = False,
    names: tuple[str, ...] | None = None,
) -> Scene:
    """Draw a scene.

    Objects repeat at times and often share a category, so that counting and "which" need the
    categories.

    style: of the drawings (default: a random one of training's).
    n: how many objects (default: one to five).
    wild: with training's turns, flips and contours.
    names: the objects that may be drawn (default: all).
    """
    style = style or str(rng.choice(STYLES))
    n = int(n or rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.2, 0.25, 0.25, 0.2]))
    pool = [kind for kind in art.objects() if names is None or kind.name in names]
    if rng.random() < 0.45:
        categories = sorted({kind.category for kind in pool})
        few = min(2, len(categories))
        wanted = set(rng.choice(categories, size=few, replace=False).tolist())
        near = [kind for kind in pool if kind.category in wanted]
        pool = near if len(near) >= 2 else pool
    chosen: list[str] = []
    for _ in range(n):
        roll = rng.random()
        if chosen and roll < 0.12:
            chosen.append(chosen[int(rng.integers(len(chosen)))])
        elif roll > 0.86:
            chosen.append(str(rng.choice(SHAPES)))
        else:
            chosen.append(pool[int(rng.integers(len(pool)))].name)
    cells = sorted(rng.choice(9, size=n, replace=False).tolist())
    ground, pattern = _ground(rng)
    items = [_item(rng, name, cell, wild=wild) for name, cell in zip(chosen, cells, strict=True)]
    return Scene(tuple(items), style, ground, pattern)


def compose(items: Mapping[int, str], style: str = "noto", seed: int = 0) -> Scene:
    """A scene from {cell 0..8: name}; a shape may carry its colour ("red circle").

    Raises InputError for unknown names or places.
    """
    rng = np.random.default_rng(seed)
    placed = []
    for cell in sorted(items):
        words = items[cell].lower().split()
        if not words:
            raise InputError(
                f"Found no object name for place {cell}; expected a name such as 'cat'; choose one."
            )
        category_of(words[-1])
        item = _item(rng, words[-1], cell, wild=False)
        if len(words) == 2 and item.colour and words[0] in COLOURS:
            item = Item(item.name, cell, words[0], item.shift, item.scale)
        elif len(words) != 1:
            raise InputError(
                f"Found the object '{items[cell]}'; expected one name, or a colour and a shape such"
                " as 'red circle'."
            )
        placed.append(item)
    ground, pattern = _ground(rng)
    return Scene(tuple(placed), style, ground, pattern)


@functools.cache
def _shape(name: str, colour: str) -> Image.Image:
    """A plain shape as a 64 x 64 RGBA sprite, anti-aliased."""
    big = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(big)
    fill = COLOURS[colour] + (255,)
    if name == "circle":
        draw.ellipse((20, 20, 236, 236), fill)
    elif name == "rectangle":
        draw.rectangle((16, 52, 240, 204), fill)
    elif name == "triangle":
        draw.polygon([(128, 20), (240, 228), (16, 228)], fill)
    else:
        corners = []
        for corner in range(10):
            radius = 118 if corner % 2 == 0 else 50
            angle = corner * np.pi / 5
            corners.append((128 + radius * np.sin(angle), 132 - radius * np.cos(angle)))
        draw.polygon(corners, fill)
    return big.resize((64, 64), Image.Resampling.LANCZOS)


@functools.cache
def _sprite(style: str, name: str, outline: bool) -> Image.Image:
    names = [kind.name for kind in art.objects()]
    sprite = art.sprites(style)[names.index(name)]
    if not outline:
        return sprite
    rim = sprite.getchannel("A").filter(ImageFilter.MaxFilter(5))
    dark = Image.new("RGBA", sprite.size, (25, 25, 25, 255))
    drawn = Image.composite(dark, Image.new("RGBA", sprite.size), rim)
    drawn.alpha_composite(sprite)
    return drawn


def _toned(sprite: Image.Image, tone: tuple[float, float, float]) -> Image.Image:
    """The drawing with its hue turned, its saturation and lightness scaled, and its shades merged
    into flat areas.
    """
    turn, saturation, lightness = tone
    cos = np.cos(np.radians(turn)) * saturation
    sin = np.sin(np.radians(turn)) * saturation
    grey = np.tile([0.213, 0.715, 0.072], (3, 1))
    # The hue turn of SVG's feColorMatrix.
    spin = np.array(
        [
            [-0.213, -0.715, 0.928],
            [0.143, 0.140, -0.283],
            [-0.787, 0.715, 0.072],
        ]
    )
    matrix = lightness * (grey + cos * (np.eye(3) - grey) + sin * spin)
    rows = tuple(np.c_[matrix, np.zeros(3)].ravel())
    colours = sprite.convert("RGB").convert("RGB", rows)
    colours = ImageOps.posterize(colours.filter(ImageFilter.MedianFilter(5)), 3)
    colours.putalpha(sprite.getchannel("A"))
    return colours


@functools.lru_cache(maxsize=64)
def _pattern(pattern: str, size: int) -> np.ndarray:
    """Lightness offsets of a ground, (size, size) float32 in [-14, 0]."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    if pattern == "stripes":
        odd = ((x + y) * 12).astype(int) % 2
        return (-9 * odd).astype(np.float32)
    if pattern == "dots":
        across = (x * 12) % 1 - 0.5
        down = (y * 12) % 1 - 0.5
        return (-11 * (across**2 + down**2 < 0.05)).astype(np.float32)
    if pattern == "gradient":
        return -14 * y
    return np.zeros((size, size), np.float32)


def render(scene: Scene, size: int = SIZE) -> Image.Image:
    """The scene as a `size` x `size` RGB image."""
    lightness = np.array(scene.ground, np.float32) + _pattern(scene.pattern, size)[..., None]
    ground = np.clip(lightness, 0, 255)
    image = Image.fromarray(ground.astype(np.uint8))
    cell = size / 3
    for item in scene.items:
        if item.colour:
            sprite = _shape(item.name, item.colour)
        else:
            sprite = _sprite(scene.style, item.name, item.outline)
        if item.flip:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if item.tone:
            sprite = _toned(sprite, item.tone)
        side = cell * item.scale
        width = max(4, round(side * min(1.0, item.squeeze)))
        height = max(4, round(side * min(1.0, 1 / item.squeeze)))
        sprite = sprite.resize((width, height), Image.Resampling.BICUBIC)
        if item.angle:
            sprite = sprite.rotate(item.angle, Image.Resampling.BILINEAR)
        left = round((item.column + 0.5 + item.shift[0]) * cell - width / 2)
        top = round((item.row + 0.5 + item.shift[1]) * cell - height / 2)
        image.paste(sprite, (left, top), sprite)
    return image
