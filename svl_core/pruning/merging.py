"""Compensation by merging: the dropped layers' weights go into the layer that stays before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import Module, Parameter

from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.skeleton import assign, materialized
from svl_core.pruning.refit import check_floating
from svl_core.pruning.view import gaps_of, places_of

Parts = Iterator[tuple[str, Module]]
"""Modules of a decoder layer with their names in it."""

Numbers = Iterator[tuple[str, Parameter]]
"""Parameters of a module with their names in it."""


def collapse(full: LVLM, pruned: LVLM) -> list[int]:
    """Merges every dropped run into the layer before it, in a pruned view; returns those layers'
    ids.

    W_r <- W_r + sum over the run's layers k of (W_k - W_r), for the weights and biases of all
    projections; norms stay the retained layer's.

    Taken from the paper: this sum of differences ("reserving differences while seeking common"). In
    the authors' notebooks each difference is taken to what has been merged so far, by which the sum
    telescopes and the last dropped layer's projections take the place of the retained one's; the
    paper's formula is followed here. Left out: its choice of layers, by which a merge is undone
    where the output turns too far, for the plan is given here. Sliding-Window Merging (arXiv
    2502.19159) has the same sum in its code and differs in that choice alone.

    full: the model that `pruned` is a view of.

    Source: LaCo, arXiv 2402.11187. A run at the start has no layer before it and is dropped as it
    is. Raises InputError for layers of different shapes and for quantised weights.
    """
    keep = places_of(full, pruned)
    edited = []
    for first, last in gaps_of(full, pruned):
        place = keep.index(first - 1)
        after = last + 1
        dropped = list(full.layers[first:after])
        _merge(pruned.layers[place], dropped)
        edited.append(pruned.layer_ids[place])
    return edited


def _merge(
    retained: Module,
    dropped: Sequence[Module],
) -> None:
    """Gives a view's layer the sum of its projections and their differences to `dropped`."""
    shapes = _shapes(retained)
    if any(_shapes(layer) != shapes for layer in dropped):
        raise InputError(
            "Found layers of different shapes to merge; expected equal ones, whose weights can be"
            " added; choose another compensation or other layers."
        )
    for name, projection in _projections(retained):
        others = [layer.get_submodule(name) for layer in dropped]
        merged = {}
        for leaf, parameter in _present(projection):
            own = _numbers(projection, leaf)
            total = own.clone()
            for other in others:
                total += _numbers(other, leaf)
                total -= own
            merged[leaf] = total.to(parameter.dtype)
        assign(projection, **merged)


def _projections(layer: Module) -> Parts:
    """Those that hold a matrix: linear maps, and experts whose weights are one tensor."""
    for name, module in layer.named_modules():
        dimensions = [parameter.dim() for _, parameter in _present(module)]
        if max(dimensions, default=0) > 1:
            yield name, module


def _present(module: Module) -> Numbers:
    """A module's own parameters."""
    return module.named_parameters(recurse=False)


def _shapes(layer: Module) -> dict[str, torch.Size]:
    """The shape of every parameter of the layer's projections."""
    shapes = {}
    for name, module in _projections(layer):
        for leaf, parameter in _present(module):
            shapes[f"{name}.{leaf}"] = parameter.shape
    return shapes


def _numbers(
    module: Module,
    leaf: str,
) -> torch.Tensor:
    """A parameter's numbers, float64."""
    if leaf == "weight":
        check_floating(module)
    parameter = materialized(module, leaf)
    assert parameter is not None, "the module has this parameter"
    return parameter.detach().double()
