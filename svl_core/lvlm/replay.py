"""One recorded pass, replayed layer by layer: with the arguments of each decoder layer's call, an
edited layer runs alone on other hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from svl_core.lvlm.arithmetic import last_position
from svl_core.lvlm.features import ImageFeatures
from svl_core.lvlm.hooks import (
    InputAction,
    OutputAction,
    ThreadHooks,
    hidden_input,
    hidden_of,
)
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.vision import forward


@dataclass(frozen=True, eq=False)
class Recording:
    """How one pass over B sequences of S positions called each of L layers.

    states: L + 1 tensors (B, S, d), what enters each layer, and the last layer's raw output.
    calls: the other arguments and keyword arguments of each layer's call; None for a layer that the
        model passes over (cross-attention without an image).
    """

    states: tuple[torch.Tensor, ...]
    calls: tuple[tuple[tuple, Mapping] | None, ...]

    @torch.inference_mode()
    def step(
        self,
        module: torch.nn.Module,
        layer: int,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """Runs one layer alone, with the arguments that it had in the recorded pass.

        module: the layer, or another in its place.
        layer: its number, 0..L-1.
        hidden: (B, S, d), what enters it.
        Returns its hidden states (B, S, d).
        """
        call = self.calls[layer]
        if call is None:
            return hidden
        args, kwargs = call
        return hidden_of(module(hidden, *args, **kwargs))


@torch.inference_mode()
def record(
    lvlm: LVLM,
    inputs: Mapping[str, torch.Tensor],
    features: ImageFeatures | None = None,
) -> Recording:
    """Runs the model once, without a cache, and records every layer's call.

    inputs: a batch of B sequences of S positions for `model(**inputs)`.
    features: of the batch's images, where these have been seen.
    """
    count = lvlm.num_layers
    states: dict[int, torch.Tensor] = {}
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
        last = last_position(lvlm.dtype, lvlm.device, inputs["input_ids"].shape[1])
        forward(lvlm, inputs, features, use_cache=False, logits_to_keep=last)
    for number in range(count):
        states.setdefault(number + 1, states[number])  # a layer that the model passed over
    return Recording(tuple(states[number] for number in range(count + 1)), tuple(calls))
