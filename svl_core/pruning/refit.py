"""Refit: from the first dropped run on, every retained layer's output projections are fitted anew,
in closed form and in order: the MLP's alone, or the MLP's and then the attention's.

Least squares per run bridges each gap with the full model's features before it, which the pruned
model no longer has after the first gap. Here each layer is fitted on what the pruned model, edited
so far, really feeds it, toward what the full model has at that depth, on the prompts and the
model's own answers to them, with weight on the positions that predict the answers. No gradient.

A fit of the attention's output leaves out that the layer's MLP reads it. Where both are fitted the
MLP's therefore goes first and takes the larger part of what lacks; on the bundled model, without 8
of 16 layers, this keeps half a point to two points more of the scenes than the other order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from svl_core.analysis.memo import Memo
from svl_core.analysis.skipping import own_answers
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.batching import unpadded
from svl_core.lvlm.hooks import captured_calls
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.replay import Recording, record
from svl_core.lvlm.roles import Ending, attention_end, feed_forward_end, feed_forward_endings
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.skeleton import assign, materialized
from svl_core.lvlm.spool import store_values, value_store
from svl_core.lvlm.vision import together
from svl_core.progress import QUIET, Run

ANSWERING = 0.7
"""The share of refit's progress that the full model's answers take."""

ORDER = ("mlp", "attention")
"""A layer's projections in the order in which they are fitted."""

BATCH = 16
"""Samples in one pass at most; they are of equal length, so that nothing is padded."""


@dataclass(frozen=True, eq=False)
class AnsweredBatch:
    """The full model's pass over B prompts of equal length with its answers behind them.

    recording: what every layer was given.
    answer_tokens: for each prompt the number of its answer's tokens.
    """

    recording: Recording
    answer_tokens: tuple[int, ...]


_BATCHES = Memo(1)
"""Of a calibration trace: its samples with answers."""


def projection(
    layer: torch.nn.Module,
    target: str,
) -> torch.nn.Module:
    """The linear map whose output `target` ("mlp" or "attention") adds to the residual stream.

    Raises InputError where there is no single one.
    """
    if target == "mlp":
        return feed_forward_end(layer)
    return attention_end(layer)


def projections(
    layer: torch.nn.Module,
    targets: Sequence[str],
) -> list[torch.nn.Module]:
    """The target projections that a layer has, in the order in which they are fitted.

    Layers of hybrid decoders lack one of both: there the other is fitted alone. Raises InputError
    where there is none.
    """
    found = []
    lacking: InputError | None = None
    for target in (name for name in ORDER if name in targets):
        try:
            found.append(projection(layer, target))
        except InputError as error:
            lacking = error
    if lacking is not None and not found:
        raise lacking
    return found


def endings(
    layer: torch.nn.Module,
    target: str,
) -> list[Ending]:
    """All weights whose outputs together are what `target` adds to the residual stream: those of
    every expert too.

    Raises InputError where they are not known.
    """
    if target == "mlp":
        return feed_forward_endings(layer)
    return [Ending(attention_end(layer))]


def check_floating(
    module: torch.nn.Module,
    name: str = "weight",
) -> None:
    """Raises InputError for a projection whose weights cannot be edited. name: of the weight."""
    weight = module.get_parameter(name)
    if not weight.is_floating_point() or hasattr(weight, "quant_state"):
        raise InputError(
            "Found quantised weights; expected floating-point ones to compensate; load the model"
            " without quantisation or use compensation 'none'."
        )


def solved(
    gram: torch.Tensor,
    cross: torch.Tensor,
    ridge: float,
) -> torch.Tensor:
    """D^T for D = argmin |A D - R|^2 + lambda |D|^2, float64.

    gram: (f, f) A^T A. cross: (f, d) A^T R. ridge: lambda in units of the mean diagonal of A^T A.
    """
    scale = ridge * gram.diagonal().mean()
    eye = torch.eye(len(gram)).to(gram)
    penalty = scale * eye
    return torch.linalg.solve(gram + penalty, cross).T


def answered_batches(
    full: LVLM,
    calibration: Trace,
    run: Run = QUIET,
) -> Sequence[AnsweredBatch]:
    """The full model's passes over the calibration samples and its own answers to them.

    Samples of equal length go together. The passes lie where the trace's samples lie, and are made
    once for each trace. Raises InputError for a trace without its samples and for a model whose
    inputs an answer cannot lengthen; Cancelled.
    """
    return _BATCHES.of(calibration, (), lambda: _answered_batches(full, calibration, run))


def _answered_batches(full: LVLM, calibration: Trace, run: Run) -> Sequence[AnsweredBatch]:
    """`answered_batches`, made."""

    def sample_of(number: int) -> Sample:
        sample = calibration.samples[number].sample
        if sample is None:
            raise InputError(
                "Found a calibration trace without its samples; expected them for compensation"
                " 'refit'; trace them again."
            )
        return sample

    lengthened(sample_of(0), (0,))  # refuses such a model before the work
    answers = own_answers(
        full,
        len(calibration.samples),
        sample_of,
        run,
    )
    inputs_of = (lengthened(sample_of(number), ids) for number, ids in enumerate(answers))
    groups = unpadded(inputs_of, full.most_together(BATCH))
    batches = value_store(len(groups), calibration.spool)
    for place, members in enumerate(groups):
        inputs = [lengthened(sample_of(number), answers[number]) for number in members]
        joined = {name: torch.cat([of_sample[name] for of_sample in inputs]) for name in inputs[0]}
        answer_tokens = tuple(len(answers[number]) for number in members)
        features = together([sample_of(number) for number in members])
        batches[place] = AnsweredBatch(record(full, joined, features), answer_tokens)
    return batches


@torch.inference_mode()
def refit(
    full: LVLM,
    pruned: LVLM,
    calibration: Trace,
    *,
    ridge: float,
    answer_weight: float,
    targets: Sequence[str] = ("mlp",),
    run: Run = QUIET,
) -> list[int]:
    """Gives a pruned view new output projections from the layer before the first dropped run on;
    returns those layers' ids.

    full: the model that `pruned` is a view of.
    calibration: a trace of `full` with its samples.
    ridge: lambda below in units of the mean diagonal, 0 or more.
    answer_weight: what an answer's positions count together beside 1 each, 0 or more.
    targets: the projections that are fitted, "mlp", "attention" or both; the attention's is fitted
        on what the layer gives after the MLP's. A layer that lacks one is fitted with the other.

    W <- W + D^T, D = argmin sum_t w_t |a_t D - r_t|^2 + lambda |D|^2 with a (f) what enters the
    projection, r what then still lacks to the full model's feature at the depth reached (behind the
    dropped run, where one follows). w = 1 for each position, and `answer_weight` more, shared among
    those that predict the answer's tokens. Memory: features of all layers and samples, in files
    where the trace is. A run at the start has no layer before it: there the first retained layer is
    the first to be fitted. Raises InputError, Cancelled.
    """
    ids = full.layer_ids
    keep = [ids.index(ident) for ident in pruned.layer_ids]
    depth_after = [*keep[1:], len(ids)]
    first = _first_fitted(keep, depth_after)
    if first is None:
        return []
    batches = answered_batches(
        full,
        calibration,
        run.part(0, ANSWERING),
    )
    depth = keep[first] if keep[0] == 0 else 0
    entering = (batch.recording.states[depth] for batch in batches)
    states = store_values(entering, len(batches), calibration.spool)
    retained = list(zip(keep, depth_after, pruned.layers, strict=True))
    fitted = retained[first:]
    refitting = run.part(ANSWERING, 1)
    for number, (layer, after, module) in enumerate(fitted):
        run.check("Stopped before the model was compensated.")
        refitting.report(number / len(fitted), f"refitting layer {ids[layer]}")
        if any(batch.recording.calls[layer] is None for batch in batches):
            # the model passes over this layer: it learns nothing
            continue
        for linear in projections(module, targets):
            check_floating(linear)
            gram, cross = _moments(
                linear,
                module,
                layer,
                after,
                batches,
                states,
                answer_weight,
            )
            _add_to_weight(linear, solved(gram, cross, ridge))
        leaving = (
            batch.recording.step(module, layer, state)
            for batch, state in zip(batches, states, strict=True)
        )
        states = store_values(leaving, len(batches), calibration.spool)
    return [ids[layer] for layer, _, _ in fitted]


def _add_to_weight(
    linear: torch.nn.Module,
    change: torch.Tensor,
) -> None:
    """W <- W + change, in float64; a new Parameter in the weight's dtype is assigned."""
    weight = materialized(linear, "weight")
    if weight is not None:
        edited = weight.double().cpu() + change
        assign(linear, weight=edited.to(weight))


def _first_fitted(
    keep: Sequence[int],
    depth_after: Sequence[int],
) -> int | None:
    """Which retained layer is the first before a dropped run; None where nothing is dropped.

    keep: the retained layers. depth_after: for each the depth at which the next one begins.
    """
    if keep[0]:
        return 0
    for number, (layer, after) in enumerate(zip(keep, depth_after, strict=True)):
        if after != layer + 1:
            return number
    return None


def _position_weights(
    shape: torch.Size, answer_tokens: Sequence[int], answer_weight: float
) -> torch.Tensor:
    """(B x S, 1) float64: what each position of B sequences counts.

    answer_tokens: for each sequence how many of its last positions predict an answer's token.
    """
    weight = torch.ones(shape, dtype=torch.float64)
    for row, count in zip(weight, answer_tokens, strict=True):
        row[-count:] += answer_weight / count
    return weight.flatten()[:, None]


def _moments(
    linear: torch.nn.Module,
    module: torch.nn.Module,
    layer: int,
    after: int,
    batches: Sequence[AnsweredBatch],
    states: Sequence[torch.Tensor],
    answer_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A^T A (f, f) and A^T R (f, d), weighted, over all samples, float64.

    linear: the projection of `module` whose inputs are A. R is what the layer's output lacks.
    """
    gram = cross = torch.zeros((), dtype=torch.float64)
    with captured_calls(linear) as calls:
        for batch, state in zip(batches, states, strict=True):
            recording = batch.recording
            weight = _position_weights(
                state.shape[:2],
                batch.answer_tokens,
                answer_weight,
            )
            reached = recording.step(module, layer, state)
            lacking = recording.states[after] - reached
            (entered,), _ = calls.pop()
            missing = _rows(lacking)
            entering = _rows(entered)
            gram = gram + entering.T @ (weight * entering)
            cross = cross + entering.T @ (weight * missing)
    return gram, cross


def _rows(states: torch.Tensor) -> torch.Tensor:
    """(B, S, f) -> (B x S, f) float64, in memory; layers may have joined B and S before (OPT)."""
    return states.reshape(-1, states.shape[-1]).double().cpu()
