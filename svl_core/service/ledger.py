"""How much is stored, and who brought it: counted as files come and go, so that no folder is walked
while somebody waits.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Bringer:
    """Who sends files with the request that is answered right now.

    address: the client's.
    most_files: of one request.
    begun: the files that its upload has begun, by the names that they have at first.
    """

    address: str
    most_files: int
    begun: list[str] = field(default_factory=list)

    def remove_begun(self) -> None:
        """Removes what an upload that failed has left; a finished one's files were renamed."""
        for name in self.begun:
            Path(name).unlink(missing_ok=True)


BRINGER: ContextVar[Bringer | None] = ContextVar("BRINGER", default=None)


class Ledger:
    """The sizes of the stored files, and the address that each came from."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[Path, tuple[int, str]] = {}
        self._bytes = 0  # of these
        self._others = 0  # bytes of files that the last count found beside these
        self.changed = True
        """Whether anything came or went since the last count."""

    @property
    def stored(self) -> int:
        """Bytes of all files, as far as is known."""
        return self._bytes + self._others

    def came(self, path: Path, address: str) -> None:
        """A file was stored; one that is there already stays its first bringer's."""
        try:
            size = path.stat().st_size
        except OSError:  # gone meanwhile
            return
        with self._lock:
            self.changed = True
            before, first = self._files.get(path, (0, address))
            self._files[path] = (size, first)
            self._bytes += size - before

    def went(self, path: Path) -> None:
        """A file was deleted."""
        with self._lock:
            self.changed = True
            self._bytes -= self._files.pop(path, (0, ""))[0]

    def of(self, address: str) -> tuple[int, int]:
        """How many files came from an address, and their bytes."""
        with self._lock:
            sizes = [size for size, bringer in self._files.values() if bringer == address]
        return len(sizes), sum(sizes)

    def count(self, folder: Path) -> None:
        """Walks the folder for what came or went untold. For a thread where nobody waits."""
        self.changed = False
        found: dict[Path, int] = {}
        for path in folder.rglob("*"):
            try:
                if path.is_file():
                    found[path] = path.stat().st_size
            except OSError:  # gone meanwhile
                continue
        with self._lock:
            known = {path: size for path, size in found.items() if path in self._files}
            for path in self._files.keys() - known.keys():
                if not path.exists():  # what came since the walk stays
                    del self._files[path]
            self._bytes = sum(size for size, _ in self._files.values())
            self._others = sum(found.values()) - sum(known.values())
