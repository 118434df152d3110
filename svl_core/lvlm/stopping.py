"""Stopping a model in the middle of a pass: at its next decoder layer once somebody wants it to, or
where what is wanted is known.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
    here = threading.get_ident()

    def check(module, args):
        if threading.get_ident() == here:
            run.check()

    handles = [layer.register_forward_pre_hook(check) for layer in lvlm.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reached(Exception):
    """Ends a forward pass."""


def reaching(lvlm: LVLM, module: torch.nn.Module, sample: Sample) -> tuple[tuple, dict]:
    """What a pass over `sample` first calls `module` with (args, kwargs); the pass ends there.

    Other threads' passes go on.
    """
    import torch

    seen, here = [], threading.get_ident()

    def hook(module, args, kwargs):
        if threading.get_ident() == here:
            seen.append((args, kwargs))
            raise _Reached

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.inference_mode():
            lvlm.model(**sample.inputs, use_cache=False)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0]
