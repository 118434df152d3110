"""How soon a visitor sees something, and what it costs: `python tests/benchmarks/first_screen.py
[--beside FOLDER] [--turns N]` -> results/first_screen.json and results/speed.md.

Opens a running page in headless Chromium, cold and once more, and measures until there is content
(the first screen, or the first figure where there is no such screen), until the first figure, and
what came over the network. --beside: another checkout of this project, measured in turns with this
one, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from marks import between  # noqa: E402
from page import free_port  # noqa: E402
from traffic import Traffic  # noqa: E402

ROOT = HERE.parents[1]
BEGIN, END = (
    "<!-- first screen: tests/benchmarks/first_screen.py -->",
    "<!-- end of first screen -->",
)
CONTENT = "document.querySelector('#svl-first .hero-layer, .js-plotly-plot .main-svg')"
FIGURE = "document.querySelector('.js-plotly-plot .main-svg')"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


class Page:
    """A served page of one checkout."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(self.port)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(folder),
        )
        self.url = f"http://127.0.0.1:{self.port}/"

    def wait(self) -> None:
        """Until the model answers, so that only the page is measured."""
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                if json.load(urllib.request.urlopen(self.url + "health"))["status"] == "ok":
                    return
            except OSError:
                time.sleep(0.3)
        raise SystemExit(f"Found no page at {self.url} after 300 s; expected one; look at app.py.")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


def visit(context, url: str) -> dict[str, float]:
    """One visit: seconds until content and until the first figure, requests and bytes."""
    page = context.new_page()
    page.set_default_timeout(300_000)
    traffic = Traffic(page)
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(CONTENT)
    content = time.perf_counter() - began
    page.wait_for_function(FIGURE)
    figure = time.perf_counter() - began
    page.locator("#metrics .facts").wait_for()
    page.wait_for_timeout(1500)
    found = {
        "content_s": content,
        "figure_s": figure,
        "requests": traffic.requests,
        "kB": traffic.bytes / 1000,
    }
    page.close()
    return found


def measured(pages: dict[str, Page], turns: int) -> dict[str, dict[str, dict[str, float]]]:
    """{checkout: {"cold" | "warm": medians of `visit`}}, the checkouts in turns."""
    from playwright.sync_api import sync_playwright

    found: dict[str, dict[str, list]] = {name: {"cold": [], "warm": []} for name in pages}
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for _ in range(turns):
            for name, page in pages.items():
                context = chromium.new_context(
                    viewport={"width": 1440, "height": 900}, reduced_motion="reduce"
                )
                for kind in ("cold", "warm"):
                    found[name][kind].append(visit(context, page.url))
                context.close()
    return {
        name: {kind: _medians(visits) for kind, visits in kinds.items()}
        for name, kinds in found.items()
    }


def _medians(visits: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(v[key] for v in visits), 3) for key in visits[0]}


def table(made: dict) -> str:
    """The figures as Markdown, as ratios to the other checkout where there was one."""
    names = list(made["pages"])
    heads = "".join(f" {name}, {kind} |" for name in names for kind in ("cold", "warm"))
    lines = [f"| |{heads}", "| --- |" + " --- |" * (2 * len(names))]
    rows = (
        ("seconds until there is content", "content_s", "{:.2f}"),
        ("seconds until the first figure", "figure_s", "{:.2f}"),
        ("requests that reach the server", "requests", "{:.0f}"),
        ("kB", "kB", "{:.0f}"),
    )
    for title, key, form in rows:
        cells = [
            form.format(made["pages"][name][kind][key])
            for name in names
            for kind in ("cold", "warm")
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    folders = {"before": options.beside} if options.beside else {}
    pages = {name: Page(folder) for name, folder in {**folders, "now": ROOT}.items()}
    try:
        for page in pages.values():
            page.wait()
        made = {"turns": options.turns, "pages": measured(pages, options.turns)}
    finally:
        for page in pages.values():
            page.close()
    (HERE / "results" / "first_screen.json").write_text(json.dumps(made, indent=1) + "\n")
    file = HERE / "results" / "speed.md"
    file.write_text(between(file.read_text("utf-8"), BEGIN, END, table(made)), "utf-8")
    print(table(made))


if __name__ == "__main__":
    main()
