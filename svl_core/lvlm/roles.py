"""The linear maps that end the two parts of a decoder layer, its feed-forward and its attention: by
the names that models give them, or by their role.

The role, by shapes alone: within one module, a map from f to d whose companions, one or two, all
map from d to f or 2 f. So the end of the feed-forward is known whatever it is called (`w2`,
`feed_forward.down_proj`), while an attention has more maps, or other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from svl_core.errors import InputError
from svl_core.lvlm.families import DOWN_PROJECTIONS, OUT_PROJECTIONS, named_map

EXPERTS = "experts"
"""What modules of a mixture call those of which each position takes some."""
EXPERT_WEIGHT = "down_proj"
"""The weights that end all experts: (E, d, f), or (E, f, d) where the module says so."""
COMPANIONS = (1, 2)
"""Linear maps beside the one that ends a feed-forward: up, or gate and up."""


@dataclass(frozen=True, eq=False)
class Ending:
    """A weight whose output is added to the residual stream, alone or as one of several.

    module: that holds it.
    weight, bias: its names there; a bias only where there is one.
    transposed: whether the output is its last dimension rather than the one before it.
    """

    module: torch.nn.Module
    weight: str = "weight"
    bias: str = "bias"
    transposed: bool = False


def feed_forward_end(layer: torch.nn.Module) -> torch.nn.Module:
    """The linear map that ends a decoder layer's feed-forward.

    Raises InputError where there is no single one, naming what can be edited.
    """
    named = named_map(layer, DOWN_PROJECTIONS)
    if named is not None:
        return named
    kind = type(layer).__name__
    found = list(_ends_by_role(layer))
    if _experts(layer):
        raise InputError(
            f"Found a mixture of experts in {kind}, which no single linear map ends; expected one"
            f" to fit; choose {_instead(layer, mixture=True)}."
        )
    if len(found) != 1:
        raise InputError(
            f"Found {len(found)} linear maps that may end the feed-forward of {kind}; expected one"
            f" to edit; choose {_instead(layer, mixture=False)}."
        )
    return found[0]


def attention_end(layer: torch.nn.Module) -> torch.nn.Module:
    """The linear map that ends a decoder layer's attention. Raises InputError without one."""
    named = named_map(layer, OUT_PROJECTIONS)
    if named is None:
        raise InputError(
            f"Found no linear map that ends an attention in {type(layer).__name__}; expected one"
            " to edit, such as self_attn.o_proj; choose compensation 'none' or other targets for"
            " this model."
        )
    return named


def feed_forward_endings(layer: torch.nn.Module) -> list[Ending]:
    """All weights that together end a layer's feed-forward: one, or every expert's and the shared
    experts'. A map of their sum's output is the same map of each.

    Raises InputError where they are not known.
    """
    experts = _experts(layer)
    if not experts:
        return [Ending(feed_forward_end(layer))]
    endings = [
        Ending(module, EXPERT_WEIGHT, f"{EXPERT_WEIGHT}_bias", turned(module)) for module in experts
    ]
    return [*endings, *(Ending(module) for module in _ends_by_role(layer))]


def turned(experts: Any) -> bool:
    """Whether a module's expert weights are (E, f, d)."""
    return bool(getattr(experts, "is_transposed", False))


def _instead(layer: torch.nn.Module, mixture: bool) -> str:
    """What can be chosen where no single map ends the feed-forward, in words."""
    attention = "lstsq or refit with --targets attention, "
    offered = attention if named_map(layer, OUT_PROJECTIONS) is not None else ""
    scp = "'scp', " if mixture else ""
    return f"{scp}{offered}or compensation 'none'"


def _experts(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules of a layer that hold the weights of a mixture's experts."""
    found = []
    for path, module in layer.named_modules():
        weight = getattr(module, EXPERT_WEIGHT, None)
        named = path.rpartition(".")[2] == EXPERTS
        if named and isinstance(weight, torch.nn.Parameter) and weight.dim() == 3:
            found.append(module)
    return found


def _ends_by_role(layer: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The linear maps of a layer that by their shapes end a feed-forward."""
    for container in layer.modules():
        maps = [module for module in container.children() if _is_linear(module)]
        if len(maps) - 1 not in COMPANIONS:
            continue
        ends = [one for one in maps if _ends(one, maps)]
        if len(ends) == 1:
            yield ends[0]


def _is_linear(module: Any) -> bool:
    """Whether a module is a linear map, a quantised one too."""
    has_weight = getattr(module, "weight", None) is not None
    return has_weight and hasattr(module, "in_features")


def _ends(end: Any, maps: list[Any]) -> bool:
    """Whether all other maps lead from what one gives to what it takes, once or twice as wide."""
    inner = end.in_features
    others = [one for one in maps if one is not end]
    widths = (inner, 2 * inner)
    return all(one.in_features == end.out_features and one.out_features in widths for one in others)
