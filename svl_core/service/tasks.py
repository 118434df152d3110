"""Long work behind the page: one thread a task, updates out, cancellation in."""

from __future__ import annotations

import contextvars
import ctypes
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from svl_core.errors import Cancelled, InputError
from svl_core.progress import Progress, Run
from svl_core.service import heap

BEAT = 0.25  # seconds between two signs of life, so that a closed tab or Stop is noticed
PACE_S = 0.15  # between two updates of a page, each of which costs the server some milliseconds;
REST = 10  # where the last one took longer, so many times that,
LONGEST_REST_S = 1.0  # but no longer

Update = dict[str, object]
Emit = Callable[[Update], None]
Show = Callable[[str, float | None], Update]  # words and share done (0..1, None: unknown)


class Deadline(threading.Event):
    """A cancel event that also sets itself once its time is over, whether or not anybody still
    waits for the work.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        super().__init__()
        self.seconds = seconds
        self._until = time.monotonic() + seconds
        self.replaced = False  # set for other work of the same kind, whose outcome counts

    @property
    def late(self) -> bool:
        return time.monotonic() > self._until

    def is_set(self) -> bool:
        return super().is_set() or self.late

    def wait(self, timeout: float | None = None) -> bool:
        left = max(0.0, self._until - time.monotonic())
        if timeout is not None:
            left = min(left, timeout)
        super().wait(None if left == math.inf else left)
        return self.is_set()

    def reason(self) -> Exception:
        """What the one who waits is told once the event is set."""
        if super().is_set() or not self.late:
            stopped = Cancelled("Stopped.")
            stopped.replaced = self.replaced
            return stopped
        return _too_long(self.seconds)


def _too_long(seconds: float) -> InputError:
    return InputError(
        f"Found a request that takes longer than {seconds:.0f} s, so it was stopped; expected a"
        " shorter one; choose a smaller model, a smaller image or a shorter answer."
    )


class Late(BaseException):
    """Raised in the middle of what takes too long."""


class _Watch:
    """One thread that interrupts those that are late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[object, tuple[float, int]] = {}  # monotonic seconds and thread, by work
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, work: object, seconds: float) -> None:
        with self._lock:
            self._until[work] = time.monotonic() + seconds, threading.get_ident()
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="svl-watch", daemon=True)
                self._thread.start()
        self._some.set()

    def end(self, work: object) -> None:
        with self._lock:
            self._until.pop(work, None)

    def _look(self) -> None:
        while self._some.wait():
            time.sleep(BEAT)
            with self._lock:
                time_s = time.monotonic()
                for work, (until, thread) in list(self._until.items()):
                    if time_s > until:
                        del self._until[work]
                        _interrupt(thread)
                if not self._until:
                    self._some.clear()


def _interrupt(thread: int) -> None:
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    raise_in(ctypes.c_ulong(thread), ctypes.py_object(Late))


_WATCH = _Watch()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What runs inside, in this thread, is interrupted after so many seconds: for short work that
    looks at no `Run`. Raises InputError where it was.
    """
    work = object()
    _WATCH.begin(work, seconds)
    try:
        try:
            yield
        finally:
            _WATCH.end(work)
    except Late:
        raise _too_long(seconds) from None


def duration(seconds: float) -> str:
    """In words, for a line that says how long something still takes."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


class Pace:
    """How long a piece of work still takes, by the share of it that its time so far has done.

    A share that falls begins another piece.
    """

    SURE_S = 2.0  # nothing is said before this time has gone by,
    SURE_SHARE = 0.05  # and before this share of the work is done

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun_s, self._begun_share = 0.0, 0.0
        self._last_share = math.inf

    def left(self, share: float | None) -> float | None:
        """Seconds left at a share 0..1 done (None: unknown), None while nobody can tell.

        What was done before the first call does not count.
        """
        if share is None:
            self._last_share = math.inf
            return None
        time_s = self._clock()
        if share < self._last_share:
            self._begun_s, self._begun_share = time_s, share
        self._last_share = share
        spent_s = time_s - self._begun_s
        done = share - self._begun_share
        sure = spent_s > self.SURE_S and done > self.SURE_SHARE
        return spent_s * (1 - share) / done if sure and share < 1 else None


def paced(progress: Progress, pace: Pace | None = None) -> Progress:
    """`progress` with the time that is left behind its words, once the pace can be told."""
    pace = pace or Pace()

    def with_time_left(share: float | None, what: str = "") -> None:
        left_s = pace.left(share)
        if left_s is not None:
            what = f"{what}; about {duration(left_s)} left"
        progress(share, what)

    return with_time_left


def in_percent(run: Run, what: str) -> Run:
    """The same run, of which "`what` … 40 %" is told in the place of its parts' own words."""

    def progress(share: float | None, detail: str = "") -> None:
        words = f"{what} …" if share is None else f"{what} … {100 * share:.0f} %"
        run.report(share, words)

    return run.telling(progress)


def _ignore(update: Update) -> None:
    pass


def as_data(text: str, share: float | None) -> Update:
    """What a task does, for whoever draws it: {"doing": (words, share 0..1 or None)}."""
    return {"doing": (text, share)}


@dataclass(frozen=True)
class Task(Run):
    """A visitor's piece of work: a `Run` that also hands over updates before its result.

    What it reports is an update too, with the time that is left behind its words.

    emit: takes an update while the work goes on.
    """

    emit: Emit = _ignore

    @classmethod
    def of(cls, emit: Emit, cancel: Deadline, show: Show = as_data) -> Task:
        """show: makes the update of what is reported: words, and the share done."""
        return cls(cancel=cancel, emit=emit).showing(show)

    def showing(self, show: Show) -> Task:
        """The same task, whose reports are shown otherwise: a section's own place, say."""

        def progress(share: float | None, what: str) -> None:
            self.emit(show(what, share))

        return self.telling(paced(progress))


class Jobs:
    """The deadlines of every session's running tasks, so that Stop reaches only its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deadlines: dict[str, set[Deadline]] = {}

    def open(self, session: str, seconds: float = math.inf) -> Deadline:
        """A new deadline of a session, to be closed once its task has ended."""
        deadline = Deadline(seconds)
        with self._lock:
            self._deadlines.setdefault(session, set()).add(deadline)
        return deadline

    def close(self, session: str, deadline: Deadline) -> None:
        """The task of a deadline has ended."""
        with self._lock:
            self._deadlines.get(session, set()).discard(deadline)
            if not self._deadlines.get(session):
                self._deadlines.pop(session, None)

    def cancel_all(self) -> None:
        """Ask all tasks to end: the server stops."""
        with self._lock:
            sessions = list(self._deadlines)
        for session in sessions:
            self.cancel(session)

    def cancel(self, session: str, replaced: bool = False) -> int:
        """Ask all tasks of a session to end, `replaced` by others or for good; returns how many."""
        with self._lock:
            deadlines = list(self._deadlines.get(session, ()))
        for deadline in deadlines:
            deadline.replaced = replaced
            deadline.set()
        return len(deadlines)


class Held:
    """Updates that came too soon after the last one, until they may go, as one.

    pace_s: seconds between two that go; 0: each goes at once, as it is.
    clock: tells the time in seconds.
    """

    def __init__(self, pace_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace_s, self._clock = pace_s, clock
        self._held: list[Any] = []
        self._next_s = -math.inf

    def __bool__(self) -> bool:
        return bool(self._held)

    def wait_s(self) -> float:
        """How long until what is held may go, a beat where nothing is; at most a beat."""
        return min(BEAT, max(0.0, self._next_s - self._clock())) if self._held else BEAT

    def add(self, update: Any) -> None:
        """Another update, which joins the last one where nothing of that would be lost."""
        if self._held and _joins(self._held[-1], update):
            update = {**self._held.pop(), **update}
        self._held.append(update)

    def due(self) -> Iterator[Any]:
        """What may go by now."""
        if self._held and not self.wait_s():
            yield from self.all()

    def all(self) -> Iterator[Any]:
        """What is held, whether or not it is time.

        The next may go after the pace, or later where a busy server takes long over one.
        """
        held, self._held = self._held, []
        for update in held:
            begun_s = self._clock()
            yield update
            now_s = self._clock()
            if self._pace_s:
                rest_s = min(LONGEST_REST_S, REST * (now_s - begun_s))
                self._next_s = now_s + max(self._pace_s, rest_s)


def _joins(before: Any, after: Any) -> bool:
    """Whether two updates can go as one: both hold values by name, and what the later one says of a
    name of both replaces all that the earlier one says.
    """
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return False
    shared = [(before[name], after[name]) for name in before if name in after]
    return all(
        not isinstance(old, Mapping) or isinstance(new, Mapping) and old.keys() <= new.keys()
        for old, new in shared
    )


def run(
    work: Callable[[Task], object],
    jobs: Jobs,
    session: str,
    seconds: float = math.inf,
    show: Show = as_data,
    pace_s: float = 0.0,
) -> Iterator[Any]:
    """Runs `work(task)` in a thread; yields what it emits, None as a sign of life, its result last.

    Closing this generator, or `jobs.cancel(session)`, cancels the task; the page is then free at
    once: a `Cancelled` is raised here even where the work itself takes longer to notice.

    jobs: where the task can be cancelled by its session.
    seconds: after these it is cancelled, and an InputError says so.
    show: makes the update of what the task reports.
    pace_s: updates that come sooner after the last one wait, and become one; the result does not
        wait.

    Raises what the work raises.
    """
    deadline = jobs.open(session, seconds)
    outcomes: queue.Queue = queue.Queue()
    task = Task.of(lambda update: outcomes.put(("update", update)), deadline, show)

    def body() -> None:
        try:
            outcomes.put(("done", work(task)))
        except BaseException as error:  # handed to the caller, which raises it
            outcomes.put(("error", error))
        heap.give_back()

    context = contextvars.copy_context()  # a lent GPU is charged to whose request this is
    thread = threading.Thread(target=context.run, args=(body,), name="svl-task", daemon=True)
    thread.start()
    held = Held(pace_s)
    try:
        while True:
            try:
                kind, outcome = outcomes.get(timeout=held.wait_s())
            except queue.Empty:
                if deadline.is_set():
                    raise deadline.reason() from None
                yield from held.due() if held else [None]
                continue
            if kind == "error":
                yield from held.all()
                raise deadline.reason() if isinstance(outcome, Cancelled) else outcome
            held.add(outcome)
            yield from held.all() if kind == "done" else held.due()
            if kind == "done":
                return
            if deadline.is_set():
                raise deadline.reason()
    finally:
        deadline.set()
        jobs.close(session, deadline)
