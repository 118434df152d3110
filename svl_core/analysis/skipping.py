"""Criteria that run the model: layers skipped one by one and re-scored (SLEB, greedy KL), or frozen
on visual tokens (ShortV).

All are measured against given answers (token ids; by default the full model's own greedy ones),
read under teacher forcing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from svl_core.analysis.criterion import Measured, Request
from svl_core.analysis.greedy import lowest
from svl_core.errors import InputError
from svl_core.lvlm import skeleton
from svl_core.lvlm.batching import unpadded
from svl_core.lvlm.decoding import answers_together
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

MAX_ANSWER = 32  # tokens of an answer that is not given
BATCH = 32  # samples in one forward pass


def answers_of(request: Request) -> list[tuple[int, ...]]:
    """The request's answers, or the model's own greedy ones, at most `MAX_ANSWER` tokens.

    Raises InputError where counts differ.
    """
    if request.answers is None:
        return own_answers(
            request.lvlm,
            len(request.samples),
            request.samples.__getitem__,
            request.run.silent(),
        )
    answers = [tuple(int(token) for token in ids) for ids in request.answers]
    if len(answers) != len(request.samples) or not all(answers):
        raise InputError(
            f"Found {sum(map(bool, answers))} answers for {len(request.samples)} samples; expected"
            " one of at least a token each; pass them in the same order."
        )
    return answers


def own_answers(
    lvlm: LVLM,
    count: int,
    sample: Callable[[int], Sample],
    run: Run = QUIET,
) -> list[tuple[int, ...]]:
    """The model's greedy answers to the samples 0 .. count - 1 as token ids, end tokens included,
    cut at `MAX_ANSWER`.

    Samples of equal shapes are decoded together, so that nothing is padded, and asked for again
    when their turn comes. Raises Cancelled.
    """
    found: dict[int, tuple[int, ...]] = {}
    for members in unpadded((sample(number).inputs for number in range(count)), BATCH):
        run.report(len(found) / count, "the full model answers")
        found |= zip(
            members,
            answers_together(
                lvlm,
                [sample(number) for number in members],
                MAX_ANSWER,
                run,
            ),
        )
    return [found[number] for number in range(count)]


def by_loss(request: Request) -> Measured:
    """SLEB: greedy on the mean loss (nats/token) of the answers' tokens."""
    reference = _reference(request, predictions=False)
    return _greedy(
        request,
        lambda model: reference.mean_loss(model, request.run.silent()),
    )


def by_kl(request: Request) -> Measured:
    """Greedy on the mean KL(full || without), nats/token, over the answers' tokens."""
    reference = _reference(request, predictions=True)
    return _greedy(
        request,
        lambda model: reference.mean_kl(model, request.run.silent()),
    )


def _reference(request: Request, predictions: bool) -> Reference:
    """What the models without a layer are measured against."""
    return Reference.of(
        request.lvlm,
        request.samples,
        answers_of(request),
        batch_size=BATCH,
        predictions=predictions,
        spool=request.trace.spool,
        run=request.run.silent(),
    )


def without(lvlm: LVLM, layers: Sequence[int]) -> LVLM:
    """`lvlm` without some of its layers, sharing all tensors."""
    keep = [layer for layer in range(lvlm.num_layers) if layer not in set(layers)]
    return lvlm.with_model(
        skeleton.with_layers(lvlm.model, keep),
        [lvlm.layer_ids[layer] for layer in keep],
        lvlm.provenance,
    )


def _greedy(request: Request, measure: Callable[[LVLM], np.ndarray]) -> Measured:
    """Drops, round by round, the layer whose absence leaves the lowest mean measure; all others are
    measured again each round.

    sums (n, R, L): each sample's measure in each of the rounds without that layer and those gone
    before; NaN where it was not tried. The first round tries protected layers too, but for those
    that the model cannot lose. Read by `greedy.follow`.
    """
    depth = request.lvlm.num_layers
    n = len(request.samples)
    free = [layer for layer in range(depth) if layer not in request.protected]
    rounds = max(
        1,
        min(
            len(free) if request.rounds is None else request.rounds,
            len(free),
            depth - 1,
        ),
    )
    total = sum(len(free) - k for k in range(rounds)) + len(request.protected) - len(request.fixed)
    done = 0
    gone = []
    sums = (
        empty_tensor((n, rounds, depth), torch.float64, request.trace.spool)
        .fill_(torch.nan)
        .numpy()
    )
    for row in sums.swapaxes(0, 1):
        left = [layer for layer in free if layer not in gone]
        for layer in left if gone else sorted({*free, *request.protected} - {*request.fixed}):
            request.run.step(
                done / total,
                f"{len(gone)} layers gone, trying layer {layer}",
            )
            row[:, layer] = measure(without(request.lvlm, [*gone, layer]))
            done += 1
        gone += lowest(Measured(row, np.ones(n)).mean(), left)[:1]
    return Measured(sums, np.ones(n))


@torch.inference_mode()
def frozen_divergence(request: Request) -> Measured:
    """ShortV's layer contribution: KL(full || frozen) in nats at the last prompt position, with one
    layer's update of the visual tokens undone, for each sample and layer: sums (n, L). A sample
    without visual tokens does not count.
    """
    lvlm = request.lvlm
    rows = []
    counts = []
    for number, sample in enumerate(request.samples):
        visual = torch.as_tensor(np.array(sample.visual), device=lvlm.device)
        full = _last_logits(lvlm, sample)
        row = np.zeros(lvlm.num_layers)
        for layer in range(lvlm.num_layers) if len(visual) else ():
            request.run.check()
            with _frozen(lvlm.layers[layer], visual):
                row[layer] = float(kl_per_token(full, _last_logits(lvlm, sample)))
            request.run.report(
                (number + (layer + 1) / lvlm.num_layers) / len(request.samples),
                f"sample {number + 1}, layer {layer}",
            )
        rows.append(row)
        counts.append(float(len(visual) > 0))
    return Measured(np.array(rows), np.array(counts))


def _last_logits(lvlm: LVLM, sample: Sample) -> torch.Tensor:
    last = torch.tensor([sample.length - 1], device=lvlm.device)  # as in `trace`
    return lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=last).logits[0, -1:]


@contextlib.contextmanager
def _frozen(layer: torch.nn.Module, visual: torch.Tensor):
    """While open, in this thread, `layer` hands the visual positions on as they came."""

    def freeze(args, kwargs, output):
        hidden = hidden_of(output).clone()
        hidden[..., visual, :] = hidden_input(args, kwargs)[..., visual, :]
        return with_hidden(output, hidden)

    with ThreadHooks() as hooks:
        hooks.on_output(layer, freeze)
        yield
