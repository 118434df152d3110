"""Freed memory goes back to the system."""

import os
from pathlib import Path

import pytest

from svl_core.service import heap


@pytest.mark.skipif(heap._library() is None, reason="of the GNU C library")
def test_freed_memory_goes_back_to_the_system(monkeypatch):
    def resident():
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        )

    blocks = [
        b"x" * 100_000 for _ in range(1000)
    ]  # of the heap: larger ones have pages of their own
    blocks = blocks[::2]  # every gap has a block above it
    held = resident()
    monkeypatch.setattr(heap, "_last", float("-inf"))
    assert heap.give_back() and resident() < held - 30
    assert not heap.give_back() and len(blocks) == 500


def test_elsewhere_nothing_is_done(monkeypatch):
    """On a system without the GNU C library."""
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    monkeypatch.setattr(heap, "_last", float("-inf"))
    heap.few_arenas()
    assert heap._library() is None and not heap.give_back() and heap._last == float("-inf")
