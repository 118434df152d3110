"""From a command line to an exit code.

0: done. 2: the user's input is wrong (one line on standard error: found, expected, remedy). 141:
whoever read the output has closed it, as `head` does; nothing is said. 1: anything else, one line
too. Of several processes that a launcher started the first alone speaks.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from svl_core.cli.options import typed_values
from svl_core.cli.parser import COMMANDS, PAGE, build_parser
from svl_core.errors import InputError, SVLError
from svl_core.progress import ALONE, Team, launched

CLOSED_PIPE = 141  # as shells tell it of a program that a closed pipe ended


def _opened(args: argparse.Namespace) -> list[Any]:
    """The images of the question, checked together with its prompt. Raises InputError."""
    if args.command == "analyze" and args.prompt is None and not args.plan:
        raise InputError(
            "Found no prompt; expected a question or an instruction; give one with --prompt, or ask"
            " for the cost alone with --plan."
        )
    if getattr(args, "image", None) is None:
        return []
    from svl_core.lvlm.images import open_image

    images = [open_image(path) for path in args.image]
    if not (args.prompt or "").strip():
        raise InputError(
            "Found an empty prompt; expected a question or an instruction; give one with --prompt."
        )
    return images


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's) and returns its exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads; why, see app.py
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is written as a code
            stream.reconfigure(errors="backslashreplace")
    try:
        with _team() as team:
            if team.rank:
                sys.stdout = sys.stderr = open(os.devnull, "w")
            _run(argv, team)
            sys.stdout.flush()
    except InputError as error:
        return _fail(error, 2)
    except SVLError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("Stopped.", 1)
    except BrokenPipeError:
        _forget_output()
        return CLOSED_PIPE
    except OSError as error:
        _forget_output()
        what = error.filename or "standard output"
        return _fail(
            f"Found that {what} cannot be read or written ({error.strerror or error}); expected a"
            " file or a terminal of yours with room; mend that, or write elsewhere.",
            1,
        )
    except SystemExit as done:  # --help
        return int(done.code or 0)
    return 0


def _team() -> AbstractContextManager[Team]:
    """The processes that run this command together; torch loads only where there are several."""
    if not launched():
        return nullcontext(ALONE)
    from svl_core.lvlm.sharing import team

    return team()


def _run(argv: Sequence[str] | None, team: Team) -> None:
    """Runs the command line as one process of a team. Raises SVLError, and SystemExit for
    `--help`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [PAGE]:
        return _serve(words[1:], team)
    args = build_parser().parse_args(words)
    if args.version:
        from svl_core import __version__

        print(f"svl {__version__}")
        return
    if args.command is None:
        raise InputError(
            f"Found no command; expected one of {', '.join(COMMANDS)}; see `svl --help`."
        )
    args.team = team
    typed_values(args)  # refuses what no recipe accepts
    args.images = _opened(args)
    # torch and transformers load here, after what can be refused without them
    from svl_core.cli.commands import run_command

    run_command(args)


def _serve(words: Sequence[str], team: Team) -> None:
    """Serves the page, until the process is told to end. Raises InputError for several processes,
    and SystemExit.
    """
    if team.count > 1:
        raise InputError(
            f"Found {team.count} processes for `svl {PAGE}`; expected one; run it without a"
            " launcher."
        )
    from svl_core.page import main as serve

    serve(words, f"svl {PAGE}")


def _forget_output() -> None:
    """Lets what standard output still holds go, for nobody can read it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: object, code: int) -> int:
    print("svl:", " ".join(str(error).split()), file=sys.stderr)
    return code
