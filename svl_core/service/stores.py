"""What the server keeps for all sessions: loaded models and, by content, the analyses and answers
made with them.

Nothing here belongs to one person: a session holds only keys, and whatever was evicted is computed
again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from PIL import Image

import svl_core as svl
from svl_core.lvlm.catalogue import CatalogueEntry
from svl_core.progress import Run
from svl_core.recipe import FULL
from svl_core.service.limits import HOME, Limits
from svl_core.service.start import libraries

MEMO_ENTRIES = 96  # results derived from one analysis, at most
MEMO_BYTES = 4 * 2**20  # of them, at least


def picker(first: str, limits: Limits = HOME) -> list[tuple[str, str]]:
    """(label, name) of the models on offer: those of the catalogue within the limits, headed by
    `first` where it is another.
    """
    offered = [(_label(entry), entry.id) for entry in limits.offered()]
    listed = first in {name for _, name in offered}
    return offered if listed else [(first, first), *offered]


def _label(entry: CatalogueEntry) -> str:
    if entry.id == "demo":
        return f"Bundled: everyday objects ({entry.parameters / 1e6:.1f} M parameters)"
    short = entry.id.split("/")[-1]
    gated = ", gated" if entry.gated else ""
    return f"{short} ({entry.memory_gb:.1f} GB{gated}): {entry.good_for}"


def set_key(name: str, samples: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """A set of samples by content: the model's name and its samples' keys."""
    return name, tuple(sample.key for sample in samples)


class BoundedStore:
    """A thread-safe least-recently-used store, bounded by entries and by bytes.

    entries: how many there may be.
    size: bytes of all of them together, 0 for any number; the newest entry stays in any case.
    """

    def __init__(self, entries: int, size: int = 0) -> None:
        self.entries, self.size = entries, size
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any | None:
        """The value of a key, used most recently then; None where there is none."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: Hashable, value: Any, size: int | None = None) -> None:
        """size: bytes that count for it, by default `nbytes`."""
        size = nbytes(value) if size is None else size
        with self._lock:
            self._entries[key] = (value, size)
            self._entries.move_to_end(key)
            while len(self._entries) > 1 and self._too_full():
                self._entries.popitem(last=False)

    def _too_full(self) -> bool:
        if len(self._entries) > self.entries:
            return True
        return bool(self.size) and sum(size for _, size in self._entries.values()) > self.size

    def drop(self, key: Hashable) -> None:
        """Forgets a key, if it is there."""
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(eq=False)
class Analysis:
    """One sample, or a set of them, as one model sees it.

    model: the model's name.
    samples: (N,) `Sample`.
    trace, importance: `Trace` and `TokenImportance` of all of them.
    detail: how closely the images were looked at, never "auto".
    model_type: of the model's config.
    full_answer: the full model's answer to the one sample, of the length last asked for.
    memo: results derived from them, by a key of the settings that they depend on.
    """

    model: str
    samples: tuple[Any, ...]
    trace: Any
    importance: Any
    detail: str = FULL
    model_type: str = ""
    full_answer: tuple[int, Any] | None = field(init=False, default=None)
    memo: BoundedStore = field(init=False)

    def __post_init__(self) -> None:
        size = max(MEMO_BYTES, nbytes(self.trace) // 8)
        self.memo = BoundedStore(MEMO_ENTRIES, size)

    def memoized(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The result stored under `key`; made and stored where there is none."""
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


@dataclass(frozen=True, eq=False)
class PrunedTrace:
    """What figures need of a pruned model's own trace: its features of one depth alone.

    trace: the trace without features (their width is 0), for importance.
    bridged: (S, d) hidden states where the plan's widest run of dropped layers was: what the next
        layer receives.
    """

    trace: Any
    bridged: Any

    @classmethod
    def of(cls, trace: Any, drop: Sequence[int]) -> PrunedTrace:
        """drop: the layers that the pruned model lacks."""
        from svl_core.figures import widest_run

        (sample,) = trace.samples
        first, _ = widest_run(drop)
        kept_before = first - sum(layer < first for layer in drop)
        bridged = sample.features[kept_before].clone()
        return cls(replace(trace, samples=(sample.without_features(),)), bridged)


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
        return sum(nbytes(entry, seen) for entry in value.values())
    if isinstance(value, (tuple, list)):
        return sum(nbytes(entry, seen) for entry in value)
    if is_dataclass(value):
        inside = sum(nbytes(getattr(value, field.name), seen) for field in fields(value))
        return getattr(value, "derived_bytes", 0) + inside
    return 0


def _no_options(name: str) -> dict[str, str]:
    return {}


class Models:
    """Models by name: each is loaded once, in the background, and at most `capacity` are kept
    beside the first.

    first: the page's own model, a name or a ready LVLM; it is never let go.
    load: makes a model of a name; by default `svl.load`.
    capacity: models beside the first.
    pickle_weights: whether checkpoints without safetensors are read.
    load_options: what `svl.load` is given for a name beside that, device and dtype say.
    """

    def __init__(
        self,
        first: Any = "demo",
        load: Callable[[str], Any] | None = None,
        capacity: int = 2,
        pickle_weights: bool = True,
        load_options: Callable[[str], Mapping[str, Any]] = _no_options,
    ) -> None:
        self.first = first if isinstance(first, str) else first.name
        self.capacity, self.pickle_weights = capacity, pickle_weights
        self.load_options = load_options
        self._load = load or self._from_disk_or_hub
        self.loading: dict[str, tuple[float | None, str]] = {}
        """How far each load is: share done 0..1, and what is being done."""
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future] = OrderedDict()
        self._one_load = threading.Lock()  # so that each finds the memory that the last one left
        self.busy = threading.RLock()
        """Held while any model computes: tracing switches its attention function."""
        if not isinstance(first, str):
            self._futures[self.first] = Future()
            self._futures[self.first].set_result(first)

    def request(self, name: str) -> Future:
        """Starts loading unless begun; a failed load is forgotten and can be tried again."""
        with self._lock:
            future = self._futures.get(name)
            if future is not None and not (future.done() and future.exception()):
                self._futures.move_to_end(name)
                return future
            future = self._futures[name] = Future()
            self._make_room(name)

        def body() -> None:
            try:
                with self._one_load:
                    loaded = self._load(name)
                future.set_result(loaded)
            except BaseException as error:  # raised again by whoever asks for the model
                future.set_exception(error)

        threading.Thread(target=body, name=f"svl-load-{name}", daemon=True).start()
        return future

    def _make_room(self, name: str) -> None:
        """Lets go of the loaded models that are too many beside the first and `name`."""
        others = [
            other
            for other, future in self._futures.items()
            if other not in (name, self.first) and future.done()
        ]
        too_many = max(0, len(others) - self.capacity + 1)
        for other in others[:too_many]:
            del self._futures[other]

    def ready(self, name: str) -> bool:
        """Whether a model is loaded."""
        return self.state(name) == "ready"

    def state(self, name: str) -> str:
        """ "ready", "loading", "failed" or "not asked for"."""
        future = self._futures.get(name)
        if future is None:
            return "not asked for"
        if not future.done():
            return "loading"
        return "failed" if future.exception() else "ready"

    def names(self) -> list[str]:
        """The models in memory."""
        return [name for name in list(self._futures) if self.ready(name)]

    def arithmetic(self, name: str) -> str:
        """What a loaded model computes in, and why; "" where it is not loaded."""
        return self._futures[name].result().computes_in if self.ready(name) else ""

    def shed(self) -> None:
        """Lets go of every loaded model but the first."""
        with self._lock:
            for name, future in list(self._futures.items()):
                if name != self.first and future.done():
                    del self._futures[name]

    def forked(self) -> Models:
        """The same models, for a process that was just forked: locks are new, for one may have been
        held.
        """
        models = Models(
            self.first, self._load, self.capacity, self.pickle_weights, self.load_options
        )
        for name in self.names():
            models._futures[name] = self._futures[name]
        return models

    def _from_disk_or_hub(self, name: str) -> Any:
        def progress(share: float | None, what: str) -> None:
            self.loading[name] = share, what

        progress(0.0, "starting the libraries")
        libraries()
        return svl.load(
            name,
            **self.load_options(name),
            text_only=True,
            pickle_weights=self.pickle_weights,
            run=Run(progress),
        )
