"""Compensation by concatenation: the layer before a dropped run becomes a layer of the same size
that holds the most sensitive heads and neurons of itself and of the layers that go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.arithmetic import last_position
from svl_core.lvlm.hooks import InputAction, ThreadHooks
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.skeleton import assign, materialized
from svl_core.lvlm.vision import forward
from svl_core.progress import Run
from svl_core.pruning.refit import check_floating
from svl_core.pruning.view import gaps_of, places_of

HEADS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUT = "self_attn.o_proj"
NEURONS = ("mlp.gate_proj", "mlp.up_proj")
DOWN = "mlp.down_proj"
PROJECTIONS = (*HEADS, OUT, *NEURONS, DOWN)


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What one layer's channels bring to the residual stream on the calibration samples.

    heads: (K,) for each key-value head with its queries; neurons: (f,) for each of the MLP's.
    """

    heads: Tensor
    neurons: Tensor


def channel_sensitivity(entering: Tensor, weight: Tensor) -> Tensor:
    """(f,) mean |x_j| |W_:j|_1 of each channel j of a linear map's input.

    entering: (f,) the mean over tokens of |x_j|. weight: (d, f).

    Source: CoMe, arXiv 2510.15304, as the authors' public code has it.
    """
    reach = weight.double().abs().sum(0)
    return entering * reach


def shared_out(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `count` and are as near to the shares as can be.

    shares: 0 or more, their sum above 0. What rounding down leaves goes to the largest remainders.
    """
    total = sum(shares)
    wanted = [count * share / total for share in shares]
    numbers = [int(each) for each in wanted]
    remainders = [each - whole for each, whole in zip(wanted, numbers, strict=True)]
    order = sorted(range(len(shares)), key=lambda place: -remainders[place])
    for place in order[: count - sum(numbers)]:
        numbers[place] += 1
    return numbers


def concatenate(
    full: LVLM,
    pruned: LVLM,
    trace: Trace,
    run: Run,
) -> list[int]:
    """Gives the layer before every dropped run of a pruned view the most sensitive heads and
    neurons of itself and of the run's layers; returns those layers' ids.

    Of the layer's K key-value heads and f neurons each member keeps a share in proportion to its
    influence, the mean over tokens of 1 - cos(H[l], H[l+1]); which ones, their sensitivity says.
    Norms are the members' mean. The layer keeps its shape and cost.

    Taken from the paper and its public code: the sensitivity, the shares, the concatenation, the
    mean of the norms. Left out: its choice of layers, two neighbours at a time with all measured
    anew, for the plan is given here; and its distillation, for nothing is trained here. Where
    several queries share a key, the code gathers queries of other keys; here they stay with theirs.

    full: the model that `pruned` is a view of.
    trace: of `full`, with its samples.
    run: reports and cancels.

    Source: CoMe, arXiv 2510.15304. A run at the start has no layer before it and is dropped as it
    is. Raises InputError for layers that are not built of these projections or of other shapes, for
    quantised weights and for a trace without its samples; Cancelled.
    """
    runs = gaps_of(full, pruned)
    members = sorted({layer for first, last in runs for layer in range(first - 1, last + 1)})
    for layer in members:
        _check(full.layers[layer], full.layers[members[0]])
    if not members:
        return []
    found = _sensitivities(
        full,
        members,
        trace,
        run,
    )
    influence = _influences(trace)
    keep = places_of(full, pruned)
    edited = []
    for first, last in runs:
        group = range(first - 1, last + 1)
        place = keep.index(first - 1)
        _merge(
            pruned.layers[place],
            [full.layers[layer] for layer in group],
            [found[layer] for layer in group],
            [influence[layer] for layer in group],
        )
        edited.append(pruned.layer_ids[place])
    return edited


def _check(layer: Module, other: Module) -> None:
    """Raises InputError for a layer that cannot be put together with another one."""
    kind = type(layer).__name__
    if not hasattr(getattr(layer, "self_attn", None), "head_dim"):
        raise InputError(
            f"Found an attention in {kind} that does not tell its heads' width; expected one that"
            " does, to put heads together; choose another compensation."
        )
    for name in PROJECTIONS:
        try:
            projection = layer.get_submodule(name)
            shape = projection.get_parameter("weight").shape
            expected = other.get_submodule(name).get_parameter("weight").shape
        except AttributeError:
            raise InputError(
                f"Found no {name} in {kind}; expected {', '.join(PROJECTIONS)}, whose heads and"
                " neurons can be put together; choose another compensation."
            ) from None
        check_floating(projection)
        if shape != expected:
            raise InputError(
                f"Found layers of different shapes to put together ({name}); expected equal ones;"
                " choose another compensation or other layers."
            )


def _influences(trace: Trace) -> list[float]:
    """For each layer the mean over all tokens of 1 - cos(H[l], H[l+1]), 0..1."""
    totals = [0.0] * trace.num_layers
    tokens = 0
    for sample in trace.samples:
        features = sample.features
        tokens += len(features[0])
        for layer in range(trace.num_layers):
            entering = features[layer].double()
            leaving = features[layer + 1].double()
            cosine = torch.cosine_similarity(
                entering,
                leaving,
                dim=-1,
            )
            totals[layer] += float((1 - cosine).clamp(0, 1).sum())
    return [total / tokens for total in totals]


def _sensitivities(
    full: LVLM,
    layers: Sequence[int],
    trace: Trace,
    run: Run,
) -> dict[int, Sensitivity]:
    """The sensitivity of each of these layers, in one pass a sample."""
    sums: dict[tuple[int, str], Tensor] = {}
    tokens = 0

    def entering(layer: int, name: str) -> InputAction:
        def action(args, kwargs):
            rows = args[0].flatten(0, -2).abs()
            added = rows.double().sum(0).cpu()
            sums[layer, name] = sums.get((layer, name), 0) + added

        return action

    for number, traced in enumerate(trace.samples):
        run.check("Stopped before the model was compensated.")
        run.report(number / len(trace.samples), "measuring heads and neurons")
        sample = traced.sample
        if sample is None:
            raise InputError(
                "Found a calibration trace without its samples; expected them for compensation"
                " 'come'; trace them again."
            )
        length = sample.inputs["input_ids"].shape[1]
        tokens += length
        with ThreadHooks() as hooks, torch.inference_mode():
            for layer in layers:
                for name in (OUT, DOWN):
                    linear = full.layers[layer].get_submodule(name)
                    hooks.on_input(linear, entering(layer, name))
            last = last_position(full.dtype, full.device, length)
            forward(
                full,
                sample.inputs,
                sample.features,
                use_cache=False,
                logits_to_keep=last,
            )
    found = {}
    for layer in layers:
        by_name = {}
        for name in (OUT, DOWN):
            linear = full.layers[layer].get_submodule(name)
            weight = _numbers(linear, "weight")
            by_name[name] = channel_sensitivity(sums[layer, name] / tokens, weight)
        heads = by_name[OUT].reshape(_key_heads(full.layers[layer]), -1)
        found[layer] = Sensitivity(heads.mean(1), by_name[DOWN])
    return found


def _key_heads(layer: Module) -> int:
    """How many heads of keys and values a layer has."""
    rows = layer.get_submodule(HEADS[1]).get_parameter("weight").shape[0]
    attention = layer.get_submodule("self_attn")
    width = int(attention.head_dim)  # type: ignore[arg-type]
    return rows // width


def _numbers(module: Module, leaf: str) -> Tensor:
    """A parameter's numbers, on the CPU."""
    parameter = materialized(module, leaf)
    assert parameter is not None, "the module has this parameter"
    return parameter.detach().cpu()


def _merge(
    view: Module,
    layers: Sequence[Module],
    found: Sequence[Sensitivity],
    influence: Sequence[float],
) -> None:
    """Gives a view's layer the parts of `layers` that count most.

    influence: of each layer, 0..1.
    """
    heads = _most([each.heads for each in found], influence)
    neurons = _most([each.neurons for each in found], influence)
    for name in (*HEADS, OUT):
        _gather(view, layers, name, heads, influence, ends=name == OUT)
    for name in (*NEURONS, DOWN):
        _gather(view, layers, name, neurons, influence, ends=name == DOWN)
    _average_norms(view, layers)


def _most(
    sensitivity: Sequence[Tensor],
    influence: Sequence[float],
) -> list[Tensor]:
    """For each layer which of its units stay, in their own order."""
    counts = shared_out(len(sensitivity[0]), influence)
    chosen = []
    for values, count in zip(sensitivity, counts, strict=True):
        order = values.argsort(descending=True, stable=True)
        chosen.append(order[:count].sort().values)
    return chosen


def _gather(
    view: Module,
    layers: Sequence[Module],
    name: str,
    units: Sequence[Tensor],
    influence: Sequence[float],
    *,
    ends: bool,
) -> None:
    """Puts one projection together.

    units: for each layer those of its heads or neurons that stay.
    ends: whether units are the projection's input (its columns) rather than its output (its rows).
    """
    projections = [layer.get_submodule(name) for layer in layers]
    count = sum(len(each) for each in units)
    made: dict[str, Tensor] = {}
    for leaf, own in view.get_submodule(name).named_parameters(recurse=False):
        parts = [_numbers(projection, leaf) for projection in projections]
        if leaf == "weight" or not ends:
            axis = 1 if ends and leaf == "weight" else 0
            wide = parts[0].shape[axis] // count
            kept = []
            for part, chosen in zip(parts, units, strict=True):
                by_unit = part.unflatten(axis, (count, wide))
                few = by_unit.index_select(axis, chosen)
                kept.append(few.flatten(axis, axis + 1))
            made[leaf] = torch.cat(kept, axis).to(own)
        else:
            weights = torch.tensor(influence) / sum(influence)
            stacked = torch.stack(parts)
            made[leaf] = (weights @ stacked.to(weights)).to(own)
    assign(view.get_submodule(name), **made)


def _average_norms(view: Module, layers: Sequence[Module]) -> None:
    """Every other parameter of a layer, its norms', becomes the layers' mean."""
    for name, module in list(view.named_modules()):
        if name in PROJECTIONS:
            continue
        made = {}
        for leaf, own in module.named_parameters(recurse=False):
            parts = [_numbers(layer.get_submodule(name), leaf).double() for layer in layers]
            made[leaf] = torch.stack(parts).mean(0).to(own)
        if made:
            assign(module, **made)
