"""The readings of TIS and of SCP that the paper leaves open, each with its effect on the bundled
model: `python tests/benchmarks/readings.py [--questions N]`.

Of every reading of TIS: in how many prompts the first and the last text token count as important,
which layers go, how far that hangs on the calibration scenes, and what accuracy is left without any
compensation. Of every reading of SCP: what accuracy is left on the layers that SVL as published
drops. Every seed has calibration scenes of its own; all models answer the same questions, which
share no scene with them. What is measured is saved at once, and the same command goes on where it
stopped. Results go to results/readings.json and results/readings.md.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from arena_statistics import TAILS, draws
from batched_match import batched_exact_match
from marks import PAGES, between, rewrite

import svl_core as svl
from svl_core.analysis.ranking import importance_of, rank_layers, top_p_of
from svl_core.analysis.stability import overlap
from svl_core.analysis.tokens import token_positions
from svl_core.demo import easy_vqa
from svl_core.demo.questions import calibration, labelled
from svl_core.files import weights_hash

RESULTS, PAGE = PAGES / "readings.json", PAGES / "readings.md"
WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "demo_lvlm"
BEGIN, END = "<!-- readings: tests/benchmarks/readings.py -->", "<!-- end of readings -->"
GUIDE = Path(__file__).resolve().parents[2] / "svl_core" / "GUIDE.md"
WORDS_BEGIN = "<!-- readings in words: tests/benchmarks/readings.py -->"
WORDS_END = "<!-- end of readings in words -->"
DROPS = (3, 5, 8)  # of the bundled model's 16 layers
SEEDS = 8  # calibration sets
SCP_DROPS, SCP_SEEDS = (5, 8), 4  # with fewer layers gone SCP changes no answer here
SCENES = 32  # of each
PROMPTS = 96  # on which the first and the last token are counted: the first sets' scenes
QUESTION_SEED = 6_006  # of the scenes asked about; no calibration set draws from it
DATA = ("scenes", "easy-vqa")
FULL = "full"
GROUP = 24  # models measured between two savings


# -------------------------------------------------------------------------------- readings
def tis_readings() -> dict[str, dict]:
    """Every reading of TIS by its name: fields of a recipe. The first is the default."""
    made = {}
    for given, corrected, aware in itertools.product((False, True), repeat=3):
        said = ["given" if given else "received"]
        said += ["causally corrected"] * corrected + ["sink-aware"] * aware
        made[", ".join(said)] = {
            "text_self": said[0],
            "causal_correction": corrected,
            "text_ends": "sink-aware" if aware else "scored",
        }
    return made


def scp_readings() -> dict[str, dict]:
    """Every reading of SCP by its name: fields of a recipe. The first is the default."""
    made = {}
    for averaged, centred, single in itertools.product((False, True), repeat=3):
        said = ["sample means" if averaged else "tokens"]
        said += ["centred"] * centred + ["first layer of a run"] * single
        made[", ".join(said)] = {
            "gap_rows": "samples" if averaged else "tokens",
            "gap_centred": centred,
            "gap_span": "layer" if single else "run",
        }
    return made


TIS, SCP = tis_readings(), scp_readings()
USUAL_TIS, USUAL_SCP = next(iter(TIS)), next(iter(SCP))
ITERATED = f"{USUAL_TIS}, re-scored after each drop"
RANKINGS = (*TIS, ITERATED)
"""Every way to rank the layers; the last one drops them one by one."""
COMPENSATED = {USUAL_TIS: tuple(SCP), ITERATED: (USUAL_SCP, "sample means")}
"""By ranking the readings of SCP that are tried on its layers."""


@dataclass(frozen=True)
class Model:
    """One pruned model that answers.

    layers: those that go.
    reading: of SCP, "" for no compensation.
    seed: of the calibration set that SCP is fitted on, None without it.
    """

    layers: tuple[int, ...]
    reading: str = ""
    seed: int | None = None

    @property
    def key(self) -> str:
        """Its name in the results file."""
        dropped = ",".join(map(str, self.layers))
        return f"{dropped}|{self.reading}|{self.seed}" if self.reading else dropped


# -------------------------------------------------------------------------------- measuring
class Calibrated:
    """The bundled model, and its pass over each seed's calibration scenes."""

    def __init__(self) -> None:
        self.lvlm = svl.load("demo")
        self._traces: dict[int, tuple[Sequence[svl.Sample], svl.Trace]] = {}

    def of(self, seed: int) -> tuple[Sequence[svl.Sample], svl.Trace]:
        """One seed's samples and their trace; the last one asked for is kept."""
        if seed not in self._traces:
            samples = [self.lvlm.encode(*pair) for pair in calibration(SCENES, seed)]
            self._traces = {seed: (samples, svl.trace(self.lvlm, samples))}
        return self._traces[seed]


def layers_of(calibrated: Calibrated, ranking: str, seed: int) -> dict[str, list[int]]:
    """{number of layers: those that go} by one way to rank them."""
    samples, trace = calibrated.of(seed)
    recipe = svl.Recipe(**TIS.get(ranking, {}))
    if ranking == ITERATED:
        recipe = recipe.changed(criterion="svl-iterated", rounds=max(DROPS))
    scores = rank_layers(recipe, trace, lvlm=calibrated.lvlm, samples=samples)
    return {str(drop): sorted(scores.chosen(drop)) for drop in DROPS}


def counted_ends(calibrated: Calibrated) -> dict[str, dict[str, float]]:
    """By reading the shares of the prompts in which the first and the last text token count as
    important.
    """
    found: dict[str, list[tuple[bool, bool]]] = {reading: [] for reading in TIS}
    for seed, reading in itertools.product(range(PROMPTS // SCENES), TIS):
        _, trace = calibrated.of(seed)
        recipe = svl.Recipe(**TIS[reading])
        weighed = importance_of(trace, recipe)
        chosen = token_positions(trace, weighed, "important", top_p_of(recipe))
        for sample, positions in zip(trace.samples, chosen, strict=True):
            first, *_, last = sample.textual
            found[reading].append((first in positions, last in positions))
    shares = {reading: np.mean(counted, axis=0) for reading, counted in found.items()}
    return {reading: {"first": first, "last": last} for reading, (first, last) in shares.items()}


def asked(data: str, count: int) -> list[tuple]:
    """(picture, question, answer): no two questions share a picture."""
    if data == "scenes":
        return [(one.image, one.question, one.answer) for one in labelled(count, QUESTION_SEED)]
    found = []
    for number, (picture, pairs) in enumerate(easy_vqa.grouped("test")):
        if number == count:
            break
        question, answer = pairs[number % len(pairs)]
        found.append((picture(), question, answer))
    return found


class Asked:
    """The questions of one data set, encoded, with the tokens of their answers."""

    def __init__(self, lvlm: svl.LVLM, data: str, count: int) -> None:
        self.lvlm = lvlm
        questions = asked(data, count)
        self.samples = [lvlm.encode(picture, question) for picture, question, _ in questions]
        self.answers = [self._ids(answer) for _, _, answer in questions]

    def _ids(self, answer: str) -> list[int]:
        words = self.lvlm.tokenizer(f" {answer}", add_special_tokens=False)
        return [*words.input_ids, self.lvlm.tokenizer.eos_token_id]

    def marks(self, models: Sequence[svl.LVLM]) -> np.ndarray:
        """(models, questions) bool: whose greedy answer is exactly the true one."""
        return batched_exact_match(self.lvlm, models, self.samples, self.answers)


def packed(marks: np.ndarray) -> str:
    """(n,) bool as hexadecimal digits."""
    return np.packbits(marks).tobytes().hex()


def unpacked(text: str, count: int) -> np.ndarray:
    """What `packed` wrote, (count,) bool."""
    numbers = np.frombuffer(bytes.fromhex(text), np.uint8)
    return np.unpackbits(numbers, count=count).astype(bool)


def made_of(calibrated: Calibrated, model: Model) -> svl.LVLM:
    """The pruned model."""
    plan = svl.manual_plan(model.layers, calibrated.lvlm.num_layers)
    if model.seed is None:
        return svl.prune(calibrated.lvlm, plan)
    _, trace = calibrated.of(model.seed)
    return svl.prune(calibrated.lvlm, plan, "scp", trace, **SCP[model.reading])


def wanted(made: dict) -> list[Model]:
    """The different models of all rows: every layer set as it is, and with readings of SCP."""
    models: dict[str, Model] = {}
    for ranking, seed, drop in itertools.product(RANKINGS, range(made["seeds"]), DROPS):
        layers = tuple(made["layers"][ranking][seed][str(drop)])
        found = [Model(layers)]
        if drop in SCP_DROPS and seed < SCP_SEEDS:
            readings = COMPENSATED.get(ranking, ())
            found += [Model(layers, reading, seed) for reading in readings]
        models |= {model.key: model for model in found}
    return sorted(models.values(), key=lambda model: (model.seed is not None, model.seed or 0))


def measure(out: Path, questions: int, seeds: int) -> dict:
    """All of it; what `out` holds of a run with the same settings is not done again."""
    settings = {
        "weights": weights_hash(WEIGHTS),
        "questions": questions,
        "seeds": seeds,
        "scenes": SCENES,
        "prompts": PROMPTS,
        "question_seed": QUESTION_SEED,
        "code": _code_hash(),
    }
    made = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if {name: made.get(name) for name in settings} != settings:
        made = {**settings, "ends": {}, "layers": {}, "marks": {}}
    calibrated = Calibrated()
    made["of_layers"] = calibrated.lvlm.num_layers
    _count_and_rank(out, made, calibrated)
    sets = [(data, Asked(calibrated.lvlm, data, questions)) for data in DATA]
    if FULL not in made["marks"]:
        made["marks"][FULL] = {name: packed(one.marks([one.lvlm])[0]) for name, one in sets}
    lacking = [model for model in wanted(made) if model.key not in made["marks"]]
    for first in range(0, len(lacking), GROUP):
        group = lacking[first : first + GROUP]
        _say(f"models {first + 1} to {first + len(group)} of {len(lacking)}")
        models = [made_of(calibrated, model) for model in group]
        found = {name: one.marks(models) for name, one in sets}
        for place, model in enumerate(group):
            made["marks"][model.key] = {name: packed(found[name][place]) for name in found}
        _save(out, made)
    made["marks"] = {key: made["marks"][key] for key in _in_order(made)}
    _save(out, made)
    return made


def _in_order(made: dict) -> list[str]:
    """Names of the models of all rows, the full one first; others are left out."""
    return [FULL, *(model.key for model in wanted(made))]


def _count_and_rank(out: Path, made: dict, calibrated: Calibrated) -> None:
    """The shares of first and last tokens, and every seed's layers."""
    for seed in range(made["seeds"]):
        for ranking in RANKINGS:
            found = made["layers"].setdefault(ranking, [])
            if len(found) == seed:
                found.append(layers_of(calibrated, ranking, seed))
        _say(f"layers of seed {seed}")
        _save(out, made)
    made["ends"] = made["ends"] or counted_ends(calibrated)
    _save(out, made)


def _code_hash() -> str:
    """Of the code that says what is important and what the difference is; another one measures
    anew.
    """
    package = Path(svl.__file__).parent
    files = ("analysis/importance.py", "analysis/rescoring.py", "pruning/difference.py")
    text = b"".join((package / name).read_bytes() for name in files)
    return hashlib.sha256(text).hexdigest()[:16]


def _save(out: Path, made: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".tmp")
    unfinished.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(out)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------- statistics
def marks_of(
    made: dict, ranking: str, reading: str, drop: int, seeds: int | None = None
) -> dict[str, np.ndarray]:
    """{data set: (seeds, questions) bool} of one row.

    reading: of SCP, "" without it.
    seeds: the first so many (default: all).
    """
    keys = []
    for seed, found in enumerate(made["layers"][ranking][:seeds]):
        layers = tuple(found[str(drop)])
        keys.append(Model(layers, reading, seed if reading else None).key)
    count = made["questions"]
    return {
        name: np.stack([unpacked(made["marks"][key][name], count) for key in keys]) for name in DATA
    }


def kept_of(made: dict, marks: dict[str, np.ndarray]) -> np.ndarray:
    """(seeds,) accuracy over the full model's, the mean of both data sets."""
    shares = []
    for name in DATA:
        full = unpacked(made["marks"][FULL][name], made["questions"])
        shares.append(marks[name].mean(1) / full.mean())
    return np.mean(shares, axis=0)


def difference(made: dict, row: dict, usual: dict) -> tuple[float, float, float]:
    """Accuracy kept of a row minus that of the default one, with its 95 % bootstrap interval over
    calibration seeds and questions, drawn together; both data sets share their seeds.
    """
    gaps = []
    for name in DATA:
        full = unpacked(made["marks"][FULL][name], made["questions"]).mean()
        gaps.append((row[name].astype(float) - usual[name]) / full)
    seeds, pictures = draws(len(gaps[0]), tuple(gap.shape[1] for gap in gaps))
    drawn = [
        ((seeds @ gap) * times).sum(1) / gap.size for gap, times in zip(gaps, pictures, strict=True)
    ]
    low, high = np.percentile(np.mean(drawn, axis=0), TAILS)
    return float(np.mean([gap.mean() for gap in gaps])), float(low), float(high)


def agreement(sets: Sequence[Sequence[int]]) -> float:
    """Mean share of layers that two of the sets have in common."""
    pairs = itertools.combinations(sets, 2)
    shares = [overlap(one, other) for one, other in pairs]
    return float(np.mean(shares)) if shares else 1.0


# ------------------------------------------------------------------------------------- page
def table(made: dict) -> str:
    """The page's figures as Markdown."""
    full = {name: unpacked(text, made["questions"]) for name, text in made["marks"][FULL].items()}
    right = " and ".join(f"{full[name].mean():.1%} of {name}" for name in DATA)
    head = (
        f"{made['seeds']} calibration seeds of {made['scenes']} scenes, {made['questions']}"
        f" questions of each of {' and '.join(DATA)}, no two of them on one picture. The full"
        f" model answers {right} exactly. Weights `{made['weights'][:16]}`."
    )
    sections = [head]
    sections += ["## Which tokens count, which layers go", *_tis_tables(made)]
    sections += ["## What SCP's difference is", *_scp_tables(made)]
    return "\n\n".join(sections)


def _tis_tables(made: dict) -> Iterator[str]:
    rows = [("reading of TIS", "first text token counts", "last text token counts")]
    for reading in TIS:
        ends = made["ends"][reading]
        rows.append((_named(reading), f"{ends['first']:.1%}", f"{ends['last']:.1%}"))
    yield f"Share of {made['prompts']} prompts in which a token is among the important ones."
    yield _markdown(rows)
    yield (
        "Nothing is compensated here. Agreement: the share of layers that two seeds have in common,"
        " and that a seed has in common with the default reading. Accuracy kept: mean of both sets"
        " and of all seeds, and from the worst seed to the best. Difference: from the default"
        " reading, in points, with its 95 % interval over seeds and questions together."
    )
    for drop in DROPS:
        yield f"**{drop} of {made['of_layers']} layers dropped**"
        yield _markdown(_tis_rows(made, drop))


def _tis_rows(made: dict, drop: int) -> Iterator[tuple[str, ...]]:
    yield "ranking", "layers that go most often", "agreement", "accuracy kept", "difference"
    usual = marks_of(made, USUAL_TIS, "", drop)
    usual_sets = [found[str(drop)] for found in made["layers"][USUAL_TIS]]
    for ranking in RANKINGS:
        sets = [found[str(drop)] for found in made["layers"][ranking]]
        common, times = Counter(map(tuple, sets)).most_common(1)[0]
        alike = [overlap(one, other) for one, other in zip(sets, usual_sets, strict=True)]
        marks = marks_of(made, ranking, "", drop)
        yield (
            _named(ranking),
            f"{', '.join(map(str, common))} ({times} of {len(sets)})",
            f"{agreement(sets):.2f}, {np.mean(alike):.2f}",
            _kept(made, marks),
            _difference(made, marks, usual),
        )


def _scp_tables(made: dict) -> Iterator[str]:
    yield (
        f"The first {SCP_SEEDS} of the calibration seeds. Differences are from no compensation on"
        " the same layers."
    )
    for ranking, drop in itertools.product(COMPENSATED, SCP_DROPS):
        yield f"**{drop} of {made['of_layers']} layers dropped**, ranking: {ranking}."
        yield _markdown(_scp_rows(made, ranking, drop))


def _scp_rows(made: dict, ranking: str, drop: int) -> Iterator[tuple[str, ...]]:
    yield "rows of the difference", "accuracy kept", "difference"
    plain = marks_of(made, ranking, "", drop, SCP_SEEDS)
    yield "no compensation", _kept(made, plain), "-"
    for reading in COMPENSATED[ranking]:
        marks = marks_of(made, ranking, reading, drop, SCP_SEEDS)
        yield _named(reading), _kept(made, marks), _difference(made, marks, plain)


def _named(reading: str) -> str:
    return f"{reading} (default)" if reading in (USUAL_TIS, USUAL_SCP) else reading


def _kept(made: dict, marks: dict[str, np.ndarray]) -> str:
    by_seed = kept_of(made, marks)
    return f"{by_seed.mean():.1%} ({by_seed.min():.1%} to {by_seed.max():.1%})"


def _difference(made: dict, row: dict, usual: dict) -> str:
    if all(np.array_equal(row[name], usual[name]) for name in DATA):
        return "0"
    mean, low, high = difference(made, row, usual)
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _markdown(rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    columns = lines[0].count("|") - 1
    return "\n".join([lines[0], "|" + " --- |" * columns, *lines[1:]])


# ------------------------------------------------------------------------------- the guide
def clearly_better(made: dict) -> list[str]:
    """Rankings that keep more than the default reading with an interval above zero, each with the
    number of layers.
    """
    found = []
    for ranking, drop in itertools.product(RANKINGS[1:], DROPS):
        usual = marks_of(made, USUAL_TIS, "", drop)
        _, low, _ = difference(made, marks_of(made, ranking, "", drop), usual)
        if low > 0:
            found.append(f"{ranking} at {drop}")
    return found


def most_moved(made: dict) -> float:
    """The largest difference that a reading of SCP makes, either way, in points."""
    moved = []
    for ranking, drop in itertools.product(COMPENSATED, SCP_DROPS):
        plain = marks_of(made, ranking, "", drop, SCP_SEEDS)
        for reading in COMPENSATED[ranking]:
            marks = marks_of(made, ranking, reading, drop, SCP_SEEDS)
            moved.append(abs(difference(made, marks, plain)[0]))
    return 100 * max(moved)


def in_words(made: dict) -> str:
    """The guide's paragraph: which reading is the default, and why."""
    drop, ends = max(DROPS), made["ends"]
    usual, given = ends[USUAL_TIS], ends["given"]
    plain = marks_of(made, USUAL_TIS, "", drop)
    changes = [
        f"{ranking} {_difference(made, marks_of(made, ranking, '', drop), plain)}"
        for ranking in ("given", "received, sink-aware", "received, causally corrected", ITERATED)
    ]
    better = ", ".join(clearly_better(made)) or "none of them"
    text = (
        f"On the bundled model the default reading counts the first text token as important in"
        f" {usual['first']:.0%} of {made['prompts']} prompts and the last in {usual['last']:.0%};"
        f" with the attention given they are {given['first']:.0%} and {given['last']:.0%}."
        f" Clearly better than the default at {', '.join(map(str, DROPS))} of {made['of_layers']}"
        f" layers dropped: {better}, so it stays. With {drop} dropped and nothing compensated it"
        f" keeps {kept_of(made, plain).mean():.1%} of the accuracy; in points from there, with 95 %"
        f" intervals over seeds and questions: {'; '.join(changes)}. SCP moves accuracy by at most"
        f" {most_moved(made):.1f} points with {' or '.join(map(str, SCP_DROPS))} dropped, however"
        " its difference is read:"
        " [every reading](../tests/benchmarks/results/readings.md)."
    )
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def with_words(text: str, made: dict) -> str:
    """The guide's text with its paragraph replaced."""
    return between(text, WORDS_BEGIN, WORDS_END, in_words(made))


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--questions", type=int, default=300, help="of each data set (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = measure(args.out, args.questions, args.seeds)
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
        rewrite(GUIDE, WORDS_BEGIN, WORDS_END, in_words(made))
    print(table(made))


if __name__ == "__main__":
    main()
