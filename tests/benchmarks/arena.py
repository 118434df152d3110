"""The arena: every criterion with every compensation at every drop count, on the bundled model:
`python tests/benchmarks/arena.py`.

Layers are ranked and compensations fitted on calibration scenes (one set a seed), and every pruned
model answers the same labelled questions, which share no scene with them. All models answer a part
of the questions before the next part begins, so a stopped run leaves a smaller but whole table, and
the same command goes on where it stopped. Results go to results/arena.json and
results/arena.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from marks import PAGES, between, rewrite

HERE = Path(__file__).parent
RESULTS, ROOT = HERE / "results" / "arena.json", HERE.parents[1]
PAGE = PAGES / "arena.md"
WEIGHTS = ROOT / "assets" / "demo_lvlm" / "model.safetensors"
BEGIN, END = "<!-- arena: tests/benchmarks/arena.py -->", "<!-- end of arena -->"
SHARES = (0.10, 0.20, 0.25, 0.30, 0.40, 0.50)  # of the layers, dropped
BARS = {
    0.20: 0.99,
    0.30: 0.976,
    0.40: 0.964,
}  # share dropped -> accuracy kept that the best recipe should reach
QUESTION_SEED = 4_004  # of the scenes asked about: neither training nor calibration draws from it
PART = 100  # questions between two savings
Z_95 = 1.959963984540054
PRESET = "preset"  # stands for the criterion of a row that a preset made
PUBLISHED = (PRESET, "as-published")
FULL = "full"  # the full model among a part's models


# The work: rankings, pruned models, marks (in worker processes)


def drop_counts(layers: int) -> dict[int, float]:
    """{layers dropped: share} of `SHARES`, rounded to whole layers."""
    return {round(share * layers): share for share in SHARES}


def start():
    """The bundled model, for a process of one thread."""
    import torch

    import svl_core as svl

    torch.set_num_threads(1)
    return svl.load("demo")


def calibration_samples(lvlm, size: int, seed: int) -> list:
    from svl_core.demo.questions import calibration

    return [lvlm.encode(*pair) for pair in calibration(size, seed)]


def rankings(seed: int, size: int) -> dict[str, dict[int, list[int]]]:
    """For each criterion and drop count the layers that go, from one seed's calibration scenes."""
    import svl_core as svl

    lvlm = start()
    samples = calibration_samples(lvlm, size, seed)
    trace = svl.trace(lvlm, samples)
    importance = svl.importance(trace)
    drops, found = drop_counts(lvlm.num_layers), {}
    for name, row in svl.CRITERIA.items():
        if row.needs == "layers":
            continue
        scores = svl.redundancy(
            trace, importance, name, seed=seed, lvlm=lvlm, samples=samples, rounds=max(drops)
        )
        found[name] = {drop: sorted(scores.chosen(drop)) for drop in drops}
    return found


def preset_plans(
    seed: int, found: dict[str, dict[int, list[int]]], name: str, size: int
) -> dict[int, list[int]]:
    """For each drop count the layers that a preset drops; criteria that run the model chose theirs
    before, on the same seed (`found`).
    """
    import svl_core as svl
    from svl_core.comparison.presets import PRESETS
    from svl_core.pruning.plan import DropPlan

    lvlm, preset, drops = start(), PRESETS[name], drop_counts(layers_of_model())
    fitted = preset.fit(lvlm, calibration_samples(lvlm, preset.samples or size, seed))
    plans: dict[int, list] = {drop: [] for drop in drops}
    for each in preset.criteria:
        scores = fitted.rank(each) if svl.CRITERIA[each].needs == "trace" else None
        for drop in drops:
            plans[drop].append(
                DropPlan(
                    tuple(sorted(scores.chosen(drop)) if scores else found[each][drop]),
                    lvlm.num_layers,
                    each,
                )
            )
    return {drop: list(fitted.choose(plans[drop], seed=seed).drop) for drop in drops}


def recipes() -> list[tuple[str, str]]:
    """(criterion, compensation) of every row of the table; presets as ("preset", name)."""
    import svl_core as svl
    from svl_core.comparison.presets import PRESETS

    criteria = [name for name, row in svl.CRITERIA.items() if row.needs != "layers"]
    return [
        (criterion, compensation) for compensation in svl.COMPENSATIONS for criterion in criteria
    ] + [(PRESET, name) for name in PRESETS]


def entrants(ranked: dict[int, dict]) -> dict[tuple, list[tuple[str, str, int, int]]]:
    """Different pruned models {(layers, compensation or preset, seed that it is fitted on): its
    rows (criterion, compensation, drop, seed)}.

    A preset chooses among the criteria's layers, and fits, on as many scenes of the same seed as it
    asks for; it is left out where `ranked` has none of its plans.
    """
    made: dict[tuple, list] = {}
    for seed, found in ranked.items():
        for criterion, compensation in recipes():
            for drop, gone in found.get(
                f"{PRESET}:{compensation}" if criterion == PRESET else criterion, {}
            ).items():
                how = f"{PRESET}:{compensation}" if criterion == PRESET else compensation
                key = (tuple(gone), how, None if how == "none" else seed)
                made.setdefault(key, []).append((criterion, compensation, drop, seed))
    return made


def shared_out(keys: list[tuple], jobs: int) -> list[list[int]]:
    """Indices of the different models for each process, about as many for each; what one
    compensation fits on one seed stays together, for it begins alike.
    """
    groups: dict[tuple, list[int]] = {}
    for i, (_, how, seed) in enumerate(keys):
        groups.setdefault((how, seed), []).append(i)
    shares: list[list[int]] = [[] for _ in range(jobs)]
    for group in sorted(groups.values(), key=len, reverse=True):
        min(shares, key=len).extend(group)
    return shares


class Worker:
    """One process's share of the different models, made once, and what it answers with them."""

    def __init__(self, size: int, mine: list[tuple]):
        import svl_core as svl
        from svl_core.comparison.presets import PRESETS
        from svl_core.pruning.plan import manual_plan

        self.lvlm = start()
        seeds = {seed for _, how, seed in mine if seed is not None and not how.startswith(PRESET)}
        traces = {
            seed: svl.trace(self.lvlm, calibration_samples(self.lvlm, size, seed), mlp=True)
            for seed in seeds
        }
        fits = {seed: (trace, svl.importance(trace)) for seed, trace in traces.items()}
        wanted = {(how.partition(":")[2], seed) for _, how, seed in mine if how.startswith(PRESET)}
        presets = {
            (name, seed): PRESETS[name].fit(
                self.lvlm,
                calibration_samples(self.lvlm, PRESETS[name].samples or size, seed),
            )
            for name, seed in wanted
        }
        self.models = [self.lvlm]
        for layers, how, seed in mine:
            plan = manual_plan(layers, self.lvlm.num_layers)
            if how.startswith(PRESET):
                self.models.append(presets[how.partition(":")[2], seed].prune(plan))
            else:
                self.models.append(
                    svl.prune(self.lvlm, plan, how, *(fits[seed] if seed is not None else ()))
                )

    def marks(self, data: str, first: int, n: int) -> np.ndarray:
        """(models, up to `PART`) marks on the questions from `first` on; the full model first."""
        from batched_match import batched_exact_match

        from svl_core.demo.evaluation import questions

        asked = questions(data, n, QUESTION_SEED)[first : first + PART]
        samples = [self.lvlm.encode(one.image, one.question) for one in asked]
        return batched_exact_match(
            self.lvlm, self.models, samples, [answer_ids(self.lvlm, one.answer) for one in asked]
        )


def answer_ids(lvlm, answer: str) -> list[int]:
    """The bundled model's tokens of an answer, with the end token."""
    return [
        *lvlm.tokenizer(f" {answer}", add_special_tokens=False).input_ids,
        lvlm.tokenizer.eos_token_id,
    ]


_worker: Worker | None = None


def _prepare(size: int, mine: list[tuple]) -> None:
    global _worker
    _worker = Worker(size, mine)


def _marks(data: str, first: int, n: int) -> np.ndarray:
    return _worker.marks(data, first, n)


# The run


def run(args: argparse.Namespace) -> dict:
    """Ranks, answers and saves, `args.jobs` processes at a time; whatever was saved before with the
    same settings is not done again.
    """
    data = args.data.split(",")
    settings = {
        "weights": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16],
        "questions": args.questions,
        "data": data,
        "seeds": list(range(args.seeds)),
        "calibration_samples": args.calibration_size,
        "question_seed": QUESTION_SEED,
        "part": PART,
    }
    saved = args.out.with_suffix(".parts")
    _fresh(saved, settings)
    ranked = _ranked(args, settings, saved)
    wanted = [
        key
        for key in entrants(ranked)
        if key[1].startswith(PRESET) or key[1] in args.compensations.split(",")
    ]
    parts = [(first, name) for first in range(0, args.questions, PART) for name in data]
    lacking = {
        part: {FULL, *map(key_of, wanted)} - set(_answered(saved, part[1], part[0]))
        for part in parts
    }
    parts = [part for part in parts if lacking[part]]
    models = [key for key in wanted if any(key_of(key) in lacking[part] for part in parts)]
    _say(
        f"{len(wanted)} different models for {sum(map(len, entrants(ranked).values()))} rows,"
        f" {len(models)} of them for {len(parts)} parts to answer"
    )
    began = time.monotonic()
    if parts:
        shares = [[models[i] for i in share] for share in shared_out(models, args.jobs)]
        pools = [
            (
                ProcessPoolExecutor(
                    1, get_context("spawn"), _prepare, (args.calibration_size, share)
                ),
                share,
            )
            for share in shares
            if share or len(shares) == 1
        ]
        for first, name in parts:
            if args.minutes and time.monotonic() - began > 60 * args.minutes:
                break
            found = _answered(saved, name, first)
            for share, one in [
                (share, pool.submit(_marks, name, first, args.questions)) for pool, share in pools
            ]:
                found |= dict(zip([FULL, *map(key_of, share)], one.result()))
            _keep(saved, name, first, found)
            made = summary(settings, ranked, saved)
            _save(args.out, made)
            _say(f"{time.monotonic() - began:5.0f} s, questions {made['n']}")
        for pool, _ in pools:
            pool.shutdown()
    if not any(saved.glob("*.npz")):
        raise SystemExit("Nothing was measured.")
    made = summary(settings, ranked, saved)
    _save(args.out, made)
    return made


def _ranked(args: argparse.Namespace, settings: dict, saved: Path) -> dict[int, dict]:
    """Each seed's plans by every criterion and, unless only criteria are asked for, by every
    preset; kept in files. A changed preset plans anew.
    """
    from svl_core.comparison.presets import PRESETS

    pool, seeds = ProcessPoolExecutor(args.jobs, get_context("spawn")), settings["seeds"]

    def kept(file: Path, function, *inputs) -> dict[int, dict[int, list[int]]]:
        if not file.exists():
            _say(f"planning: {file.stem}")
            file.write_text(
                json.dumps(dict(zip(seeds, pool.map(function, seeds, *inputs)))), encoding="utf-8"
            )
        return {
            int(seed): found for seed, found in json.loads(file.read_text(encoding="utf-8")).items()
        }

    whole = {
        seed: {name: _numbered(plans) for name, plans in found.items()}
        for seed, found in kept(
            saved / "rankings.json", rankings, [args.calibration_size] * len(seeds)
        ).items()
    }
    ranked = {seed: dict(found) for seed, found in whole.items()}
    for name, preset in {} if args.criteria_only else PRESETS.items():
        mark = hashlib.sha256(repr(preset).encode()).hexdigest()[:8]
        plans = kept(
            saved / f"{PRESET}-{name}-{mark}.json",
            preset_plans,
            [whole[seed] for seed in seeds],
            [name] * len(seeds),
            [args.calibration_size] * len(seeds),
        )
        for seed in seeds:
            ranked[seed][f"{PRESET}:{name}"] = _numbered(plans[seed])
    pool.shutdown()
    return ranked


def _numbered(plans: dict) -> dict[int, list[int]]:
    return {int(drop): layers for drop, layers in plans.items()}


def key_of(entrant: tuple) -> str:
    """A model's name in the files of parts: its dropped layers, what compensates, the seed.

    A preset's settings are part of it.
    """
    from svl_core.comparison.presets import PRESETS

    layers, how, seed = entrant
    mark = (
        hashlib.sha256(repr(PRESETS[how.partition(":")[2]]).encode()).hexdigest()[:8]
        if how.startswith(PRESET)
        else ""
    )
    return f"{','.join(map(str, layers))}|{how}{mark}|{'' if seed is None else seed}"


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
    with np.load(_part(folder, data, first)) as kept:
        return dict(
            zip(
                kept["models"].tolist(),
                np.unpackbits(kept["marks"], axis=1, count=int(kept["questions"])).astype(bool),
            )
        )


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
    file.with_suffix(".tmp").write_text(
        head.replace('"rows": []', '"rows": [\n' + lines + "\n]") + "\n", encoding="utf-8"
    )
    file.with_suffix(".tmp").replace(file)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# The statistics


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson 95 % interval of a share of n questions."""
    z2 = Z_95**2 / n
    centre, half = (
        (share + z2 / 2) / (1 + z2),
        Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n)),
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(marks: np.ndarray, full: np.ndarray) -> tuple[float, float]:
    """Difference of accuracy and the half width of its 95 % interval. marks: (seeds, n), full: (n,)
    or (seeds, n), the same n questions.

    The seeds are averaged question by question, so that the questions are what is drawn at random:
    1.96 standard errors of that mean.
    """
    gap = np.atleast_2d(marks).astype(float).mean(0) - np.atleast_2d(full).astype(float).mean(0)
    return float(gap.mean()), (
        float(Z_95 * gap.std(ddof=1) / math.sqrt(len(gap))) if len(gap) > 1 else 0.0
    )


def summary(settings: dict, ranked: dict, saved: Path) -> dict:
    """All rows of the table from the parts that every model has answered so far."""
    parts = {
        name: [
            part
            for first in range(0, settings["questions"], PART)
            if (part := _answered(saved, name, first))
        ]
        for name in settings["data"]
    }
    whole = {row: key for key, rows in entrants(ranked).items() for row in rows}
    counts, rows = sorted({row[2] for row in whole}), []

    def marks(name: str, wanted: list[tuple]) -> np.ndarray:
        """(1 + wanted, n): the full model's and the wanted rows' marks on the questions that all of
        them answered.
        """
        names = [FULL, *(key_of(whole[row]) for row in wanted)]
        tables = [
            np.stack([part[model] for model in names])
            for part in parts[name]
            if set(names) <= set(part)
        ]
        return np.concatenate(tables, axis=1) if tables else np.zeros((len(names), 0), bool)

    for criterion, compensation in recipes():
        for drop in counts:
            keys = [(criterion, compensation, drop, seed) for seed in settings["seeds"]]
            if not set(keys) <= set(whole):
                continue
            row = {
                "criterion": criterion,
                "compensation": compensation,
                "drop": drop,
                "layers": [list(whole[key][0]) for key in keys],
                "data": {},
            }
            for name in settings["data"]:
                full, *own = marks(name, keys)
                if not len(full):
                    continue
                own = np.array(own)
                accuracy, (difference, half) = float(own.mean()), paired(own, full)
                row["data"][name] = {
                    "n": len(full),
                    "accuracy": accuracy,
                    "interval": wilson(accuracy, len(full)),
                    "by_seed": own.mean(1).tolist(),
                    "difference": difference,
                    "half_width": half,
                    "kept": accuracy / float(full.mean()),
                    "kept_half_width": half / float(full.mean()),
                }
            if len(row["data"]) == len(settings["data"]):
                kept = [each["kept"] for each in row["data"].values()]
                rows.append(
                    row
                    | {
                        "kept": float(np.mean(kept)),
                        "kept_half_width": (
                            math.sqrt(
                                sum(each["kept_half_width"] ** 2 for each in row["data"].values())
                            )
                            / len(kept)
                        ),
                    }
                )
    n = {
        name: (
            [
                min(row["data"][name]["n"] for row in rows),
                max(row["data"][name]["n"] for row in rows),
            ]
            if rows
            else [0, 0]
        )
        for name in settings["data"]
    }
    full = {name: marks(name, [])[0] for name in settings["data"]}
    return {
        "settings": settings,
        "n": n,
        "complete": (
            len(rows) == len(recipes()) * len(counts)
            and all(least == settings["questions"] for least, _ in n.values())
        ),
        "layers": layers_of_model(),
        "shares": {str(drop): share for drop, share in drop_counts(layers_of_model()).items()},
        "models": len(set(whole.values())),
        "full": {
            name: {
                "accuracy": float(each.mean()),
                "interval": wilson(float(each.mean()), len(each)),
            }
            for name, each in full.items()
            if len(each)
        },
        "published": published(marks, rows, counts, settings),
        "rows": rows,
    }


def layers_of_model() -> int:
    return json.loads((WEIGHTS.parent / "config.json").read_text(encoding="utf-8"))["text_config"][
        "num_hidden_layers"
    ]


def published(marks, rows: list[dict], counts: list[int], settings: dict) -> list[dict]:
    """SVL as published against each uncompensated baseline on the questions that both answered:
    paired difference of accuracy, the data sets averaged.
    """
    made, found = [], {(row["criterion"], row["compensation"], row["drop"]) for row in rows}
    for drop in counts:
        for criterion, compensation in recipes():
            if (
                compensation != "none"
                or not {(criterion, compensation, drop), (*PUBLISHED, drop)} <= found
            ):
                continue
            gaps = []
            for name in settings["data"]:
                table = marks(
                    name,
                    [
                        (*one, drop, seed)
                        for one in (PUBLISHED, (criterion, compensation))
                        for seed in settings["seeds"]
                    ],
                )[1:]
                gaps.append(paired(*np.split(table, 2)))
            made.append(
                {
                    "drop": drop,
                    "baseline": criterion,
                    "difference": float(np.mean([g for g, _ in gaps])),
                    "half_width": math.sqrt(sum(h * h for _, h in gaps)) / len(gaps),
                }
            )
    return made


# The report


def _span(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _asked_for() -> str:
    from svl_core.comparison.presets import PRESETS

    return "".join(
        f" (preset `{name}`: {preset.samples})"
        for name, preset in PRESETS.items()
        if preset.samples
    )


def percent(row: dict) -> str:
    return f"{row['kept']:.1%}"


def table(made: dict) -> str:
    """The page's figures as Markdown."""
    counts = sorted({row["drop"] for row in made["rows"]})
    find = {(row["criterion"], row["compensation"], row["drop"]): row for row in made["rows"]}
    names = list(dict.fromkeys((row["criterion"], row["compensation"]) for row in made["rows"]))
    n = " and ".join(f"{_span(*counts_of)} {name}" for name, counts_of in made["n"].items())
    full = ", ".join(
        f"{name} {each['accuracy']:.1%} ({each['interval'][0]:.1%} to {each['interval'][1]:.1%})"
        for name, each in made["full"].items()
    )
    settings = made["settings"]
    lines = [
        f"Accuracy kept against the full model ({full}), mean of the data sets ({n} questions,"
        f" exact match) and of {len(settings['seeds'])} calibration seeds of"
        f" {settings['calibration_samples']} scenes each{_asked_for()}; {made['layers']} layers,"
        f" question seed {settings['question_seed']}, weights `{settings['weights']}`; ± is half"
        " the 95 % interval of the paired difference."
        + (
            ""
            if made["complete"]
            else (
                " Rows answered different numbers of questions, first to last named; the presets"
                " and the rows without compensation the most (`rows` in the results file)."
            )
        ),
        "",
    ]
    heading = (
        "| " + " | ".join(f"{drop} ({made['shares'][str(drop)]:.0%})" for drop in counts) + " |"
    )
    lines += ["| preset " + heading, "| --- |" + " --- |" * len(counts)]
    for criterion, name in names:
        if criterion == PRESET:
            lines.append(
                f"| {name} | "
                + " | ".join(
                    f"{percent(find[criterion, name, d])} ±"
                    f" {find[criterion, name, d]['kept_half_width']:.1%}"
                    for d in counts
                )
                + " |"
            )
    bars = {d: BARS.get(made["shares"][str(d)]) for d in counts}
    lines.append(
        "| *aim* | " + " | ".join(f"{bars[d]:.1%}" if bars[d] else "-" for d in counts) + " |"
    )
    lines += [
        "",
        (
            "SVL as published (`svl` + `scp`, the preset) minus the best uncompensated baseline, in"
            " points of accuracy (positive: SVL is better):"
        ),
        "",
        "| dropped | best baseline | difference (95 % interval) |",
        "| --- | --- | --- |",
    ]
    for drop in counts:
        worst = min(
            (row for row in made["published"] if row["drop"] == drop),
            key=lambda row: row["difference"],
        )
        low, high = (100 * (worst["difference"] + sign * worst["half_width"]) for sign in (-1, 1))
        lines.append(
            f"| {drop} | {worst['baseline']} | {100 * worst['difference']:+.1f} ({low:+.1f} to"
            f" {high:+.1f}) |"
        )
    lines += [
        "",
        "<details><summary>All criteria with all compensations</summary>",
        "",
        "| criterion | compensation " + heading,
        "| --- | --- |" + " --- |" * len(counts),
    ]
    best = {d: max(find[c, k, d]["kept"] for c, k in names if c != PRESET) for d in counts}
    for criterion, compensation in names:
        if criterion != PRESET:
            cells = [find[criterion, compensation, d] for d in counts]
            lines.append(
                f"| {criterion} | {compensation} | "
                + " | ".join(
                    f"**{percent(row)}**" if row["kept"] == best[row["drop"]] else percent(row)
                    for row in cells
                )
                + " |"
            )
    return "\n".join([*lines, "", "</details>"])


def with_figures(text: str, made: dict) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--questions",
        type=int,
        default=2000,
        metavar="N",
        help="questions of each data set (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
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
        "--calibration-size",
        type=int,
        default=32,
        metavar="N",
        help="calibration scenes a seed (default: %(default)s)",
    )
    parser.add_argument(
        "--compensations",
        default=",".join(dict.fromkeys(name for _, name in recipes() if _ != PRESET)),
        metavar="LIST",
        help="answer only with these; presets are answered too (default: all)",
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
    if args.out == RESULTS:
        rewrite(PAGE, BEGIN, END, table(made))
    print(table(made))


if __name__ == "__main__":
    main()
