"""The arena: criteria, compensations and presets at every drop count, on the bundled model:
`python tests/benchmarks/arena.py`.

Layers are ranked and compensations fitted on calibration samples (one set a seed), and every pruned
model answers the same labelled questions, which share no picture with them. All models answer a
part of the questions before the next part begins, so a stopped run leaves a smaller but whole
table, and the same command goes on where it stopped; a model that is new answers what the others
have. Results go to results/arena.json and results/arena.md.

Three kinds of rows: every criterion without compensation; every compensation on the layers of some
criteria, fitted on few samples and at its best calibration; every preset.
"""

from __future__ import annotations

import argparse
import functools
import gc
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import arena_page
import numpy as np
from arena_statistics import Table, difference, kept
from marks import PAGES, between, rewrite

HERE = Path(__file__).parent
RESULTS, ROOT = HERE / "results" / "arena.json", HERE.parents[1]
PAGE = PAGES / "arena.md"
BEGIN, END = arena_page.BEGIN, arena_page.END
WEIGHTS = ROOT / "assets" / "demo_lvlm" / "model.safetensors"

SHARES = (0.10, 0.20, 0.25, 0.30, 0.40, 0.50)
"""Of the layers, dropped."""

FEWER = (0.20, 0.30, 0.50)
"""Of the layers, dropped where a compensation has its best calibration."""

FEW, MANY = 32, 512
"""Samples that rankings and compensations see; those of a compensation's best calibration."""

LAYERS_OF = ("svl", "greedy-kl")
"""Criteria whose layers every compensation is tried on at its best calibration; of the first, with
few samples too.
"""

ON_ANSWERS = ("lstsq", "bridge")
"""Compensations whose best calibration holds all tokens and the model's own answers."""

QUESTION_SEED = 4_004
"""Of the questions: neither training nor calibration draws from it."""

PART = 100
"""Questions between two savings."""

PRESET = "preset"
"""Stands for the criterion of a row that a preset made."""

PUBLISHED = "as-published"
FULL = "full"
"""The full model among a part's models."""

Plans = dict[int, list[int]]
"""By the number of dropped layers: which."""


@dataclass(frozen=True)
class Recipe:
    """What the rows of one line of the tables have in common.

    criterion: its name, or `PRESET`.
    compensation: its name, or the preset's.
    size: calibration samples of the compensation; 0 where nothing is fitted.
    """

    criterion: str
    compensation: str
    size: int = 0

    @property
    def source(self) -> str:
        """Under which name its layers are planned."""
        return f"{PRESET}:{self.compensation}" if self.criterion == PRESET else self.criterion


@dataclass(frozen=True)
class Model:
    """One pruned model; equal ones are made and asked once.

    layers: those dropped.
    how: a compensation, or "preset:NAME".
    size: calibration samples; 0 where nothing is fitted.
    seed: of the calibration samples; None where nothing is fitted.
    """

    layers: tuple[int, ...]
    how: str
    size: int
    seed: int | None

    @property
    def key(self) -> str:
        """Its name in the files of parts; a preset's settings are part of it."""
        layers = ",".join(map(str, self.layers))
        seed = "" if self.seed is None else self.seed
        return f"{layers}|{self.how}{_mark(self.how)}|{self.size}|{seed}"


def _mark(how: str) -> str:
    """Of a preset: a hash of what it is."""
    from svl_core.comparison.presets import PRESETS

    if not how.startswith(PRESET):
        return ""
    preset = PRESETS[how.partition(":")[2]]
    return hashlib.sha256(repr(preset).encode()).hexdigest()[:8]


# Who takes part


def drop_counts(layers: int, shares: Sequence[float] = SHARES) -> dict[int, float]:
    """{layers dropped: share} of `shares`, rounded to whole layers."""
    return {round(share * layers): share for share in shares}


def criteria() -> list[str]:
    """Every criterion but the one that takes a person's layers."""
    import svl_core as svl

    return [name for name, row in svl.CRITERIA.items() if row.needs != "layers"]


def recipes() -> list[Recipe]:
    """Every line of the tables."""
    import svl_core as svl
    from svl_core.comparison.presets import PRESETS

    rows = svl.COMPENSATIONS.items()
    fitted = [name for name, row in rows if row.fitted]
    found = [Recipe(name, "none") for name in criteria()]
    found += [Recipe(LAYERS_OF[0], name) for name, row in rows if not row.fitted and name != "none"]
    found += [Recipe(LAYERS_OF[0], name, FEW) for name in fitted]
    found += [Recipe(criterion, name, MANY) for criterion in LAYERS_OF for name in fitted]
    for name, preset in PRESETS.items():
        found.append(Recipe(PRESET, name, preset.samples or FEW))
    return found


def counts_of(recipe: Recipe, layers: int) -> list[int]:
    """The numbers of dropped layers at which a line is measured."""
    best_calibration = recipe.size == MANY and recipe.criterion != PRESET
    return list(drop_counts(layers, FEWER if best_calibration else SHARES))


def entrants(
    ranked: Mapping[int, Mapping[str, Plans]],
    layers: int,
) -> dict[Model, list[tuple[Recipe, int, int]]]:
    """Different pruned models, each with its rows (recipe, drop, seed).

    ranked: by seed and name the plans. A line whose plans are not there is left out.
    """
    made: dict[Model, list] = {}
    for seed, found in ranked.items():
        for recipe in recipes():
            plans = found.get(recipe.source, {})
            for drop in counts_of(recipe, layers):
                if drop in plans:
                    model = _model(recipe, plans[drop], seed)
                    made.setdefault(model, []).append((recipe, drop, seed))
    return made


def _model(recipe: Recipe, gone: Sequence[int], seed: int) -> Model:
    how = recipe.source if recipe.criterion == PRESET else recipe.compensation
    return Model(tuple(gone), how, recipe.size, seed if recipe.size else None)


def shared_out(models: Sequence[Model], jobs: int) -> list[list[Model]]:
    """The different models for each process, about as many for each; what is fitted on the same
    samples stays together.
    """
    groups: dict[tuple, list[Model]] = {}
    for model in models:
        groups.setdefault((model.seed, model.size), []).append(model)
    shares: list[list[Model]] = [[] for _ in range(jobs)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return shares


# The work: rankings, pruned models, marks (in worker processes)


def start():
    """The bundled model, for a process of one thread."""
    import torch

    import svl_core as svl

    torch.set_num_threads(1)
    return svl.load("demo")


def calibration_samples(lvlm, size: int, seed: int) -> list:
    from svl_core.demo.questions import calibration

    return [lvlm.encode(*pair) for pair in calibration(size, seed)]


def rankings(seed: int, names: Sequence[str]) -> dict[str, Plans]:
    """For each criterion and drop count the layers that go, from one seed's calibration scenes."""
    import svl_core as svl

    lvlm = start()
    samples = calibration_samples(lvlm, FEW, seed)
    trace = svl.trace(lvlm, samples)
    importance = svl.importance(trace)
    drops = drop_counts(lvlm.num_layers)
    plans = {}
    for name in names:
        scores = svl.redundancy(
            trace, importance, name, seed=seed, lvlm=lvlm, samples=samples, rounds=max(drops)
        )
        plans[name] = {drop: sorted(scores.chosen(drop)) for drop in drops}
    return plans


def preset_plans(seed: int, found: Mapping[str, Plans], name: str) -> Plans:
    """For each drop count the layers that a preset drops; criteria that run the model chose theirs
    before, on the same seed (`found`).
    """
    import svl_core as svl
    from svl_core.comparison.presets import PRESETS
    from svl_core.pruning.plan import DropPlan

    lvlm = start()
    preset = PRESETS[name]
    drops = drop_counts(lvlm.num_layers)
    fitted = preset.fit(lvlm, calibration_samples(lvlm, preset.samples or FEW, seed))
    plans: dict[int, list] = {drop: [] for drop in drops}
    for criterion in preset.criteria:
        layers = found[criterion]
        if svl.CRITERIA[criterion].needs == "trace":
            scores = fitted.rank(criterion)
            layers = {drop: sorted(scores.chosen(drop)) for drop in drops}
        for drop in drops:
            plans[drop].append(DropPlan(tuple(layers[drop]), lvlm.num_layers, criterion))
    return {drop: list(fitted.choose(plans[drop], seed=seed).drop) for drop in drops}


class Fits:
    """What models are fitted on, of one seed and size, made when it is first asked for."""

    def __init__(self, lvlm, seed: int | None, size: int):
        self.lvlm, self.seed, self.size = lvlm, seed, size

    def pruned(self, model: Model):
        """The model, pruned and compensated."""
        import svl_core as svl
        from svl_core.pruning.plan import manual_plan

        plan = manual_plan(model.layers, self.lvlm.num_layers)
        if model.how.startswith(PRESET):
            return self._preset(model.how.partition(":")[2]).prune(plan)
        if not model.size:
            return svl.prune(self.lvlm, plan, model.how)
        if self.size == MANY and model.how in ON_ANSWERS:
            trace, importance = self._with_answers
            return svl.prune(self.lvlm, plan, model.how, trace, importance, tokens="all")
        return svl.prune(self.lvlm, plan, model.how, *self._plain)

    @functools.cached_property
    def _samples(self) -> list:
        return calibration_samples(self.lvlm, self.size, self.seed)

    @functools.cached_property
    def _plain(self) -> tuple:
        return self._traced(self._samples)

    @functools.cached_property
    def _with_answers(self) -> tuple:
        from svl_core.comparison.calibration import with_answers

        return self._traced(with_answers(self.lvlm, self._samples))

    def _traced(self, samples: list) -> tuple:
        import svl_core as svl

        trace = svl.trace(self.lvlm, samples, mlp=True)
        return trace, svl.importance(trace)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - it lives as long as its models are made
    def _preset(self, name: str):
        from svl_core.comparison.presets import PRESETS

        return PRESETS[name].fit(self.lvlm, self._samples)


class Worker:
    """One process's share of the different models, made once, and what it answers with them."""

    def __init__(self, mine: Sequence[Model]):
        self.lvlm = start()
        self.models = [self.lvlm]
        fits = Fits(self.lvlm, None, 0)
        for model in mine:
            if (model.seed, model.size) != (fits.seed, fits.size):
                fits = Fits(self.lvlm, model.seed, model.size)
                Fits._preset.cache_clear()
                gc.collect()
            self.models.append(fits.pruned(model))

    def marks(self, data: str, first: int, n: int) -> np.ndarray:
        """(models, up to `PART`) marks on the questions from `first` on; the full model first."""
        from batched_match import batched_exact_match

        asked = asked_of(data, n)[first : first + PART]
        samples = [self.lvlm.encode(one.image, one.question) for one in asked]
        answers = [answer_ids(self.lvlm, one.answer) for one in asked]
        return batched_exact_match(self.lvlm, self.models, samples, answers)


def asked_of(data: str, n: int) -> list:
    """The n questions of a data set; of easy-VQA, whose pictures have many, one of each picture."""
    from svl_core.demo import easy_vqa
    from svl_core.demo.evaluation import questions
    from svl_core.demo.labelled import Labelled

    if data != "easy-vqa":
        return questions(data, n, QUESTION_SEED)
    rng = np.random.default_rng(QUESTION_SEED)
    groups = easy_vqa.grouped("test")
    chosen = []
    for number in rng.permutation(len(groups))[:n]:
        open_image, pairs = groups[number]
        question, answer = pairs[rng.integers(len(pairs))]
        chosen.append(Labelled(open_image, question, answer, data))
    return chosen


def answer_ids(lvlm, answer: str) -> list[int]:
    """The bundled model's tokens of an answer, with the end token."""
    words = lvlm.tokenizer(f" {answer}", add_special_tokens=False)
    return [*words.input_ids, lvlm.tokenizer.eos_token_id]


_worker: Worker | None = None


def _prepare(mine: Sequence[Model]) -> None:
    global _worker
    _worker = Worker(mine)


def _marks(data: str, first: int, n: int) -> np.ndarray:
    assert _worker is not None
    return _worker.marks(data, first, n)


# The run


def run(args: argparse.Namespace) -> dict:
    """Ranks, answers and saves, `args.jobs` processes at a time; whatever was saved before with the
    same settings is not done again.
    """
    settings = {
        "weights": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16],
        "questions": args.questions,
        "data": args.data.split(","),
        "seeds": list(range(args.seeds)),
        "calibration_samples": FEW,
        "question_seed": QUESTION_SEED,
        "part": PART,
    }
    saved = args.out.with_suffix(".parts")
    _fresh(saved, settings)
    layers = layers_of_model()
    ranked = _ranked(args, settings, saved)
    wanted = list(entrants(ranked, layers))
    parts = [(first, name) for first in range(0, args.questions, PART) for name in settings["data"]]
    began = time.monotonic()
    for group in _lacking(wanted, parts, saved):
        models, open_parts = group
        _say(f"{len(models)} models for {len(open_parts)} parts to answer")
        with _Pools(models, args.jobs) as pools:
            for first, name in open_parts:
                if args.minutes and time.monotonic() - began > 60 * args.minutes:
                    break
                found = _answered(saved, name, first)
                found |= pools.marks(name, first, args.questions)
                _keep(saved, name, first, found)
                _say(f"{time.monotonic() - began:5.0f} s, {name} from {first}")
    if not any(saved.glob("*.npz")):
        raise SystemExit("Nothing was measured.")
    made = summary(settings, ranked, saved, layers)
    _save(args.out, made)
    return made


def _lacking(
    wanted: Sequence[Model],
    parts: Sequence[tuple[int, str]],
    saved: Path,
) -> Iterable[tuple[list[Model], list[tuple[int, str]]]]:
    """Models with the parts that they have not answered, those of equal parts together."""
    answered = {part: set(_answered(saved, part[1], part[0])) for part in parts}
    groups: dict[tuple, list[Model]] = {}
    for model in wanted:
        lacks = tuple(part for part in parts if model.key not in answered[part])
        if lacks:
            groups.setdefault(lacks, []).append(model)
    return [(models, list(lacks)) for lacks, models in groups.items()]


class _Pools:
    """Processes with a share of the models each."""

    def __init__(self, models: Sequence[Model], jobs: int):
        shares = shared_out(models, jobs)
        self._shares = [share for share in shares if share]
        self._pools = [
            ProcessPoolExecutor(1, get_context("spawn"), _prepare, (share,))
            for share in self._shares
        ]

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in self._pools:
            pool.shutdown()

    def marks(self, data: str, first: int, n: int) -> dict[str, np.ndarray]:
        """Every model's marks on a part of the questions, by its key."""
        asked = [pool.submit(_marks, data, first, n) for pool in self._pools]
        found: dict[str, np.ndarray] = {}
        for share, one in zip(self._shares, asked):
            names = [FULL, *(model.key for model in share)]
            found |= dict(zip(names, one.result(), strict=True))
        return found


def _ranked(args: argparse.Namespace, settings: dict, saved: Path) -> dict[int, dict[str, Plans]]:
    """Each seed's plans by every criterion and every preset, kept in files. A criterion that is new
    is ranked alone; a changed preset plans anew.
    """
    from svl_core.comparison.presets import PRESETS

    seeds = settings["seeds"]
    ranked: dict[int, dict[str, Plans]] = {seed: {} for seed in seeds}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:

        def kept_in(file: Path, name: str, work: Callable, *inputs: Any) -> dict[int, Any]:
            if not file.exists():
                _say(f"planning: {name}")
                found = dict(zip(seeds, pool.map(work, seeds, *inputs)))
                file.write_text(json.dumps(found), encoding="utf-8")
            return {int(k): v for k, v in json.loads(file.read_text(encoding="utf-8")).items()}

        for names in (["svl"], *([name] for name in criteria() if name != "svl")):
            name = names[0]
            file = saved / f"rankings-{name}.json"
            for seed, plans in kept_in(file, name, rankings, [names] * len(seeds)).items():
                ranked[seed][name] = _numbered(plans[name])
        for name in [] if args.criteria_only else PRESETS:
            source = f"{PRESET}:{name}"
            file = saved / f"{PRESET}-{name}-{_mark(source)}.json"
            inputs = [dict(ranked[seed]) for seed in seeds], [name] * len(seeds)
            for seed, plans in kept_in(file, source, preset_plans, *inputs).items():
                ranked[seed][source] = _numbered(plans)
    return ranked


def _numbered(plans: Mapping) -> Plans:
    return {int(drop): layers for drop, layers in plans.items()}


def _fresh(folder: Path, settings: dict) -> None:
    """Empties `folder` unless it holds the parts of a run with equal settings."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if not file.exists() or json.loads(file.read_text(encoding="utf-8")) != settings:
        for old in folder.iterdir():
            old.unlink()
        file.write_text(json.dumps(settings), encoding="utf-8")


def _part(folder: Path, data: str, first: int) -> Path:
    return folder / f"{data}-{first:05}.npz"


def _answered(folder: Path, data: str, first: int) -> dict[str, np.ndarray]:
    """Marks of a part by model, (questions of the part,) bool; the full model's under `FULL`."""
    if not _part(folder, data, first).exists():
        return {}
    with np.load(_part(folder, data, first)) as saved:
        marks = np.unpackbits(saved["marks"], axis=1, count=int(saved["questions"]))
        return dict(zip(saved["models"].tolist(), marks.astype(bool)))


def _keep(folder: Path, data: str, first: int, found: dict[str, np.ndarray]) -> None:
    table = np.array(list(found.values()), bool)
    with open(folder / "part.tmp", "wb") as out:
        np.savez_compressed(
            out,
            models=np.array(list(found)),
            marks=np.packbits(table, axis=1),
            questions=table.shape[1],
        )
    (folder / "part.tmp").replace(_part(folder, data, first))


def _save(file: Path, made: dict) -> None:
    lines = ",\n".join(json.dumps(row) for row in made["rows"])
    head = json.dumps(made | {"rows": []}, indent=1)
    text = head.replace('"rows": []', '"rows": [\n' + lines + "\n]") + "\n"
    file.with_suffix(".tmp").write_text(text, encoding="utf-8")
    file.with_suffix(".tmp").replace(file)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# The summary


class Marks:
    """The saved marks, and who they belong to.

    settings: of the run. ranked: by seed the plans. saved: the folder of parts.
    """

    def __init__(self, settings: dict, ranked: Mapping, saved: Path, layers: int):
        self.data, self.seeds = settings["data"], settings["seeds"]
        self.model_of = {
            row: model for model, rows in entrants(ranked, layers).items() for row in rows
        }
        firsts = range(0, settings["questions"], PART)
        self.parts = {
            name: [part for first in firsts if (part := _answered(saved, name, first))]
            for name in self.data
        }

    def models(self, recipe: Recipe, drop: int) -> list[Model] | None:
        """A line's model of each seed; None where one of them is not there."""
        keys = [(recipe, drop, seed) for seed in self.seeds]
        if not set(keys) <= set(self.model_of):
            return None
        return [self.model_of[key] for key in keys]

    def tables(self, *groups: Sequence[str]) -> list[list[Table]] | None:
        """For each data set the marks of each group of keys, on the questions that all of them
        answered; None where there are no such questions.
        """
        names = [name for group in groups for name in group]
        found = []
        for data in self.data:
            whole = [part for part in self.parts[data] if set(names) <= set(part)]
            if not whole:
                return None
            marks = [
                np.concatenate([np.stack([part[name] for name in group]) for part in whole], axis=1)
                for group in groups
            ]
            # every question has a picture of its own, see `asked_of`
            clusters = np.arange(marks[0].shape[1])
            found.append([Table(rows, clusters) for rows in marks])
        return found


def summary(settings: dict, ranked: Mapping, saved: Path, layers: int) -> dict:
    """All rows of the tables from the parts that their models have answered so far."""
    marks = Marks(settings, ranked, saved, layers)
    rows = []
    for recipe in recipes():
        for drop in counts_of(recipe, layers):
            models = marks.models(recipe, drop)
            tables = models and marks.tables([FULL], [model.key for model in models])
            if tables:
                rows.append(_row(recipe, drop, models, marks.data, tables))
                rows[-1]["brings"] = _brings(marks, recipe, drop)
    full = marks.tables([FULL]) or []
    expected = sum(len(counts_of(recipe, layers)) for recipe in recipes())
    asked = [each["n"] for row in rows for each in row["data"].values()]
    return {
        "settings": settings,
        "complete": len(rows) == expected and min(asked) == settings["questions"],
        "layers": layers,
        "shares": {str(drop): share for drop, share in drop_counts(layers).items()},
        "models": len(set(marks.model_of.values())),
        "full": {
            name: {"accuracy": float(table.marks.mean()), "n": table.marks.shape[1]}
            for name, (table,) in zip(marks.data, full)
        },
        "published": [found for drop in drop_counts(layers) for found in _published(marks, drop)],
        "rows": rows,
    }


def _row(
    recipe: Recipe,
    drop: int,
    models: Sequence[Model],
    data: Sequence[str],
    tables: Sequence[Sequence[Table]],
) -> dict:
    """One line at one count. tables: for each data set (the full model's, its own)."""
    by_data = {}
    for name, (full, own) in zip(data, tables):
        by_data[name] = {
            "n": own.marks.shape[1],
            "accuracy": float(own.marks.mean()),
            "kept": kept([own], [full]).to_json(),
        }
    whole = kept([own for _, own in tables], [full for full, _ in tables])
    return {
        "criterion": recipe.criterion,
        "compensation": recipe.compensation,
        "size": recipe.size,
        "drop": drop,
        "layers": [list(model.layers) for model in models],
        "kept": whole.value,
        "interval": [whole.low, whole.high],
        "by_seed": list(whole.by_seed),
        "data": by_data,
    }


def _brings(marks: Marks, recipe: Recipe, drop: int) -> dict | None:
    """Accuracy of a compensation minus none on the same layers; None for rows of another kind."""
    if recipe.criterion == PRESET or recipe.compensation == "none":
        return None
    both = [marks.models(each, drop) for each in (recipe, Recipe(recipe.criterion, "none"))]
    groups = [[model.key for model in models] for models in both if models]
    tables = marks.tables(*groups) if len(groups) == 2 else None
    if not tables:
        return None
    return difference([own for own, _ in tables], [none for _, none in tables]).to_json()


def is_svl(criterion: str) -> bool:
    """Whether a criterion is SVL or one of its own ablations."""
    return criterion == "svl" or criterion.startswith("svl-")


def _published(marks: Marks, drop: int) -> list[dict]:
    """SVL as published minus every uncompensated criterion at one count."""
    ours = marks.models(Recipe(PRESET, PUBLISHED, FEW), drop)
    found = []
    for name in criteria() if ours else []:
        theirs = marks.models(Recipe(name, "none"), drop)
        groups = [[model.key for model in models] for models in (ours, theirs or [])]
        tables = marks.tables(*groups) if theirs else None
        if tables:
            estimate = difference([own for own, _ in tables], [other for _, other in tables])
            found.append({"drop": drop, "baseline": name, "svl": is_svl(name)} | estimate.to_json())
    return found


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, arena_page.figures(made))


def layers_of_model() -> int:
    """L of the bundled model, from its config."""
    config = json.loads((WEIGHTS.parent / "config.json").read_text(encoding="utf-8"))
    return config["text_config"]["num_hidden_layers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--questions",
        type=int,
        default=1000,
        metavar="N",
        help="questions of each data set, at most 1,000 of easy-VQA (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=8,
        metavar="K",
        help="calibration seeds 0..K-1 (default: %(default)s)",
    )
    parser.add_argument(
        "--data", default="scenes,easy-vqa", help="data sets, by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=2,
        metavar="J",
        help="processes of one thread each (default: %(default)s)",
    )
    parser.add_argument(
        "--criteria-only",
        action="store_true",
        help="leave the presets out, which choose among the criteria's plans",
    )
    parser.add_argument(
        "--minutes", type=float, help="begin no new part of the questions after so many minutes"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file; the page is rewritten only from the default one",
    )
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    made = run(args)
    figures = arena_page.figures(made)
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, figures)
    print(figures)


if __name__ == "__main__":
    main()
