"""Teacher forcing: how models predict given answers, token by token, and what separates two such
predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from svl_core.errors import InputError
from svl_core.lvlm.batching import batches, collate
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.features import ImageFeatures
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import PrefillState, shared_depth
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import value_store
from svl_core.lvlm.vision import together
from svl_core.progress import QUIET, Run


class PrefillStore:
    """The full model's passes over some samples and their answers, shared by all pruned models that
    are measured on them.

    The first model that needs a batch's pass makes it; a pruned model then starts behind the layers
    that it has in common with the full one (see `prefill`).

    full: the full model.
    most: bytes that the passes may take; every model runs the batches beyond them whole.
    """

    def __init__(
        self,
        full: LVLM,
        most: int = 2**30,
    ):
        self.full = full
        self.most = most
        # By a batch's samples: the full model's decode behind the prompts (None: not to be shared),
        # and the answers fed behind them with the pass over these.
        self._prompts: dict[tuple[int, ...], Decoding | None] = {}
        self._answers: dict[tuple[int, ...], tuple[torch.Tensor, PrefillState | None]] = {}

    def decode(
        self,
        lvlm: LVLM,
        members: Sequence[int],
        inputs: Mapping[str, torch.Tensor],
        features: ImageFeatures | None = None,
    ) -> Decoding:
        """A decode of `lvlm` behind the prompts of one batch.

        lvlm: the full model or a pruned one.
        members: the indices of the batch's samples.
        inputs: the batch itself.
        features: of its images, where these have been seen.
        """
        depth = shared_depth(self.full, lvlm)
        if depth is None:
            return Decoding(lvlm, inputs, features=features)
        key = tuple(members)
        if key not in self._prompts:
            decoding = None
            if self._bytes_of(inputs) < self.most - self._used():
                decoding = Decoding(
                    self.full,
                    inputs,
                    features=features,
                    keep=range(self.full.num_layers),
                )
            shareable = decoding is not None and decoding.prefill is not None
            self._prompts[key] = decoding.fork() if decoding and shareable else None
            if decoding is not None and lvlm is self.full:
                return decoding
        stored = self._prompts[key]
        if stored is None or stored.prefill is None:
            return Decoding(lvlm, inputs, features=features)
        return Decoding(lvlm, inputs, resume=(stored.prefill, depth))

    def feed(
        self,
        decoding: Decoding,
        members: Sequence[int],
        ids: torch.Tensor,
    ) -> torch.Tensor:
        """`decoding.feed(ids)` of what `decode` gave for that batch.

        ids: (B, n) the answers' tokens.
        Returns (B, n, vocab) predictions.
        """
        key = tuple(members)
        stored = self._prompts.get(key)
        if stored is None:
            return decoding.feed(ids)
        if key not in self._answers or not torch.equal(self._answers[key][0], ids):
            full = decoding if decoding.lvlm is self.full else stored.fork()
            if full is None:
                return decoding.feed(ids)
            predictions = full.feed(ids, keep=range(self.full.num_layers))
            self._answers[key] = ids, full.prefill
            if full is decoding:
                return predictions
        _, prefill = self._answers[key]
        if prefill is None or not decoding.depth:
            return decoding.feed(ids)
        return decoding.feed(ids, resume=(prefill, decoding.depth))

    def _used(self) -> int:
        """Bytes of all passes so far."""
        prefills = [decoding.prefill for decoding in self._prompts.values() if decoding is not None]
        prefills += [prefill for _, prefill in self._answers.values()]
        return sum(prefill.nbytes for prefill in prefills if prefill is not None)

    def _bytes_of(self, inputs: Mapping[str, torch.Tensor]) -> int:
        """Bytes of what enters the layers in a pass over this batch."""
        positions = inputs["input_ids"].numel()
        hidden = self.full.hidden_size * self.full.dtype.itemsize
        return (self.full.num_layers + 1) * positions * hidden


@torch.inference_mode()
def forced_logits(
    lvlm: LVLM,
    samples: Sequence[Sample],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int = 32,
    run: Run = QUIET,
    prefills: PrefillStore | None = None,
    spool: str | Path | None = None,
) -> Sequence[torch.Tensor]:
    """How a model predicts given answers: for each sample logits (n, vocab), in the model's dtype,
    one row for each of its answer's n tokens.

    lvlm: the model, full or pruned.
    samples: the questions.
    answers: for each sample its answer's token ids, at least one.
    batch_size: the most samples of a batch.
    run: cancellation.
    prefills: the full model's passes over these very samples, shared by many models.
    spool: a folder in whose files the logits lie instead of in memory.

    Raises InputError for an empty answer and where the folder has no room, Cancelled.
    """
    stored = value_store(len(samples), spool)
    for index, logits in iterate_forced(
        lvlm, samples, answers, batch_size=batch_size, run=run, prefills=prefills
    ):
        stored[index] = logits
    return stored


@torch.inference_mode()
def iterate_forced(
    lvlm: LVLM,
    samples: Sequence[Sample],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int = 32,
    run: Run = QUIET,
    prefills: PrefillStore | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """`forced_logits` as (index, logits) pairs, batch by batch, so that one batch of logits is
    alive at a time.
    """
    if not all(answers):
        raise InputError(
            "Found an empty answer; expected at least one token to compare on; let the full model"
            " answer first."
        )
    for members in batches(samples, lvlm.most_together(batch_size)):
        run.check("Stopped before the comparison was complete.")
        batch = [samples[index] for index in members]
        ids = [list(answers[index]) for index in members]
        predictions = _batch_logits(lvlm, batch, ids, members, prefills)
        for row, index in enumerate(members):
            # A copy, so that the batch, padding and all, can go.
            yield index, predictions[row, : len(ids[row])].clone()


def _batch_logits(
    lvlm: LVLM,
    batch: Sequence[Sample],
    answers: list[list[int]],
    members: Sequence[int],
    prefills: PrefillStore | None,
) -> torch.Tensor:
    """(B, n, vocab) predictions of B answers of at most n tokens; what is behind a shorter one has
    no meaning.
    """
    inputs = collate(batch, lvlm.tokenizer.pad_token_id or 0)
    features = together(batch)
    if prefills is None:
        thinning = batch[0].thinning
        decoding = Decoding(lvlm, inputs, features=features, thinning=thinning)
    else:
        decoding = prefills.decode(lvlm, members, inputs, features)
    first = decoding.logits[:, None]
    longest = max(map(len, answers))
    if longest == 1:
        return first
    # Right padding is harmless: no token sees what comes after it.
    fed = [[*ids[:-1], *[0] * (longest - len(ids))] for ids in answers]
    tokens = torch.tensor(fed, device=first.device)
    if prefills is None:
        rest = decoding.feed(tokens)
    else:
        rest = prefills.feed(decoding, members, tokens)
    return torch.cat([first, rest], dim=1)


@torch.inference_mode()
def kl_per_token(
    full: torch.Tensor,
    pruned: torch.Tensor,
) -> torch.Tensor:
    """KL(full || pruned) of each row of two (n, vocab) logits, in nats, float64, (n,)."""
    p = full.double().log_softmax(-1)
    q = pruned.double().log_softmax(-1)
    terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
    return terms.sum(-1).clamp_min(0)


@torch.inference_mode()
def token_losses(
    logits: torch.Tensor,
    ids: Sequence[int],
) -> torch.Tensor:
    """-log probability of each of n tokens, in nats, float64, (n,).

    logits: (n, vocab).
    ids: the n tokens.
    """
    chosen = torch.tensor(list(ids), device=logits.device)
    log_probabilities = logits.double().log_softmax(-1)
    return -log_probabilities.gather(-1, chosen[:, None])[:, 0]
