"""Scenes of the bundled model's world: up to nine objects on a 3 x 3 grid, as frozen values that
render to an image.

A `Scene` holds everything its picture needs (places, jitter, ground), so one seed gives one picture
and one set of true answers. Objects come from `art` (one drawing per style); plain coloured shapes
are drawn here.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from svl_core.demo import art
from svl_core.demo.worlds import SHIPPED, World
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
STYLES = ("noto", "twemoji")  # of the page's pictures; "openmoji" is left for testing
GRID_PATTERNS = ("plain", "plain", "stripes", "dots", "gradient")
FREE_PATTERNS = ("plain", "stripes", "dots", "gradient", "checks", "clouds", "clouds", "confetti")
SIZE = 288  # pixels of a rendered scene's side; the model's processor resizes it
LARGE_SHARES = (0.1, 0.9)
"""Of a free world's objects, those that nearly fill their ninth: in most scenes and in some."""

LARGE_SCENES = 0.2
"""Of a free world's scenes, those in which most objects do."""


@dataclass(frozen=True)
class Item:
    """One object of a scene.

    `cell` counts 0..8 row by row; `shift`, `scale` are shares of a cell; `angle` in degrees. What
    follows `outline` is met in training only.
    """

    name: str
    cell: int
    colour: str | None = None  # set for plain shapes only
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 0.86
    angle: float = 0.0
    flip: bool = False
    outline: bool = False  # a dark contour
    ink: bool = False  # drawn in flat areas with dark lines between them
    squeeze: float = 1.0  # width over height of the drawing
    # (hue turn in degrees, saturation, lightness) of the drawing, and flat areas
    tone: tuple[float, float, float] | None = None
    bend: int | None = None  # seed of a bend of the drawing, of its corners and its middle
    thicker: int = 0  # the dark parts of the drawing grow (1) or shrink (-1)

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
    pattern.

    pattern: one of GRID_PATTERNS or FREE_PATTERNS.
    contrast: of the pattern against its soft form; 1 is soft, 6 busy.
    seed: of the patterns that are drawn at random.
    """

    items: tuple[Item, ...]
    style: str = "noto"
    ground: tuple[int, int, int] = (245, 243, 238)
    pattern: str = "plain"
    contrast: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        cells = [item.cell for item in self.items]
        inside = all(0 <= cell < 9 for cell in cells)
        if not inside or cells != sorted(set(cells)):
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


def _item(
    rng: np.random.Generator,
    name: str,
    cell: int,
    *,
    wild: bool,
    world: World = SHIPPED,
    large_share: float = LARGE_SHARES[0],
) -> Item:
    colour = str(rng.choice(list(COLOURS))) if name in SHAPES else None
    if world.free:
        item = _anywhere(
            rng,
            Item(name, cell, colour),
            large_share,
        )
    else:
        reach = 0.07 if wild else 0.04
        left, down = np.round(rng.uniform(-reach, reach, 2), 3).tolist()
        scale = _uniform(rng, 0.68, 0.98, 3) if wild else _uniform(rng, 0.78, 0.92, 3)
        item = Item(name, cell, colour, (left, down), scale)
    if not wild:
        return item
    angle = _uniform(rng, -18, 18, 1)
    flip = _happens(rng, 0.5)
    item = replace(item, angle=angle, flip=flip)
    if colour is not None:
        return item
    outline = _happens(rng, 0.45)
    squeeze = _uniform(rng, 0.76, 1.3, 2)
    item = replace(item, outline=outline, squeeze=squeeze)
    if world.free:
        item = _redrawn(rng, item)
    if not _happens(rng, 0.6):
        return item
    turn = round(float(rng.normal(0, 22)), 1)
    saturation = _uniform(rng, 0.4, 1.7, 2)
    lightness = _uniform(rng, 0.75, 1.3, 2)
    if world.free and _happens(rng, FOREIGN_SHARE):
        turn = _uniform(rng, -180, 180, 1)
    if world.free and _happens(rng, FOREIGN_SHARE):
        saturation = _uniform(rng, 0, 0.4, 2)
    return replace(item, tone=(turn, saturation, lightness))


INK_SHARE = 0.35
"""Of the objects of a free world in training, those that are drawn with lines."""

BEND_SHARE = 0.6
"""Of these objects, those whose drawing is bent."""

FOREIGN_SHARE = 0.2
"""Of the toned ones, those in any hue; and those that are nearly grey."""


def _redrawn(rng: np.random.Generator, item: Item) -> Item:
    """The item as another hand might draw it: with lines, bent, with bolder or finer lines."""
    bent = _happens(rng, BEND_SHARE)
    return replace(
        item,
        ink=_happens(rng, INK_SHARE),
        bend=int(rng.integers(2**31)) if bent else None,
        thicker=int(rng.choice((-1, 0, 0, 1))),
    )


def _anywhere(
    rng: np.random.Generator,
    item: Item,
    large_share: float,
) -> Item:
    """The item in some size, anywhere within its ninth.

    large_share: 0..1, how likely it nearly fills it.
    """
    large = _happens(rng, large_share)
    scale = _uniform(rng, 0.62, 0.94, 3) if large else _uniform(rng, 0.36, 0.62, 3)
    reach = (1 - scale) / 2
    right = _uniform(rng, -reach, reach, 3)
    down = _uniform(rng, -reach, reach, 3)
    return replace(item, shift=(right, down), scale=scale)


def _uniform(
    rng: np.random.Generator,
    low: float,
    high: float,
    digits: int,
) -> float:
    """A draw from low..high, rounded."""
    value = float(rng.uniform(low, high))
    return round(value, digits)


def _happens(
    rng: np.random.Generator,
    share: float,
) -> bool:
    """True in this share 0..1 of the draws."""
    return bool(rng.random() < share)


def _one_of(rng: np.random.Generator, options: Sequence):
    """One of the options, each as likely."""
    index = int(rng.integers(len(options)))
    return options[index]


def _ground(
    rng: np.random.Generator,
    style: str,
    world: World,
) -> Scene:
    """A scene without objects: a light colour with a pattern."""
    grey = rng.integers(196, 256)
    base = grey + rng.integers(-18, 19, 3)
    red, green, blue = np.clip(base, 170, 255).tolist()
    pattern = str(rng.choice(FREE_PATTERNS if world.free else GRID_PATTERNS))
    scene = Scene((), style, (red, green, blue), pattern)
    if not world.free:
        return scene
    contrast = _uniform(rng, 0.5, 6.0, 2)
    seed = int(rng.integers(2**31))
    return replace(scene, contrast=contrast, seed=seed)


def random_scene(
    rng: np.random.Generator,
    style: str | None = None,
    n: int | None = None,
    *,
    wild: bool = False,
    names: tuple[str, ...] | None = None,
    world: World = SHIPPED,
) -> Scene:
    """Draw a scene.

    Objects repeat at times and often share a category, so that counting and "which" need the
    categories.

    style: of the drawings (default: a random one of `STYLES`, or, if wild, of training's).
    n: how many objects (default: as `world` says).
    wild: with training's turns, flips and contours.
    names: the objects that may be drawn (default: all).
    world: in which the objects lie.
    """
    style = style or str(rng.choice(world.training_styles if wild else STYLES))
    counts = range(1, len(world.counts) + 1)
    n = int(n or rng.choice(counts, p=world.counts))
    pool = [kind for kind in art.objects() if names is None or kind.name in names]
    if _happens(rng, 0.45):
        categories = sorted({kind.category for kind in pool})
        few = min(2, len(categories))
        wanted = set(rng.choice(categories, size=few, replace=False).tolist())
        near = [kind for kind in pool if kind.category in wanted]
        pool = near if len(near) >= 2 else pool
    chosen: list[str] = []
    for _ in range(n):
        roll = rng.random()
        if chosen and roll < 0.12:
            chosen.append(_one_of(rng, chosen))
        elif roll > 0.86:
            chosen.append(str(rng.choice(SHAPES)))
        else:
            chosen.append(_one_of(rng, pool).name)
    cells = sorted(rng.choice(9, size=n, replace=False).tolist())
    empty = _ground(rng, style, world)
    mostly_large = world.free and _happens(rng, LARGE_SCENES)
    items = []
    for name, cell in zip(chosen, cells, strict=True):
        item = _item(
            rng,
            name,
            cell,
            wild=wild,
            world=world,
            large_share=LARGE_SHARES[mostly_large],
        )
        items.append(item)
    return replace(empty, items=tuple(items))


def compose(
    items: Mapping[int, str],
    style: str = "noto",
    seed: int = 0,
    world: World = SHIPPED,
) -> Scene:
    """A scene from {cell 0..8: name}; a shape may carry its colour ("red circle").

    seed: of what the names leave open. world: in which the objects lie.

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
        item = _item(
            rng,
            words[-1],
            cell,
            wild=False,
            world=world,
        )
        if len(words) == 2 and item.colour and words[0] in COLOURS:
            item = replace(item, colour=words[0])
        elif len(words) != 1:
            raise InputError(
                f"Found the object '{items[cell]}'; expected one name, or a colour and a shape such"
                " as 'red circle'."
            )
        placed.append(item)
    empty = _ground(rng, style, world)
    return replace(empty, items=tuple(placed))


@functools.cache
def _shape(
    name: str,
    colour: str,
) -> Image.Image:
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
            x = 128 + radius * np.sin(angle)
            y = 132 - radius * np.cos(angle)
            corners.append((x, y))
        draw.polygon(corners, fill)
    return big.resize((64, 64), Image.Resampling.LANCZOS)


def _on_paper(sprite: Image.Image, colour: str) -> Image.Image:
    """The drawing as an RGB image with this colour around it."""
    paper = Image.new("RGBA", sprite.size, colour)
    paper.alpha_composite(sprite)
    return paper.convert("RGB")


def _inked(sprite: Image.Image) -> Image.Image:
    """The drawing in a few flat colours, with a dark line wherever two of them meet."""
    smooth = _on_paper(sprite, "white").filter(ImageFilter.MedianFilter(5))
    flat = smooth.quantize(6).convert("RGB")
    edges = flat.convert("L").filter(ImageFilter.FIND_EDGES)
    lines = edges.point([255 * (value > 48) for value in range(256)])
    flat.paste((20, 20, 20), mask=lines)
    flat.putalpha(sprite.getchannel("A"))
    return flat


@functools.cache
def _sprite(
    style: str,
    name: str,
    outline: bool,
    ink: bool = False,
) -> Image.Image:
    names = [kind.name for kind in art.objects()]
    sprite = art.sprites(style)[names.index(name)]
    if ink:
        sprite = _inked(sprite)
    if not outline and not ink:
        return sprite
    rim = sprite.getchannel("A").filter(ImageFilter.MaxFilter(5))
    dark = Image.new("RGBA", sprite.size, (25, 25, 25, 255))
    drawn = Image.composite(
        dark,
        Image.new("RGBA", sprite.size),
        rim,
    )
    drawn.alpha_composite(sprite)
    return drawn


def _bent(sprite: Image.Image, seed: int) -> Image.Image:
    """The drawing with its corners, the middles of its sides and its middle pulled about."""
    rng = np.random.default_rng(seed)
    side = sprite.width
    even = np.linspace(0, side, 3)
    whole = np.stack(np.meshgrid(even, even), -1)  # (row, column, (x, y))
    moved = whole + rng.uniform(-0.14, 0.14, whole.shape) * side
    mesh = []
    for row, column in itertools.product(range(2), repeat=2):
        target = (*whole[row, column], *whole[row + 1, column + 1])
        corners = [(row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1)]
        source = np.concatenate([moved[corner] for corner in corners])
        mesh.append((tuple(map(int, target)), tuple(map(float, source))))
    return sprite.transform(
        sprite.size,
        Image.Transform.MESH,
        mesh,
        Image.Resampling.BILINEAR,
    )


def _thicker(sprite: Image.Image, way: int) -> Image.Image:
    """The drawing with its dark parts grown (1) or shrunk (-1) by a pixel on each side."""
    growing = ImageFilter.MinFilter(3) if way > 0 else ImageFilter.MaxFilter(3)
    drawn = _on_paper(sprite, "white" if way > 0 else "black").filter(growing)
    drawn.putalpha(sprite.getchannel("A"))
    return drawn


def _toned(
    sprite: Image.Image,
    tone: tuple[float, float, float],
) -> Image.Image:
    """The drawing with its hue turned, its saturation and lightness scaled, and its shades merged
    into flat areas.
    """
    turn, saturation, lightness = tone
    angle = np.radians(turn)
    cos = np.cos(angle) * saturation
    sin = np.sin(angle) * saturation
    grey = np.tile([0.213, 0.715, 0.072], (3, 1))
    # The hue turn of SVG's feColorMatrix.
    spin = np.array(
        [
            [-0.213, -0.715, 0.928],
            [0.143, 0.140, -0.283],
            [-0.787, 0.715, 0.072],
        ]
    )
    coloured = cos * (np.eye(3) - grey) + sin * spin
    matrix = lightness * (grey + coloured)
    with_offsets = np.c_[matrix, np.zeros(3)]
    rows = tuple(with_offsets.ravel())
    colours = sprite.convert("RGB").convert("RGB", rows)
    smooth = colours.filter(ImageFilter.MedianFilter(5))
    colours = ImageOps.posterize(smooth, 3)
    colours.putalpha(sprite.getchannel("A"))
    return colours


@functools.lru_cache(maxsize=64)
def _pattern(
    pattern: str,
    size: int,
) -> np.ndarray:
    """Lightness offsets of a regular ground, (size, size) float32 in [-14, 0]."""
    pixels = np.mgrid[0:size, 0:size].astype(np.float32)
    y, x = pixels / size
    if pattern == "stripes":
        odd = ((x + y) * 12).astype(int) % 2
        return (-9 * odd).astype(np.float32)
    if pattern == "dots":
        across = (x * 12) % 1 - 0.5
        down = (y * 12) % 1 - 0.5
        inside = across**2 + down**2 < 0.05
        return (-11 * inside).astype(np.float32)
    if pattern == "checks":
        odd = ((x * 9).astype(int) + (y * 9).astype(int)) % 2
        return (-9 * odd).astype(np.float32)
    if pattern == "gradient":
        return -14 * y
    return np.zeros((size, size), np.float32)


def _clouds(scene: Scene, size: int) -> np.ndarray:
    """Soft blotches of colour, (size, size, 3) float32 around 0."""
    rng = np.random.default_rng(scene.seed)
    cells = int(rng.integers(3, 13))
    coarse = rng.normal(0, 5, (cells, cells, 3)).astype(np.float32)
    channels = []
    for channel in range(3):
        small = Image.fromarray(coarse[..., channel])
        channels.append(np.asarray(small.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(channels, -1)


def _scatter(image: Image.Image, scene: Scene) -> None:
    """Draws small flecks over the picture, each much smaller than any object."""
    rng = np.random.default_rng(scene.seed)
    draw = ImageDraw.Draw(image)
    for _ in range(round(15 * scene.contrast)):
        x, y = rng.uniform(0, image.width, 2)
        width, height = rng.uniform(0.007, 0.03, 2) * image.width
        offset = rng.normal(0, 9 * scene.contrast, 3)
        red, green, blue = np.clip(scene.ground + offset, 0, 255).astype(int).tolist()
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + width, y + height), (red, green, blue))


def _background(scene: Scene, size: int) -> Image.Image:
    """The ground of the scene, without its objects."""
    colour = np.array(scene.ground, np.float32)
    if scene.pattern == "clouds":
        offsets = _clouds(scene, size)
    else:
        offsets = _pattern(scene.pattern, size)[..., None]
    ground = np.clip(colour + scene.contrast * offsets, 0, 255)
    image = Image.fromarray(ground.astype(np.uint8))
    if scene.pattern == "confetti":
        _scatter(image, scene)
    return image


def box(item: Item, size: int = SIZE) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the item in a picture of that side, px."""
    cell = size / 3
    side = cell * item.scale
    narrow = min(1.0, item.squeeze)
    flat = min(1.0, 1 / item.squeeze)
    width = max(4, round(side * narrow))
    height = max(4, round(side * flat))
    right, down = item.shift
    centre_x = (item.column + 0.5 + right) * cell
    centre_y = (item.row + 0.5 + down) * cell
    left = round(centre_x - width / 2)
    top = round(centre_y - height / 2)
    return left, top, width, height


def render(
    scene: Scene,
    size: int = SIZE,
) -> Image.Image:
    """The scene as a `size` x `size` RGB image."""
    image = _background(scene, size)
    for item in scene.items:
        if item.colour:
            sprite = _shape(item.name, item.colour)
        else:
            sprite = _sprite(
                scene.style,
                item.name,
                item.outline,
                item.ink,
            )
        if item.flip:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if item.thicker:
            sprite = _thicker(sprite, item.thicker)
        if item.tone:
            sprite = _toned(sprite, item.tone)
        if item.bend is not None:
            sprite = _bent(sprite, item.bend)
        left, top, width, height = box(item, size)
        sprite = sprite.resize((width, height), Image.Resampling.BICUBIC)
        if item.angle:
            sprite = sprite.rotate(item.angle, Image.Resampling.BILINEAR)
        image.paste(sprite, (left, top), sprite)
    return image
