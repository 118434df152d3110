"""What the page ranks layers on and fits compensation on: this image, the bundled set, or the
visitor's own files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradio_client.utils import strip_invalid_filename_characters

import svl_core as svl
from svl_core.comparison.calibration import DEFAULT_PROMPT, IMAGE_SUFFIXES
from svl_core.comparison.jsonl import has_text, read_rows
from svl_core.errors import InputError
from svl_core.ui.state.settings import Settings

THIS, BUNDLED, OWN, AUTO = "this", "bundled", "own", "auto"
SOURCES = (("Automatic", AUTO), ("This image", THIS), ("Bundled set", BUNDLED), ("Your files", OWN))
SEED = 7  # of the bundled set
MOST_SCENES = 256  # of the bundled set on the page
MOST_BYTES = 2**30  # of one set, as the model reads it and as its trace

Pairs = tuple[tuple[str, str], ...]  # image path and prompt


@dataclass(frozen=True)
class Basis:
    """Where the ranking comes from and what compensation is fitted on: each `THIS`, `BUNDLED` or
    `OWN`.
    """

    rank: str
    fit: str


def basis(name: str, world: Collection[str], now: Settings) -> Basis:
    """What the settings mean for a model.

    `AUTO`, and a choice that it cannot have: this image ranks, and the bundled set is fitted on by
    the models that know its world.
    """
    usable = {THIS: True, BUNDLED: name in world, OWN: bool(now.own)}
    if usable.get(now.calibration):
        return Basis(now.calibration, now.calibration)
    return Basis(THIS, BUNDLED if name in world else THIS)


def choices(name: str, world: Collection[str]) -> list[tuple[str, str]]:
    """The sources that a model can have."""
    return [(title, value) for title, value in SOURCES if value != BUNDLED or name in world]


def words(which: str, count: int) -> str:
    """What a source is called in a sentence."""
    return {
        THIS: "this very image and prompt",
        BUNDLED: f"the bundled set ({count} scenes)",
        OWN: f"your set ({count} samples)",
    }[which]


def told(used: Basis, counts: Callable[[str], int], compensation: str, ranked: bool = True) -> str:
    """In plain words what ranks, what is fitted on, and whether that is also what is measured.
    ranked: whether the plan follows the ranking.
    """
    rank = (
        f"Layers are ranked on {words(used.rank, counts(used.rank))}"
        if ranked
        else "The layers to drop are your own choice"
    )
    if compensation == "none":
        return (
            f"{rank}; nothing is fitted. The answers and their distance are measured on this image."
        )
    fit = (
        "on the same"
        if ranked and used.fit == used.rank
        else f"on {words(used.fit, counts(used.fit))}"
    )
    if used.fit == THIS:
        return (
            f"{rank}, and compensation is fitted {fit}: fit and measurement share the sample, so"
            " the answers and their distance below may flatter the pruned model."
        )
    return (
        f"{rank}, compensation is fitted {fit}. The answers and their distance are measured on this"
        " image, which is not among the samples of the fit."
    )


def digest(pairs: Sequence[tuple[str, str]]) -> str:
    return (
        hashlib.sha256(
            "\n".join(f"{path}\t{prompt}" for path, prompt in pairs).encode()
        ).hexdigest()[:24]
        if pairs
        else ""
    )


def read_files(paths: Sequence[str], prompt: str = "") -> Pairs:
    """Uploaded images, each asked `prompt`, or with one JSON Lines file of {"image": file name,
    "prompt": text} its lines. Raises InputError.
    """
    lists = [path for path in paths if Path(path).suffix.lower() in (".jsonl", ".ndjson")]
    images = {
        Path(path).name: path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES
    }
    strange = [
        Path(path).name
        for path in paths
        if path not in lists and path not in images.values() and Path(path).name not in images
    ]
    if strange:
        raise InputError(
            f"Found the file {strange[0][:80]!r}; expected images ({', '.join(IMAGE_SUFFIXES)}) and"
            " at most one .jsonl; leave it out."
        )
    if len(lists) > 1:
        raise InputError(
            f"Found {len(lists)} lists; expected at most one .jsonl of image and prompt; choose"
            " one."
        )
    if lists and not images:
        raise InputError(
            f"Found the list {Path(lists[0]).name[:80]!r} alone; expected the images that it names"
            " beside it; choose them together with it."
        )
    if not images:
        raise InputError("Found no images among the files; expected at least one; add some.")
    asked = prompt.strip() or DEFAULT_PROMPT
    if not lists:
        return tuple((path, asked) for path in images.values())
    pairs = []
    for where, row in read_rows(lists[0], ("image",)):
        name = strip_invalid_filename_characters(Path(row["image"]).name)
        if name not in images:
            raise InputError(
                f"Found the image {row['image'][:80]!r} in {where}; expected the name of an"
                " uploaded image; upload it too or mend the line."
            )
        pairs.append(
            (
                images[name],
                next((row[key] for key in ("prompt", "question") if has_text(row, key)), asked),
            )
        )
    if not pairs:
        raise InputError(
            f'Found an empty list {Path(lists[0]).name}; expected a line {{"image": name, "prompt":'
            " text} for each sample; add some."
        )
    return tuple(pairs)


def check_size(
    samples: Sequence[svl.Sample], layers: int, hidden: int, bytes_each: int, mlp: bool
) -> None:
    """Raises InputError for a set whose trace would fill the memory: features of every layer at
    every position.
    """
    positions = sum(sample.length for sample in samples)
    needed = positions * hidden * bytes_each * (layers + 1 + (layers if mlp else 0)) + sum(
        value.numel() * value.element_size()
        for sample in samples
        for value in sample.inputs.values()
    )
    if needed > MOST_BYTES:
        raise InputError(
            f"Found {len(samples)} samples that need {needed / 2**30:.1f} GB in memory; expected at"
            f" most {MOST_BYTES / 2**30:.0f} GB; use about"
            f" {max(1, int(len(samples) * MOST_BYTES / needed))} of them, or smaller images."
        )
