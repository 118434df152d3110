"""One greedy answer to one sample: streamed, timed, and cancelled within a token."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal

import torch

from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding, greedy, image_token_ids
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

INCOMPLETE = "\ufffd"
"""What a tokenizer shows for the first bytes of a character whose rest has not come yet."""

Stop = Literal["eos", "length", "cancelled"]
"""Why an answer ended: an end-of-sequence token, no more room, or the person."""


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """A greedy answer, whole or still growing.

    token_ids: every generated token, the end-of-sequence one included.
    tokens: their pieces of `text`, so that `"".join(tokens) == text`; "" for special tokens and for
        the first bytes of a character.
    prefill_ms: from image and prompt to the first token. All times count the model's work only, not
        that of whoever reads the answer.
    token_ms: each later token.
    total_ms: all tokens.
    stopped: why the answer ended; None while it grows.
    shared_ms: the part of `prefill_ms` that had been spent already, on the image, by what ranked
        its visual tokens, by the analysis or by another model's answer to the same sample (see
        `compare`), so that nobody waited for it twice.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prefill_ms: float
    token_ms: tuple[float, ...]
    total_ms: float
    stopped: Stop | None
    shared_ms: float = 0.0

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.tokens):
            raise ValueError(
                f"found {len(self.token_ids)} token ids and {len(self.tokens)} pieces; expected as"
                " many of each"
            )

    def brief(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "tokens": len(self.token_ids),
            "prefill_ms": self.prefill_ms,
            "per_token_ms": self.per_token_ms,
            "stopped": self.stopped,
        }

    @property
    def per_token_ms(self) -> float | None:
        """The median of the later tokens, which other work on the machine hardly moves; None for a
        single token.
        """
        return median(self.token_ms) if self.token_ms else None

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "ms_prefill": self.prefill_ms,
            "ms_shared": self.shared_ms,
            "ms_per_token": self.per_token_ms,
            "stopped": self.stopped,
        }


class Detokeniser:
    """Turns token ids into text as they come, holding back characters that are not complete."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.ids: list[int] = []
        # for each token where the text ends that was complete with it
        self._ends: list[int] = []

    def push(self, token_id: int) -> None:
        """Takes the next token."""
        self.ids.append(token_id)
        self._ends.append(len(self._decode().rstrip(INCOMPLETE)))

    def _decode(self) -> str:
        return self._tokenizer.decode(self.ids, skip_special_tokens=True)

    def read(self, final: bool) -> tuple[str, tuple[str, ...]]:
        """The text so far, and its piece for each token.

        final: whether to let out bytes that never became a character.
        """
        if not self.ids:
            return "", ()
        text = self._decode()
        if not final:
            text = text.rstrip(INCOMPLETE)
        ends = [min(end, len(text)) for end in self._ends]
        ends[-1] = len(text)
        # a tokenizer may take back a space, but no token's end may lie behind the next one's
        for place in reversed(range(len(ends) - 1)):
            ends[place] = min(ends[place], ends[place + 1])
        spans = pairwise([0, *ends])
        return text, tuple(text[start:end] for start, end in spans)


def stream(
    lvlm: LVLM,
    sample: Sample,
    *,
    max_new_tokens: int = 64,
    run: Run = QUIET,
) -> Iterator[Answer]:
    """Yields the growing answer, a token more each time; the last one is complete (`stopped` says
    why it ended).

    It ends on any of the model's end-of-sequence tokens, after `max_new_tokens`, where the context
    is full, or within one token of the run's cancellation. Raises InputError for `max_new_tokens`
    below 1 and for a sample that leaves no room in the context.
    """
    return grow(
        lvlm,
        sample,
        lambda: Decoding(
            lvlm,
            sample.inputs,
            features=sample.features,
            thinning=sample.thinning,
        ),
        max_new_tokens=max_new_tokens,
        run=run,
    )


def grow(
    lvlm: LVLM,
    sample: Sample,
    prompt: Callable[[], Decoding],
    *,
    max_new_tokens: int,
    run: Run,
) -> Iterator[Answer]:
    """`stream` behind a prompt whose pass is made, and timed, here.

    prompt: called once; runs the model over the prompt.
    """
    if max_new_tokens < 1:
        raise InputError(
            f"Found an answer length of {max_new_tokens} tokens; expected at least 1; raise it."
        )
    limit = room_for_answer(lvlm, sample.length, max_new_tokens)
    ends = set(lvlm.eos_token_ids)
    forbidden = image_token_ids(lvlm)
    steered = lvlm.steering(sample, limit)
    detokeniser = Detokeniser(lvlm.tokenizer)
    times_ms: list[float] = []
    decoding: Decoding | None = None
    stopped: Stop | None = None
    while stopped is None:
        if run.cancelled:
            stopped = "cancelled"
        else:
            start = time.perf_counter()
            if decoding is None:
                decoding = prompt()
            else:
                last = torch.tensor(
                    [[detokeniser.ids[-1]]],
                    device=decoding.logits.device,
                )
                decoding.feed(last)
            # reading the number waits for the device, so that the time is whole
            logits = decoding.logits if steered is None else steered(decoding.logits[0])
            token = int(greedy(logits, forbidden))
            elapsed_ms = 1000 * (time.perf_counter() - start)
            if not times_ms:
                elapsed_ms += decoding.shared_ms - decoding.observing_ms
            times_ms.append(elapsed_ms)
            detokeniser.push(token)
            if steered is not None:
                steered.push(token)
            if token in ends:
                stopped = "eos"
            elif len(times_ms) == limit:
                stopped = "length"
        text, tokens = detokeniser.read(final=stopped is not None)
        yield Answer(
            text=text,
            token_ids=tuple(detokeniser.ids),
            tokens=tokens,
            prefill_ms=times_ms[0] if times_ms else 0.0,
            token_ms=tuple(times_ms[1:]),
            total_ms=sum(times_ms),
            stopped=stopped,
            shared_ms=0.0 if decoding is None else decoding.shared_ms,
        )


def answer(
    lvlm: LVLM,
    sample: Sample,
    *,
    max_new_tokens: int = 64,
    run: Run = QUIET,
) -> Answer:
    """The complete answer of `stream`, with the same parameters and errors."""
    growing = stream(
        lvlm,
        sample,
        max_new_tokens=max_new_tokens,
        run=run,
    )
    return deque(growing, maxlen=1).pop()


def room_for_answer(
    lvlm: LVLM,
    length: int,
    max_new_tokens: int,
) -> int:
    """How many tokens an answer may have: `max_new_tokens`, or what the context leaves of them.

    length: positions of the prompt. Raises InputError where it leaves none.
    """
    if lvlm.max_positions is None:
        return max_new_tokens
    if length >= lvlm.max_positions:
        raise InputError(
            f"Found a prompt of {length} positions; expected fewer than the {lvlm.max_positions}"
            f" that {lvlm.name} has; shorten the prompt."
        )
    return min(max_new_tokens, lvlm.max_positions - length)
