"""What pruned models are measured against: the full model's answers and its predictions along them.

Every measure of fidelity reads the full model's answer token by token with another model (teacher
forcing). What the models have in common is computed once (see `prefill`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from svl_core.lvlm.decoding import greedy, image_token_ids
from svl_core.lvlm.forcing import (
    PrefillStore,
    forced_logits,
    iterate_forced,
    kl_per_token,
    token_losses,
)
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run


@dataclass(frozen=True, eq=False)
class Fidelity:
    """One model, measured on n samples along the full model's answers.

    kl: (n,) mean KL(full || model) over the answer's tokens, nats/token.
    agreement: (n,) share 0..1 of the answer's tokens that are still the most likely.
    losses: for each sample -log p of each token of the answer, nats.
    """

    kl: np.ndarray
    agreement: np.ndarray
    losses: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Reference:
    """The full model's answers to some samples.

    answers: token ids, at least one for each sample.
    logits: for each sample (n, vocabulary), the full model's predictions of its answer's tokens;
        None where only losses are asked for.
    prefills: the full model's passes over these samples, shared by all models that are measured.
    batch_size: samples in one pass.
    """

    full: LVLM
    samples: Sequence[Sample]
    answers: Sequence[Sequence[int]]
    logits: Sequence[torch.Tensor] | None
    prefills: PrefillStore
    batch_size: int = 32

    @classmethod
    def of(
        cls,
        full: LVLM,
        samples: Sequence[Sample],
        answers: Sequence[Sequence[int]],
        *,
        batch_size: int = 32,
        predictions: bool = True,
        spool: str | Path | None = None,
        run: Run = QUIET,
    ) -> Reference:
        """Reads the full model's predictions along the answers, one pass a batch.

        predictions: False where only `losses` will be asked for: nothing is run yet.
        spool: a folder in whose files the predictions lie instead of in memory.
        Raises InputError for an empty answer and where the folder has no room, Cancelled.
        """
        prefills = PrefillStore(full)
        logits = None
        if predictions:
            logits = forced_logits(
                full,
                samples,
                answers,
                batch_size=batch_size,
                run=run,
                prefills=prefills,
                spool=spool,
            )
        return cls(full, samples, answers, logits, prefills, batch_size)

    def read(
        self,
        model: LVLM,
        run: Run = QUIET,
        samples: Sequence[Sample] | None = None,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """(sample's index, (n, vocabulary) logits of `model` along its answer), batch by batch.

        samples: what the model reads instead (fewer visual tokens).
        """
        return iterate_forced(
            model,
            self.samples if samples is None else samples,
            self.answers,
            batch_size=self.batch_size,
            run=run,
            prefills=self.prefills if samples is None else None,
        )

    def predictions(self, index: int) -> torch.Tensor:
        """(n, vocabulary) the full model's predictions of a sample's answer. Raises TypeError where
        they were not asked for.
        """
        if self.logits is None:
            raise TypeError("This reference was made without predictions.")
        return self.logits[index]

    def mean_kl(
        self,
        model: LVLM,
        run: Run = QUIET,
    ) -> np.ndarray:
        """(n,) mean KL(full || model) over each answer's tokens, nats/token."""
        return self._means(
            model,
            lambda i, logits: kl_per_token(self.predictions(i), logits),
            run,
        )

    def mean_loss(
        self,
        model: LVLM,
        run: Run = QUIET,
    ) -> np.ndarray:
        """(n,) mean loss -log p of each answer's tokens, nats/token."""
        return self._means(
            model,
            lambda i, logits: token_losses(logits, self.answers[i]),
            run,
        )

    def measure(
        self,
        model: LVLM,
        run: Run = QUIET,
        samples: Sequence[Sample] | None = None,
    ) -> Fidelity:
        """KL, agreement and losses of `model`, from one reading of it. samples: see `read`."""
        forbidden = image_token_ids(self.full)
        kl = np.zeros(len(self.samples))
        agreement = np.zeros(len(self.samples))
        losses: list[tuple[float, ...]] = [()] * len(self.samples)
        for i, logits in self.read(model, run, samples):
            kl[i] = float(kl_per_token(self.predictions(i), logits).mean())
            same = greedy(self.predictions(i), forbidden) == greedy(logits, forbidden)
            agreement[i] = float(same.double().mean())
            losses[i] = tuple(token_losses(logits, self.answers[i]).tolist())
        return Fidelity(kl, agreement, tuple(losses))

    def _means(
        self,
        model: LVLM,
        value: Callable[[int, torch.Tensor], torch.Tensor],
        run: Run,
    ) -> np.ndarray:
        """(n,) for each sample the mean over its answer's tokens: every answer weighs the same."""
        means = np.empty(len(self.samples))
        for i, logits in self.read(model, run):
            means[i] = float(value(i, logits).mean())
        return means
