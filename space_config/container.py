"""Build the container and see it work: `python -m space_config.container [--tag NAME] [--preload
MODEL] [--offline] [--build-only]`.

Builds the image, starts it, waits until it is healthy, asks for its MCP tools, and stops it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
READY_S = 300
TOOLS = {"analyse", "compare", "sweep", "evaluate", "models"}


class ContainerError(RuntimeError):
    """What went wrong, in a sentence."""


def build_command(tag: str, preload: str, offline: bool) -> list[str]:
    """How docker is called to build the image."""
    command = ["docker", "build", "-f", str(ROOT / "space_config" / "Dockerfile"), "-t", tag]
    for name, value in (("PRELOAD", preload), ("OFFLINE", "1" if offline else "")):
        command += ["--build-arg", f"{name}={value}"] if value else []
    return [*command, str(ROOT)]


def check_docker() -> None:
    """Raises ContainerError where docker is not installed, or does not run."""
    remedy = "expected one that runs; install and start it, or build elsewhere."
    if shutil.which("docker") is None:
        raise ContainerError(f"Found no docker; {remedy}")
    asked = subprocess.run(["docker", "info"], capture_output=True, text=True)
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ContainerError(f"Found a docker that does not answer ({said}); {remedy}")


def tried(tag: str) -> dict:
    """{"health", "user", "tools"} of the image, started on a free port of this machine and stopped.

    Raises ContainerError where it does not become healthy, runs as root or serves other tools.
    """
    publish = ["-p", "127.0.0.1::7860"]
    started = subprocess.run(
        ["docker", "run", "--detach", "--rm", *publish, tag],
        capture_output=True,
        text=True,
        check=True,
    )
    name = started.stdout.strip()
    try:
        address = _said("docker", "port", name, "7860").splitlines()[0]
        facts = {
            "health": _healthy(f"http://{address}/health"),
            "user": _said("docker", "exec", name, "id", "-u"),
            "tools": sorted(
                tool["name"] for tool in _json(f"http://{address}/gradio_api/mcp/schema")
            ),
        }
    finally:
        subprocess.run(["docker", "stop", name], capture_output=True)
    if facts["user"] == "0" or set(facts["tools"]) != TOOLS:
        raise ContainerError(f"Found {facts}; expected another user than root, and {TOOLS}.")
    return facts


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _json(url: str):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def _healthy(url: str) -> dict:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        try:
            return _json(url)["model"]
        except OSError:  # not up yet, or still loading
            time.sleep(1)
    raise ContainerError(f"Found no healthy page after {READY_S} s; see docker logs.")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m space_config.container", description="Build the container and see it work."
    )
    parser.add_argument("--tag", default="svl", help="the image's name (default: %(default)s)")
    parser.add_argument("--preload", default="", metavar="MODEL", help="a Hub model in the image")
    parser.add_argument("--offline", action="store_true", help="it never asks the Hub")
    parser.add_argument("--build-only", action="store_true", help="do not start it")
    options = parser.parse_args(arguments)
    try:
        check_docker()
        command = build_command(options.tag, options.preload, options.offline)
        subprocess.run(command, check=True)
        if not options.build_only:
            print(json.dumps(tried(options.tag)))
    except ContainerError as error:
        print(error, file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"Found that {error.cmd[:2]} failed; see what it said above.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
