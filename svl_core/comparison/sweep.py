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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from svl_core.analysis.importance import TokenImportance
from svl_core.analysis.ranking import importance_of, rank_layers
from svl_core.analysis.redundancy import CRITERIA, LayerScores
from svl_core.analysis.trace import Trace, trace
from svl_core.comparison.calibration import disjoint
from svl_core.comparison.evaluation import LabelledQuestion, answer_batch, evaluate
from svl_core.comparison.speed import SAME, Stopwatch
from svl_core.errors import InputError
from svl_core.files import expanded, replace_text
from svl_core.lvlm.features import FeatureStore, KnownFeatures
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.reference import Reference
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import seen_all
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan, plan
from svl_core.pruning.prune import check_uncompensated, prune
from svl_core.pruning.selectors import acts, selector_of
from svl_core.pruning.tokens import thin
from svl_core.recipe import HALF, HALVES, OF_A_ROW, THINNING, Recipe

RANDOM = "random"
"""The one criterion that is drawn several times and averaged."""

FALL = 0.1
"""A cliff is a fall by at least this much between one drop count and the next."""

MEASURES = ("kl", "agreement", "exact", "accuracy")
"""What a row measures; several draws of the random criterion are averaged over these."""

TIMES = tuple(SAME.of_a_row())
"""What rows of equal size have in common."""

KEY = ("criterion", "compensation", "drop")
"""What tells a sweep's rows apart."""


@dataclass(frozen=True)
class SweepRow:
    """One pruned model, measured.

    drop: the number of layers dropped, or of halves.
    layers: the layers that are gone, 0-based; of the first draw where several are averaged.
    kl: mean KL(full || pruned), nats/token.
    agreement: the share 0..1 of the answers' tokens that stay the most likely.
    exact: the share 0..1 of samples with the full model's very answer.
    accuracy: 0..1 on labelled questions; None without.
    speedup: full / pruned time of an answer, measured.
    speedup_prefill, speedup_decode: of its two parts.
    parameters: their number.
    spread: standard deviations over the draws by measure; None for a single one.
    expected: the speed-up of an answer by the work that is left; None in files of older sweeps.
    noise: why `speedup` says nothing; None where it does.
    attention, mlp: layers that skip that half.
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
    expected: float | None = None
    noise: str | None = None
    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()

    @property
    def likely_speedup(self) -> float:
        """The measured speed-up, or the expected one where that is noise."""
        if self.noise is None or self.expected is None:
            return self.speedup
        return self.expected

    @property
    def key(self) -> tuple[str, str, int]:
        """What the row measures: criterion, compensation, number of layers dropped."""
        return self.criterion, self.compensation, self.drop

    def to_json(self) -> dict[str, Any]:
        """The row, with the halves that are skipped where some are."""
        written = asdict(self) | {"layers": list(self.layers)}
        for half in HALVES:
            skipping = list(written.pop(half))
            if self.attention or self.mlp:
                written[half] = skipping
        return written

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> SweepRow:
        lists = {name: tuple(row[name]) for name in ("layers", *HALVES) if name in row}
        return cls(**{**row, **lists})


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Shown):
    """All rows of a sweep, with what they were made from.

    header: model, samples and settings.
    rankings: by criterion, of the first draw.
    """

    header: Mapping[str, Any]
    rows: tuple[SweepRow, ...]
    rankings: Mapping[str, LayerScores] = field(default_factory=dict)

    def brief(self) -> dict[str, Any]:
        return {
            "model": self.header.get("model"),
            "rows": len(self.rows),
            "recipes": tuple(" + ".join(recipe) for recipe in self.recipes),
        }

    def table(self) -> list[tuple[Any, ...]]:
        names = ("criterion", "compensation", "drop", "kl", "agreement", "exact", "speedup")
        return [names, *(tuple(getattr(row, name) for name in names) for row in self.rows)]

    def curve(
        self,
        criterion: str,
        compensation: str,
    ) -> tuple[SweepRow, ...]:
        """The rows of one recipe by drop count."""
        rows = [
            row
            for row in self.rows
            if (row.criterion, row.compensation) == (criterion, compensation)
        ]
        return tuple(sorted(rows, key=lambda row: row.drop))

    @property
    def recipes(self) -> tuple[tuple[str, str], ...]:
        """(criterion, compensation) pairs in order of first appearance."""
        pairs = ((row.criterion, row.compensation) for row in self.rows)
        return tuple(dict.fromkeys(pairs))

    def cliffs(
        self,
        measure: str = "agreement",
        fall: float = FALL,
    ) -> dict[tuple[str, str], int | None]:
        """For each recipe the drop count at its cliff, see `cliff`."""
        return {recipe: cliff(self.curve(*recipe), measure, fall) for recipe in self.recipes}

    def pareto(self, measure: str = "agreement") -> tuple[SweepRow, ...]:
        """Rows that no other beats in both fidelity and likely speed-up, slowest first."""
        return pareto(self.rows, measure)

    def to_json(self) -> dict[str, Any]:
        labelled = self.rows and all(row.accuracy is not None for row in self.rows)
        measure = "accuracy" if labelled else "agreement"
        cliffs = [(*recipe, drop) for recipe, drop in self.cliffs(measure).items()]
        best = [row.key for row in self.pareto(measure)]
        return {
            **self.header,
            "rows": [row.to_json() for row in self.rows],
            "cliffs": [dict(zip(KEY, key, strict=True)) for key in cliffs],
            "pareto": [dict(zip(KEY, key, strict=True)) for key in best],
        }

    def to_csv(self) -> str:
        """One line a row under a line of names; layers separated by spaces, nothing for what was
        not measured. Columns of halves only where some are skipped.
        """
        whole = not any(row.attention or row.mlp for row in self.rows)
        left_out = ("spread", *HALVES) if whole else ("spread",)
        names = [column.name for column in fields(SweepRow) if column.name not in left_out]
        deviations = [f"{measure}_sd" for measure in MEASURES]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*names, *deviations])
        for row in self.rows:
            values = row.to_json()
            for name in ("layers", *HALVES):
                values[name] = " ".join(map(str, getattr(row, name)))
            spread = row.spread or {}
            cells = [values[name] for name in names]
            cells += [spread.get(measure) for measure in MEASURES]
            table.writerow(["" if cell is None else cell for cell in cells])
        return text.getvalue()


def _fidelity(row: SweepRow, measure: str) -> float:
    """The measure, turned so that more is better."""
    value = getattr(row, measure)
    if value is None:
        raise InputError(
            f"Found rows without {measure}; expected it to be measured; sweep with labelled"
            " questions or choose agreement."
        )
    return -value if measure == "kl" else value


def cliff(
    curve: Sequence[SweepRow],
    measure: str = "agreement",
    fall: float = FALL,
) -> int | None:
    """The drop count right after the steepest fall between neighbouring rows of a curve; dropping
    one layer less stays above the cliff.

    curve: rows by drop count. The earliest fall counts among equals.
    fall: how deep it must be at least, in the measure's unit. None: no fall is that deep.
    """
    deepest = 0.0
    at: int | None = None
    for row, following in pairwise(curve):
        depth = _fidelity(row, measure) - _fidelity(following, measure)
        if at is None or depth > deepest:
            deepest = depth
            at = following.drop
    return at if deepest >= fall else None


def pareto(rows: Iterable[SweepRow], measure: str = "agreement") -> tuple[SweepRow, ...]:
    """Rows that no other row beats in both fidelity and likely speed-up, by rising speed-up."""

    def fastest_first(row: SweepRow) -> tuple[float, float]:
        return -row.likely_speedup, -_fidelity(row, measure)

    best: list[SweepRow] = []
    for row in sorted(rows, key=fastest_first):
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
    questions: Sequence[LabelledQuestion] | None = None,
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
    recipe: the settings that all rows share. Where it thins visual tokens, every pruned model reads
        them so, that without a dropped layer too. Where its granularity is "half", halves of layers
        are ranked and dropped, and drop counts count them.
    criteria, compensations: names (default: the recipe's one).
    drops: numbers of layers to drop (default: 0 .. all droppable ones).
    questions: labelled questions, whose accuracy is measured too.
    draws: how many seeds, from the recipe's on, the random criterion is averaged over.
    max_new_tokens: the longest answer.
    batch_size: samples in one pass.
    repeats: timed answers for each size of model.
    spool: as for `trace`, of the fit and of the predictions that rows are measured against.
    resume: a JSON file that is written after every row and read first, so that a stopped sweep goes
        on where it was; or a sweep in memory to go on with, rankings and all.
    each: called with all rows so far after every new one. One curve is measured after the other,
        from its ends inwards, so that a line soon spans the whole range.

    Raises InputError for unknown names, drop counts out of range, nothing to measure or fit on,
    compensations of halves, or a `resume` file of another sweep; Cancelled.
    """
    recipe = recipe or Recipe()
    criteria = (recipe.criterion,) if criteria is None else tuple(criteria)
    compensations = (recipe.compensation,) if compensations is None else tuple(compensations)
    _check_names(measured, criteria, compensations)
    if recipe.granularity == HALF:
        check_uncompensated(compensations)
    selector_of(recipe.visual_tokens)
    if draws < 1 or repeats < 1:
        raise InputError(
            f"Found {draws} draws and {repeats} repeats; expected at least 1 of each; raise them."
        )
    if not allow_shared:
        fit = disjoint(fit, measured)
    images = FeatureStore()
    measured = seen_all(lvlm, measured, images)
    measure_set = MeasureSet(measured, questions, max_new_tokens, batch_size, images)
    calibration = FitSet.traced(
        lvlm,
        seen_all(lvlm, fit, images),
        recipe,
        compensations,
        spool,
        run,
    )
    known: Sweep | None = None
    file: Path | None = None
    if isinstance(resume, Sweep):
        known = resume
        calibration.take_rankings(known)
    elif resume:
        file = expanded(resume)
    counts = _drop_counts(drops, calibration, criteria)
    header = _header(lvlm, measure_set, calibration, draws)
    rows = _known_rows(known, file, header, run)
    meter = Meter(lvlm, measure_set, calibration, draws, repeats, spool, run)
    wanted = list(product(criteria, compensations, counts))
    place = {key: number for number, key in enumerate(wanted)}
    present = {row.key for row in rows}

    def measured_row(key: tuple[str, str, int], alone: Run) -> SweepRow:
        criterion, compensation, drop = key
        alone.check("Stopped before the sweep was complete.")
        units = "halves" if recipe.granularity == HALF else f"of {lvlm.num_layers} layers"
        what = f"{criterion}, {compensation}, {drop} {units} dropped"
        alone.report(len(rows) / len(wanted), what)
        return meter.row(criterion, compensation, drop, alone)

    in_turn = product(criteria, compensations, ends_first(counts))
    missing = [key for key in in_turn if key not in present]
    for row in run.deal(missing, measured_row):
        rows.append(meter.timed_once(row))
        if file and run.team.rank == 0:
            _write(file, header, rows)
        if each is not None:
            each(Sweep(header, tuple(rows), calibration.first_rankings))
    run.report(1.0, "sweep complete")
    ordered = sorted(
        (row for row in rows if row.key in place),
        key=lambda row: place[row.key],
    )
    return Sweep(header, tuple(ordered), calibration.first_rankings)


def ends_first(counts: Sequence[int]) -> list[int]:
    """The counts with both ends first, and then the middles of what lies between those before:
    0, 8, 4, 2, 6, 1, 3, 5, 7.
    """
    order = [0, len(counts) - 1][: len(counts)]
    stretches = [(0, len(counts) - 1)]
    while stretches:
        first, last = stretches.pop(0)
        middle = (first + last) // 2
        if middle > first:
            order.append(middle)
            stretches += [(first, middle), (middle, last)]
    return [counts[place] for place in order]


def _check_names(
    measured: Sequence[Sample],
    criteria: Sequence[str],
    compensations: Sequence[str],
) -> None:
    """Raises InputError for nothing to measure on, and for an empty or unknown choice."""
    if not measured:
        raise InputError(
            "Found no samples to measure on; expected at least one image and prompt; add some."
        )
    _check_choice("criterion", criteria, CRITERIA)
    _check_choice("compensation", compensations, COMPENSATIONS)


def _check_choice(
    what: str,
    names: Sequence[str],
    registry: Mapping[str, Any],
) -> None:
    """Raises InputError for no name, and for one that the registry lacks."""
    offered = ", ".join(registry)
    if not names:
        raise InputError(f"Found no {what}; expected at least one of {offered}; choose one.")
    for name in names:
        if name not in registry:
            raise InputError(f"Found the {what} '{name}'; expected one of {offered}; choose one.")


@dataclass(frozen=True, eq=False)
class MeasureSet:
    """What every row of a sweep is measured on.

    samples: fidelity is measured on them.
    questions: labelled ones, whose accuracy is measured too.
    max_new_tokens: the longest answer.
    batch_size: samples in one pass.
    images: features of images that have been seen.
    """

    samples: Sequence[Sample]
    questions: Sequence[LabelledQuestion] | None
    max_new_tokens: int
    batch_size: int
    images: KnownFeatures


@dataclass(eq=False)
class FitSet:
    """The samples that layers are ranked and compensations fitted on, traced once for all rows.

    weights: the importance of the samples' tokens.
    rankings: by criterion and seed, each made when it is first wanted.
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
        """The fit set with its trace. spool: as for `trace`. Raises InputError, Cancelled."""
        run.report(0.0, "tracing the calibration set")
        rows = [COMPENSATIONS[name] for name in compensations]
        needs_mlp = any(row.traces_mlp(recipe.targets) for row in rows)
        traced = trace(
            lvlm,
            samples,
            mlp=needs_mlp,
            spool=spool,
            run=run.silent(),
        )
        return cls(
            lvlm,
            samples,
            recipe,
            traced,
            importance_of(traced, recipe),
            run,
        )

    def take_rankings(self, sweep: Sweep) -> None:
        """Goes on with the rankings of a sweep in memory."""
        for criterion, ranking in sweep.rankings.items():
            self.rankings[criterion, self.recipe.seed] = ranking

    def ranking(self, criterion: str, seed: int) -> LayerScores:
        """The layers by a criterion, the most redundant first. Raises Cancelled."""
        if (criterion, seed) not in self.rankings:

            def report(share: float | None, what: str) -> None:
                self.run.report(0.0, f"ranking by {criterion}: {share or 0:.0%}")

            self.rankings[criterion, seed] = rank_layers(
                self.recipe.changed(seed=seed, rounds=None, layers=None),
                self.trace,
                self.weights,
                criterion=criterion,
                lvlm=self.lvlm,
                samples=self.samples,
                run=self.run.telling(report),
            )
        return self.rankings[criterion, seed]

    @property
    def first_rankings(self) -> dict[str, LayerScores]:
        """The rankings of the recipe's seed, by criterion; further draws have seeds after it."""
        return {
            criterion: ranking
            for (criterion, seed), ranking in self.rankings.items()
            if seed == self.recipe.seed
        }


@dataclass(eq=False)
class Meter:
    """Measures one pruned model after another against the full one.

    calibration: what they are ranked and fitted on.
    draws: seeds that the random criterion is averaged over.
    repeats: timed answers for each size of model.
    spool: a folder for the full model's predictions.
    """

    lvlm: LVLM
    measure_set: MeasureSet
    calibration: FitSet
    draws: int
    repeats: int
    spool: str | Path | None
    run: Run

    def __post_init__(self) -> None:
        self.run.report(0.0, "answering with the full model")
        measure_set = self.measure_set
        quiet = self.run.silent()
        ids = answer_batch(
            self.lvlm,
            measure_set.samples,
            batch_size=measure_set.batch_size,
            max_new_tokens=measure_set.max_new_tokens,
            run=quiet,
        )
        self.reference = Reference.of(
            self.lvlm,
            measure_set.samples,
            ids,
            batch_size=measure_set.batch_size,
            spool=self.spool,
            run=quiet,
        )
        # by size, which is the number of layers and that of parameters
        self._times: dict[tuple[int, int], Mapping[str, Any]] = {}
        self._agreed: set[tuple[int, int]] = set()
        self._stopwatch = Stopwatch(self.lvlm, measure_set.samples[0], repeats=self.repeats)
        # what pruned models read, where that is not what the full one does
        self._read: list[Sample] | None = None
        if acts(self.calibration.recipe):
            self._read = [self._thinned(sample) for sample in measure_set.samples]

    def _thinned(self, sample: Sample) -> Sample:
        """A sample as the pruned models read it."""
        return thin(self.lvlm, sample, self.calibration.recipe)

    def row(
        self,
        criterion: str,
        compensation: str,
        drop: int,
        run: Run,
    ) -> SweepRow:
        """Mean over the draws of a random criterion; a single measurement otherwise.

        run: of this row, which its process makes alone. The rankings are there already, but for
        those that run no model.
        """
        draws = self.draws if criterion == RANDOM and drop else 1
        first = self.calibration.recipe.seed
        rows = []
        for seed in range(first, first + draws):
            chosen = plan(self.calibration.ranking(criterion, seed), drop)
            rows.append(self._measured(chosen, drop, compensation, run.silent()))
        return rows[0] if len(rows) == 1 else _averaged(rows)

    def _measured(
        self,
        chosen: DropPlan,
        drop: int,
        compensation: str,
        run: Run,
    ) -> SweepRow:
        """The row of one plan, compensated. drop: how many layers, or halves, go with it."""
        pruned = prune(
            self.lvlm,
            chosen,
            self.calibration.recipe.changed(compensation=compensation),
            self.calibration.trace,
            self.calibration.weights,
        )
        fidelity = self.reference.measure(pruned, run, self._read)
        return SweepRow(
            criterion=chosen.criterion,
            compensation=compensation,
            drop=drop,
            layers=chosen.drop,
            attention=chosen.attention,
            mlp=chosen.mlp,
            kl=float(fidelity.kl.mean()),
            agreement=float(fidelity.agreement.mean()),
            exact=float((fidelity.agreement == 1).mean()),
            accuracy=self._accuracy(pruned, run),
            parameters=pruned.num_parameters,
            **self._times_of(pruned),
        )

    def timed_once(self, row: SweepRow) -> SweepRow:
        """The row with the times of the first one of its size, whichever process of a team made
        that; rows of this size are not timed again.
        """
        size = self.lvlm.num_layers - len(row.layers), row.parameters
        if size not in self._agreed:
            self._agreed.add(size)
            self._times[size] = {name: getattr(row, name) for name in TIMES}
        return replace(row, **self._times[size])

    def _accuracy(self, pruned: LVLM, run: Run) -> float | None:
        """On the labelled questions; None where there are none."""
        if not self.measure_set.questions:
            return None
        return evaluate(
            pruned,
            self.measure_set.questions,
            batch_size=self.measure_set.batch_size,
            max_new_tokens=self.measure_set.max_new_tokens,
            prepare=None if self._read is None else self._thinned,
            known=self.measure_set.images,
            run=run,
        ).accuracy

    def _times_of(self, pruned: LVLM) -> Mapping[str, Any]:
        """What a row tells of them. Measured once for each size of model: which layers are missing
        makes no difference to the work.
        """
        size = (pruned.num_layers, pruned.num_parameters)
        if size not in self._times:
            itself = size == (self.lvlm.num_layers, self.lvlm.num_parameters)
            read = None if self._read is None else self._read[0]
            same = itself and read is None
            speed = SAME if same else self._stopwatch.measure(pruned, read)
            self._times[size] = speed.of_a_row()
        return self._times[size]


def _averaged(rows: Sequence[SweepRow]) -> SweepRow:
    """Mean and standard deviation of several draws."""
    means: dict[str, Any] = {}
    spread: dict[str, float] = {}
    for measure in MEASURES:
        if getattr(rows[0], measure) is not None:
            values = [getattr(row, measure) for row in rows]
            means[measure] = float(np.mean(values))
            spread[measure] = float(np.std(values, ddof=1))
    return replace(rows[0], **means, spread=spread)


def _drop_counts(
    drops: Sequence[int] | None,
    calibration: FitSet,
    criteria: Sequence[str],
) -> tuple[int, ...]:
    """The numbers of layers to drop, in order. Raises InputError for some out of range."""
    seed = calibration.recipe.seed
    most = min(calibration.ranking(criterion, seed).most for criterion in criteria)
    counts = tuple(range(most + 1)) if drops is None else tuple(sorted(set(drops)))
    if not counts or counts[0] < 0 or counts[-1] > most:
        raise InputError(
            f"Found the drop counts {list(counts)}; expected some from 0 to {most}; change them."
        )
    return counts


def _header(
    lvlm: LVLM,
    measure_set: MeasureSet,
    calibration: FitSet,
    draws: int,
) -> dict[str, Any]:
    """What makes two sweeps the same: their rows may be put together.

    Criteria and drop counts may grow between runs.
    """
    measured = [sample.key for sample in measure_set.samples]
    fit = [sample.key for sample in calibration.samples]
    questions = [
        f"{question.question}\t{question.answer}\t{question.kind}"
        for question in measure_set.questions or ()
    ]
    recipe = calibration.recipe.to_json()
    shared = {name: value for name, value in recipe.items() if name not in OF_A_ROW}
    if acts(calibration.recipe):
        shared |= {name: recipe[name] for name in THINNING}
    if calibration.recipe.granularity == HALF:
        shared["granularity"] = HALF
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
            "max_new_tokens": measure_set.max_new_tokens,
            "recipe": shared,
        },
    }


def _digest(lines: Iterable[str]) -> str:
    """A short name for these lines, equal only for equal ones."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _known_rows(
    known: Sweep | None,
    file: Path | None,
    header: Mapping[str, Any],
    run: Run,
) -> list[SweepRow]:
    """The rows of the sweep that goes on; a team's first process reads them.

    Raises InputError where it is another one.
    """
    if known is not None:
        _check_same(known.header, header, "memory")
        return list(known.rows)
    if file is None:
        return []
    [rows] = run.deal([file], lambda file, alone: _read(file, header))
    return rows


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


def _check_same(
    known: Mapping[str, Any],
    header: Mapping[str, Any],
    where: str,
) -> None:
    """Raises InputError where the rows of `known` and of `header` cannot be put together."""
    plain_known = json.loads(json.dumps({key: known.get(key) for key in header}))
    plain_header = json.loads(json.dumps(dict(header)))
    differing = [key for key in header if plain_known[key] != plain_header[key]]
    if differing:
        raise InputError(
            f"Found a sweep with other {', '.join(differing)} in {where}; expected the same sweep"
            " to resume; give another one."
        )


def _write(
    file: Path,
    header: Mapping[str, Any],
    rows: Sequence[SweepRow],
) -> None:
    """Replaces the file in one step, so that a stop never leaves half a file."""
    written = {**header, "rows": [row.to_json() for row in rows]}
    replace_text(file, json.dumps(written, indent=1) + "\n")
