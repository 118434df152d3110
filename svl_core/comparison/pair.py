"""Both models answering one sample: the image, the prompt and the layers before the first change
are computed once, and no time is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from svl_core.analysis.trace import Trace, trace_behind
from svl_core.comparison.answer import Answer, grow
from svl_core.lvlm.decoding import Decoding, Prompt
from svl_core.lvlm.forcing import forced_logits
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import PrefillState, shared_depth
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

FULL, PRUNED = 0, 1
"""The sides of a pair, by index."""

Growing = tuple[Answer | None, Answer | None]
"""Both answers so far, (full, pruned); None before the first token."""


@dataclass(frozen=True, eq=False)
class FullAnswer:
    """The full model's answer to one question, which no plan changes.

    answer: the whole answer, with its times.
    logits: (n, vocab), the model's predictions of the answer's n tokens, read along it.
    """

    answer: Answer
    logits: torch.Tensor


@dataclass(frozen=True, eq=False)
class Known:
    """What is there already of the full model's answer to a question.

    traced: its trace of the sample with its prompt (see `trace`, `keep_prompt`).
    answer: its answer, of the length that is asked for.
    """

    traced: Trace | None = None
    answer: FullAnswer | None = None

    @property
    def prompt(self) -> Prompt | None:
        """What the pass over the prompt left behind, where it was kept."""
        return None if self.traced is None else self.traced.samples[0].prompt


class Pair:
    """The full and the pruned model, each with the sample that it answers.

    pruned_sample: what the pruned model reads instead of `sample` (fewer visual tokens); the two
        passes then share nothing.
    known: what is there already of the full model's side.
    watched: the pruned model's pass is also to be its trace, `pruned_trace`, where both passes
        share their beginning.

    The pruned answer's `prefill_ms` is what its prefill would take alone: the time that the full
    model took to where the two part (`shared_ms`), and the pruned model's own from there on.
    """

    def __init__(
        self,
        full: LVLM,
        pruned: LVLM,
        sample: Sample,
        pruned_sample: Sample | None = None,
        run: Run = QUIET,
        *,
        known: Known | None = None,
        watched: bool = False,
    ) -> None:
        self.sides = ((full, sample), (pruned, pruned_sample or sample))
        same_sample = pruned_sample is None or pruned_sample is sample
        # the layers that the passes have in common; None where they share nothing
        self.depth = shared_depth(full, pruned) if same_sample else None
        self.known = known or Known()
        self.run = run
        self.pruned_trace: Trace | None = None
        self._watched = watched
        # each side's decode as it was behind the prompt, for `forced`
        self._prompts: list[Decoding | None] = [None, None]
        # the full model's pass, until the pruned model has taken it over
        self._prefill: PrefillState | None = None

    def _prefilled(self, side: int) -> Decoding:
        """The side's pass over its prompt; the pruned one goes on from the full one's."""
        return self._full_prefilled() if side == FULL else self._pruned_prefilled()

    def _full_prefilled(self) -> Decoding:
        full, sample = self.sides[FULL]
        prompt = self.known.prompt
        if prompt is not None:
            return Decoding.behind(full, prompt)
        depths = () if self.depth is None else (self.depth,)
        decoding = Decoding(full, sample.inputs, features=sample.features, keep=depths)
        self._prefill = decoding.prefill
        return decoding

    def _pruned_prefilled(self) -> Decoding:
        pruned, sample = self.sides[PRUNED]
        prompt, traced = self.known.prompt, self.known.traced
        prefill = self._prefill if prompt is None else prompt.prefill
        self._prefill = None
        if prefill is None or self.depth is None:
            return Decoding(
                pruned,
                sample.inputs,
                features=sample.features,
                thinning=sample.thinning,
            )
        if self._watched and prompt is not None and traced is not None:
            self.pruned_trace, decoding = trace_behind(pruned, sample, traced, self.depth)
            return decoding
        return Decoding(pruned, sample.inputs, resume=(prefill, self.depth))

    def _remembered(self, side: int) -> Decoding:
        """The same pass, of which a fork stays for `forced`."""
        decoding = self._prefilled(side)
        self._prompts[side] = decoding.fork()
        return decoding

    def warm_up(self) -> None:
        """One untimed prefill of each model, so that neither pays for a cold start."""
        for side in (FULL, PRUNED):
            self._prefilled(side)
            self.check()

    def answers(
        self,
        max_new_tokens: int,
        in_turn: bool,
    ) -> Iterator[tuple[Growing, tuple[int, ...]]]:
        """(both answers so far, the sides 0, 1 that still grow) after each token.

        in_turn: a token of each model after the other; otherwise one answer after the other.
        """
        streams = [
            grow(
                lvlm,
                sample,
                partial(self._remembered, side),
                max_new_tokens=max_new_tokens,
                run=self.run,
            )
            for side, (lvlm, sample) in enumerate(self.sides)
        ]
        answers: list[Answer | None] = [None, None]
        live = [FULL, PRUNED]
        if self.known.answer is not None:
            answers[FULL] = self.known.answer.answer
            live.remove(FULL)
        while live:
            for side in list(live) if in_turn else live[:1]:
                longer = next(streams[side], None)
                if longer is None:
                    live.remove(side)
                else:
                    answers[side] = longer
            yield (answers[FULL], answers[PRUNED]), tuple(live)
            self.check()

    @torch.inference_mode()
    def forced(self, ids: Sequence[int]) -> list[torch.Tensor]:
        """Each model's logits (n, vocab) for the n tokens `ids`, read behind its prompt.

        The prompt's pass is that of the model's answer, where it gave one.
        """
        logits: list[torch.Tensor] = []
        for side, (lvlm, sample) in enumerate(self.sides):
            prompt = self._prompts[side]
            decoding = None if prompt is None else prompt.fork()
            if side == FULL and self.known.answer is not None:
                logits.append(self.known.answer.logits)
            elif decoding is None:
                logits += forced_logits(lvlm, [sample], [ids])
            else:
                logits.append(_read_behind(decoding, ids))
            self.check()
        return logits

    def check(self) -> None:
        """Raises Cancelled once nobody wants the comparison any more."""
        self.run.check("Stopped before the comparison was complete.")


def _read_behind(decoding: Decoding, ids: Sequence[int]) -> torch.Tensor:
    """The logits (n, vocab) for the n tokens `ids` behind the decode's prompt."""
    rows = [decoding.logits[:, None]]
    if len(ids) > 1:
        before_last = torch.tensor(
            [list(ids[:-1])],
            device=decoding.logits.device,
        )
        rows.append(decoding.feed(before_last))
    return torch.cat(rows, dim=1)[0]
