"""What the server keeps for all sessions: loaded models and, by content, the analyses and answers
made with them.

Nothing here belongs to one person: a session holds only keys, and whatever was evicted is computed
again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from PIL import Image

import svl_core as svl
from svl_core.ui.service.limits import Limits
from svl_core.ui.service.start import libraries

MEMO_BYTES = 4 * 2**20  # of results derived from one analysis, at least


def picker(first: str, limits: Limits = Limits()) -> list[tuple[str, str]]:
    """(label, name) of the models on offer: those of the catalogue within the limits, headed by
    `first` where it is another.
    """
    offered = [(_label(entry), entry.id) for entry in limits.offered()]
    return offered if first in {name for _, name in offered} else [(first, first), *offered]


def _label(entry: Any) -> str:
    if entry.id == "demo":
        return f"Bundled: everyday objects ({entry.parameters / 1e6:.1f} M parameters)"
    return (
        f"{entry.id.split('/')[-1]} ({entry.memory_gb:.1f} GB{', gated' if entry.gated else ''}):"
        f" {entry.good_for}"
    )


class Bounded:
    """A thread-safe least-recently-used store, bounded by the number of entries and by their bytes."""

    def __init__(self, entries: int, size: int = 0) -> None:
        self.entries, self.size = entries, size
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int | None = None) -> None:
        """size: bytes that count for it, by default `nbytes`."""
        size = nbytes(value) if size is None else size
        with self._lock:
            self._kept[key] = (value, size)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and (
                len(self._kept) > self.entries
                or (self.size and sum(s for _, s in self._kept.values()) > self.size)
            ):
                self._kept.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)


@dataclass(eq=False)
class Analysis:
    """One sample, or a set of them, as one model sees it; `memo` keeps results derived from them."""

    model: str
    samples: tuple[Any, ...]
    trace: Any
    importance: Any
    memo: Bounded = field(init=False)

    def __post_init__(self) -> None:
        self.memo = Bounded(96, max(MEMO_BYTES, 2 * nbytes(self.trace)))

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        value = self.memo.get(key)
        if value is None:
            value = make()
            self.memo.put(key, value)
        return value

    @property
    def sample(self) -> Any:
        """The sample asked about, of an analysis of one."""
        return self.samples[0]

    @property
    def nbytes(self) -> int:
        """The trace, its images and inputs, and what its memo may hold."""
        return nbytes((self.trace, self.samples, self.importance)) + self.memo.size


def nbytes(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of the arrays, tensors, pictures and texts in a result, each once; what a trace derives
    and keeps counts before it is made.
    """
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Image.Image):
        return len(value.getbands()) * value.width * value.height
    if isinstance(size := getattr(value, "nbytes", None), int):
        return size
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(nbytes(each, seen) for each in value.values())
    if isinstance(value, (tuple, list)):
        return sum(nbytes(each, seen) for each in value)
    if is_dataclass(value):
        return getattr(value, "derived_bytes", 0) + sum(
            nbytes(getattr(value, field.name), seen) for field in fields(value)
        )
    return 0


class Models:
    """Models by name: each is loaded once, in the background, and at most `capacity` are kept
    beside the first.
    """

    def __init__(
        self,
        first: Any = "demo",
        load: Callable[[str], Any] | None = None,
        capacity: int = 2,
        pickle_weights: bool = True,
    ) -> None:
        self.first = first if isinstance(first, str) else first.name
        self._load = load or self._from_disk_or_hub
        self.told: dict[
            str, tuple[float, str]
        ] = {}  # how far each load is: share done, what is being done
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future] = OrderedDict()
        self.capacity, self.pickle_weights = capacity, pickle_weights
        self._one = (
            threading.Lock()
        )  # one load at a time, so that each finds the memory that the last one left
        self.busy = (
            threading.RLock()
        )  # held while any model computes: tracing switches its attention function
        if not isinstance(first, str):
            self._futures[self.first] = Future()
            self._futures[self.first].set_result(first)

    def request(self, name: str) -> Future:
        """Start loading unless begun; a failed load is forgotten, so that it can be tried again."""
        with self._lock:
            future = self._futures.get(name)
            if future is not None and not (future.done() and future.exception()):
                self._futures.move_to_end(name)
                return future
            future = self._futures[name] = Future()
            others = [
                n for n, f in self._futures.items() if n not in (name, self.first) and f.done()
            ]
            for old in others[: max(0, len(others) - self.capacity + 1)]:
                del self._futures[old]

        def body() -> None:
            try:
                with self._one:
                    loaded = self._load(name)
                future.set_result(loaded)
            except BaseException as error:  # raised again by whoever asks for the model
                future.set_exception(error)

        threading.Thread(target=body, name=f"svl-load-{name}", daemon=True).start()
        return future

    def ready(self, name: str) -> bool:
        future = self._futures.get(name)
        return bool(future and future.done() and not future.exception())

    def state(self, name: str) -> str:
        """ "ready", "loading", "failed" or "not asked for"."""
        future = self._futures.get(name)
        return (
            "not asked for"
            if future is None
            else "loading"
            if not future.done()
            else "failed"
            if future.exception()
            else "ready"
        )

    def names(self) -> list[str]:
        """The models in memory."""
        return [name for name in list(self._futures) if self.ready(name)]

    def shed(self) -> None:
        """Let go of every loaded model but the first."""
        with self._lock:
            for name in [n for n, f in self._futures.items() if n != self.first and f.done()]:
                del self._futures[name]

    def forked(self) -> Models:
        """The same models, for a process that was just forked: locks are new, for one may have been
        held.
        """
        made = Models(self.first, self._load, self.capacity, self.pickle_weights)
        made._futures.update(
            (name, future) for name, future in self._futures.items() if self.ready(name)
        )
        return made

    def _from_disk_or_hub(self, name: str) -> Any:
        from svl_core.ui.service.bench import load_options

        def tell(share: float, what: str) -> None:
            self.told[name] = share, what

        tell(0.0, "starting the libraries")
        libraries()
        return svl.load(
            name,
            **load_options(name),
            text_only=True,
            pickle_weights=self.pickle_weights,
            progress=tell,
        )
