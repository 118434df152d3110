"""Long work behind the page: one thread a task, progress out, cancellation in."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from svl_core.errors import Cancelled

BEAT = 0.25  # seconds between two signs of life, so that a closed tab or Stop is noticed

Emit = Callable[[object], None]


class Jobs:
    """The cancel events of every session's running tasks, so that Stop reaches only its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, set[threading.Event]] = {}

    def open(self, session: str) -> threading.Event:
        event = threading.Event()
        with self._lock:
            self._events.setdefault(session, set()).add(event)
        return event

    def close(self, session: str, event: threading.Event) -> None:
        with self._lock:
            self._events.get(session, set()).discard(event)
            if not self._events.get(session):
                self._events.pop(session, None)

    def cancel(self, session: str) -> int:
        """Ask all tasks of a session to end; returns how many."""
        with self._lock:
            events = list(self._events.get(session, ()))
        for event in events:
            event.set()
        return len(events)


def run(work: Callable[[Emit, threading.Event], object], jobs: Jobs, session: str) -> Iterator[object]:
    """Run `work(emit, cancel)` in a thread; yield what it emits, None as a sign of life, and its result last.

    Its exception is raised here. Closing this generator, or `jobs.cancel(session)`, sets `cancel`; the page is then
    free at once: a `Cancelled` is raised here even where the work itself takes longer to notice.
    """
    cancel, events = jobs.open(session), queue.Queue()

    def body() -> None:
        try:
            events.put(("done", work(lambda item: events.put(("item", item)), cancel)))
        except BaseException as error:  # handed to the caller, which raises it
            events.put(("error", error))

    thread = threading.Thread(target=body, name="svl-task", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, item = events.get(timeout=BEAT)
            except queue.Empty:
                if cancel.is_set():
                    raise Cancelled("Stopped.") from None
                yield None
                continue
            if kind == "error":
                raise item
            yield item
            if kind == "done":
                return
            if cancel.is_set():
                raise Cancelled("Stopped.")
    finally:
        cancel.set()
        jobs.close(session, cancel)
