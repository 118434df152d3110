"""A light layer in the place of a dropped run: an MLP behind the layer before it, fitted in closed
form.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from svl_core.errors import InputError
from svl_core.lvlm.hooks import captured_calls, shallow_copy
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.roles import feed_forward_end
from svl_core.lvlm.skeleton import assign, running_device
from svl_core.progress import Run
from svl_core.pruning.edits import attach, entering_and_step, fitted_tokens
from svl_core.pruning.fit import Fit
from svl_core.pruning.refit import check_floating, solved
from svl_core.pruning.view import gaps_of, places_of

NORM = "post_attention_layernorm"
"""What a decoder layer's MLP reads through."""

DOWN = "down_proj"


class LightLayer(Module):
    """H + mlp(norm(H)) on the residual stream, position by position.

    norm, mlp: parts of a decoder layer; they are copied, and share its numbers.
    """

    def __init__(self, norm: Module, mlp: Module):
        super().__init__()
        self.norm = _own(norm)
        self.mlp = _own(mlp)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm(hidden)
        added = self.mlp(normed)
        return hidden + added


def _own(module: Module) -> Module:
    """A copy of a module with parameters of its own that share the numbers."""
    copied = shallow_copy(module)
    copied._parameters = dict(module._parameters)
    present = module.named_parameters(recurse=False)
    for name, parameter in present:
        shared = Parameter(
            parameter.detach(),
            requires_grad=False,
        )
        setattr(copied, name, shared)
    for name, part in module.named_children():
        setattr(copied, name, _own(part))
    return copied


def light_layers(
    full: LVLM,
    pruned: LVLM,
    fit: Fit,
    run: Run,
) -> list[int]:
    """Puts a light layer in the place of every dropped run of a pruned view; returns the ids of the
    layers before them.

    The light layer is the first dropped layer's MLP with its norm, whose down-projection is fitted
    anew: W = argmin |F W - (H[b+1] - H[a])|^2 + lambda |W|^2 over the fit's tokens, F what enters
    the projection when the MLP reads H[a].

    Taken from the paper's description and the authors' code: one light network in the place of a
    block, which learns the block's output from its input, begun with the weights of the first
    dropped layer. This project's reading: an MLP (a SwiGLU where the model has one), of which the
    last matrix alone is fitted, in closed form, and one for every run; the authors learn from all
    tokens, which is tokens="all" here. Left out: all training, and a whole decoder layer as the
    light network, which the authors prefer: to keep one layer more and 'refit' is its closed form.

    full: the model that `pruned` is a view of.
    fit: the tokens, their weights, and lambda in units of the mean diagonal of F^T F.
    run: cancels.

    Source: after LLM-Streamline, arXiv 2403.19135. A run at the start has no layer before it and
    stays without one. Raises InputError for layers without such an MLP and for quantised weights;
    Cancelled.
    """
    keep = places_of(full, pruned)
    edited = []
    for first, last in gaps_of(full, pruned):
        run.check("Stopped before the model was compensated.")
        light = _light(full.layers[first])
        weight = _fitted(
            light,
            fit,
            first,
            last,
        )
        down = light.mlp.get_submodule(DOWN)
        own = down.get_parameter("weight")
        assign(down, weight=weight.to(own))
        place = keep.index(first - 1)
        attach(pruned.layers[place], light)
        edited.append(pruned.layer_ids[place])
    return edited


def _light(layer: Module) -> LightLayer:
    """The light layer that begins with a dropped layer's weights."""
    down = feed_forward_end(layer)
    parts = layer._modules
    norm = parts.get(NORM)
    mlp = parts.get("mlp")
    inner = getattr(mlp, DOWN, None)
    if norm is None or mlp is None or inner is not down:
        raise InputError(
            f"Found no {NORM} before an mlp.{DOWN} in {type(layer).__name__}; expected both for"
            " compensation 'light-layer'; choose 'bridge' or 'none'."
        )
    check_floating(down)
    return LightLayer(norm, mlp)


@torch.inference_mode()
def _fitted(
    light: LightLayer,
    fit: Fit,
    first: int,
    last: int,
) -> Tensor:
    """(d, f) float64: the down-projection from what enters the run first..last to what it adds."""
    down = light.mlp.get_submodule(DOWN)
    device = running_device(down)
    weight = down.get_parameter("weight")
    gram = torch.zeros((), dtype=torch.float64)
    cross = gram
    with captured_calls(down) as calls:
        for sample, at, weights in fitted_tokens(fit):
            entering, step = entering_and_step(
                sample,
                at,
                first,
                last,
            )
            hidden = entering.to(device)
            light(hidden.to(weight.dtype))
            (inner,), _ = calls.pop()
            features = inner.double().cpu()
            weighted = features.T * weights.T
            gram = gram + weighted @ features
            cross = cross + weighted @ step
    return solved(gram, cross, fit.ridge)
