"""What a model says behind its last layer: hidden states in, logits out, by the model's own code.

Final norm, head, scaled or capped logits and whatever else a family does there are not written
again: the model runs one short pass in which every decoder layer hands on the given states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from svl_core.lvlm.decoding import image_token_ids, stepping
from svl_core.lvlm.families import GENERIC
from svl_core.lvlm.hooks import OutputAction, ThreadHooks, hidden_input, with_hidden
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import StandIn, with_stand_ins

AT_ONCE = 2**22  # logits that are made at a time


class _Given(StandIn):
    """A layer that hands on what it was given, whatever comes in."""

    def __init__(
        self,
        layer: torch.nn.Module,
        hidden: torch.Tensor,
    ):
        super().__init__(layer)
        self.__dict__["hidden"] = hidden

    def forward(self, *args, **kwargs):
        return _in_form(self.hidden, args, kwargs)


def can_stand_in(lvlm: LVLM) -> bool:
    """Whether a shallow copy of the model runs the layers that stand in it.

    Modules that are spread over devices call the originals; of a model of no known family nobody
    has tried what its layers hand on; and some leave words alone to their language model.
    """
    if stepping(lvlm) is not lvlm.model:
        return False
    if lvlm.family.name == GENERIC.name:
        return False
    return not any(hasattr(module, "_hf_hook") for module in lvlm.model.modules())


def rows_at_once(lvlm: LVLM) -> int:
    """How many hidden states are read together, so that few logits are in memory at a time."""
    return max(1, AT_ONCE // lvlm.text_config.vocab_size)


@torch.inference_mode()
def logits_of(
    lvlm: LVLM,
    hidden: torch.Tensor,
) -> torch.Tensor:
    """(n, vocab): what the model would predict were `hidden` its last layer's output.

    lvlm: the model, full or pruned.
    hidden: (n, d) hidden states as a layer hands them on, before the final norm, one for each of n
        positions that have nothing to do with each other; (N, n, d) where the model's layers hand
        on N streams (Gemma3n).

    Returns the logits in the model's dtype. No more than `rows_at_once` should be given at a time.
    """
    given = hidden.unsqueeze(-3).to(
        lvlm.device,
        lvlm.dtype,
    )  # (.., 1, n, d), a batch of one
    plain = _plain_token(lvlm)
    ids = torch.full(
        (1, given.shape[-2]),
        plain,
        device=lvlm.device,
    )
    if can_stand_in(lvlm):
        layers = [
            _Given(
                layer,
                given,
            )
            for layer in lvlm.layers
        ]
        model = with_stand_ins(lvlm, lvlm.model, layers)
        return model(input_ids=ids, use_cache=False).logits[0]
    with ThreadHooks() as hooks:
        for layer in lvlm.layers:
            hooks.on_output(layer, _replacing(given))
        return stepping(lvlm)(
            input_ids=ids,
            use_cache=False,
        ).logits[0]


def _replacing(hidden: torch.Tensor) -> OutputAction:
    """Lets a layer run, and hands on `hidden` instead."""
    return lambda args, kwargs, output: with_hidden(output, _in_form(hidden, args, kwargs))


def _in_form(hidden: torch.Tensor, args: tuple, kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Hidden states in the form of those in a layer's call: streams that layers mix have a
    dimension of their own in some models.
    """
    return hidden.reshape(hidden_input(args, kwargs).shape)


def _plain_token(lvlm: LVLM) -> int:
    """The id of a token that stands for no image."""
    images = image_token_ids(lvlm)
    return next(token for token in range(len(images) + 1) if token not in images)
