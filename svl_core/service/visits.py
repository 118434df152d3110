"""When a session ends: its page closed and said so, or its connection dropped and nothing was heard
of it for a while.

A phone that sleeps or a network that changes drops the connection on which gradio knows a session;
gradio's page goes on without one. So what a session holds stays until the page has been silent for
a time; an open page asks for `/health` every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Visits:
    """The open pages, as their sessions are heard of.

    end: called with each session that ends.
    known: told of each page that is open; answers whether there is such a session.
    away_s: how long the silent page of a dropped connection is waited for.
    """

    def __init__(
        self, end: Callable[[str], None], known: Callable[[str], bool], away_s: float
    ) -> None:
        self._end, self._known, self._away_s = end, known, away_s
        self._lock = threading.Lock()
        self._heard: dict[str, float] = {}  # sessions with a page: when it last told of itself
        self._dropped: set[str] = set()  # of those, the ones without a connection
        self._timer: threading.Timer | None = None

    def heard(self, session: str) -> None:
        """The page of a session told that it is open."""
        with self._lock:
            if self._known(session):
                self._heard[session] = time.monotonic()

    def dropped(self, session: str) -> None:
        """A session's connection ended. One without a page, of a program, ends with it."""
        with self._lock:
            waits = session in self._heard
            if waits:
                self._dropped.add(session)
        if waits:
            self._sweep()
        else:
            self._end(session)

    def closed(self, session: str) -> None:
        """The page of a session was closed."""
        with self._lock:
            known = self._heard.pop(session, None) is not None
            self._dropped.discard(session)
        if known:
            self._end(session)

    def _sweep(self) -> None:
        """Ends the dropped sessions that have been silent for long, and looks again when the next
        one may have been.
        """
        with self._lock:
            time_s = time.monotonic()
            over = {
                session
                for session in self._dropped
                if time_s - self._heard[session] >= self._away_s
            }
            self._dropped -= over
            for session in over:
                del self._heard[session]
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._next_sweep(time_s)
        for session in over:
            self._end(session)

    def _next_sweep(self, time_s: float) -> threading.Timer | None:
        """A running timer for the dropped session that is silent longest; None without one."""
        if not self._dropped:
            return None
        silent_since = min(self._heard[session] for session in self._dropped)
        timer = threading.Timer(silent_since + self._away_s - time_s, self._sweep)
        timer.daemon = True
        timer.start()
        return timer
