"""What a model of seven billion parameters costs on a GPU: `python tests/benchmarks/gpu.py` ->
results/gpu.json.

LLaVA-1.5-7B's and Qwen2-VL-7B's shapes with random weights in bfloat16 (`real_models.py`): what a
model answers means nothing, what it costs is what the released one costs. Measured are the analysis
pass against a plain pass, the speed-up of a pruned model against the share of its layers, both
answers side by side, a sweep, and refit at its full width. Each figure is saved as soon as it is
made, and the same command goes on where it stopped; --minutes ends it before a lent machine does.

The figures are yet to be made: this script has run on a CPU alone, at tiny size (`--tiny --device
cpu`, nothing of which is a result), and nothing of this project is known to work on a GPU until it
has run there. So results/ holds no gpu.json, and no document quotes one.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("", "families"))

import torch
from marks import PAGES
from real_models import FULL, RELEASED, build, photograph

import svl_core as svl
from svl_core.comparison.speed import measure_speedup
from svl_core.comparison.sweep import sweep
from svl_core.errors import InputError

RESULTS = PAGES / "gpu.json"
MODELS = ("llava7b", "qwen2vl7b")
PICTURE, SMALL_PICTURE = (1600, 1200), (120, 90)  # pixels
QUESTION = "how many apples are there , and where is the guitar ?"
TOKENS = 16  # of every answer
REPEATS = 5  # timed passes of each kind, after one that is not
DROPPED = 0.25  # of the layers
FITTED = 8  # pictures that refit is fitted on
GB = 1e9


# ---------------------------------------------------------------------------------- meters
@dataclass(frozen=True)
class Cost:
    """What some work took.

    seconds: of the clock, until the device was done.
    peak_gb: memory of the device at its fullest, above what it held before; None on a CPU.
    """

    seconds: float
    peak_gb: float | None


def cost_of(work: Callable[[], object], device: torch.device) -> Cost:
    """Runs `work` once and measures it."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return Cost(time.perf_counter() - began, None)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return Cost(seconds, (torch.cuda.max_memory_allocated() - held) / GB)


def median_cost(work: Callable[[], object], device: torch.device) -> dict:
    """The median time and the highest peak of `REPEATS` runs after one that warms up."""
    work()
    costs = [cost_of(work, device) for _ in range(REPEATS)]
    peaks = [cost.peak_gb for cost in costs if cost.peak_gb is not None]
    return {
        "seconds": statistics.median(cost.seconds for cost in costs),
        "peak_gb": max(peaks, default=None),
    }


# -------------------------------------------------------------------------------- measures
class Bench:
    """One model with what the measures share.

    lvlm: the full model.
    tiny: whether this is a trial of the code.
    """

    def __init__(self, lvlm: svl.LVLM, tiny: bool) -> None:
        self.lvlm = lvlm
        self.size = SMALL_PICTURE if tiny else PICTURE

    def sample(self, seed: int = 0) -> svl.Sample:
        """A picture that nobody has seen, with the question."""
        return self.lvlm.encode(photograph(*self.size, seed), QUESTION)

    @cached_property
    def asked(self) -> svl.Sample:
        return self.sample()

    @cached_property
    def plan(self) -> svl.DropPlan:
        """The most redundant quarter of the layers."""
        scores = svl.redundancy(svl.trace(self.lvlm, self.asked))
        return svl.plan(scores, round(DROPPED * self.lvlm.num_layers))

    def cost(self, work: Callable[[], object]) -> Cost:
        return cost_of(work, self.lvlm.device)


def analysis(bench: Bench) -> dict:
    """The analysis pass against a plain pass of transformers over the same prompt."""
    lvlm, sample = bench.lvlm, bench.asked

    @torch.inference_mode()
    def plain() -> None:
        lvlm.model(**sample.inputs, use_cache=False)

    plain_cost = median_cost(plain, lvlm.device)
    traced_cost = median_cost(lambda: svl.trace(lvlm, sample), lvlm.device)
    return {
        "positions": sample.length,
        "visual": len(sample.visual),
        "plain": plain_cost,
        "analysis": traced_cost,
        "ratio": traced_cost["seconds"] / plain_cost["seconds"],
    }


def speed(bench: Bench) -> dict:
    """A pruned model's measured speed-up beside the share of its layers and the counted work."""
    pruned = svl.prune(bench.lvlm, bench.plan)
    found = measure_speedup(bench.lvlm, pruned, bench.asked, tokens=TOKENS, repeats=REPEATS)
    parts = {"prefill": found.prefill, "decode": found.decode, "total": found.total}
    made: dict = {"layers": bench.lvlm.num_layers, "dropped": len(bench.plan.drop)}
    made["share"] = bench.lvlm.num_layers / pruned.num_layers
    for name, part in parts.items():
        made[name] = {
            "measured": part.measured,
            "expected": part.expected,
            "noise": part.noise,
        }
    return made


def side_by_side(bench: Bench) -> dict:
    """Both answers with all figures of fidelity, against one `generate` of the full model."""
    lvlm, sample = bench.lvlm, bench.asked
    pruned = svl.prune(lvlm, bench.plan)
    length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    plain = median_cost(
        lambda: lvlm.model.generate(**sample.inputs, do_sample=False, **length), lvlm.device
    )
    both = median_cost(
        lambda: svl.compare(lvlm, pruned, sample, max_new_tokens=TOKENS), lvlm.device
    )
    return {
        "tokens": TOKENS,
        "generate": plain,
        "both": both,
        "ratio": both["seconds"] / plain["seconds"],
    }


def swept(bench: Bench) -> dict:
    """SCP at every second number of dropped layers, ranked, fitted and measured on one picture."""
    sample, most = bench.sample(1), bench.lvlm.num_layers // 2
    drops = range(2, most + 1, 2)

    def run() -> None:
        sweep(
            bench.lvlm,
            [sample],
            [sample],
            svl.Recipe(compensation="scp"),
            drops=drops,
            max_new_tokens=TOKENS,
            repeats=1,
            allow_shared=True,
        )

    cost = bench.cost(run)
    return {"rows": len(drops), "seconds": cost.seconds, "peak_gb": cost.peak_gb}


def refitted(bench: Bench) -> dict:
    """Refit at the model's own width: the passes over the calibration pictures, then the fit."""
    samples = [bench.sample(10 + number) for number in range(FITTED)]
    traces = []
    tracing = bench.cost(lambda: traces.append(svl.trace(bench.lvlm, samples, mlp=True)))
    pruned = []
    try:
        fitting = bench.cost(
            lambda: pruned.append(svl.prune(bench.lvlm, bench.plan, "refit", traces[0]))
        )
    except InputError as refusal:  # said of the family, and a result too
        return {"refused": str(refusal)}
    return {
        "width": bench.lvlm.hidden_size,
        "pictures": FITTED,
        "layers": len(pruned[0].provenance["compensation"]["layers"]),
        "tracing_s": tracing.seconds,
        "seconds": fitting.seconds,
        "peak_gb": fitting.peak_gb,
    }


MEASURES: dict[str, Callable[[Bench], dict]] = {
    "analysis": analysis,
    "speed": speed,
    "side by side": side_by_side,
    "sweep": swept,
    "refit": refitted,
}
"""By name, in the order in which they are made: what is cheap and asked for first comes first."""


# ------------------------------------------------------------------------------ everything
def measure(options: argparse.Namespace) -> dict:
    """All that `options` ask for and the results file does not hold yet."""
    device = torch.device(options.device)
    began = time.monotonic()
    made = _begun(options, device)
    for name in options.model:
        lacking = [key for key in MEASURES if f"{name}: {key}" not in made["measures"]]
        if not lacking:
            continue
        lvlm = build(name, FULL, device, torch.bfloat16, options.tiny)
        made["parameters"][name] = lvlm.num_parameters
        bench = Bench(lvlm, options.tiny)
        for key in lacking:
            if time.monotonic() - began > 60 * options.minutes:
                print(f"Stopped before {name}: {key}; the same command goes on.", flush=True)
                return made
            _measure_one(made, f"{name}: {key}", MEASURES[key], bench)
            _save(options.out, made)
        del lvlm, bench
        gc.collect()  # before the next model is made
    return made


def _measure_one(made: dict, key: str, work: Callable[[Bench], dict], bench: Bench) -> None:
    """Makes one measure. One that fails is told and written down, so that the others are still
    made; the same command tries it again.
    """
    try:
        found = work(bench)
    except Exception as failure:
        traceback.print_exc()
        made["failures"][key] = f"{type(failure).__name__}: {failure}"[:500]
        return
    made["failures"].pop(key, None)
    made["measures"][key] = found
    print(key, json.dumps(found), flush=True)


def _begun(options: argparse.Namespace, device: torch.device) -> dict:
    """What the results file holds of this device, size and version, or nothing yet."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    settings = {
        "device": where,
        "tiny": options.tiny,
        "dtype": "bfloat16",
        "torch": torch.__version__,
        "svl_core": svl.__version__,
    }
    if options.out.exists():
        made = json.loads(options.out.read_text(encoding="utf-8"))
        if {name: made.get(name) for name in settings} == settings:
            return made
    return {**settings, "parameters": {}, "measures": {}, "failures": {}}


def _save(out: Path, made: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".tmp")
    unfinished.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(out)


# ---------------------------------------------------------------------------------- results
def table(made: dict) -> str:
    """What was measured as Markdown, a column for each model."""
    names = list(made["parameters"])
    heads = [f"{RELEASED[name].title}, {made['parameters'][name] / GB:.1f} B" for name in names]
    lines = [("", *heads), ("---", *["---"] * len(names))]
    for key, say in SAID.items():
        cells = []
        for name in names:
            found = made["measures"].get(f"{name}: {key}")
            failed = made["failures"].get(f"{name}: {key}", "-")
            cells.append(failed if found is None else found.get("refused") or say(found))
        lines.append((key, *cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _analysis(found: dict) -> str:
    plain, traced = found["plain"], found["analysis"]
    return (
        f"{found['ratio']:.2f}x a plain pass over {found['positions']} positions"
        f" ({_cost(traced)} against {_cost(plain)})"
    )


def _speed(found: dict) -> str:
    total, gone = found["total"], f"{found['dropped']} of {found['layers']} gone"
    noise = f"; noise: {total['noise']}" if total["noise"] else ""
    return (
        f"{total['measured']:.2f}x measured, {total['expected']:.2f}x by work,"
        f" {found['share']:.2f}x by layers, {gone}{noise}"
    )


def _side_by_side(found: dict) -> str:
    return (
        f"{found['ratio']:.2f}x one `generate` of {found['tokens']} tokens ({_cost(found['both'])}"
        f" against {_cost(found['generate'])})"
    )


def _swept(found: dict) -> str:
    return f"{_cost(found)} for {found['rows']} rows"


def _refitted(found: dict) -> str:
    return (
        f"{_cost(found)} for {found['layers']} layers of width {found['width']:,} on"
        f" {found['pictures']} pictures, after {found['tracing_s']:.3g} s of tracing"
    )


def _cost(part: dict) -> str:
    seconds = f"{part['seconds']:.3g} s"
    return seconds if part["peak_gb"] is None else f"{seconds}, {part['peak_gb']:.2f} GB"


SAID: dict[str, Callable[[dict], str]] = {
    "analysis": _analysis,
    "speed": _speed,
    "side by side": _side_by_side,
    "sweep": _swept,
    "refit": _refitted,
}
"""How each measure reads in the table."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument(
        "--minutes", type=float, default=14, help="no measure begins later (default: %(default)s)"
    )
    parser.add_argument("--tiny", action="store_true", help="a trial in seconds; nothing is meant")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args(given)
    if options.out == RESULTS and (options.tiny or options.device == "cpu"):
        raise SystemExit(
            "Found a trial without --out; expected another file; only a GPU's figures are results."
        )
    return options


def main() -> None:
    made = measure(arguments())
    print(table(made))


if __name__ == "__main__":
    main()
