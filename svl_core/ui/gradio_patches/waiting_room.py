"""What waits in the queue is bounded for each visitor, gets its turn in fairness, and goes with who
listens for it.

What gradio does: it counts all waiting events together against one number, serves them in order of
arrival, runs those that nobody listens for, and keeps their messages.
Why not: one client with a hundred jobs locks everybody out, clicks included, for as long as they
run.
How: `push` and `start` of the page's queue are wrapped: the first asks
`svl_core.service.waiting`, the second also starts a sweep, which hands events without a listener to
the queue's own `clean_events`.
Tested on gradio 6.31. Unnecessary once gradio bounds its queue for each client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import gradio as gr
from fastapi import HTTPException
from gradio.utils import run_coro_in_background

from svl_core.service.limits import Limits
from svl_core.service.waiting import Listeners, Waiting, address_of, in_turn, refusal

HEAVY = frozenset({"model", "evidence"})
"""Names of the queues of events that run a model."""
SWEEP_S = 1.0  # between two looks for events that nobody listens for
KEPT = 6  # times that long are the results of a session kept that nobody fetches


def apply(
    page: gr.Blocks,
    limits: Limits,
    listeners: Listeners,
    tidy: Callable[[float, Collection[str]], None] = lambda seconds, busy: None,
) -> None:
    """Has this page's queue hold the limits; call after `page.queue`.

    tidy: called every second with a time in seconds, and the sessions that have something waiting
        or running: ends the others that are no page and were silent for longer.
    """
    queue = page._queue
    push, start = queue.push, queue.start
    since: dict[str, float] = {}  # sessions without events: when that was seen first

    async def bounded_push(body, request, username):
        function = page.fns.get(body.fn_index)
        if function is not None:
            session = body.session_hash or ""
            asked = _as_waiting(session, request, function)
            others = [_waiting(event) for event in queue.event_ids_to_events.values()]
            refused = refusal(limits, asked, others)
            if refused is not None:
                raise HTTPException(*refused)
        pushed = await push(body, request, username)
        if function is not None and function.concurrency_id in HEAVY:
            _take_turns(queue.event_queue_per_concurrency_id.get(function.concurrency_id))
        return pushed

    async def sweep() -> None:
        while not queue.stopped:
            await asyncio.sleep(SWEEP_S)
            await sweep_once()

    async def sweep_once() -> None:
        for event in list(queue.event_ids_to_events.values()):
            names = (event.session_hash, event._id)
            if listeners.silent_s(names, event.enqueue_time) > limits.unheard_s:
                await queue.clean_events(event_id=event._id)
                _drop_id(queue, event)
        _drop_results(queue, listeners, since, KEPT * limits.unheard_s)
        listeners.forget(2 * KEPT * limits.unheard_s)
        busy = {event.session_hash for event in queue.event_ids_to_events.values()}
        await asyncio.to_thread(tidy, KEPT * limits.unheard_s, busy)

    def start_both() -> None:
        start()
        run_coro_in_background(sweep)

    queue.push, queue.start, queue.sweep_once = bounded_push, start_both, sweep_once


def _as_waiting(session: str, request, function) -> Waiting:
    host = request.client.host if request.client else None
    return Waiting(session, address_of(host), function.concurrency_id in HEAVY)


def _waiting(event) -> Waiting:
    return _as_waiting(event.session_hash, event.request, event.fn)


def _take_turns(events) -> None:
    """Sorts what waits so that no address has two turns before another has one."""
    if events is not None:
        order = in_turn([_waiting(event) for event in events.queue])
        events.queue[:] = [events.queue[place] for place in order]


def _drop_id(queue, event) -> None:
    ids = queue.pending_event_ids_session.get(event.session_hash)
    if ids is not None:
        ids.discard(event._id)


def _drop_results(queue, listeners: Listeners, since: dict[str, float], kept_s: float) -> None:
    """Forgets the results of sessions that have nothing running and that nobody listens for."""
    busy = {event.session_hash for event in queue.event_ids_to_events.values()}
    idle = {*queue.pending_event_ids_session, *_sessions_with_messages(queue)} - busy
    for session in since.keys() - idle:
        del since[session]
    for session in idle:
        seen = since.setdefault(session, time.monotonic())
        names = (session, *queue.pending_event_ids_session.get(session, ()))
        if listeners.silent_s(names, seen) > kept_s:
            queue.pending_event_ids_session.pop(session, None)
            queue.pending_messages_per_session.pop(session, None)


def _sessions_with_messages(queue) -> list[str]:
    return list(queue.pending_messages_per_session)
