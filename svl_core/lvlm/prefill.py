"""What a pruned model's pass shares with the full model's: the image's features and the layers
before the first change.

The full model's pass over a prompt leaves behind what entered its decoder layers and their
key/value caches (`PrefillState`). A pruned model that begins with the same layers takes these over and
runs only its own, from the first dropped or edited one on, within its own forward pass: masks,
positions, final norm and head are the model's, so its predictions are those of a whole pass, bit
for bit.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from svl_core.lvlm import families
from svl_core.lvlm.hooks import InputAction, ThreadHooks, hidden_input
from svl_core.lvlm.model import LVLM

ENCODED = (
    "pixel_values",
    "pixel_attention_mask",
)  # inputs that only the vision tower reads
# Caches that grow by new tensors: a shallow copy goes its own way.
FORKABLE = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


@dataclass(frozen=True, eq=False)
class PrefillState:
    """The full model's pass over B prompts of S positions. states: depth -> (B, S, d), what entered
    that layer; caches: every layer's, as they were behind the prompt; entered_ms: depth ->
    milliseconds from the pass's start until then, image encoding included.
    """

    states: Mapping[int, torch.Tensor]
    caches: tuple
    entered_ms: Mapping[int, float]

    @property
    def nbytes(self) -> int:
        held = [
            *self.states.values(),
            *(tensor for cache in self.caches for tensor in (cache.keys, cache.values)),
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def shared_depth(full: LVLM, pruned: LVLM) -> int | None:
    """How many of `pruned`'s first layers are `full`'s own, in place and untouched (at most all but
    one); None where its pass cannot begin there.
    """
    least = families.shared_from(full.family, full.model.config)
    if (
        least is None
        or type(full.model) is not type(pruned.model)
        or any(hasattr(module, "_hf_hook") for module in pruned.model.modules())
    ):
        return None
    if not _same(_beside_layers(full), _beside_layers(pruned)):
        return None
    depth = 0
    for layer, (ident, own) in enumerate(zip(pruned.layer_ids, pruned.layers)):
        if (
            layer == pruned.num_layers - 1
            or layer >= full.num_layers
            or full.layer_ids[layer] != ident
            or not _same(
                dict(full.layers[layer].named_parameters()),
                dict(own.named_parameters()),
            )
        ):
            break
        depth += 1
    return depth if depth >= least else None


def _beside_layers(lvlm: LVLM) -> dict[str, torch.Tensor]:
    prefix = families.layers_prefix(lvlm.model)
    return {
        name: tensor
        for name, tensor in lvlm.model.named_parameters()
        if not name.startswith(prefix)
    }


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(tensor is other[name] for name, tensor in one.items())


@contextlib.contextmanager
def recording(lvlm: LVLM, depths: Collection[int]) -> Iterator[tuple[dict, dict]]:
    """Records what enters some layers in this thread's pass through `lvlm` within the block.

    depths: the layers.
    Gives (states, entered_ms): by layer its input (B, S, d), and the milliseconds from the block's
    start until the layer was entered.
    """
    states: dict[int, torch.Tensor] = {}
    entered_ms: dict[int, float] = {}
    began = time.perf_counter()

    def entering(depth: int) -> InputAction:
        def action(args, kwargs):
            hidden = hidden_input(args, kwargs).detach()
            states[depth] = hidden
            if len(depths) == 1 and hidden.device.type == "cuda":
                # The time is to be that of the work, not of its queueing.
                torch.cuda.synchronize(hidden.device)
            entered_ms[depth] = 1000 * (time.perf_counter() - began)

        return action

    with ThreadHooks() as hooks:
        for depth in depths:
            hooks.on_input(lvlm.layers[depth], entering(depth))
        yield states, entered_ms


def fork_caches(caches: Collection) -> tuple | None:
    """Copies of cache layers that share the tensors held so far and grow apart from them; None for
    a kind that is written in place.
    """
    return (
        tuple(copy.copy(cache) for cache in caches)
        if all(type(cache) in FORKABLE for cache in caches)
        else None
    )


class _Stand(torch.nn.Module):
    """In the place of a decoder layer, with its attributes."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.__dict__["layer"] = layer

    def __getattr__(self, name: str):
        return getattr(self.__dict__["layer"], name)


class _Skipped(_Stand):
    """Hands the hidden states on and the layer's filled cache over."""

    def __init__(self, layer: torch.nn.Module, number: int, filled):
        super().__init__(layer)
        self.__dict__.update(number=number, filled=filled)

    def forward(self, *args, **kwargs):
        cache = next(value for value in (*args, *kwargs.values()) if isinstance(value, Cache))
        cache.layers[self.number : self.number + 1] = fork_caches([self.filled])
        return hidden_input(args, kwargs)


class _First(_Stand):
    """Runs the layer on what entered it in the full model's pass."""

    def __init__(self, layer: torch.nn.Module, state: torch.Tensor):
        super().__init__(layer)
        self.__dict__["state"] = state

    def forward(self, *args, **kwargs):
        return self.layer(
            self.state,
            *args[1:],
            **{name: value for name, value in kwargs.items() if name != "hidden_states"},
        )


def resumed(lvlm: LVLM, prefill: PrefillState, depth: int):
    """A model for one pass over the prompt of `prefill`, without its image: `lvlm`'s own modules,
    its first `depth` layers skipped.

    Only the modules on the way to the layers are copied, shallowly, so that other threads may use
    the model meanwhile.
    """
    root = module = _shallow(lvlm.model)
    *path, layers, _ = families.layers_prefix(lvlm.model).split(".")
    for name in path:
        module._modules[name] = _shallow(module._modules[name])
        module = module._modules[name]
    skipped = [
        _Skipped(layer, number, prefill.caches[number])
        for number, layer in enumerate(lvlm.layers[:depth])
    ]
    module._modules[layers] = torch.nn.ModuleList(
        [
            *skipped,
            _First(lvlm.layers[depth], prefill.states[depth]),
            *lvlm.layers[depth + 1 :],
        ]
    )
    return root


def _shallow(module: torch.nn.Module) -> torch.nn.Module:
    made = copy.copy(module)
    made.__dict__["_modules"] = dict(module._modules)
    return made


def without_images(
    inputs: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if name not in ENCODED}
