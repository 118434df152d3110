"""What a pruned model's pass shares with the full model's: the image's features and the layers
before the first change.

The full model's pass over a prompt leaves behind what entered its decoder layers and their
key/value caches (`PrefillState`). A pruned model that begins with the same layers takes these over
and runs only its own, from the first dropped or edited one on, within its own forward pass: masks,
positions, final norm and head are the model's, so its predictions are those of a whole pass, bit
for bit.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from svl_core.lvlm import families
from svl_core.lvlm.hooks import InputAction, ThreadHooks, hidden_input, with_other_layers
from svl_core.lvlm.model import LVLM

# Caches that grow by new tensors instead of writing into the old ones: a shallow copy of one can
# grow apart from it.
FORKABLE = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


@dataclass(frozen=True, eq=False)
class PrefillState:
    """What the full model's pass over B prompts of S positions leaves behind for other models.

    states: layer -> (B, S, d), what entered it.
    caches: every layer's key/value cache, as it was behind the prompt.
    entered_ms: layer -> milliseconds from the pass's start until it was entered, image encoding
        included.
    """

    states: Mapping[int, torch.Tensor]
    caches: tuple
    entered_ms: Mapping[int, float]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return self.cache_bytes + sum(state.nbytes for state in self.states.values())

    @property
    def cache_bytes(self) -> int:
        """Bytes of its key/value caches."""
        return sum(cache.keys.nbytes + cache.values.nbytes for cache in self.caches)


def shared_depth(
    full: LVLM,
    pruned: LVLM,
) -> int | None:
    """With how many layers of the full model a pruned one begins, so that its pass can take over
    the full model's behind them.

    These layers are the full model's own: at the same place, with the same tensors. The last layer
    of the pruned model never counts, so that it has one to run. None where a pass cannot be taken
    over: another class of model, other weights beside the layers, modules spread over devices, a
    family whose first layers do more than hand hidden states on.
    """
    least = families.shared_from(full.family, full.model.config)
    if least is None or type(full.model) is not type(pruned.model):
        return None
    if any(hasattr(module, "_hf_hook") for module in pruned.model.modules()):
        return None
    if not _same_tensors(_beside_layers(full), _beside_layers(pruned)):
        return None
    depth = 0
    most = min(pruned.num_layers - 1, full.num_layers)
    while depth < most and _same_layer(full, pruned, depth):
        depth += 1
    return depth if depth >= least else None


def _same_layer(
    full: LVLM,
    pruned: LVLM,
    layer: int,
) -> bool:
    """Whether both have the same layer at this place."""
    if full.layer_ids[layer] != pruned.layer_ids[layer]:
        return False
    original = dict(full.layers[layer].named_parameters())
    return _same_tensors(original, dict(pruned.layers[layer].named_parameters()))


def _beside_layers(lvlm: LVLM) -> dict[str, torch.Tensor]:
    """All parameters that belong to no decoder layer."""
    prefix = families.layers_prefix(lvlm.model)
    return {
        name: tensor
        for name, tensor in lvlm.model.named_parameters()
        if not name.startswith(prefix)
    }


def _same_tensors(
    tensors: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
) -> bool:
    """Whether both hold the very same tensors under the same names."""
    if tensors.keys() != others.keys():
        return False
    return all(tensor is others[name] for name, tensor in tensors.items())


@contextlib.contextmanager
def recording(
    lvlm: LVLM,
    depths: Collection[int],
    before_ms: float = 0.0,
) -> Iterator[tuple[dict, dict]]:
    """Records what enters some layers in this thread's pass through `lvlm` within the block.

    depths: the layers.
    before_ms: milliseconds that the pass's images had taken before it.
    Gives (states, entered_ms): by layer its input (B, S, d), and the milliseconds from the block's
    start until the layer was entered, with `before_ms`.
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
            entered_ms[depth] = before_ms + 1000 * (time.perf_counter() - began)

        return action

    with ThreadHooks() as hooks:
        for depth in depths:
            hooks.on_input(lvlm.layers[depth], entering(depth))
        yield states, entered_ms


def fork_caches(caches: Collection) -> tuple | None:
    """Copies of the layers' key/value caches that decode on from here without changing these.

    The tensors filled so far are shared, and each copy grows by tensors of its own. None where one
    of the caches is of a kind that is written in place.
    """
    if any(type(cache) not in FORKABLE for cache in caches):
        return None
    return tuple(copy.copy(cache) for cache in caches)


class StandIn(torch.nn.Module):
    """Takes the place of a decoder layer in one pass, and has its attributes."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.__dict__["layer"] = layer

    def __getattr__(self, name: str):
        return getattr(self.__dict__["layer"], name)


class _Skipped(StandIn):
    """A layer that need not run: it hands the hidden states on and puts its filled cache into the
    pass's.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        number: int,
        filled,
    ):
        super().__init__(layer)
        self.__dict__.update(number=number, filled=filled)

    def forward(self, *args, **kwargs):
        cache = next(value for value in (*args, *kwargs.values()) if isinstance(value, Cache))
        cache.layers[self.number : self.number + 1] = [copy.copy(self.filled)]
        return hidden_input(args, kwargs)


class _First(StandIn):
    """The first layer that runs: on what entered it in the full model's pass."""

    def __init__(
        self,
        layer: torch.nn.Module,
        state: torch.Tensor,
    ):
        super().__init__(layer)
        self.__dict__["state"] = state

    def forward(self, *args, **kwargs):
        state = self.state.to(hidden_input(args, kwargs).device)
        kwargs.pop("hidden_states", None)
        return self.layer(state, *args[1:], **kwargs)


def resumed(lvlm: LVLM, prefill: PrefillState, depth: int) -> torch.nn.Module:
    """A model for one pass over the prompt of `prefill`, without its image: `lvlm`'s own modules,
    its first `depth` layers skipped.
    """
    skipped = [
        _Skipped(layer, number, prefill.caches[number])
        for number, layer in enumerate(lvlm.layers[:depth])
    ]
    first = _First(lvlm.layers[depth], prefill.states[depth])
    rest = lvlm.layers[depth + 1 :]
    return with_stand_ins(lvlm, lvlm.model, [*skipped, first, *rest])


def with_stand_ins(
    lvlm: LVLM,
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
) -> torch.nn.Module:
    """A model for one pass, with others in the place of its decoder layers.

    model: `lvlm`'s own, or a shallow copy of it.
    layers: as many as there are.
    """
    prefix = families.layers_prefix(lvlm.model)
    return with_other_layers(model, prefix, layers)
