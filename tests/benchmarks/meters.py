"""How far a speed-up can be trusted: `python tests/benchmarks/meters.py` -> results/meters.json and
results/speed.md.

First the speed-up that counted work lets one expect, beside that of one thread's processor time,
which other work on the machine hardly moves: on the bundled model, and on a LLaVA of 12 layers x
768 with random weights at 640 positions. Then answers of the bundled model, full and without 5 of
16 layers, on the clock, beside nothing and beside two busy processes; each full one is put against
each pruned one of the same threads, as two answers that were timed at different moments are. A
speed-up is right to within 15 % of the processor time's, and wrong from 25 % on; the table says
how many of each are shown and marked as noise by the limits alone and with each bound of scatter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from unittest.mock import patch

from marks import PAGES, rewrite

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
RESULTS = HERE / "results" / "meters.json"
BEGIN, END = "<!-- meters: tests/benchmarks/meters.py -->", "<!-- end of meters -->"
RIVAL = """
import random, time
while True:
    until = time.time() + random.expovariate(2)
    while time.time() < until:
        sum(range(20000))
    time.sleep(random.expovariate(3))
"""
RIVALS, THREADS = (0, 2), (1, 2)
BOUNDS = (0.15, 0.25, 0.35, 0.5, None)
TOKENS = 16
DROPPED = (6, 7, 8, 9, 10)  # of the bundled model's 16 layers
RIGHT, WRONG = 0.15, 0.25

Timed = tuple[float, list[float]]
"""Seconds of the prefill, and of each later token."""


def timed(lvlm, sample, clock: Callable[[], float]) -> Timed:
    import torch

    from svl_core.lvlm.decoding import Decoding, greedy

    began = clock()
    decoding = Decoding(lvlm, sample.inputs)
    token = int(greedy(decoding.logits))
    prefill = clock() - began
    later = []
    for _ in range(TOKENS):
        began = clock()
        decoding.feed(torch.tensor([[token]]))
        int(greedy(decoding.logits))
        later.append(clock() - began)
    return prefill, later


def without(lvlm, dropped) -> object:
    import svl_core as svl

    return svl.pruned_view(lvlm, [k for k in range(lvlm.num_layers) if k not in dropped])


def bundled():
    import svl_core as svl
    from svl_core.demo.questions import calibration

    lvlm = svl.load("demo")
    return lvlm, lvlm.encode(*calibration(1)[0])


def counted(repeats: int) -> list[dict]:
    """Counted work beside processor time: the least of the prefills, the median of the tokens."""
    from analysis_pass import model_and_sample

    from svl_core.comparison.speed import possible

    narrow = model_and_sample("12 layers x 768", 640)
    rows = []
    for name, (lvlm, sample), drops in (
        ("bundled model", bundled(), ((6, 7, 8), DROPPED, tuple(range(4, 12)))),
        ("12 layers x 768", narrow, ((7, 8, 9), tuple(range(4, 10)))),
    ):
        for dropped in drops:
            pruned = without(lvlm, dropped)
            rounds = [
                (timed(lvlm, sample, time.process_time), timed(pruned, sample, time.process_time))
                for _ in range(repeats + 1)
            ][1:]
            prefill, decode = possible((lvlm, sample), (pruned, sample))
            full, less = zip(*rounds, strict=True)
            row = {
                "model": name,
                "dropped": len(dropped),
                "layers": lvlm.num_layers,
                "prefill": min(p for p, _ in full) / min(p for p, _ in less),
                "prefill_expected": prefill.expected,
                "decode": middle(full) / middle(less),
                "decode_expected": decode.expected,
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def middle(answers) -> float:
    """The median of all tokens of several answers."""
    return median(seconds for _, later in answers for seconds in later)


@contextmanager
def beside(rivals: int):
    """While this many other processes come and go."""
    busy = [subprocess.Popen([sys.executable, "-c", RIVAL]) for _ in range(rivals)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def recorded(rounds: int) -> dict[int, list[tuple[Timed, Timed]]]:
    """By number of threads (full, pruned) answers on the clock, under every load."""
    import torch

    lvlm, sample = bundled()
    pruned = without(lvlm, DROPPED)
    found: dict[int, list] = {threads: [] for threads in THREADS}
    for threads, rivals in product(THREADS, RIVALS):
        torch.set_num_threads(threads)
        with beside(rivals):
            for _ in range(rounds):
                pair = [timed(model, sample, time.perf_counter) for model in (lvlm, pruned)]
                found[threads].append(tuple(pair))
        print(f"{threads} threads, {rivals} rivals", flush=True)
    torch.set_num_threads(1)
    return found


def marked(found: dict, true: float) -> list[dict]:
    """For each bound of scatter what is shown, of all and of the right ones, and what is wrong.

    true: the speed-up of a token.
    """
    from svl_core.comparison import speed

    lvlm, sample = bundled()
    _, allowed = speed.possible((lvlm, sample), (without(lvlm, DROPPED), sample))
    pairs = [
        (full[1], pruned[1])
        for answers in found.values()
        for (full, _), (_, pruned) in product(answers, answers)
    ]
    rows = []
    for bound in BOUNDS:
        with patch.object(speed, "SPREAD", float("inf") if bound is None else bound):
            judged = [speed.compared(*pair, allowed) for pair in pairs]
        errors = [abs(each.measured / true - 1) for each in judged]
        shown = [each.noise is None for each in judged]
        of = list(zip(shown, errors, strict=True))
        rows.append(
            {
                "bound": bound,
                "pairs": len(pairs),
                "right_shown": share([seen for seen, error in of if error < RIGHT]),
                "wrong_marked": share([not seen for seen, error in of if error > WRONG]),
                "shown_error_median": median([error for seen, error in of if seen] or [0.0]),
            }
        )
        print(rows[-1], flush=True)
    return rows


def share(flags: list[bool]) -> float:
    return sum(flags) / max(1, len(flags))


def table(made: dict) -> str:
    lines = [
        "| dropped | prefill: processor time / expected of the work | later tokens |",
        "| --- | --- | --- |",
    ]
    for row in made["counted"]:
        first, later = (
            f"{row[part]:.2f}x / {row[f'{part}_expected']:.2f}x" for part in ("prefill", "decode")
        )
        what = f"{row['dropped']} of {row['layers']}, {row['model']}"
        lines.append(f"| {what} | {first} | {later} |")
    lines += [
        "",
        "| times may scatter by | right shown | wrong marked | median error of those shown |",
        "| --- | --- | --- | --- |",
    ]
    for row in made["marked"]:
        bound = "anything" if row["bound"] is None else f"{row['bound']:.0%}"
        lines.append(
            f"| {bound} | {row['right_shown']:.0%} | {row['wrong_marked']:.0%} |"
            f" {row['shown_error_median']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="of the counted work")
    parser.add_argument("--rounds", type=int, default=12, help="answers under each load")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    counts = counted(options.repeats)
    five = next(row for row in counts if row["dropped"] == len(DROPPED))
    made = {
        "counted": counts,
        "marked": marked(recorded(options.rounds), five["decode"]),
        "cores": os.cpu_count(),
    }
    RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    rewrite(PAGES / "speed.md", BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
