"""Visual tokens that leave the decoder before one of its layers, or that some layers do not update:
the stand-ins for the layers in one pass over one prompt, and in the decode behind it.

Nothing is masked that could be left out. Behind the layer where tokens leave, hidden states, keys
and values are as many positions shorter; a layer that skips visual tokens runs its queries, its
output projection or its MLP on the others alone. The layers themselves are the model's own, called
with fewer positions, so that the numbers are those of a pass with masked keys.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from svl_core.errors import InputError
from svl_core.lvlm import families
from svl_core.lvlm.hooks import hidden_input, hidden_of, shallow_copy, with_hidden
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import StandIn, with_stand_ins
from svl_core.lvlm.thinning import ATTENTION, MLP, PARTS, Thinning

IMPLEMENTATIONS = ("sdpa", "eager")
"""Implementations of attention whose masks can be cut."""

REMEDY = "keep all visual tokens"


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of a prompt where its visual tokens leave.

    layer: the last layer that read all of them.
    entered: (1, 1, d) what entered it at the last position.
    options: the other arguments of its call, at the last position.
    keys, values: (1, heads, S, D) its cache.
    visual: (V,) positions of the visual tokens.
    """

    layer: torch.nn.Module
    entered: torch.Tensor
    options: Mapping[str, Any]
    keys: torch.Tensor
    values: torch.Tensor
    visual: torch.Tensor


# What can be thinned


def check(
    lvlm: LVLM,
    thinning: Thinning,
) -> None:
    """Raises InputError where a pass of the model cannot deal so with its visual tokens."""
    least = families.shared_from(lvlm.family, lvlm.model.config)
    layer_types = getattr(lvlm.text_config, "layer_types", None) or ()
    if least is None or set(layer_types) - {"full_attention"}:
        raise _refusal(
            f"layers of {lvlm.name} that share or slide their caches",
            "ones that read the whole sequence",
        )
    implementation = implementation_of(lvlm)
    if implementation not in IMPLEMENTATIONS:
        raise _refusal(f"the attention {implementation!r}", f"one of {', '.join(IMPLEMENTATIONS)}")
    original = _original_layers(lvlm)
    wanted = [*thinning.skip, *([thinning.leave] if thinning.leave else [])]
    outside = [layer for layer in wanted if not least <= layer < original]
    if outside:
        raise InputError(
            f"Found the layer {outside[0]} to thin visual tokens at; expected one from {least} to"
            f" {original - 1} of {lvlm.name}; change it."
        )
    if thinning.first(lvlm.layer_ids) == 0:
        raise InputError(
            f"Found no layer left before layer {thinning.leave}, where visual tokens are to leave;"
            " expected one that reads them; let them leave at the input, or keep a layer before."
        )
    copies = bool(thinning.skip) or thinning.choose is not None
    if copies and lvlm.skipped:
        raise _refusal(f"halves of layers of {lvlm.name} skipped already", "whole layers")
    if copies and any("forward" in vars(module) for module in lvlm.layers.modules()):
        raise _refusal(f"layers of {lvlm.name} that are spread over devices", "one device")


def _original_layers(
    lvlm: LVLM,
) -> int:
    """Layers of the model that it all began with."""
    ever = {*lvlm.provenance.get("dropped", ()), *lvlm.layer_ids}
    return max(ever) + 1


def implementation_of(
    lvlm: LVLM,
) -> str:
    """What transformers calls the way in which the decoder computes attention."""
    return lvlm.text_config._attn_implementation


def _refusal(
    found: str,
    expected: str,
) -> InputError:
    return InputError(f"Found {found}; expected {expected} to thin visual tokens; {REMEDY}.")


# Scores of the pass itself


def key_norms(
    seen: Seen,
) -> torch.Tensor:
    """(V,) minus the L2 norm of each visual token's key, mean of the heads (ViTCoP, arXiv
    2601.17818: the smaller, the more salient).
    """
    mean = seen.keys[0].float().mean(0)  # (S, D)
    return -mean[seen.visual].norm(dim=-1)


def attention_of_last(
    seen: Seen,
) -> torch.Tensor:
    """(V,) the attention that each visual token receives from the last position, mean of the heads
    (FastV, arXiv 2403.06764).

    One position's queries are computed anew, by the layer's own attention in its plain form, on the
    cache that the layer has just filled.
    """
    attention = shallow_copy(_attention(seen.layer))
    config: Any = copy.copy(attention.config)
    config._attn_implementation = "eager"
    attention.__dict__["config"] = config
    layer = _with_module(seen.layer, "self_attn", _Weighing(attention))
    options = _with_cache(seen.options, _Filled(seen.keys, seen.values))
    weights = _ending(lambda: layer(seen.entered, **options))  # (1, H, 1, S)
    return weights[0, :, 0].float().mean(0)[seen.visual]


class _Ended(Exception):
    """Ends a layer's call with what was wanted of it."""

    def __init__(
        self,
        value: Any,
    ) -> None:
        super().__init__()
        self.value = value


def _ending(
    call: Callable[[], Any],
) -> Any:
    """The value with which a call ended."""
    try:
        call()
    except _Ended as ended:
        return ended.value
    raise _refusal("a layer that asks its cache for nothing", "one that fills it")


class _Weighing(torch.nn.Module):
    """Attention that ends with its weights."""

    attention: Callable

    def __init__(
        self,
        attention: torch.nn.Module,
    ) -> None:
        super().__init__()
        self.__dict__["attention"] = attention

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        raise _Ended(self.attention(*args, **kwargs)[1])


class _Filled(DynamicCache):
    """A cache that holds what it is given already."""

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> None:
        super().__init__()
        self.held = keys, values

    def update(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.held


class _Catching(DynamicCache):
    """A cache that ends the call which fills it, with the keys and values."""

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        raise _Ended((key_states, value_states))


class _NoQueries(torch.nn.Module):
    """Stands for a projection whose product nobody needs: (B, n, d) -> zeros (B, n, width)."""

    def __init__(
        self,
        width: int,
    ) -> None:
        super().__init__()
        self.width = width

    def forward(
        self,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], self.width)


class _NoAttention(torch.nn.Module):
    """Attention that adds nothing."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple:
        return torch.zeros_like(hidden_states), None


class _OnRows(torch.nn.Module):
    """An MLP that runs on some positions; it adds nothing to the others."""

    mlp: Callable
    rows: torch.Tensor

    def __init__(
        self,
        mlp: torch.nn.Module,
        rows: torch.Tensor,
    ) -> None:
        super().__init__()
        self.__dict__.update(mlp=mlp, rows=rows)

    def forward(
        self,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        added = torch.zeros_like(hidden)
        added[:, self.rows] = self.mlp(hidden[:, self.rows])
        return added


def _attention(
    layer: torch.nn.Module,
) -> torch.nn.Module:
    return _part(layer, "self_attn")


def _part(
    layer: torch.nn.Module,
    name: str,
) -> torch.nn.Module:
    """A layer's submodule. Raises InputError where it has none of that name."""
    part = layer._modules.get(name)
    if part is None:
        raise _refusal(f"no {name} in {type(layer).__name__}", "one")
    return part


def _with_module(
    module: torch.nn.Module,
    name: str,
    other: torch.nn.Module,
) -> torch.nn.Module:
    """A copy of a module with another submodule in one place."""
    copied = shallow_copy(module)
    copied._modules[name] = other
    return copied


# Arguments of a layer's call


def _cache_in(
    options: Mapping[str, Any],
) -> Cache:
    return next(value for value in options.values() if isinstance(value, Cache))


def _with_cache(
    options: Mapping[str, Any],
    cache: Cache,
) -> dict[str, Any]:
    """The same arguments with another cache, and without a mask."""
    changed = {
        name: cache if isinstance(value, Cache) else value for name, value in options.items()
    }
    return {**changed, "attention_mask": None}


def _at(
    options: Mapping[str, Any],
    rows: torch.Tensor,
) -> dict[str, Any]:
    """The arguments of a call with fewer positions, all but the mask.

    rows: the positions that are left.

    Raises InputError for an argument whose meaning for each position is not known.
    """
    return {name: _argument_at(name, value, rows) for name, value in options.items()}


def _argument_at(
    name: str,
    value: Any,
    rows: torch.Tensor,
) -> Any:
    if name == "attention_mask" or not _holds_tensors(value):
        return value
    if name in ("position_ids", "cache_position"):
        return value[..., rows]
    if name.startswith("position_embeddings"):
        return tuple(part[..., rows, :] for part in value)
    raise _refusal(f"{name!r} handed to every layer", "masks and positions alone")


def _holds_tensors(
    value: Any,
) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensors, value))
    return isinstance(value, torch.Tensor)


def _mask_at(
    mask: torch.Tensor | None,
    rows: torch.Tensor | None,
    columns: torch.Tensor,
) -> torch.Tensor | None:
    """(1, 1 or H, queries, keys) a mask at some queries and keys. rows: None: all queries."""
    if mask is None:
        return None
    if rows is not None:
        mask = mask[..., rows, :]
    return mask[..., columns]


def _causal_mask(
    hidden: torch.Tensor,
    implementation: str,
) -> torch.Tensor:
    """(1, 1, S, S) the mask for which None stands in a pass over hidden states (1, S, d)."""
    length = hidden.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
    if implementation == "sdpa":
        return seen
    least = torch.finfo(hidden.dtype).min
    return torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, least)


# The layers of a pass


class ThinPass:
    """One prompt's pass with its visual tokens thinned, and the decode behind it.

    lvlm: the model that reads it, full or pruned.
    thinning: what it does with the tokens.

    Raises InputError where the model cannot.
    """

    def __init__(
        self,
        lvlm: LVLM,
        thinning: Thinning,
    ) -> None:
        check(lvlm, thinning)
        self.lvlm = lvlm
        self.thinning = thinning
        self.first = thinning.first(lvlm.layer_ids)
        self.visual = torch.as_tensor(np.array(thinning.visual), device=lvlm.device)
        # positions of the prompt, and those of them that stay
        self.length = 0
        self.staying: torch.Tensor | None = None
        self.seen: Seen | None = None
        self._behind: torch.nn.Module | None = None

    def reading(
        self,
        model: torch.nn.Module,
    ) -> torch.nn.Module:
        """What runs in the place of `model` to read the prompt."""
        return with_stand_ins(self.lvlm, model, self._stand_ins())

    def decoding(
        self,
        model: torch.nn.Module,
    ) -> torch.nn.Module:
        """What runs in the place of `model` on tokens behind the prompt: caches of later layers
        hold fewer keys than its masks say.
        """
        if self.first is None or self.staying is None:
            return model
        if self._behind is None:
            layers = list(self.lvlm.layers)
            shorter = [_Shorter(layer, self) for layer in layers[self.first :]]
            stand_ins = [*layers[: self.first], *shorter]
            self._behind = with_stand_ins(self.lvlm, model, stand_ins)
        return self._behind

    def _stand_ins(self) -> list[torch.nn.Module]:
        layers: list[torch.nn.Module] = list(self.lvlm.layers)
        ids = self.lvlm.layer_ids
        for place, layer in enumerate(self.lvlm.layers):
            parts = [part for part in PARTS if self.thinning.skips(ids[place], part)]
            if parts:
                layers[place] = _Skipping(layer, self, place, parts)
        if self.first is not None:
            layers[self.first - 1] = _Watched(layers[self.first - 1], self, self.first - 1)
            later = layers[self.first :]
            layers[self.first :] = [_Leaving(later[0], self), *(_Fewer(x, self) for x in later[1:])]
        return layers

    def others(
        self,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """(T,) the positions of hidden states (1, S, d) that are not visual."""
        textual = torch.ones(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        textual[self.visual] = False
        return textual.nonzero()[:, 0]

    def choose(
        self,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """(S',) the positions of hidden states (1, S, d) that stay."""
        thinning = self.thinning
        stay = torch.zeros(len(self.visual), dtype=torch.bool, device=hidden.device)
        if thinning.choose is None:
            stay[:] = torch.as_tensor(np.array(thinning.stay))
        else:
            assert self.seen is not None, "the layer before has run"
            scores = thinning.choose(self.seen)
            stay[scores.topk(thinning.count).indices] = True
        self.seen = None
        kept = torch.ones(hidden.shape[1], dtype=torch.bool, device=hidden.device)
        kept[self.visual[~stay]] = False
        return kept.nonzero()[:, 0]


class _Thin(StandIn):
    """A layer of such a pass."""

    def __init__(
        self,
        layer: torch.nn.Module,
        thin: ThinPass,
    ) -> None:
        super().__init__(layer)
        self.__dict__["thin"] = thin


class _Watched(_Thin):
    """The last layer that all visual tokens reach."""

    def __init__(
        self,
        layer: torch.nn.Module,
        thin: ThinPass,
        place: int,
    ) -> None:
        super().__init__(layer, thin)
        self.__dict__["place"] = place

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        output = self.layer(*args, **kwargs)
        if self.thin.thinning.choose is None:
            return output
        hidden = hidden_input(args, kwargs)
        options = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        filled: Any = _cache_in(options).layers[self.place]
        kind = type(filled).__name__
        if kind != DynamicLayer.__name__:
            raise _refusal(f"a cache of {kind}", "one that holds every key")
        last = torch.tensor([hidden.shape[1] - 1], device=hidden.device)
        self.thin.seen = Seen(
            self.layer,
            hidden[:, last],
            _at(options, last),
            filled.keys,
            filled.values,
            self.thin.visual,
        )
        return output


class _Fewer(_Thin):
    """A layer behind the one where tokens left: what enters it has fewer positions already."""

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        staying = self.thin.staying
        hidden = kwargs.pop("hidden_states", None)
        hidden = args[0] if hidden is None else hidden
        options = _at(kwargs, staying)
        options["attention_mask"] = _mask_at(kwargs.get("attention_mask"), staying, staying)
        return self.layer(self.entering(hidden), *args[1:], **options)

    def entering(
        self,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """What enters the layer."""
        return hidden


class _Leaving(_Fewer):
    """The layer before which tokens leave."""

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        hidden = hidden_input(args, kwargs)
        self.thin.length = hidden.shape[1]
        self.thin.staying = self.thin.choose(hidden)
        return super().forward(*args, **kwargs)

    def entering(
        self,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        return hidden[:, self.thin.staying]


class _Shorter(_Thin):
    """Such a layer in the decode: the new positions are all there, of the keys fewer."""

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        mask = kwargs.get("attention_mask")
        if mask is not None:
            new = torch.arange(self.thin.length, mask.shape[-1], device=mask.device)
            columns = torch.cat([self.thin.staying, new])
            kwargs["attention_mask"] = _mask_at(mask, None, columns)
        return self.layer(*args, **kwargs)


class _Skipping(_Thin):
    """A layer that does not update visual tokens, or by one of its parts alone.

    Its keys and values of them are those of what entered it, for the others to look at; in its
    cache they lie before those of the others.
    """

    def __init__(
        self,
        layer: torch.nn.Module,
        thin: ThinPass,
        place: int,
        parts: list[str],
    ) -> None:
        super().__init__(layer, thin)
        self.__dict__.update(place=place, parts=parts)

    def forward(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        hidden = hidden_input(args, kwargs)
        options = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        textual = self.thin.others(hidden)
        if ATTENTION not in self.parts:
            mlp = _OnRows(_part(self.layer, "mlp"), textual)
            return _with_module(self.layer, "mlp", mlp)(hidden, *args[1:], **options)
        visual = self.thin.visual
        self._fill(hidden[:, visual], options)
        output = self._of_others(hidden, textual, options)
        merged = hidden.clone()
        merged[:, textual] = hidden_of(output)
        if MLP not in self.parts:
            merged[:, visual] = self._without_attention(hidden[:, visual], options)
        return with_hidden(output, merged)

    def _fill(
        self,
        hidden: torch.Tensor,
        options: Mapping[str, Any],
    ) -> None:
        """Puts the visual tokens' keys and values into the layer's cache. hidden: (1, V, d)."""
        attention = shallow_copy(_attention(self.layer))
        queries: Any = _part(attention, "q_proj")
        attention._modules["q_proj"] = _NoQueries(queries.out_features)
        layer = _with_module(self.layer, "self_attn", attention)
        at_visual = _at(options, self.thin.visual)
        keys, values = _ending(lambda: layer(hidden, **_with_cache(at_visual, _Catching())))
        _cache_in(options).update(keys, values, self.place)

    def _of_others(
        self,
        hidden: torch.Tensor,
        textual: torch.Tensor,
        options: Mapping[str, Any],
    ) -> Any:
        """The layer's output at the other positions, which look at all."""
        mask = options.get("attention_mask")
        if mask is None:
            mask = _causal_mask(hidden, implementation_of(self.thin.lvlm))
        keys = torch.cat([self.thin.visual, textual])
        at_others = _at(options, textual)
        at_others["attention_mask"] = _mask_at(mask, textual, keys)
        return self.layer(hidden[:, textual], **at_others)

    def _without_attention(
        self,
        hidden: torch.Tensor,
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        """(1, V, d) what the layer makes of visual tokens without their attention."""
        layer = _with_module(self.layer, "self_attn", _NoAttention())
        return hidden_of(layer(hidden, **_at(options, self.thin.visual)))
