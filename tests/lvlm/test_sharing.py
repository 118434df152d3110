"""What each of several processes takes of the machine. (That they meet and come to the same numbers
is shown in `tests/comparison/test_launched.py`.)
"""

import os

import pytest
import torch
from torch import distributed

from svl_core.errors import InputError
from svl_core.lvlm import sharing
from svl_core.progress import ALONE


@pytest.fixture
def joined(monkeypatch):
    """What `_join` sets, by name, in the second of three processes on a machine of 12 cores."""
    calls = {}

    def noted(name):
        return lambda *given, **options: calls.__setitem__(name, *given)

    monkeypatch.setattr(distributed, "init_process_group", noted("backend"))
    monkeypatch.setattr(sharing.atexit, "register", noted("at exit"))
    monkeypatch.setattr(torch.cuda, "set_device", noted("GPU"))
    monkeypatch.setattr(torch, "set_num_threads", noted("threads"))
    monkeypatch.setattr(sharing, "_cores", lambda: 12)
    for name, value in {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)

    def join(gpus, threads):
        calls.clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        if threads is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        sharing._join()
        return calls

    return join


def test_each_takes_a_gpu_and_its_part_of_the_cores(joined):
    assert joined(gpus=4, threads=None).get("GPU") == 1
    assert joined(gpus=1, threads=None).get("GPU") == 0  # one for all of them
    assert "GPU" not in joined(gpus=0, threads=None)
    assert joined(gpus=0, threads=None)["threads"] == 4
    assert joined(gpus=0, threads="1")["threads"] == 4  # what launchers say where nobody did
    assert "threads" not in joined(gpus=0, threads="2")


def test_alone_without_a_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with sharing.team() as team:
        assert team is ALONE and not distributed.is_initialized()


def test_half_of_a_launcher_s_settings_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="WORLD_SIZE=2.*RANK.*accelerate launch"):
        with sharing.team():
            pytest.fail("there is no team")
    assert os.environ["WORLD_SIZE"] == "2" and not distributed.is_initialized()
