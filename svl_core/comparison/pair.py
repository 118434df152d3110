"""Both models answering one sample: the image and the layers before the first change are computed
once, and no time is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from svl_core.comparison.answer import Answer, grow
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.forcing import forced_logits
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import shared_depth
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run


class Pair:
    """The full and the pruned model with one sample (the pruned one may read another, of fewer
    visual tokens, and then shares nothing).

    The pruned answer's `prefill_ms` is what its prefill would take alone: the time that the full
    model took to where they part (`shared_ms`), and its own from there on.
    """

    def __init__(
        self,
        full: LVLM,
        pruned: LVLM,
        sample: Sample,
        pruned_sample: Sample | None = None,
        run: Run = QUIET,
    ) -> None:
        self.asked = ((full, sample), (pruned, pruned_sample or sample))
        self.depth = (
            shared_depth(full, pruned) if pruned_sample is None or pruned_sample is sample else None
        )
        self.run = run
        self._prompts: list[Decoding | None] = [None, None]
        self._prefill = None

    def _prompt(self, side: int) -> Decoding:
        lvlm, sample = self.asked[side]
        if side == 0:
            made = Decoding(lvlm, sample.inputs, keep=() if self.depth is None else (self.depth,))
            self._prefill = made.prefill
        else:
            made = Decoding(
                lvlm,
                sample.inputs,
                resume=None if self._prefill is None else (self._prefill, self.depth),
            )
            self._prefill = None
        return made

    def _kept(self, side: int) -> Decoding:
        made = self._prompt(side)
        self._prompts[side] = made.fork()
        return made

    def warm_up(self) -> None:
        """One untimed prefill of each model, so that neither pays for a cold start."""
        for side in (0, 1):
            self._prompt(side)
            self.check()

    def answers(
        self, max_new_tokens: int, in_turn: bool
    ) -> Iterator[tuple[tuple[Answer | None, Answer | None], tuple[int, ...]]]:
        """(both answers so far, the sides 0, 1 that still grow) after each token: a token each
        `in_turn`, or one answer after the other.
        """
        streams = [
            grow(
                lvlm,
                sample,
                lambda side=side: self._kept(side),
                max_new_tokens=max_new_tokens,
                run=self.run,
            )
            for side, (lvlm, sample) in enumerate(self.asked)
        ]
        found: list[Answer | None] = [None, None]
        live = [0, 1]
        while live:
            for side in list(live) if in_turn else live[:1]:
                grown = next(streams[side], None)
                if grown is None:
                    live.remove(side)
                else:
                    found[side] = grown
            yield tuple(found), tuple(live)
            self.check()

    @torch.inference_mode()
    def forced(self, ids: Sequence[int]) -> list[torch.Tensor]:
        """Each model's logits (n, vocab) for the n tokens `ids`, read behind its prompt; the
        prompt's pass is that of its answer where there was one.
        """
        logits = []
        for (lvlm, sample), prompt in zip(self.asked, self._prompts):
            if prompt is None:
                logits += forced_logits(lvlm, [sample], [ids])
            else:
                rows = [prompt.logits[:, None]] + (
                    [
                        prompt.fork().feed(
                            torch.tensor([list(ids[:-1])], device=prompt.logits.device)
                        )
                    ]
                    if len(ids) > 1
                    else []
                )
                logits.append(torch.cat(rows, dim=1)[0])
            self.check()
        return logits

    def check(self) -> None:
        self.run.check("Stopped before the comparison was complete.")
