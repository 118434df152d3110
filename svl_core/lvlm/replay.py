"""One recorded pass, replayed layer by layer: what each decoder layer was given, so that edited layers run alone on other states."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from svl_core.lvlm.model import LVLM


@dataclass(frozen=True, eq=False)
class Recording:
    """states: L + 1 tensors (B, S, d), what enters each layer and the last one's raw output; given: the other arguments of each layer's call."""

    states: tuple[torch.Tensor, ...]
    given: tuple[tuple[tuple, Mapping], ...]

    @torch.inference_mode()
    def step(self, module: torch.nn.Module, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """What `module`, in the place of `layer`, makes of `hidden` (B, S, d)."""
        args, kwargs = self.given[layer]
        return hidden_of(module(hidden, *args, **kwargs))


def hidden_of(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@torch.inference_mode()
def record(lvlm: LVLM, inputs: Mapping[str, torch.Tensor]) -> Recording:
    """Runs the model once, without a cache."""
    here, states, given = threading.get_ident(), [], []

    def entering(module, args, kwargs):
        if threading.get_ident() == here:
            kwargs = dict(kwargs)
            states.append(args[0] if args else kwargs.pop("hidden_states"))
            given.append((args[1:], kwargs))

    def leaving(module, args, output):
        if threading.get_ident() == here:
            states.append(hidden_of(output))

    handles = [layer.register_forward_pre_hook(entering, with_kwargs=True) for layer in lvlm.layers]
    handles.append(lvlm.layers[-1].register_forward_hook(leaving))
    try:
        lvlm.model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return Recording(tuple(states), tuple(given))
