"""What each session brought along, so that it goes when the session does: uploaded files, reports,
analyses in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path

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


class Uploads(set):
    """The paths that a page knows as uploaded, in the place of gradio's own set: each upload's end
    is told to `arrived`.
    """

    def __init__(self, arrived: Callable[[str], None]) -> None:
        super().__init__()
        self._arrived = arrived

    def update(self, *paths) -> None:
        for path in set().union(*paths):
            self.add(path)
            self._arrived(path)


class Guests:
    """Who holds what.

    A thing goes with its last holder: two visitors may have brought the same picture.

    forget: called with each key of `hold` that nobody holds any more. folder: only files below it
    are ever deleted.
    """

    def __init__(
        self, forget: Callable[[Hashable], None], folder: Callable[[], str | Path]
    ) -> None:
        self._forget, self._folder = forget, folder
        self.deleted: Callable[[str], None] = lambda path: None  # told of each file that went
        self._lock = threading.Lock()
        self._held: dict[str, set[Hashable]] = {}
        self._waiting: dict[
            Path, list[float]
        ] = {}  # uploads that no session has claimed yet: when they ended, monotonic seconds

    def arrived(self, path: str) -> None:
        """An upload has ended: whoever brought it waits for its turn, so the file stays, though an
        equal one's holder may leave meanwhile.
        """
        with self._lock:
            self._waiting.setdefault(Path(path), []).append(time.monotonic())

    def hold(self, session: str, *things: Hashable) -> None:
        """Paths (as `Path`) and keys that a session uses from now on."""
        with self._lock:
            mine = self._held.setdefault(session, set())
            for thing in things:
                if thing not in mine and thing in self._waiting:
                    self._claim(thing)
                mine.add(thing)

    def leave(self, session: str) -> None:
        """Delete and forget what only this session held; a file that somebody has brought again
        meanwhile, and waits with, stays.
        """
        with self._lock:
            mine = self._held.pop(session, set())
            for thing in mine - set().union(*self._held.values()):
                if not isinstance(thing, Path):
                    self._forget(thing)
                elif thing not in self._waiting:
                    self._delete(thing)
            for path, since in list(self._waiting.items()):
                if time.monotonic() - since[0] > WAITS_S:
                    self._claim(path)
                    if path not in self._waiting and not any(
                        path in held for held in self._held.values()
                    ):
                        self._delete(path)
        self._sweep()

    def _claim(self, path: Path) -> None:
        self._waiting[path].pop(0)
        if not self._waiting[path]:
            del self._waiting[path]

    def _sweep(self) -> None:
        """Delete what uploads that were cut off left behind: files right in the folder, where
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
            self.deleted(str(path))

    def __len__(self) -> int:
        return len(self._held)
