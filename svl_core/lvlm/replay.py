"""One recorded pass, replayed layer by layer: what each decoder layer was given, so that edited
layers run alone on other states.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from svl_core.lvlm.model import LVLM


@dataclass(frozen=True, eq=False)
class Recording:
    """states: L + 1 tensors (B, S, d), what enters each layer and the last one's raw output; given:
    the other arguments of each layer's call, None for a layer that the model passes over
    (cross-attention without an image).
    """

    states: tuple[torch.Tensor, ...]
    given: tuple[tuple[tuple, Mapping] | None, ...]

    @torch.inference_mode()
    def step(self, module: torch.nn.Module, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """What `module`, in the place of `layer`, makes of `hidden` (B, S, d)."""
        if self.given[layer] is None:
            return hidden
        args, kwargs = self.given[layer]
        return hidden_of(module(hidden, *args, **kwargs))


def hidden_of(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@torch.inference_mode()
def record(lvlm: LVLM, inputs: Mapping[str, torch.Tensor]) -> Recording:
    """Runs the model once, without a cache."""
    here, count = threading.get_ident(), lvlm.num_layers
    states: list = [None] * (count + 1)
    given: list = [None] * count

    def entering(number):
        def hook(module, args, kwargs):
            if threading.get_ident() == here:
                kwargs = dict(kwargs)
                states[number] = args[0] if args else kwargs.pop("hidden_states")
                given[number] = args[1:], kwargs

        return hook

    def leaving(number):
        def hook(module, args, output):
            if threading.get_ident() == here:
                states[number + 1] = hidden_of(
                    output
                )  # until the next layer is entered, with more than that perhaps (Qwen3-VL)

        return hook

    with contextlib.ExitStack() as stack:
        for number, layer in enumerate(lvlm.layers):
            stack.callback(
                layer.register_forward_pre_hook(entering(number), with_kwargs=True).remove
            )
            stack.callback(layer.register_forward_hook(leaving(number)).remove)
        lvlm.model(**inputs, use_cache=False, logits_to_keep=1)
    for number in range(count):
        if states[number + 1] is None:  # passed over
            states[number + 1] = states[number]
    return Recording(tuple(states), tuple(given))
