"""What is derived from a value that never changes is found once, and goes with it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

Found = TypeVar("Found")


class Memo:
    """Results by the value that they are derived from, for as long as that lives.

    most: results kept for each value, the last ones used.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._found: WeakKeyDictionary[Any, OrderedDict[Hashable, Any]] = WeakKeyDictionary()

    def of(
        self,
        value: Any,
        key: Hashable,
        make: Callable[[], Found],
        keeps: Callable[[Found], bool] = lambda found: True,
    ) -> Found:
        """What `make` returns, or returned before for this value and key.

        value: compared by identity; the result must not refer to it, or neither would ever go.
        key: all else that the result depends on.
        keeps: whether a result is worth its memory.
        """
        with self._lock:
            found = self._found.setdefault(value, OrderedDict())
            if key in found:
                found.move_to_end(key)
                return found[key]
        result = make()
        if keeps(result):
            with self._lock:
                found[key] = result
                while len(found) > self._most:
                    found.popitem(last=False)
        return result
