"""ZeroGPU: only plain values and arrays cross between the page and a forked worker, and results
come back as if computed here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


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
