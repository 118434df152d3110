"""Finds where each visual position looks by changing the picture, where no named rule says it.

Stripes of the picture are changed, upright ones and level ones, first broad and then narrow. What a
position moves under the stripes of a pattern, as a share of what it moves under them and under all
the rest, tells how much of its rectangle they cover. The interval whose cover fits the shares of
all patterns best is where it looks. Nothing is said of a position that fits none, nor of a picture
whose map other changes do not confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image

from svl_core.errors import SVLError
from svl_core.lvlm.geometry import found as found_rule
from svl_core.lvlm.geometry import grid_rects, nowhere
from svl_core.lvlm.sample import PatchGeometry, Sample

FOUND = found_rule.__name__
"""The name of places that are found so, in the row of a model's family."""
PASSES = 64
"""The most passes of the vision side for one size of picture."""
LEVELS = 6  # of patterns, each of stripes half as wide as those before
PHASES = (0.0, 0.25)  # by which a pattern is shifted, in periods
LEAST_STRIPE = 2  # pixels
EDGES = 64  # where a rectangle may begin and end at first, in parts of the picture's side
FINER = (4, 4)  # by which these are divided in each further step
STILL = 0.02  # of what an ordinary position moves: less is no answer
CONTRAST = 0.5  # how far shares must lie apart, of how far they could
BLURRED = 0.7  # and how far at most where a position sees all of a picture, some parts better
WHOLE = 0.2  # and how far they do at most where a position sees a whole side
LEAST_SHARE = 0.02  # counts as none
GRIDS = 3  # even ones along a side, at most
MARGINS = (-0.35, 1.0, 28)  # that are tried, in parts of the side: from, to, how many
SAMPLED = 64  # positions that an even grid is chosen by
FEWEST = 4  # positions that make a grid
LOOSER, SLACK = 2.0, 0.8  # a cell of a grid fits within so many times the best misfit, and so much
EVEN = 0.3  # the share of the positions that must fit a grid
NEARLY_ALL = 0.9  # and the one from which on the others are taken to lie on it too
BETTER = 0.7  # of the misfit of a grid without margins, what one with margins must stay below
MISFIT = 1.0  # the most that a fit may leave unexplained, as a mean square of log odds
FITTED = 0.6  # the share of the answering positions that must fit
OVERLAP = 0.5  # of a rectangle and the grid's cell that it is taken for
LARGEST = 4_000_000  # pixels of the picture that is tried; a larger one counts as not found
RESAMPLED = "resampled: every position sees the whole picture"
UNSTEADY = "the positions answer to no one rectangle each"
UNCONFIRMED = "rectangles were found, but other changes of the picture did not confirm them"
NONE_ANSWERS = "no position answers to changes of the picture"

Look = Callable[[PIL.Image.Image], np.ndarray]
"""What the vision side makes of a picture: (V, d) at the visual positions."""
Confirm = Callable[[tuple[int, int], np.ndarray], bool]
"""Whether (V, 4) rectangles for pictures of a size, (width, height), hold in other changes."""


@dataclass(frozen=True, eq=False)
class Map:
    """What was found for one size of picture.

    rects: (V, 4) as those of `PatchGeometry`.
    grid: (rows, columns) where they are one full grid, row by row.
    """

    rects: np.ndarray
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Pattern:
    """Stripes across one axis of a picture.

    axis: 0 for upright ones, which share the width out; 1 for level ones.
    changed: for each pixel along the axis, whether it is changed.
    """

    axis: int
    changed: np.ndarray

    @property
    def rest(self) -> Pattern:
        """The stripes between them."""
        return Pattern(self.axis, ~self.changed)

    def cover(
        self,
        starts: np.ndarray,
        ends: np.ndarray,
    ) -> np.ndarray:
        """The shares of intervals, given in parts of the axis, that the stripes cover."""
        total = np.concatenate([[0.0], np.cumsum(self.changed)])
        edges = np.linspace(0.0, 1.0, len(total))
        covered = np.interp(
            ends,
            edges,
            total,
        ) - np.interp(starts, edges, total)
        return covered / ((ends - starts) * len(self.changed))

    def on(
        self,
        picture: PIL.Image.Image,
    ) -> PIL.Image.Image:
        """The picture with each colour in the stripes at the far end of its range."""
        pixels = np.array(picture)
        stripes = pixels[:, self.changed] if self.axis == 0 else pixels[self.changed]
        inverse = 255 * (stripes < 128)
        if self.axis == 0:
            pixels[:, self.changed] = inverse
        else:
            pixels[self.changed] = inverse
        return PIL.Image.fromarray(pixels)


def patterns(length: int, axis: int) -> list[Pattern]:
    """The patterns for one side of a picture, the broad ones first.

    length: of the side, in pixels.
    """
    made = []
    at = (np.arange(length) + 0.5) / length
    for level in range(LEVELS):
        if length / 2 ** (level + 1) < LEAST_STRIPE:
            break
        for phase in PHASES:
            periods = at * 2**level + phase
            made.append(Pattern(axis, periods % 1 < 0.5))
    return made


def find(
    look: Look,
    picture: PIL.Image.Image,
) -> np.ndarray:
    """(V, 4) rectangles of the visual positions, NaN for those that do not answer.

    look: called once for the picture, and twice for each pattern of either side.
    picture: of noise, so that every pixel tells.

    Raises SVLError saying why there are none.
    """
    if picture.width * picture.height > LARGEST:
        raise SVLError(f"the picture has more than {LARGEST} pixels")
    before = look(picture)
    sides = []
    moved = np.zeros(len(before))
    for axis, length in enumerate(picture.size):
        used = patterns(length, axis)
        if not used:
            raise SVLError(f"a side of {length} pixels is too short for stripes")
        energy = np.stack(
            [
                _energies(
                    look,
                    picture,
                    before,
                    pattern,
                )
                for pattern in used
            ]
        )
        moved += energy.sum(axis=(0, 2))
        sides.append(_side(used, energy))
    across, down = sides
    return _rectangles(across, down, moved)


def _energies(
    look: Look,
    picture: PIL.Image.Image,
    before: np.ndarray,
    pattern: Pattern,
) -> np.ndarray:
    """(V, 2): the squares of what each position moves by the stripes, and by the rest."""
    moved = []
    for stripes in (pattern, pattern.rest):
        after = look(stripes.on(picture))
        if after.shape != before.shape:
            raise SVLError("the number of visual positions changes with the picture's content")
        moved.append(((after - before) ** 2).sum(axis=1))
    return np.stack(moved, axis=1)


@dataclass(frozen=True, eq=False)
class _Side:
    """What fits the positions best along one side of the picture; (V,) each.

    starts, ends: of the intervals, in parts of the side.
    contrast: how far the shares lie apart, of how far they would if nothing mixed.
    misfit: how far they are from those of the interval, as a mean square of log odds.
    wanted: (V, patterns) the log odds themselves, as they would be if nothing mixed.
    """

    starts: np.ndarray
    ends: np.ndarray
    contrast: np.ndarray
    misfit: np.ndarray
    wanted: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """(V,) whether a position sees all of the side."""
        return self.contrast < WHOLE

    @property
    def known(self) -> np.ndarray:
        """(V,) whether the interval is known."""
        return self.whole | (self.contrast >= CONTRAST) & (self.misfit <= MISFIT)


def _side(used: Sequence[Pattern], energy: np.ndarray) -> _Side:
    """The best interval of each position. energy: (patterns, V, 2), see `_energies`.

    Each is fitted by itself first. Where cells of one even grid fit as well, it looks at one of
    these: that is found from all positions together, so that the noise of each evens out. There
    may be a second grid and a third, of tiles and of an overview.
    """
    total = np.maximum(
        energy.sum(axis=2, keepdims=True),
        1e-12,
    )
    side = _fitted(
        used,
        (energy / total)[..., 0].T,
    )
    starts = side.starts.copy()
    ends = side.ends.copy()
    left = np.flatnonzero(side.known & ~side.whole)
    for _ in range(GRIDS):
        if len(left) < FEWEST:
            break
        edges = _even_edges(used, side.wanted[left])
        cells = np.stack(
            [edges[:-1], edges[1:]],
            axis=1,
        )
        nearest, misfit = _nearest(
            used,
            side.wanted[left],
            cells,
        )
        fits = misfit <= LOOSER * side.misfit[left] + SLACK
        if fits.mean() < EVEN:
            break
        fits |= fits.mean() > NEARLY_ALL
        starts[left[fits]] = cells[nearest[fits], 0]
        ends[left[fits]] = cells[nearest[fits], 1]
        left = left[~fits]
    return replace(side, starts=starts, ends=ends)


def _even_edges(
    used: Sequence[Pattern],
    wanted: np.ndarray,
) -> np.ndarray:
    """(n + 1,) the edges of the even grid whose cells fit most positions best, cut to the picture.

    One whose margins lie outside the picture (padding) or within it (a crop) is taken where it fits
    clearly better than all grids of the whole picture.

    wanted: (V, patterns) log odds.
    """
    sample = wanted[
        np.unique(
            np.linspace(
                0,
                len(wanted) - 1,
                SAMPLED,
            ).astype(int)
        )
    ]
    plain = [(number, 0.0) for number in range(1, EDGES + 1)]
    margins = [margin for margin in np.linspace(*MARGINS) if abs(margin) > 0.01]
    boxed = [
        (number, margin)
        for number in range(
            2,
            EDGES // 2,
        )
        for margin in margins
    ]
    best, misfit = _best_grid(used, sample, plain)
    in_a_box, boxed_misfit = _best_grid(used, sample, boxed)
    if boxed_misfit < BETTER * misfit:
        number, margin = in_a_box
        near = margin + np.linspace(-0.05, 0.05, 21)
        best, _ = _best_grid(
            used,
            sample,
            [(number, each) for each in near],
        )
    return _edges(*best)


def _edges(number: int, margin: float) -> np.ndarray:
    """The edges of so many even cells of a side with a margin at both ends, cut to the picture."""
    edges = np.linspace(
        -margin,
        1 + margin,
        number + 1,
    )
    return np.unique(np.clip(edges, 0.0, 1.0))


def _best_grid(
    used: Sequence[Pattern],
    wanted: np.ndarray,
    grids: Sequence[tuple[int, float]],
) -> tuple[tuple[int, float], float]:
    """Of (cells, margin) grids the one whose nearest cells fit all positions best, and its mean
    misfit.
    """
    misfits = []
    for grid in grids:
        edges = _edges(*grid)
        cells = np.stack(
            [edges[:-1], edges[1:]],
            axis=1,
        )
        _, misfit = _nearest(used, wanted, cells)
        misfits.append(
            np.minimum(
                misfit,
                MISFIT,
            ).mean()
        )
    best = int(np.argmin(misfits))
    return grids[best], float(misfits[best])


def _nearest(
    used: Sequence[Pattern],
    wanted: np.ndarray,
    cells: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(V,) the cell that fits each position best, and its misfit. cells: (n, 2) intervals."""
    given = _log_odds(
        np.stack(
            [pattern.cover(*cells.T) for pattern in used],
            axis=1,
        )
    )
    # |w - g|^2 = |w|^2 + |g|^2 - 2 w g
    of_wanted = (wanted**2).sum(axis=1)[:, None]
    of_given = (given**2).sum(axis=1)
    apart = of_wanted + of_given - 2 * wanted @ given.T
    nearest = apart.argmin(axis=1)
    return nearest, apart.min(axis=1) / len(used)


def _fitted(used: Sequence[Pattern], shares: np.ndarray) -> _Side:
    """The best interval of each position by itself. shares: (V, patterns)."""
    seen = shares - 0.5
    contrast = 2 * np.abs(seen).max(axis=1)
    unmixed = (
        0.5
        + seen
        / np.maximum(
            contrast,
            WHOLE,
        )[:, None]
    )
    wanted = _log_odds(unmixed)
    edges = np.linspace(0.0, 1.0, EDGES + 1)
    first, last = np.triu_indices(
        EDGES + 1,
        k=1,
    )
    starts, ends, misfit = _best(
        used,
        wanted,
        edges[first][None],
        edges[last][None],
    )
    step = 1 / EDGES
    for finer in FINER:
        step /= finer
        moves = step * np.arange(
            -finer,
            finer + 1,
        )
        shift, other = (
            grid.ravel()
            for grid in np.meshgrid(
                moves,
                moves,
            )
        )
        near_starts = np.clip(
            starts[:, None] + shift,
            0.0,
            1.0 - step,
        )
        near_ends = np.clip(ends[:, None] + other, 0.0, 1.0)
        near_ends = np.maximum(near_ends, near_starts + step)
        starts, ends, misfit = _best(
            used,
            wanted,
            near_starts,
            near_ends,
        )
    whole = contrast < WHOLE
    return _Side(
        np.where(whole, 0.0, starts),
        np.where(whole, 1.0, ends),
        contrast,
        misfit,
        wanted,
    )


def _log_odds(shares: np.ndarray) -> np.ndarray:
    """Logarithms of odds: noise in what a position moves is alike at every share in them, and none
    or all is told sharply from a little less.
    """
    within = np.clip(shares, LEAST_SHARE, 1 - LEAST_SHARE)
    return np.log(within / (1 - within))


def _best(
    used: Sequence[Pattern],
    wanted: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of intervals the one whose cover is nearest to each position's: start, end, and the mean
    square of what remains; (V,) each.

    wanted: (V, patterns) log odds.
    starts, ends: (V, n), or (1, n) for all alike.
    """
    misfit = np.zeros((len(wanted), starts.shape[1]))
    for number, pattern in enumerate(used):
        given = _log_odds(pattern.cover(starts, ends))
        misfit += (wanted[:, number, None] - given) ** 2
    best = misfit.argmin(axis=1)
    rows = np.arange(len(wanted))
    own = rows if len(starts) > 1 else np.zeros_like(rows)
    return starts[own, best], ends[own, best], misfit[rows, best] / len(used)


def _rectangles(
    across: _Side,
    down: _Side,
    moved: np.ndarray,
) -> np.ndarray:
    """(V, 4) the rectangles of both sides' intervals. Raises SVLError where too few fit.

    moved: (V,) how much each position moved in all.
    """
    if not moved.any():
        raise SVLError(NONE_ANSWERS)
    ordinary = np.median(moved[moved > 0])
    answering = moved > STILL * ordinary
    everything = across.whole & down.whole
    known = across.known & down.known
    fits = answering & known & ~everything
    if fits.sum() < FITTED * answering.sum():
        contrast = np.maximum(
            across.contrast,
            down.contrast,
        )[answering]
        raise SVLError(RESAMPLED if np.median(contrast) < BLURRED else UNSTEADY)
    rects = np.stack(
        [across.starts, down.starts, across.ends, down.ends],
        axis=1,
    )
    return np.where(fits[:, None], rects, np.nan)


def snapped(rects: np.ndarray) -> Map:
    """Rectangles moved onto the cells of an even grid of the whole picture, in whatever order,
    where each lies on a cell of its own and all cells are taken; else as they are.
    """
    placed = np.flatnonzero(~np.isnan(rects[:, 0]))
    wide, high = np.median(
        rects[placed, 2:] - rects[placed, :2],
        axis=0,
    )
    columns = max(round(1 / wide), 1)
    rows = max(round(1 / high), 1)
    if rows * columns != len(placed):
        return Map(rects)
    cells = grid_rects(rows, columns)
    centres = (rects[placed, :2] + rects[placed, 2:]) / 2
    column = np.clip(
        (centres[:, 0] * columns).astype(int),
        0,
        columns - 1,
    )
    row = np.clip(
        (centres[:, 1] * rows).astype(int),
        0,
        rows - 1,
    )
    cell = row * columns + column
    overlaps = _shared(rects[placed], cells[cell])
    shared_out = len(np.unique(cell)) == len(cell)
    if not shared_out or overlaps.min() < OVERLAP:
        return Map(rects)
    even = nowhere(len(rects))
    even[placed] = cells[cell]
    all_placed = len(placed) == len(rects)
    in_order = all_placed and bool((np.diff(cell) == 1).all())
    return Map(even, (rows, columns) if in_order else None)


def _shared(
    one: np.ndarray,
    other: np.ndarray,
) -> np.ndarray:
    """(n,) the areas that rectangles have in common, of those that they have together."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    common = np.clip(
        high - low,
        0,
        None,
    ).prod(axis=1)
    both = _areas(one) + _areas(other)
    return common / (both - common)


def _areas(rects: np.ndarray) -> np.ndarray:
    """(n,) areas of rectangles."""
    sides = rects[:, 2:] - rects[:, :2]
    return sides.prod(axis=1)


class Finder:
    """Gives samples the places that are found for pictures of their sizes, each size once.

    A picture of a size for which none is found has visual positions without a place. Of several
    pictures in one sample each has the places that it has alone, where their numbers add up.
    """

    def __init__(
        self,
        look: Look,
        noise: Callable[[int, int], PIL.Image.Image],
        confirm: Confirm,
    ) -> None:
        self._look = look
        self._noise = noise
        self._confirm = confirm
        self._found: dict[tuple[int, int], Map | str] = {}

    def map_of(
        self,
        size: tuple[int, int],
    ) -> Map | str:
        """The map for pictures of a size, (width, height) in pixels, or why there is none."""
        if size not in self._found:
            self._found[size] = self._search(size)
        return self._found[size]

    def _search(
        self,
        size: tuple[int, int],
    ) -> Map | str:
        try:
            found = snapped(
                find(
                    self._look,
                    self._noise(*size),
                )
            )
        except SVLError as error:
            return str(error)
        return found if self._confirm(size, found.rects) else UNCONFIRMED

    def placed(self, sample: Sample) -> Sample:
        """The sample with the places of its visual positions."""
        maps = list(self._maps(sample))
        lengths = [len(each.rects) for each in maps]
        if not maps or sum(lengths) != len(sample.visual):
            return sample
        rects = np.concatenate([each.rects for each in maps])
        numbers = np.arange(len(maps))
        index = np.repeat(numbers, lengths)
        grid = maps[0].grid if len(maps) == 1 else None
        return replace(
            sample,
            geometry=PatchGeometry(rects, index, grid),
        )

    def _maps(self, sample: Sample) -> Iterator[Map]:
        """The maps of its pictures, as far as they are known."""
        for size in sample.image_sizes:
            found = self.map_of(size)
            if isinstance(found, Map):
                yield found
