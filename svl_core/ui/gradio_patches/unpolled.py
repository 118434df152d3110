"""The queue sleeps until an event comes or ends.

What gradio does: its queue wakes every millisecond to see whether an event waits that could begin,
and every ten for progress bars.
Why not: on a small machine that is a twentieth of a core for as long as the server runs, and this
page has no progress bars of gradio's.
How: `Blocks._queue` is told a pause that ends early; gradio.queueing, which sleeps for it, is given
an `asyncio.sleep` that knows such pauses; an event that comes or ends is noticed by wrapping
`Queue.push` and `Queue.process_events`, for one page.
Tested on gradio 6.31. Unnecessary once the queue is woken by its events.
"""

from __future__ import annotations

import asyncio
from functools import wraps
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import queueing

LONGEST_S = 0.25  # that the queue sleeps, whatever comes
PROGRESS_S = 1.0


class Pause(float):
    """A pause in seconds that `end` ends early."""

    _over: asyncio.Event | None = None  # of the loop that sleeps

    def end(self) -> None:
        if self._over is not None:
            self._over.set()

    async def sleep(self) -> None:
        self._over = asyncio.Event()
        try:
            await asyncio.wait_for(self._over.wait(), self)
        except TimeoutError:
            pass


class _Asyncio(SimpleNamespace):
    """asyncio, but for `sleep`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(delay: float, result: Any = None) -> Any:
        if isinstance(delay, Pause):
            return await delay.sleep()
        return await asyncio.sleep(delay, result)


def apply(page: gr.Blocks) -> None:
    """Has this page's queue sleep between events; after `Blocks.queue`."""
    queue, pause = page._queue, Pause(LONGEST_S)
    queueing.asyncio = _Asyncio()
    queue.sleep_when_free = pause
    queue.progress_update_sleep_when_free = PROGRESS_S
    queue.push = _ending(pause, queue.push)
    queue.process_events = _ending(pause, queue.process_events)


def _ending(pause: Pause, function):
    """A coroutine function after which the pause is over."""

    @wraps(function)
    async def call(*given, **named):
        try:
            return await function(*given, **named)
        finally:
            pause.end()

    return call
