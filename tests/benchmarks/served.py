"""`python app.py --public` as a process of its own, for the benchmarks that load it: started,
watched, killed and started again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections: it
    must stay free while the server starts.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("Found no free port between 20000 and 32000.")


def slope(samples: list[tuple[float, float]]) -> float:
    """Least-squares slope of (x, y) pairs."""
    n = len(samples)
    if n < 2:
        return 0.0
    mean_x, mean_y = sum(x for x, _ in samples) / n, sum(y for _, y in samples) / n
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


class Server:
    """The page on 127.0.0.1; a context manager that ends it. log: its printed lines."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.port, self.folder = free_port(), Path(folder)
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.folder),
            "GRADIO_TEMP_DIR": "",
            "PYTHONPATH": str(ROOT),
            **env,
        }
        self.log = self.folder / "server.log"
        self.process: subprocess.Popen | None = None

    def start(self, patience: float = 300) -> float:
        """Returns the seconds until the first model was ready."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--public", "--port", str(self.port)],
                cwd=ROOT,
                env=self.env,
                stdout=log,
                stderr=log,
            )
        while time.monotonic() < began + patience:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the server ended: {self.log.read_text(errors='replace')[-2000:]}"
                )
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5):
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.25)
        raise RuntimeError("the server was not ready in time")

    def kill(self) -> None:
        """As a machine that loses its power would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def measured(self) -> dict[str, float]:
        """{"mb": resident memory, "threads", "files": open descriptors, "uploads": files in its
        folder, "analyses": kept}.
        """
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        uploads = sum(
            1 for path in self.folder.rglob("*") if path.is_file() and "svl-uploads" in str(path)
        )
        with urllib.request.urlopen(self.url + "/health", timeout=30) as answer:
            kept = json.load(answer)["analyses"]
        return {
            "analyses": kept,
            "mb": int(status["VmRSS"].split()[0]) / 1000,
            "threads": int(status["Threads"]),
            "files": len(list((proc / "fd").iterdir())),
            "uploads": uploads,
        }

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


class Watch(threading.Thread):
    """Measures a server every few seconds. samples: (seconds since the start, measures)."""

    def __init__(self, server: Server, every: float = 5.0) -> None:
        super().__init__(daemon=True)
        self.server, self.every, self.samples, self.over = server, every, [], threading.Event()
        self.began = time.monotonic()

    def run(self) -> None:
        while not self.over.wait(self.every):
            try:
                self.samples.append((time.monotonic() - self.began, self.server.measured()))
            except (OSError, KeyError, ValueError):  # it is being restarted
                continue

    def mb_per_minute(self, after: float, until: float = float("inf")) -> float:
        return 60 * slope([(at, found["mb"]) for at, found in self.samples if after <= at <= until])
