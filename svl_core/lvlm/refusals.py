"""A picture that the processor takes and the model does not is told in a sentence.

Processors check little: some hand on pictures that are smaller than a patch, or so flat that
nothing of them is left behind the vision side's merging.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svl_core.errors import InputError, SVLError

if TYPE_CHECKING:
    import types

    from svl_core.lvlm.model import LVLM

# What vision sides raise for pictures that they cannot read.
RAISED = (
    ValueError,
    TypeError,
    ZeroDivisionError,
    IndexError,
    RuntimeError,
    AssertionError,
)
# Of these, what a device raises, whatever the picture.
OF_THE_DEVICE = ("OutOfMemoryError", "AcceleratorError")
PIXELS = ("pixel", "patches")  # in the names of inputs


@contextlib.contextmanager
def picture_read(
    lvlm: LVLM,
    inputs: Mapping[str, Any],
    sizes: Sequence[tuple[int, int]] = (),
) -> Iterator[None]:
    """Within this block, which runs a pass, what goes wrong ahead of the decoder's layers for a
    picture's sake becomes an InputError.

    inputs: of the pass; without pixels, which have been seen before, nothing changes.
    sizes: (width, height) of the pictures, where they are known.
    """
    try:
        yield
    except SVLError:
        raise
    except RAISED as error:
        pixels = any(part in name for part in PIXELS for name in inputs)
        if not pixels or type(error).__name__ in OF_THE_DEVICE or _in_a_layer(lvlm, error):
            raise
        shapes = ", ".join(f"{width} x {height}" for width, height in sizes)
        of_shape = f" of {shapes} pixels" if shapes else ""
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise InputError(
            f"Found a picture{of_shape} that the processor of {lvlm.name} takes and the model"
            f" itself does not ({reason}); expected an ordinary picture; try a larger one."
        ) from error


def _in_a_layer(lvlm: LVLM, error: BaseException) -> bool:
    """Whether an error was raised within one of the decoder's layers."""
    layers = set(map(id, lvlm.layers))
    frames = _frames(error.__traceback__)
    return any(id(frame.f_locals.get("self")) in layers for frame in frames)


def _frames(traceback: types.TracebackType | None) -> Iterator[types.FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
