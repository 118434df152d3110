"""Stopping a model in the middle of a pass: at its next decoder layer once the work is cancelled,
or as soon as it has called the module whose inputs are wanted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from svl_core.lvlm.hooks import ThreadHooks
from svl_core.progress import Run

if TYPE_CHECKING:
    import torch

    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample


@contextlib.contextmanager
def stoppable(lvlm: LVLM, run: Run) -> Iterator[None]:
    """Within this block every pass that this thread runs through `lvlm` raises Cancelled at the
    first decoder layer after `run` is cancelled.
    """
    with ThreadHooks() as hooks:
        for layer in lvlm.layers:
            hooks.on_input(layer, lambda args, kwargs: run.check())
        yield


class _Reached(Exception):
    """Ends a forward pass."""


def reaching(
    lvlm: LVLM,
    module: torch.nn.Module,
    sample: Sample,
) -> tuple[tuple, dict]:
    """The (args, kwargs) of the first call of `module` in a pass over `sample`, which ends there.

    Other threads' passes go on.
    """
    import torch

    calls: list[tuple[tuple, dict]] = []

    def capture(args, kwargs):
        calls.append((args, kwargs))
        raise _Reached

    with (
        ThreadHooks() as hooks,
        torch.inference_mode(),
        contextlib.suppress(_Reached),
    ):
        hooks.on_input(module, capture)
        lvlm.model(**sample.inputs, use_cache=False)
    return calls[0]
