"""A component's value comes without gradio's own mark in it.

What gradio does: after an update that changed nothing, its page leaves the mark `__type__` in the
value of a component whose value is an object, and sends it with the next event.
Why not: handed back, that value would be taken for an update.
How: the mark is taken out of what handlers are given; nothing of gradio is changed.
Tested on gradio 6.31. Unnecessary once the page takes the mark out itself.
"""

from __future__ import annotations

from typing import Any

MARK = "__type__"


def apply(value: Any) -> Any:
    """The value without the mark."""
    if not isinstance(value, dict):
        return value
    return {key: part for key, part in value.items() if key != MARK}
