"""A model's own generation settings, where they change greedy decoding: repetition penalties,
n-grams that may not come twice, words that are ruled out or forced.

Their maths is the library's: each setting that is set becomes the logits processor that
`generate(do_sample=False)` would take, in the same order. Each row of a batch is steered by its own
tokens, so that answers made together are those made alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation import logits_process as library


@dataclass(frozen=True)
class Place:
    """What a processor may depend on beside its setting.

    length: positions of the prompt.
    limit: the most tokens of the answer.
    ends: the ids that end it.
    """

    length: int
    limit: int
    ends: tuple[int, ...]
    device: torch.device


def _no_bad_words(words: Any, place: Place) -> Any:
    return library.NoBadWordsLogitsProcessor(words, list(place.ends) or None)


def _least_length(least: int, place: Place) -> Any:
    return library.MinLengthLogitsProcessor(least, list(place.ends), device=str(place.device))


def _least_new(least: int, place: Place) -> Any:
    ends, device = list(place.ends), str(place.device)
    return library.MinNewTokensLengthLogitsProcessor(place.length, least, ends, device=device)


def _forced_end(token: Any, place: Place) -> Any:
    most = place.length + place.limit
    return library.ForcedEOSTokenLogitsProcessor(most, token, device=str(place.device))


def _begin_without(tokens: Any, place: Place) -> Any:
    return library.SuppressTokensAtBeginLogitsProcessor(
        tokens,
        place.length,
        device=str(place.device),
    )


def _without(tokens: Any, place: Place) -> Any:
    return library.SuppressTokensLogitsProcessor(tokens, device=str(place.device))


PROCESSORS: dict[str, tuple[tuple, Callable[[Any, Place], Any]]] = {
    "sequence_bias": ((), lambda bias, place: library.SequenceBiasLogitsProcessor(bias)),
    "repetition_penalty": (
        (1.0,),
        lambda penalty, place: library.RepetitionPenaltyLogitsProcessor(float(penalty)),
    ),
    "no_repeat_ngram_size": (
        (0,),
        lambda size, place: library.NoRepeatNGramLogitsProcessor(size),
    ),
    "bad_words_ids": ((), _no_bad_words),
    "min_length": ((0,), _least_length),
    "min_new_tokens": ((0,), _least_new),
    "forced_eos_token_id": ((), _forced_end),
    "suppress_tokens": (([],), _without),
    "begin_suppress_tokens": (([],), _begin_without),
}
"""setting -> (its values beside None that change nothing, what makes the library's processor), in
the order in which `generate` applies them."""

# Settings that change a greedy answer and are not followed -> their values that change nothing.
NOT_FOLLOWED: dict[str, tuple] = {
    "num_beams": (1,),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1, 1.0),
    "dola_layers": (),
}
# Those without ids that end an answer have nothing to put off.
NEED_ENDS = ("min_length", "min_new_tokens")


def _set(config, name: str, idle: Sequence[Any]) -> bool:
    """Whether a generation config gives a setting a value that changes something."""
    value = getattr(config, name, None)
    return value is not None and value not in idle


def followed(config, ends: Sequence[int]) -> dict[str, Any]:
    """The settings of a generation config that greedy answers follow, by name.

    ends: the ids that end an answer.
    """
    return {
        name: getattr(config, name)
        for name, (idle, _) in PROCESSORS.items()
        if _set(config, name, idle) and (ends or name not in NEED_ENDS)
    }


def told(config, ends: Sequence[int], plain: bool) -> str:
    """What a generation config does to a model's answers, in a few words; "" for nothing.

    plain: whether answers are the plain arg max.
    """
    own = [_named(name, value) for name, value in followed(config, ends).items()]
    others = [
        _named(name, getattr(config, name))
        for name, idle in NOT_FOLLOWED.items()
        if _set(config, name, idle)
    ]
    parts = []
    if plain:
        others = own + others
    elif own:
        parts.append(f"answers follow its {', '.join(own)}")
    if others:
        parts.append(f"answers are greedy without its {', '.join(others)}")
    return "; ".join(parts)


def _named(name: str, value: Any) -> str:
    """A setting in words; lists by their name alone."""
    return f"{name} {value}" if isinstance(value, (int, float)) else name


class Steering:
    """The processors of one answer, and the tokens that they look at."""

    def __init__(self, processors: Sequence[Any], prompt: torch.Tensor) -> None:
        self._processors = processors
        self._ids = prompt

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits (vocab,) of the next token as the settings change them."""
        scores = logits[None].float()
        for processor in self._processors:
            scores = processor(self._ids, scores)
        return scores[0]

    def push(self, token: int) -> None:
        """The token that was chosen."""
        said = self._ids.new_tensor([[token]])
        self._ids = torch.cat([self._ids, said], dim=1)


def steering(config, place: Place, prompt: torch.Tensor | None) -> Steering | None:
    """What steers an answer; None where it is the plain arg max.

    config: the model's generation config.
    prompt: (1, S) ids of the prompt; None where some positions have left the sequence, so that only
        what was said counts.
    """
    settings = followed(config, place.ends)
    if not settings:
        return None
    if prompt is None:
        prompt = torch.zeros(1, 0, dtype=torch.long, device=place.device)
    made = [PROCESSORS[name][1](value, place) for name, value in settings.items()]
    return Steering(made, prompt)
