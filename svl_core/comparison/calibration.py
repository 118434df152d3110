"""Calibration sets: images and prompts on which layers are ranked and compensations fitted, never
those that are measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.comparison.jsonl import file_named, read_entries
from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.lvlm.chat import Chat
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import select_values, value_store
from svl_core.progress import QUIET, Run

if TYPE_CHECKING:
    from svl_core.lvlm.features import KnownFeatures
    from svl_core.lvlm.model import LVLM

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif"),
    *(".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".tga", ".ico"),
)
"""Of the formats that `open_image` reads."""

DEFAULT_PROMPT = "Describe the image."

Pair = tuple[Any, str | Chat]
"""An image (or its path, several of them, or None) and a prompt."""


def read_calibration(
    source: str | Path,
    *,
    prompt: str = DEFAULT_PROMPT,
    limit: int | None = None,
    seed: int | None = None,
) -> list[Pair]:
    """(image path, prompt) pairs of a folder of images or of a JSON Lines file.

    source: a folder, whose images are taken by name; the prompt of `cat.png` stands in `cat.txt`
        beside it. Or a list (see `jsonl`): a JSON Lines file with `{"image": path, "prompt": text}`
        a line, or one of the shapes that data sets have; an image that is null means a question
        without one.
    prompt: asked where the source has no prompt for an image.
    limit: the number of pairs at most, see `draw`.
    seed: of a random draw; None: the first pairs.

    Raises InputError for a missing or empty source, naming the line.
    """
    source = expanded(source)
    pairs: list[Pair] = []
    if source.is_dir():
        expected = f"images ({', '.join(IMAGE_SUFFIXES)})"
        for path in sorted(source.iterdir()):
            hidden = path.name.startswith(".")  # such as the "._cat.png" that macOS puts beside
            if path.suffix.lower() in IMAGE_SUFFIXES and not hidden:
                pairs.append((path, _prompt_beside(path, prompt)))
    else:
        expected = 'lines of {"image": path, "prompt": text}'
        for entry in read_entries(source):
            pairs.append((entry.image, entry.prompt or prompt))
    if not pairs:
        raise InputError(
            f"Found nothing in {source}; expected {expected}; add some or give another source."
        )
    return draw(pairs, limit, seed)


def _prompt_beside(image: Path, default: str) -> str:
    """The prompt in the text file beside an image; the default where there is none."""
    file = image.with_suffix(".txt")
    if not file.is_file():
        return default
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # takes any byte
    return text.strip() or default


def draw(
    pairs: Sequence,
    limit: int | None,
    seed: int | None = None,
) -> list:
    """Some of the pairs, in their order.

    limit: how many, at least 1; all of them for None, and where there are fewer.
    seed: of a random draw; None: the first ones.

    Raises InputError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"Found a calibration size of {limit}; expected at least 1; raise it.")
    if limit is None or limit >= len(pairs):
        return list(pairs)
    if seed is None:
        return list(pairs[:limit])
    drawn = np.random.default_rng(seed).permutation(len(pairs))[:limit]
    return [pairs[number] for number in sorted(drawn)]


def encode_all(
    lvlm: LVLM,
    pairs: Iterable[Pair],
    *,
    known: KnownFeatures | None = None,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> Sequence[Sample]:
    """Samples of (image, prompt) pairs, in order, each image seen once (see `lvlm/vision.py`).

    known: features of images that have been seen before; those of these images are added.
    spool: a folder in a file of which the samples lie instead of in memory, without their images.

    Raises InputError for a bad image or prompt and where the folder has no room; Cancelled.
    """
    from svl_core.lvlm.features import FeatureStore
    from svl_core.lvlm.vision import see

    pairs = list(pairs)
    samples = value_store(len(pairs), spool)
    known = FeatureStore() if known is None else known
    for number, (image, prompt) in enumerate(pairs):
        run.check("Stopped before the calibration set was read.")
        what = f"reading calibration sample {number + 1} of {len(pairs)}"
        run.report(number / len(pairs), what)
        try:
            sample = see(lvlm, lvlm.encode(image, prompt), known)
        except InputError as error:
            raise file_named(image, error) from error
        if spool is not None:
            sample = dataclasses.replace(sample, images=())
        samples[number] = sample
    return samples


def with_answers(
    lvlm: LVLM,
    samples: Sequence[Sample],
    run: Run = QUIET,
) -> list[Sample]:
    """The samples with the model's own greedy answers behind the prompts, as more textual tokens:
    least squares that sees where the answer is written.

    lvlm: the full model.

    The last token of an answer is left out, for nothing is predicted behind it. Raises InputError
    for inputs that an answer cannot lengthen, Cancelled.
    """
    from svl_core.analysis.skipping import own_answers
    from svl_core.lvlm.lengthening import lengthened

    answers = own_answers(
        lvlm,
        len(samples),
        samples.__getitem__,
        run,
    )
    longer = []
    for sample, ids in zip(samples, answers, strict=True):
        words = [lvlm.tokenizer.decode([token]) for token in ids[:-1]]
        positions = sample.length + np.arange(len(words))
        longer.append(
            dataclasses.replace(
                sample,
                inputs=lengthened(sample, ids),
                textual=np.concatenate([sample.textual, positions]),
                tokens=(*sample.tokens, *words),
                key=f"{sample.key}+answer",
            )
        )
    return longer


def disjoint(fit: Sequence[Sample], measured: Sequence[Sample]) -> Sequence[Sample]:
    """The `fit` samples that are not measured: what is fitted and what is measured never share a
    sample.

    Raises InputError when nothing is left to fit on.
    """
    measured_keys = {sample.key for sample in measured}
    numbers = [number for number, sample in enumerate(fit) if sample.key not in measured_keys]
    if not numbers:
        raise InputError(
            f"Found all {len(fit)} calibration samples among those measured; expected others; give"
            " another calibration set."
        )
    return select_values(fit, numbers)


def split(
    samples: Sequence[Sample],
    fit: float = 0.5,
    seed: int = 0,
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Shares distinct samples out at random into (fit, measured), at least one in each.

    fit: the share of the samples to fit on, above 0 and below 1.
    seed: of the random order.

    Raises InputError for fewer than two distinct samples.
    """
    number_of = {sample.key: number for number, sample in enumerate(samples)}
    distinct = list(number_of.values())
    if len(distinct) < 2:
        raise InputError(
            f"Found {len(distinct)} distinct sample(s); expected at least two, one to fit on and"
            " one to measure; add samples."
        )
    if not 0 < fit < 1:
        raise InputError(
            f"Found a share of {fit} to fit on; expected one between 0 and 1; change it."
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    count = min(max(round(fit * len(distinct)), 1), len(distinct) - 1)
    parts = (sorted(order[:count]), sorted(order[count:]))
    to_fit, to_measure = ([distinct[place] for place in part] for part in parts)
    return select_values(samples, to_fit), select_values(samples, to_measure)
