"""One recorded pass, replayed layer by layer: what each decoder layer was given, so that edited
layers run alone on other states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from svl_core.lvlm.hooks import (
    InputAction,
    OutputAction,
    ThreadHooks,
    hidden_input,
    hidden_of,
)
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


@torch.inference_mode()
def record(lvlm: LVLM, inputs: Mapping[str, torch.Tensor]) -> Recording:
    """Runs the model once, without a cache, and records every layer's call.

    inputs: a batch of B sequences of S positions for `model(**inputs)`.
    """
    count = lvlm.num_layers
    states: list[torch.Tensor | None] = [None] * (count + 1)
    calls: list[tuple[tuple, Mapping] | None] = [None] * count

    def entering(number: int) -> InputAction:
        def action(args, kwargs):
            states[number] = hidden_input(args, kwargs)
            others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            calls[number] = args[1:], others

        return action

    def leaving(number: int) -> OutputAction:
        def action(args, kwargs, output):
            # The next layer's input replaces it: it may hold more than this output (Qwen3-VL).
            states[number + 1] = hidden_of(output)

        return action

    with ThreadHooks() as hooks:
        for number, layer in enumerate(lvlm.layers):
            hooks.on_input(layer, entering(number))
            hooks.on_output(layer, leaving(number))
        lvlm.model(**inputs, use_cache=False, logits_to_keep=1)
    for number in range(count):
        if states[number + 1] is None:  # a layer that the model passed over
            states[number + 1] = states[number]
    return Recording(tuple(states), tuple(calls))
