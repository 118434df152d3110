"""Backward passes that keep little: each decoder layer is computed again on the way back, from what
entered it, instead of keeping all that it made (gradient checkpointing, Chen et al., "Training Deep
Nets with Sublinear Memory Cost", arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from svl_core.lvlm.head import can_stand_in
from svl_core.lvlm.memory import free_bytes
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import StandIn, with_stand_ins

WIDTHS = 8  # vectors of the residual stream's width that a layer keeps of each position, about
INNER_WIDTHS = 4  # likewise of its MLP's inner width
SHARE = 0.25  # of the free memory, which a backward pass may fill
UNKNOWN = 2**30  # bytes that it may fill where the free memory is not known


class Recomputed(StandIn):
    """A layer that keeps its input alone for the way back."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            self.layer,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            **kwargs,
        )


def kept_bytes(
    lvlm: LVLM,
    length: int,
) -> int:
    """About how many bytes a backward pass through all layers needs of what the forward pass made.

    lvlm: the model.
    length: S, positions that the pass reads.
    """
    config = lvlm.text_config
    width = lvlm.hidden_size
    inner = _largest(getattr(config, "intermediate_size", None) or 4 * width)
    numbers = WIDTHS * width + INNER_WIDTHS * inner
    if getattr(config, "_attn_implementation", None) == "eager":
        heads = _largest(config.num_attention_heads)
        numbers += 2 * heads * length  # the map, before and behind the softmax
    return lvlm.num_layers * length * numbers * lvlm.dtype.itemsize


def _largest(value: int | Sequence[int]) -> int:
    """A number, or the largest one of those that a config lists layer by layer."""
    return value if isinstance(value, int) else max(value)


def may_keep(device: torch.device) -> int:
    """Bytes that a backward pass may fill on a device."""
    free = free_bytes(device)
    return UNKNOWN if free is None else int(SHARE * free)


def can_recompute(lvlm: LVLM) -> bool:
    """Whether its layers can be run anew one by one: where other modules can stand for them."""
    return can_stand_in(lvlm)


def recomputed(lvlm: LVLM) -> LVLM:
    """The same model for passes without a cache, each layer of which is computed again on the way
    back. The gradients are the same.
    """
    layers = [Recomputed(layer) for layer in lvlm.layers]
    model = with_stand_ins(
        lvlm,
        lvlm.model,
        layers,
    )
    return replace(lvlm, model=cast(PreTrainedModel, model))
