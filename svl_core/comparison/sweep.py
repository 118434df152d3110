"""Sweeps: every drop count with every criterion and compensation, measured for fidelity and speed,
resumable and cancellable.

Layers are ranked and compensations fitted on one set of samples, and the pruned models measured on
another.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from svl_core.analysis.importance import TokenImportance
from svl_core.analysis.ranking import importance_of, rank_layers
from svl_core.analysis.redundancy import CRITERIA, LayerScores
from svl_core.analysis.trace import Trace, trace
from svl_core.comparison.calibration import disjoint
from svl_core.comparison.evaluation import Question, answer_batch, evaluate
from svl_core.comparison.speed import Speedup, measure_speedup
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.reference import Reference
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan, plan
from svl_core.pruning.prune import prune
from svl_core.recipe import Recipe

RANDOM = "random"  # the one criterion that is drawn several times and averaged
FALL = 0.1  # a cliff is a fall by at least this much between one drop count and the next


@dataclass(frozen=True)
class SweepRow:
    """One pruned model, measured.

    layers: what was dropped (0-based; of the first draw where several are averaged). kl:
    nats/token. agreement: share (0..1) of answer tokens that stay most likely. exact: share of
    samples with the full model's very answer. accuracy: on labelled questions, None without.
    speedup: full / pruned time of an answer; the parts beside it. spread: standard deviations over
    draws, None for a single one.
    """

    criterion: str
    compensation: str
    drop: int
    layers: tuple[int, ...]
    kl: float
    agreement: float
    exact: float
    accuracy: float | None
    speedup: float
    speedup_prefill: float
    speedup_decode: float
    parameters: int
    spread: Mapping[str, float] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What the row measures: criterion, compensation, number of layers dropped."""
        return self.criterion, self.compensation, self.drop

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> SweepRow:
        return cls(**{**row, "layers": tuple(row["layers"])})


MEASURES = ("kl", "agreement", "exact", "accuracy")


@dataclass(frozen=True, eq=False)
class Sweep:
    """All rows of a sweep, with what they were made from: `header` holds model, samples and
    settings, `rankings` each criterion's own (of the first draw).
    """

    header: Mapping[str, Any]
    rows: tuple[SweepRow, ...]
    rankings: Mapping[str, LayerScores] = field(default_factory=dict)

    def curve(self, criterion: str, compensation: str) -> tuple[SweepRow, ...]:
        """The rows of one recipe by drop count."""
        return tuple(
            sorted(
                (
                    r
                    for r in self.rows
                    if (r.criterion, r.compensation) == (criterion, compensation)
                ),
                key=lambda r: r.drop,
            )
        )

    @property
    def recipes(self) -> tuple[tuple[str, str], ...]:
        """(criterion, compensation) pairs in order of first appearance."""
        return tuple(dict.fromkeys((r.criterion, r.compensation) for r in self.rows))

    def cliffs(
        self, measure: str = "agreement", fall: float = FALL
    ) -> dict[tuple[str, str], int | None]:
        """For each recipe the drop count at its cliff, see `cliff`."""
        return {recipe: cliff(self.curve(*recipe), measure, fall) for recipe in self.recipes}

    def pareto(self, measure: str = "agreement") -> tuple[SweepRow, ...]:
        """Rows that no other beats in both fidelity and speed-up, slowest first."""
        return pareto(self.rows, measure)

    def to_json(self) -> dict[str, Any]:
        measure = (
            "accuracy"
            if self.rows and all(r.accuracy is not None for r in self.rows)
            else "agreement"
        )
        return {
            **self.header,
            "rows": [row.to_json() for row in self.rows],
            "cliffs": [
                {"criterion": c, "compensation": k, "drop": d}
                for (c, k), d in self.cliffs(measure).items()
            ],
            "pareto": [
                {"criterion": r.criterion, "compensation": r.compensation, "drop": r.drop}
                for r in self.pareto(measure)
            ],
        }

    def to_csv(self) -> str:
        """One line a row under a line of names; layers separated by spaces, nothing for what was
        not measured.
        """
        names = [field.name for field in fields(SweepRow) if field.name != "spread"] + [
            f"{m}_sd" for m in MEASURES
        ]
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(names)
        for row in self.rows:
            values = (
                row.to_json()
                | {"layers": " ".join(map(str, row.layers))}
                | {f"{m}_sd": (row.spread or {}).get(m) for m in MEASURES}
            )
            table.writerow(["" if values[name] is None else values[name] for name in names])
        return out.getvalue()


def _fidelity(row: SweepRow, measure: str) -> float:
    """The measure, turned so that more is better."""
    value = getattr(row, measure)
    if value is None:
        raise InputError(
            f"Found rows without {measure}; expected it to be measured; sweep with labelled"
            " questions or choose agreement."
        )
    return -value if measure == "kl" else value


def cliff(curve: Sequence[SweepRow], measure: str = "agreement", fall: float = FALL) -> int | None:
    """The drop count right after the steepest fall between neighbouring rows of a curve, if it is
    at least `fall` deep.

    None: no fall is that deep. The earliest counts among equals. Dropping one layer less stays
    above the cliff.
    """
    steps = [
        (_fidelity(a, measure) - _fidelity(b, measure), b.drop) for a, b in zip(curve, curve[1:])
    ]
    deepest = max(steps, key=lambda step: step[0], default=(0.0, None))
    return deepest[1] if deepest[0] >= fall else None


def pareto(rows: Iterable[SweepRow], measure: str = "agreement") -> tuple[SweepRow, ...]:
    """Rows that no other row beats in both fidelity and speed-up, by rising speed-up."""
    best: list[SweepRow] = []
    for row in sorted(rows, key=lambda r: (-r.speedup, -_fidelity(r, measure))):
        if not best or _fidelity(row, measure) > _fidelity(best[-1], measure):
            best.append(row)
    return tuple(reversed(best))


def sweep(
    lvlm: LVLM,
    measured: Sequence[Sample],
    fit: Sequence[Sample],
    recipe: Recipe | None = None,
    *,
    criteria: Sequence[str] | None = None,
    compensations: Sequence[str] | None = None,
    drops: Sequence[int] | None = None,
    questions: Sequence[Question] | None = None,
    draws: int = 3,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    repeats: int = 5,
    spool: str | Path | None = None,
    resume: str | Path | Sweep | None = None,
    allow_shared: bool = False,
    each: Callable[[Sweep], None] | None = None,
    run: Run = QUIET,
) -> Sweep:
    """Prunes and measures every (criterion, compensation, drop count).

    measured: the samples that fidelity is measured on.
    fit: the samples that layers are ranked and compensations fitted on; those that are also
        measured are left out, unless `allow_shared` (the header then says so).
    recipe: the settings that all rows share.
    criteria, compensations: names (default: the recipe's one).
    drops: numbers of layers to drop (default: 0 .. all droppable layers).
    questions: labelled questions, whose accuracy is measured too.
    draws: how many seeds, from the recipe's on, the random criterion is averaged over.
    repeats: timed answers for each size of model.
    spool: as for `trace`, of the fit and of the predictions that rows are measured against.
    resume: a JSON file that is written after every row and read first, so that a stopped sweep goes
        on where it was; or a sweep in memory to go on with, rankings and all.
    each: called with all rows so far after every new one.

    Raises InputError for unknown names, drop counts out of range, nothing to measure or fit on, or
    a `resume` file of another sweep; Cancelled.
    """
    recipe = recipe or Recipe()
    names = (
        (recipe.criterion,) if criteria is None else tuple(criteria),
        (recipe.compensation,) if compensations is None else tuple(compensations),
    )
    _check_names(measured, *names)
    fit = fit if allow_shared else disjoint(fit, measured)
    asked = Asked(measured, questions, max_new_tokens, batch_size)
    fitted = FitSet.traced(lvlm, fit, recipe, names[1], spool, run)
    known = resume if isinstance(resume, Sweep) else None
    if known is not None:
        fitted.rankings.update(
            {(name, recipe.seed): ranking for name, ranking in known.rankings.items()}
        )
    counts = _drop_counts(drops, fitted, names[0])
    header = _header(lvlm, asked, fitted, draws)
    file = Path(resume).expanduser() if resume and known is None else None
    rows = _known_rows(known, file, header)
    meter = Meter(lvlm, asked, fitted, draws, repeats, spool, run)
    todo = [(c, k, d) for c in names[0] for k in names[1] for d in counts]
    have = {row.key for row in rows}
    for done, key in enumerate(todo):
        run.check("Stopped before the sweep was complete.")
        if key in have:
            continue
        criterion, compensation, drop = key
        what = f"{criterion}, {compensation}, {drop} of {lvlm.num_layers} layers dropped"
        run.report(done / len(todo), what)
        rows.append(meter.row(criterion, compensation, drop))
        if file:
            _write(file, header, rows)
        if each is not None:
            each(Sweep(header, tuple(rows), fitted.own_rankings))
    run.report(1.0, "sweep complete")
    order = {key: place for place, key in enumerate(todo)}
    wanted = sorted((row for row in rows if row.key in order), key=lambda row: order[row.key])
    return Sweep(header, tuple(wanted), fitted.own_rankings)


def _check_names(
    measured: Sequence[Sample], criteria: Sequence[str], compensations: Sequence[str]
) -> None:
    """Raises InputError for nothing to measure on, and for an empty or unknown choice."""
    if not measured:
        raise InputError(
            "Found no samples to measure on; expected at least one image and prompt; add some."
        )
    for what, names, registry in (
        ("criterion", criteria, CRITERIA),
        ("compensation", compensations, COMPENSATIONS),
    ):
        if not names:
            raise InputError(
                f"Found no {what}; expected at least one of {', '.join(registry)}; choose one."
            )
        for name in names:
            if name not in registry:
                raise InputError(
                    f"Found the {what} '{name}'; expected one of {', '.join(registry)}; choose one."
                )


@dataclass(frozen=True, eq=False)
class Asked:
    """What every row of a sweep is measured on."""

    samples: Sequence[Sample]
    questions: Sequence[Question] | None
    max_new_tokens: int
    batch_size: int


@dataclass(eq=False)
class FitSet:
    """The samples that layers are ranked and compensations fitted on, traced once for all rows.

    rankings: by criterion and seed, each made when it is first asked for.
    """

    lvlm: LVLM
    samples: Sequence[Sample]
    recipe: Recipe
    trace: Trace
    weights: TokenImportance
    run: Run
    rankings: dict[tuple[str, int], LayerScores] = field(default_factory=dict)

    @classmethod
    def traced(
        cls,
        lvlm: LVLM,
        samples: Sequence[Sample],
        recipe: Recipe,
        compensations: Sequence[str],
        spool: str | Path | None,
        run: Run,
    ) -> FitSet:
        run.report(0.0, "tracing the calibration set")
        needs_mlp = any(COMPENSATIONS[name].needs_mlp for name in compensations)
        made = trace(lvlm, samples, mlp=needs_mlp, spool=spool, run=run.silent())
        return cls(lvlm, samples, recipe, made, importance_of(made, recipe), run)

    def ranking(self, criterion: str, seed: int) -> LayerScores:
        if (criterion, seed) not in self.rankings:

            def told(share: float | None, what: str) -> None:
                self.run.report(0.0, f"ranking by {criterion}: {share or 0:.0%}")

            self.rankings[criterion, seed] = rank_layers(
                self.recipe.changed(seed=seed, rounds=None, layers=None),
                self.trace,
                self.weights,
                criterion=criterion,
                lvlm=self.lvlm,
                samples=self.samples,
                run=Run(told, self.run.cancel),
            )
        return self.rankings[criterion, seed]

    @property
    def own_rankings(self) -> dict[str, LayerScores]:
        """The rankings of the recipe's own seed, by criterion."""
        seed = self.recipe.seed
        return {name: ranking for (name, at), ranking in self.rankings.items() if at == seed}


@dataclass(eq=False)
class Meter:
    """Measures one pruned model after another against the full one."""

    lvlm: LVLM
    asked: Asked
    fitted: FitSet
    draws: int
    repeats: int
    spool: str | Path | None
    run: Run

    def __post_init__(self) -> None:
        self.run.report(0.0, "answering with the full model")
        asked, quiet = self.asked, self.run.silent()
        ids = answer_batch(
            self.lvlm,
            asked.samples,
            batch_size=asked.batch_size,
            max_new_tokens=asked.max_new_tokens,
            run=quiet,
        )
        self.reference = Reference.of(
            self.lvlm,
            asked.samples,
            ids,
            batch_size=asked.batch_size,
            spool=self.spool,
            run=quiet,
        )
        self._speedups: dict[tuple[int, int], Speedup] = {}

    def row(self, criterion: str, compensation: str, drop: int) -> SweepRow:
        """Mean over the draws of a random criterion; a single measurement otherwise."""
        first = self.fitted.recipe.seed
        seeds = range(first, first + self.draws) if criterion == RANDOM and drop else [first]
        rows = [
            self._measured(plan(self.fitted.ranking(criterion, seed), drop), compensation)
            for seed in seeds
        ]
        return rows[0] if len(rows) == 1 else _averaged(rows)

    def _measured(self, chosen: DropPlan, compensation: str) -> SweepRow:
        fitted = self.fitted
        recipe = fitted.recipe.changed(compensation=compensation)
        pruned = prune(self.lvlm, chosen, recipe, fitted.trace, fitted.weights)
        found = self.reference.measure(pruned, self.run.silent())
        speed = self._speedup(pruned)
        return SweepRow(
            criterion=chosen.criterion,
            compensation=compensation,
            drop=len(chosen.drop),
            layers=chosen.drop,
            kl=float(found.kl.mean()),
            agreement=float(found.agreement.mean()),
            exact=float((found.agreement == 1).mean()),
            accuracy=self._accuracy(pruned),
            speedup=speed.total,
            speedup_prefill=speed.prefill,
            speedup_decode=speed.decode,
            parameters=pruned.num_parameters,
        )

    def _accuracy(self, pruned: LVLM) -> float | None:
        if not self.asked.questions:
            return None
        return evaluate(
            pruned,
            self.asked.questions,
            batch_size=self.asked.batch_size,
            max_new_tokens=self.asked.max_new_tokens,
            run=self.run.silent(),
        ).accuracy

    def _speedup(self, pruned: LVLM) -> Speedup:
        """Measured once for each size of model: which layers are missing makes no difference to the
        work.
        """
        size = (pruned.num_layers, pruned.num_parameters)
        if size == (self.lvlm.num_layers, self.lvlm.num_parameters):
            return Speedup(1.0, 1.0, 1.0)
        if size not in self._speedups:
            self._speedups[size] = measure_speedup(
                self.lvlm, pruned, self.asked.samples[0], repeats=self.repeats
            )
        return self._speedups[size]


def _averaged(rows: Sequence[SweepRow]) -> SweepRow:
    """Mean and standard deviation of several draws."""
    values = {
        measure: [getattr(row, measure) for row in rows]
        for measure in MEASURES
        if getattr(rows[0], measure) is not None
    }
    means = {measure: float(np.mean(drawn)) for measure, drawn in values.items()}
    spread = {measure: float(np.std(drawn, ddof=1)) for measure, drawn in values.items()}
    return replace(rows[0], **means, spread=spread)


def _drop_counts(
    drops: Sequence[int] | None, fitted: FitSet, criteria: Sequence[str]
) -> tuple[int, ...]:
    """The numbers of layers to drop, in order. Raises InputError for some out of range."""
    seed = fitted.recipe.seed
    most = min(fitted.ranking(criterion, seed).most for criterion in criteria)
    counts = tuple(range(most + 1)) if drops is None else tuple(sorted(set(drops)))
    if not counts or counts[0] < 0 or counts[-1] > most:
        raise InputError(
            f"Found the drop counts {list(counts)}; expected some from 0 to {most}; change them."
        )
    return counts


UNSHARED = (
    "criterion",
    "compensation",
    "drop",
    "layers",
    "preset",
    "calibration",
    "calibration_size",
    "rounds",
    "visual_share",
)
"""Fields of a recipe that differ between a sweep's rows, are told by its samples, or do nothing."""


def _header(lvlm: LVLM, asked: Asked, fitted: FitSet, draws: int) -> dict[str, Any]:
    """What makes two sweeps the same: their rows may be put together.

    Criteria and drop counts may grow between runs.
    """
    measured, fit = ([s.key for s in samples] for samples in (asked.samples, fitted.samples))
    questions = [f"{q.question}\t{q.answer}\t{q.kind}" for q in asked.questions or ()]
    recipe = fitted.recipe.to_json()
    return {
        "model": lvlm.name,
        "revision": lvlm.revision,
        "layers": lvlm.num_layers,
        "layer_ids": list(lvlm.layer_ids),
        "measured": {"samples": len(measured), "digest": _digest(measured)},
        "fit": {
            "samples": len(fit),
            "digest": _digest(fit),
            "measured_too": len(set(fit) & set(measured)),
        },
        "questions": {"n": len(questions), "digest": _digest(questions)} if questions else None,
        "settings": {
            "draws": draws,
            "max_new_tokens": asked.max_new_tokens,
            "recipe": {name: value for name, value in recipe.items() if name not in UNSHARED},
        },
    }


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _known_rows(
    known: Sweep | None, file: Path | None, header: Mapping[str, Any]
) -> list[SweepRow]:
    """The rows of the sweep that goes on. Raises InputError where it is another one."""
    if known is not None:
        _check_same(known.header, header, "memory")
        return list(known.rows)
    return _read(file, header) if file else []


def _read(file: Path, header: Mapping[str, Any]) -> list[SweepRow]:
    """Rows of an unfinished sweep; none if there is no file yet."""
    if not file.exists():
        return []
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        rows = [SweepRow.from_json(row) for row in written.pop("rows")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"Found {file}, which holds no sweep; expected one to resume or a new name; give"
            " another file."
        ) from None
    _check_same(written, header, str(file))
    return rows


def _check_same(known: Mapping[str, Any], header: Mapping[str, Any], where: str) -> None:
    """Raises InputError where the rows of `known` and of `header` cannot be put together."""
    plain = json.loads(
        json.dumps({"known": {key: known.get(key) for key in header}, "header": header})
    )
    if differing := [key for key in header if plain["known"][key] != plain["header"][key]]:
        raise InputError(
            f"Found a sweep with other {', '.join(differing)} in {where}; expected the same sweep"
            " to resume; give another one."
        )


def _write(file: Path, header: Mapping[str, Any], rows: Sequence[SweepRow]) -> None:
    """Replaces the file in one step, so that a stop never leaves half a file."""
    partial = file.with_name(file.name + ".part")
    partial.write_text(
        json.dumps({**header, "rows": [row.to_json() for row in rows]}, indent=1) + "\n",
        encoding="utf-8",
    )
    os.replace(partial, file)
