"""How the page starts fast: it is served with gradio alone, while one thread imports everything
that its work needs.
"""

from __future__ import annotations

import gc
import inspect
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


@contextmanager
def without_stubs() -> Iterator[None]:
    """gradio imported inside this leaves the .pyi files beside its components as they are.

    It renders and compares them at each import, which takes as long as the rest of it; a class
    without a source file is passed over.
    """
    own = inspect.getfile

    def getfile(thing):
        if type(thing).__name__ == "ComponentMeta":
            raise OSError("no stub wanted")
        return own(thing)

    inspect.getfile = getfile
    try:
        yield
    finally:
        inspect.getfile = own


@contextmanager
def patiently(tries: int = 20) -> Iterator[None]:
    """A page launched inside this looks for itself up to `tries` times before gradio gives up: on a
    busy machine it may not answer within gradio's three seconds while torch is imported.
    """
    from gradio import networking

    own = networking.url_ok
    networking.url_ok = lambda url: any(own(url) for _ in range(tries))
    try:
        yield
    finally:
        networking.url_ok = own


@cache
def libraries() -> None:
    """Import all that the model's work needs, once: called by one thread at a time, for
    transformers' lazy imports are not thread-safe.
    """
    import svl_core as svl

    with briskly():
        for name in svl.__all__:
            getattr(svl, name)
