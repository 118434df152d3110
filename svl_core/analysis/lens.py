"""The logit lens: what a model would say in the place of each token of its answer, were a layer its
last.

Final norm and head read the hidden state behind every layer (`lvlm/head.py`). Where the word that
is said in the end stands first from some layer on, the answer is decided there; layers behind it
only confirm it. The idea is nostalgebraist's "interpreting GPT: the logit lens" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from svl_core.analysis.reading import read, words_of
from svl_core.analysis.trace import SampleTrace, Trace
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding, answers_together
from svl_core.lvlm.families import stacks_streams
from svl_core.lvlm.leaving import Leaving
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

MAX_ANSWER = 64  # tokens of an answer that is not given


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class Lens(Shown):
    """What each of L layers would say in the place of each of an answer's n tokens.

    layer_ids: for each layer its number in the original model.
    token_ids: (n,) the answer's tokens, each of which is "the word" of its place.
    tokens: n readable strings.
    words: (L, n, k) the likeliest words, the first one first.
    shares: (L, n, k) float32, 0..1, their probabilities.
    probability: (L, n) float32, 0..1, of the word.
    rank: (L, n) int64, how many words are likelier than it; 0 where it stands first.
    entropy: (L, n) float32, of the whole prediction, in nats.
    """

    layer_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    words: np.ndarray
    shares: np.ndarray
    probability: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray

    def __post_init__(self):
        places = (len(self.layer_ids), len(self.token_ids))
        for field in fields(self):
            values = getattr(self, field.name)
            if not isinstance(values, np.ndarray):
                continue
            if values.shape[:2] != places:
                raise ValueError(
                    f"Found {field.name} of shape {values.shape}; expected {places} layers and"
                    " tokens."
                )
            values.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        return {"layers": len(self.layer_ids), "tokens": self.tokens, "decided": self.decided}

    def table(self) -> list[list[Any]]:
        heading = ["token", "decided behind layer", "probability at the end"]
        ends = self.probability[-1].tolist()
        rows = zip(
            self.tokens,
            self.decided,
            ends,
            strict=True,
        )
        return [heading, *map(list, rows)]

    @property
    def decided(self) -> tuple[int | None, ...]:
        """For each token the layer, by its number in the original model, from which on its word
        stays first; None where another word is first at the end.
        """
        places = decided_at(self.rank)
        return tuple(None if place < 0 else self.layer_ids[place] for place in places)

    def by_original_layer(
        self,
        values: np.ndarray,
        layers: int,
    ) -> np.ndarray:
        """Rows of this model in the places of the original model's layers.

        values: (L, ..) numbers, one row a layer of this model.
        layers: how many the original model has.
        Returns (layers, ..) float64, NaN where a layer was dropped.
        """
        rows = np.full(
            (layers, *values.shape[1:]),
            np.nan,
        )
        rows[list(self.layer_ids)] = values
        return rows

    def to_json(self) -> dict[str, Any]:
        return {
            "layer_ids": list(self.layer_ids),
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "decided": list(self.decided),
            "words": self.words.tolist(),
            "shares": self.shares.tolist(),
            "probability": self.probability.tolist(),
            "rank": self.rank.tolist(),
            "entropy": self.entropy.tolist(),
        }


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class DecidedCurve(Shown):
    """By which layer answers are decided, over a set of N questions.

    layer_ids: for each of L layers its number in the original model.
    answers: (L,) share 0..1 of the answers of which every token is decided by that layer.
    tokens: (L,) share 0..1 of the tokens of all answers, end tokens too.
    count: N.
    """

    layer_ids: tuple[int, ...]
    answers: np.ndarray
    tokens: np.ndarray
    count: int

    def __post_init__(self):
        for values in (self.answers, self.tokens):
            if values.shape != (len(self.layer_ids),):
                raise ValueError(
                    f"Found {values.shape} shares; expected one for each of"
                    f" {len(self.layer_ids)} layers."
                )
            values.setflags(write=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "layer_ids": list(self.layer_ids),
            "answers": self.answers.tolist(),
            "tokens": self.tokens.tolist(),
        }


def decided_at(rank: np.ndarray) -> np.ndarray:
    """(n,) int64: the first row of `rank` (L, n) from which on a column stays 0; -1 where its last
    row is not.
    """
    first = rank == 0
    stays = np.flip(
        np.logical_and.accumulate(
            np.flip(
                first,
                0,
            ),
            0,
        ),
        0,
    )
    places = stays.argmax(0)
    return np.where(stays[-1], places, -1)


def lens(
    lvlm: LVLM,
    sample: Sample,
    answer: Sequence[int] | None = None,
    *,
    traced: Trace | None = None,
    top: int = 5,
    run: Run = QUIET,
) -> Lens:
    """What each layer of a model would say in the place of each token of an answer.

    At the last layer that is what the model does predict, to the rounding of its dtype.

    lvlm: the model, full or pruned.
    sample: the question.
    answer: token ids, read as given whoever wrote them: the full model's answer shows what a drop
        delays or destroys. By default the model's own greedy answer of at most 64 tokens.
    traced: this model's trace of the sample: what its pass left behind is then read. An answer of
        several tokens is fed behind its prompt (`keep_prompt`); without that the prompt is read
        again.
    top: how many words are kept for each layer and token.
    run: progress and cancellation.

    Raises InputError for an empty answer, a trace of another model or sample, and a `top` below 1;
    Cancelled.
    """
    run.step(0.0, "reading the answer")
    if answer is None:
        [answer] = answers_together(
            lvlm,
            [sample],
            MAX_ANSWER,
            run.silent(),
        )
    said = checked_answer(answer)
    states = answer_states(lvlm, sample, said, traced)
    layers, count = lvlm.num_layers, len(said)
    flat = states.flatten(-3, -2)
    found = read(
        lvlm,
        flat,
        said * layers,
        top,
        run.part(0.2),
    )
    spelt = words_of(
        lvlm,
        np.array(said),
    )
    return Lens(
        layer_ids=lvlm.layer_ids,
        token_ids=said,
        tokens=tuple(spelt.tolist()),
        words=words_of(
            lvlm,
            found.top_ids,
        ).reshape(
            layers,
            count,
            -1,
        ),
        shares=found.top_probabilities.reshape(
            layers,
            count,
            -1,
        ),
        probability=found.probability.reshape(layers, count),
        rank=found.rank.reshape(layers, count),
        entropy=found.entropy.reshape(layers, count),
    )


def decided_share(
    lvlm: LVLM,
    samples: Sequence[Sample],
    answers: Sequence[Sequence[int]] | None = None,
    *,
    run: Run = QUIET,
) -> DecidedCurve:
    """By which layer the answers to a set of questions are decided.

    lvlm: the model, full or pruned.
    samples: the questions, such as those of a calibration set; at least one.
    answers: for each of them token ids; by default the model's own greedy answers of at most 64
        tokens.
    run: progress and cancellation.

    Raises InputError without samples, where counts differ, and for an empty answer; Cancelled.
    """
    if not len(samples):
        raise InputError("Found no questions; expected at least one; give some.")
    if answers is not None and len(answers) != len(samples):
        raise InputError(
            f"Found {len(answers)} answers for {len(samples)} questions; expected one each; pass"
            " them in the same order."
        )
    places = []
    count = len(samples)
    for number in range(count):
        run.step(number / count, f"question {number + 1} of {count}")
        given = None if answers is None else answers[number]
        found = lens(
            lvlm,
            samples[number],
            given,
            top=1,
            run=run.silent(),
        )
        places.append(decided_at(found.rank))
    by_layer = np.arange(lvlm.num_layers)[:, None]
    of_answers = np.array([_last_of(one) for one in places])
    of_tokens = _never_last(np.concatenate(places))
    return DecidedCurve(
        layer_ids=lvlm.layer_ids,
        answers=(of_answers <= by_layer).mean(1),
        tokens=(of_tokens <= by_layer).mean(1),
        count=count,
    )


def _never_last(places: np.ndarray) -> np.ndarray:
    """Places (n,) at which tokens are decided, those of undecided ones behind all layers."""
    return np.where(
        places < 0,
        np.iinfo(np.int64).max,
        places,
    )


def _last_of(places: np.ndarray) -> int:
    """Where the last of an answer's tokens is decided."""
    return int(_never_last(places).max())


def checked_answer(
    answer: Sequence[int],
    place: int = 0,
) -> tuple[int, ...]:
    """An answer's token ids. Raises InputError for an empty one, and a place that it lacks."""
    said = tuple(int(token) for token in answer)
    if not said:
        raise InputError(
            "Found an empty answer; expected at least one token to look at; let the model answer"
            " first."
        )
    if not 0 <= place < len(said):
        raise InputError(
            f"Found place {place} of an answer of {len(said)} tokens; expected 0 to"
            f" {len(said) - 1}; choose one of them."
        )
    return said


@torch.inference_mode()
def answer_states(
    lvlm: LVLM, sample: Sample, said: Sequence[int], traced: Trace | None = None
) -> torch.Tensor:
    """(L, n, d): what each layer hands on in the place where each of an answer's n tokens is
    predicted; (N, L, n, d) where layers hand on N streams.

    said: the answer's tokens; the last one is predicted and not read.
    traced: this model's trace of the sample, see `lens`.

    Raises InputError for a trace of another model or sample.
    """
    check_whole(sample)
    if traced is not None:
        check_same(lvlm, sample, traced)
    watched = Leaving(lvlm)
    fed = tuple(said[:-1])
    behind = _behind(lvlm, traced)
    prompt = None if behind is None else behind.prompt
    decoding = None
    if behind is not None and (prompt is not None or not fed):
        places = [behind.features[1:, -1:].to(lvlm.device)]
        if prompt is not None and fed:
            decoding = Decoding.behind(lvlm, prompt)
    else:
        with watched.watching(slice(-1, None)):
            decoding = Decoding(
                lvlm,
                sample.inputs,
                features=sample.features,
            )
        places = [watched.stacked()]
    if decoding is not None and fed:
        tokens = torch.tensor(
            [fed],
            device=decoding.logits.device,
        )
        last = slice(-len(fed), None)
        with watched.watching(last):
            decoding.feed(tokens)
        places.append(watched.stacked())
    return torch.cat(places, dim=-2)


def _behind(
    lvlm: LVLM,
    traced: Trace | None,
) -> SampleTrace | None:
    """What a trace left of the prompt; None where there is none, or where it keeps one of several
    streams alone.
    """
    if traced is None or stacks_streams(lvlm.text_config):
        return None
    return traced.samples[0]


def check_whole(sample: Sample) -> None:
    """Raises InputError for a sample whose visual tokens leave, or are skipped, within the layers:
    what each layer hands on has then no common length.
    """
    if sample.thinning is not None and sample.thinning.inside:
        raise InputError(
            "Found a sample whose visual tokens leave within the layers; expected one that every"
            " layer reads whole; give the sample as it was encoded."
        )


def check_same(
    lvlm: LVLM,
    sample: Sample,
    traced: Trace,
) -> None:
    """Raises InputError for a trace of other layers or of another sample."""
    same_layers = traced.layer_ids == lvlm.layer_ids and traced.model_name == lvlm.name
    if not same_layers or traced.samples[0].key != sample.key:
        raise InputError(
            f"Found a trace of {traced.model_name} with {traced.num_layers} layers for another"
            f" question or model; expected one of {lvlm.name} with {lvlm.num_layers} layers and of"
            " this very sample; trace it anew."
        )
