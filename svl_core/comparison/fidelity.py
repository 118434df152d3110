"""How far a pruned model is from the full one on the same sample: distributions, answers, size and
speed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svl_core.analysis.trace import Trace
from svl_core.comparison.answer import Answer
from svl_core.comparison.pair import FULL, PRUNED, FullAnswer, Growing, Known, Pair
from svl_core.comparison.speed import Speed, answer_speeds, speeds_to_json
from svl_core.errors import Cancelled
from svl_core.lvlm.decoding import greedy, image_token_ids
from svl_core.lvlm.forcing import kl_per_token, token_losses
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import see
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

if TYPE_CHECKING:
    import torch

Show = Callable[[Growing, tuple[int, ...]], None]
"""Called with both answers so far and the sides (0: full, 1: pruned) that still grow."""


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Two answers to one sample and what separates them.

    kl: mean KL(full || pruned), nats/token. This and the next two are teacher-forced: both models
        read the full model's greedy answer and predict each of its n tokens.
    agreement: the share 0..1 of these tokens that both models find the most likely.
    token_probabilities: for the full and for the pruned model n probabilities 0..1.
    first_divergence: the index, in the full model's answer, of the first token where the two greedy
        answers differ; None: they are identical.
    first_divergent_word: the (start, end) characters, in the pruned model's text, of its first word
        that differs; (length, length) if it stops early, None for the same words.
    parameters_full, parameters_pruned: numbers of parameters.
    speed_prefill, speed_decode: how many times faster the pruned model's first token and each later
        one are, measured and expected.
    """

    full: Answer
    pruned: Answer
    kl: float
    agreement: float
    first_divergence: int | None
    first_divergent_word: tuple[int, int] | None
    token_probabilities: tuple[tuple[float, ...], tuple[float, ...]]
    parameters_full: int
    parameters_pruned: int
    speed_prefill: Speed
    speed_decode: Speed

    def __post_init__(self) -> None:
        if not (self.kl >= 0 and 0 <= self.agreement <= 1):
            raise ValueError(
                f"found KL {self.kl} and agreement {self.agreement}; expected KL >= 0 and agreement"
                " in 0..1"
            )

    def brief(self) -> dict[str, Any]:
        return {
            "full": self.full.text,
            "pruned": self.pruned.text,
            "kl": self.kl,
            "agreement": self.agreement,
            "first_divergence": self.first_divergence,
        }

    def table(self) -> list[tuple[Any, ...]]:
        full, pruned = self.full, self.pruned
        return [
            ("", "full", "pruned"),
            ("parameters", self.parameters_full, self.parameters_pruned),
            ("first token, ms", full.prefill_ms, pruned.prefill_ms),
            ("each later token, ms", full.per_token_ms, pruned.per_token_ms),
        ]

    @property
    def exact(self) -> bool:
        """Whether the two greedy answers are the same tokens."""
        return self.first_divergence is None

    @property
    def divergent_spans(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """(start, end) characters of the first divergent word, in the full and in the pruned
        model's text.
        """
        return divergent_words(self.full.text, self.pruned.text)

    def to_json(self) -> dict[str, Any]:
        return {
            "full": self.full.to_json(),
            "pruned": self.pruned.to_json(),
            "kl": self.kl,
            "agreement": self.agreement,
            "first_divergence": self.first_divergence,
            "first_divergent_word": self.first_divergent_word and list(self.first_divergent_word),
            "exact": self.exact,
            "token_probabilities": {
                "full": list(self.token_probabilities[0]),
                "pruned": list(self.token_probabilities[1]),
            },
            "parameters": {"full": self.parameters_full, "pruned": self.parameters_pruned},
            "speedup": speeds_to_json(self.speed_prefill, self.speed_decode),
        }


def first_divergence(full: Sequence, pruned: Sequence) -> int | None:
    """Index of the first element where two sequences differ (the shorter's length if it begins the
    longer); None if equal.
    """
    common = min(len(full), len(pruned))
    for place in range(common):
        if full[place] != pruned[place]:
            return place
    return None if len(full) == len(pruned) else common


def divergent_words(full: str, pruned: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(start, end) characters of the first whitespace-separated word that differs, in each text;
    None if there is none.

    In a text that ends before that word the span is empty, at its end.
    """
    index = first_divergence(full.split(), pruned.split())
    if index is None:
        return None
    return _word_span(full, index), _word_span(pruned, index)


def _word_span(text: str, index: int) -> tuple[int, int]:
    """(start, end) characters of a word by its number; the text's end where it has fewer words."""
    words = list(re.finditer(r"\S+", text))
    if index < len(words):
        return words[index].span()
    return len(text), len(text)


@dataclass(frozen=True, eq=False)
class Compared:
    """A comparison, and what else its passes left behind.

    comparison: both answers and what separates them.
    full_answer: the full model's side, for the next plan's comparison; None where it stayed in
        another process.
    pruned_trace: the pruned model's trace of the sample, where it was asked for and came with the
        pass.
    """

    comparison: Comparison
    full_answer: FullAnswer | None
    pruned_trace: Trace | None = None


def compare(
    full: LVLM,
    pruned: LVLM,
    sample: Sample,
    *,
    max_new_tokens: int = 64,
    run: Run = QUIET,
    answers: tuple[Answer, Answer] | None = None,
    pruned_sample: Sample | None = None,
    show: Show | None = None,
) -> Comparison:
    """Answers with both models and measures their distance.

    max_new_tokens: the longest answer.
    answers: (full, pruned), where they are there already.
    pruned_sample: what the pruned model reads instead of `sample` (fewer visual tokens).
    show: called after each token; both answers then grow in turn. Without it each model answers
        alone, after one untimed prefill of each, so that neither pays for a cold start.

    What both have in common is computed once: the image and the layers before the first dropped or
    edited one (see `lvlm/prefill.py`). The pruned answer's `prefill_ms` counts that part too, as
    the full model's pass spent it, so the speed-up is that of two separate answers.

    Raises InputError as `stream` does; Cancelled.
    """
    compared = compare_known(
        full,
        pruned,
        sample,
        max_new_tokens=max_new_tokens,
        run=run,
        answers=answers,
        pruned_sample=pruned_sample,
        show=show,
    )
    return compared.comparison


def compare_known(
    full: LVLM,
    pruned: LVLM,
    sample: Sample,
    *,
    known: Known | None = None,
    watched: bool = False,
    max_new_tokens: int = 64,
    run: Run = QUIET,
    answers: tuple[Answer, Answer] | None = None,
    pruned_sample: Sample | None = None,
    show: Show | None = None,
) -> Compared:
    """`compare`, beginning with what is there already.

    known: of the full model's side: its trace of the sample with the prompt, its answer.
    watched: the pruned model's trace of the sample is wanted too, where it comes with its pass.
    """
    if known is None and answers is None:
        sample = see(full, sample)
        if pruned_sample is not None and pruned_sample.key == sample.key:
            pruned_sample = None
    pair = Pair(full, pruned, sample, pruned_sample, run, known=known, watched=watched)
    if answers is None:
        answers = _answered(pair, max_new_tokens, show)
    full_answer, pruned_answer = answers
    if "cancelled" in (full_answer.stopped, pruned_answer.stopped):
        raise Cancelled("Stopped before both answers were complete.")
    ids = full_answer.token_ids
    full_logits, pruned_logits = pair.forced(ids)
    forbidden = image_token_ids(full)
    same = greedy(full_logits, forbidden) == greedy(pruned_logits, forbidden)
    words = divergent_words(full_answer.text, pruned_answer.text)
    speed_prefill, speed_decode = answer_speeds(*pair.sides, answers)
    comparison = Comparison(
        full=full_answer,
        pruned=pruned_answer,
        kl=float(kl_per_token(full_logits, pruned_logits).mean()),
        agreement=float(same.float().mean()),
        first_divergence=first_divergence(ids, pruned_answer.token_ids),
        first_divergent_word=words and words[PRUNED],
        token_probabilities=(
            _probabilities(full_logits, ids),
            _probabilities(pruned_logits, ids),
        ),
        parameters_full=full.num_parameters,
        parameters_pruned=pruned.num_parameters,
        speed_prefill=speed_prefill,
        speed_decode=speed_decode,
    )
    return Compared(comparison, FullAnswer(full_answer, full_logits), pair.pruned_trace)


def _answered(
    pair: Pair,
    max_new_tokens: int,
    show: Show | None,
) -> tuple[Answer, Answer]:
    """Both models' complete answers, (full, pruned); see `compare`."""
    if show is None and pair.known.prompt is None:
        pair.warm_up()
    complete: dict[int, Answer] = {}
    for so_far, live in pair.answers(max_new_tokens, in_turn=show is not None):
        if show is not None:
            show(so_far, live)
        complete = {side: answer for side, answer in enumerate(so_far) if answer is not None}
    return complete[FULL], complete[PRUNED]


def _probabilities(logits: torch.Tensor, ids: Sequence[int]) -> tuple[float, ...]:
    """The probability 0..1 of each of the n tokens `ids` under logits (n, vocab)."""
    return tuple((-token_losses(logits, ids)).exp().tolist())
