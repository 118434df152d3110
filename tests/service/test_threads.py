"""What the libraries' threads are told before the page loads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("given, expected", [({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")])
def test_numpy_keeps_to_one_thread_unless_it_is_told_otherwise(given, expected):
    """A port that is none ends the start after the environment is set."""
    code = (
        "import os; from svl_core import page\n"
        "try: page.main(['--port', 'none'])\n"
        "except SystemExit: print(*(os.environ[name] for name in page.THREADS))"
    )
    env = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    env.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env | given
    )
    assert done.stdout.split() == ["PASSIVE", expected]
