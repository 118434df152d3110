"""Memory against the size of the calibration set: `python tests/benchmarks/calibration_memory.py`
-> results/calibration_memory.json and results/speed.md.

The bundled model on 25, 100 and 400 scenes: encoded, traced (MLP outputs too), ranked by SVL and by
LLM-Streamline, 4 layers dropped and compensated by SCP and by least squares, the full model's
predictions of the true answers kept. Each in a process of its own, with all of it in memory and in
files (`spool`); counted is the most of anonymous memory, every 10 ms, above what there was with the
model loaded and one scene gone through. Pages of files do not count: they go when others want the
room. Freed blocks of 64 kB and more go back to the system at once here (MALLOC_MMAP_THRESHOLD_), so
that what is counted is in use.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
from pathlib import Path

from marks import PAGES, rewrite

HERE = Path(__file__).parent
BEGIN = "<!-- calibration: tests/benchmarks/calibration_memory.py -->"
END = "<!-- end of calibration -->"
RESULTS = HERE / "results" / "calibration_memory.json"

SIZES = (25, 100, 400)
"""Calibration samples."""

DROP = 4
"""Layers dropped."""

BATCH = 8
"""Samples in one pass of the predictions."""


def work(lvlm, size: int, spool: str | None) -> list:
    """Everything that is made of a calibration set; returned so that it is alive together."""
    import svl_core as svl
    from svl_core.comparison.calibration import encode_all
    from svl_core.demo.questions import calibration
    from svl_core.lvlm.forcing import forced_logits

    scenes = calibration(size)
    samples = encode_all(lvlm, scenes, spool=spool)
    trace = svl.trace(lvlm, samples, mlp=True, spool=spool)
    importance = svl.importance(trace)
    scores = [svl.redundancy(trace, importance, name) for name in ("svl", "streamline")]
    pruned = [
        svl.prune(lvlm, svl.plan(scores[0], DROP), name, trace, importance)
        for name in ("scp", "lstsq")
    ]
    answers = [lvlm.tokenizer(scene.answer)["input_ids"] for scene in scenes]
    return [
        samples,
        trace,
        importance,
        scores,
        pruned,
        forced_logits(lvlm, samples, answers, batch_size=BATCH, spool=spool),
    ]


def anonymous() -> int:
    """Bytes of this process that are no file's (Linux)."""
    return next(
        1024 * int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )


def measured(size: int, spool: str | None, pipe) -> None:
    """In a process of its own: the most bytes beyond those before."""
    import torch

    import svl_core as svl

    torch.set_num_threads(1)
    lvlm = svl.load("demo")
    done = threading.Event()
    most = 0
    work(lvlm, 1, spool)
    before = anonymous()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    results = work(lvlm, size, spool)
    done.set()
    watching.join()
    del results
    pipe.send({"samples": size, "spooled": spool is not None, "mb": (most - before) / 1e6})


def table(rows: list[dict]) -> str:
    """The page's figures as Markdown."""
    megabytes = {(row["samples"], row["spooled"]): row["mb"] for row in rows}
    sizes = sorted({row["samples"] for row in rows})
    lines = [
        "| calibration samples | " + " | ".join(map(str, sizes)) + " |",
        "| --- |" + " --- |" * len(sizes),
    ]
    for name, spooled in (("in memory", False), ("in files (`--spool`)", True)):
        cells = [f"{megabytes[size, spooled]:,.0f} MB" for size in sizes]
        lines.append(f"| memory added, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=SIZES,
        help="calibration samples (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    options = parser.parse_args()
    # read by the processes started below
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    context = multiprocessing.get_context("spawn")
    rows = []
    for size in options.sizes:
        for spooled in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                here, there = context.Pipe()
                process = context.Process(
                    target=measured, args=(size, folder if spooled else None, there)
                )
                process.start()
                rows.append(here.recv())
                process.join()
            print(json.dumps(rows[-1]), flush=True)
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    if options.out == RESULTS:
        rewrite(PAGES / "speed.md", BEGIN, END, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
