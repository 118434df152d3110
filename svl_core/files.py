"""Files that a person names: homes in a path, and writing that leaves a whole file or none.

What is written goes beside the name first, hidden, and takes the name in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svl_core.errors import InputError


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~name` in it read. Raises InputError for a user that nobody knows."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"Found the path {str(path)[:200]!r}, whose user is not known here; expected ~ for your"
            " own home, or a whole path; correct it."
        ) from None


def bundled(name: str) -> Path:
    """A folder of what ships with the project: within the package where that was installed, beside
    it in a clone or on a Space. It need not be there.
    """
    package = Path(__file__).resolve().parent
    places = [package / "assets" / name, package.parent / "assets" / name]
    return next((place.resolve() for place in places if place.is_dir()), places[-1])


def check_writable(name: str, option: str) -> None:
    """Finds out whether a file can be written before the work that fills it. A device, such as
    /dev/stdout, is only tried when it is written to.

    option: that named it, for the error.

    Raises InputError.
    """
    path = expanded(name)
    if path.is_dir():
        raise InputError(
            f"Found a folder at {name}; expected the name of a file; change --{option}."
        )
    if not path.resolve().parent.is_dir():
        raise InputError(
            f"Found no folder for {name}; expected an existing one; create it or change --{option}."
        )
    if path.exists() and not path.is_file():
        return
    try:
        with tempfile.NamedTemporaryFile(dir=path.resolve().parent, prefix=".svl-"):
            pass
    except OSError as error:
        raise _refusal(name, option, error) from None


def write_text(name: str, text: str, option: str) -> None:
    """Writes a whole file that an option names, or leaves what was there.

    Raises InputError where it cannot be written.
    """
    path = expanded(name)
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            replace_text(path, text)
    except OSError as error:
        raise _refusal(name, option, error) from None


def replace_text(path: Path, text: str) -> None:
    """Writes a file in one step: whoever reads it meanwhile, or stops here, finds the old one.

    Raises OSError.
    """
    target = path.resolve()
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to be filled within this block, which takes its name once the block is done; after
    an error, or a stop, nothing of it is left.

    folder: a new or empty one.

    Raises OSError.
    """
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        os.chmod(partial, 0o777 & ~_umask())
        yield partial
        os.replace(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    """The process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _refusal(name: str, option: str, error: OSError) -> InputError:
    return InputError(
        f"Found that {name} cannot be written ({error.strerror}); expected a file name in a folder"
        f" of yours with room; change --{option}."
    )


def weights_hash(folder: str | Path) -> str:
    """sha256 of a checkpoint's weights, file by file in order of name; what is stored of a
    model names the weights that it belongs to by it.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def stored_beside(folder: str | Path, name: str) -> dict[str, Any] | None:
    """What a JSON file beside a checkpoint holds; None where none can be read, or it names other
    weights than those that are there now.
    """
    try:
        data = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
        return data if data["weights"] == weights_hash(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
