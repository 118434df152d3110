"""The `svl` command: arguments and exit codes.

What each command does is in `svl_core/cli.py`, imported when one runs.

Exit codes: 0 done; 2 the user's input is wrong (one line on standard error: found, expected,
remedy); 1 anything else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from svl_core.errors import InputError, SVLError

COMMANDS = ("analyze", "compare", "sweep", "evaluate", "ablate", "prune", "models")
DESCRIPTION = (
    "Layer pruning of vision-language models: see which decoder layers are redundant, drop them,"
    " compare the answers."
)


class Parser(argparse.ArgumentParser):
    """argparse, with its errors on one line like all others."""

    SAID = (  # what argparse says, and what is said instead
        (
            r"argument ([^:]*): invalid int value: '(.*)'",
            r"Found '\2' for \1; expected a whole number; correct it",
        ),
        (
            r"argument ([^:]*): invalid float value: '(.*)'",
            r"Found '\2' for \1; expected a number; correct it",
        ),
        (
            r"argument ([^:]*): invalid choice: '?(.*?)'? \(choose from (.*)\)",
            r"Found '\2' for \1; expected one of \3; choose one",
        ),
        (
            r"argument ([^:]*): not allowed with argument (.*)",
            r"Found both \1 and \2; expected one of them; leave the other out",
        ),
        (
            r"argument ([^:]*): expected one argument",
            r"Found nothing after \1; expected its value; add one",
        ),
        (
            r"one of the arguments (.*) is required",
            r"Found none of the options \1; expected one of them; add it",
        ),
        (
            r"the following arguments are required: (.*)",
            r"Found no \1; expected a value for each; add it",
        ),
        (
            r"unrecognized arguments: (.*)",
            (
                r"Found '\1', which is no option here; expected those of the command; correct or"
                r" drop it"
            ),
        ),
    )

    def error(self, message: str):
        for pattern, said in self.SAID:
            message = re.sub(f"^{pattern}$", said, message, flags=re.DOTALL)
        raise InputError(
            f"{message[:1].upper()}{message[1:].rstrip('.')}; see `{self.prog} --help`."
        )


def _common() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    group = common.add_argument_group("model and output")
    group.add_argument(
        "--model",
        default="demo",
        metavar="NAME",
        help="'demo' (bundled), a Hub id or a local folder (default: %(default)s)",
    )
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub model")
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)"
    )
    group.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16, float16 (default: %(default)s)"
    )
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help=(
            "'auto': spread the model over all GPUs and the CPU (needs the extra 'large'); then"
            " --device is not used"
        ),
    )
    group.add_argument(
        "--quantize",
        metavar="HOW",
        help="weights in '8bit' or '4bit' (needs the extra 'large'); goes with compensation none",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help=(
            "seed of random draws: criterion 'random', calibration, questions (default:"
            " %(default)s)"
        ),
    )
    group.add_argument(
        "--json", metavar="FILE", help="write the result as JSON to FILE ('-': standard output)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return common


def _asking(required: bool = True) -> argparse.ArgumentParser:
    asking = Parser(add_help=False)
    group = asking.add_argument_group("question")
    group.add_argument(
        "--image",
        action="append",
        metavar="FILE",
        help=(
            "image file; repeat for several images in one prompt; none for a text-only model, or"
            " where the model allows it"
        ),
    )
    group.add_argument("--prompt", required=required, metavar="TEXT", help="what to ask")
    return asking


def _labelled(data: str | None, limit: int | None, what: str) -> argparse.ArgumentParser:
    labelled = Parser(add_help=False)
    group = labelled.add_argument_group("labelled questions")
    default = f" (default: {data})" if data else ""
    group.add_argument(
        "--data",
        default=data,
        metavar="SET",
        help=(
            f"{what}: scenes, openmoji, easy-vqa, or a FILE.jsonl of image, question,"
            f" answer{default}"
        ),
    )
    group.add_argument(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help=f"ask only N questions (default: {limit or 'all of them; of scenes 2,000'})",
    )
    return labelled


def _answering(batch_size: int | None = 32) -> argparse.ArgumentParser:
    answering = Parser(add_help=False)
    group = answering.add_argument_group("answers")
    group.add_argument(
        "--max-new-tokens",
        type=int,
        default=64,
        metavar="N",
        help="longest answer (default: %(default)s)",
    )
    if batch_size:
        group.add_argument(
            "--batch-size",
            type=int,
            default=batch_size,
            metavar="N",
            help="questions answered together (default: %(default)s)",
        )
    return answering


def _scoring(criterion: str = "svl") -> argparse.ArgumentParser:
    scoring = Parser(add_help=False)
    group = scoring.add_argument_group("which layers are redundant")
    group.add_argument(
        "--criterion",
        default=criterion,
        metavar="NAME",
        help="its name; `svl models` lists them (default: %(default)s)",
    )
    group.add_argument(
        "--top-p",
        type=float,
        default=0.5,
        metavar="P",
        help="share of tokens that count as important (default: %(default)s)",
    )
    group.add_argument(
        "--top-p-mode",
        default="fraction",
        choices=("fraction", "mass"),
        help="best P of the tokens, or the fewest that hold P of the score (default: %(default)s)",
    )
    group.add_argument(
        "--text-self",
        default="received",
        metavar="HOW",
        help=(
            "text-to-text part of a text token's importance: attention 'received' or 'given'"
            " (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--causal-correction",
        action="store_true",
        help="divide attention by the number of queries that can see a key",
    )
    group.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=(
            "greedy criteria: re-score after each of N drops, then rank the rest as it stands"
            " (default: all)"
        ),
    )
    group.add_argument(
        "--unprotect-ends",
        action="store_true",
        help="let the first and the last layer be dropped too",
    )
    return scoring


def _calibrating(default: str) -> argparse.ArgumentParser:
    calibrating = Parser(add_help=False)
    group = calibrating.add_argument_group(
        "calibration: what layers are ranked and compensations fitted on"
    )
    group.add_argument(
        "--calibration",
        default=default,
        metavar="SET",
        help=(
            "'demo' (bundled scenes), 'this' (the sample asked about), a FILE.jsonl or a folder of"
            " images (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--calibration-size",
        type=int,
        default=16,
        metavar="N",
        help="samples used of it (default: %(default)s)",
    )
    group.add_argument(
        "--spool",
        metavar="DIR",
        help=(
            "keep the calibration set, its features and all that is made of them in files of this"
            " folder instead of in memory, so that its size does not matter; they are gone"
            " afterwards"
        ),
    )
    return calibrating


def _compensating(parser: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    compensating = parser or Parser(add_help=False)
    group = compensating.add_argument_group("compensation settings")
    group.add_argument(
        "--rank",
        default="4",
        metavar="K",
        help=(
            "rank k of the compensated subspace, or 'auto': of lowest KL on half of the calibration"
            " set, fitted on the other half (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--energy",
        type=float,
        metavar="SHARE",
        help=(
            "choose each run's rank as the fewest directions that hold this share of its gap's"
            " energy, instead of --rank"
        ),
    )
    group.add_argument(
        "--strength", type=float, default=1.0, help="1 = as published (default: %(default)s)"
    )
    group.add_argument(
        "--targets",
        default="mlp",
        metavar="LIST",
        help="projections to edit: mlp, or mlp,attention (default: %(default)s)",
    )
    group.add_argument(
        "--ridge",
        type=float,
        metavar="R",
        help="least squares, bridge, refit: pull toward no edit, relative to the mean diagonal",
    )
    group.add_argument(
        "--answer-weight",
        type=float,
        default=20.0,
        metavar="W",
        help=(
            "refit: what an answer's positions count beside one position each (default:"
            " %(default)s)"
        ),
    )
    group.add_argument(
        "--weighted", action="store_true", help="least squares: weight tokens by their importance"
    )
    group.add_argument(
        "--tokens",
        default="important",
        choices=("important", "all", "visual", "textual", "last"),
        help="tokens to fit on (default: %(default)s)",
    )
    return compensating


def _pruning(required: bool) -> argparse.ArgumentParser:
    pruning = Parser(add_help=False)
    group = pruning.add_argument_group("what to drop")
    which = group.add_mutually_exclusive_group(required=required)
    which.add_argument(
        "--drop", type=int, metavar="N", help="number of layers to drop, most redundant first"
    )
    which.add_argument(
        "--layers", metavar="LIST", help="drop these layers instead (0-based, such as 3,5-7)"
    )
    which.add_argument(
        "--from",
        dest="plan_file",
        metavar="FILE",
        help=(
            "a plan made before, with its compensation and settings: the page's plan as JSON, what"
            " a command wrote with --json, or a checkpoint's svl_plan.json"
        ),
    )
    group.add_argument(
        "--compensation",
        default="none",
        metavar="NAME",
        help="its name; `svl models` lists them (default: %(default)s)",
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=(
            "a whole recipe instead of criterion, compensation and their settings: as-published or"
            " best"
        ),
    )
    return _compensating(pruning)


def _thinning() -> argparse.ArgumentParser:
    thinning = Parser(add_help=False)
    thinning.add_argument(
        "--visual-share",
        type=float,
        default=1.0,
        metavar="P",
        help=(
            "the pruned model sees only this share of the visual tokens, by importance (default:"
            " all)"
        ),
    )
    return thinning


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="svl",
        description=DESCRIPTION,
        epilog="`svl COMMAND --help` lists a command's options.",
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[*parents, _common()],
        )

    look = command(
        "analyze",
        "layer redundancy, layer similarity and token importance for one image and prompt",
        _asking(False),
        _scoring(),
        _calibrating("this"),
    )
    look.add_argument(
        "--plan",
        action="store_true",
        help=(
            "only tell the memory and time that it would take, from the model's config; no weights"
            " are needed"
        ),
    )
    look.add_argument(
        "--positions",
        type=int,
        metavar="N",
        help=(
            "with --plan: length of the prompt, image tokens included (default: what the config"
            " tells, else 2,048)"
        ),
    )
    look.add_argument(
        "--stability",
        type=int,
        metavar="N",
        help="bootstrap over the calibration set: how sure the order is when N layers are dropped",
    )
    command(
        "compare",
        "the full and the pruned model's answers side by side",
        _asking(),
        _pruning(True),
        _thinning(),
        _scoring(),
        _calibrating("demo"),
        _answering(None),
    )
    many = command(
        "sweep",
        "every drop count with every criterion and compensation: fidelity against speed",
        _asking(False),
        _labelled(None, None, "also measure accuracy on"),
        _scoring("svl"),
        _compensating(),
        _calibrating("demo"),
        _answering(),
    )
    many.add_argument(
        "--drop",
        metavar="LIST",
        help="drop counts such as 0-4,8 (default: 0 to all droppable layers)",
    )
    many.add_argument(
        "--compensation",
        default="none",
        metavar="LIST",
        help="one or several, by commas, or 'all'; --criterion likewise (default: %(default)s)",
    )
    many.add_argument(
        "--measure",
        default="demo",
        metavar="SET",
        help=(
            "what fidelity is measured on without --image: 'demo' (bundled scenes), a FILE.jsonl or"
            " a folder (default: %(default)s)"
        ),
    )
    many.add_argument(
        "--measure-size",
        type=int,
        default=32,
        metavar="N",
        help="samples used of it (default: %(default)s)",
    )
    many.add_argument(
        "--draws",
        type=int,
        default=3,
        metavar="N",
        help="seeds that criterion 'random' is averaged over (default: %(default)s)",
    )
    many.add_argument(
        "--resume",
        metavar="FILE",
        help="write every row to FILE at once, and go on from it if it exists",
    )
    many.add_argument("--csv", metavar="FILE", help="write the rows as CSV too")
    command(
        "evaluate",
        "accuracy on labelled questions, of the full model or of a pruned one",
        _labelled("scenes", None, "what to ask"),
        _pruning(False),
        _thinning(),
        _scoring(),
        _calibrating("demo"),
        _answering(),
    )
    each = command(
        "ablate",
        "what each layer is for: every layer and block of layers skipped in turn",
        _asking(False),
        _labelled("scenes", 110, "without --image, what to ask"),
        _answering(),
    )
    each.add_argument(
        "--measure",
        metavar="SET",
        help="unlabelled samples instead of questions: 'demo', a FILE.jsonl or a folder of images",
    )
    each.add_argument(
        "--measure-size",
        type=int,
        default=32,
        metavar="N",
        help="samples used of it (default: %(default)s)",
    )
    each.add_argument(
        "--sizes",
        default="1-4",
        metavar="LIST",
        help="layers skipped together, such as 1 or 1-4 (default: %(default)s)",
    )
    out = command(
        "prune",
        "write a pruned model as a plain transformers checkpoint",
        _pruning(True),
        _scoring(),
        _calibrating("demo"),
    )
    out.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")
    out.set_defaults(visual_share=1.0)  # of a plan given with --from: a checkpoint cannot hold it
    command("models", "the models known to work and the methods on offer")
    return parser


def _opened(args: argparse.Namespace) -> list:
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
    try:
        args = build_parser().parse_args(argv)
        if args.version:
            from svl_core import __version__

            print(f"svl {__version__}")
            return 0
        if args.command is None:
            raise InputError(
                f"Found no command; expected one of {', '.join(COMMANDS)}; see `svl --help`."
            )
        args.images = _opened(args)
        from svl_core import (
            cli,
        )  # torch and transformers load here, after what can be refused without them

        cli.run(args)
    except InputError as error:
        return _fail(error, 2)
    except SVLError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("Stopped.", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as done:  # --help
        return int(done.code or 0)
    return 0


def _fail(error: object, code: int) -> int:
    print("svl:", " ".join(str(error).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
