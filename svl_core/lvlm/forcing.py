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
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import PrefillState, shared_depth
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import value_store
from svl_core.progress import QUIET, Run


class PrefillStore:
    """The full model's passes over one list of samples and their answers, each made once for all
    pruned models that are read on it (see `prefix`).

    most: bytes of what is kept; batches beyond it are run whole by every model.
    """

    def __init__(self, full: LVLM, most: int = 2**30):
        self.full = full
        self.most = most
        self._kept: dict[tuple[int, ...], Decoding | None] = {}  # behind the prompts of a batch
        self._fed: dict[
            tuple[int, ...], tuple[torch.Tensor, PrefillState | None]
        ] = {}  # the answers behind them, and the pass over these

    def decode(
        self,
        lvlm: LVLM,
        members: Sequence[int],
        inputs: Mapping[str, torch.Tensor],
    ) -> Decoding:
        """A decode of `lvlm` behind the batch `inputs`, which holds the samples of these indices."""
        depth = shared_depth(self.full, lvlm)
        key = tuple(members)
        if depth is None:
            return Decoding(lvlm, inputs)
        if key not in self._kept:
            held = [each.prefill for each in self._kept.values() if each is not None] + [
                prefill for _, prefill in self._fed.values() if prefill is not None
            ]
            room = self.most - sum(each.nbytes for each in held)
            fits = (self.full.num_layers + 1) * inputs[
                "input_ids"
            ].numel() * self.full.hidden_size * self.full.dtype.itemsize < room
            made = Decoding(self.full, inputs, keep=range(self.full.num_layers)) if fits else None
            self._kept[key] = None if made is None or made.prefill is None else made.fork()
            if made is not None and lvlm is self.full:
                return made
        kept = self._kept[key]
        return Decoding(
            lvlm,
            inputs,
            resume=None if kept is None else (kept.prefill, depth),
        )

    def feed(self, decoding: Decoding, members: Sequence[int], ids: torch.Tensor) -> torch.Tensor:
        """`decoding.feed(ids)` of what `decode` gave for that batch."""
        key = tuple(members)
        layers = range(self.full.num_layers)
        if self._kept.get(key) is None:
            return decoding.feed(ids)
        if key not in self._fed or not torch.equal(self._fed[key][0], ids):
            source = decoding if decoding.lvlm is self.full else self._kept[key].fork()
            out = source.feed(ids, keep=layers)
            self._fed[key] = ids, source.prefill
            if source is decoding:
                return out
        prefill = self._fed[key][1]
        return decoding.feed(
            ids,
            resume=None if prefill is None or not decoding.depth else (prefill, decoding.depth),
        )


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
    """For each sample the logits (n, vocab), in the model's dtype, with which it predicts each of
    its answer's n token ids.

    prefills: of the full model on these very samples, shared by many models. spool: a folder in a
    file of which the logits lie instead of in memory. Raises InputError for an empty answer and
    where the folder has no room, Cancelled.
    """
    found = value_store(len(samples), spool)
    for i, logits in iterate_forced(
        lvlm,
        samples,
        answers,
        batch_size=batch_size,
        run=run,
        prefills=prefills,
    ):
        found[i] = logits
    return found


@torch.inference_mode()
def iterate_forced(
    lvlm: LVLM,
    samples,
    answers,
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
    for members in batches(samples, batch_size):
        run.check("Stopped before the comparison was complete.")
        inputs = collate([samples[i] for i in members], lvlm.tokenizer.pad_token_id or 0)
        decoding = (
            Decoding(lvlm, inputs) if prefills is None else prefills.decode(lvlm, members, inputs)
        )
        rows = decoding.logits[:, None]
        longest = max(len(answers[i]) for i in members)
        if longest > 1:  # right padding is harmless: no token sees what comes after it
            fed = [[*answers[i][:-1], *[0] * (longest - len(answers[i]))] for i in members]
            ids = torch.tensor(fed, device=rows.device)
            rows = torch.cat(
                [
                    rows,
                    (
                        decoding.feed(ids)
                        if prefills is None
                        else prefills.feed(decoding, members, ids)
                    ),
                ],
                dim=1,
            )
        for row, i in enumerate(members):
            # A copy: the batch, padding and all, can go.
            yield (
                i,
                rows[row, : len(answers[i])].clone(),
            )


@torch.inference_mode()
def kl_per_token(full: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """KL(full || pruned) of each row of two (n, vocab) logits, in nats, float64, (n,)."""
    p = full.double().log_softmax(-1)
    q = pruned.double().log_softmax(-1)
    return torch.where(p.isneginf(), 0.0, p.exp() * (p - q)).sum(-1).clamp_min(0)


@torch.inference_mode()
def token_losses(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """-log probability of each of the n tokens `ids` under logits (n, vocab), in nats, float64,
    (n,).
    """
    chosen = torch.tensor(list(ids), device=logits.device)
    return -logits.double().log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
