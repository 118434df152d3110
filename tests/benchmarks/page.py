"""Times the page as its user meets it: `python tests/benchmarks/page.py` -> results/page.json and
results/speed.md.

Starts `python app.py`, opens it in headless Chromium and measures: page usable (first analysis
drawn), both first answers, analysing a new image, both answers, a slider move (server side, and
until the page rests), and the process's memory.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from marks import PAGES, between, rewrite

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REPEATS = 5
KNOB = "#drop input[type=range]"
BEGIN, END = "<!-- speed: tests/benchmarks/page.py -->", "<!-- end of speed -->"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB (Linux)."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def rest(page) -> None:
    """Until the page shows no work for 300 ms."""
    calm = 0
    while calm < 6:
        page.wait_for_timeout(50)
        calm = calm + 1 if page.locator("#status .pill").count() == 0 else 0


def timed(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def server_side() -> dict[str, float]:
    """Seconds of the handlers alone, in this process: analysis, a slider move, both answers."""
    import svl_core as svl
    from svl_core.demo.questions import labelled

    lvlm = svl.load("demo")
    asked = labelled(REPEATS + 1, 11)
    samples = [lvlm.encode(one.image, one.question) for one in asked]
    found: dict[str, list[float]] = {"analyse": [], "slider": [], "answers": []}
    for sample in samples:
        began = time.perf_counter()
        trace = svl.trace(lvlm, [sample])
        importance = svl.importance(trace)
        scores = svl.redundancy(trace, importance)
        svl.similarity(trace, importance)
        done = time.perf_counter()
        plan = svl.plan(scores, 4)
        svl.feature_gap(trace, plan.drop, importance)
        moved = time.perf_counter()
        pruned = svl.prune(lvlm, plan, "scp", trace, importance)
        svl.compare(lvlm, pruned, sample)
        ended = time.perf_counter()
        for name, seconds in zip(found, (done - began, moved - done, ended - moved)):
            found[name].append(seconds)
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def table(made: dict) -> str:
    """The page's figures as Markdown."""
    rows = (
        ("page served after `python app.py`", "served_s"),
        ("page usable: opened, model loaded, first analysis drawn", "usable_s"),
        ("first two answers shown, compensation fitted on 32 scenes", "answered_s"),
        ("new picture: analysis and both answers on the page", "new_scene_with_answers_s"),
        (
            "drop slider moved: figures and both new answers on the page",
            "slider_move_with_answers_s",
        ),
        ("analysis alone, in Python", "core_analyse_s"),
        ("figures' data after a slider move, in Python", "core_slider_s"),
        ("prune, answer twice and compare, in Python", "core_answers_s"),
    )
    lines = ["| | seconds |", "| --- | --- |"] + [
        f"| {what} | {made[name]:.2g} |" for what, name in rows
    ]
    return "\n".join(lines + ["", f"Memory of the server process: {made['memory_mb']:.0f} MB."])


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def moved(page) -> None:
    """One more layer dropped, until the page rests."""
    page.locator(KNOB).press("ArrowRight")
    page.wait_for_timeout(300)
    rest(page)


def main() -> None:
    from playwright.sync_api import sync_playwright

    port = free_port()
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).read()
                break
            except OSError:
                time.sleep(0.05)
        served = time.perf_counter() - began
        with sync_playwright() as play:
            chromium = play.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
            )
            page = chromium.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator(".js-plotly-plot").first.wait_for()
            usable = time.perf_counter() - began
            page.locator("#metrics .facts").wait_for()
            answered = time.perf_counter() - began
            rest(page)
            scenes, moves = [], []
            for _ in range(REPEATS):
                scenes.append(
                    timed(
                        lambda: (
                            page.locator("#new-scene").click(),
                            page.wait_for_timeout(100),
                            rest(page),
                        )
                    )
                )
                page.locator(KNOB).focus()
                moves.append(timed(lambda: moved(page)))
            chromium.close()
        made = {
            "served_s": served,
            "usable_s": usable,
            "answered_s": answered,
            "new_scene_with_answers_s": statistics.median(scenes),
            "slider_move_with_answers_s": statistics.median(moves),
            "memory_mb": resident_mb(server.pid),
        }
    finally:
        server.terminate()
        server.wait(20)
    made |= {"core_" + name + "_s": seconds for name, seconds in server_side().items()}
    made = {name: round(value, 3) for name, value in made.items()} | {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "page.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    rewrite(PAGES / "speed.md", BEGIN, END, table(made))
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
