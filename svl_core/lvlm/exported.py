"""A model as a plain checkpoint holds it: of full shape, where halves of layers are skipped too."""

from __future__ import annotations

import torch

from svl_core.errors import InputError
from svl_core.lvlm import families, halves
from svl_core.lvlm.roles import Ending, attention_end, feed_forward_endings
from svl_core.lvlm.skeleton import assign, materialized, with_layers
from svl_core.recipe import ATTENTION, HALVES


def whole(model):
    """The model with all halves of its layers, of which those that it skips add nothing: the
    weights and biases that end them are zero. `model` itself if none is skipped.

    Raises InputError for quantised weights, and where it is not known what ends a half.
    """
    layers = families.decoder_layers(model)
    restored = halves.restored(model)
    if restored is model:
        return model
    made = with_layers(restored, range(len(layers)))
    full = families.decoder_layers(made)
    for half in HALVES:
        for number in halves.skipped(layers, half):
            layer = full[number]
            for ending in _endings(layer, half):
                _zero(ending)
    return made


def _endings(
    layer: torch.nn.Module,
    half: str,
) -> list[Ending]:
    """The weights whose outputs together are what a half adds."""
    if half == ATTENTION:
        return [Ending(attention_end(layer))]
    return feed_forward_endings(layer)


def _zero(ending: Ending) -> None:
    """Gives a module a weight and a bias of zeros in the place of those that it shares."""
    zeros = {}
    for name in (ending.weight, ending.bias):
        parameter = materialized(ending.module, name)
        if parameter is None:
            continue
        if not parameter.is_floating_point() or hasattr(parameter, "quant_state"):
            raise InputError(
                "Found quantised weights behind a half that is skipped; expected floating-point"
                " ones, to be saved as zeros; load the model without quantisation to save it."
            )
        zeros[name] = torch.zeros_like(parameter)
    assign(ending.module, **zeros)
