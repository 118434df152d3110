"""Who waits for the server, and who still listens: bounds on what one visitor may have waiting, and
whose turn it is.

Long requests (those that run a model) and short ones are counted apart, so no click is refused
because long work waits. One address stands for one visitor with many sessions.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from svl_core.service.limits import Limits

V6_BITS = 64  # of an IPv6 address that one visitor has to himself are those behind these


@dataclass(frozen=True)
class Waiting:
    """A request that waits or runs.

    heavy: whether it runs a model.
    """

    session: str
    address: str
    heavy: bool


def address_of(host: str | None) -> str:
    """What stands for a client's address: IPv6 by its network, since one visitor has all of it."""
    try:
        parsed = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, V6_BITS), strict=False))


def refusal(limits: Limits, new: Waiting, others: Iterable[Waiting]) -> tuple[int, str] | None:
    """Why a request may not wait beside the others: an HTTP status and a sentence; None if it may.

    429: the visitor has too many waiting; 503: all visitors together have.
    """
    alike = [other for other in others if other.heavy == new.heavy]
    of_session = sum(other.session == new.session for other in alike)
    of_address = sum(other.address == new.address for other in alike)
    kind = "queue" if new.heavy else "clicks"
    if of_session >= getattr(limits, f"session_{kind}"):
        return 429, (
            f"Found {of_session} requests of yours that wait already; expected fewer at a time;"
            " wait for one of them, or press Stop."
        )
    if of_address >= getattr(limits, f"address_{kind}"):
        return 429, (
            f"Found {of_address} requests from your address that wait already; expected fewer at a"
            " time; try again when one of them has ended."
        )
    if len(alike) >= getattr(limits, kind):
        return 503, (
            f"Found {len(alike)} requests that wait already; expected fewer; try again in a minute."
        )
    return None


def in_turn(waiting: Sequence[Waiting]) -> list[int]:
    """The order in which requests get their turn, as positions in `waiting`, which is in order of
    arrival: every address its first one, then every address its second one, and so on.
    """
    before: Counter[str] = Counter()
    turns = []
    for place, request in enumerate(waiting):
        turns.append((before[request.address], place))
        before[request.address] += 1
    return [place for _, place in sorted(turns)]


class Listeners:
    """The streams on which results are listened for, by session and by event."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: Counter[str] = Counter()
        self._ended: dict[str, float] = {}  # when the last stream of each ended, monotonic seconds

    def began(self, name: str) -> None:
        """A stream for this session or event."""
        with self._lock:
            self._streams[name] += 1
            self._ended.pop(name, None)

    def ended(self, name: str) -> None:
        """One of them ended."""
        with self._lock:
            self._streams[name] -= 1
            if self._streams[name] <= 0:
                del self._streams[name]
                self._ended[name] = time.monotonic()

    def silent_s(self, names: Iterable[str], since: float) -> float:
        """Seconds for which nobody has listened for any of these names, 0 while somebody does.

        since: when listening began to matter, monotonic seconds.
        """
        with self._lock:
            last = since
            for name in names:
                if name in self._streams:
                    return 0.0
                last = max(last, self._ended.get(name, since))
        return time.monotonic() - last

    def forget(self, older_s: float) -> None:
        """Forgets streams that ended longer ago than this."""
        with self._lock:
            oldest = time.monotonic() - older_s
            self._ended = {name: end for name, end in self._ended.items() if end > oldest}
