"""Long work behind the page: one thread a task, progress out, cancellation in."""

from __future__ import annotations

import contextvars
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator

from svl_core.errors import Cancelled, InputError
from svl_core.ui.service import heap

BEAT = 0.25  # seconds between two signs of life, so that a closed tab or Stop is noticed

Emit = Callable[[object], None]


class Deadline(threading.Event):
    """A cancel event that also sets itself once its time is over, whether or not anybody still
    waits for the work.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        super().__init__()
        self.seconds, self._until = seconds, time.monotonic() + seconds
        self.replaced = False  # set for other work of the same kind, whose outcome counts

    @property
    def late(self) -> bool:
        return time.monotonic() > self._until

    def is_set(self) -> bool:
        return super().is_set() or self.late

    def wait(self, timeout: float | None = None) -> bool:
        left = min(
            max(0.0, self._until - time.monotonic()), math.inf if timeout is None else timeout
        )
        super().wait(None if left == math.inf else left)
        return self.is_set()

    def reason(self) -> Exception:
        """What the one who waits is told once the event is set."""
        if super().is_set() or not self.late:
            stopped = Cancelled("Stopped.")
            stopped.replaced = self.replaced
            return stopped
        return InputError(
            f"Found a request that takes longer than {self.seconds:.0f} s, so it was stopped;"
            " expected a shorter one; choose a smaller model, a smaller image or a shorter answer."
        )


def duration(seconds: float) -> str:
    """In words, for a line that says how long something still takes."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


class Pace:
    """How long a piece of work still takes, by the share of it that its time so far has done.

    A share that falls begins another piece.
    """

    SURE_S, SURE = (
        2.0,
        0.05,
    )  # nothing is said before this time has gone by, and this share of the work

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since, self._from, self._last = clock, 0.0, 0.0, math.inf

    def left(self, share: float | None) -> float | None:
        """Seconds left at a share 0..1 done (None: unknown), None while nobody can tell.

        What was done before the first call does not count.
        """
        if share is None:
            self._last = math.inf
            return None
        now = self._clock()
        if share < self._last:
            self._since, self._from = now, share
        self._last = share
        spent, done = now - self._since, share - self._from
        return (
            spent * (1 - share) / done
            if spent > self.SURE_S and done > self.SURE and share < 1
            else None
        )


class Jobs:
    """The cancel events of every session's running tasks, so that Stop reaches only its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, set[threading.Event]] = {}

    def open(self, session: str, seconds: float = math.inf) -> Deadline:
        event = Deadline(seconds)
        with self._lock:
            self._events.setdefault(session, set()).add(event)
        return event

    def close(self, session: str, event: threading.Event) -> None:
        with self._lock:
            self._events.get(session, set()).discard(event)
            if not self._events.get(session):
                self._events.pop(session, None)

    def cancel(self, session: str, replaced: bool = False) -> int:
        """Ask all tasks of a session to end, `replaced` by others or for good; returns how many."""
        with self._lock:
            events = list(self._events.get(session, ()))
        for event in events:
            event.replaced = replaced
            event.set()
        return len(events)


def run(
    work: Callable[[Emit, threading.Event], object],
    jobs: Jobs,
    session: str,
    seconds: float = math.inf,
) -> Iterator[object]:
    """Run `work(emit, cancel)` in a thread; yield what it emits, None as a sign of life, and its
    result last.

    Its exception is raised here. After `seconds` it is cancelled and an InputError says so. Closing
    this generator, or `jobs.cancel(session)`, sets `cancel`; the page is then free at once: a
    `Cancelled` is raised here even where the work itself takes longer to notice.
    """
    cancel, events = jobs.open(session, seconds), queue.Queue()

    def body() -> None:
        try:
            events.put(("done", work(lambda item: events.put(("item", item)), cancel)))
        except BaseException as error:  # handed to the caller, which raises it
            events.put(("error", error))
        heap.give_back()

    here = contextvars.copy_context()  # a lent GPU is charged to the visitor whose request this is
    thread = threading.Thread(target=here.run, args=(body,), name="svl-task", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, item = events.get(timeout=BEAT)
            except queue.Empty:
                if cancel.is_set():
                    raise cancel.reason() from None
                yield None
                continue
            if kind == "error":
                raise cancel.reason() if isinstance(item, Cancelled) else item
            yield item
            if kind == "done":
                return
            if cancel.is_set():
                raise cancel.reason()
    finally:
        cancel.set()
        jobs.close(session, cancel)
