"""Accuracy on labelled questions: batched greedy answers, exact match, Wilson intervals, paired
against the full model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from PIL import Image

from svl_core.comparison.answer import room_for_answer
from svl_core.comparison.jsonl import ImageSource, file_named, read_entries
from svl_core.errors import InputError
from svl_core.lvlm.batching import batches
from svl_core.lvlm.chat import Chat
from svl_core.lvlm.decoding import answers_together
from svl_core.lvlm.features import FeatureStore, KnownFeatures
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import see
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


Pictured = Image.Image | ImageSource | tuple[ImageSource, ...] | None
"""What a question shows."""


class LabelledQuestion(Protocol):
    """A question whose true answer is known.

    image: a picture, a file that holds one, several of them, or None for a question without one.
    question: what is asked: a text, or a chat with more than one question.
    answer: the true one.
    kind: groups the results; "" for an ungrouped question.
    """

    @property
    def image(self) -> Pictured: ...

    @property
    def question(self) -> str | Chat: ...

    @property
    def answer(self) -> str: ...

    @property
    def kind(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Question:
    """A labelled question; the attributes are those of `LabelledQuestion`.

    answers: all that count as right, where there are several.
    """

    image: Pictured
    question: str | Chat
    answer: str
    kind: str = ""
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """`correct` of `n` answers, with the Wilson 95 % interval of the accuracy."""

    n: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ValueError(
                f"found {self.correct} correct of {self.n}; expected 0 <= correct <= n and n >= 1"
            )

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of the accuracy, 95 %."""
        return wilson(self.correct, self.n)

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
        }


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Exact-match accuracy on a data set.

    data: what it is called.
    answers, correct, kinds: for each question, in order, the model's answer, whether it is the true
        one, and the question's kind.
    by_kind: the marks of each kind. Intervals are Wilson 95 %.
    """

    data: str
    answers: tuple[str, ...]
    correct: tuple[bool, ...]
    kinds: tuple[str, ...]
    by_kind: Mapping[str, Tally] = field(init=False)

    def __post_init__(self) -> None:
        if not len(self.answers) == len(self.correct) == len(self.kinds) or not self.answers:
            raise ValueError(
                f"found {len(self.answers)} answers, {len(self.correct)} marks and"
                f" {len(self.kinds)} kinds; expected as many of each, at least one"
            )
        marks: dict[str, list[bool]] = {kind: [] for kind in sorted(set(self.kinds))}
        for kind, correct in zip(self.kinds, self.correct, strict=True):
            marks[kind].append(correct)
        tallies = {kind: Tally(len(of_kind), sum(of_kind)) for kind, of_kind in marks.items()}
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

    def brief(self) -> dict[str, Any]:
        return {"data": self.data, "n": self.n, "accuracy": self.accuracy}

    def table(self) -> list[tuple[Any, ...]]:
        told = [(kind or "all", each.n, each.accuracy) for kind, each in self.by_kind.items()]
        return [("kind", "n", "accuracy"), *told]

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            **self.overall.to_json(),
            "by_kind": {kind or "all": tally.to_json() for kind, tally in self.by_kind.items()},
        }


@dataclass(frozen=True, repr=False)
class PairedEvaluation(Shown):
    """The full and the pruned model on the same questions, paired question by question."""

    full: Evaluation
    pruned: Evaluation

    def __post_init__(self) -> None:
        if self.full.kinds != self.pruned.kinds or self.full.data != self.pruned.data:
            raise ValueError(
                "found evaluations of different questions; expected the same questions in the same"
                " order"
            )

    @property
    def lost(self) -> int:
        """Questions that only the full model gets right."""
        pairs = zip(self.full.correct, self.pruned.correct, strict=True)
        return sum(full and not pruned for full, pruned in pairs)

    @property
    def gained(self) -> int:
        """Questions that only the pruned model gets right."""
        pairs = zip(self.full.correct, self.pruned.correct, strict=True)
        return sum(pruned and not full for full, pruned in pairs)

    @property
    def accuracy_kept(self) -> float | None:
        """Pruned / full accuracy (the paper's "accuracy kept"); None if the full model has none
        right.
        """
        return _kept(self.full.overall, self.pruned.overall)

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high) of `accuracy_kept`, 95 %; None where a model has none right.

        Wald's interval on the log ratio of paired proportions, of variance (lost + gained) / (full
        correct * pruned correct).
        """
        ratio = self.accuracy_kept
        right = self.full.overall.correct * self.pruned.overall.correct
        if ratio is None or not right:
            return None
        half = Z_95 * math.sqrt((self.lost + self.gained) / right)
        return ratio * math.exp(-half), ratio * math.exp(half)

    def brief(self) -> dict[str, Any]:
        return {
            "data": self.full.data,
            "n": self.full.n,
            "full": self.full.accuracy,
            "pruned": self.pruned.accuracy,
            "accuracy_kept": self.accuracy_kept,
            "lost": self.lost,
            "gained": self.gained,
        }

    def to_json(self) -> dict[str, Any]:
        """The pruned model's evaluation and what it kept of the full one's, in all and by kind."""
        result = {
            **self.pruned.to_json(),
            "full": self.full.to_json(),
            "accuracy_kept": self.accuracy_kept,
            "accuracy_kept_interval": self.interval and list(self.interval),
            "lost": self.lost,
            "gained": self.gained,
        }
        for kind, full in self.full.by_kind.items():
            kept = _kept(full, self.pruned.by_kind[kind])
            result["by_kind"][kind or "all"]["accuracy_kept"] = kept
        return result


def _kept(full: Tally, pruned: Tally) -> float | None:
    """Pruned / full accuracy; None if the full model has none right."""
    return pruned.accuracy / full.accuracy if full.correct else None


def wilson(
    correct: int,
    n: int,
    z: float = Z_95,
) -> tuple[float, float]:
    """Wilson score interval of a proportion, within 0..1.

    correct, n: the proportion is `correct` of `n` >= 1.
    z: quantile of the normal distribution.
    Source: Wilson 1927.
    """
    share = correct / n
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    variance = share * (1 - share) / n + z * z / (4 * n * n)
    half = z / shrink * math.sqrt(variance)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def normalise(text: str) -> str:
    """What exact match compares: case, runs of space and a final full stop do not count."""
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").strip().casefold()


def is_right(answer: str, question: LabelledQuestion) -> bool:
    """Whether an answer is one of those that count as right."""
    accepted = getattr(question, "answers", ()) or (question.answer,)
    return normalise(answer) in map(normalise, accepted)


@torch.inference_mode()
def answer_batch(
    lvlm: LVLM,
    samples: Sequence[Sample],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 64,
    run: Run = QUIET,
) -> list[tuple[int, ...]]:
    """Greedy token ids of the answer to each sample; they end with the end-of-sequence token of an
    answer that got there.

    batch_size: samples that are decoded together, at most.
    max_new_tokens: the longest answer.

    Raises InputError for a sample that leaves no room in the context; Cancelled.
    """
    groups = batches(samples, lvlm.most_together(batch_size))

    def answered(members: list[int], alone: Run) -> list[tuple[int, ...]]:
        group = [samples[number] for number in members]
        longest = max(sample.length for sample in group)
        room = room_for_answer(lvlm, longest, max_new_tokens)
        return answers_together(lvlm, group, room, alone)

    answers: dict[int, tuple[int, ...]] = {}
    for members, ids in zip(groups, run.deal(groups, answered), strict=True):
        answers.update(zip(members, ids, strict=True))
    return [answers[number] for number in range(len(samples))]


def evaluate(
    lvlm: LVLM,
    questions: Iterable[LabelledQuestion],
    *,
    data: str = "",
    batch_size: int = 32,
    max_new_tokens: int = 64,
    prepare: Callable[[Sample], Sample] | None = None,
    known: KnownFeatures | None = None,
    run: Run = QUIET,
) -> Evaluation:
    """Greedy answers to labelled questions, marked by exact match after `normalise`.

    data: what the questions are called in the result.
    batch_size: questions answered together.
    max_new_tokens: the longest answer.
    prepare: changes every sample before the model reads it (visual-token pruning).
    known: features of the images, for the next model that is asked the same (see `lvlm/vision.py`).

    Questions of one kind share batches, since their answers end together. Raises InputError for no
    questions or a bad image; Cancelled.
    """
    questions = list(questions)
    if not questions:
        raise InputError(
            f"Found no questions in {data or 'the data'}; expected at least one; give another file"
            " or raise the limit."
        )
    if batch_size < 1:
        raise InputError(f"Found a batch size of {batch_size}; expected at least 1; raise it.")

    def kind_and_length(number: int) -> tuple[str, int]:
        question = questions[number]
        return question.kind, len(question.question)

    order = sorted(range(len(questions)), key=kind_and_length)
    known = FeatureStore() if known is None else known

    def answered(start: int, alone: Run) -> list[str]:
        alone.report(start / len(order), f"answering question {start + 1} of {len(order)}")
        samples = []
        for number in order[start : start + batch_size]:
            alone.check("Stopped before all questions were answered.")
            question = questions[number]
            try:
                sample = see(lvlm, lvlm.encode(question.image, question.question), known)
            except InputError as error:
                raise file_named(question.image, error) from error
            samples.append(prepare(sample) if prepare else sample)
        batch = answer_batch(
            lvlm,
            samples,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            run=alone,
        )
        return [lvlm.tokenizer.decode(ids, skip_special_tokens=True) for ids in batch]

    starts = range(0, len(order), batch_size)
    in_order = chain.from_iterable(run.deal(starts, answered))
    answer_of = dict(zip(order, in_order, strict=True))
    answers = [answer_of[number] for number in range(len(questions))]
    run.report(1.0, "all questions answered")
    marks = (
        is_right(answer, question) for answer, question in zip(answers, questions, strict=True)
    )
    return Evaluation(
        data=data,
        answers=tuple(answers),
        correct=tuple(marks),
        kinds=tuple(question.kind for question in questions),
    )


def read_jsonl(path: str | Path) -> Iterator[Question]:
    """Questions of a list (see `jsonl`): `{"image": path, "question": text, "answer": text}` a
    line, `"kind"` if wanted, or one of the shapes that data sets have.

    Image paths are relative to the file's folder; null asks without an image. Empty lines are
    skipped. Raises InputError with the line's number.
    """
    for entry in read_entries(path):
        if entry.prompt is None or not entry.answers:
            missing = "question" if entry.prompt is None else "answer"
            raise InputError(
                f'Found no text under "{missing}" in {entry.where}; expected'
                ' {"image": path, "question": text, "answer": text}; mend the line.'
            )
        yield Question(
            image=entry.image,
            question=entry.prompt,
            answer=entry.answers[0],
            kind=entry.kind,
            answers=entry.answers,
        )
