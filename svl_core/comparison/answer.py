"""One greedy answer to one sample: streamed, timed, and cancelled within a token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding, greedy, image_token_ids
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

# what a tokenizer shows for the first bytes of a character whose rest has not come yet
INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Answer:
    """A greedy answer, whole or still growing.

    `token_ids` holds every generated token, the end-of-sequence one included. `tokens` are their
    pieces of `text` ("" for special tokens and for the first bytes of a character), so
    `"".join(tokens) == text`. Times count the model's work only, not the reader's: `prefill_ms`
    from image and prompt to the first token, `per_token_ms` the mean of the later ones (None for a
    single token). `stopped` is None while the answer grows. `shared_ms`: the part of `prefill_ms`
    that another model's answer beside this one had spent already (see `compare`), so that nobody
    waited for it twice.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    prefill_ms: float
    per_token_ms: float | None
    total_ms: float
    stopped: Literal["eos", "length", "cancelled"] | None
    shared_ms: float = 0.0

    def __post_init__(self):
        if len(self.token_ids) != len(self.tokens):
            raise ValueError(
                f"found {len(self.token_ids)} token ids and {len(self.tokens)} pieces; expected as"
                " many of each"
            )

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

    def __init__(self, tokenizer):
        self._tokenizer, self.ids, self._ends = tokenizer, [], []

    def push(self, token_id: int) -> None:
        self.ids.append(token_id)
        self._ends.append(len(self._decode().rstrip(INCOMPLETE)))

    def _decode(self) -> str:
        return self._tokenizer.decode(self.ids, skip_special_tokens=True)

    def read(self, final: bool) -> tuple[str, tuple[str, ...]]:
        """The text and its piece for each token; `final` also lets out bytes that never became a
        character.
        """
        if not self.ids:
            return "", ()
        text = self._decode()
        text = text if final else text.rstrip(INCOMPLETE)
        ends = [min(end, len(text)) for end in self._ends]
        ends[-1] = len(text)
        for i in range(
            len(ends) - 2, -1, -1
        ):  # a tokenizer may take back a space: ends must not fall
            ends[i] = min(ends[i], ends[i + 1])
        return text, tuple(text[a:b] for a, b in zip([0, *ends], ends))


def stream(
    lvlm: LVLM, sample: Sample, *, max_new_tokens: int = 64, run: Run = QUIET
) -> Iterator[Answer]:
    """Yields the growing answer, a token more each time; the last one is complete (`stopped` says
    why it ended).

    Ends on any of the model's end-of-sequence tokens, after `max_new_tokens`, where the context is
    full, or within one token of the run's cancellation. Raises InputError for `max_new_tokens` < 1 or a sample
    that leaves no room in the context.
    """
    return grow(
        lvlm,
        sample,
        lambda: Decoding(lvlm, sample.inputs),
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
    """`stream` behind a prompt whose pass is made, and timed, by `prompt()`."""
    if max_new_tokens < 1:
        raise InputError(
            f"Found an answer length of {max_new_tokens} tokens; expected at least 1; raise it."
        )
    limit, ends, forbidden = (
        room_for_answer(lvlm, sample.length, max_new_tokens),
        set(lvlm.eos_token_ids),
        image_token_ids(lvlm),
    )
    detokeniser, times = Detokeniser(lvlm.tokenizer), []
    decoding, stopped = None, None
    while stopped is None:
        if run.cancelled:
            stopped = "cancelled"
        else:
            start = time.perf_counter()
            if decoding is None:
                decoding = prompt()
            else:
                decoding.feed(torch.tensor([[detokeniser.ids[-1]]], device=decoding.logits.device))
            token = int(
                greedy(decoding.logits, forbidden)
            )  # waits for the device, so the time is whole
            times.append(
                1000 * (time.perf_counter() - start) + (0.0 if times else decoding.shared_ms)
            )
            detokeniser.push(token)
            stopped = "eos" if token in ends else "length" if len(times) == limit else None
        text, tokens = detokeniser.read(final=stopped is not None)
        yield Answer(
            text=text,
            token_ids=tuple(detokeniser.ids),
            tokens=tokens,
            prefill_ms=times[0] if times else 0.0,
            per_token_ms=_mean(times[1:]),
            total_ms=sum(times),
            stopped=stopped,
            shared_ms=decoding.shared_ms if times else 0.0,
        )


def answer(lvlm: LVLM, sample: Sample, *, max_new_tokens: int = 64, run: Run = QUIET) -> Answer:
    """The complete answer of `stream`."""
    last = None
    for last in stream(lvlm, sample, max_new_tokens=max_new_tokens, run=run):
        pass
    return last


def room_for_answer(lvlm: LVLM, length: int, max_new_tokens: int) -> int:
    """`max_new_tokens`, or as many as the context leaves after a prompt of `length` positions.

    Raises InputError for none.
    """
    if lvlm.max_positions is None:
        return max_new_tokens
    if length >= lvlm.max_positions:
        raise InputError(
            f"Found a prompt of {length} positions; expected fewer than the {lvlm.max_positions}"
            f" that {lvlm.name} has; shorten the prompt."
        )
    return min(max_new_tokens, lvlm.max_positions - length)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
