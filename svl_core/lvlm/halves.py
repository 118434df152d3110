"""Halves of decoder layers that are skipped: the attention or the MLP of a layer that stays.

A layer adds to the residual stream twice. In the place of a half that is skipped stands a module
without weights that adds nothing, so that nothing of the half is computed. Where an attention
stood, its cache goes on counting positions.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.cache_utils import Cache

from svl_core.errors import InputError
from svl_core.lvlm import families
from svl_core.lvlm.hooks import hidden_input, shallow_copy, with_other_layers
from svl_core.recipe import ATTENTION, HALVES, MLP

MODULES: Mapping[str, str] = {ATTENTION: "self_attn", MLP: "mlp"}
"""What layers call the module of each half."""

NORMS_BEHIND = (
    families.NORM_BEHIND_MLP,
    "post_mlp_layernorm",
    "post_self_attn_layernorm",
)
"""What layers call a norm of what a half gives, before it is added to the stream."""


class Skipped(Module):
    """Stands where half of a layer was, and adds nothing.

    whole: the module that was there, which is no part of this one: its weights are not counted.
    """

    whole: Any

    def __init__(self, whole: Module) -> None:
        super().__init__()
        self.__dict__["whole"] = whole

    def __getattr__(self, name: str) -> Any:
        """What the layer asks of its half beside calling it: plain values, never weights."""
        whole = self.__dict__.get("whole")
        value = getattr(whole, name)
        if isinstance(value, (Module, Tensor)):
            raise AttributeError(f"{name!r} is gone with the half that is skipped")
        return value


class _NoAttention(Skipped):
    """In the cache it leaves one zero a position, in the place of keys and values of all heads:
    decoders count positions by the caches of some of their layers.
    """

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        hidden = hidden_input(
            args,
            kwargs,
        )
        for value in (*args, *kwargs.values()):
            if isinstance(value, Cache):
                self._count(value, hidden)
        return torch.zeros_like(hidden), None

    def _count(
        self,
        cache: Cache,
        hidden: Tensor,
    ) -> None:
        """Counts the positions of hidden states (B, S, d), unless another layer's cache does."""
        whole = self.whole
        if getattr(whole, "is_kv_shared_layer", False):
            return
        rows, length, _ = hidden.shape
        zeros = hidden.new_zeros(rows, 1, length, 1)
        cache.update(
            zeros,
            zeros,
            whole.layer_idx,
        )


class _NoMLP(Skipped):
    def forward(
        self,
        hidden: Tensor,
    ) -> Tensor:
        return torch.zeros_like(hidden)


STAND_INS: Mapping[str, type[Skipped]] = {
    ATTENTION: _NoAttention,
    MLP: _NoMLP,
}


def lacks(
    layer: Module,
    half: str,
) -> bool:
    """Whether a half of a layer is skipped."""
    place = MODULES[half]
    module = getattr(layer, place, None)
    return isinstance(module, Skipped)


def skipped(
    layers: Iterable[Module],
    half: str,
) -> tuple[int, ...]:
    """The layers whose attention, or whose MLP, is skipped, 0-based."""
    numbered = enumerate(layers)
    found = [number for number, layer in numbered if lacks(layer, half)]
    return tuple(found)


def skip(
    model: Module,
    half: str,
    layers: Sequence[int],
) -> None:
    """From now on the model skips a half of some layers.

    model: a view, or a model that is nobody else's.
    half: "attention" or "mlp".
    layers: 0-based, among those present.

    Raises InputError for a layer of which the half is gone already, and where skipping it would not
    be the same as its adding nothing.
    """
    if not layers:
        return
    present = families.decoder_layers(model)
    size = _hidden_size(model)
    tried: set[type] = set()
    for number in layers:
        _check_half(
            present[number],
            number,
            half,
            size,
            tried,
        )
    place = MODULES[half]
    stand_in = STAND_INS[half]
    for number in layers:
        layer = present[number]
        whole = layer.get_submodule(place)
        layer._modules[place] = stand_in(whole)


def _hidden_size(model: Any) -> int:
    """d. Raises InputError for a model whose layers cannot be taken apart."""
    brought = hasattr(model, "brought_layers")
    text: Any = None if brought else model.config.get_text_config(decoder=True)
    streams = families.mixed_streams(text)
    if brought or streams > 1 or families.stacks_streams(text):
        raise InputError(
            f"Found layers of {type(model).__name__} whose halves cannot be skipped (code of its"
            " own, or several residual streams); expected a model of transformers with one stream;"
            " drop whole layers."
        )
    return text.hidden_size


def _check_half(
    layer: Module,
    number: int,
    half: str,
    size: int,
    tried: set[type],
) -> None:
    """Raises InputError where a half of a layer cannot be skipped.

    number: the layer's.
    size: d.
    tried: the kinds of halves that were tried before, each once.
    """
    reason = _refusal(layer, half)
    module = getattr(layer, MODULES[half], None)
    kind = type(module)
    if reason is None and kind not in tried:
        tried.add(kind)
        reason = _misfit(
            module,
            half,
            size,
        )
    if reason is not None:
        raise InputError(
            f"Found that the {half} of layer {number} cannot be skipped ({reason}); expected one"
            " whose output alone is added to the residual stream; choose another half, or drop"
            " whole layers."
        )


def can_skip(
    layer: Module,
    half: str,
) -> bool:
    """Whether a layer has a half that is not skipped yet and whose place is known."""
    return _refusal(layer, half) is None


def _refusal(
    layer: Module,
    half: str,
) -> str | None:
    """Why a half of a layer cannot be skipped, in a few words; None where it can."""
    place = MODULES[half]
    module = getattr(layer, place, None)
    kind = type(layer).__name__
    if not isinstance(module, Module):
        return f"{kind} has no {place}"
    if isinstance(module, Skipped):
        return "it is skipped already"
    if any(_adds_by_itself(norm) for norm in _norms_behind(layer)):
        return f"a norm of {kind} adds something behind it"
    return None


def _misfit(
    module: Any,
    half: str,
    size: int,
) -> str | None:
    """What is wrong with what a half gives, in a few words; None where nothing is. size: d."""
    if half == ATTENTION:
        fits = _gives_pair(module)
    else:
        fits = _maps_states(module, size)
    kind = type(module).__name__
    return None if fits else f"{kind} gives something else than its kind does"


def _norms_behind(layer: Module) -> Iterator[Module]:
    """The norms between what halves give and the stream."""
    names = list(NORMS_BEHIND)
    in_front, either = families.MLP_NORMS
    if hasattr(layer, in_front) or hasattr(layer, families.NORM_BEHIND_MLP):
        names.append(either)  # elsewhere it stands in front of the MLP
    for name in names:
        norm = getattr(layer, name, None)
        if norm is not None:
            yield norm


def _adds_by_itself(norm: Module) -> bool:
    """Whether a norm makes something of zeros."""
    return getattr(norm, "bias", None) is not None


def _gives_pair(attention: Module) -> bool:
    """Whether an attention declares that it gives its output first and its weights behind it."""
    declared = type(attention).forward
    try:
        hints = typing.get_type_hints(declared)
    except NameError:  # names for type checkers alone
        return False
    given = hints.get("return")
    return typing.get_origin(given) is tuple


@torch.inference_mode()
def _maps_states(
    mlp: Module,
    size: int,
) -> bool:
    """Whether an MLP makes hidden states of hidden states alone: tried on two positions, where its
    weights are at hand and are plain numbers. size: d.
    """
    weights = list(mlp.parameters())
    if not weights or not all(map(_is_plain, weights)):
        return True
    first, *_ = weights
    states = first.new_ones(1, 2, size)
    try:
        output = mlp(states)
    except (TypeError, RuntimeError):  # it wants more than them
        return False
    if not isinstance(output, Tensor):
        return False
    return output.shape == states.shape


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is at hand and no quantised one."""
    return weight.is_floating_point() and not weight.is_meta


def restored(model: Module) -> Module:
    """The model with all its halves, by shallow copies of the modules on the way to them; `model`
    itself if none is skipped.
    """
    layers = families.decoder_layers(model)
    if not any(skipped(layers, half) for half in HALVES):
        return model
    prefix = families.layers_prefix(model)
    whole = list(map(_restored_layer, layers))
    return with_other_layers(
        model,
        prefix,
        whole,
    )


def _restored_layer(layer: Module) -> Module:
    copied = shallow_copy(layer)
    for half, place in MODULES.items():
        if lacks(layer, half):
            stand_in: Any = layer.get_submodule(place)
            copied._modules[place] = stand_in.whole
    return copied
