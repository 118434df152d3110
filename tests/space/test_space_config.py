"""The Space: staged exactly, refused where something is wrong, and started as a Space would start it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from space_config.deploy import HARDWARE, ROOT, StageError, check, main, requirements, stage

git = pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="staging reads git's list of files")


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("space"))


@git
def test_staged_folder_passes_and_holds_no_tests(staged):
    facts = check(staged)
    assert facts["files"] > 50 and {path.name for path in staged.iterdir()} == {"app.py", "svl_core", "assets", "LICENSE", "README.md", "requirements.txt"}


@git
@pytest.mark.parametrize("fault, spoil", [
    ("short_description", lambda f: (f / "README.md").write_text((f / "README.md").read_text().replace("short_description: ", "short_description: " + "x" * 60))),
    ("sdk_version", lambda f: (f / "README.md").write_text((f / "README.md").read_text().replace("sdk_version: ", "sdk_version: 9"))),
    ("does not belong", lambda f: (f / "notes.txt").write_text("x")),
    ("does not belong", lambda f: (f / "svl_core" / "token.pem").write_text("x")),
    ("app_file", lambda f: (f / "app.py").unlink()),
    ("bundled model", lambda f: (f / "assets" / "demo_lvlm" / "model.safetensors").unlink()),
    ("at most", lambda f: (f / "assets" / "large.png").write_bytes(bytes(51_000_000))),
])
def test_each_fault_is_found(staged, tmp_path, fault, spoil):
    copy = Path(shutil.copytree(staged, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(StageError, match=fault):
        check(copy)


def test_requirements_follow_the_project():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for hardware in HARDWARE:
        lines = requirements(hardware).splitlines()
        assert ("cpu" in lines[0]) == hardware.startswith("cpu")
        assert [line for line in lines if not line.startswith("--")] == [line for line in listed if not line.startswith("gradio")]


def test_wrong_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["nobody", "--dry-run"])
    assert "USER/SPACE" in capsys.readouterr().err


def test_container_runs_as_a_user_and_checks_its_health():
    text = (ROOT / "space_config" / "Dockerfile").read_text()
    assert text.index("USER svl") < text.index("CMD [\"python\", \"app.py\"]") and "/health" in text and "HF_HUB_OFFLINE" in text


@git
@pytest.mark.slow
def test_staged_folder_starts_as_a_space_would(staged):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"PATH": os.environ["PATH"], "HOME": str(staged.parent), "SPACE_ID": "someone/space", "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", "import svl_core; print(svl_core.__file__)"], cwd=staged, env=env, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(staged)
    server = subprocess.Popen([sys.executable, "app.py"], cwd=staged, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + 300
        said = None
        while said is None and time.monotonic() < until and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    said = json.load(answer)
            except OSError:  # not up yet, or still loading
                time.sleep(0.5)
        assert said and said["model"] == {"name": "demo", "state": "ready"}, server.poll()
    finally:
        server.terminate()
        printed, _ = server.communicate(timeout=60)
    assert "any_model: no" in printed
