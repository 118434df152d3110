"""Freed memory goes back to the system: without this a server that works in ever new threads keeps
a little more of it after each visitor.

Of the GNU C library alone; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time

ARENA_MAX = -8  # of <malloc.h>
EVERY_S = 10.0

_lock = threading.Lock()
_last = float("-inf")


def _library() -> ctypes.CDLL | None:
    """The GNU C library, None elsewhere."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None


def few_arenas(most: int = 2) -> None:
    """Threads made from now on share this many pools of memory; by default they get up to eight for
    each core, each with its own gaps.
    """
    library = _library()
    if library is not None:
        library.mallopt(ARENA_MAX, most)


def give_back() -> bool:
    """Hand the whole pages that are free to the system, at most once in `EVERY_S` seconds; whether
    it was done now.
    """
    global _last
    with _lock:
        library = _library()
        if library is None or time.monotonic() - _last < EVERY_S:
            return False
        _last = time.monotonic()
    library.malloc_trim(0)
    return True
