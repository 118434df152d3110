"""How results leave the command: tables for people, JSON and CSV for programs, and progress."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from svl_core.errors import InputError
from svl_core.files import check_writable, write_text
from svl_core.progress import Run

FILES = ("json", "csv", "resume")
"""Options that name a file to be written."""


def check_files(args: argparse.Namespace) -> None:
    """Finds out before the work whether its result can be written. Raises InputError."""
    for option in FILES:
        name = getattr(args, option, None)
        if name and name != "-":
            check_writable(name, option)


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
    """Writes a result to all that were asked for: `text` to standard output, or JSON there, and
    files; of a team the first process does. One that fails takes no other along.

    args: with `tables`, a sweep's rows as CSV, where there are any.

    Raises InputError for the first file that could not be written, once the others are.
    """
    if args.team.rank:
        return
    # JSON's escapes serve where standard output cannot write every character.
    plain = args.json == "-" and not _speaks_unicode()
    written = json.dumps(finite(result), ensure_ascii=plain, indent=1, allow_nan=False) + "\n"
    files = {}
    if args.json and args.json != "-":
        files["json"] = written
    if getattr(args, "csv", None):
        files["csv"] = args.tables
    failed: list[InputError] = []
    for option, content in files.items():
        try:
            write_text(getattr(args, option), content, option)
        except InputError as error:
            failed.append(error)
    sys.stdout.write(written if args.json == "-" else f"{text}\n")
    sys.stdout.flush()
    if failed:
        raise failed[0]


def _speaks_unicode() -> bool:
    """Whether standard output can write every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def finite(value: Any) -> Any:
    """The value in JSON's terms: tuples and arrays become lists, infinite numbers and NaN null."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
