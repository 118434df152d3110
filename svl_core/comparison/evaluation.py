"""Accuracy on labelled questions: batched greedy answers, exact match, Wilson intervals, paired
against the full model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

from svl_core.comparison.answer import room_for_answer
from svl_core.comparison.jsonl import image_path, read_rows
from svl_core.errors import InputError
from svl_core.lvlm.batching import batches
from svl_core.lvlm.decoding import answers_together
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

Z_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True, eq=False)
class Question:
    """A labelled question; `kind` groups the results ("" = ungrouped).

    Anything with these attributes will do.
    """

    image: Image.Image | Path | str | None
    question: str
    answer: str
    kind: str = ""


@dataclass(frozen=True)
class Tally:
    """`correct` of `n` answers, with the Wilson 95 % interval of the accuracy."""

    n: int
    correct: int

    def __post_init__(self):
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ValueError(
                f"found {self.correct} correct of {self.n}; expected 0 <= correct <= n and n >= 1"
            )

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.correct, self.n)

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
        }


@dataclass(frozen=True)
class Evaluation:
    """Exact-match accuracy on a data set.

    `answers` and `correct` follow the questions' order; intervals are Wilson 95 %.
    """

    data: str
    answers: tuple[str, ...]
    correct: tuple[bool, ...]
    kinds: tuple[str, ...]
    by_kind: Mapping[str, Tally] = field(init=False)

    def __post_init__(self):
        if not len(self.answers) == len(self.correct) == len(self.kinds) or not self.answers:
            raise ValueError(
                f"found {len(self.answers)} answers, {len(self.correct)} marks and"
                f" {len(self.kinds)} kinds; expected as many of each, at least one"
            )
        tallies = {}
        for kind in sorted(set(self.kinds)):
            marks = [c for c, k in zip(self.correct, self.kinds) if k == kind]
            tallies[kind] = Tally(len(marks), sum(marks))
        object.__setattr__(self, "by_kind", MappingProxyType(tallies))

    @property
    def overall(self) -> Tally:
        return Tally(len(self.correct), sum(self.correct))

    @property
    def n(self) -> int:
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        return self.overall.accuracy

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            **self.overall.to_json(),
            "by_kind": {kind or "all": t.to_json() for kind, t in self.by_kind.items()},
        }


@dataclass(frozen=True)
class PairedEvaluation:
    """Full and pruned model on the same questions, paired question by question.

    `accuracy_kept` = pruned / full accuracy (the paper's "accuracy kept"; None if the full model
    has none right). Its 95 % interval is Wald's on the log ratio of paired proportions, variance
    (lost + gained) / (full correct * pruned correct).
    """

    full: Evaluation
    pruned: Evaluation

    def __post_init__(self):
        if self.full.kinds != self.pruned.kinds or self.full.data != self.pruned.data:
            raise ValueError(
                "found evaluations of different questions; expected the same questions in the same"
                " order"
            )

    @property
    def lost(self) -> int:
        """Questions that only the full model gets right."""
        return sum(f and not p for f, p in zip(self.full.correct, self.pruned.correct))

    @property
    def gained(self) -> int:
        """Questions that only the pruned model gets right."""
        return sum(p and not f for f, p in zip(self.full.correct, self.pruned.correct))

    @property
    def accuracy_kept(self) -> float | None:
        return self.pruned.accuracy / self.full.accuracy if self.full.accuracy else None

    @property
    def interval(self) -> tuple[float, float] | None:
        right = self.full.overall.correct * self.pruned.overall.correct
        if not right:
            return None
        half = Z_95 * math.sqrt((self.lost + self.gained) / right)
        return self.accuracy_kept * math.exp(-half), self.accuracy_kept * math.exp(half)

    def to_json(self) -> dict[str, Any]:
        """The pruned model's evaluation with what it kept of the full one's, overall and by kind."""
        out = self.pruned.to_json()
        out |= {
            "full": self.full.to_json(),
            "accuracy_kept": self.accuracy_kept,
            "accuracy_kept_interval": self.interval and list(self.interval),
        }
        out |= {"lost": self.lost, "gained": self.gained}
        for kind, before in self.full.by_kind.items():
            out["by_kind"][kind or "all"]["accuracy_kept"] = (
                self.pruned.by_kind[kind].accuracy / before.accuracy if before.correct else None
            )
        return out


def wilson(correct: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion, within 0..1 (Wilson 1927)."""
    p, shrink = correct / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (0.0 if correct == 0 else max(0.0, centre - half)), (
        1.0 if correct == n else min(1.0, centre + half)
    )


def normalise(text: str) -> str:
    """What exact match compares: case, runs of space and a final full stop do not count."""
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").strip().casefold()


@torch.inference_mode()
def answer_batch(
    lvlm: LVLM,
    samples: Sequence[Sample],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    run: Run = QUIET,
) -> list[tuple[int, ...]]:
    """Greedy token ids for each of several samples, `batch_size` decoded together; each ends with
    its end-of-sequence token if it got there.
    """
    found: dict[int, tuple[int, ...]] = {}
    for members in batches(samples, batch_size):
        group = [samples[i] for i in members]
        found |= zip(
            members,
            answers_together(
                lvlm,
                group,
                room_for_answer(lvlm, max(sample.length for sample in group), max_new_tokens),
                run,
            ),
        )
    return [found[i] for i in range(len(samples))]


def evaluate(
    lvlm: LVLM,
    questions: Iterable[Question],
    *,
    data: str = "",
    batch_size: int = 32,
    max_new_tokens: int = 64,
    prepare: Callable[[Sample], Sample] | None = None,
    run: Run = QUIET,
) -> Evaluation:
    """Greedy answers to labelled questions, marked by exact match after `normalise`. prepare:
    changes every sample (visual-token pruning).

    Questions of one kind share batches, since their answers end together. Raises InputError for no
    questions or a bad image.
    """
    questions = list(questions)
    if not questions:
        raise InputError(
            f"Found no questions in {data or 'the data'}; expected at least one; give another file"
            " or raise the limit."
        )
    if batch_size < 1:
        raise InputError(f"Found a batch size of {batch_size}; expected at least 1; raise it.")
    order = sorted(
        range(len(questions)), key=lambda i: (questions[i].kind, len(questions[i].question))
    )
    answers = [""] * len(questions)
    for start in range(0, len(order), batch_size):
        run.report(start / len(order), f"answering question {start + 1} of {len(order)}")
        members = order[start : start + batch_size]
        samples = []
        for i in members:
            run.check("Stopped before all questions were answered.")
            sample = lvlm.encode(questions[i].image, questions[i].question)
            samples.append(prepare(sample) if prepare else sample)
        for i, ids in zip(
            members,
            answer_batch(
                lvlm, samples, batch_size=batch_size, max_new_tokens=max_new_tokens, run=run
            ),
        ):
            answers[i] = lvlm.tokenizer.decode(ids, skip_special_tokens=True)
    run.report(1.0, "all questions answered")
    return Evaluation(
        data=data,
        answers=tuple(answers),
        correct=tuple(normalise(a) == normalise(q.answer) for a, q in zip(answers, questions)),
        kinds=tuple(q.kind for q in questions),
    )


def read_jsonl(path: str | Path) -> Iterator[Question]:
    """Questions of a JSON Lines file: `{"image": path, "question": text, "answer": text}` a line,
    `"kind"` if wanted.

    Image paths are relative to the file's folder; null asks without an image. Empty lines are
    skipped. Raises InputError with the line's number.
    """
    for where, row in read_rows(path, ("question", "answer")):
        yield Question(
            image_path(row, path, where), row["question"], row["answer"], str(row.get("kind", ""))
        )
