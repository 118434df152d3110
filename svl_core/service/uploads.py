"""What each session brought along, so that it goes when the session does: uploaded files, reports,
analyses in memory.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path

from svl_core.service.ledger import BRINGER, Ledger

COUNT_S = 60  # between two walks through what is stored, for what came or went untold
CUT_OFF_S = 600  # an upload that takes longer has ended
WAITS_S = 900  # nobody waits longer for a turn with what was uploaded


def upload_folder(name: object) -> Path:
    """A folder of this server's own for uploads, empty: what a server that was killed left behind
    is deleted here. name: of the server, its port say.
    """
    folder = Path(tempfile.gettempdir()) / f"svl-uploads-{name}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():  # somebody else's
            return Path(tempfile.mkdtemp(prefix="svl-uploads-"))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


class Holdings:
    """Which session holds which uploads, reports and analyses.

    A thing goes with its last holder: two visitors may have brought the same picture, which has one
    path then.

    forget: called with each key of `hold` that nobody holds any more.
    folder: only files below it are ever deleted.
    """

    def __init__(
        self, forget: Callable[[Hashable], None], folder: Callable[[], str | Path]
    ) -> None:
        self._forget, self._folder = forget, folder
        self.deleted: Callable[[str], None] = lambda path: None
        """Called with the path of each file that was deleted."""
        self.brought: Callable[[str], bool] = lambda path: False
        """Whether a file is a visitor's upload; the pictures that every page opens with are not."""
        self._lock = threading.Lock()
        self.ledger = Ledger()
        """How much is stored, and who brought it."""
        self._counted = -math.inf  # when all files were counted, monotonic seconds
        self._made: dict[str, list[Path]] = {}  # files that the server made for each session
        self._held: dict[str, set[Hashable]] = {}  # by session
        self._used: dict[str, float] = {}  # when each of these last held something, monotonic
        self._unclaimed: dict[Path, list[float]] = {}  # when each upload ended, monotonic seconds

    def arrived(self, path: str) -> None:
        """An upload has ended: whoever brought it waits for its turn, so the file stays, though an
        equal one's holder may leave meanwhile.
        """
        bringer = BRINGER.get()
        self.ledger.came(Path(path), bringer.address if bringer else "")
        with self._lock:
            self._unclaimed.setdefault(Path(path), []).append(time.monotonic())

    def hold(self, session: str, *things: Hashable) -> None:
        """Paths (as `Path`) and keys that a session uses from now on."""
        with self._lock:
            self._used[session] = time.monotonic()
            held = self._held.setdefault(session, set())
            for thing in things:
                if thing not in held and thing in self._unclaimed:
                    self._claim(thing)
                held.add(thing)

    def make(self, session: str, address: str, path: Path, content: bytes, most: int) -> None:
        """Writes a file for a session, whole or not at all; the oldest of more than `most` goes.

        address: where the session's request comes from.
        """
        path.parent.mkdir(parents=True)
        try:
            path.write_bytes(content)
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        self.ledger.came(path, address)
        self.hold(session, path)
        with self._lock:
            made = self._made.setdefault(session, [])
            made.append(path)
            old, made[:] = made[:-most], made[-most:]
            for each in old:
                self._held[session].discard(each)
                self._delete(each)

    def recount(self) -> None:
        """Counts what is stored anew where something changed; now and then, where nobody waits."""
        time_s = time.monotonic()
        if self.ledger.changed and time_s - self._counted >= COUNT_S:
            self._counted = time_s
            self.ledger.count(Path(self._folder()))

    def leave(self, session: str) -> None:
        """Deletes and forgets what only this session held; a file that somebody has brought again
        meanwhile, and waits with, stays.
        """
        with self._lock:
            held = self._held.pop(session, set())
            self._used.pop(session, None)
            self._made.pop(session, None)
            for thing in held - self._held_by_anyone():
                if not isinstance(thing, Path):
                    self._forget(thing)
                elif thing not in self._unclaimed:
                    self._delete(thing)
            self._delete_abandoned()
        self._sweep()

    def idle(self, seconds: float) -> list[str]:
        """The sessions that hold something, and have brought nothing for so long."""
        before = time.monotonic() - seconds
        with self._lock:
            return [session for session, used in self._used.items() if used < before]

    def _held_by_anyone(self) -> set[Hashable]:
        return set().union(*self._held.values())

    def _delete_abandoned(self) -> None:
        """Deletes uploads that nobody came back for."""
        for path, ended in list(self._unclaimed.items()):
            if time.monotonic() - ended[0] <= WAITS_S:
                continue
            self._claim(path)
            if path not in self._unclaimed and path not in self._held_by_anyone():
                self._delete(path)

    def _claim(self, path: Path) -> None:
        self._unclaimed[path].pop(0)
        if not self._unclaimed[path]:
            del self._unclaimed[path]

    def _sweep(self) -> None:
        """Deletes what uploads that were cut off left behind: files right in the folder, where
        finished uploads never lie.
        """
        folder = Path(self._folder())
        for file in folder.iterdir() if folder.is_dir() else ():
            try:
                if file.is_file() and time.time() - file.stat().st_mtime > CUT_OFF_S:
                    file.unlink()
            except OSError:  # another thread was faster
                continue

    def _delete(self, path: Path) -> None:
        folder, path = Path(self._folder()).resolve(), path.resolve()
        if folder in path.parents and path.parent != folder:  # each upload has a folder of its own
            shutil.rmtree(path.parent, ignore_errors=True)
            self.ledger.went(path)
            self.deleted(str(path))

    def __len__(self) -> int:
        return len(self._held)
