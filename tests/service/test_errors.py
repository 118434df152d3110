"""Errors as sentences: ours as they are, others without what a stranger need not read."""

import errno
import logging

import pytest

from svl_core.errors import InputError, Unreachable
from svl_core.service import errors


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


@pytest.mark.parametrize(
    "error, sentence",
    [
        (InputError("Found a; expected b; do c."), "Found a; expected b; do c."),
        (
            Unreachable("Found 'org/Photo-1B' neither as; expected; check.", "org/Photo-1B"),
            "Photo-1B is not on this machine, and the Hub cannot be reached; choose another model.",
        ),
        (MemoryError(), errors.NO_MEMORY),
        (OutOfMemoryError("CUDA"), errors.NO_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), errors.NO_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), errors.DISK_FULL),
    ],
)
def test_known_errors_have_their_sentence(error, sentence, caplog):
    assert errors.sentence_for(error) == errors.sentence_for(error, details=False) == sentence
    assert not caplog.records


def test_unexpected_errors_are_logged_and_tell_strangers_their_type_alone(caplog):
    secret = KeyError("a visitor's words")
    assert "a visitor's words" in errors.sentence_for(secret)
    assert caplog.records[-1].levelno == logging.ERROR and caplog.records[-1].exc_info
    sentence = errors.sentence_for(secret, details=False)
    assert "KeyError" in sentence and "words)" not in sentence
    assert not caplog.records[-1].exc_info
    assert len(errors.sentence_for(ValueError("x" * 5000))) == errors.SENTENCE_CHARS
    errors.free_memory()
