"""Fifty visitors at once: `python tests/benchmarks/load.py [--visitors 50] [--warm-up 4] [--minutes
5] [--no-restart]` -> results/load.json and results/public_server.md.

Each visitor goes through `gradio_client`: analyses a picture of its own in `python app.py
--public`, lets both models answer, reads a while, and comes again. Every answer is compared with
what the model says to that picture in this process. Then the server is killed and started again
under the same load. The short version is tests/space/test_load.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "space")]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from marks import PAGES, between  # noqa: E402
from served import Server, Watch  # noqa: E402
from visitor import Caller, words  # noqa: E402

RESULTS, PAGE = HERE / "results" / "load.json", PAGES / "public_server.md"
BEGIN, END = "<!-- load: tests/benchmarks/load.py -->", "<!-- end of load -->"
PROMPT, NEW_TOKENS, PICTURES = "describe the picture.", 32, 56
READING_S = 20.0  # at most, between two turns
POLITE = ("queue is full", "too many", "busy")


class Asked:
    """A picture and a prompt, with what both models truly answer to them."""

    def __init__(self, path: Path, prompt: str, full: str, pruned: str) -> None:
        self.path, self.prompt, self.full, self.pruned = str(path), prompt, full, pruned


def prepare(
    lvlm, pairs, drop: list[int], folder: Path, new_tokens: int = NEW_TOKENS
) -> list[Asked]:
    """Pictures of the (picture, prompt) pairs written into `folder`, no two with the same answer,
    and their true answers computed here.
    """
    import svl_core as svl

    pruned, out, seen = svl.prune(lvlm, svl.manual_plan(drop, lvlm.num_layers)), [], set()
    for number, (picture, prompt) in enumerate(pairs):
        sample = lvlm.encode(picture, prompt)
        full = svl.answer(lvlm, sample, max_new_tokens=new_tokens).text.strip()
        if full not in seen:
            seen.add(full)
            path = folder / f"{number}.png"
            picture.save(path)
            out.append(
                Asked(
                    path,
                    prompt,
                    full,
                    svl.answer(pruned, sample, max_new_tokens=new_tokens).text.strip(),
                )
            )
    return out


class Crowd:
    """Visitors in threads of their own, until `until` (monotonic seconds) or for `turns` each."""

    def __init__(
        self,
        url: str,
        asked: list[Asked],
        layers: int,
        drop: list[int],
        count: int,
        *,
        new_tokens: int = NEW_TOKENS,
        reading_s: float = READING_S,
        seed: int = 0,
    ) -> None:
        self.url, self.asked, self.layers, self.drop, self.count = url, asked, layers, drop, count
        self.new_tokens, self.reading_s, self.seed = new_tokens, reading_s, seed
        self.until, self.turns = float("inf"), float("inf")
        self.down = (
            threading.Event()
        )  # the server is meant to be away: errors are expected, and visitors come back
        self.times: dict[str, list[float]] = {"analyse": [], "compare": []}
        self.failures, self.mixed, self.polite, self.done = [], [], 0, [0] * count
        self.back: dict[int, float] = {}  # visitor -> when it had a right answer again
        self.restarted = False
        self._lock = threading.Lock()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._visit, args=(k,), daemon=True) for k in range(self.count)
        ]
        for thread in threads:
            thread.start()
        self.threads = threads

    def forget_times(self) -> None:
        """Measure from now on."""
        with self._lock:
            self.times = {"analyse": [], "compare": []}

    def join(self, patience: float) -> None:
        until = time.monotonic() + patience
        for thread in self.threads:
            thread.join(max(0.1, until - time.monotonic()))
        if left := sum(thread.is_alive() for thread in self.threads):
            self.failures.append(f"{left} visitors still wait")

    def _visit(self, k: int) -> None:
        dice, caller = random.Random(1000 * self.seed + k), None
        while time.monotonic() < self.until and self.done[k] < self.turns:
            try:
                caller = caller or Caller(self.url)
                self._turn(k, caller)
                self.done[k] += 1
                self.back.setdefault(k, time.monotonic()) if self.restarted else None
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                away = (
                    self.down.is_set() or self.restarted and k not in self.back
                )  # whoever was cut off comes back as a new session
                with self._lock:
                    if any(word in text.lower() for word in POLITE):
                        self.polite += 1
                    elif not away:
                        self.failures.append(text[:300])
                caller = None if away else caller
                time.sleep(1)
            time.sleep(dice.uniform(0, self.reading_s) if time.monotonic() < self.until else 0)
        if caller is not None:
            try:
                caller.leave()
            except Exception:  # it is leaving anyway
                pass

    def _turn(self, k: int, caller: Caller) -> None:
        asked = self.asked[(k + self.count * self.done[k]) % len(self.asked)]
        began = time.monotonic()
        looked = caller.ask(asked.path, asked.prompt)
        between = time.monotonic()
        found = caller.compare(
            self.layers, self.drop, compensation="none", answer_length=self.new_tokens
        )
        ended = time.monotonic()
        with self._lock:
            self.times["analyse"].append(between - began)
            self.times["compare"].append(ended - between)
            said = words(found["answer-full"]), words(found["answer-pruned"])
            if (
                said != (asked.full, asked.pruned)
                or repr(asked.prompt) not in looked["code-python"]
            ):
                self.mixed.append(
                    {"visitor": k, "said": said, "expected": [asked.full, asked.pruned]}
                )


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return (
        {
            "p50": round(statistics.median(ordered), 2),
            "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        }
        if ordered
        else {}
    )


def open_page(server: Server):
    """Opens the page in Chromium; the function returned tells, after a restart, how long it took to
    work again.
    """
    from playwright.sync_api import sync_playwright

    play = sync_playwright().start()
    chromium = play.chromium.launch(
        executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
    )
    page = chromium.new_page()
    page.set_default_timeout(240_000)
    page.goto(server.url)
    page.locator("#metrics .facts").wait_for()
    page.evaluate("() => { window.opened = 1 }")

    def again() -> dict:
        began, reloaded = time.monotonic(), False
        while time.monotonic() < began + 60 and not reloaded:  # it may notice by itself
            page.wait_for_timeout(1000)
            try:
                reloaded = page.evaluate("() => window.opened !== 1")
            except Exception:  # in the middle of a reload
                reloaded = True
        if not reloaded:
            page.reload()
        page.locator("#metrics .facts").wait_for()
        found = {"reloaded_by_itself": reloaded, "usable_s": round(time.monotonic() - began, 1)}
        chromium.close()
        play.stop()
        return found

    return again


def measure(visitors: int, warm_up: float, minutes: float, restart: bool, seed: int) -> dict:
    import torch

    import svl_core as svl
    from svl_core.demo.questions import labelled

    torch.set_num_threads(1)  # the cores are the server's
    lvlm, drop = svl.load("demo"), [5, 6]
    with tempfile.TemporaryDirectory(prefix="svl-load-") as folder:
        folder = Path(folder)
        print("preparing", flush=True)
        asked = prepare(
            lvlm, [(one.image, PROMPT) for one in labelled(PICTURES, seed)], drop, folder
        )
        with Server(folder) as server:
            print(f"{len(asked)} pictures; the server is ready", flush=True)
            watch = Watch(server)
            watch.start()
            crowd = Crowd(server.url, asked, lvlm.num_layers, drop, visitors, seed=seed)
            began = time.monotonic()
            crowd.run()
            time.sleep(
                60 * warm_up
            )  # every visitor has been there and the server's stores are full
            warm, turns = time.monotonic() - watch.began, sum(crowd.done)
            crowd.forget_times()
            time.sleep(60 * minutes)
            made = {
                "visitors": visitors,
                "minutes": minutes,
                "pictures": len(asked),
                "turns": sum(crowd.done) - turns,
                "analyse_s": quantiles(crowd.times["analyse"]),
                "compare_s": quantiles(crowd.times["compare"]),
                "visitors_served": sum(n > 0 for n in crowd.done),
                "polite_refusals": crowd.polite,
                "mb_per_minute": round(watch.mb_per_minute(after=warm), 2),
                "warm_up_minutes": warm_up,
                "analyses_kept": watch.samples[-1][1]["analyses"],
                "mb": [round(found["mb"]) for at, found in watch.samples[::12]],
                "threads": watch.samples[-1][1]["threads"],
                "open_files": watch.samples[-1][1]["files"],
            }
            if restart:
                again = None
                try:
                    again = open_page(server)
                except Exception as error:
                    made["page"] = f"not opened: {type(error).__name__}"
                crowd.down.set()
                server.kill()
                killed = time.monotonic()
                time.sleep(3)
                started = server.start()
                crowd.restarted = True
                crowd.down.clear()
                page = again() if again else made.get("page")
                while len(crowd.back) < visitors and time.monotonic() < killed + 300:
                    time.sleep(1)
                waits = [at - killed for at in crowd.back.values()]
                made["restart"] = {
                    "ready_s": round(started, 1),
                    "visitors_back": len(crowd.back),
                    "first_answer_s": round(min(waits), 1) if waits else None,
                    "all_back_s": round(max(waits), 1) if waits else None,
                    "page": page,
                }
            crowd.until = 0
            crowd.join(300)
            made |= {
                "failures": crowd.failures,
                "mixed": crowd.mixed,
                "seconds": round(time.monotonic() - began),
                "cores": os.cpu_count(),
            }
            logged = server.log.read_text(errors="replace")
            made["log_quotes_visitors"] = PROMPT in logged or any(
                each.full in logged for each in asked
            )
            made["logged_errors"] = logged.count('"level": "error"')
    return made


def with_figures(text: str, made: dict) -> str:
    """`text` with its sentence about the load made anew."""
    back = made.get("restart")
    line = (
        f"{made['visitors']} visitors for {made['minutes']:g} minutes on two CPU cores:"
        f" {made['turns']} turns (analysis and both answers), {len(made['mixed'])} mixed-up"
        f" answers, {len(made['failures'])} errors, {made['polite_refusals']} polite refusals;"
        f" seconds with the queue, median and 95th percentile: analysis {made['analyse_s']['p50']}"
        f" and {made['analyse_s']['p95']}, both answers {made['compare_s']['p50']} and"
        f" {made['compare_s']['p95']}; memory {made['mb_per_minute']:+.1f} MB a minute after"
        f" {made['warm_up_minutes']:g} minutes of warm-up (MB, minute by minute:"
        f" {', '.join(map(str, made['mb']))})."
    )
    if back:
        line += (
            f" Killed and started again under that load: ready after {back['ready_s']} s,"
            f" {back['visitors_back']} of {made['visitors']} visitors had right answers again after"
            f" {back['all_back_s']} s."
        )
    return between(text, BEGIN, END, line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument(
        "--warm-up",
        type=float,
        default=4,
        metavar="MINUTES",
        help="visitors come and go so long before anything is measured (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--no-restart", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = measure(
        options.visitors, options.warm_up, options.minutes, not options.no_restart, options.seed
    )
    print(json.dumps(made, indent=1))
    if (options.visitors, options.minutes) == (50, 5):
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
