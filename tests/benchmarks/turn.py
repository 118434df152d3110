"""What one visitor's turn costs the server: `python tests/benchmarks/turn.py [--turns 15]
[--keep before] [--profile FOLDER]` -> results/turn.json and results/speed.md.

The page of the bundled model is served from this process with the public limits; a visitor in a
process of its own brings a new picture each time, over HTTP, as the page's script would: upload,
analysis with both answers behind it, a moved drop slider with both answers again. Counted is the
processor time of the serving process alone, on one torch thread, so that other work on the machine
does not count; told apart are passes of the model (everything inside a torch module), the making of
pruned models, the drawing of figures, the rest of the task's thread, the threads of handlers, and
the event loop, which does HTTP and gradio's own work.

--keep before: stores the figures as those from before a change, made with this file in an older
checkout.
--profile FOLDER: also a profile of each kind of thread, for `python -m pstats`.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import io
import json
import os
import platform
import pstats
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from multiprocessing import Pipe, get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "space")]

from marks import PAGES, rewrite  # noqa: E402

import app  # noqa: E402

RESULTS, PAGE = HERE / "results" / "turn.json", PAGES / "speed.md"
BEGIN, END = "<!-- turn: tests/benchmarks/turn.py -->", "<!-- end of turn -->"
PROMPT, WARM_UP = "describe the picture.", 3
COUNTS = (3, 5, 2, 6, 4)  # layers that the slider drops, in turn
SETTLE_S, IDLE_S = 0.1, 5.0  # what an event leaves behind; how long nobody asks anything
STEPS = {
    "upload": "picture uploaded",
    "analyse": "analysis, all figures",
    "compare": "both answers",
    "slide": "drop slider moved: figures",
    "again": "both answers again",
}
CAUSES = {
    "model": "passes of the model",
    "task": "reading the prompt, choosing tokens, measuring",
    "prune": "making the pruned model",
    "draw": "drawing figures",
    "loop": "event loop: HTTP, gradio's own work",
    "handlers": "handlers' threads",
    "other": "other threads: numpy's",
}


# ------------------------------------------------------------------------------ the visitor
class Guest:
    """A browser's part: fires an event, then those that follow it, and keeps what it is sent."""

    def __init__(self, url: str) -> None:
        from visitor import Visitor

        self.visitor = Visitor(url)
        self.functions = self.visitor.config["dependencies"]
        self.values = dict(self.visitor.values)
        self.ids = self.visitor.ids
        self.values[self.ids["prompt"]] = PROMPT
        self.bytes = 0

    def steps(self, picture: bytes, layers: list[int]) -> dict[str, Callable[[], None]]:
        """The steps of a turn, in order. layers: how many layers the slider drops, in turn."""
        analyse = self.found("analyze", "click")
        settled = self.found("bridge", "settle_drop")
        return {
            "upload": lambda: self.upload(picture),
            "analyse": lambda: self.chain(analyse, self.after(analyse)),
            "compare": lambda: self.chain(self.after(self.after(analyse))),
            "slide": lambda: self.slide(settled, layers),
            "again": lambda: self.chain(self.after(settled), self.after(self.after(settled))),
        }

    def found(self, elem_id: str, event: str) -> dict:
        """The function behind an event of a component."""
        target = [self.ids[elem_id], event]
        return next(
            each for each in self.functions if target in each["targets"] and each["backend_fn"]
        )

    def after(self, function: dict) -> dict:
        """The function that follows another."""
        return next(each for each in self.functions if each["trigger_after"] == function["id"])

    def upload(self, picture: bytes) -> None:
        path = self.visitor.upload(picture)
        brought = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "picture.png"}
        self.values[self.ids["image"]] = brought
        self.chain(self.found("image", "input"))

    def slide(self, settled: dict, layers: list[int]) -> None:
        strip = self.values[self.ids["strip"]]
        count = layers.pop(0)
        drop = sorted(strip["ranking"][:count])
        self.values[self.ids["strip"]] = {**strip, "drop": drop}
        self.values[self.ids["drop"]] = count
        self.chain(settled)

    def chain(self, *functions: dict) -> None:
        for function in functions:
            self.fire(function)

    def fire(self, function: dict) -> None:
        """Raises RuntimeError where the event fails."""
        data = [self.values.get(number) for number in function["inputs"]]
        body = {
            "data": data,
            "fn_index": function["id"],
            "session_hash": self.visitor.session,
            "event_data": {},
            "trigger_id": None,
        }
        if not function["queue"]:
            answer = self.visitor.http.post("/gradio_api/run/predict", json=body)
            answer.raise_for_status()
            return
        answer = self.visitor.http.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        self.listen(function, answer.json()["event_id"])

    def listen(self, function: dict, event: str) -> None:
        """Takes what an event sends, as the page does: whole values first, then what changed."""
        from gradio_client.utils import apply_diff

        session = {"session_hash": self.visitor.session}
        sent: list = []
        with self.visitor.http.stream("GET", "/gradio_api/queue/data", params=session) as answer:
            for line in answer.iter_lines():
                self.bytes += len(line)
                message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                if message["msg"] == "process_generating":
                    data = message["output"]["data"]
                    pairs = zip(sent, data, strict=True)
                    sent = [apply_diff(old, new) for old, new in pairs] if sent else data
                    self.take(function, sent)
                elif message["msg"] == "process_completed" and message["event_id"] == event:
                    if not message["success"]:
                        raise RuntimeError(f"{function['id']}: {message['output']}")
                    self.take(function, message["output"]["data"])
                elif message["msg"] == "close_stream":
                    return
        raise RuntimeError("the stream ended early")

    def take(self, function: dict, values: list) -> None:
        for number, value in zip(function["outputs"], values, strict=True):
            update = isinstance(value, dict) and value.get("__type__") == "update"
            if not update or "value" in value:
                self.values[number] = value["value"] if update else value


def visit(url: str, pipe) -> None:
    """Answers ("turn", picture, layers) and ("step", name) with the bytes that came."""
    guest, steps = Guest(url), {}
    while True:
        wanted = pipe.recv()
        if wanted[0] == "leave":
            guest.visitor.leave()
            return
        before = guest.bytes
        try:
            if wanted[0] == "turn":
                steps = guest.steps(*wanted[1:])
            else:
                steps[wanted[1]]()
            pipe.send(guest.bytes - before)
        except Exception as error:  # raised again by the one who measures
            pipe.send(error)


# ------------------------------------------------------------------------------ the server
class Ledger:
    """Processor seconds of this process by cause. A part that is timed within another one counts
    as itself alone.

    loop: the thread of the event loop.
    """

    def __init__(self) -> None:
        self.loop: threading.Thread | None = None
        self.profilers: dict[str, list] | None = None  # by kind of thread, where wanted
        self._spent: Counter[str] = Counter()
        self._timed_in: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._here = threading.local()

    @contextmanager
    def timed(self, cause: str):
        inside = self._here.__dict__.setdefault("inside", [])
        began = time.thread_time()
        inside.append(0.0)
        try:
            yield
        finally:
            spent, within = time.thread_time() - began, inside.pop()
            if inside:
                inside[-1] += spent
            with self._lock:
                self._spent[cause] += spent - within
                if not inside:
                    self._timed_in[self._kind(threading.current_thread())] += spent

    def counted(self, cause: str, function: Callable) -> Callable:
        @wraps(function)
        def call(*given, **named):
            with self.timed(cause):
                return function(*given, **named)

        return call

    def passes(self, call: Callable) -> Callable:
        """`torch.nn.Module.__call__`, of which the outermost of each thread is timed."""
        here = self._here

        def outermost(module, *given, **named):
            if getattr(here, "passing", False):
                return call(module, *given, **named)
            here.passing = True
            try:
                with self.timed("model"):
                    return call(module, *given, **named)
            finally:
                here.passing = False

        return outermost

    def task(self, work: Callable) -> Callable:
        """A visitor's piece of work, in its own thread."""

        def call(task):
            with self.profiled("task"), self.timed("task"):
                return work(task)

        return call

    @contextmanager
    def profiled(self, kind: str):
        if self.profilers is None:
            yield
            return
        with cProfile.Profile(time.thread_time) as profiler:
            yield
        self.profilers.setdefault(kind, []).append(profiler)

    def now(self) -> Counter[str]:
        """Processor seconds so far, by cause; "all" of the process."""
        found = Counter(self._spent)
        for thread in threading.enumerate():
            kind = self._kind(thread)
            if kind and thread.ident:
                clock = time.pthread_getcpuclockid(thread.ident)
                found[kind] += time.clock_gettime(clock)
        found.subtract({kind: self._timed_in[kind] for kind in ("handlers", "loop")})
        found["all"] = time.process_time()
        return found

    def _kind(self, thread: threading.Thread) -> str:
        """The cause that a lasting thread's time counts as, "" for any other."""
        if thread is self.loop:
            return "loop"
        return "handlers" if thread.name.startswith("AnyIO worker") else ""


def watch(ledger: Ledger) -> None:
    """Has the ledger count what this process does from now on."""
    import torch

    import svl_core as svl
    from svl_core.service.workspace import Workspace
    from svl_core.ui.wiring import Page

    torch.nn.Module.__call__ = ledger.passes(torch.nn.Module.__call__)
    svl.prune = ledger.counted("prune", svl.prune)
    Page.redraw = ledger.counted("draw", Page.redraw)
    run = Workspace.work

    def work(self, body, *given, **named):
        return run(self, ledger.task(body), *given, **named)

    Workspace.work = work


def profile(page, ledger: Ledger, body: Callable[[], None], folder: Path) -> None:
    """Runs `body` under a profiler for each kind of thread, and writes what they found."""
    loops, push = [], page._queue.push
    profiler = cProfile.Profile(time.thread_time)

    async def first(*given, **named):
        if not loops:
            loops.append(asyncio.get_running_loop())
            profiler.enable()
        return await push(*given, **named)

    page._queue.push, ledger.profilers = first, {}
    body()
    ended = threading.Event()
    loops[0].call_soon_threadsafe(lambda: (profiler.disable(), ended.set()))
    ended.wait()
    ledger.profilers["loop"] = [profiler]
    folder.mkdir(parents=True, exist_ok=True)
    for kind, profilers in ledger.profilers.items():
        found = pstats.Stats(profilers[0])
        for each in profilers[1:]:
            found.add(each)
        found.dump_stats(folder / f"{kind}.prof")
    page._queue.push, ledger.profilers = push, None


def pictures(count: int, seed: int) -> list[bytes]:
    """PNG files of scenes."""
    from svl_core.demo.questions import labelled

    made = []
    for one in labelled(count, seed):
        file = io.BytesIO()
        one.image.save(file, "PNG")
        made.append(file.getvalue())
    return made


def measure(turns: int, seed: int, folder: Path | None = None) -> dict:
    """{"steps": {step: {cause: milliseconds, "all": .., "kb": sent}}, ..}: medians over `turns`."""
    import torch

    from svl_core.service.limits import PUBLIC
    from svl_core.ui import build, launch_options

    torch.set_num_threads(1)
    ledger = Ledger()
    watch(ledger)
    page = build("demo", limits=PUBLIC)
    options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1"}
    _, url, _ = page.launch(**options, **launch_options(PUBLIC))
    page.workspace.models.request("demo").result()
    ledger.loop = page.server.thread
    here, there = Pipe()
    guest = get_context("spawn").Process(target=visit, args=(url, there), daemon=True)
    guest.start()

    def asked(*wanted) -> int:
        here.send(wanted)
        answer = here.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    found: dict[str, list[Counter]] = {step: [] for step in STEPS}

    def turn(number: int) -> None:
        asked("turn", files[number], [COUNTS[number % len(COUNTS)]])
        for step in STEPS:
            before = ledger.now()
            sent = asked("step", step)
            time.sleep(SETTLE_S)
            after = ledger.now()
            after.subtract(before)
            found[step].append(after + Counter({"kb": sent / 1e6}))

    files = pictures(WARM_UP + 2 * turns, seed)
    for number in range(WARM_UP + turns):
        turn(number)
    before = time.process_time()
    time.sleep(IDLE_S)
    idle = (time.process_time() - before) / IDLE_S
    made = {
        "steps": {step: medians(counted[WARM_UP:]) for step, counted in found.items()},
        "idle_ms_per_s": round(1000 * idle, 1),
        "turns": turns,
        "prompt": PROMPT,
        "time": "processor time of the server, one torch thread",
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    if folder:
        numbers = range(WARM_UP + turns, WARM_UP + 2 * turns)
        profile(page, ledger, lambda: [turn(number) for number in numbers], folder)
    here.send(("leave",))
    guest.join(10)
    page.close(verbose=False)
    return made


def medians(counted: list[Counter]) -> dict[str, float]:
    """Milliseconds (of "kb", thousands of bytes) of each cause; "other" is what is left of all."""
    out = {}
    for each in counted:
        each["other"] = each["all"] - sum(each[cause] for cause in CAUSES if cause != "other")
    for cause in (*CAUSES, "all", "kb"):
        out[cause] = round(1000 * statistics.median(each[cause] for each in counted), 1)
    out["beside"] = round(
        1000 * statistics.median(each["all"] - each["model"] for each in counted), 1
    )
    return out


# ------------------------------------------------------------------------------ the page
def table(made: dict) -> str:
    """The figures as Markdown: by step, and by cause of all steps together."""
    before, after = made["before"]["steps"], made["after"]["steps"]
    lines = [
        "| step | passes of the model | beside them, before | beside them, now | now / before |",
        "| --- | --- | --- | --- | --- |",
    ]
    for step, title in STEPS.items():
        old, new = before[step]["beside"], after[step]["beside"]
        model = after[step]["model"]
        lines.append(
            f"| {title} | {model:.0f} ms | {old:.0f} ms | {new:.0f} ms | {new / old:.2f} |"
        )
    old, new = (sum(step["beside"] for step in steps.values()) for steps in (before, after))
    model = sum(step["model"] for step in after.values())
    lines += [
        f"| all of them | {model:.0f} ms | {old:.0f} ms | {new:.0f} ms | {new / old:.2f} |",
        "",
        "| all steps together, by cause | before | now |",
        "| --- | --- | --- |",
    ]
    for cause, title in CAUSES.items():
        old, new = (sum(step[cause] for step in steps.values()) for steps in (before, after))
        lines.append(f"| {title} | {old:.0f} ms | {new:.0f} ms |")
    old, new = (made[kept]["idle_ms_per_s"] for kept in ("before", "after"))
    lines.append(f"| a second in which nobody asks anything | {old:.0f} ms | {new:.0f} ms |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--keep", default="after", choices=("before", "after"))
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name, value in app.THREADS.items():
        os.environ.setdefault(name, value)
    found = measure(options.turns, options.seed, options.profile)
    made = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    made[options.keep] = found
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["steps"]), found["idle_ms_per_s"], "ms a second when idle")
    if {"before", "after"} <= made.keys():
        rewrite(PAGE, BEGIN, END, table(made))


if __name__ == "__main__":
    main()
