"""How closely a picture is looked at: the sizes in which a family's processor can read it.

A rule knows which setting of the processor says how much of a picture is read, and counts the
visual tokens that a picture gives, from its size alone. A level is that setting at one amount; it
goes onto a copy of the processor, for others may read at another level at the same time.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_utils import ChannelDimension, SizeDict

from svl_core.errors import InputError
from svl_core.lvlm import families
from svl_core.lvlm.geometry import Sized, best_grid, padded_rows
from svl_core.lvlm.images import Size
from svl_core.recipe import BALANCED, FULL, QUICK

FEW_SECONDS = 5.0  # what one pass may take where the detail is chosen for it


TYPICAL = (Size(640, 480),)  # pictures of a set that nobody has looked at yet


@dataclass(frozen=True)
class Extent:
    """What pictures make a model compute.

    tokens: visual positions of the sequence.
    patches: positions of the vision tower.
    """

    tokens: int
    patches: int

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.tokens + other.tokens, self.patches + other.patches)


@dataclass(frozen=True)
class Level:
    """One of the sizes in which pictures are read.

    name: "full", "balanced" or "quick", or its amount in words.
    amount: in the unit of the family's rule; None: what the processor does by itself.
    """

    name: str
    amount: int | None = None


@dataclass(frozen=True, eq=False)
class Setup:
    """A processor whose settings for images can be read and changed on a copy.

    config: the whole model's.
    """

    processor: Any
    config: Any

    @property
    def image_processor(self) -> Any:
        return self.processor.image_processor

    def __getitem__(self, name: str) -> Any:
        """A setting for images; those of the whole processor go before its image processor's."""
        of_all = getattr(self.processor, "images_kwargs", {})
        return of_all[name] if name in of_all else getattr(self.image_processor, name, None)

    def changed(self, **settings: Any) -> Setup:
        """The same with other settings."""
        processor = copy.copy(self.processor)
        processor.image_processor = copy.copy(self.image_processor)
        of_all = dict(getattr(self.processor, "images_kwargs", {}))
        for name, value in settings.items():
            setattr(processor.image_processor, name, value)
            if name in of_all:
                of_all[name] = value
        if of_all:
            processor.images_kwargs = of_all
        return Setup(processor, self.config)

    def sized(self, **edges: int) -> Setup:
        """The same with other entries of the setting `size`."""
        return self.changed(size=SizeDict(**{**dict(self["size"]), **edges}))

    def edge(self, setting: str = "size", name: str = "longest_edge") -> int:
        """An entry of a setting that holds sizes, 0 where there is none."""
        return dict(self[setting] or {}).get(name) or 0


# Rules: which setting says how much of a picture is read


class Rule(ABC):
    """One way of reading pictures in several sizes.

    own: what its families read at full detail, in words.
    unit: what an amount counts.
    """

    own: str
    unit: str

    def said(self, amount: int) -> str:
        """What is read at an amount, in words."""
        return f"at most {amount} {self.unit}"

    @abstractmethod
    def most(self, setup: Setup) -> int:
        """The amount that the processor's own settings stand for; 0: it has one size only."""

    def lower(self, setup: Setup, most: int) -> Iterable[int]:
        """The amounts below `most`, the highest first."""
        return range(most - 1, 0, -1)

    def nearest(self, highest: int, most: int) -> int:
        """From which amount on to look for one that gives at most `most` visual tokens."""
        return highest

    @abstractmethod
    def altered(self, setup: Setup, amount: int) -> Setup:
        """The processor set to an amount."""

    def shown(self, setup: Setup, amount: int, picture: Image.Image) -> Image.Image:
        """The picture as the processor gets it."""
        return picture

    @abstractmethod
    def extent(self, setup: Setup, picture: Sized) -> Extent:
        """What one picture comes to with the settings as they are."""

    def extents(self, setup: Setup, amount: int | None, pictures: Sequence[Sized]) -> Extent:
        """What the pictures of one prompt come to. amount: None for the processor's own."""
        if amount is not None:
            setup = self.altered(setup, amount)
        parts = [self.extent(setup, picture) for picture in pictures]
        return sum(parts, Extent(0, 0))


class Splitting(Rule):
    """Tiles, as many along the longest edge as `size` holds, and the whole picture; or that alone
    (Idefics3, SmolVLM).
    """

    own = "the whole picture, and as many tiles as the processor's longest edge holds"
    unit = "tiles along the longest edge"

    def said(self, amount: int) -> str:
        return "the whole picture alone" if amount == 1 else super().said(amount)

    def most(self, setup: Setup) -> int:
        tile = setup.edge("max_image_size")
        if not setup["do_image_splitting"] or not tile:
            return 0
        return math.ceil(setup.edge() / tile)

    def altered(self, setup: Setup, amount: int) -> Setup:
        if amount == 1:
            return setup.changed(do_image_splitting=False)
        return setup.sized(longest_edge=amount * setup.edge("max_image_size"))

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        tiles = 1
        if setup["do_image_splitting"]:
            rows, columns = self._grid(setup, picture)
            tiles += rows * columns if rows * columns > 1 else 0
        side = setup.edge("max_image_size") // setup.config.vision_config.patch_size
        return Extent(tiles * setup.processor.image_seq_len, tiles * side**2)

    @staticmethod
    def _grid(setup: Setup, picture: Sized) -> tuple[int, int]:
        """Rows and columns of tiles, see `resize_for_vision_encoder`."""
        from transformers.models.idefics3.image_processing_pil_idefics3 import (
            get_resize_output_image_size,
        )

        tile = setup.edge("max_image_size")
        height, width = get_resize_output_image_size(_outline(picture), setup.edge())
        if width >= height:
            columns = math.ceil(width / tile)
            return math.ceil(int(columns * tile / (width / height)) / tile), columns
        rows = math.ceil(height / tile)
        return rows, math.ceil(int(rows * tile * (width / height)) / tile)


class Pixels(Rule):
    """A budget of pixels, a merged patch of them for each visual token (Qwen-VL)."""

    own = "as many pixels as the processor allows"
    unit = "visual tokens"

    def said(self, amount: int) -> str:
        return f"pixels for {amount} {self.unit}"

    def most(self, setup: Setup) -> int:
        return setup.edge() // self._token(setup) ** 2

    def nearest(self, highest: int, most: int) -> int:
        return min(highest, 2 * most)  # rounding to whole patches leaves out less than half

    def altered(self, setup: Setup, amount: int) -> Setup:
        pixels = amount * self._token(setup) ** 2
        least = min(setup.edge(name="shortest_edge"), pixels)
        return setup.sized(longest_edge=pixels, shortest_edge=least)

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        token = self._token(setup)
        height, width = smart_resize(
            picture.height,
            picture.width,
            token,
            setup.edge(name="shortest_edge"),
            setup.edge(),
        )
        tokens = (height // token) * (width // token)
        return Extent(tokens, tokens * setup["merge_size"] ** 2)

    @staticmethod
    def _token(setup: Setup) -> int:
        """Pixels along a side of what becomes one visual token."""
        return setup["patch_size"] * setup["merge_size"]


class LongestEdge(Rule):
    """A longest edge in pixels; smaller pictures stay as they are (Pixtral, Mistral3)."""

    own = "the processor's longest edge"
    unit = "visual tokens along the longest edge"

    def most(self, setup: Setup) -> int:
        return setup.edge() // self._token(setup)

    def lower(self, setup: Setup, most: int) -> Iterable[int]:
        return range(most - 1, 1, -1)  # Mistral3 fails on a single token

    def altered(self, setup: Setup, amount: int) -> Setup:
        return setup.sized(longest_edge=amount * self._token(setup))

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        from transformers.models.pixtral.image_processing_pil_pixtral import (
            get_resize_output_image_size,
        )

        token = self._token(setup)
        height, width = get_resize_output_image_size(
            _outline(picture), setup.edge(), token, ChannelDimension.FIRST
        )
        tokens = (height // token) * (width // token)
        return Extent(tokens, tokens * setup.processor.spatial_merge_size**2)

    @staticmethod
    def _token(setup: Setup) -> int:
        """Pixels along a side of what becomes one visual token."""
        return setup.processor.patch_size * setup.processor.spatial_merge_size


class Tiles(Rule):
    """At most so many tiles, and a thumbnail where there is more than one (InternVL, Aya)."""

    own = "as many tiles as the processor allows, and a thumbnail"
    unit = "tiles and a thumbnail"

    def said(self, amount: int) -> str:
        return "one tile" if amount == 1 else super().said(amount)

    def most(self, setup: Setup) -> int:
        return setup["max_patches"] if setup["crop_to_patches"] else 0

    def altered(self, setup: Setup, amount: int) -> Setup:
        return setup.changed(max_patches=amount, min_patches=min(setup["min_patches"], amount))

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        settings = {"crop_to_patches": setup["crop_to_patches"]}
        tiles = setup.image_processor.get_number_of_image_patches(
            picture.height, picture.width, settings
        )
        return Extent(tiles * self._of_a_tile(setup.processor), tiles * _patches(setup.config))

    @staticmethod
    def _of_a_tile(processor: Any) -> int:
        """Visual tokens of a tile."""
        count = getattr(processor, "image_seq_length", None)
        return count or (processor.img_size // processor.patch_size) ** 2


class Grids(Rule):
    """The whole picture, and the picture once more in a grid of at most so many tiles.

    The model chooses the grid by the picture's size, so that a picture is shrunk to the largest
    grid that it may have. Where a model sees several pictures without any tiles, 0 stands for
    seeing a single one so too (LLaVA-OneVision; LLaVA-NeXT always has a grid).
    """

    own = "the whole picture, and a grid of tiles that suits it"
    unit = "tiles beside the whole picture"

    def said(self, amount: int) -> str:
        return super().said(amount) if amount else "the whole picture alone"

    def most(self, setup: Setup) -> int:
        return max(self._grids(setup), default=0)

    def lower(self, setup: Setup, most: int) -> Iterable[int]:
        counts = {count for count in self._grids(setup) if count < most}
        if self._knows_whole(setup):
            counts.add(0)
        return sorted(counts, reverse=True)

    def altered(self, setup: Setup, amount: int) -> Setup:
        if amount:
            return setup
        changed = setup.changed()
        kind: Any = type(setup.image_processor)
        changed.image_processor.__class__ = _without_tiles(kind)
        return changed

    def shown(self, setup: Setup, amount: int, picture: Image.Image) -> Image.Image:
        size = self._shrunk(setup, amount, picture)
        if size == picture.size:
            return picture
        return picture.resize(size, Image.Resampling.LANCZOS)

    def extents(self, setup: Setup, amount: int | None, pictures: Sequence[Sized]) -> Extent:
        patches = _patches(setup.config)
        if amount == 0 or self._knows_whole(setup) and len(pictures) > 1:
            whole = Extent(patches + 1, patches)
            return sum([whole] * len(pictures), Extent(0, 0))
        if amount is not None:
            pictures = [self._shrunk(setup, amount, picture) for picture in pictures]
        return super().extents(setup, None, pictures)

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        size = Size(picture.width, picture.height)
        grid = best_grid(setup.config, size)
        patches = _patches(setup.config)
        tokens = patches + len(padded_rows(setup.config, size, grid))
        return Extent(tokens, (1 + self._count(setup, grid)) * patches)

    def _shrunk(self, setup: Setup, amount: int, picture: Sized) -> Size:
        """The picture's size where it fits into a grid of at most `amount` tiles."""
        from transformers.image_processing_utils import select_best_resolution

        own = Size(picture.width, picture.height)
        grids = [
            grid
            for count, listed in self._grids(setup).items()
            for grid in listed
            if count <= amount
        ]
        if not grids:
            return own
        height, width = select_best_resolution((own.height, own.width), grids)
        scale = min(width / own.width, height / own.height)
        if scale >= 1:
            return own
        shown = math.ceil(own.width * scale), math.ceil(own.height * scale)
        return Size(min(shown[0], width), min(shown[1], height))

    def _grids(self, setup: Setup) -> dict[int, list]:
        """The model's grids (height, width) by their number of tiles."""
        grids: dict[int, list] = {}
        for grid in setup.config.image_grid_pinpoints:
            grids.setdefault(self._count(setup, grid), []).append(grid)
        return grids

    @staticmethod
    def _count(setup: Setup, grid: Sequence[int]) -> int:
        side = setup.config.vision_config.image_size
        return (grid[0] // side) * (grid[1] // side)

    @staticmethod
    def _knows_whole(setup: Setup) -> bool:
        return "batch_num_images" in setup.image_processor.model_input_names


@functools.lru_cache
def _without_tiles(image_processor: Any) -> type:
    """A class of image processors that reads each picture as one of several."""

    class WithoutTiles(image_processor):
        def _preprocess(self, images, batch_num_images, *args, **kwargs):
            several = [max(count, 2) for count in batch_num_images]
            return super()._preprocess(images, several, *args, **kwargs)

    WithoutTiles.__name__ = WithoutTiles.__qualname__ = image_processor.__name__
    return WithoutTiles


class Crops(Rule):
    """The whole picture, and crops of one that is far from square (Gemma3's pan and scan)."""

    own = "the whole picture, and crops where pan and scan is on (else it has one size)"
    unit = "crops beside the whole picture"

    def said(self, amount: int) -> str:
        return super().said(amount) if amount else "the whole picture alone"

    def most(self, setup: Setup) -> int:
        return setup["pan_and_scan_max_num_crops"] if setup["do_pan_and_scan"] else 0

    def lower(self, setup: Setup, most: int) -> Iterable[int]:
        return [*range(most - 1, 1, -1), 0]  # it makes at least two

    def altered(self, setup: Setup, amount: int) -> Setup:
        if not amount:
            return setup.changed(do_pan_and_scan=False)
        return setup.changed(pan_and_scan_max_num_crops=amount)

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        views = 1 + (self._crops(setup, picture) if setup["do_pan_and_scan"] else 0)
        return Extent(views * setup.processor.image_seq_length, views * _patches(setup.config))

    @staticmethod
    def _crops(setup: Setup, picture: Sized) -> int:
        """How many crops there are, see `pan_and_scan`."""
        short, long = sorted((picture.width, picture.height))
        least = setup["pan_and_scan_min_crop_size"]
        if long / short < setup["pan_and_scan_min_ratio_to_activate"]:
            return 0
        count = max(2, min(long // least, math.floor(long / short + 0.5)))
        count = min(count, setup["pan_and_scan_max_num_crops"])
        return 0 if min(math.ceil(long / count), short) < least else count


class Budget(Rule):
    """One of the numbers of visual tokens that the model was trained with, at most (Gemma4)."""

    own = "the processor's number of visual tokens"
    unit = "visual tokens"

    def most(self, setup: Setup) -> int:
        return setup["max_soft_tokens"]

    def lower(self, setup: Setup, most: int) -> Iterable[int]:
        from transformers.models.gemma4.image_processing_pil_gemma4 import (
            _SUPPORTED_SOFT_TOKENS as trained,
        )

        return sorted((count for count in trained if count < most), reverse=True)

    def altered(self, setup: Setup, amount: int) -> Setup:
        return setup.changed(max_soft_tokens=amount)

    def extent(self, setup: Setup, picture: Sized) -> Extent:
        from transformers.models.gemma4.image_processing_pil_gemma4 import (
            get_aspect_ratio_preserving_size,
        )

        patch, kernel = setup["patch_size"], setup["pooling_kernel_size"]
        most = setup["max_soft_tokens"] * kernel**2
        height, width = get_aspect_ratio_preserving_size(
            picture.height, picture.width, patch, most, kernel
        )
        token = patch * kernel
        return Extent((height // token) * (width // token), most)  # padded to the budget


RULES: Mapping[str, Rule] = {
    "splitting": Splitting(),
    "pixels": Pixels(),
    "longest_edge": LongestEdge(),
    "tiles": Tiles(),
    "grids": Grids(),
    "crops": Crops(),
    "budget": Budget(),
}


def _outline(picture: Sized) -> np.ndarray:
    """An array without content that has the picture's (height, width) as its last axes."""
    return np.empty((0, picture.height, picture.width), np.uint8)


def _patches(config: Any) -> int:
    """Patches of one pass through the vision tower, along both sides."""
    vision = config.vision_config
    side, patch = (np.ravel(value)[0] for value in (vision.image_size, vision.patch_size))
    return int(side // patch) ** 2


# The sizes of one model


@dataclass(frozen=True)
class Choice:
    """The detail that keeps a pass short, and what it saves.

    detail: "full", "balanced" or "quick".
    seconds: of one pass by each detail, estimated; empty where nothing had to be chosen.
    """

    detail: str
    seconds: Mapping[str, float]

    @property
    def reason(self) -> str:
        """Why it is not full detail, in a sentence; "" where it is."""
        if self.detail == FULL:
            return ""
        full, chosen = (_about(self.seconds[name]) for name in (FULL, self.detail))
        return (
            f"At full detail one pass would take about {full} on this processor, at"
            f" {self.detail} detail about {chosen}."
        )


def _about(seconds: float) -> str:
    """A rough time in words, such as "40 s"."""
    if seconds < 1:
        return "a second"
    if seconds < 90:
        return f"{float(f'{seconds:.2g}'):.0f} s"
    return f"{seconds / 60:.0f} min"


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes in which a model can read pictures."""

    family: families.Family
    setup: Setup

    @property
    def rule(self) -> Rule | None:
        """None: one size."""
        return RULES.get(self.family.detail.rule)

    @functools.cached_property
    def levels(self) -> Mapping[str, Level]:
        """The level of each detail; "full" alone where there is one size."""
        levels = {FULL: Level(FULL)}
        rule, row = self.rule, self.family.detail
        most = rule.most(self.setup) if rule else 0
        lower = rule.lower(self.setup, most) if rule and most else ()
        least = min(lower, default=None)
        if least is None:
            return levels
        quick = _at_most(lower, min(row.quick, math.ceil(most / 4)), least)
        balanced = _at_most(lower, min(row.balanced, math.ceil(most / 2)), least)
        levels[BALANCED] = Level(QUICK if balanced == quick else BALANCED, balanced)
        levels[QUICK] = Level(QUICK, quick)
        return levels

    @property
    def one(self) -> bool:
        """Whether there is one size only."""
        return len(self.levels) == 1

    def extent(self, level: Level, pictures: Sequence[Sized]) -> Extent | None:
        """What pictures come to at a level; None where nobody counts them: there is one size."""
        if self.rule is None:
            return None
        return self.rule.extents(self.setup, level.amount, pictures)

    def extents(self, pictures: Sequence[Sized]) -> dict[str, Extent]:
        """What pictures come to by each detail; none where there is one size."""
        if self.one or not pictures:
            return {}
        counted = {name: self.extent(level, pictures) for name, level in self.levels.items()}
        return {name: extent for name, extent in counted.items() if extent is not None}

    def level(self, pictures: Sequence[Sized], detail: str, most: int | None = None) -> Level:
        """The level of a detail, or a lower one where that gives too many visual tokens.

        most: visual tokens at most.

        Raises InputError where no level gives so few.
        """
        level = self.levels.get(detail, self.levels[FULL])
        rule, extent = self.rule, self.extent(level, pictures)
        if rule is None or extent is None or most is None or extent.tokens <= most:
            return level
        fewest = extent.tokens
        highest = rule.most(self.setup) if level.amount is None else level.amount
        for amount in rule.lower(self.setup, rule.nearest(highest, most)):
            tokens = rule.extents(self.setup, amount, pictures).tokens
            if tokens <= most:
                named = (known for known in self.levels.values() if known.amount == amount)
                return next(named, Level(rule.said(amount), amount))
            fewest = min(fewest, tokens)
        raise too_many(fewest, most)

    def shortest(self, pictures: Sequence[Sized], seconds: Callable[[Extent], float]) -> Choice:
        """The highest detail at which one pass takes a few seconds, else the lowest one.

        seconds: of one pass, estimated.
        """
        took = {name: seconds(extent) for name, extent in self.extents(pictures).items()}
        fitting = (name for name, estimated in took.items() if estimated <= FEW_SECONDS)
        return Choice(next(fitting, QUICK if took else FULL), took)

    def prepared(
        self, level: Level, pictures: Sequence[Image.Image]
    ) -> tuple[Any, list[Image.Image]]:
        """The processor that reads at a level, a copy but for "full", and the pictures for it."""
        rule, amount = self.rule, level.amount
        if rule is None or amount is None:
            return self.setup.processor, list(pictures)
        shown = [rule.shown(self.setup, amount, picture) for picture in pictures]
        return rule.altered(self.setup, amount).processor, shown


def _at_most(amounts: Iterable[int], bound: int, least: int) -> int:
    """The first of the amounts, the highest first, that is no more than `bound`."""
    return next((amount for amount in amounts if amount <= bound), least)


def too_many(found: int, most: int) -> InputError:
    """The sentence for pictures that give more visual tokens than may be."""
    return InputError(
        f"Found a limit of {most} visual tokens; expected at least {found}, the fewest that this"
        " model reads of these pictures; raise the limit (--max-visual-tokens)."
    )
