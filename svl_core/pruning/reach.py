"""Whether what a layer's feed-forward gives is what the residual stream gets: a norm behind it, or
a factor, is found by trying.

Fits of its output take it for what is added to the stream. Where it is not, they would bridge a gap
that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from svl_core.errors import InputError
from svl_core.lvlm import families
from svl_core.lvlm.hooks import ThreadHooks, hidden_input
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.roles import feed_forward_end
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.stopping import reaching

TOLERANCE = 0.1
"""Of what was added, the share that may be lost to rounding, half precision too."""


@torch.inference_mode()
def reaches_the_stream(lvlm: LVLM, sample: Sample) -> bool:
    """Whether a change of the feed-forward's output is the same change of the residual stream.

    Tried on the first layer that has one such output, in two passes that end behind it. True where
    no layer has.

    sample: any question to the model.
    """
    number = _first_layer(lvlm)
    if number is None:
        return True
    before = _behind(lvlm, sample, number, None)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(before.shape[-1], generator=generator)
    shift = noise.to(before) * before.std()
    changed = _behind(lvlm, sample, number, shift)
    error = (changed - before - shift).abs().max()
    return bool(error < TOLERANCE * shift.abs().max())


def _first_layer(lvlm: LVLM) -> int | None:
    """The first layer, but for the last, whose feed-forward one linear map ends."""
    for number in range(lvlm.num_layers - 1):
        try:
            feed_forward_end(lvlm.layers[number])
        except InputError:
            continue
        return number
    return None


def _behind(
    lvlm: LVLM,
    sample: Sample,
    number: int,
    shift: torch.Tensor | None,
) -> torch.Tensor:
    """What enters the layer behind another, (B, S, d) float32.

    number: of the layer.
    shift: (d,) is added to what its feed-forward gives; None: nothing.
    """

    def shifted(args: tuple, kwargs: Mapping[str, Any], output: torch.Tensor) -> torch.Tensor:
        return output if shift is None else output + shift.to(output)

    end = feed_forward_end(lvlm.layers[number])
    with ThreadHooks() as hooks:
        hooks.on_output(end, shifted)
        args, kwargs = reaching(lvlm, lvlm.layers[number + 1], sample)
    return families.residual(hidden_input(args, kwargs), lvlm.text_config).float()
