"""Layers, visual tokens and bits of the weights pruned, alone and together, on the bundled model:
`python tests/benchmarks/visual_tokens.py [--limit N]`.

Every selector of visual tokens with and without layers dropped (by the preset `--preset`), and some
with 8-bit weights: the pruned model is saved and loaded again through bitsandbytes (extra `large`;
without it that block is left out). What ranks tokens is timed with the answer. Layers that skip
visual tokens are those that ShortV's criterion ranks lowest.

Every cell is written as soon as it is measured, and a run goes on where an earlier one was stopped;
one of other questions or another preset begins anew. Results go to results/visual_tokens.json and
results/visual_tokens.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from marks import PAGES, between, rewrite

import svl_core as svl
from svl_core.comparison.evaluation import PairedEvaluation
from svl_core.comparison.speed import possible
from svl_core.demo.evaluation import questions
from svl_core.demo.questions import calibration
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.families import family_of
from svl_core.lvlm.features import FeatureStore
from svl_core.lvlm.skeleton import empty
from svl_core.lvlm.thinning import Thinning
from svl_core.recipe import UNTHINNED

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "visual_tokens.json"
PAGE = PAGES / "visual_tokens.md"
BEGIN, END = "<!-- tokens: tests/benchmarks/visual_tokens.py -->", "<!-- end of tokens -->"
SEED = 5_005  # of the questions
DROPS, SHARES = (0, 5), (0.5, 0.25)
EARLY, MIDDLE = 2, 8  # layers from which on tokens are gone
SKIPPING = (4, 8)  # how many layers skip them
TOKENS = 8  # of a timed answer
WHOLE = "none"  # every layer reads every token
UNMEASURED = "not measured yet"


class Way(NamedTuple):
    """What is done with visual tokens. layers: how many skip them, where some do."""

    selector: str
    share: float = 1.0
    start: int = 0
    layers: int = 0

    @property
    def name(self) -> str:
        if self.selector == WHOLE:
            return WHOLE
        where = f"{self.layers} layers" if self.layers else f"from {self.start}"
        return f"{self.selector}, {self.share:.0%}, {where}"

    def recipe(self, ranked: list[int]) -> svl.Recipe:
        """ranked: layers, those first that matter least to visual tokens."""
        if self.selector == WHOLE:
            return svl.Recipe(**UNTHINNED)
        return svl.Recipe(
            visual_tokens=self.selector,
            visual_share=self.share,
            visual_from=self.start,
            visual_layers=tuple(sorted(ranked[: self.layers])) if self.layers else None,
        )


def ways() -> list[Way]:
    made = [Way(WHOLE)]
    made += [Way(name, share) for name in ("tis", "random", "cluster") for share in SHARES]
    made.append(Way("fastv", SHARES[0], EARLY))
    leaving = [name for name, row in svl.SELECTORS.items() if not row.parts]
    made += [Way(name, share, MIDDLE) for name in leaving for share in SHARES]
    skipping = [name for name, row in svl.SELECTORS.items() if row.parts]
    return made + [Way(name, layers=count) for name in skipping for count in SKIPPING]


IN_8BIT = (
    Way(WHOLE),
    Way("random", 0.5),
    Way("fastv", 0.5, MIDDLE),
    Way("shortv", layers=SKIPPING[0]),
)
FIRST = (
    *IN_8BIT,
    Way("tis", 0.5),
    Way("vitcop", 0.5, MIDDLE),
    Way("skip-attention", layers=SKIPPING[0]),
    Way("skip-mlp", layers=SKIPPING[0]),
)
"""What is measured first, for a run that is stopped early."""


class Bench:
    """The model, its questions, and what is made of them once."""

    def __init__(self, limit: int, preset: str, repeats: int) -> None:
        self.lvlm = svl.load("demo")
        self.asked = questions("scenes", limit, SEED)
        self.preset = svl.PRESETS[preset]
        self.repeats = repeats
        self.images = FeatureStore()
        self.read: dict[tuple[int, str], svl.Trace] = {}
        self.small: dict[int, svl.LVLM] = {}

    @cached_property
    def full(self) -> svl.Evaluation:
        return self.answers(self.lvlm, self.lvlm, Way(WHOLE))

    @cached_property
    def fitted(self):
        scenes = calibration(self.preset.samples or 32)
        return self.preset.fit(self.lvlm, [self.lvlm.encode(*pair) for pair in scenes])

    @cached_property
    def ranked(self) -> list[int]:
        """Layers by ShortV's criterion, those first that change the answer least when frozen."""
        samples = [self.lvlm.encode(*pair) for pair in calibration(32)]
        scores = svl.redundancy(
            svl.trace(self.lvlm, samples),
            criterion="shortv",
            lvlm=self.lvlm,
            samples=samples,
        )
        return [int(layer) for layer in scores.ranking]

    def pruned(self, drop: int) -> svl.LVLM:
        return self.fitted.prune(self.fitted.plan(drop)) if drop else self.lvlm

    def in_8bit(self, drop: int) -> svl.LVLM:
        """The model as a user gets it who saves it and loads it in 8-bit."""
        if drop not in self.small:
            with tempfile.TemporaryDirectory() as folder:
                self.pruned(drop).save(Path(folder) / "model")
                self.small[drop] = svl.load(Path(folder) / "model", quantize="8bit", device="cpu")
        return self.small[drop]

    def answers(self, ranker: svl.LVLM, pruned: svl.LVLM, way: Way) -> svl.Evaluation:
        recipe = way.recipe(self.ranked if way.layers else [])

        def prepare(sample):
            read = None
            if svl.SELECTORS[recipe.visual_tokens].ranks and way.selector != WHOLE:
                key = id(ranker), sample.key
                if key not in self.read:
                    traced = svl.trace(ranker, sample)
                    self.read[key] = svl.Trace(
                        **{**vars(traced), "samples": (traced.samples[0].without_features(),)}
                    )
                read = self.read[key]
            return svl.thin(ranker, sample, recipe, read)

        known = self.images if ranker is self.lvlm else None
        return svl.evaluate(pruned, self.asked, data="scenes", prepare=prepare, known=known)

    def cell(self, way: Way, drop: int) -> dict:
        pruned = self.pruned(drop)
        pair = PairedEvaluation(self.full, self.answers(self.lvlm, pruned, way))
        return {**kept(pair), **self.speed(pruned, way)}

    def cell_8bit(self, way: Way, drop: int) -> dict:
        small = self.in_8bit(drop)
        pair = PairedEvaluation(self.full, self.answers(self.in_8bit(0), small, way))
        megabytes = small.model.get_memory_footprint() / 1e6
        return {**kept(pair), "megabytes": megabytes}

    def speed(self, pruned: svl.LVLM, way: Way) -> dict:
        """Processor time of an answer of equal length, full over pruned, in turn; and of the work
        counted for the prefill.
        """
        recipe = way.recipe(self.ranked if way.layers else [])
        question = self.asked[0]
        sample = self.lvlm.encode(question.image, question.question)

        def spent(lvlm, make):
            began = time.process_time()
            read = make()
            decoding = Decoding(lvlm, read.inputs, features=read.features, thinning=read.thinning)
            for _ in range(TOKENS - 1):
                decoding.feed(torch.tensor([[5]]))
            return time.process_time() - began

        def thinned():
            return svl.thin(self.lvlm, sample, recipe)

        pairs = []
        for _ in range(self.repeats + 1):
            full = spent(self.lvlm, lambda: sample)
            pairs.append((full, spent(pruned, thinned)))
        full, less = zip(*pairs[1:], strict=True)
        prefill, _ = possible((self.lvlm, sample), (pruned, thinned()))
        return {"speedup": median(full) / median(less), "work": prefill.expected}


def kept(pair: PairedEvaluation) -> dict:
    return {
        "accuracy": pair.pruned.accuracy,
        "kept": pair.accuracy_kept,
        "kept_interval": pair.interval,
    }


def at_real_size(way: Way, drop: int, dropped: list[int], ranked: list[int]) -> float:
    """The prefill's speed-up by counted work in the shape of LLaVA-1.5-7B: 32 layers, two for each
    of the bundled model's, 576 visual tokens and 64 of text. Nothing is run.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    model = empty(LlavaForConditionalGeneration, LlavaConfig())
    lvlm = svl.LVLM(model, None, family_of(model.config), "shape")
    visual = np.arange(32, 32 + 576)
    textual = np.setdiff1d(np.arange(640), visual)
    sample = svl.Sample(
        inputs={"input_ids": torch.zeros(1, 640), "pixel_values": torch.zeros(1, 3, 336, 336)},
        visual=visual,
        textual=textual,
        prompt_positions=textual[:0],
        tokens=("",) * 640,
        geometry=svl.PatchGeometry(np.zeros((576, 4)) + [0, 0, 1, 1], np.zeros(576)),
        images=(),
        prompt="",
        key="shape",
    )
    gone = [layer for one in dropped for layer in (2 * one, 2 * one + 1)] if drop else []
    keep = [layer for layer in range(32) if layer not in gone]
    pruned = svl.pruned_view(lvlm, keep)
    return possible((lvlm, sample), (pruned, shape_thinned(sample, way, ranked)))[0].expected


def shape_thinned(sample: svl.Sample, way: Way, ranked: list[int]) -> svl.Sample:
    """The sample as `svl.thin` makes it, without a model that has weights."""
    if way.selector == WHOLE:
        return sample
    row = svl.SELECTORS[way.selector]
    if row.parts:
        layers = [layer for one in ranked[: way.layers] for layer in (2 * one, 2 * one + 1)]
        skipping = Thinning(sample.visual, 0.0, skip=tuple(layers), parts=row.parts)
        return replace(sample, thinning=skipping)
    count = round(way.share * len(sample.visual))
    if way.start:
        leaving = Thinning(sample.visual, 0.0, ranked=row.ranks, leave=2 * way.start, count=count)
        return replace(sample, thinning=leaving)
    length = sample.length - len(sample.visual) + count
    stay = np.arange(len(sample.visual)) < count
    patches = (336 // 14) ** 2
    thinning = Thinning(
        sample.visual[:count],
        0.0,
        ranked=row.ranks,
        patches=patches,
        leave=0,
        stay=stay,
        count=count,
    )
    return replace(
        sample,
        inputs={"inputs_embeds": torch.zeros(1, length, 1)},
        visual=np.arange(32, 32 + count),
        textual=np.setdiff1d(np.arange(length), np.arange(32, 32 + count)),
        tokens=("",) * length,
        geometry=svl.PatchGeometry(np.zeros((count, 4)) + [0, 0, 1, 1], np.zeros(count)),
        thinning=thinning,
    )


LARGER = (
    Way("tis", 0.5),
    Way("random", 0.5),
    Way("fastv", 0.5, EARLY),
    Way("fastv", 0.5, MIDDLE),
    Way("vitcop", 0.5, MIDDLE),
    Way("shortv", layers=8),
    Way("skip-attention", layers=8),
    Way("skip-mlp", layers=8),
)
"""What is timed where 576 visual tokens make the work."""


def larger_model() -> svl.LVLM:
    """16 layers, 256 wide, random weights, with a small tower of 576 patches."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=16,
        num_attention_heads=4,
        vocab_size=1000,
    )
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=999,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).float().eval().requires_grad_(False)
    return svl.LVLM(model, None, family_of(model.config), "larger")


def larger_sample() -> svl.Sample:
    """576 visual tokens among 64 of text."""
    visual = np.arange(32, 32 + 576)
    textual = np.setdiff1d(np.arange(640), visual)
    ids = torch.ones(1, 640, dtype=torch.long)
    ids[:, 32 : 32 + 576] = 999
    return svl.Sample(
        inputs={"input_ids": ids, "pixel_values": torch.randn(1, 3, 336, 336)},
        visual=visual,
        textual=textual,
        prompt_positions=textual[:0],
        tokens=("",) * 640,
        geometry=svl.PatchGeometry(np.zeros((576, 4)) + [0, 0, 1, 1], np.zeros(576)),
        images=(),
        prompt="",
        key="larger",
    )


@torch.inference_mode()
def timed_larger(way: Way, repeats: int) -> dict:
    """Processor time of the prefill, full over pruned, ranking and image included, in turn."""
    lvlm = larger_model()
    sample = larger_sample()
    recipe = way.recipe(list(range(4, 16)))

    def spent(make) -> float:
        began = time.process_time()
        read = make()
        Decoding(lvlm, read.inputs, features=read.features, thinning=read.thinning)
        return time.process_time() - began

    def thinned() -> svl.Sample:
        return svl.thin(lvlm, sample, recipe)

    pairs = [(spent(lambda: sample), spent(thinned)) for _ in range(repeats + 1)]
    full, less = zip(*pairs[1:], strict=True)
    work, _ = possible((lvlm, sample), (lvlm, thinned()))
    return {"speedup": median(full) / median(less), "work": work.expected, "repeats": repeats}


def measure(args: argparse.Namespace) -> dict:
    bench = Bench(args.limit, args.preset, args.repeats)
    header = {
        "seed": SEED,
        "n": len(bench.asked),
        "preset": args.preset,
        "repeats": args.repeats,
        "layers": bench.lvlm.num_layers,
        "visual_tokens": 36,
        "threads": torch.get_num_threads(),
    }
    made = resumed(args.out, header)
    made.setdefault("full", bench.full.overall.to_json())
    larger = made.setdefault("larger", {})
    for way in LARGER:
        if way.name not in larger:
            larger[way.name] = timed_larger(way, args.repeats)
            write(args.out, made)
    wanted = [("rows", way, drop) for drop in DROPS for way in ways()]
    if importlib.util.find_spec("bitsandbytes"):
        wanted += [("rows_8bit", way, drop) for drop in DROPS for way in IN_8BIT]
    wanted.sort(key=lambda cell: cell[1] not in FIRST)
    for block, way, drop in wanted:
        cells = made.setdefault(block, {})
        key = f"{way.name}; {drop} dropped"
        if key in cells:
            continue
        began = time.process_time()
        cells[key] = bench.cell(way, drop) if block == "rows" else bench.cell_8bit(way, drop)
        if block == "rows":
            dropped = list(bench.fitted.plan(drop).drop) if drop else []
            made.setdefault("dropped", {})[str(drop)] = [int(layer) for layer in dropped]
            ranked = bench.ranked if way.layers else []
            cells[key]["work_7b"] = at_real_size(way, drop, dropped, ranked)
        made["skipping"] = bench.ranked[: max(SKIPPING)]
        made["processor_s"] = made.get("processor_s", 0) + time.process_time() - began
        write(args.out, made)
        print(f"{time.process_time() - began:5.1f} s  {key}  {cells[key]}", file=sys.stderr)
    return made


def resumed(file: Path, header: dict) -> dict:
    """What an earlier run of the same measured."""
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
        if all(known.get(name) == value for name, value in header.items()):
            return known
    return dict(header)


def write(file: Path, made: dict) -> None:
    """Replaces the file in one step, so that a stop never leaves half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)


# ---------------------------------------------------------------------------------- the page
def table(made: dict) -> str:
    lines = [
        (
            f"{made['n']} scene questions, {made['visual_tokens']} visual tokens,"
            f" {made['layers']} layers, preset `{made['preset']}`. Each cell: accuracy kept (95 %"
            " interval), speed-up of an answer in processor time, ranking included. Last column:"
            " the prefill's speed-up without dropped layers, by counted work, here and in the shape"
            " of LLaVA-1.5-7B (576 visual tokens, 64 of text)."
        ),
        "",
        "| visual tokens | "
        + " | ".join(f"{drop} layers dropped" for drop in DROPS)
        + " | work of the prefill |",
        "| --- |" + " --- |" * (len(DROPS) + 1),
    ]
    for way in ways():
        cells = [made["rows"].get(f"{way.name}; {drop} dropped") for drop in DROPS]
        if not any(cells):
            continue
        shown = [f"{percent(c)}, {c['speedup']:.2f}x" if c else UNMEASURED for c in cells]
        whole = cells[0]
        work = f"{whole['work']:.2f}x, {whole['work_7b']:.2f}x" if whole else UNMEASURED
        lines.append(f"| {in_words(way)} | " + " | ".join([*shown, work]) + " |")
    lines += ["", layers_in_words(made)]
    if made.get("larger"):
        lines += ["", *table_larger(made)]
    if made.get("rows_8bit"):
        lines += ["", *table_8bit(made)]
    return "\n".join(lines)


def layers_in_words(made: dict) -> str:
    few, many = (made["skipping"][:count] for count in SKIPPING)
    dropped = made.get("dropped", {}).get(str(DROPS[-1]), [])
    told = (
        f"Layers that skip: {', '.join(map(str, sorted(few)))}, or"
        f" {', '.join(map(str, sorted(many)))} (0-based)."
    )
    if dropped:
        told = f"Dropped: {', '.join(map(str, dropped))}. {told}"
    done = len(made["rows"]) + len(made.get("rows_8bit", {}))
    every = len(DROPS) * (len(ways()) + len(IN_8BIT))
    if done < every:
        told += f" {done} of {every} cells are measured; the command below goes on with the others."
    return told


def table_larger(made: dict) -> list[str]:
    lines = [
        (
            "Speed where visual tokens make the work: the prefill of a model with random weights"
            " (16 layers, 256 wide, 576 visual tokens, 64 of text), in processor time and by"
            " counted work, image and ranking included. Layers that skip: 4 to 11."
        ),
        "",
        "| visual tokens | processor time | counted work |",
        "| --- | --- | --- |",
    ]
    for way in LARGER:
        cell = made["larger"].get(way.name)
        if cell:
            lines.append(f"| {in_words(way)} | {cell['speedup']:.2f}x | {cell['work']:.2f}x |")
    return lines


def table_8bit(made: dict) -> list[str]:
    lines = [
        (
            "The same with 8-bit weights (bitsandbytes; embeddings and norms stay as they are):"
            " accuracy kept of the float32 model (95 % interval), megabytes of weights."
        ),
        "",
        "| visual tokens | " + " | ".join(f"{drop} layers dropped" for drop in DROPS) + " |",
        "| --- |" + " --- |" * len(DROPS),
    ]
    for way in IN_8BIT:
        cells = [made["rows_8bit"].get(f"{way.name}; {drop} dropped") for drop in DROPS]
        if not any(cells):
            continue
        shown = [f"{percent(c)}, {c['megabytes']:.1f} MB" if c else UNMEASURED for c in cells]
        lines.append(f"| {in_words(way)} | " + " | ".join(shown) + " |")
    return lines


def percent(cell: dict) -> str:
    low, high = cell["kept_interval"]
    return f"{cell['kept']:.1%} ({low:.1%} to {high:.1%})"


def in_words(way: Way) -> str:
    if way.selector == WHOLE:
        return "all, in every layer"
    if way.layers:
        return f"`{way.selector}` in {way.layers} layers"
    where = f"from layer {way.start} on" if way.start else "at the input"
    return f"{way.share:.0%} by `{way.selector}` {where}"


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limit", type=int, default=104, help="scene questions (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        default="as-published",
        choices=svl.PRESETS,
        help="what drops the layers (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats", type=int, default=7, help="timed answers (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    args = parser.parse_args()
    made = measure(args)
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
