"""What a command works on: the model, the question asked, calibration sets, labelled questions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import torch

from svl_core.cli.output import watched
from svl_core.comparison.calibration import Pair, disjoint, draw, encode_all, read_calibration
from svl_core.comparison.evaluation import LabelledQuestion, read_jsonl
from svl_core.errors import InputError
from svl_core.files import expanded
from svl_core.lvlm.encoding import opened
from svl_core.lvlm.loading import load
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import see
from svl_core.recipe import AUTO, DEMO, OWN, THIS, Recipe, numbers_in


def load_model(args: argparse.Namespace, recipe: Recipe) -> LVLM:
    """The model; one without image input only where no image was given to ask about.

    The detail "auto" is chosen once, for the image asked about or for a usual one, so that
    calibration sets and measured ones are read alike. A team's processes all take the dtype and the
    detail that the first one chose.
    """
    run = watched(args)

    def loaded(dtype: str | torch.dtype) -> LVLM:
        return load(
            args.model,
            revision=args.revision,
            device=args.device,
            dtype=dtype,
            device_map=args.device_map,
            quantize=args.quantize,
            text_only=not args.images,
            detail=recipe.detail,
            max_visual_tokens=recipe.max_visual_tokens,
            plain=getattr(args, "plain", False),
            run=run,
        )

    lvlm = loaded(args.dtype)
    [dtype] = run.deal([lvlm.dtype], lambda chosen, alone: chosen)
    if lvlm.dtype != dtype:
        lvlm = loaded(dtype)
    if recipe.detail != AUTO:
        return lvlm
    choice = lvlm.detail_for(*([opened(args.images)] if args.images else []))
    [detail] = run.deal([choice.detail], lambda chosen, alone: chosen)
    return lvlm.reading(detail, recipe.max_visual_tokens)


def asked_question(args: argparse.Namespace, recipe: Recipe) -> tuple[LVLM, Sample]:
    """The model and the encoded question."""
    if not args.images and args.model == DEMO:
        raise InputError(
            "Found no image; expected one, for the bundled model answers about pictures only; give"
            " one with --image."
        )
    lvlm = load_model(args, recipe)
    return lvlm, lvlm.encode(args.images or None, args.prompt)


def asks(args: argparse.Namespace) -> bool:
    """Whether a question of one's own was given."""
    return bool(args.images) or getattr(args, "prompt", None) is not None


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """ "3,5-7" -> (3, 5, 6, 7). Raises InputError."""
    try:
        return numbers_in(text)
    except ValueError:
        raise InputError(
            f"Found '{text}'; expected whole numbers and ranges such as 3,5-7; correct --{option}."
        ) from None


def measured_samples(args: argparse.Namespace, recipe: Recipe) -> tuple[LVLM, Sequence[Sample]]:
    """The model and the samples to measure on: the question asked, or the set of `--measure`."""
    if asks(args):
        lvlm, sample = asked_question(args, recipe)
        return lvlm, [see(lvlm, sample)]
    pairs = _measured_pairs(args)
    lvlm = load_model(args, recipe)
    return lvlm, _encoded(args, lvlm, pairs)


def measured_set(args: argparse.Namespace, lvlm: LVLM) -> Sequence[Sample]:
    """The samples of `--measure`, whatever else was asked. Raises InputError."""
    return _encoded(args, lvlm, _measured_pairs(args))


def _measured_pairs(args: argparse.Namespace) -> list[Pair]:
    from svl_core.demo.questions import MEASURED_SEED

    return _pairs(args.measure, args.measure_size, MEASURED_SEED, None)


def _encoded(args: argparse.Namespace, lvlm: LVLM, pairs: list[Pair]) -> Sequence[Sample]:
    readable = _readable(lvlm, args.measure, pairs)
    spool = getattr(args, "spool", None)
    return encode_all(lvlm, readable, spool=spool, run=watched(args))


def labelled_questions(args: argparse.Namespace, seed: int) -> Sequence[LabelledQuestion]:
    """The questions of `--data`. Raises InputError."""
    if args.limit is not None and args.limit < 1:
        raise InputError(f"Found a limit of {args.limit} questions; expected at least 1; raise it.")
    if args.data.endswith(".jsonl") or expanded(args.data).is_file():
        return list(islice(read_jsonl(args.data), args.limit))
    from svl_core.demo.evaluation import questions

    return questions(args.data, args.limit, seed)


def knows_scenes(lvlm: LVLM) -> bool:
    """Whether the model knows the bundled scenes: the bundled one, and what was pruned from it."""
    return DEMO in (lvlm.name, lvlm.provenance.get("source"))


def calibration_source(
    recipe: Recipe,
    lvlm: LVLM,
    measured: Sequence[Sample],
) -> str:
    """The calibration set that the recipe means for this model: a name, a file or a folder.

    Left to itself, the bundled model is calibrated on its scenes. Another model is ranked on the
    question asked, where nothing is fitted; to be fitted, or without a question, it needs a set of
    its own. Raises InputError where there is none.
    """
    if recipe.calibration == OWN:
        raise InputError(
            "Found a plan that was fitted on files of a page's visitor; expected these files; give"
            " them with --calibration."
        )
    if recipe.calibration != AUTO:
        return recipe.calibration
    if knows_scenes(lvlm):
        return DEMO
    if len(measured) == 1 and not recipe.fits:
        return THIS
    needs = f"compensation '{recipe.compensation}'" if recipe.fits else "a ranking"
    raise InputError(
        f"Found no calibration set for {lvlm.name}; expected images of its own kind for {needs},"
        " since the bundled scenes are those of the bundled model; give a folder or a FILE.jsonl"
        f" with --calibration, or take '{DEMO}' all the same."
    )


def calibration_samples(
    args: argparse.Namespace,
    recipe: Recipe,
    lvlm: LVLM,
    measured: Sequence[Sample] = (),
) -> Sequence[Sample]:
    """The samples to rank and fit on; never those measured, unless the recipe says "this".

    recipe: its calibration set is resolved, see `calibration_source`.
    """
    if recipe.calibration == THIS:
        if len(measured) == 1:
            return list(measured)
        if hasattr(args, "data"):
            raise InputError(
                "Found --calibration this; expected a set, for this command asks about many"
                " images; use demo, a file or a folder."
            )
        raise InputError(
            "Found the calibration set 'this', which is the very image asked about; expected that"
            " image; give it with --image and --prompt, or another set with --calibration."
        )
    pairs = _pairs(
        recipe.calibration,
        recipe.calibration_size,
        recipe.seed,
        recipe.seed,
    )
    readable = _readable(lvlm, recipe.calibration, pairs)
    samples = encode_all(
        lvlm,
        readable,
        spool=args.spool,
        run=watched(args),
    )
    return disjoint(samples, measured)


def _pairs(
    source: str,
    size: int,
    seed: int,
    draw_seed: int | None,
) -> list[Pair]:
    """(image, prompt) pairs of a source named on the command line: 'demo', a file or a folder."""
    if source != DEMO:
        return read_calibration(source, limit=size, seed=draw_seed)
    from svl_core.demo.questions import calibration

    return draw(calibration(max(size, 1), seed), size)


def _readable(
    lvlm: LVLM,
    source: str,
    pairs: list[Pair],
) -> list[Pair]:
    """The pairs as they are; of the bundled ones, a text-only model gets the different questions
    alone.
    """
    if lvlm.supports_images or source != DEMO:
        return pairs
    return [(None, prompt) for prompt in dict.fromkeys(prompt for _, prompt in pairs)]
