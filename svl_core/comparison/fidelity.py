"""How far a pruned model is from the full one on the same sample: distributions, answers, size and
speed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from svl_core.comparison.answer import Answer
from svl_core.comparison.pair import Pair
from svl_core.errors import Cancelled
from svl_core.lvlm.decoding import greedy, image_token_ids
from svl_core.lvlm.forcing import kl_per_token, token_losses
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

Show = Callable[[tuple[Answer | None, Answer | None], tuple[int, ...]], None]


@dataclass(frozen=True)
class Comparison:
    """Two answers to one sample and what separates them.

    `kl` (nats/token), `agreement` (0..1) and `token_probabilities` are teacher-forced: both models
    read the full model's greedy answer and predict each of its n tokens. `first_divergence` is the
    index, in the full model's answer, of the first token where the two greedy answers differ (None:
    identical); `first_divergent_word` the (start, end) characters, in the pruned model's text, of
    its first word that differs ((length, length) if it stops early; None: same words). Speed-ups
    are full / pruned times (> 1: the pruned model is faster; None: not measurable).
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
    speedup_prefill: float | None
    speedup_decode: float | None

    def __post_init__(self):
        if not (self.kl >= 0 and 0 <= self.agreement <= 1):
            raise ValueError(
                f"found KL {self.kl} and agreement {self.agreement}; expected KL >= 0 and agreement"
                " in 0..1"
            )

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
            "speedup": {"prefill": self.speedup_prefill, "decode": self.speedup_decode},
        }


def first_divergence(full: Sequence, pruned: Sequence) -> int | None:
    """Index of the first element where two sequences differ (the shorter's length if it begins the
    longer); None if equal.
    """
    for i, (a, b) in enumerate(zip(full, pruned)):
        if a != b:
            return i
    return None if len(full) == len(pruned) else min(len(full), len(pruned))


def divergent_words(full: str, pruned: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(start, end) characters of the first whitespace-separated word that differs, in each text;
    None if there is none.

    In a text that ends before that word the span is empty, at its end.
    """
    index = first_divergence(full.split(), pruned.split())
    return None if index is None else (_word_span(full, index), _word_span(pruned, index))


def _word_span(text: str, index: int) -> tuple[int, int]:
    words = list(re.finditer(r"\S+", text))
    return words[index].span() if index < len(words) else (len(text), len(text))


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
    """Answers with both models (unless `answers` (full, pruned) are given) and measures their
    distance.

    What both have in common is computed once: the image and the layers before the first dropped or
    edited one (see `prefix`). The pruned answer's `prefill_ms` counts that part too, as the full
    model's pass spent it, so the speed-up is that of two separate answers.
    pruned_sample: what the pruned model reads instead of `sample` (fewer visual tokens). show:
    called with both answers so far and the sides (0, 1) that still grow, after each token; both
    then grow in turn. Without it each answers alone, after one untimed prefill of each model, so
    that neither pays for a cold start. Raises Cancelled.
    """
    pair = Pair(full, pruned, sample, pruned_sample, run)
    if answers is None:
        if show is None:
            pair.warm_up()
        for answers, live in pair.answers(max_new_tokens, in_turn=show is not None):
            if show is not None:
                show(answers, live)
    if "cancelled" in (answers[0].stopped, answers[1].stopped):
        raise Cancelled("Stopped before both answers were complete.")
    ids = answers[0].token_ids
    logits = pair.forced(ids)
    words = divergent_words(answers[0].text, answers[1].text)
    top = [greedy(x, image_token_ids(full)) for x in logits]
    probabilities = [(-token_losses(x, ids)).exp().tolist() for x in logits]
    return Comparison(
        full=answers[0],
        pruned=answers[1],
        kl=float(kl_per_token(*logits).mean()),
        agreement=float((top[0] == top[1]).float().mean()),
        first_divergence=first_divergence(ids, answers[1].token_ids),
        first_divergent_word=words and words[1],
        token_probabilities=(tuple(probabilities[0]), tuple(probabilities[1])),
        parameters_full=full.num_parameters,
        parameters_pruned=pruned.num_parameters,
        speedup_prefill=_ratio(answers[0].prefill_ms, answers[1].prefill_ms),
        speedup_decode=_ratio(answers[0].per_token_ms, answers[1].per_token_ms),
    )


def _ratio(full: float | None, pruned: float | None) -> float | None:
    return full / pruned if full and pruned else None
