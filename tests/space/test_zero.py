"""ZeroGPU: only plain values and arrays cross between the page and a forked worker, and results
come back as if computed here.
"""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import LAYERS

import svl_core as svl
from svl_core.recipe import Recipe
from svl_core.service import serialization
from svl_core.service.zero_gpu import Work, seconds

HERE = Path(__file__).parent


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        assert module.split(".")[0] == "numpy", f"{module}.{name}"
        return super().find_class(module, name)


def test_values_survive_the_border(tiny, tiny_sample):
    trace = svl.trace(tiny, [tiny_sample], mlp=True)
    plan = svl.manual_plan([2, 3], LAYERS)
    comparison = svl.compare(tiny, svl.prune(tiny, plan), tiny_sample, max_new_tokens=3)
    for value in (
        trace,
        comparison,
        plan,
        Recipe(rank=7, targets=("mlp", "attention")),
        (None, True, 3, "x", [0.5, float("inf")]),
    ):
        plain = serialization.pack(value)
        _Plain(io.BytesIO(pickle.dumps(plain))).load()
        assert serialization.pack(serialization.unpack(plain)).__repr__() == plain.__repr__()
    back = serialization.unpack(serialization.pack(trace)).samples[0]
    assert (
        torch.equal(back.features, trace.samples[0].features)
        and np.array_equal(back.sample.visual, tiny_sample.visual)
        and back.sample.key == tiny_sample.key
    )
    assert back.sample.images[0].tobytes() == tiny_sample.images[0].tobytes()
    halves = torch.arange(6).to(torch.bfloat16).reshape(2, 3)
    assert (
        torch.equal(serialization.unpack(serialization.pack(halves)), halves)
        and serialization.unpack(serialization.pack(halves)).dtype == torch.bfloat16
    )
    assert serialization.unpack(serialization.pack(comparison)) == comparison


def test_models_and_functions_stay(tiny):
    for value in (
        tiny,
        tiny.model,
        len,
        lambda: None,
        {"a": tiny.model},
        next(tiny.model.parameters()),
        np.array([object()]),
        torch.nn.Linear(1, 1).weight,
    ):
        with pytest.raises(TypeError, match="border"):
            serialization.pack(value)


def test_time_asked_for_grows_with_the_request():
    small = seconds(0.5, Work(1000, 6, 128))
    assert 10 <= seconds(0.01, Work(50, 1)) <= small < seconds(14, Work(1000, 6, 128)) <= 120
    for more in (Work(4000, 60, 128), Work(1000, 12, 128), Work(1000, 6, 1024)):
        assert seconds(0.5, more) > small


@pytest.mark.slow
def test_the_work_of_a_forked_worker_comes_back():
    env = {
        **os.environ,
        "SPACES_ZERO_GPU": "true",
        "PYTHONPATH": str(HERE / "stand_in"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "lent.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (
        found["features"] < 1e-4
        and found["statistics"] < 1e-4
        and found["same_sample"]
        and found["young"] < 1e-4
    )
    for pair in found["pairs"]:
        assert (
            all(pair["ids"])
            and pair["text"]
            and pair["type"] == "Comparison"
            and pair["grown"] >= 5
            and pair["after"] < 1e-3
        )
        assert pair["kl"][0] == pytest.approx(pair["kl"][1], abs=1e-4)
    assert found["loaded_here"] == ["young"], "what the worker loads stays with it"
    assert "7 layers" in found["error"] and found["stopped"] and all(found["handlers"].values())
    assert (
        len({call["pid"] for call in found["calls"]}) == 1
        and found["calls"][0]["pid"] != os.getpid()
    )
    assert not found["cuda_touched"] and found["weights"] == 0
    assert all(10 <= call["seconds"] <= 120 for call in found["calls"])
