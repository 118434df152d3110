"""The ablation map: what each decoder layer is for, read off by skipping it alone and in every
block of two to four.

The reference is the full model's own greedy answer: each skipped model reads it token by token
(teacher forcing, one pass a sample). Answers of any model, labelled or not, are therefore measured
alike, and no answer is generated twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from svl_core.comparison.calibration import encode_all
from svl_core.comparison.evaluation import (
    LabelledQuestion,
    Tally,
    answer_batch,
    is_right,
)
from svl_core.errors import InputError
from svl_core.files import stored_beside
from svl_core.lvlm.encoding import printable
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.reference import Fidelity, Reference
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import seen_all
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run
from svl_core.pruning.view import pruned_view

SIZES = (1, 2, 3, 4)
"""Numbers of layers that are skipped together."""

TOKENS = 48
"""Answer tokens that a map shows, at most."""

Measure = Literal["accuracy", "exact", "agreement", "kl", "loss"]


@dataclass(frozen=True, eq=False)
class AblationRow:
    """The model without some layers, measured on n samples.

    layers: those left out, 0-based; () for the full model.
    kl: (n,) mean KL(full || without) over the answer's tokens, nats/token.
    agreement: (n,) share 0..1 of the answer's tokens that are still the most likely.
    losses: for each sample the loss -log p of each token of the full model's answer, nats.
    """

    layers: tuple[int, ...]
    kl: np.ndarray
    agreement: np.ndarray
    losses: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for name in ("kl", "agreement"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def exact(self) -> np.ndarray:
        """(n,) whether the greedy answer is the full model's: all its tokens are still the most
        likely.
        """
        return self.agreement == 1

    @property
    def loss(self) -> np.ndarray:
        """(n,) mean loss of the answer's tokens, nats/token."""
        return np.array([np.mean(token_losses) for token_losses in self.losses])

    def loss_rise(
        self,
        full: AblationRow,
        sample: int,
    ) -> np.ndarray:
        """(tokens,) the rise of each answer token's loss over the full model's, nats.

        full: the full model's row.
        sample: the index of the answer's sample.
        """
        return np.subtract(self.losses[sample], full.losses[sample])


@dataclass(frozen=True, eq=False, repr=False)
class Ablation(Shown):
    """Every block skipped, measured on the same n samples.

    data: what the samples are called.
    kinds: the kind of each sample's question ("" for unlabelled samples).
    right: whether the full model's answer is the true one; None: unlabelled.
    answers: the full model's.
    tokens: the pieces of each sample's answer, for reading `losses`.
    full: the full model's row.
    rows: by size of the block, then by layer.
    """

    model: str
    num_layers: int
    data: str
    kinds: tuple[str, ...]
    right: tuple[bool, ...] | None
    answers: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    full: AblationRow
    rows: tuple[AblationRow, ...]

    def brief(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.data,
            "n": len(self.kinds),
            "blocks": len(self.rows),
            "kinds": self.columns,
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """Kinds of question, in order of first appearance."""
        return tuple(dict.fromkeys(self.kinds))

    def tally(self, row: AblationRow, kind: str) -> Tally:
        """Questions of a kind that are still answered rightly.

        A lower bound: a question that the full model gets wrong and the skipped one right does not
        count. Raises InputError without labels.
        """
        if self.right is None:
            raise InputError(
                "Found unlabelled samples; expected questions with answers for accuracy; choose"
                " agreement, kl or loss."
            )
        still_right = row.exact & np.array(self.right)
        marks = still_right[self._members(kind)]
        return Tally(len(marks), int(marks.sum()))

    def value(
        self,
        row: AblationRow,
        measure: Measure,
        kind: str,
    ) -> float:
        """A row's mean over the samples of a kind.

        Raises InputError for accuracy without labels.
        """
        if measure == "accuracy":
            return self.tally(row, kind).accuracy
        values = np.asarray(getattr(row, measure), dtype=np.float64)
        return float(values[self._members(kind)].mean())

    def matrix(
        self,
        measure: Measure,
        size: int = 1,
    ) -> np.ndarray:
        """(L - size + 1, kinds): the measure with `size` layers skipped from each first layer on;
        NaN where a layer cannot go.
        """
        table = np.full((self.num_layers - size + 1, len(self.columns)), np.nan)
        for row in self._rows_of(size):
            table[row.layers[0]] = [self.value(row, measure, kind) for kind in self.columns]
        return table

    def token_matrix(
        self,
        sample: int,
        size: int = 1,
    ) -> np.ndarray:
        """(L - size + 1, n tokens): the rise of each answer token's loss over the full model's,
        nats, for one sample.
        """
        table = np.full((self.num_layers - size + 1, len(self.tokens[sample])), np.nan)
        for row in self._rows_of(size):
            table[row.layers[0]] = row.loss_rise(self.full, sample)
        return table

    def map(self) -> AblationMap:
        """What is drawn of it.

        With labels: what is lost on each kind of question; without: on each sample, and on each
        token of the answers.
        """
        labelled = self.right is not None
        tables: dict[str, np.ndarray] = {}
        if labelled:
            columns = self.columns
            groups = [self._members(kind) for kind in columns]
            tables["accuracy"] = self._lost_accuracy()
        else:
            samples = np.arange(len(self.answers))
            columns = tuple(
                f"{number}: {answer}" for number, answer in enumerate(self.answers, start=1)
            )
            groups = [samples == sample for sample in samples]
        tables["kl"] = _group_means([row.kl for row in self.rows], groups)
        tables["agreement"] = 1 - _group_means([row.agreement for row in self.rows], groups)
        names = dict.fromkeys(tables, columns)
        if not labelled:
            names["loss"] = tuple(token for pieces in self.tokens for token in pieces)[:TOKENS]
            tables["loss"] = np.array([self._loss_rises(row)[:TOKENS] for row in self.rows])
        return AblationMap(
            model=self.model,
            num_layers=self.num_layers,
            n=len(self.kinds),
            blocks=tuple(row.layers for row in self.rows),
            columns=names,
            tables=tables,
        )

    def to_json(self) -> dict[str, Any]:
        result = {
            "model": self.model,
            "layers": self.num_layers,
            "data": self.data,
            "n": len(self.kinds),
            "kinds": [kind for kind in self.columns if kind],
            "full": self._row_json(self.full),
            "rows": [self._row_json(row) for row in self.rows],
        }
        if self.right is None:
            result["answers"] = list(self.answers)
            result["tokens"] = [list(pieces) for pieces in self.tokens]
        return result

    def _members(self, kind: str) -> np.ndarray:
        """(n,) whether each sample's question is of the kind."""
        return np.array([of_sample == kind for of_sample in self.kinds])

    def _rows_of(self, size: int) -> list[AblationRow]:
        """The rows of the blocks of `size` layers."""
        return [row for row in self.rows if len(row.layers) == size]

    def _lost_accuracy(self) -> np.ndarray:
        """(blocks, kinds): the share of questions of a kind that are lost without a block."""
        full = np.array([self.tally(self.full, kind).accuracy for kind in self.columns])
        remaining = [[self.tally(row, kind).accuracy for kind in self.columns] for row in self.rows]
        return full - np.array(remaining)

    def _loss_rises(self, row: AblationRow) -> np.ndarray:
        """(tokens of all samples,): the rise of each token's loss over the full model's, nats."""
        samples = range(len(self.answers))
        return np.concatenate([row.loss_rise(self.full, sample) for sample in samples])

    def _row_json(self, row: AblationRow) -> dict[str, Any]:
        result: dict[str, Any] = {
            "layers": list(row.layers),
            "kl": float(row.kl.mean()),
            "agreement": float(row.agreement.mean()),
            "exact": float(row.exact.mean()),
            "loss": float(row.loss.mean()),
        }
        if self.right is None:
            result["token_losses"] = [list(token_losses) for token_losses in row.losses]
            return result
        tallies = {kind: self.tally(row, kind) for kind in self.columns}
        correct = sum(tally.correct for tally in tallies.values())
        result["accuracy"] = correct / sum(tally.n for tally in tallies.values())
        result["by_kind"] = {
            kind or "all": {
                **tally.to_json(),
                "kl": self.value(row, "kl", kind),
                "loss": self.value(row, "loss", kind),
            }
            for kind, tally in tallies.items()
        }
        return result


def _group_means(values: Sequence[np.ndarray], groups: Sequence[np.ndarray]) -> np.ndarray:
    """(rows, groups): the mean of each row's values (n,) over each group's samples.

    groups: for each the (n,) mask of its samples.
    """
    return np.array([[row[group].mean() for group in groups] for row in values])


@dataclass(frozen=True, eq=False, repr=False)
class AblationMap(Shown):
    """What each block of layers is for, ready to draw.

    n: the number of samples measured.
    blocks: the layers that were skipped together, a tuple for each row of the tables.
    columns: for each measure the names of its table's columns.
    tables: for each measure a (blocks, columns) table, in which more is worse: accuracy and
        agreement, the share 0..1 that is lost; kl, nats/token; loss, the rise of a token's, nats.
    """

    model: str
    num_layers: int
    n: int
    blocks: tuple[tuple[int, ...], ...]
    columns: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        for measure, table in self.tables.items():
            expected = (len(self.blocks), len(self.columns[measure]))
            if table.shape != expected:
                raise ValueError(
                    f"found a table of {table.shape} for {measure}; expected {expected}"
                )

    def brief(self) -> dict[str, Any]:
        measures = tuple(self.tables)
        return {"model": self.model, "n": self.n, "blocks": len(self.blocks), "measures": measures}

    def of(
        self,
        measure: str,
        size: int,
    ) -> np.ndarray:
        """(L - size + 1, columns): the table's blocks of `size` layers by their first layer; NaN
        where a layer cannot go.
        """
        table = np.full((self.num_layers - size + 1, len(self.columns[measure])), np.nan)
        for block, row in zip(self.blocks, self.tables[measure], strict=True):
            if len(block) == size:
                table[block[0]] = row
        return table

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "layers": self.num_layers,
            "n": self.n,
            "blocks": [list(block) for block in self.blocks],
            "columns": {measure: list(names) for measure, names in self.columns.items()},
            "tables": {
                measure: np.round(table, 5).tolist() for measure, table in self.tables.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AblationMap:
        """Reads what `to_json` wrote. Raises KeyError or ValueError for anything else."""
        return cls(
            model=data["model"],
            num_layers=data["layers"],
            n=data["n"],
            blocks=tuple(tuple(block) for block in data["blocks"]),
            columns={measure: tuple(names) for measure, names in data["columns"].items()},
            tables={measure: np.array(table, float) for measure, table in data["tables"].items()},
        )


def stored_map(folder: str | Path) -> AblationMap | None:
    """The map in `ablation.json` beside a checkpoint; None where there is none or the weights are
    others by now.
    """
    data = stored_beside(folder, "ablation.json")
    try:
        return None if data is None else AblationMap.from_json(data)
    except (ValueError, KeyError, TypeError):
        return None


def blocks(
    num_layers: int,
    sizes: Iterable[int] = SIZES,
    protected: Sequence[int] = (),
) -> list[tuple[int, ...]]:
    """Every run of neighbouring layers that can be skipped.

    sizes: lengths of runs; at least one layer always stays.
    protected: layers that no run may hold.
    """
    runs = []
    for size in sizes:
        if size >= num_layers:
            continue
        for first in range(num_layers - size + 1):
            run = tuple(range(first, first + size))
            if not set(run) & set(protected):
                runs.append(run)
    return runs


def ablate(
    lvlm: LVLM,
    samples: Sequence[Sample],
    *,
    sizes: Iterable[int] = SIZES,
    data: str = "",
    questions: Sequence[LabelledQuestion] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    run: Run = QUIET,
) -> Ablation:
    """Skips every block of every size in turn; one teacher-forced pass over the samples for each.

    sizes: numbers of layers that are skipped together, each at least 1.
    data: what the samples are called in the result.
    questions: the labels of `samples`, if there are any.
    max_new_tokens: the longest answer.
    batch_size: samples in one pass.

    Raises InputError for no samples or no size that can be skipped; Cancelled.
    """
    samples = seen_all(lvlm, list(samples))
    sizes = sorted(set(sizes))
    if not samples:
        raise InputError("Found no samples; expected at least one image and prompt; add some.")
    skipped = blocks(lvlm.num_layers, sizes, lvlm.protected)
    if not sizes or sizes[0] < 1 or not skipped:
        raise InputError(
            f"Found block sizes {sizes}; expected some from 1 to {lvlm.num_layers - 1}; change"
            " them."
        )
    run.report(0.0, "answering with the full model")
    ids = answer_batch(
        lvlm,
        samples,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        run=run.silent(),
    )
    reference = Reference.of(
        lvlm,
        samples,
        ids,
        batch_size=batch_size,
        run=run.silent(),
    )
    full, *rows = _measured_rows(lvlm, reference, [(), *skipped], run)
    run.report(1.0, "ablation map complete")
    answers = tuple(lvlm.tokenizer.decode(token_ids, skip_special_tokens=True) for token_ids in ids)
    kinds: tuple[str, ...] = ("",) * len(samples)
    right = None
    if questions:
        kinds = tuple(question.kind for question in questions)
        right = tuple(
            is_right(answer, question) for answer, question in zip(answers, questions, strict=True)
        )
    return Ablation(
        model=lvlm.name,
        num_layers=lvlm.num_layers,
        data=data,
        kinds=kinds,
        right=right,
        answers=answers,
        tokens=tuple(printable(lvlm.tokenizer, token_ids) for token_ids in ids),
        full=full,
        rows=tuple(rows),
    )


def _measured_rows(
    lvlm: LVLM,
    reference: Reference,
    skipped: Sequence[tuple[int, ...]],
    run: Run,
) -> list[AblationRow]:
    """The model without each of these blocks, measured along the full model's answers."""

    def measured(number: int, alone: Run) -> Fidelity:
        block = skipped[number]
        alone.check("Stopped before the ablation map was complete.")
        alone.report(number / len(skipped), _in_words(block))
        without = lvlm
        if block:
            keep = [layer for layer in range(lvlm.num_layers) if layer not in block]
            without = pruned_view(lvlm, keep)
        return reference.measure(without, alone.silent())

    return [
        AblationRow(block, fidelity.kl, fidelity.agreement, fidelity.losses)
        for block, fidelity in zip(skipped, run.deal(range(len(skipped)), measured), strict=True)
    ]


def _in_words(block: tuple[int, ...]) -> str:
    """What is being measured, for a line of progress."""
    if not block:
        return "measuring the full model"
    if len(block) == 1:
        return f"skipping layer {block[0]}"
    return f"skipping layers {block[0]} to {block[-1]}"


def ablate_questions(
    lvlm: LVLM,
    questions: Iterable[LabelledQuestion],
    *,
    run: Run = QUIET,
    **options: Any,
) -> Ablation:
    """`ablate` on labelled questions: the map then holds the accuracy on each kind.

    options: the other parameters of `ablate`, by name.
    """
    questions = list(questions)
    pairs = [(question.image, question.question) for question in questions]
    samples = encode_all(lvlm, pairs, run=run.silent())
    return ablate(
        lvlm,
        samples,
        questions=questions,
        run=run,
        **options,
    )
