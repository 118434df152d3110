"""Models without weights, made once for each config and copied from then on.

To make one, the constructors of all its modules run and its config is checked for surviving a
round trip; to copy what they made takes a fifth of that.
"""

from __future__ import annotations

import copy
import threading
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

MOST = 16  # remembered for each full model

ATOMS = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        str,
        type,
        torch.device,
        torch.dtype,
        types.BuiltinFunctionType,
        types.FunctionType,
    }
)
"""Kinds of values that a copy shares."""
CONTAINERS = frozenset({dict, list, set, OrderedDict})
TREE = frozenset({"_modules", "_parameters", "_buffers"})
"""Attributes of a torch module that hold its parts and tensors by name."""


Made = tuple[Any, torch.nn.Module]
"""A config, and the model without weights that was made for it; nobody else has either."""

_made: WeakKeyDictionary[torch.nn.Module, list[Made]] = WeakKeyDictionary()
"""By the full model, the last used last."""
_lock = threading.Lock()


def blank(model, config, make: Callable[[], torch.nn.Module]):
    """What `make` returns, or a copy of what it returned before for an equal config.

    A copy shares nothing with it that can be changed, but for its placeholders of tensors.

    model: the full transformers model.
    config: of the model that is wanted; it stays as it is.
    make: a model of `model`'s class on the meta device, in an equal config of its own.
    """
    with _lock:
        made = _made.setdefault(model, [])
        known = next((each for each in made if _alike(each[0], config)), None)
    if known is None:
        known = config, make()
    with _lock:
        others = [each for each in made if each is not known]
        made[:] = [*others[1 - MOST :], known]
    return copied(known[1])


def _alike(one: Any, other: Any) -> bool:
    """Whether two configs are equal; of those with settings by layer their dictionaries tell, for
    they refuse to be asked as one (Gemma4).
    """
    try:
        return one == other
    except (AttributeError, RuntimeError):
        return one.to_dict() == other.to_dict()


def copied(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model that shares its tensors: modules, config and all else are its own."""
    modules = list(model.modules())
    memo: dict[int, Any] = {id(module): _unfilled(module) for module in modules}
    for module in modules:
        own = (*module._parameters.values(), *module._buffers.values())
        memo |= {id(tensor): tensor for tensor in own}
    for module in modules:
        filled = vars(memo[id(module)])
        for name, value in vars(module).items():
            kind = type(value)
            if kind in ATOMS:
                filled[name] = value
            elif kind in CONTAINERS and not value:
                filled[name] = kind()
            elif name in TREE:
                filled[name] = {key: memo.get(id(part), part) for key, part in value.items()}
            else:
                filled[name] = copy.deepcopy(value, memo)
    return memo[id(model)]


def _unfilled(module: torch.nn.Module) -> torch.nn.Module:
    return type(module).__new__(type(module))
