"""Two thousand analyses in one process: `python tests/benchmarks/soak.py [--analyses 2000]` ->
results/soak.json and results/public_server.md.

Sessions come, bring pictures, analyse them, now and then let both models answer, and leave: through
the page's own handlers, with the public limits. Whatever grows with their number is a leak: memory,
Python objects, threads, open files, stored files. The short version is in tests/space/test_load.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "space")]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from marks import PAGES, between  # noqa: E402
from served import slope  # noqa: E402

RESULTS, PAGE = HERE / "results" / "soak.json", PAGES / "public_server.md"
BEGIN, END = "<!-- soak: tests/benchmarks/soak.py -->", "<!-- end of soak -->"
STAY, COMPARE_EVERY, MEASURE_EVERY, PROMPT = (
    5,
    10,
    50,
    "describe the picture.",
)  # analyses a session makes; both answers at each tenth
WARM = 0.25  # share of the analyses after which nothing may grow


def measured(folder: Path, workspace, others: set[threading.Thread]) -> dict[str, float]:
    """others: threads that are not the soak's; one of them may end at any time."""
    own = set(threading.enumerate()) - others
    for thread in own:
        if thread.name == "svl-task":
            thread.join(5)  # its result is there, and it is about to end
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "mb": int(status["VmRSS"].split()[0]) / 1000,
        "objects": len(gc.get_objects()),
        "threads": len(set(threading.enumerate()) - others),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "stored_files": sum(path.is_file() for path in folder.rglob("*")),
        "analyses_kept": len(workspace.analyses),
        "sessions": len(workspace.uploads),
    }


def soak(
    page,
    pictures,
    folder: Path,
    analyses: int,
    settings,
    every: int = MEASURE_EVERY,
    tell=lambda line: None,
) -> list[tuple[int, dict[str, float]]]:
    """(analyses done, measures) along the way.

    page: with all its steps, over a workspace. pictures: an iterator of PIL images.
    """
    from svl_core.ui.work.analysing import analyse
    from svl_core.ui.work.answering import compare

    workspace, samples = page.workspace, []
    workspace.uploads.brought = lambda path: True
    first, others = workspace.models.first, set(threading.enumerate())
    for number in range(analyses):
        request = SimpleNamespace(session_hash=f"session-{number // STAY}")
        place = folder / f"upload-{number}"
        place.mkdir()
        picture = place / "picture.png"
        next(pictures).save(picture)
        asked = first, str(picture), PROMPT, None, None, "", None, settings
        shown = {}
        for update in analyse(page, *asked, request=request):
            shown |= update
        if number % COMPARE_EVERY == 0:
            plan = shown["state"], shown["strip"], None, settings
            for update in compare(page, *plan, request=request):
                shown |= update
        if number % STAY == STAY - 1:
            workspace.leave(request.session_hash)
        if (number + 1) % every == 0:
            samples.append((number + 1, measured(folder, workspace, others)))
            tell(f"{number + 1} analyses: {samples[-1][1]}")
    return samples


def grown(samples: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """What each measure grows by in a thousand analyses, after warm-up."""
    warm = [sample for sample in samples if sample[0] > WARM * samples[-1][0]]
    return {
        name: round(1000 * slope([(at, found[name]) for at, found in warm]), 3)
        for name in samples[0][1]
    }


def measure(analyses: int, seed: int) -> dict:
    import numpy as np
    from unserved import unserved

    import svl_core as svl
    from svl_core.demo.scenes import random_scene, render
    from svl_core.service.stores import Models
    from svl_core.ui.state.settings import Settings

    rng = np.random.default_rng(seed)

    def pictures():
        while True:
            yield render(random_scene(rng))

    with tempfile.TemporaryDirectory(prefix="svl-soak-") as folder:
        page = unserved(Models(svl.load("demo")), {"demo"})
        os.environ["GRADIO_TEMP_DIR"] = folder
        began = time.monotonic()
        samples = soak(
            page,
            pictures(),
            Path(folder),
            analyses,
            Settings(max_new_tokens=16),
            tell=lambda line: print(line, flush=True),
        )
    return {
        "analyses": analyses,
        "seconds": round(time.monotonic() - began),
        "grown_per_1000": grown(samples),
        "first": samples[0][1],
        "warm": next(found for at, found in samples if at > WARM * analyses),
        "last": samples[-1][1],
    }


def with_figures(text: str, made: dict) -> str:
    """`text` with its sentence about the soak made anew."""
    found, last = made["grown_per_1000"], made["last"]
    line = (
        f"{made['analyses']:,} analyses of new pictures by {made['analyses'] // STAY} sessions in"
        f" one process: after warm-up, memory {found['mb']:+.1f} MB, Python objects"
        f" {found['objects']:+,.0f}, threads {found['threads']:+.1f} and open files"
        f" {found['open_files']:+.1f} for each thousand; {last['stored_files']} uploads and"
        f" {last['sessions']} sessions were left."
    )
    return between(text, BEGIN, END, line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--analyses", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = measure(options.analyses, options.seed)
    print(json.dumps(made, indent=1))
    if options.analyses == 2000:
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
