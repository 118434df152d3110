"""What may be typed after `svl`: commands, their options and help.

Options that describe a recipe are made from the recipe's fields (`options`); the others stand here.
Nothing of torch or transformers is loaded.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

from svl_core.cli.options import add_option, add_recipe_options
from svl_core.errors import InputError
from svl_core.recipe import (
    CALIBRATION,
    CHOICE,
    COMPENSATION,
    DETAIL,
    OPTIONS,
    RANKING,
    THINNING,
)

PAGE = "page"
"""The command that takes the options of the page's start, see `svl_core/page.py`."""
COMMANDS = ("analyze", "compare", "lens", "sweep", "evaluate", "ablate", "prune", "models", PAGE)
DESCRIPTION = (
    "Layer pruning of vision-language models: see which decoder layers are redundant, drop them,"
    " compare the answers."
)
RANKING_FIELDS = tuple(
    name for name, option in OPTIONS.items() if option.group == RANKING and name != "seed"
)
DETAIL_FIELDS = tuple(name for name, option in OPTIONS.items() if option.group == DETAIL)
COMPENSATION_FIELDS = tuple(
    name for name, option in OPTIONS.items() if option.group == COMPENSATION
)

Add = Callable[[argparse.ArgumentParser], None]


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

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse does it, but a prompt may begin with a dash: what follows `--prompt` is one,
        unless it is an option.
        """
        args = sys.argv[1:] if args is None else list(args)
        takes_prompt = "--prompt" in self._option_string_actions
        for place in range(len(args) - 1, 0, -1) if takes_prompt else ():
            word = args[place]
            is_option = word.split("=")[0] in self._option_string_actions
            if args[place - 1] == "--prompt" and word.startswith("-") and not is_option:
                args[place - 1 : place + 1] = [f"--prompt={word}"]
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        for pattern, said in self.SAID:
            message = re.sub(
                f"^{pattern}$",
                said,
                message,
                flags=re.DOTALL,
            )
        raise InputError(
            f"{message[:1].upper()}{message[1:].rstrip('.')}; see `{self.prog} --help`."
        )


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="svl",
        description=DESCRIPTION,
        epilog="`svl COMMAND --help` lists a command's options.",
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        parser_class=Parser,
    )

    def command(name: str, text: str, *groups: Add) -> argparse.ArgumentParser:
        of_command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
        )
        for add_group in (*groups, _looking, _common):
            add_group(of_command)
        return of_command

    command(
        "analyze",
        "layer redundancy, layer similarity and token importance for one image and prompt",
        _asking(required=False),
        _ranking(),
        _calibrating("this"),
        _analyzing,
    )
    command(
        "compare",
        "the full and the pruned model's answers side by side",
        _asking(required=True),
        _pruning(required=True),
        _thinning,
        _ranking(),
        _calibrating(),
        _answering(None),
    )
    command(
        "lens",
        "what each layer would say in the place of each word of the answer",
        _asking(required=True),
        _pruning(required=False),
        _ranking(),
        _calibrating(),
        _answering(None),
        _measuring(None, "also tell by which layer the answers to these are decided"),
        _reading,
    )
    command(
        "sweep",
        "every drop count with every criterion and compensation: fidelity against speed",
        _asking(required=False),
        _labelled(None, None, "also measure accuracy on"),
        _sweeping,
        _thinning,
        _ranking(without="criterion"),
        _compensating,
        _calibrating(),
        _measuring("demo", "what fidelity is measured on without --image"),
        _answering(32),
    )
    command(
        "evaluate",
        "accuracy on labelled questions, of the full model or of a pruned one",
        _labelled("scenes", None, "what to ask"),
        _pruning(required=False),
        _thinning,
        _ranking(),
        _calibrating(),
        _answering(32),
    )
    command(
        "ablate",
        "what each layer is for: every layer and block of layers skipped in turn",
        _asking(required=False),
        _labelled("scenes", 110, "without --image, what to ask"),
        _measuring(None, "unlabelled samples instead of questions"),
        _ablating,
        _answering(32),
    )
    command(
        "prune",
        "write a pruned model as a plain transformers checkpoint",
        _pruning(required=True),
        _ranking(),
        _calibrating(),
        _asking(required=False, why="with --calibration this: "),
        _exporting,
    )
    command("models", "the models known to work and the methods on offer", _probing)
    commands.add_parser(PAGE, help="serve the page; `svl page --help` lists its options")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and output")
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
        "--dtype",
        default="auto",
        help="float32, bfloat16, float16, or auto: as stored, on a processor what is faster; prune"
        " writes in it, with auto in the dtype stored (default: %(default)s)",
    )
    group.add_argument(
        "--device-map",
        metavar="MAP",
        help="'auto': spread the model over all GPUs and the CPU (needs the extra 'large'); then"
        " --device is not used",
    )
    group.add_argument(
        "--quantize",
        metavar="HOW",
        help="weights in '8bit' or '4bit' (needs the extra 'large'); goes with compensation none",
    )
    add_option(group, OPTIONS["seed"])
    group.add_argument(
        "--json", metavar="FILE", help="write the result as JSON to FILE ('-': standard output)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress on standard error")


def _looking(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser, DETAIL_FIELDS)


def _asking(required: bool, why: str = "") -> Add:
    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("question")
        group.add_argument(
            "--image",
            action="append",
            metavar="FILE",
            help=f"{why}image file; repeat for several images in one prompt; none for a text-only"
            " model, or where the model allows it",
        )
        group.add_argument(
            "--prompt",
            required=required,
            metavar="TEXT",
            help=f"{why}what to ask",
        )

    return add


def _labelled(
    data: str | None,
    limit: int | None,
    what: str,
) -> Add:
    default = f" (default: {data})" if data else ""

    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("labelled questions")
        group.add_argument(
            "--data",
            default=data,
            metavar="SET",
            help=f"{what}: scenes, openmoji, easy-vqa, or a FILE.jsonl of image, question,"
            f" answer{default}",
        )
        group.add_argument(
            "--limit",
            type=int,
            default=limit,
            metavar="N",
            help=f"ask only N questions (default: {limit or 'all of them; of scenes 2,000'})",
        )

    return add


def _answering(batch_size: int | None) -> Add:
    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("answers")
        group.add_argument(
            "--max-new-tokens",
            type=int,
            default=64,
            metavar="N",
            help="longest answer (default: %(default)s)",
        )
        group.add_argument(
            "--plain",
            action="store_true",
            help="answers are the plain arg max; else they follow the model's generation settings"
            " that change greedy decoding, such as a repetition penalty",
        )
        if batch_size:
            group.add_argument(
                "--batch-size",
                type=int,
                default=batch_size,
                metavar="N",
                help="questions answered together (default: %(default)s)",
            )

    return add


def _ranking(without: str = "") -> Add:
    names = [name for name in RANKING_FIELDS if name != without]
    return lambda parser: add_recipe_options(parser, names, {"rounds": "all"})


def _calibrating(default: str = "") -> Add:
    """default: the calibration set, where it does not depend on the model."""
    shown = default or "demo for the bundled model; another needs its own, see README"

    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(CALIBRATION)
        add_option(group, OPTIONS["calibration"], shown)
        add_option(group, OPTIONS["calibration_size"])
        group.add_argument(
            "--spool",
            metavar="DIR",
            help="keep the calibration set, its features and all that is made of them in files of"
            " this folder instead of in memory, so that its size does not matter; they are gone"
            " afterwards",
        )

    return add


def _compensating(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser, COMPENSATION_FIELDS)


def _pruning(required: bool) -> Add:
    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group(CHOICE)
        parser.set_defaults(must_drop=required)
        which = group.add_mutually_exclusive_group()
        add_option(which, OPTIONS["drop"])
        add_option(which, OPTIONS["layers"])
        which.add_argument(
            "--from",
            dest="plan_file",
            metavar="FILE",
            help="a plan made before, with its compensation and settings: the page's plan as JSON,"
            " what a command wrote with --json, or a checkpoint's svl_plan.json; options beside it"
            " change it",
        )
        add_option(group, OPTIONS["drop_attention"])
        add_option(group, OPTIONS["drop_mlp"])
        add_option(group, OPTIONS["granularity"])
        add_option(group, OPTIONS["compensation"])
        add_option(group, OPTIONS["preset"])
        _compensating(parser)

    return add


def _thinning(parser: argparse.ArgumentParser) -> None:
    add_recipe_options(parser, THINNING, {"visual_share": "all"})


def _analyzing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan",
        action="store_true",
        help="only tell the memory and time that it would take, from the model's config; no weights"
        " are needed",
    )
    parser.add_argument(
        "--positions",
        type=int,
        metavar="N",
        help="with --plan: length of the prompt, image tokens included (default: what the config"
        " tells, else 2,048)",
    )
    parser.add_argument(
        "--stability",
        type=int,
        metavar="N",
        help="bootstrap over the calibration set: how sure the order is when N layers are dropped",
    )
    add_option(parser, OPTIONS["granularity"])


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="N",
        help="the likeliest words that are written for each layer and token (default: %(default)s)",
    )


def _sweeping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--drop",
        dest="drops",
        metavar="LIST",
        help="drop counts such as 0-4,8 (default: 0 to all droppable layers)",
    )
    add_option(parser, OPTIONS["granularity"])
    for name, dest in (("criterion", "criteria"), ("compensation", "compensations")):
        parser.add_argument(
            f"--{name}",
            dest=dest,
            default=OPTIONS[name].default,
            metavar="LIST",
            help="one or several, by commas, or 'all' (default: %(default)s)",
        )
    parser.add_argument(
        "--draws",
        type=int,
        default=3,
        metavar="N",
        help="seeds that criterion 'random' is averaged over (default: %(default)s)",
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="write every row to FILE at once, and go on from it if it exists",
    )
    parser.add_argument("--csv", metavar="FILE", help="write the rows as CSV too")


def _measuring(default: str | None, what: str) -> Add:
    shown = f" (default: {default})" if default else ""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--measure",
            default=default,
            metavar="SET",
            help=f"{what}: 'demo' (bundled scenes), a FILE.jsonl or a folder of images{shown}",
        )
        parser.add_argument(
            "--measure-size",
            type=int,
            default=32,
            metavar="N",
            help="samples used of it (default: %(default)s)",
        )

    return add


def _ablating(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        default="1-4",
        metavar="LIST",
        help="layers skipped together, such as 1 or 1-4 (default: %(default)s)",
    )


def _probing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--probe",
        metavar="FOLDER",
        help="what is found about the model in FOLDER (or a Hub id) instead: decoder, layers that"
        " stay, visual positions, places, edits, and what is refused and why",
    )


def _exporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--push-to-hub",
        metavar="USER/NAME",
        help="upload it to the Hub too, or instead, into a repository that is made if need be",
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push-to-hub: make a private repository"
    )
    parser.add_argument(
        "--figures",
        action="append",
        metavar="FILE",
        help="what `svl evaluate` or `svl compare` found of this plan, as written by --json,"
        " for the model card; repeat for several",
    )
