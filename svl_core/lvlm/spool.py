"""Any number of values in the memory of one: each lies in an unnamed file of a folder, and is read
back whenever it is asked for.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import io
import math
import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from svl_core.errors import InputError
from svl_core.files import expanded

if TYPE_CHECKING:
    import torch

PAGE = mmap.ALLOCATIONGRANULARITY
MAPPED = 2**24  # bytes of tensors from which a value's are the file's own pages; fewer are read


class _File:
    """A file without a name, written at its end only, that goes with this object.

    Raises InputError where the folder has no room.
    """

    def __init__(self, folder: str | Path):
        self.folder = str(folder)
        self.end = 0
        with self._space_for(0):
            self.handle, name = tempfile.mkstemp(prefix="svl-", dir=expanded(folder))
        weakref.finalize(self, os.close, self.handle)
        os.unlink(name)

    @contextlib.contextmanager
    def _space_for(self, size: int) -> Iterator[None]:
        """Within this block an error of the disk is one of the user's input. size: bytes wanted."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"Found no room for {(self.end + size) / 1e9:.2f} GB of calibration data in"
                f" {self.folder!r} ({error.strerror}); expected an existing folder on a disk with"
                " enough of it; give another or fewer samples."
            ) from None

    def take(self, size: int) -> int:
        """Reserves bytes for certain, not only when one of them is first written.

        size: how many.
        Returns where they begin, which is the start of a page.
        """
        start = -(-self.end // PAGE) * PAGE
        with self._space_for(size):
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.handle, start, max(size, 1))
            else:  # macOS: there a full disk is noticed when it is written to
                os.truncate(self.handle, start + max(size, 1))
        self.end = start + size
        return start

    def append(self, content: memoryview) -> int:
        """Writes bytes at the end; returns where they begin."""
        start = self.take(len(content))
        done = 0
        with self._space_for(0):
            while done < len(content):
                done += os.pwrite(self.handle, content[done:], start + done)
        return start

    def pages(
        self,
        start: int,
        size: int,
    ) -> torch.Tensor:
        """(size,) uint8: the file itself from `start`, the start of a page."""
        import torch

        mapped = mmap.mmap(self.handle, max(size, 1), offset=start)
        return torch.frombuffer(mapped, dtype=torch.uint8)[:size]

    def read(
        self,
        start: int,
        size: int,
    ) -> torch.Tensor:
        """(size,) uint8: the same, copied where it is small."""
        import torch

        if size >= MAPPED:
            return self.pages(start, size)
        content = torch.empty(size, dtype=torch.uint8)
        if size:
            os.preadv(self.handle, [_bytes(content)], start)
        return content


class _Place(NamedTuple):
    """Where a tensor lies in the file, and how its bytes are read."""

    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    device: str


class Spooled(Sequence):
    """A list whose values lie in a file of a folder instead of in memory.

    A value is whatever pickles, and is read back anew at every access; nothing of it is kept. Its
    tensors come back on their device, those of a large value as pages of the file, which are not to
    be written to.

    folder: on a disk with enough room for all values.
    size: the number of values. They are set one after the other.

    Raises InputError where the folder has no room.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int,
    ):
        self._file = _File(folder)
        # For each value: where its tensors begin, where they end and its pickle begins, where that
        # ends.
        self._places = np.zeros((size, 3), np.int64)
        # Tensors of the value that is set next which are in the file already, by identity.
        self._written: dict[int, tuple[torch.Tensor, _Place]] = {}

    def empty_tensor(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """A tensor in the file, to be filled, for the value that is set next."""
        size = math.prod(shape) * dtype.itemsize
        start = self._file.take(size)
        tensor = self._file.pages(start, size).view(dtype).view(shape)
        self._written[id(tensor)] = tensor, _Place(start, size, dtype, tuple(shape), "cpu")
        return tensor

    def _place_of(self, tensor: torch.Tensor) -> _Place:
        """Where a tensor of the value that is being set lies; it is written first if need be."""
        import torch

        if id(tensor) not in self._written:
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            content = _bytes(flat)
            start = self._file.append(content)
            shape = tuple(tensor.shape)
            place = _Place(
                start,
                len(content),
                tensor.dtype,
                shape,
                str(tensor.device),
            )
            self._written[id(tensor)] = tensor, place
        return self._written[id(tensor)][1]

    def __setitem__(self, index: int, value: Any) -> None:
        stream = io.BytesIO()
        _Pickler(stream, self._place_of).dump(value)
        start = self._file.append(stream.getbuffer())
        begin = min((place.start for _, place in self._written.values()), default=start)
        self._places[index] = begin, start, self._file.end
        self._written = {}

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        begin, middle, end = self._places[index].tolist()
        tensors = self._file.read(begin, middle - begin)
        pickled = _bytes(self._file.read(middle, end - middle))
        return _Unpickler(io.BytesIO(pickled), tensors, begin).load()

    def __len__(self) -> int:
        return len(self._places)

    def select(self, indices: Iterable[int]) -> Spooled:
        """Some of the values, in this order; they stay where they are."""
        selected = copy.copy(self)
        selected._places = self._places[list(indices)]
        selected._written = {}
        return selected


def _bytes(flat: torch.Tensor) -> memoryview:
    """The memory of a (n,) uint8 tensor."""
    return memoryview(flat.numpy())  # type: ignore[arg-type]  # an array is a buffer


def _read_only(mapping: dict) -> MappingProxyType:
    return MappingProxyType(mapping)


class _Pickler(pickle.Pickler):
    """Pickles everything but tensors, of which it writes the place."""

    dispatch_table = {
        **copyreg.dispatch_table,
        MappingProxyType: lambda mapping: (_read_only, (dict(mapping),)),
    }

    def __init__(
        self,
        stream: io.BytesIO,
        place_of: Callable[[torch.Tensor], _Place],
    ):
        import torch

        super().__init__(stream, 5)
        self.kind = torch.Tensor
        self.place_of = place_of

    def persistent_id(self, value):
        return tuple(self.place_of(value)) if isinstance(value, self.kind) else None


class _Unpickler(pickle.Unpickler):
    """Reads a value back; a tensor that it holds twice is one tensor again."""

    def __init__(
        self,
        stream: io.BytesIO,
        content: torch.Tensor,
        begin: int,
    ):
        super().__init__(stream)
        self.content = content
        self.begin = begin
        self.tensors: dict[tuple, torch.Tensor] = {}

    def persistent_load(self, key):
        if key not in self.tensors:
            place = _Place(*key)
            start = place.start - self.begin
            flat = self.content[start : start + place.size].view(place.dtype)
            self.tensors[key] = flat.view(place.shape).to(place.device)
        return self.tensors[key]


def value_store(
    size: int,
    spool: str | Path | None,
) -> list | Spooled:
    """A list of `size` values to be set: in memory, or in a file of the folder `spool`."""
    return [None] * size if spool is None else Spooled(spool, size)


def store_values(
    values: Iterable,
    size: int,
    spool: str | Path | None,
) -> Sequence:
    """`values`, of which there are `size`: a tuple, or in a file of the folder `spool`."""
    stored = value_store(size, spool)
    for number, value in enumerate(values):
        stored[number] = value
    return tuple(stored) if spool is None else stored


def empty_tensor(
    shape: Sequence[int],
    dtype: torch.dtype,
    spool: str | Path | None,
) -> torch.Tensor:
    """A tensor to be filled: in memory, or in a file of the folder `spool` that goes with it."""
    import torch

    if spool is None:
        return torch.empty(shape, dtype=dtype)
    return Spooled(spool, 0).empty_tensor(shape, dtype)


def select_values(
    values: Sequence,
    indices: Iterable[int],
) -> Sequence:
    """Some of the values, in this order; those in a file stay there."""
    if isinstance(values, Spooled):
        return values.select(indices)
    return [values[index] for index in indices]
