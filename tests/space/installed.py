"""The project as somebody has it who never cloned it: a wheel in an environment of its own, used
from an empty folder.

    python tests/space/installed.py          # downloads all dependencies anew: minutes, gigabytes

`tests/space/test_installed.py` does the same with the dependencies that are at hand.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READY_S = 300


def files_of_the_project() -> list[str]:
    """Paths of what a clone would hold, and of what is new here."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in said.split("\0") if name and os.path.lexists(ROOT / name)]


def wheel(folder: Path, isolated: bool = False) -> Path:
    """Builds the wheel of a fresh copy of the project. isolated: with build tools of its own."""
    source = folder / "source"
    for name in files_of_the_project():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    command += [] if isolated else ["--no-build-isolation", "--no-index"]
    subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    (made,) = folder.glob("*.whl")
    shutil.rmtree(source)
    return made


def environment(folder: Path, built: Path, fresh: bool = False) -> Path:
    """A virtual environment with the wheel in it; returns where its programs lie.

    fresh: with dependencies downloaded anew, else with those that run this script.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    programs = folder / "bin"
    install = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install"]
    if not fresh:
        install += ["--no-deps", "--no-index"]
        there = sysconfig.get_path("purelib", vars={"base": str(folder)})
        (Path(there) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([*install, "--quiet", str(built)], check=True)
    return programs


def bare() -> dict[str, str]:
    """The variables of a shell that knows nothing of a clone."""
    kept = ("PATH", "HOME", "LANG", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    known = {name: os.environ[name] for name in kept if name in os.environ}
    return known | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def compared(programs: Path, folder: Path, picture: Path) -> dict:
    """What `svl compare` writes of the bundled model, run in `folder`."""
    command = [str(programs / "svl"), "compare", "--image", str(picture), "--drop", "2"]
    command += ["--prompt", "where is the cat?", "--max-new-tokens", "8", "--json", "-"]
    done = subprocess.run(command, cwd=folder, env=bare(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def page_answers(programs: Path, folder: Path) -> dict:
    """What a page that `svl page` serves in `folder` finds in a picture of the bundled art; the
    page is told to end, and has to end well.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(programs / "svl"), "page", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=folder, env=bare(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + READY_S
        while not _ready(url):
            assert server.poll() is None and time.monotonic() < until, server.communicate()[0]
            time.sleep(0.5)
        asked = {"image": "example:0", "prompt": "describe the picture.", "brief": True}
        call = f"{url}/gradio_api/call/v2/analyse"
        event = json.loads(_fetched(call, asked))["event_id"]
        said = _fetched(f"{call}/{event}")
        assert "event: complete" in said, said
        return json.loads(said.rpartition("data: ")[2])[0]
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        printed, _ = server.communicate(timeout=60)
        assert server.returncode == 0, printed


def _ready(url: str) -> bool:
    try:
        return json.loads(_fetched(f"{url}/health"))["status"] == "ok"
    except OSError:  # not up yet, or still loading
        return False


def _fetched(url: str, data: dict | None = None) -> str:
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


def main() -> None:
    from svl_core.demo.scenes import compose, render

    with tempfile.TemporaryDirectory(prefix="svl-installed-") as name:
        folder = Path(name)
        programs = environment(folder / "venv", wheel(folder, isolated=True), fresh=True)
        (folder / "empty").mkdir()
        render(compose({0: "cat", 4: "apple"}, "noto")).save(folder / "picture.png")
        print(compared(programs, folder / "empty", folder / "picture.png")["full"]["text"])
        print(page_answers(programs, folder / "empty")["ranking"])


if __name__ == "__main__":
    main()
