"""Reads JSON Lines files of images and texts; every error names the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from svl_core.errors import InputError


def read_rows(
    path: str | Path,
    keys: Sequence[str],
    one_of: Sequence[str] = (),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for each line that is not empty; `where` reads "line 3 of x.jsonl".

    keys: a row must hold text under each of them.
    one_of: and under at least one of these, if there are any.

    Raises InputError for a file that cannot be read and for the first line that is wrong.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(
            f"Found no file {path}; expected a JSON Lines file; check the path."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Found {path}, which cannot be read ({error}); expected a JSON Lines file in UTF-8;"
            " give another file."
        ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"line {number} of {path.name}"
            yield where, _row(line, where, keys, one_of)


def _row(
    line: str,
    where: str,
    keys: Sequence[str],
    one_of: Sequence[str],
) -> dict[str, Any]:
    """The row that a line holds. Raises InputError."""
    entries = (f'"{key}": text' for key in (*keys, *one_of[:1]))
    shape = "{" + ", ".join(entries) + "}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"Found no valid JSON in {where} ({error.msg}); expected {shape}; mend the line."
        ) from None
    if not isinstance(row, dict):
        raise InputError(
            f"Found a {type(row).__name__} in {where}; expected {shape}; mend the line."
        )
    missing = [key for key in keys if not has_text(row, key)]
    if one_of and not any(has_text(row, key) for key in one_of):
        missing.append(one_of[0])
    if missing:
        raise InputError(
            f'Found no text under "{missing[0]}" in {where}; expected {shape}; mend the line.'
        )
    return row


def has_text(row: Mapping[str, Any], key: str) -> bool:
    """Whether the row holds a text that is not blank under the key."""
    value = row.get(key)
    return isinstance(value, str) and bool(value.strip())


def image_path(
    row: Mapping[str, Any],
    path: str | Path,
    where: str,
) -> Path | None:
    """The row's image, relative to the file's folder; None where it says null.

    path: the JSON Lines file.
    where: the line, for the error.

    Raises InputError if there is no such file.
    """
    if "image" in row and row["image"] is None:
        return None
    if not has_text(row, "image"):
        raise InputError(
            f'Found no text under "image" in {where}; expected a path relative to the file\'s'
            " folder, or null for a question without an image; mend the line."
        )
    image = Path(path).parent / row["image"]
    if not image.is_file():
        raise InputError(
            f"Found no image {image} for {where}; expected a path relative to the file's folder;"
            " mend the line."
        )
    return image
