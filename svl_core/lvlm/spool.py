"""Any number of values in the memory of one: each lies in an unnamed file of a folder and is made
again whenever it is asked for.
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.errors import InputError

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
        with self._told(0):
            self.handle, name = tempfile.mkstemp(prefix="svl-", dir=Path(folder).expanduser())
        weakref.finalize(self, os.close, self.handle)
        os.unlink(name)

    @contextlib.contextmanager
    def _told(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"Found no room for {(self.end + size) / 1e9:.2f} GB of calibration data in"
                f" {self.folder!r} ({error.strerror}); expected an existing folder on a disk with"
                " enough of it; give another or fewer samples."
            ) from None

    def take(self, size: int) -> int:
        """Where the next `size` bytes begin: on a page, and there for certain (not only when one of
        them is first written).
        """
        at = -(-self.end // PAGE) * PAGE
        with self._told(size):
            getattr(
                os,
                "posix_fallocate",
                lambda handle, begin, length: os.truncate(handle, begin + length),
            )(self.handle, at, max(size, 1))  # macOS has none: there a full disk is noticed later
        self.end = at + size
        return at

    def append(self, content: memoryview) -> int:
        at = self.take(len(content))
        done = 0
        with self._told(0):
            while done < len(content):
                done += os.pwrite(self.handle, content[done:], at + done)
        return at

    def pages(self, at: int, size: int) -> torch.Tensor:
        """(size,) uint8: the file itself from `at`, the start of a page."""
        import torch

        return torch.frombuffer(
            mmap.mmap(self.handle, max(size, 1), offset=at),
            dtype=torch.uint8,
        )[:size]

    def read(self, at: int, size: int) -> torch.Tensor:
        """(size,) uint8: the same, copied where it is small."""
        import torch

        if size >= MAPPED:
            return self.pages(at, size)
        made = torch.empty(size, dtype=torch.uint8)
        if size:
            os.preadv(self.handle, [made.numpy()], at)
        return made


class Spooled(Sequence):
    """`size` values in a file of `folder`, set one after the other; each access makes the value
    anew and keeps nothing of it.

    A value is whatever pickles; its tensors come back on their device, those of a large one as
    pages of the file (not to be written to). Raises InputError where the folder has no room.
    """

    def __init__(self, folder: str | Path, size: int):
        self._file = _File(folder)
        self._places = np.zeros(
            (size, 3),
            np.int64,
            # of each value: where its tensors begin, where they end and its pickle begins, where that
            # ends
        )
        self._next: dict[
            int, tuple[torch.Tensor, tuple]
        ] = {}  # tensors of the next value that have their place already, by identity

    def empty_tensor(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor to be filled in the file, for the value that is set next."""
        size = math.prod(shape) * dtype.itemsize
        at = self._file.take(size)
        made = self._file.pages(at, size).view(dtype).view(shape)
        self._next[id(made)] = made, (at, size, dtype, tuple(shape), "cpu")
        return made

    def _placed(self, tensor: torch.Tensor) -> tuple:
        import torch

        if id(tensor) not in self._next:
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._next[id(tensor)] = (
                tensor,
                (
                    self._file.append(memoryview(flat)),
                    len(flat),
                    tensor.dtype,
                    tuple(tensor.shape),
                    str(tensor.device),
                ),
            )
        return self._next[id(tensor)][1]

    def __setitem__(self, index: int, value: Any) -> None:
        stream = io.BytesIO()
        _Pickler(stream, self._placed).dump(value)
        at = self._file.append(stream.getbuffer())
        self._places[index] = (
            min((place[0] for _, place in self._next.values()), default=at),
            at,
            self._file.end,
        )
        self._next = {}

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        begin, middle, end = self._places[index].tolist()
        tensors = self._file.read(begin, middle - begin)
        return _Unpickler(
            io.BytesIO(self._file.read(middle, end - middle).numpy()),
            tensors,
            begin,
        ).load()

    def __len__(self) -> int:
        return len(self._places)

    def select(self, indices: Iterable[int]) -> Spooled:
        """Some of the values, in this order; they stay where they are."""
        made = copy.copy(self)
        made._places = self._places[list(indices)]
        made._next = {}
        return made


def _read_only(mapping: dict) -> MappingProxyType:
    return MappingProxyType(mapping)


class _Pickler(pickle.Pickler):
    dispatch_table = {
        **copyreg.dispatch_table,
        MappingProxyType: lambda mapping: (_read_only, (dict(mapping),)),
    }

    def __init__(self, stream, place):
        import torch

        super().__init__(stream, 5)
        self.kind = torch.Tensor
        self.place = place

    def persistent_id(self, value):
        return self.place(value) if isinstance(value, self.kind) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream, tensors: torch.Tensor, begin: int):
        super().__init__(stream)
        self.tensors = tensors
        self.begin = begin
        self.made = {}

    def persistent_load(self, place):
        if place not in self.made:  # what the value holds twice is one tensor again
            at, size, dtype, shape, device = place
            self.made[place] = (
                self.tensors[at - self.begin : at - self.begin + size]
                .view(dtype)
                .view(shape)
                .to(device)
            )
        return self.made[place]


def value_store(size: int, spool: str | Path | None) -> list | Spooled:
    """Room for `size` values, set by their index: in memory, or in a file of the folder `spool`."""
    return [None] * size if spool is None else Spooled(spool, size)


def store_values(values: Iterable, size: int, spool: str | Path | None) -> Sequence:
    """`values`, of which there are `size`: a tuple, or in a file of the folder `spool`."""
    made = value_store(size, spool)
    for number, value in enumerate(values):
        made[number] = value
    return tuple(made) if spool is None else made


def empty_tensor(
    shape: Sequence[int], dtype: torch.dtype, spool: str | Path | None
) -> torch.Tensor:
    """A tensor to be filled: in memory, or in a file of the folder `spool` that goes with it."""
    import torch

    return (
        torch.empty(shape, dtype=dtype)
        if spool is None
        else Spooled(spool, 0).empty_tensor(shape, dtype)
    )


def select_values(values: Sequence, indices: Iterable[int]) -> Sequence:
    """Some of the values, in this order; those in a file stay there."""
    return (
        values.select(indices)
        if isinstance(values, Spooled)
        else [values[index] for index in indices]
    )
