"""A session holds its own values, and no description of the whole page; an open one is never given
up for another.

What gradio does: it describes every component of the page to each new session, for deep links, and
keeps a component that an event made anew under its new number; a session that ended stays until
many others have come, and any name that a request invents is one more, for which the oldest goes.
Why not: 7 MB and 60 ms for each visitor, kept after the visitor has gone; the page makes its own
links; three hundred invented names cost every visitor what the page shows.
How: `state_holder.SessionState` and `StateHolder.__getitem__` are replaced, for pages that `apply`
was called with; `keep_open`, `idle` and `forget` read and change the page's `state_holder`.
Tested on gradio 6.31. Unnecessary once gradio describes components on demand only, and has a way to
drop a session.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import route_utils, state_holder

_GRADIO_SESSION = state_holder.SessionState
_GRADIO_GETITEM = state_holder.StateHolder.__getitem__
LEAN = "holds_lean_sessions"  # attribute of the pages whose sessions are `LeanSession`s
IS_OPEN = "knows_open_sessions"  # attribute of these: whether a session's page is open
STRANGERS = 64  # sessions without a page that are held for a moment, all together


class LeanSession(_GRADIO_SESSION):
    """Values of `gr.State` and components that were updated; no description of the page."""

    def __init__(self, blocks: gr.Blocks) -> None:
        nothing_to_describe = SimpleNamespace(default_config=blocks.default_config, blocks={})
        super().__init__(nothing_to_describe)

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if getattr(block, "stateful", False):
            super().__setitem__(key, value)
            self.config_values.clear()
            return
        # a component made anew has a number of its own, and its next value would be stored under
        # that too
        value._id = key
        self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


def _session_of(blocks: gr.Blocks) -> _GRADIO_SESSION:
    kind = LeanSession if getattr(blocks, LEAN, False) else _GRADIO_SESSION
    return kind(blocks)


def _held(holder, session: str) -> _GRADIO_SESSION:
    """A session's values; for a new stranger's the oldest stranger's go."""
    page = getattr(holder, "blocks", None)
    is_open = getattr(page, IS_OPEN, None)
    if is_open is None:
        return _GRADIO_GETITEM(holder, session)
    with holder.lock:
        if session not in holder.session_data:
            strangers = [name for name in holder.session_data if not is_open(name)]
            if not is_open(session) and len(strangers) >= STRANGERS:
                holder.session_data.pop(strangers[0])
                holder.time_last_used.pop(strangers[0], None)
            holder.session_data[session] = _session_of(page)
        holder.session_data.move_to_end(session)
        holder.time_last_used[session] = datetime.datetime.now()
        return holder.session_data[session]


def apply(page: gr.Blocks, is_open: Callable[[str], bool]) -> None:
    """Has this page's sessions be `LeanSession`s.

    is_open: whether a session has an open page.
    """
    setattr(page, LEAN, True)
    setattr(page, IS_OPEN, is_open)
    state_holder.SessionState = route_utils.SessionState = _session_of
    state_holder.StateHolder.__getitem__ = _held


def keep_open(page: gr.Blocks, session: str) -> bool:
    """Whether gradio holds such a session.

    Its page is open: gradio, which may take it for closed and drop its values an hour later, is
    told so.
    """
    holder = getattr(page, "state_holder", None)
    held = holder.session_data.get(session) if holder is not None else None
    if held is not None:
        held.is_closed = False
    return held is not None


def idle(page: gr.Blocks, seconds: float) -> list[str]:
    """The sessions that were not used for so long."""
    holder = getattr(page, "state_holder", None)
    if holder is None:
        return []
    before = datetime.datetime.now() - datetime.timedelta(seconds=seconds)
    with holder.lock:
        return [name for name, used in holder.time_last_used.items() if used < before]


def forget(page: gr.Blocks, session: str) -> None:
    """Drops what gradio holds of a session that has ended."""
    holder = getattr(page, "state_holder", None)
    if holder is not None:
        with holder.lock:
            holder.session_data.pop(session, None)
            holder.time_last_used.pop(session, None)
