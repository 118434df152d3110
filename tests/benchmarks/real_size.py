"""What the page costs with models of real sizes: `python tests/benchmarks/real_size.py` ->
results/real_size.json and results/real_size.md.

Every step of the page is driven by its own handlers, figures and all, on a picture of 12 megapixels
in a JPEG file, with random weights at the true shapes of released models (`real_models.py`). It is
measured against one plain `generate` of transformers with the full model on the same inputs, in the
same run: in processor time of this process, user and system, all threads; on a GPU, where a
processor that waits tells nothing, in the clock's time. Passes of the vision tower are counted in
whole pictures. A point of the sweep or of the map that is measured alone has a picture of its own,
so that nothing kept from another one helps it.
"""

import argparse
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits is not to count

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.extend(str(Path(__file__).parents[1] / name) for name in ("", "families", "ui"))

import numpy as np
import torch
from marks import PAGES, between, rewrite
from PIL import Image
from real_models import FULL, ONE, RELEASED, build, photograph_file
from torch.nn.modules.module import register_module_forward_hook
from updates import LINK, last, page_of

import svl_core as svl
from svl_core.comparison.ablation import ablate
from svl_core.comparison.sweep import sweep
from svl_core.ui.state.settings import ACCEPTED, Settings
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.answering import compare
from svl_core.ui.work.ranking import plan_changed

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = PAGES / "real_size.json", PAGES / "real_size.md"
BEGIN, END = "<!-- sizes: tests/benchmarks/real_size.py -->", "<!-- end of sizes -->"
SECTIONS = ("before", "after")
STEPS, SWEEP, ABLATION = PARTS = ("steps", "sweep", "ablation")
CPU_MODELS = ("smolvlm", "onevision", "qwen2vl")

TOKENS = 16  # of every answer
DROPPED = 0.2  # of the layers, at first
MOVES = (-1, 1, -2)  # the slider's places in turn, counted from there
POINTS = 8  # drop counts of the sweep
ALONE = 3  # of the points are measured alone, unless all are asked for
QUESTIONS = (
    "what is in the top left of this picture ?",
    "how many apples are there , and where is the guitar ?",
    "a cat and a dog sit on the red chair .",
)
PICTURE = (4000, 3000)  # pixels
SMALL_PICTURE = (240, 180)
COUNTED = (torch.Tensor, np.ndarray, Image.Image, bytes, bytearray)  # as memory

AIMS = {
    "first": ("analysis and first two answers", {FULL: 1.4, ONE: 1.8}),
    "move": ("slider moved: figures and both answers", {FULL: 0.25, ONE: 0.65}),
    "question": ("another question on the same picture", {FULL: 0.45, ONE: 1.3}),
}
"""Steps in words, and the most that each may cost at a detail."""
MEMORY_AIM, TOGETHER_AIM = 1.3, 0.35


# ---------------------------------------------------------------------------------- meters
@dataclass(frozen=True)
class Spent:
    """What some work took.

    seconds: processor time, or the clock's where a GPU works.
    passes: of the vision tower, in whole pictures.
    """

    seconds: float
    passes: float


class Meter:
    """Measures work with a model: its time, and what enters its vision tower.

    tower: the tower's class, so that pruned views' towers count too.
    one_pass: numbers that enter it in one pass over one picture.
    """

    def __init__(self, device: torch.device, tower: type, one_pass: int) -> None:
        self.device, self.tower, self.one_pass = device, tower, one_pass
        self.entered = 0
        self._handle = register_module_forward_hook(self._called, with_kwargs=True)

    def _called(self, module: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        if type(module) is self.tower:
            values = (*args, *kwargs.values())
            pixels = next(value for value in values if isinstance(value, torch.Tensor))
            self.entered += pixels.numel()

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def spent(self, work: Callable[[], object]) -> Spent:
        entered, began = self.entered, self.now()
        work()
        return Spent(self.now() - began, (self.entered - entered) / self.one_pass)

    def close(self) -> None:
        self._handle.remove()


def held_bytes() -> int:
    """Bytes of all tensors, arrays, pictures and files' contents that anything in this process
    holds, each once.
    """
    gc.unfreeze()
    gc.collect()
    objects = gc.get_objects()
    values = objects + gc.get_referents(*objects)
    gc.freeze()
    kinds = {kind for kind in set(map(type, values)) if issubclass(kind, COUNTED)}
    sizes: dict[object, int] = {}
    for value in values:
        if type(value) in kinds:
            place, size = _memory_of(value)
            sizes[place] = max(size, sizes.get(place, 0))
    return sum(sizes.values())


def _memory_of(value) -> tuple[object, int]:
    """Where a thing lies and how many bytes it has there; a view is what it looks at."""
    if isinstance(value, (bytes, bytearray)):
        return id(value), len(value)
    if isinstance(value, Image.Image):
        return id(value), value.width * value.height * len(value.getbands())
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        return value.__array_interface__["data"][0], value.nbytes
    if value.device.type == "meta":
        return None, 0
    storage = value.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def left_behind(lvlm: svl.LVLM, positions: int, visual: int) -> int:
    """Bytes of hidden states, key/value caches and image features of one prompt."""
    text = lvlm.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    states = (lvlm.num_layers + 1) * positions * text.hidden_size
    caches = 2 * lvlm.num_layers * positions * text.num_key_value_heads * head
    features = visual * text.hidden_size
    return lvlm.dtype.itemsize * (states + caches + features)


# ------------------------------------------------------------------------- the plain model
def plain_inputs(lvlm: svl.LVLM, path: Path, question: str) -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of a picture and a question."""
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    message = {"role": "user", "content": parts}
    processor = lvlm.processor
    text = processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    with Image.open(path) as picture:
        inputs = processor(
            images=[[picture.convert("RGB")]],
            text=[text],
            add_special_tokens=False,
            return_tensors="pt",
        )
    return {
        name: value.to(lvlm.device, lvlm.dtype) if value.is_floating_point() else value
        for name, value in inputs.to(lvlm.device).items()
        if isinstance(value, torch.Tensor)
    }


def plain_answer(lvlm: svl.LVLM, inputs: dict[str, torch.Tensor]) -> None:
    """`generate` of the full model, as long as the page's answers."""
    length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    made = lvlm.model.generate(**inputs, do_sample=False, **length)
    assert made.shape[1] == inputs["input_ids"].shape[1] + TOKENS


# ------------------------------------------------------------------------------- the page
class Visit:
    """A visitor of the page, whose events its handlers get one after the other."""

    def __init__(self, lvlm: svl.LVLM, path: Path) -> None:
        self.page, self.model, self.path = page_of(lvlm), lvlm.name, str(path)
        full = {"detail": "full"} if "detail" in ACCEPTED else {}
        self.settings = Settings.of(
            compensation="scp", calibration="this", max_new_tokens=TOKENS, **full
        )
        self.state: dict | None = None
        self.strip: dict = {"drop": []}

    def analyse(self, question: str) -> None:
        """The button's event; as many layers go as before."""
        dropped = len(self.strip["drop"]) if self.state else None
        asked = (self.model, self.path, question, self.state, dropped, *LINK, self.settings)
        drawn = last(analyse(self.page, *asked))
        self.state, self.strip = drawn["state"], drawn["strip"]

    def drop(self, count: int) -> None:
        """What the browser does with the strip while the slider moves."""
        self.strip = {**self.strip, "drop": sorted(self.strip["ranking"][:count])}

    def answer(self) -> None:
        """Both models' answers with all that is drawn of them."""
        drawn = last(compare(self.page, self.state, self.strip, None, self.settings))
        for name in ("answer-full", "answer-pruned"):
            if f"{TOKENS} tokens" not in drawn[name]:
                raise SystemExit(f"Found an answer of another length in {name}; expected {TOKENS}.")

    def begin(self, count: int) -> None:
        """A new picture. count: layers that go."""
        self.analyse(QUESTIONS[0])
        self.drop(count)
        self.answer()

    def move(self, count: int) -> None:
        """The slider comes to rest at another number of layers."""
        self.drop(count)
        plan_changed(self.page, self.state, self.strip, self.settings)
        self.answer()

    def ask(self, question: str) -> None:
        """Another question on the same picture."""
        self.analyse(question)
        self.answer()

    @property
    def positions(self) -> int:
        """How many the page's model reads."""
        return self.page.workspace.analysis_of(self.state).sample.length


def steps(lvlm: svl.LVLM, path: Path, inputs: dict[str, torch.Tensor], meter: Meter) -> dict:
    """Every step of the page beside plain `generate`s before and after it, and the memory that is
    kept.

    inputs: what transformers makes of the picture and the first question.
    """
    positions = inputs["input_ids"].shape[1]
    visual = int((inputs["input_ids"] == lvlm.model.config.image_token_id).sum())
    plain = [meter.spent(lambda: plain_answer(lvlm, inputs))]
    count = round(DROPPED * lvlm.num_layers)
    opened = meter.spent(lambda: lvlm.encode(str(path), QUESTIONS[0]))

    visit, before = Visit(lvlm, path), held_bytes()
    first = [meter.spent(lambda: visit.analyse(QUESTIONS[0]))]
    if visit.positions != positions:
        raise SystemExit(f"Found {visit.positions} positions on the page; expected {positions}.")
    analysed = held_bytes() - before
    visit.drop(count)
    first.append(meter.spent(visit.answer))
    answered = held_bytes() - before
    places = [max(1, count + move) for move in MOVES]
    moves = [meter.spent(partial(visit.move, place)) for place in places]
    visit.drop(count)
    asked = [meter.spent(partial(visit.ask, question)) for question in QUESTIONS[1:]]
    plain.append(meter.spent(lambda: plain_answer(lvlm, inputs)))

    if any(each.passes != 1 for each in plain):
        raise SystemExit("Found a plain answer that reads the picture more or less than once.")
    one_answer = statistics.mean(each.seconds for each in plain)

    def step(*times: Spent, whole: bool = False) -> dict:
        """The median of some, or the sum of all."""
        over = sum if whole else statistics.median
        seconds = [each.seconds for each in times]
        passes = [each.passes for each in times]
        return {
            "seconds": [round(each, 2) for each in seconds],
            "ratio": round(over(seconds) / one_answer, 3),
            "vision_passes": round(over(passes), 2),
        }

    expected = left_behind(lvlm, positions, visual)
    return {
        "positions": positions,
        "visual": visual,
        "layers": lvlm.num_layers,
        "dropped": count,
        "plain_s": [round(each.seconds, 2) for each in plain],
        "picture_read_s": round(opened.seconds, 2),
        "first": step(*first, whole=True),
        "move": step(*moves),
        "question": step(*asked),
        "memory": {
            "expected_mb": round(expected / 1e6, 1),
            "analysed": round(analysed / expected, 3),
            "answered": round(answered / expected, 3),
        },
    }


# ------------------------------------------------------------------- sweep and ablation map
@dataclass(frozen=True, eq=False)
class OneLayer(svl.LVLM):
    """A model of which one layer may go, so that a map of it has one point."""

    layer: int = 0

    @property
    def protected(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.num_layers) if layer != self.layer)


Point = Callable[[svl.Sample], object]


def together(
    meter: Meter,
    whole: Point,
    points: Sequence[Point],
    fresh: Callable[[], svl.Sample],
    every: bool,
) -> dict:
    """All points in one run against each alone.

    fresh: encodes a picture that nobody has seen.
    every: whether all points are measured alone; else some of them stand for the others.
    """
    sample = fresh()
    at_once = meter.spent(lambda: whole(sample))
    chosen = range(len(points)) if every else np.linspace(0, len(points) - 1, ALONE).astype(int)
    alone = []
    for number in chosen:
        alone.append(meter.spent(partial(points[number], fresh())).seconds)
    sum_s = len(points) * statistics.mean(alone)
    return {
        "points": len(points),
        "alone_measured": len(alone),
        "together_s": round(at_once.seconds, 2),
        "alone_s": round(sum_s, 2),
        "ratio": round(at_once.seconds / sum_s, 3),
        "vision_passes": round(at_once.passes, 2),
    }


def swept(meter: Meter, lvlm: svl.LVLM, fresh: Callable[[], svl.Sample], every: bool) -> dict:
    """SCP at `POINTS` drop counts, fitted and measured on one picture."""
    most = lvlm.num_layers - 2  # the first and the last layer stay
    counts = range(1, min(POINTS, most) + 1)

    def run(sample: svl.Sample, drops: Sequence[int]) -> None:
        sweep(
            lvlm,
            [sample],
            [sample],
            svl.Recipe(compensation="scp"),
            drops=drops,
            max_new_tokens=TOKENS,
            repeats=1,
            allow_shared=True,
        )

    points = [lambda sample, count=count: run(sample, [count]) for count in counts]
    return together(meter, lambda sample: run(sample, counts), points, fresh, every)


def mapped(meter: Meter, lvlm: svl.LVLM, fresh: Callable[[], svl.Sample], every: bool) -> dict:
    """The ablation map of single layers, on one picture."""

    def run(model: svl.LVLM, sample: svl.Sample) -> None:
        ablate(model, [sample], sizes=(1,), max_new_tokens=TOKENS)

    def alone(layer: int) -> Point:
        one = OneLayer(lvlm.model, lvlm.processor, lvlm.family, lvlm.name, layer=layer)
        return lambda sample: run(one, sample)

    layers = [layer for layer in range(lvlm.num_layers) if layer not in lvlm.protected]
    points = [alone(layer) for layer in layers]
    return together(meter, lambda sample: run(lvlm, sample), points, fresh, every)


# ------------------------------------------------------------------------------ everything
def measure(name: str, detail: str, parts: Sequence[str], options) -> dict:
    """All that is asked for of one model at one detail."""
    released = RELEASED[name]
    device = torch.device(options.device)
    usual = released.dtype if device.type == "cpu" else "bfloat16"
    dtype = getattr(torch, options.dtype or usual)
    lvlm = build(name, detail, device, dtype, options.tiny, options.cache)
    tower = next(
        module for path, module in lvlm.model.named_modules() if path.endswith(released.tower)
    )
    size = SMALL_PICTURE if options.tiny else PICTURE
    with tempfile.TemporaryDirectory() as folder:
        drawn = 0

        def path() -> Path:
            nonlocal drawn
            drawn += 1
            return photograph_file(Path(folder), *size, seed=drawn)

        def fresh() -> svl.Sample:
            return lvlm.encode(str(path()), QUESTIONS[0])

        made: dict = {
            "model": released.title,
            "detail": detail,
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "parameters": lvlm.num_parameters,
        }
        first = path()
        inputs = plain_inputs(lvlm, first, QUESTIONS[0])
        meter = Meter(device, type(tower), inputs["pixel_values"].numel())
        try:
            if STEPS in parts:
                made |= steps(lvlm, first, inputs, meter)
            if SWEEP in parts:
                made[SWEEP] = swept(meter, lvlm, fresh, options.every_point)
            if ABLATION in parts:
                made[ABLATION] = mapped(meter, lvlm, fresh, options.every_point)
        finally:
            meter.close()
    return made


def warm_up(options) -> None:
    """Imports, first figures and first kernels, on the smallest model there is."""
    tiny = argparse.Namespace(**{**vars(options), "tiny": True, "every_point": False})
    measure("smolvlm", ONE, (STEPS,), tiny)


# ---------------------------------------------------------------------------------- results
def table(made: dict) -> str:
    """The page's figures as Markdown: a table for each state of the code that was measured."""
    parts = []
    for section in SECTIONS:
        if section in made:
            runs = list(made[section]["runs"].values())
            heading = f"## {section.capitalize()} (commit {made[section]['commit']})"
            parts += [heading, _table(runs)]
    return "\n\n".join(parts)


def _table(runs: Sequence[dict]) -> str:
    heads = [f"{run['model']}, {_detail(run)}" for run in runs]
    rows = [
        ("", *heads),
        ("---", *["---"] * len(runs)),
        ("positions (visual)", *(_cell(run, _positions) for run in runs)),
        ("arithmetic", *(f"{run['dtype']}, {_where(run)}" for run in runs)),
        ("plain `generate`, seconds", *(_cell(run, _plain) for run in runs)),
    ]
    for key, (title, aims) in AIMS.items():
        aim = f"aim {aims[FULL]} full, {aims[ONE]} one tile"
        cells = (_cell(run, partial(_step, key)) for run in runs)
        rows.append((f"{title} ({aim})", *cells))
    kept = "memory kept / hidden states, caches and features"
    for when, aim in (("analysed", f"aim {MEMORY_AIM}"), ("answered", "with both answers")):
        cells = (_cell(run, partial(_memory, when)) for run in runs)
        rows.append((f"{kept} ({aim})", *cells))
    for key, title in ((SWEEP, "sweep"), (ABLATION, "ablation map, single layers")):
        cells = (_cell(run, partial(_together, key)) for run in runs)
        rows.append((f"{title}, points together / alone (aim {TOGETHER_AIM})", *cells))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(run: dict, say: Callable[[dict], str]) -> str:
    try:
        return say(run)
    except KeyError:  # a part that was not measured
        return "-"


def _detail(run: dict) -> str:
    return {FULL: "full detail", ONE: "one tile"}[run["detail"]]


def _where(run: dict) -> str:
    return "GPU, the clock's time" if run["device"] != "cpu" else "CPU, processor time"


def _positions(run: dict) -> str:
    return f"{run['positions']} ({run['visual']})"


def _plain(run: dict) -> str:
    return " and ".join(f"{seconds:.3g}" for seconds in run["plain_s"])


def _step(key: str, run: dict) -> str:
    return f"{run[key]['ratio']:.2f}, {_passes(run[key])}"


def _passes(part: dict) -> str:
    plural = "" if part["vision_passes"] == 1 else "es"
    return f"{part['vision_passes']:.3g} vision pass{plural}"


def _memory(when: str, run: dict) -> str:
    return f"{run['memory'][when]:.2f} of {run['memory']['expected_mb']:.0f} MB"


def _together(key: str, run: dict) -> str:
    part = run[key]
    return f"{part['ratio']:.2f}, {part['points']} points, {_passes(part)}"


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def measured_commit() -> str:
    """The last commit that changed what is measured."""
    command = ["git", "log", "-1", "--format=%h", "--", "svl_core"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() or "unknown"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", nargs="+", choices=RELEASED, help="default: all, the largest two on a GPU only"
    )
    parser.add_argument(
        "--detail",
        nargs="+",
        choices=(FULL, ONE),
        help="every tile, or one (default: both for smolvlm, one for the others)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        help="default: all; on a CPU the page's steps only, but for smolvlm at one tile: the rest"
        " takes an hour there",
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", help="of the weights (default: by model and device)")
    parser.add_argument("--threads", type=int, help="of torch (default: as many as it likes)")
    parser.add_argument("--every-point", action="store_true", help="measure each one alone")
    parser.add_argument(
        "--cache", type=Path, help="a folder for the weights, read if they lie there"
    )
    parser.add_argument("--section", choices=SECTIONS, default="after", help="default: %(default)s")
    parser.add_argument("--commit", default=None, help="default: the last that changed svl_core")
    parser.add_argument("--tiny", action="store_true", help="a trial in seconds; nothing is meant")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.tiny and options.out == RESULTS:
        raise SystemExit("Found --tiny without --out; expected another file; a trial is no result.")
    if options.threads:
        torch.set_num_threads(options.threads)
    made = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    section = made.setdefault(options.section, {"runs": {}})
    section |= {
        "commit": options.commit or measured_commit(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    if not options.tiny:
        warm_up(options)
    on_cpu = options.device == "cpu"
    for name in options.model or (CPU_MODELS if on_cpu else RELEASED):
        for detail in options.detail or ((FULL, ONE) if name == "smolvlm" else (ONE,)):
            quick = not on_cpu or options.tiny or (name, detail) == ("smolvlm", ONE)
            parts = options.parts or (PARTS if quick else (STEPS,))
            key = "-".join((name, detail, torch.device(options.device).type))
            run = {**measure(name, detail, parts, options), "threads": torch.get_num_threads()}
            run["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
            section["runs"][key] = {**section["runs"].get(key, {}), **run}
            print(key, json.dumps(run), flush=True)
            options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            gc.unfreeze()
            gc.collect()  # the model, before the next one is made
    if options.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
