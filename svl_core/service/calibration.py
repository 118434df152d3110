"""What the page ranks layers on and fits compensation on: this image, the bundled set, or the
visitor's own files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import svl_core as svl
from svl_core.comparison.calibration import DEFAULT_PROMPT, IMAGE_SUFFIXES, Pair
from svl_core.comparison.jsonl import read_entries
from svl_core.demo.questions import SCENES_FIRST
from svl_core.errors import InputError
from svl_core.recipe import AUTO, DEMO, OWN, THIS
from svl_core.service.settings import VisitorSettings

SOURCES = (("Automatic", AUTO), ("This image", THIS), ("Bundled set", DEMO), ("Your files", OWN))
SEED = 7  # of the bundled set
MOST_SCENES = 256  # of the bundled set on the page
MOST_BYTES = 2**30  # of one set, as the model reads it and as its trace
LIST_SUFFIXES = (".jsonl", ".ndjson", ".json")

Pairs = tuple[Pair, ...]  # image path and prompt


@dataclass(frozen=True)
class CalibrationSources:
    """Where the ranking comes from and what compensation is fitted on.

    rank, fit: `THIS`, `DEMO` or `OWN`.
    """

    rank: str
    fit: str


def sources_for(
    name: str, scene_models: Collection[str], settings: VisitorSettings
) -> CalibrationSources:
    """What the settings mean for a model.

    `AUTO`, and a choice that it cannot have: this image ranks, and the bundled set is fitted on by
    the models that know its scenes.

    name: the model's.
    scene_models: names of the models that know the bundled scenes.
    """
    knows_scenes = name in scene_models
    usable = {THIS: True, DEMO: knows_scenes, OWN: bool(settings.own)}
    if usable.get(settings.calibration):
        return CalibrationSources(settings.calibration, settings.calibration)
    return CalibrationSources(THIS, DEMO if knows_scenes else THIS)


def choices(name: str, scene_models: Collection[str]) -> list[tuple[str, str]]:
    """(title, name) of the sources that a model can have."""
    return [(title, source) for title, source in SOURCES if source != DEMO or name in scene_models]


def words(source: str, count: int) -> str:
    """What a source of `count` samples is called in a sentence."""
    bundled = "scenes" if count <= SCENES_FIRST else "scenes and shapes"
    return {
        THIS: "this very image and prompt",
        DEMO: f"the bundled set ({count} {bundled})",
        OWN: f"your set ({count} samples)",
    }[source]


OF_THE_FIT = {
    None: "",
    False: ", which is not among the samples of the fit",
    True: ", which is among the samples of the fit, so they may flatter the pruned model",
}
"""What is said of the measured picture, see `describe_sources`."""


def describe_sources(
    sources: CalibrationSources,
    counts: Callable[[str], int],
    compensation: str,
    ranked: bool = True,
    shared: bool | None = None,
) -> str:
    """In plain words what ranks, what is fitted on, and whether that is also what is measured.

    counts: how many samples a source has.
    compensation: its name, "none" where nothing is fitted.
    ranked: whether the plan follows the ranking.
    shared: whether the picture that is measured is among the samples of the fit, None where these
        were not read yet.
    """
    ranking = "The layers to drop are your own choice"
    if ranked:
        ranking = f"Layers are ranked on {words(sources.rank, counts(sources.rank))}"
    if not svl.COMPENSATIONS[compensation].fitted:
        return (
            f"{ranking}; nothing is fitted. The answers and their distance are measured on this"
            " image."
        )
    fit = f"on {words(sources.fit, counts(sources.fit))}"
    if ranked and sources.fit == sources.rank:
        fit = "on the same"
    if sources.fit == THIS:
        return (
            f"{ranking}, and compensation is fitted {fit}: fit and measurement share the sample, so"
            " the answers and their distance below may flatter the pruned model."
        )
    return (
        f"{ranking}, compensation is fitted {fit}. The answers and their distance are measured on"
        f" this image{OF_THE_FIT[shared]}."
    )


def digest(pairs: Sequence[Pair]) -> str:
    """A short name for a set by its paths and prompts, "" for an empty one."""
    if not pairs:
        return ""
    text = "\n".join(f"{path}\t{prompt}" for path, prompt in pairs)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def read_files(paths: Sequence[str], prompt: str = "") -> Pairs:
    """Uploaded files as a set: image paths, each with its prompt. Raises InputError.

    paths: images, each asked `prompt`; or with one JSON Lines file among them its lines, of
        {"image": file name, "prompt": text}.
    prompt: for images without one; "" for the usual one.
    """
    lists, images = _sorted_files(paths)
    default_prompt = prompt.strip() or DEFAULT_PROMPT
    if not lists:
        return tuple((path, default_prompt) for path in images.values())

    def uploaded(named: str, where: str) -> str:
        name = uploaded_name(Path(named).name)
        if name not in images:
            raise InputError(
                f"Found the image {named[:80]!r} in {where}; expected the name of an uploaded"
                " image; upload it too or mend the line."
            )
        return images[name]

    pairs = []
    for entry in read_entries(lists[0], uploaded):
        if isinstance(entry.image, tuple):
            raise InputError(
                f"Found {len(entry.image)} images in {entry.where}; expected one, for the page asks"
                " about one at a time; use the command, or mend the line."
            )
        if not isinstance(entry.image, str):
            raise InputError(
                f"Found no uploaded image in {entry.where}; expected the name of one; upload it"
                " too or mend the line."
            )
        pairs.append((entry.image, entry.prompt or default_prompt))
    if not pairs:
        raise InputError(
            f'Found an empty list {Path(lists[0]).name}; expected a line {{"image": name, "prompt":'
            " text} for each sample; add some."
        )
    return tuple(pairs)


def _sorted_files(paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The lists among the files, at most one, and the images by name. Raises InputError."""
    lists, images, strange = [], {}, []
    for path in paths:
        suffix = Path(path).suffix.lower()
        if suffix in LIST_SUFFIXES:
            lists.append(path)
        elif suffix in IMAGE_SUFFIXES:
            images[Path(path).name] = path
        else:
            strange.append(Path(path).name)
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
    return lists, images


_REMOVED = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f`$!{}]')
_NAME_BYTES = 200
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{device}{number}" for device in ("COM", "LPT") for number in "123456789¹²³"
}


def uploaded_name(name: str) -> str:
    """The name that an uploaded file has on the server: gradio takes out what file systems and
    shells would stumble over, so a list that names the file must be read in the same way.
    """
    stem, suffix = os.path.splitext(name)
    stem = _REMOVED.sub("", stem)
    if suffix:
        suffix = "." + _REMOVED.sub("", suffix[1:])
        stem = stem or "file"
    if stem + suffix == "..":
        return ".."
    name = (stem + suffix).rstrip(" .") or "file"
    stem, suffix = os.path.splitext(name)
    if name.partition(".")[0].rstrip(" ").upper() in _DEVICES:  # reserved on Windows
        stem = "_" + stem
    while len((stem + suffix).encode()) > _NAME_BYTES and stem:
        stem = stem[:-1]
    if len((stem + suffix).encode()) <= _NAME_BYTES:
        return stem + suffix
    stem = "file"
    while len((stem + suffix).encode()) > _NAME_BYTES:
        suffix = suffix[:-1]
    return stem + suffix


def check_size(
    samples: Sequence[svl.Sample],
    layers: int,
    hidden_size: int,
    bytes_per_value: int,
    mlp: bool,
) -> None:
    """Raises InputError for a set whose trace would fill the memory: hidden states of every layer
    at every position.

    mlp: whether the inputs of each layer's MLP are traced too.
    """
    positions = sum(sample.length for sample in samples)
    states = layers + 1 + (layers if mlp else 0)
    traced = positions * hidden_size * bytes_per_value * states
    inputs = sum(
        value.numel() * value.element_size()
        for sample in samples
        for value in sample.inputs.values()
    )
    needed = traced + inputs
    if needed > MOST_BYTES:
        fitting = max(1, int(len(samples) * MOST_BYTES / needed))
        raise InputError(
            f"Found {len(samples)} samples that need {needed / 2**30:.1f} GB in memory; expected at"
            f" most {MOST_BYTES / 2**30:.0f} GB; use about {fitting} of them, or smaller images."
        )
