"""How much faster a pruned model is than the full one: medians of what was measured, beside what
the kept layers allow, and whether the measurement says anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch

from svl_core.comparison.answer import Answer
from svl_core.lvlm.decoding import Decoding, greedy
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import PrefillState, shared_depth
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.work import count_work

Asked = tuple[LVLM, Sample]
"""A model and what it reads."""

TOLERANCE = 1.1
"""How far a measurement may lie outside of what is possible: counted work foretells the processor
time of answers to within a tenth (`tests/benchmarks/meters.py`).
"""
SPREAD = 0.5
"""The most that times may scatter: their interquartile range over their median. Of answers timed
beside other work the limits alone let 4 to 5 % of the speed-ups through that are wrong by a
quarter; this bound lets 1 to 3 % through and keeps 70 to 90 % of the right ones, of which 0.25
would hide half or more (the same benchmark, recorded twice).
"""
FEWEST = 4
"""Times that a median and its spread need."""


@dataclass(frozen=True)
class Speed:
    """How many times faster one part of a pruned model's answer is than the full model's.

    measured: full / pruned time; None: nothing was measured.
    expected: full / pruned work, counted from both models' shapes.
    noise: why the measured one says nothing, in a few words; None where it does.
    """

    measured: float | None
    expected: float
    noise: str | None = None

    def __post_init__(self) -> None:
        if self.expected <= 0 or (self.measured is not None and self.measured <= 0):
            raise ValueError(
                f"found a measured speed-up of {self.measured} and an expected one of"
                f" {self.expected}; expected positive ones"
            )

    @property
    def likely(self) -> float:
        """The measured one, or the expected one where that is noise or missing."""
        if self.measured is None or self.noise is not None:
            return self.expected
        return self.measured


@dataclass(frozen=True)
class Possible:
    """What the kept layers allow.

    expected: full / pruned work.
    most: the same, or full / pruned number of matrix products where that is more: what is reached
        where starting a product costs more than the product.
    """

    expected: float
    most: float


def possible(full: Asked, pruned: Asked) -> tuple[Possible, Possible]:
    """What the prefill's speed-up can be, and that of each later token.

    Where the full model read the prompt to rank its visual tokens, that pass is the pruned model's
    to pay.
    """
    more = count_work(*full)
    less = count_work(*pruned)
    thinning = pruned[1].thinning
    before = 1 if thinning is not None and thinning.ranked else 0
    prefill = less.prefill + before * more.prefill
    prefill_products = less.prefill_products + before * more.prefill_products

    def allowed(work: float, products: float) -> Possible:
        return Possible(work, max(work, products))

    return (
        allowed(more.prefill / prefill, more.prefill_products / prefill_products),
        allowed(more.decode / less.decode, more.decode_products / less.decode_products),
    )


def judged(
    measured: float | None,
    scatter: float,
    allowed: Possible,
) -> Speed:
    """A measured speed-up with its verdict: noise is what is more than the work left allows, slower
    than it explains, or the ratio of times that scatter too much.

    measured: full / pruned time; None: nothing was measured.
    scatter: `spread` of the times behind it, the larger one of both models.
    """
    noise = None
    if measured is not None:
        if measured > TOLERANCE * allowed.most:
            noise = f"more than the {allowed.most:.2f} times that the work left allows"
        elif measured < min(1.0, allowed.expected) / TOLERANCE:
            noise = "slower than the work left explains"
        elif scatter > SPREAD:
            noise = f"times scatter by {scatter:.0%} of their median"
    return Speed(measured, allowed.expected, noise)


def compared(
    full_times: Sequence[float],
    pruned_times: Sequence[float],
    allowed: Possible,
) -> Speed:
    """The ratio of the medians of both models' times of the same work, in any unit, `judged`."""
    measured = None
    if full_times and pruned_times and min(median(full_times), median(pruned_times)) > 0:
        measured = median(full_times) / median(pruned_times)
    return judged(measured, max(spread(full_times), spread(pruned_times)), allowed)


def spread(times: Sequence[float]) -> float:
    """Their interquartile range over their median; 0 of fewer than FEWEST."""
    if len(times) < FEWEST:
        return 0.0
    low, middle, high = quantiles(times, n=4, method="inclusive")
    return (high - low) / middle if middle else 0.0


def answer_speeds(
    full: Asked,
    pruned: Asked,
    answers: tuple[Answer, Answer],
) -> tuple[Speed, Speed]:
    """The speed-ups of the first token and of each later one, of two answers.

    answers: (full, pruned).

    A first token is timed once, so that nothing is known of its spread; later ones need FEWEST of
    each model. What ranked visual tokens belongs to the first.
    """
    prefill, decode = possible(full, pruned)
    first = compared([answers[0].prefill_ms], [answers[1].prefill_ms], prefill)
    first = _with_ranking(first, pruned[1])
    later = compared(answers[0].token_ms, answers[1].token_ms, decode)
    fewest = min(len(answer.token_ms) for answer in answers)
    if later.measured is not None and fewest < FEWEST:
        tokens = "token" if fewest == 1 else "tokens"
        short = f"only {fewest} {tokens} after the first, too few to measure"
        later = Speed(later.measured, later.expected, short)
    return first, later


def _with_ranking(speed: Speed, read: Sample) -> Speed:
    """A speed-up that says nothing where what ranked the pruned model's visual tokens was not
    timed.
    """
    thinning = read.thinning
    if speed.measured is None or thinning is None or thinning.before_ms is not None:
        return speed
    return Speed(speed.measured, speed.expected, "what ranked the visual tokens was not timed")


def speeds_to_json(prefill: Speed, decode: Speed) -> dict[str, Any]:
    """Both as JSON keeps them: the measured ones, then the expected ones and why a measured one is
    noise.
    """
    parts = {"prefill": prefill, "decode": decode}
    return {
        **{name: speed.measured for name, speed in parts.items()},
        "expected": {name: speed.expected for name, speed in parts.items()},
        "noise": {name: speed.noise for name, speed in parts.items()},
    }


@dataclass(frozen=True)
class Speedup:
    """How many times faster the pruned model is, all timed in turn.

    prefill: the pass over image and prompt.
    decode: the tokens after the first.
    total: the whole answer.
    """

    prefill: Speed
    decode: Speed
    total: Speed

    def of_a_row(self) -> dict[str, Any]:
        """What a sweep's row keeps of it, by the row's fields."""
        return {
            "speedup": self.total.measured,
            "speedup_prefill": self.prefill.measured,
            "speedup_decode": self.decode.measured,
            "expected": self.total.expected,
            "noise": self.total.noise,
        }


SAME = Speedup(Speed(1.0, 1.0), Speed(1.0, 1.0), Speed(1.0, 1.0))
"""Of a model beside itself, where times differ by chance."""


LONG_S = 1.0
"""From this many seconds a round on, a cold start and a single disturbance weigh little: the full
model's rounds then serve for every pruned model, and each of these is timed once.
"""

Round = tuple[float, float]
"""Seconds of one prefill, and of the decode steps after it."""


class Stopwatch:
    """Times pruned models against one full model, by answers of equal length to one question.

    Taking turns spreads whatever else the machine does over both, and the median leaves out what
    hits one round only. What a pruned model's pass over the prompt has in common with the full
    one's is not run again: its time is counted as the full model spent it.

    full: the full model.
    sample: the question.
    tokens: the length of an answer, at least 2.
    repeats: rounds that are timed, after one that is not.
    """

    def __init__(
        self,
        full: LVLM,
        sample: Sample,
        *,
        tokens: int = 8,
        repeats: int = 5,
    ) -> None:
        self.full = full
        self.sample = sample
        self.tokens = tokens
        self.repeats = repeats
        self._long: list[Round] = []
        self._prefill: PrefillState | None = None

    def measure(self, pruned: LVLM, pruned_sample: Sample | None = None) -> Speedup:
        """The speed-up of one pruned model.

        pruned_sample: what it reads instead (fewer visual tokens), with the time that was spent to
            choose them.
        """
        read = pruned_sample or self.sample
        full_rounds, pruned_rounds = self._rounds(pruned, read)
        speedup = _speedup(
            full_rounds,
            pruned_rounds,
            possible((self.full, self.sample), (pruned, read)),
        )
        return replace(
            speedup,
            prefill=_with_ranking(speedup.prefill, read),
            total=_with_ranking(speedup.total, read),
        )

    def _rounds(self, pruned: LVLM, read: Sample) -> tuple[list[Round], list[Round]]:
        """What was timed of the full and of the pruned model."""
        if self._long:
            return self._long, [self._pruned_round(pruned, read)]
        first = self._full_round()
        if sum(first) >= LONG_S:
            self._long = [first]
            return self._rounds(pruned, read)
        self._pruned_round(pruned, read)
        full_rounds: list[Round] = []
        pruned_rounds: list[Round] = []
        for _ in range(self.repeats):
            full_rounds.append(self._full_round())
            pruned_rounds.append(self._pruned_round(pruned, read))
        return full_rounds, pruned_rounds

    def _full_round(self) -> Round:
        # The layers' entries are timed where passes run as they are called.
        keep = range(self.full.num_layers) if self.full.device.type == "cpu" else ()
        spent, self._prefill = _timed(
            self.tokens,
            lambda: Decoding(
                self.full,
                self.sample.inputs,
                features=self.sample.features,
                keep=keep,
            ),
        )
        return spent

    def _pruned_round(self, pruned: LVLM, read: Sample) -> Round:
        depth = shared_depth(self.full, pruned) if read is self.sample else None
        resume = None
        if depth is not None and self._prefill is not None:
            resume = self._prefill, depth
        spent, _ = _timed(
            self.tokens,
            lambda: Decoding(
                pruned,
                read.inputs,
                features=read.features,
                resume=resume,
                thinning=read.thinning,
            ),
        )
        return spent


def measure_speedup(
    full: LVLM,
    pruned: LVLM,
    sample: Sample,
    *,
    tokens: int = 8,
    repeats: int = 5,
    pruned_sample: Sample | None = None,
) -> Speedup:
    """How much faster one pruned model answers; parameters as of `Stopwatch`.

    pruned_sample: what the pruned model reads instead (fewer visual tokens).
    """
    stopwatch = Stopwatch(full, sample, tokens=tokens, repeats=repeats)
    return stopwatch.measure(pruned, pruned_sample)


def _speedup(
    full_rounds: Sequence[Round],
    pruned_rounds: Sequence[Round],
    allowed: tuple[Possible, Possible],
) -> Speedup:
    """The verdict on both parts and on the whole. The work that is expected of the whole is that of
    its parts, which weigh as the full model's times.
    """
    full_prefill, full_decode = zip(*full_rounds, strict=True)
    pruned_prefill, pruned_decode = zip(*pruned_rounds, strict=True)
    full_parts = median(full_prefill), median(full_decode)
    pruned_parts = median(pruned_prefill), median(pruned_decode)
    scatter = max(
        spread([sum(parts) for parts in full_rounds]),
        spread([sum(parts) for parts in pruned_rounds]),
    )
    prefill, decode = allowed
    return Speedup(
        prefill=compared(full_prefill, pruned_prefill, prefill),
        decode=compared(full_decode, pruned_decode, decode),
        total=judged(
            sum(full_parts) / sum(pruned_parts),
            scatter,
            together(full_parts, allowed),
        ),
    )


def together(times: Sequence[float], parts: Sequence[Possible]) -> Possible:
    """What is possible for a whole.

    times: the full model's, of each of the parts.
    parts: what is possible for each.
    """

    def whole(speedups: Sequence[float]) -> float:
        pairs = zip(times, speedups, strict=True)
        return sum(times) / sum(spent / speedup for spent, speedup in pairs)

    return Possible(
        whole([part.expected for part in parts]),
        whole([part.most for part in parts]),
    )


@torch.inference_mode()
def _timed(
    tokens: int,
    read: Callable[[], Decoding],
) -> tuple[Round, PrefillState | None]:
    """Seconds of the prefill, with what was spent on it before, and of the `tokens` - 1 decode
    steps after it; and what the pass left behind.

    read: makes the pass over the prompt.
    """
    start = time.perf_counter()
    decoding = read()
    prefill = decoding.prefill
    token = int(greedy(decoding.logits))
    middle = time.perf_counter()
    for _ in range(tokens - 1):
        decoding.feed(torch.tensor([[token]], device=decoding.logits.device))
        # reading the number waits for the device
        int(greedy(decoding.logits))
    before_s = decoding.shared_ms / 1000
    return (middle - start + before_s, time.perf_counter() - middle), prefill
