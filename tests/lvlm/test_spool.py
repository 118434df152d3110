"""Values in a file: they come back as they were, one at a time, whatever they hold, and leave
nothing behind.
"""

import os
from types import MappingProxyType

import numpy as np
import pytest
import torch

from svl_core.errors import InputError
from svl_core.lvlm.spool import Spooled, empty_tensor, select_values, store_values


def value(seed):
    rng = torch.Generator().manual_seed(seed)
    wide = torch.randn(3, 5, generator=rng)
    return {
        "wide": wide,
        "again": wide,
        "turned": wide.T,
        "half": wide.to(torch.bfloat16),
        "true": wide > 0,
        "none": wide[:0],
        "one": wide.sum(),
        "array": wide.numpy(),
        "more": MappingProxyType({"at": (seed, "words")}),
    }


def same(one, other):
    return (
        all(
            torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype
            for name in one
            if isinstance(one[name], torch.Tensor)
        )
        and np.array_equal(one["array"], other["array"])
        and one["more"] == other["more"]
    )


@pytest.mark.parametrize("mapped", [0, 2**24], ids=["as pages", "read"])
def test_values_come_back_as_they_were(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr("svl_core.lvlm.spool.MAPPED", mapped)
    held = store_values(map(value, range(5)), 5, tmp_path)
    assert (
        list(tmp_path.iterdir()) == []
        and len(held) == 5
        and all(same(one, value(seed)) for seed, one in enumerate(held))
    )
    assert (
        held[1]["wide"] is not held[1]["wide"] and (one := held[1])["wide"] is one["again"]
    )  # made anew each time, twice the same within
    assert [each["more"]["at"][0] for each in select_values(held, (4, 0, -1))] == [4, 0, 4] and [
        each["more"]["at"][0] for each in held[1::2]
    ] == [1, 3]
    some = held[3:]
    del held
    assert same(some[0], value(3))  # a part keeps the file


def test_a_tensor_filled_in_place_is_not_written_twice(tmp_path):
    held = Spooled(tmp_path, 2)
    for number in range(2):
        filled = held.empty_tensor((1000, 1000), torch.float32)
        filled.fill_(number + 1)
        held[number] = {"filled": filled, "beside": torch.tensor([number])}
    assert [(each["filled"].unique().tolist(), int(each["beside"])) for each in held] == [
        ([1.0], 0),
        ([2.0], 1),
    ]
    assert os.stat(held._file.handle).st_size < 2 * 4e6 + 2**16


def test_files_are_closed_with_the_last_that_uses_them(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    held, alone = (
        store_values(map(value, range(3)), 3, tmp_path),
        empty_tensor((4, 4), torch.float64, tmp_path),
    )
    alone.fill_(3)
    one = held[0]
    del held
    assert same(one, value(0)) and alone.sum() == 48
    del one, alone
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_room(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no room .*existing folder"):
        Spooled(tmp_path / "absent", 1)
    held = Spooled(tmp_path, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="No space left"):
        held[0] = value(0)
    with pytest.raises(InputError, match="0.40 GB .*No space left"):
        held.empty_tensor((10**8,), torch.float32)
