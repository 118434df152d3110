"""How results leave the command: tables for people, JSON and CSV for programs, and progress."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svl_core.errors import InputError
from svl_core.progress import Run

FILES = ("json", "csv", "resume")
"""Options that name a file to be written."""


def check_files(args: argparse.Namespace) -> None:
    """Finds out before the work whether its result can be written. Raises InputError."""
    for option in FILES:
        name = getattr(args, option, None)
        if name and name != "-" and not Path(name).expanduser().resolve().parent.is_dir():
            raise InputError(
                f"Found no folder for {name}; expected an existing one; create it or change"
                f" --{option}."
            )


def watched(args: argparse.Namespace) -> Run:
    """A run of the command's team that rewrites one line on standard error; a quiet one where
    nobody watches.
    """
    run = Run(team=args.team)
    if args.quiet or not sys.stderr.isatty():
        return run

    def show(share: float | None, what: str) -> None:
        done = share is not None and share >= 1
        shown = f"{share:4.0%} " if share is not None else ""
        sys.stderr.write("\r\x1b[K" if done else f"\r\x1b[K{shown}{what}")
        sys.stderr.flush()

    return run.telling(show)


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns, the first `left` to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        aligned = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            aligned.append(cell.ljust(width) if column < left else cell.rjust(width))
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def write_result(
    args: argparse.Namespace,
    result: Any,
    text: str,
) -> None:
    """Prints `text`, or writes `result` as JSON where that is asked for; of a team the first
    process does.
    """
    if args.team.rank:
        return
    if not args.json:
        print(text)
        return
    written = json.dumps(finite(result), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(written)
        return
    save(args.json, written, "json")
    print(text)


def save(name: str, text: str, option: str) -> None:
    """Writes a file that an option names. Raises InputError where it cannot be written."""
    try:
        Path(name).expanduser().write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"Found that {name} cannot be written ({error.strerror}); expected a file name in a"
            f" folder of yours; change --{option}."
        ) from None


def finite(value: Any) -> Any:
    """The value in JSON's terms: tuples and arrays become lists, infinite numbers and NaN null."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
