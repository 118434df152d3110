"""`Run`: how long work tells how far it is, learns that nobody wants it any more, and is dealt out
to several processes.

Work that takes long has one parameter `run`. It calls `run.step(share, what)` before each of its
parts, and hands `run.part(first, last)` to work that it calls itself, whose shares then count as
that stretch of its own. Work of many pieces that need nothing of each other goes through
`run.deal(pieces, work)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from svl_core.errors import Cancelled

Progress = Callable[[float | None, str], None]
Piece = TypeVar("Piece")
Result = TypeVar("Result")
Exchange = Callable[[Callable[[], Any]], list[Any]]


class CancelEvent(Protocol):
    """What tells that work is to stop; a `threading.Event` will do."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Team:
    """The processes that do one piece of work together, as one of them sees them; by default it is
    alone. `lvlm.sharing` makes the team of processes that a launcher started.

    rank: this process's number, 0 .. count - 1. The first one alone writes files.
    count: the number of processes.
    exchange: called by every process at the same place with what it is to do; each gets what all
        of theirs returned, by rank. What one of them raises, all of them raise.
    """

    rank: int = 0
    count: int = 1
    exchange: Exchange = lambda work: [work()]


ALONE = Team()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@dataclass(frozen=True)
class Run:
    """One piece of work, as its caller watches it.

    progress: called with the share 0..1 done (None: nobody knows) and with what is being done, in a
        few words.
    cancel: once it is set, the work ends with `Cancelled`; nothing is changed or half-written.
    first, last: the shares of the whole at which this work begins and ends.
    team: the processes that share the work. All of them call it, in the same order and with the
        same arguments, and get the same results.
    """

    progress: Progress | None = None
    cancel: CancelEvent | None = None
    first: float = 0.0
    last: float = 1.0
    team: Team = ALONE

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

    def deal(
        self,
        pieces: Sequence[Piece],
        work: Callable[[Piece, Run], Result],
    ) -> Iterator[Result]:
        """The results of `work` on each piece, in the order of the pieces, in every process.

        The team does as many pieces at a time as it has processes, each of them whole by one
        process, so that it comes out to the bit as where one process does them all.

        work: gets a piece, and this run without the team: nothing in a piece is dealt out again.
        """
        alone = replace(self, team=ALONE)

        def done(mine: Sequence[Piece]) -> list[Result]:
            return [work(piece, alone) for piece in mine]

        for first in range(0, len(pieces), self.team.count):
            place = first + self.team.rank
            for results in self.team.exchange(partial(done, pieces[place : place + 1])):
                yield from results


QUIET = Run()
"""Nobody watches and nothing cancels: the default of every `run` parameter."""
