"""Stopping a model in the middle of a pass: a long forward pass ends at its next decoder layer once somebody wants it to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from svl_core.errors import Cancelled

if TYPE_CHECKING:
    from svl_core.lvlm.model import LVLM


@contextlib.contextmanager
def stoppable(lvlm: LVLM, cancel: threading.Event) -> Iterator[None]:
    """Within this block every pass that this thread runs through `lvlm` raises Cancelled at the first decoder layer after `cancel` is set."""
    here = threading.get_ident()

    def check(module, args):
        if threading.get_ident() == here and cancel.is_set():
            raise Cancelled("Stopped.")

    handles = [layer.register_forward_pre_hook(check) for layer in lvlm.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
