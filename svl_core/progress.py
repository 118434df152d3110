"""`Run`: how long work tells how far it is, and learns that nobody wants it any more.

Work that takes long has one parameter `run`. It calls `run.step(share, what)` before each of its
parts, and hands `run.part(first, last)` to work that it calls itself, whose shares then count as
that stretch of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from svl_core.errors import Cancelled

Progress = Callable[[float | None, str], None]


class CancelEvent(Protocol):
    """What tells that work is to stop; a `threading.Event` will do."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Run:
    """One piece of work, as its caller watches it.

    progress: called with the share 0..1 done (None: nobody knows) and with what is being done, in a
        few words.
    cancel: once it is set, the work ends with `Cancelled`; nothing is changed or half-written.
    first, last: the shares of the whole at which this work begins and ends.
    """

    progress: Progress | None = None
    cancel: CancelEvent | None = None
    first: float = 0.0
    last: float = 1.0

    @property
    def cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()

    def check(self, message: str = "Stopped.") -> None:
        """Raises Cancelled with `message` once the work is to stop."""
        if self.cancelled:
            raise Cancelled(message)

    def report(self, share: float | None, what: str = "") -> None:
        """Tells that `share` (0..1, None: unknown) of this work is done and `what` comes now."""
        if self.progress is not None:
            whole = None if share is None else self.first + share * (self.last - self.first)
            self.progress(whole, what)

    def step(self, share: float | None, what: str = "") -> None:
        """`check`, then `report`."""
        self.check()
        self.report(share, what)

    def part(self, first: float = 0.0, last: float = 1.0, what: str | None = None) -> Run:
        """The stretch first..last (shares 0..1 of this work) as a run of its own.

        what: said instead of the part's own words, where these mean nothing to the caller.
        """
        width = self.last - self.first
        progress = self.progress
        if what is not None and progress is not None:
            outer = progress

            def progress(share: float | None, detail: str) -> None:
                outer(share, what)

        return replace(
            self,
            progress=progress,
            first=self.first + first * width,
            last=self.first + last * width,
        )

    def telling(self, progress: Progress) -> Self:
        """The same work, of which `progress` is told in its own shares 0..1."""
        return replace(self, progress=progress, first=0.0, last=1.0)

    def silent(self) -> Run:
        """The same work, of which nothing is told."""
        return replace(self, progress=None)


QUIET = Run()
"""Nobody watches and nothing cancels: the default of every `run` parameter."""
