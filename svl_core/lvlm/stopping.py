"""Stopping a model in the middle of a pass: at its next layer once the work is cancelled, or as
soon as it has called the module whose inputs are wanted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from svl_core.lvlm.hooks import ThreadHooks, ended_at
from svl_core.progress import Run

if TYPE_CHECKING:
    import torch

    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample


@contextlib.contextmanager
def stoppable(lvlm: LVLM, run: Run) -> Iterator[None]:
    """Within this block every pass that this thread runs through `lvlm` raises Cancelled at the
    first layer, of its vision side or its decoder, after `run` is cancelled.
    """
    with ThreadHooks() as hooks:
        for layer in _all_layers(lvlm.model):
            hooks.on_input(layer, lambda args, kwargs: run.check())
        yield


def _all_layers(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The layers of every stack in a model: the members of its outermost lists of modules."""
    for child in module.children():
        if type(child).__name__ == "ModuleList":
            yield from child.children()
        else:
            yield from _all_layers(child)


def reaching(
    lvlm: LVLM,
    module: torch.nn.Module,
    sample: Sample,
) -> tuple[tuple, Mapping[str, Any]]:
    """The (args, kwargs) of the first call of `module` in a pass over `sample`; it ends there."""
    import torch

    from svl_core.lvlm.vision import forward

    with torch.inference_mode(), ended_at(module) as calls:
        forward(lvlm, sample.inputs, sample.features, use_cache=False)
    return calls[0]
