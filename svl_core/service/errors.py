"""Any error as one harmless sentence for the visitor, and what can be done about some of them."""

from __future__ import annotations

import errno
import gc
import logging

from svl_core.errors import SVLError, Unreachable
from svl_core.service.logs import where

LOG = logging.getLogger(__name__)

SENTENCE_CHARS = 1000  # of what a visitor is shown, at most
NO_MEMORY = (
    "The machine ran out of memory and everything stored was freed; ask again with a smaller image,"
    " a shorter answer or a smaller model."
)
DISK_FULL = (
    "The server's disk is full, so nothing can be stored right now; the bundled examples still"
    " work; try again later."
)
FULL_SHARE = (
    "As much is stored from your address as this server keeps for one visitor; the bundled examples"
    " still work; close pages that you no longer need, and try again."
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the machine or its GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def disk_full(error: BaseException) -> bool:
    """Whether an error says that nothing more can be written."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def free_memory() -> None:
    """Gives back what nobody refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sentence_for(error: BaseException, details: bool = True) -> str:
    """The sentence that a visitor sees, in plain text; an unexpected error is logged too.

    details: whether an unexpected error's own words are shown and logged.
    """
    if isinstance(error, Unreachable):
        sentence = error.brief
    elif isinstance(error, SVLError):
        sentence = str(error)
    elif out_of_memory(error):
        sentence = NO_MEMORY
    elif disk_full(error):
        sentence = DISK_FULL
    else:
        fields = {"fields": where(error)}
        LOG.error("unexpected error", extra=fields, exc_info=error if details else None)
        words = f"{type(error).__name__}: {error}" if details else type(error).__name__
        sentence = (
            f"Something went wrong ({words}). Nothing was lost; try again or choose another model."
        )
    return sentence[:SENTENCE_CHARS]
