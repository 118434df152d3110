"""When a session ends: its page closed and said so, or its connection dropped and nothing was heard
of it for a while.

A phone that sleeps or a network that changes drops the connection on which gradio knows a session;
gradio's page goes on without one. So what a session holds stays until the page has been silent for
a time; an open page asks for `/health` every few seconds.

A session is open from the first connection of its page until it ends. Only open ones hold state for
good, so an invented name holds nothing, and evicts nobody.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Visits:
    """The open pages, as their sessions are heard of.

    end: called with each session that ends.
    known: told of each page that is open; answers whether there is such a session.
    away_s: how long the silent page of a dropped connection is waited for.
    most: open pages at the same time.
    most_of_one: of these, from one address.
    """

    def __init__(
        self,
        end: Callable[[str], None],
        known: Callable[[str], bool],
        away_s: float,
        most: float = math.inf,
        most_of_one: float = math.inf,
    ) -> None:
        self._end, self._known, self._away_s = end, known, away_s
        self._most, self._most_of_one = most, most_of_one
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}  # sessions whose page connected: its client's address
        self._heard: dict[str, float] = {}  # sessions with a page: when it last told of itself
        self._dropped: set[str] = set()  # of those, the ones without a connection
        self._timer: threading.Timer | None = None

    def opened(self, session: str, address: str) -> bool:
        """The page of a session connects; whether there is room for it.

        address: the client's.
        """
        with self._lock:
            if session not in self._open:
                of_one = sum(each == address for each in self._open.values())
                if len(self._open) >= self._most or of_one >= self._most_of_one:
                    return False
                self._open[session] = address
            self._dropped.discard(session)
            return True

    def is_open(self, session: str) -> bool:
        """Whether the page of a session connected, and the session has not ended since."""
        return session in self._open

    def heard(self, session: str) -> None:
        """The page of a session told that it is open; one that never connected is no page."""
        with self._lock:
            if session in self._open and self._known(session):
                self._heard[session] = time.monotonic()

    def dropped(self, session: str) -> None:
        """A session's connection ended. One without a page, of a program, ends with it."""
        with self._lock:
            waits = session in self._heard
            if waits:
                self._dropped.add(session)
            else:
                self._open.pop(session, None)
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
                self._open.pop(session, None)
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
                self._open.pop(session, None)
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
