"""Calibration sets: images and prompts on which layers are ranked and compensations fitted, kept
apart from what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svl_core.comparison.jsonl import has_text, image_path, read_rows
from svl_core.errors import InputError
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import select_values, value_store
from svl_core.progress import QUIET, Run

if TYPE_CHECKING:
    from svl_core.lvlm.model import LVLM

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
DEFAULT_PROMPT = "Describe the image."

Pair = tuple[object, str]  # an image (or its path, or None) and a prompt


def read_calibration(
    source: str | Path,
    *,
    prompt: str = DEFAULT_PROMPT,
    limit: int | None = None,
    seed: int | None = None,
) -> list[Pair]:
    """(image path, prompt) pairs of a folder of images or of a JSON Lines file.

    Folder: every image in it by name; `cat.txt` beside `cat.png` holds that image's prompt,
    otherwise `prompt` is asked. JSON Lines: `{"image": path, "prompt": text}` a line (`"question"`
    will do; neither: `prompt`; image null: a question without one). `limit` keeps the first pairs,
    or with `seed` a random draw. Raises InputError for a missing or empty source, naming the line.
    """
    source = Path(source)
    if source.is_dir():
        pairs = [
            (path, _prompt_beside(path, prompt))
            for path in sorted(source.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        expected = f"images ({', '.join(IMAGE_SUFFIXES)})"
    else:
        rows = read_rows(source, ())
        pairs = [(image_path(row, source, where), _prompt_of(row, prompt)) for where, row in rows]
        expected = 'lines of {"image": path, "prompt": text}'
    if not pairs:
        raise InputError(
            f"Found nothing in {source}; expected {expected}; add some or give another source."
        )
    return draw(pairs, limit, seed)


def _prompt_beside(image: Path, default: str) -> str:
    text = image.with_suffix(".txt")
    return (text.read_text(encoding="utf-8").strip() or default) if text.is_file() else default


def _prompt_of(row: dict, default: str) -> str:
    return next((row[key] for key in ("prompt", "question") if has_text(row, key)), default)


def draw(pairs: Sequence, limit: int | None, seed: int | None = None) -> list:
    """The first `limit` pairs, or `limit` drawn at random with `seed` (in their order); all of them
    if there are fewer.
    """
    if limit is not None and limit < 1:
        raise InputError(f"Found a calibration size of {limit}; expected at least 1; raise it.")
    if limit is None or limit >= len(pairs):
        return list(pairs)
    if seed is None:
        return list(pairs[:limit])
    return [pairs[i] for i in sorted(np.random.default_rng(seed).permutation(len(pairs))[:limit])]


def encode_all(
    lvlm: LVLM,
    pairs: Iterable[Pair],
    *,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> Sequence[Sample]:
    """Samples of (image, prompt) pairs, in order. spool: a folder in a file of which they lie
    instead of in memory, without their images.

    Raises InputError for a bad image or prompt and where the folder has no room, Cancelled.
    """
    pairs = list(pairs)
    samples = value_store(len(pairs), spool)
    for i, (image, prompt) in enumerate(pairs):
        run.check("Stopped before the calibration set was read.")
        run.report(i / len(pairs), f"reading calibration sample {i + 1} of {len(pairs)}")
        sample = lvlm.encode(image, prompt)
        samples[i] = sample if spool is None else dataclasses.replace(sample, images=())
    return samples


def disjoint(fit: Sequence[Sample], measured: Sequence[Sample]) -> Sequence[Sample]:
    """The `fit` samples that are not measured: what is fitted and what is measured never share a
    sample.

    Raises InputError when nothing is left to fit on.
    """
    keys = {sample.key for sample in measured}
    left = select_values(fit, [i for i, sample in enumerate(fit) if sample.key not in keys])
    if not left:
        raise InputError(
            f"Found all {len(fit)} calibration samples among those measured; expected others; give"
            " another calibration set."
        )
    return left


def split(
    samples: Sequence[Sample], fit: float = 0.5, seed: int = 0
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Shares distinct samples out at random into (fit, measured), at least one in each.

    Raises InputError for fewer than two.
    """
    distinct = list({sample.key: i for i, sample in enumerate(samples)}.values())
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
    n = min(max(round(fit * len(distinct)), 1), len(distinct) - 1)
    return select_values(samples, [distinct[i] for i in sorted(order[:n])]), select_values(
        samples, [distinct[i] for i in sorted(order[n:])]
    )
