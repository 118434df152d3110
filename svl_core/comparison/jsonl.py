"""Reads lists of images, prompts and answers: JSON Lines or a JSON array, in the shapes that data
sets have. What a row says is used, or refused with the file and the line.

Beside {"image": path, "prompt": text, "answer": text} there are chats ("messages" as most trainers
write them, "conversations" as LLaVA's data has them), instructions with an input, lists of answers,
numbers as answers, and images inside the row, as base64 or as a data address.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.lvlm.chat import CHAT_KEYS, VIDEO_REMEDY, Chat, plain_text, read_chat

ImageSource = Path | str | bytes
Locate = Callable[[str, str], ImageSource]
"""The image by the name in a row; given the row's place too, for the error."""

IMAGE_KEYS = ("image", "image_path", "image_file", "file_name", "img", "image_url")
PROMPT_KEYS = ("prompt", "question", "query", "instruction")
ANSWER_KEYS = ("answer", "answers", "label", "output", "response", "multiple_choice_answer")
VIDEO_KEYS = ("video", "videos", "video_path")
SERVED_KEYS = (*IMAGE_KEYS, "images", *PROMPT_KEYS, "input", *ANSWER_KEYS, *CHAT_KEYS, "kind")
NOTES = ("id", "question_id", "image_id", "split", "source", "metadata", "width", "height")
"""Keys that data sets have for their own use."""

CLOSE = 0.75  # how alike a key that is not known must be to one that is, to be taken for a slip
DATA_ADDRESS = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
LONG_NAME = 512  # characters from which a text that names no file is read as base64
NAME_CHARS = 80  # of a file's name in a sentence
SHAPE = '{"image": path, "prompt": text}'


@dataclass(frozen=True)
class Entry:
    """One row, as the rest of the program reads it.

    where: reads "line 3 of x.jsonl".
    image: a path, the bytes of an image file, several of them, or None for a question without one.
    prompt: a text, a chat where more than one question makes it, or None where the row has none.
    answers: all that count as right; none where the row has none.
    kind: groups the results; "".
    """

    where: str
    image: ImageSource | tuple[ImageSource, ...] | None
    prompt: str | Chat | None
    answers: tuple[str, ...] = ()
    kind: str = ""


def read_entries(path: str | Path, locate: Locate | None = None) -> Iterator[Entry]:
    """The entries of a list, in order.

    locate: finds the image that a row names; by default a file beside the list.

    Raises InputError for a file that cannot be read and for the first row that is wrong.
    """
    path = expanded(path)
    find = _beside(path) if locate is None else locate
    for where, row in _rows(path):
        yield _entry(row, where, find)


# Rows


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each line that is not empty, or for each entry of an array."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        for number, row in enumerate(_array(text, path), start=1):
            where = f"entry {number} of {path.name}"
            yield where, _checked(row, where)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {number} of {path.name}"
            yield where, _checked(_parsed(line, where), where)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"Found no file {path}; expected a JSON Lines file; check the path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Found {path}, which cannot be read ({error}); expected a JSON Lines file in UTF-8;"
            " give another file."
        ) from None


def _array(text: str, path: Path) -> list[Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"Found no valid JSON in line {error.lineno} of {path.name} ({error.msg}); expected an"
            f" array of {SHAPE}, or one of them a line; mend it."
        ) from None


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"Found no valid JSON in {where} ({error.msg}); expected {SHAPE}; mend the line."
        ) from None


def _checked(row: Any, where: str) -> dict[str, Any]:
    """The row, of which no key is a slip of one that is served."""
    if not isinstance(row, dict):
        raise InputError(
            f"Found a {type(row).__name__} in {where}; expected {SHAPE}; mend the line."
        )
    for key in row:
        if key in SERVED_KEYS or key in NOTES:
            continue
        meant = difflib.get_close_matches(key, SERVED_KEYS, 1, CLOSE)
        if meant:
            raise InputError(
                f'Found the key "{key[:80]}" in {where}; expected "{meant[0]}"; mend the line.'
            )
    return row


def _entry(row: Mapping[str, Any], where: str, locate: Locate) -> Entry:
    """What a row says. Raises InputError."""
    _refuse_video(row, where)
    named = _named_images(row, where)
    prompt: str | Chat | None = None
    answers: tuple[str, ...] = ()
    turns = next((row[key] for key in CHAT_KEYS if key in row), None)
    if turns is not None:
        read = read_chat(turns, where)
        named = named or list(read.sources)
        try:
            chat = read.chat.showing(len(named))
        except InputError as error:
            raise located(error, where) from None
        prompt = chat.question if chat.alone else chat
        answers = (read.answer,) if read.answer else ()
    prompt = _prompt(row, where) or prompt
    if prompt is None:
        _refuse_foreign(row, where)
    images = tuple(_image(name, where, locate) for name in named)
    return Entry(
        where=where,
        image=images if len(images) > 1 else next(iter(images), None),
        prompt=prompt,
        answers=_answers(row, where) or answers,
        kind=str(row.get("kind") or ""),
    )


def _refuse_video(row: Mapping[str, Any], where: str) -> None:
    """Raises InputError for a row with a video."""
    if any(row.get(key) for key in VIDEO_KEYS):
        raise InputError(f"Found a video in {where}; {VIDEO_REMEDY}.")


def _refuse_foreign(row: Mapping[str, Any], where: str) -> None:
    """Raises InputError for a row without a prompt that has something under a foreign key."""
    foreign = [key for key in row if key not in SERVED_KEYS and key not in NOTES]
    if foreign:
        raise InputError(
            f'Found the key "{foreign[0][:80]}" in {where}, which has no prompt; expected one'
            f" of {', '.join((*PROMPT_KEYS, *CHAT_KEYS))}; rename the key, or leave it out for the"
            " default prompt."
        )


# Texts


def _prompt(row: Mapping[str, Any], where: str) -> str | None:
    """The prompt under one of its keys; an instruction's input goes behind it."""
    for key in PROMPT_KEYS:
        if row.get(key) is None:
            continue
        text = plain_text(row[key], key, where)
        if key == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
            text = f"{text}\n{row['input'].strip()}"
        return text
    return None


def _answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    for key in ANSWER_KEYS:
        if row.get(key) is not None:
            return _listed(row[key], key, where)
    return ()


def _listed(value: Any, key: str, where: str) -> tuple[str, ...]:
    """The right answers: a text, a number, yes or no, or a list of such."""
    if isinstance(value, Mapping) and "answer" in value:  # VQA's: {"answer": text, ...}
        value = value["answer"]
    if isinstance(value, bool):
        return ("yes" if value else "no",)
    if isinstance(value, (int, float)):
        return (str(value),)
    if isinstance(value, str) and value.strip():
        return (value,)
    if isinstance(value, list) and value:
        found = [text for item in value for text in _listed(item, key, where)]
        return tuple(dict.fromkeys(found))
    raise InputError(
        f'Found no text under "{key}" in {where}; expected an answer, or a list of those that count'
        " as right; mend the line."
    )


# Images


def _named_images(row: Mapping[str, Any], where: str) -> list[Any]:
    """What the row has for images; none where it says null, or has none beside a chat."""
    for key in (*IMAGE_KEYS, "images"):
        if row.get(key) is not None and row[key] != []:
            return row[key] if isinstance(row[key], list) else [row[key]]
    says_none = any(key in row for key in (*IMAGE_KEYS, "images"))
    if says_none or any(key in row for key in CHAT_KEYS):
        return []
    raise InputError(
        f'Found no text under "image" in {where}; expected a path relative to the file\'s folder,'
        " or null for a question without an image; mend the line."
    )


def _image(named: Any, where: str, locate: Locate) -> ImageSource:
    """The image that a row means by a name, by base64, or by what datasets keep of a file."""
    if isinstance(named, Mapping):  # {"bytes": base64, "path": name}
        named = named.get("bytes") or named.get("path")
    if not isinstance(named, str) or not named.strip():
        raise InputError(
            f'Found no text under "image" in {where}; expected a path relative to the file\'s'
            " folder, or null for a question without an image; mend the line."
        )
    if named.startswith(("http://", "https://")):
        raise InputError(
            f"Found the web address {named[:80]!r} in {where}; expected an image file; download the"
            " picture and give its path."
        )
    address = DATA_ADDRESS.match(named)
    if address:
        return _decoded(named[address.end() :], where)
    return _decoded(named, where) if len(named) >= LONG_NAME else locate(named, where)


def _decoded(text: str, where: str) -> bytes:
    """The image file that base64 text holds. Raises InputError where that is none."""
    from svl_core.lvlm.images import open_image

    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            f"Found an image in {where} that is neither a file's name nor base64; expected one of"
            " them; mend the line."
        ) from None
    try:
        open_image(content)
    except InputError as error:
        raise located(error, where) from None
    return content


def _beside(path: Path) -> Locate:
    """Images by names relative to the folder of the list."""

    def locate(name: str, where: str) -> Path:
        image = path.parent / name
        if not image.is_file():
            raise InputError(
                f"Found no image {image} for {where}; expected a path relative to the file's"
                " folder; mend the line."
            )
        return image

    return locate


def located(error: InputError, where: str) -> InputError:
    """The same error, which says where its input stands."""
    reason = str(error)
    return InputError(f"In {where}: {reason[:1].lower()}{reason[1:]}")


def file_named(image: object, error: InputError) -> InputError:
    """The error of an image, which names its file if it is one."""
    if isinstance(image, (str, Path)):
        return located(error, f"the file {Path(image).name[:NAME_CHARS]!r}")
    return error
