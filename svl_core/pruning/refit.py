"""Refit: from the first dropped run on, every retained layer's down-projection is fitted anew, in
closed form and in order.

Least squares per run bridges each gap with the full model's features before it, which the pruned
model no longer has after the first gap. Here each layer is fitted on what the pruned model, edited
so far, really feeds it, toward what the full model has at that depth, on the prompts and the
model's own answers to them, with weight on the positions that predict the answers. No gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from svl_core.analysis.skipping import own_answers
from svl_core.analysis.trace import Trace, down_projection
from svl_core.errors import InputError
from svl_core.lvlm.batching import unpadded
from svl_core.lvlm.hooks import captured_calls
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.replay import Recording, record
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.skeleton import assign, materialized
from svl_core.lvlm.spool import store_values, value_store
from svl_core.progress import QUIET, Run

EXTENDED = {
    "input_ids": None,
    "attention_mask": 1,
}  # inputs with an entry a position that an answer lengthens: by its ids, by ones


def lengthened(sample: Sample, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Inputs of the prompt with the token `ids` of an answer behind it, the last one left out."""
    if any(
        value.ndim >= 2 and value.shape[:2] == (1, sample.length) and name not in EXTENDED
        for name, value in sample.inputs.items()
    ):
        raise InputError(
            "Found inputs of this model that an answer cannot lengthen; expected only ids and a"
            " mask with an entry a position; choose 'lstsq', 'scp' or 'none'."
        )
    inputs = dict(sample.inputs)
    for name, value in EXTENDED.items():
        if name in inputs:
            more = (
                inputs[name].new_tensor([ids[:-1]])
                if value is None
                else inputs[name].new_full((1, len(ids) - 1), value)
            )
            inputs[name] = torch.cat([inputs[name], more], dim=1)
    return inputs


def check_floating(module: torch.nn.Module) -> None:
    """Raises InputError for a projection whose weights cannot be edited."""
    if not module.weight.is_floating_point() or hasattr(module.weight, "quant_state"):
        raise InputError(
            "Found quantised weights; expected floating-point ones to compensate; load the model"
            " without quantisation or use compensation 'none'."
        )


def solved(gram: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """argmin_D |A D - R|^2 + lambda |D|^2 from A^T A (f, f) and A^T R (f, d), float64; lambda =
    ridge x mean diagonal of A^T A. Returns D^T.
    """
    return torch.linalg.solve(
        gram
        + ridge
        * gram.diagonal().mean()
        * torch.eye(len(gram), dtype=gram.dtype, device=gram.device),
        cross,
    ).T


ANSWERING = 0.7  # of refit's progress: the full model's answers, which take most of the time
ALIKE = 16  # samples in one pass at most; they are of equal length, so that nothing is padded
_recorded: WeakKeyDictionary[Trace, Sequence[tuple[Recording, tuple[int, ...]]]] = (
    WeakKeyDictionary()
)  # a trace's samples with answers, as long as it lives


def recordings(
    full: LVLM,
    calibration: Trace,
    run: Run = QUIET,
) -> Sequence[tuple[Recording, tuple[int, ...]]]:
    """The full model's passes over the calibration samples and their answers, samples of equal
    length together, each with its answers' numbers of tokens; kept where the trace is. Raises
    InputError, Cancelled.
    """
    if calibration not in _recorded:

        def asked(number: int) -> Sample:
            if (found := calibration.samples[number].sample) is None:
                raise InputError(
                    "Found a calibration trace without its samples; expected them for compensation"
                    " 'refit'; trace them again."
                )
            return found

        lengthened(asked(0), (0,))  # refuses such a model before the work
        answers = own_answers(full, len(calibration.samples), asked, run)
        passes = unpadded(
            (lengthened(asked(number), ids) for number, ids in enumerate(answers)), ALIKE
        )
        made = value_store(len(passes), calibration.spool)
        for place, members in enumerate(passes):
            inputs = [lengthened(asked(number), answers[number]) for number in members]
            made[place] = (
                record(
                    full, {name: torch.cat([each[name] for each in inputs]) for name in inputs[0]}
                ),
                tuple(len(answers[number]) for number in members),
            )
        _recorded[calibration] = made
    return _recorded[calibration]


@torch.inference_mode()
def refit(
    full: LVLM,
    pruned: LVLM,
    calibration: Trace,
    *,
    ridge: float,
    answer_weight: float,
    run: Run = QUIET,
) -> list[int]:
    """Gives `pruned`, a view of `full`, new down-projections from the layer before the first
    dropped run on; returns those layers' ids.

    W <- W + D^T, D = argmin sum_t w_t |a_t D - r_t|^2 + ridge |D|^2 with a (f) what enters the
    projection, r what then still lacks to the full model's feature at the depth reached (behind the
    dropped run, where one follows). w = 1 for each position, and `answer_weight` more, shared among
    those that predict the answer's tokens. Memory: features of all layers and samples, in files
    where the trace is. A run at the start has no layer before it: there the first retained layer is
    the first to be fitted. Raises InputError, Cancelled.
    """
    ids, keep = full.layer_ids, [full.layer_ids.index(ident) for ident in pruned.layer_ids]
    depth_after = [*keep[1:], len(ids)]
    first = (
        0
        if keep[0]
        else next((k for k, after in enumerate(depth_after) if after != keep[k] + 1), None)
    )
    if first is None:
        return []
    passes = recordings(full, calibration, run.part(0, ANSWERING))
    states = store_values(
        (one.states[keep[first] if keep[0] == 0 else 0] for one, _ in passes),
        len(passes),
        calibration.spool,
    )
    for number, (layer, after, module) in enumerate(
        zip(keep[first:], depth_after[first:], list(pruned.layers)[first:])
    ):
        run.check("Stopped before the model was compensated.")
        share = ANSWERING + (1 - ANSWERING) * number / len(keep[first:])
        run.report(share, f"refitting layer {ids[layer]}")
        if any(
            recording.calls[layer] is None for recording, _ in passes
        ):  # passed over: it learns nothing
            continue
        projection = down_projection(module)
        check_floating(projection)
        gram, cross = _moments(module, layer, after, passes, states, answer_weight)
        weight = materialized(projection, "weight")
        assign(projection, weight=(weight.double().cpu() + solved(gram, cross, ridge)).to(weight))
        states = store_values(
            (one.step(module, layer, state) for (one, _), state in zip(passes, states)),
            len(passes),
            calibration.spool,
        )
    return [ids[layer] for layer in keep[first:]]


def _weight(shape: torch.Size, tokens: Sequence[int], answer_weight: float) -> torch.Tensor:
    """(B x S, 1) float64: what each position of B sequences counts whose last `tokens` predict an
    answer.
    """
    weight = torch.ones(shape, dtype=torch.float64)
    for row, n in zip(weight, tokens, strict=True):
        row[-n:] += answer_weight / n
    return weight.flatten()[:, None]


def _moments(
    module, layer: int, after: int, passes, states, answer_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A^T A (f, f) and A^T R (f, d), weighted, over all samples, float64."""
    gram = cross = 0.0
    with captured_calls(down_projection(module)) as calls:
        for (recording, tokens), state in zip(passes, states, strict=True):
            weight = _weight(state.shape[:2], tokens, answer_weight)
            missing = recording.states[after] - recording.step(module, layer, state)
            missing = missing.flatten(0, 1).double().cpu()
            (entered,), _ = calls.pop()
            entered = entered.flatten(0, 1).double().cpu()
            gram = gram + entered.T @ (weight * entered)
            cross = cross + entered.T @ (weight * missing)
    return gram, cross
