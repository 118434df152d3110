"""The ablation map: what each decoder layer is for, read off by skipping it alone and in every
block of two to four.

The reference is the full model's own greedy answer: each skipped model reads it token by token
(teacher forcing, one pass a sample), so that answers of any model, labelled or not, are measured
alike and no answer is generated twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from svl_core.comparison.calibration import encode_all
from svl_core.comparison.evaluation import Question, Tally, answer_batch, normalise
from svl_core.errors import InputError
from svl_core.lvlm.encoding import printable
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.reference import Reference
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run
from svl_core.pruning.view import pruned_view

SIZES = (1, 2, 3, 4)  # layers skipped together
TOKENS = 48  # answer tokens that a map shows, at most
Measure = Literal["accuracy", "exact", "agreement", "kl", "loss"]


@dataclass(frozen=True, eq=False)
class AblationRow:
    """The model without `layers` (0-based, () = the full one) on n samples.

    kl: (n,) mean KL(full || without) over the answer's tokens, nats/token.
    agreement: (n,) share 0..1 of the answer's tokens that are still the most likely.
    losses: for each sample the loss -log p of each token of the full model's answer, nats.
    """

    layers: tuple[int, ...]
    kl: np.ndarray
    agreement: np.ndarray
    losses: tuple[tuple[float, ...], ...]

    def __post_init__(self):
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
        return np.array([np.mean(each) for each in self.losses])


@dataclass(frozen=True, eq=False)
class Ablation:
    """Every block skipped, measured on the same n samples.

    kinds: the kind of each sample's question ("" for unlabelled samples). right: whether the full
    model's answer is the true one (None: unlabelled). tokens: the pieces of each sample's answer,
    for reading `losses`. rows follow size, then layer.
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

    @property
    def columns(self) -> tuple[str, ...]:
        """Kinds of question, in order of first appearance."""
        return tuple(dict.fromkeys(self.kinds))

    def tally(self, row: AblationRow, kind: str) -> Tally | None:
        """Questions of a kind that are still answered rightly; None without labels.

        A lower bound: a question that the full model gets wrong and the skipped one right does not
        count.
        """
        if self.right is None:
            return None
        marks = [
            bool(same and right)
            for same, right, k in zip(row.exact, self.right, self.kinds)
            if k == kind
        ]
        return Tally(len(marks), sum(marks))

    def value(self, row: AblationRow, measure: Measure, kind: str) -> float:
        """A row's mean over the samples of a kind. `accuracy` needs labels."""
        if measure == "accuracy":
            if self.right is None:
                raise InputError(
                    "Found unlabelled samples; expected questions with answers for accuracy; choose"
                    " agreement, kl or loss."
                )
            return self.tally(row, kind).accuracy
        members = np.array([k == kind for k in self.kinds])
        return float(np.asarray(getattr(row, measure), dtype=np.float64)[members].mean())

    def matrix(self, measure: Measure, size: int = 1) -> np.ndarray:
        """(L - size + 1, kinds): the measure with `size` layers skipped from each first layer on;
        NaN where a layer cannot go.
        """
        table = np.full((self.num_layers - size + 1, len(self.columns)), np.nan)
        for row in self.rows:
            if len(row.layers) == size:
                table[row.layers[0]] = [self.value(row, measure, kind) for kind in self.columns]
        return table

    def token_matrix(self, sample: int, size: int = 1) -> np.ndarray:
        """(L - size + 1, n tokens): the rise of each answer token's loss over the full model's,
        nats, for one sample.
        """
        table = np.full((self.num_layers - size + 1, len(self.tokens[sample])), np.nan)
        for row in self.rows:
            if len(row.layers) == size:
                table[row.layers[0]] = np.subtract(row.losses[sample], self.full.losses[sample])
        return table

    def map(self) -> AblationMap:
        """What is drawn of it.

        With labels: what is lost on each kind of question; without: on each sample, and on each
        token of the answers.
        """
        kinds = (
            self.columns
            if self.right is not None
            else tuple(f"{k + 1}: {answer}" for k, answer in enumerate(self.answers))
        )
        tables: dict[str, np.ndarray] = {}
        if self.right is not None:
            full = np.array([self.tally(self.full, kind).accuracy for kind in kinds])
            tables["accuracy"] = np.array(
                [full - [self.tally(row, kind).accuracy for kind in kinds] for row in self.rows]
            )
            members = [np.array([k == kind for k in self.kinds]) for kind in kinds]
        else:
            members = [np.arange(len(kinds)) == k for k in range(len(kinds))]
        tables["kl"] = np.array([[row.kl[m].mean() for m in members] for row in self.rows])
        tables["agreement"] = np.array(
            [[1 - row.agreement[m].mean() for m in members] for row in self.rows]
        )
        names = {measure: kinds for measure in tables}
        if self.right is None:
            names["loss"] = tuple(token for each in self.tokens for token in each)[:TOKENS]
            tables["loss"] = np.array(
                [
                    np.concatenate(
                        [np.subtract(a, b) for a, b in zip(row.losses, self.full.losses)]
                    )[:TOKENS]
                    for row in self.rows
                ]
            )
        return AblationMap(
            self.model,
            self.num_layers,
            len(self.kinds),
            tuple(row.layers for row in self.rows),
            names,
            tables,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "layers": self.num_layers,
            "data": self.data,
            "n": len(self.kinds),
            "kinds": [kind for kind in self.columns if kind],
            "full": self._row_json(self.full),
            "rows": [self._row_json(row) for row in self.rows],
            **(
                {}
                if self.right is not None
                else {"answers": list(self.answers), "tokens": [list(t) for t in self.tokens]}
            ),
        }

    def _row_json(self, row: AblationRow) -> dict[str, Any]:
        out = {
            "layers": list(row.layers),
            "kl": float(row.kl.mean()),
            "agreement": float(row.agreement.mean()),
            "exact": float(row.exact.mean()),
            "loss": float(row.loss.mean()),
        }
        if self.right is None:
            return out | {"token_losses": [list(each) for each in row.losses]}
        marks = [self.tally(row, kind) for kind in self.columns]
        out["accuracy"] = sum(t.correct for t in marks) / sum(t.n for t in marks)
        out["by_kind"] = {
            k or "all": (
                t.to_json() | {"kl": self.value(row, "kl", k), "loss": self.value(row, "loss", k)}
            )
            for k, t in zip(self.columns, marks)
        }
        return out


@dataclass(frozen=True, eq=False)
class AblationMap:
    """What each block of layers is for, ready to draw; in every table more is worse without the
    block.

    n: samples measured. blocks: the layers skipped together. columns, tables: for each measure the
    columns' names and a (blocks, columns) table. accuracy and agreement: share 0..1 lost; kl:
    nats/token; loss: rise of a token's loss, nats.
    """

    model: str
    num_layers: int
    n: int
    blocks: tuple[tuple[int, ...], ...]
    columns: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, np.ndarray]

    def __post_init__(self):
        for measure, table in self.tables.items():
            if table.shape != (len(self.blocks), len(self.columns[measure])):
                raise ValueError(
                    f"found a table of {table.shape} for {measure}; expected"
                    f" {(len(self.blocks), len(self.columns[measure]))}"
                )

    def of(self, measure: str, size: int) -> np.ndarray:
        """(L - size + 1, columns): the table's blocks of `size` layers by their first layer; NaN
        where a layer cannot go.
        """
        table = np.full((self.num_layers - size + 1, len(self.columns[measure])), np.nan)
        for block, row in zip(self.blocks, self.tables[measure]):
            if len(block) == size:
                table[block[0]] = row
        return table

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "layers": self.num_layers,
            "n": self.n,
            "blocks": [list(block) for block in self.blocks],
            "columns": {m: list(names) for m, names in self.columns.items()},
            "tables": {m: np.round(table, 5).tolist() for m, table in self.tables.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AblationMap:
        """Reads what `to_json` wrote. Raises KeyError or ValueError for anything else."""
        return cls(
            data["model"],
            data["layers"],
            data["n"],
            tuple(tuple(block) for block in data["blocks"]),
            {m: tuple(names) for m, names in data["columns"].items()},
            {m: np.array(table, float) for m, table in data["tables"].items()},
        )


def weights_hash(folder: str | Path) -> str:
    """sha256 of a checkpoint's weights, by name: what a stored map belongs to."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def stored_map(folder: str | Path) -> AblationMap | None:
    """The map kept beside a checkpoint as ablation.json; None where there is none or the weights
    are others by now.
    """
    try:
        data = json.loads((Path(folder) / "ablation.json").read_text(encoding="utf-8"))
        return AblationMap.from_json(data) if data["weights"] == weights_hash(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def blocks(
    num_layers: int, sizes: Iterable[int] = SIZES, protected: Sequence[int] = ()
) -> list[tuple[int, ...]]:
    """Every run of `sizes` neighbouring layers that holds no protected layer and leaves at least
    one layer.
    """
    runs = (
        tuple(range(first, first + size))
        for size in sizes
        for first in range(num_layers - size + 1)
    )
    return [run for run in runs if len(run) < num_layers and not set(run) & set(protected)]


def ablate(
    lvlm: LVLM,
    samples: Sequence[Sample],
    *,
    sizes: Iterable[int] = SIZES,
    data: str = "",
    questions: Sequence[Question] | None = None,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    run: Run = QUIET,
) -> Ablation:
    """Skips every block of every size in turn; one teacher-forced pass over the samples for each.

    `questions` are the labels of `samples`, if there are any. Raises InputError for no samples or
    no size of at least 1, Cancelled.
    """
    samples, sizes = list(samples), sorted(set(sizes))
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
        lvlm, samples, batch_size=batch_size, max_new_tokens=max_new_tokens, run=run.silent()
    )
    reference = Reference.of(lvlm, samples, ids, batch_size=batch_size, run=run.silent())
    rows = []
    for done, block in enumerate([(), *skipped]):
        run.check("Stopped before the ablation map was complete.")
        run.report(done / (len(skipped) + 1), _in_words(block))
        keep = [layer for layer in range(lvlm.num_layers) if layer not in block]
        found = reference.measure(pruned_view(lvlm, keep) if block else lvlm, run.silent())
        rows.append(AblationRow(block, found.kl, found.agreement, found.losses))
    run.report(1.0, "ablation map complete")
    answers = tuple(lvlm.tokenizer.decode(each, skip_special_tokens=True) for each in ids)
    return Ablation(
        model=lvlm.name,
        num_layers=lvlm.num_layers,
        data=data,
        kinds=tuple(q.kind for q in questions) if questions else ("",) * len(samples),
        right=(
            tuple(normalise(a) == normalise(q.answer) for a, q in zip(answers, questions))
            if questions
            else None
        ),
        answers=answers,
        tokens=tuple(printable(lvlm.tokenizer, each) for each in ids),
        full=rows[0],
        rows=tuple(rows[1:]),
    )


def _in_words(block: tuple[int, ...]) -> str:
    """What is being measured, for a line of progress."""
    if not block:
        return "measuring the full model"
    if len(block) == 1:
        return f"skipping layer {block[0]}"
    return f"skipping layers {block[0]} to {block[-1]}"


def ablate_questions(
    lvlm: LVLM, questions: Iterable[Question], *, run: Run = QUIET, **options: Any
) -> Ablation:
    """`ablate` on labelled questions: the map then holds the accuracy on each kind."""
    questions = list(questions)
    pairs = [(question.image, question.question) for question in questions]
    samples = encode_all(lvlm, pairs, run=run.silent())
    return ablate(lvlm, samples, questions=questions, run=run, **options)
