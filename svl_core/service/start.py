"""How the page starts fast: it is served before torch and transformers are there, while one thread
imports everything that its work needs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def briskly() -> Iterator[None]:
    """Imports inside this run without garbage collection, and no later one looks through what they
    made: hardly anything of it is ever thrown away.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@cache
def libraries() -> None:
    """Import all that the model's work needs, once: called by one thread at a time, for
    transformers' lazy imports are not thread-safe.
    """
    import svl_core as svl

    with briskly():
        for name in svl.__all__:
            getattr(svl, name)
