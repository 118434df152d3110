"""Criteria that run the model: layers, or halves of them, skipped one by one and re-scored (SLEB,
greedy KL), or layers frozen on visual tokens (ShortV).

The skipping ones are measured on answers, read under teacher forcing: given token ids, or by
default the full model's own greedy answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from svl_core.analysis.criterion import Measured, Request
from svl_core.analysis.greedy import lowest, rounds_of
from svl_core.analysis.units import Parts, half_in_words, parted
from svl_core.errors import InputError
from svl_core.lvlm import halves, skeleton
from svl_core.lvlm.batching import unpadded
from svl_core.lvlm.decoding import Decoding, answers_together, before_pictures
from svl_core.lvlm.families import positioned, shared_from
from svl_core.lvlm.forcing import kl_per_token
from svl_core.lvlm.hooks import (
    ThreadHooks,
    hidden_input,
    hidden_of,
    with_hidden,
)
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.reference import Reference
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import empty_tensor
from svl_core.progress import QUIET, Run
from svl_core.recipe import ATTENTION, LAYER, MLP

MAX_ANSWER = 32  # tokens of an answer that is not given
BATCH = 32  # samples in one forward pass


def answers_of(request: Request) -> list[tuple[int, ...]]:
    """For each of the request's samples the token ids that it is measured on: the given ones, or
    the model's own greedy answer of at most `MAX_ANSWER` tokens.

    Raises InputError where counts differ and for an empty answer, Cancelled.
    """
    samples = request.samples
    if request.answers is None:
        quiet = request.run.silent()
        return own_answers(
            request.model,
            len(samples),
            samples.__getitem__,
            quiet,
        )
    answers = [tuple(int(token) for token in ids) for ids in request.answers]
    if len(answers) != len(samples) or not all(answers):
        raise InputError(
            f"Found {sum(map(bool, answers))} answers for {len(samples)} samples; expected"
            " one of at least a token each; pass them in the same order."
        )
    return answers


def own_answers(
    lvlm: LVLM,
    count: int,
    sample: Callable[[int], Sample],
    run: Run = QUIET,
) -> list[tuple[int, ...]]:
    """The model's greedy answers as token ids, end tokens included, cut at `MAX_ANSWER` and where
    one opens a picture.

    Samples of equal shapes are decoded together, so that nothing is padded.

    count: the number of samples.
    sample: index -> sample; called again when its turn comes, so that none has to stay in memory.
    run: progress and cancellation.

    Raises Cancelled.
    """
    answers: dict[int, tuple[int, ...]] = {}
    inputs = (sample(index).inputs for index in range(count))
    groups = unpadded(inputs, lvlm.most_together(BATCH))

    def answered(members: list[int], alone: Run) -> list[tuple[int, ...]]:
        alone.report(len(answers) / count, "the full model answers")
        batch = [sample(index) for index in members]
        return answers_together(lvlm, batch, MAX_ANSWER, alone)

    for members, ids in zip(groups, run.deal(groups, answered), strict=True):
        answers.update(zip(members, ids, strict=True))
    return [before_pictures(lvlm, answers[index]) for index in range(count)]


def by_loss(request: Request) -> Measured:
    """SLEB: greedy on the mean loss (nats/token) of the answers' tokens (arXiv 2402.09025)."""
    reference = _reference(request, predictions=False)
    quiet = request.run.silent()
    return _greedy(request, lambda model: reference.mean_loss(model, quiet))


def by_kl(request: Request) -> Measured:
    """Greedy on the mean KL(full || without), nats/token, over the answers' tokens."""
    reference = _reference(request, predictions=True)
    quiet = request.run.silent()
    return _greedy(request, lambda model: reference.mean_kl(model, quiet))


def _reference(request: Request, predictions: bool) -> Reference:
    """What the models without a layer are measured against."""
    return Reference.of(
        request.model,
        request.samples,
        answers_of(request),
        batch_size=BATCH,
        predictions=predictions,
        spool=request.trace.spool,
        run=request.run.silent(),
    )


def without(
    lvlm: LVLM,
    layers: Sequence[int],
) -> LVLM:
    """`lvlm` without some of its layers, sharing all tensors."""
    return without_parts(lvlm, Parts(tuple(layers)))


def without_parts(
    lvlm: LVLM,
    parts: Parts,
) -> LVLM:
    """`lvlm` without some of its layers and of their halves, sharing all tensors."""
    keep = [layer for layer in range(lvlm.num_layers) if layer not in set(parts.layers)]
    view = skeleton.with_layers(lvlm.model, keep)
    halves.skip(view, ATTENTION, [keep.index(layer) for layer in parts.attention])
    halves.skip(view, MLP, [keep.index(layer) for layer in parts.mlp])
    return lvlm.with_model(
        view,
        [lvlm.layer_ids[layer] for layer in keep],
        lvlm.provenance,
    )


def _greedy(
    request: Request,
    measure: Callable[[LVLM], np.ndarray],
) -> Measured:
    """Drops, round by round, the unit (layer, or half) whose absence leaves the lowest mean
    measure; all others are measured again each round.

    The first round tries protected units too, so that they have a score, but for those that the
    model cannot run without.

    measure: a model with fewer units -> (n,) each sample's measure.
    Returns sums (n, R, U): each sample's measure in each of R rounds without each of U units and
    those gone before; NaN where it was not tried. `greedy.follow` reads them.
    """
    lvlm = request.model
    depth = request.depth
    count = len(request.samples)
    free = [unit for unit in range(depth) if unit not in request.protected]
    rounds = rounds_of(request, depth)
    first_round = sorted({*free, *request.protected} - {*request.fixed})
    tries = sum(len(free) - number for number in range(rounds))
    tries += len(first_round) - len(free)
    shape = count, rounds, depth
    untried = empty_tensor(shape, torch.float64, request.trace.spool).fill_(torch.nan)
    sums = untried.numpy()
    counts = np.ones(count)
    done = 0
    gone: list[int] = []
    kind = "layers" if request.granularity == LAYER else "halves"

    def tried(unit: int, run: Run) -> np.ndarray:
        run.step(done / tries, f"{len(gone)} {kind} gone, trying {_in_words(request, unit)}")
        parts = parted([*gone, unit], request.granularity)
        return measure(without_parts(lvlm, parts))

    for number in range(rounds):
        row = sums[:, number]
        left = [unit for unit in free if unit not in gone]
        trying = left if gone else first_round
        for unit, values in zip(trying, request.run.deal(trying, tried), strict=True):
            row[:, unit] = values
            done += 1
        gone += lowest(Measured(row, counts).mean(), left)[:1]
    return Measured(sums, counts)


def _in_words(request: Request, unit: int) -> str:
    """A unit of the request, such as "layer 3" or "3 attention"."""
    return f"layer {unit}" if request.granularity == LAYER else half_in_words(unit)


@torch.inference_mode()
def frozen_divergence(request: Request) -> Measured:
    """ShortV's layer contribution: KL(frozen || full) in nats at the last prompt position, with one
    layer's update of the visual tokens undone (arXiv 2504.00502).

    The direction is that of the authors' code, where the frozen model's probabilities are the
    target of the divergence and the full model's log-probabilities its input (repository
    icip-cas/ShortV, commit 9cc78e8, llava/model/language_model/llava_llama.py). Everywhere else in
    this project the full model comes first.

    Returns sums (n, L). A sample without visual tokens does not count.
    """
    lvlm = request.model
    layers = lvlm.layers
    depth = lvlm.num_layers
    count = len(request.samples)
    sums = np.zeros((count, depth))
    counts = np.zeros(count)

    def diverged(number: int, run: Run) -> np.ndarray | None:
        sample = request.samples[number]
        visual = torch.as_tensor(np.array(sample.visual), device=lvlm.device)
        if not len(visual):
            return None
        divergence = np.zeros(depth)
        full = _read(lvlm, sample)
        for layer in range(depth):
            run.check()
            with _frozen(layers[layer], visual, lvlm.text_config):
                frozen = _last_logits(lvlm, sample, full, layer)
            divergence[layer] = float(kl_per_token(frozen, full.logits))
            share = (number + (layer + 1) / depth) / count
            run.report(share, f"sample {number + 1}, layer {layer}")
        return divergence

    for number, divergence in enumerate(request.run.deal(range(count), diverged)):
        if divergence is not None:
            sums[number] = divergence
            counts[number] = 1
    return Measured(sums, counts)


def _read(lvlm: LVLM, sample: Sample) -> Decoding:
    """The model's pass over a prompt, of which every layer's input is kept."""
    return Decoding(
        lvlm,
        sample.inputs,
        features=sample.features,
        keep=range(lvlm.num_layers),
    )


def _last_logits(
    lvlm: LVLM,
    sample: Sample,
    read: Decoding,
    layer: int,
) -> torch.Tensor:
    """(1, vocabulary) predictions after the prompt's last position, of a pass that goes on from
    `read` at `layer`, where the family's passes can begin there.
    """
    least = shared_from(lvlm.family, lvlm.model.config)
    if read.prefill is None or least is None or layer < least:
        return Decoding(lvlm, sample.inputs, features=sample.features).logits
    return Decoding(lvlm, sample.inputs, resume=(read.prefill, layer)).logits


@contextlib.contextmanager
def _frozen(
    layer: torch.nn.Module,
    visual: torch.Tensor,
    text,
):
    """While open, in this thread, `layer` hands the visual positions on as they came."""

    def freeze(args, kwargs, output):
        hidden = hidden_of(output).clone()
        entered = positioned(hidden_input(args, kwargs), text)
        positioned(hidden, text)[..., visual, :] = entered[..., visual, :]
        return with_hidden(output, hidden)

    with ThreadHooks() as hooks:
        hooks.on_output(layer, freeze)
        yield
