"""gradio is imported without rendering the stub files of its components.

What gradio does: its metaclass writes a `.pyi` file beside each component's source, and at every
import renders it anew and compares it, which takes as long as the rest of the import.
Why not: the page starts twice as fast without; the files that gradio ships are up to date.
How: the metaclass passes over a class whose source file `inspect.getfile` does not know.
Tested on gradio 6.31. Unnecessary once gradio has a switch for it, or renders on demand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def apply() -> Iterator[None]:
    """gradio imported inside this leaves the stub files as they are."""
    original = inspect.getfile

    def getfile(thing):
        if type(thing).__name__ == "ComponentMeta":
            raise OSError("no stub wanted")
        return original(thing)

    inspect.getfile = getfile
    try:
        yield
    finally:
        inspect.getfile = original
