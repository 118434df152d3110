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
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from svl_core.analysis.importance import TopP, importance
from svl_core.analysis.redundancy import CRITERIA, LayerScores, redundancy
from svl_core.analysis.trace import trace
from svl_core.comparison.calibration import disjoint
from svl_core.comparison.evaluation import Question, answer_batch, evaluate
from svl_core.comparison.speed import Speedup, measure_speedup
from svl_core.errors import Cancelled, InputError
from svl_core.lvlm.decoding import greedy, image_token_ids
from svl_core.lvlm.forcing import Beginnings, forced_logits, iterate_forced, kl_per_token
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.pruning.plan import DropPlan, plan
from svl_core.pruning.prune import prune

RANDOM = "random"  # the one criterion that is drawn several times and averaged
FALL = 0.1  # a cliff is a fall by at least this much between one drop count and the next
Progress = Callable[[float, str], None]


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
    *,
    criteria: Sequence[str] = ("svl",),
    compensations: Sequence[str] = ("none",),
    drops: Sequence[int] | None = None,
    questions: Sequence[Question] | None = None,
    draws: int = 3,
    seed: int = 0,
    top_p: TopP = TopP(),
    importance_settings: Mapping[str, Any] | None = None,
    protect_ends: bool = True,
    compensation_settings: Mapping[str, Any] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    repeats: int = 5,
    spool: str | Path | None = None,
    resume: str | Path | Sweep | None = None,
    allow_shared: bool = False,
    each: Callable[[Sweep], None] | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Sweep:
    """Prunes and measures every (criterion, compensation, drop count); `drops` defaults to 0 .. all
    droppable layers.

    `fit` samples that are also measured are left out of the fit, unless `allow_shared` (the header
    then says so). `questions` add the accuracy on labelled questions. `importance_settings`:
    options of `importance`. `draws`: how many seeds the random criterion is averaged over. `spool`:
    as for `trace`, of the fit and of the predictions that rows are measured against. `resume`: a
    JSON file that is written after every row and read first, so that a stopped sweep goes on where
    it was, or a sweep in memory to go on with, rankings and all. each: called with all rows so far
    after every new one. Raises InputError for unknown names, drop counts out of
    range, nothing to measure or fit on, or a `resume` file of another sweep; Cancelled.
    """
    work = _Work(
        lvlm,
        measured,
        fit,
        tuple(criteria),
        tuple(compensations),
        questions,
        draws,
        seed,
        top_p,
        dict((importance_settings or {}).items() - importance.__kwdefaults__.items()),
        protect_ends,
        dict(compensation_settings or {}),
        max_new_tokens,
        batch_size,
        repeats,
        spool,
        allow_shared,
        progress or (lambda fraction, what: None),
        cancel,
    )
    known = resume if isinstance(resume, Sweep) else None
    return work.run(
        drops, Path(resume).expanduser() if resume and known is None else None, known, each
    )


@dataclass(eq=False)
class _Work:
    """One sweep in progress: the inputs, and what is computed once for all rows."""

    lvlm: LVLM
    measured: Sequence[Sample]
    fit: Sequence[Sample]
    criteria: tuple[str, ...]
    compensations: tuple[str, ...]
    questions: Sequence[Question] | None
    draws: int
    seed: int
    top_p: TopP
    weighing: dict[str, Any]  # options of `importance` that are not its defaults
    protect_ends: bool
    settings: dict[str, Any]
    max_new_tokens: int
    batch_size: int
    repeats: int
    spool: str | Path | None
    allow_shared: bool
    report: Progress
    cancel: threading.Event | None

    def run(
        self,
        drops: Sequence[int] | None,
        file: Path | None,
        known: Sweep | None = None,
        each: Callable[[Sweep], None] | None = None,
    ) -> Sweep:
        self._check_names()
        self.fit = self.fit if self.allow_shared else disjoint(self.fit, self.measured)
        self.report(0.0, "tracing the calibration set")
        self.traced = trace(
            self.lvlm,
            self.fit,
            mlp=any(COMPENSATIONS[c].needs_mlp for c in self.compensations),
            spool=self.spool,
            cancel=self.cancel,
        )
        self.weights = importance(self.traced, **self.weighing)
        self._rankings: dict[tuple[str, int], LayerScores] = {
            (name, self.seed): ranking
            for name, ranking in (known.rankings if known else {}).items()
        }
        self._speedups: dict[tuple[int, int], Speedup] = {}
        drops = self._checked(drops)
        header = self._header(drops)
        rows = _read(file, header) if file else []
        if known is not None:
            _check_same(known.header, header, "memory")
            rows = list(known.rows)
        self._answer()
        todo = [(c, k, d) for c in self.criteria for k in self.compensations for d in drops]
        have = {(r.criterion, r.compensation, r.drop) for r in rows}
        for done, (criterion, compensation, drop) in enumerate(todo):
            if self.cancel is not None and self.cancel.is_set():
                raise Cancelled("Stopped before the sweep was complete.")
            if (criterion, compensation, drop) in have:
                continue
            self.report(
                done / len(todo),
                f"{criterion}, {compensation}, {drop} of {self.lvlm.num_layers} layers dropped",
            )
            rows.append(self._row(criterion, compensation, drop))
            if file:
                _write(file, header, rows)
            if each is not None:
                each(Sweep(header, tuple(rows), self.rankings))
        self.report(1.0, "sweep complete")
        order = {key: i for i, key in enumerate(todo)}
        rows = sorted(
            (r for r in rows if (r.criterion, r.compensation, r.drop) in order),
            key=lambda r: order[r.criterion, r.compensation, r.drop],
        )
        return Sweep(header, tuple(rows), self.rankings)

    @property
    def rankings(self) -> dict[str, LayerScores]:
        return {
            name: ranking for (name, seed), ranking in self._rankings.items() if seed == self.seed
        }

    def _check_names(self) -> None:
        if not self.measured:
            raise InputError(
                "Found no samples to measure on; expected at least one image and prompt; add some."
            )
        for what, names, registry in (
            ("criterion", self.criteria, CRITERIA),
            ("compensation", self.compensations, COMPENSATIONS),
        ):
            for name in names:
                if name not in registry:
                    raise InputError(
                        f"Found the {what} '{name}'; expected one of {', '.join(registry)}; choose"
                        " one."
                    )
            if not names:
                raise InputError(
                    f"Found no {what}; expected at least one of {', '.join(registry)}; choose one."
                )

    def _checked(self, drops: Sequence[int] | None) -> tuple[int, ...]:
        most = min(self._ranking(criterion, self.seed).most for criterion in self.criteria)
        drops = tuple(range(most + 1)) if drops is None else tuple(sorted(set(drops)))
        if not drops or drops[0] < 0 or drops[-1] > most:
            raise InputError(
                f"Found the drop counts {list(drops)}; expected some from 0 to {most}; change them."
            )
        return drops

    def _header(self, drops: Sequence[int]) -> dict[str, Any]:
        """What makes two sweeps the same: their rows may be put together.

        Criteria and drop counts may grow between runs.
        """

        def digest(keys: Iterable[str]) -> str:
            return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]

        asked = [f"{q.question}\t{q.answer}\t{q.kind}" for q in self.questions or ()]
        return {
            "model": self.lvlm.name,
            "revision": self.lvlm.revision,
            "layers": self.lvlm.num_layers,
            "layer_ids": list(self.lvlm.layer_ids),
            "measured": {
                "samples": len(self.measured),
                "digest": digest(s.key for s in self.measured),
            },
            "fit": {
                "samples": len(self.fit),
                "digest": digest(s.key for s in self.fit),
                "measured_too": len({s.key for s in self.fit} & {s.key for s in self.measured}),
            },
            "questions": {"n": len(asked), "digest": digest(asked)} if asked else None,
            "settings": {
                "seed": self.seed,
                "draws": self.draws,
                "top_p": asdict(self.top_p),
                "protect_ends": self.protect_ends,
                "compensation": self.settings,
                "max_new_tokens": self.max_new_tokens,
                **({"importance": self.weighing} if self.weighing else {}),
            },
        }

    def _answer(self) -> None:
        """The full model's answers and predictions, which every row is measured against."""
        self.report(0.0, "answering with the full model")
        self.ids = answer_batch(
            self.lvlm,
            self.measured,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            cancel=self.cancel,
        )
        self.beginnings = Beginnings(self.lvlm)
        self.reference = forced_logits(
            self.lvlm,
            self.measured,
            self.ids,
            batch_size=self.batch_size,
            cancel=self.cancel,
            beginnings=self.beginnings,
            spool=self.spool,
        )

    def _ranking(self, criterion: str, seed: int):
        if (criterion, seed) not in self._rankings:
            self._rankings[criterion, seed] = redundancy(
                self.traced,
                self.weights,
                criterion,
                top_p=self.top_p,
                protect_ends=self.protect_ends,
                seed=seed,
                lvlm=self.lvlm,
                samples=self.fit,
                progress=lambda share, what: self.report(
                    0.0, f"ranking by {criterion}: {share:.0%}"
                ),
                cancel=self.cancel,
            )
        return self._rankings[criterion, seed]

    def _plan(self, criterion: str, drop: int, seed: int) -> DropPlan:
        return plan(self._ranking(criterion, seed), drop)

    def _row(self, criterion: str, compensation: str, drop: int) -> SweepRow:
        """Mean over the draws of a random criterion; a single measurement otherwise."""
        seeds = (
            range(self.seed, self.seed + self.draws)
            if criterion == RANDOM and drop
            else [self.seed]
        )
        rows = [
            self._measure(self._plan(criterion, drop, seed), criterion, compensation)
            for seed in seeds
        ]
        if len(rows) == 1:
            return rows[0]
        values = {
            m: [getattr(row, m) for row in rows]
            for m in MEASURES
            if getattr(rows[0], m) is not None
        }
        means = {m: float(np.mean(v)) for m, v in values.items()}
        return replace(
            rows[0], **means, spread={m: float(np.std(v, ddof=1)) for m, v in values.items()}
        )

    def _measure(self, chosen: DropPlan, criterion: str, compensation: str) -> SweepRow:
        pruned = prune(
            self.lvlm,
            chosen,
            compensation,
            self.traced,
            self.weights,
            top_p=self.top_p,
            **self.settings,
        )
        kl, agreement = np.zeros(len(self.measured)), np.zeros(len(self.measured))
        forbidden = image_token_ids(self.lvlm)
        for i, logits in iterate_forced(
            pruned,
            self.measured,
            self.ids,
            batch_size=self.batch_size,
            cancel=self.cancel,
            beginnings=self.beginnings,
        ):
            kl[i] = float(kl_per_token(self.reference[i], logits).mean())
            agreement[i] = float(
                (greedy(self.reference[i], forbidden) == greedy(logits, forbidden)).double().mean()
            )
        speed = self._speedup(pruned)
        return SweepRow(
            criterion=criterion,
            compensation=compensation,
            drop=len(chosen.drop),
            layers=chosen.drop,
            kl=float(kl.mean()),
            agreement=float(agreement.mean()),
            exact=float((agreement == 1).mean()),
            accuracy=self._accuracy(pruned),
            speedup=speed.total,
            speedup_prefill=speed.prefill,
            speedup_decode=speed.decode,
            parameters=pruned.num_parameters,
        )

    def _accuracy(self, pruned: LVLM) -> float | None:
        if not self.questions:
            return None
        return evaluate(
            pruned,
            self.questions,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            cancel=self.cancel,
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
                self.lvlm, pruned, self.measured[0], repeats=self.repeats
            )
        return self._speedups[size]


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
