"""The decode loop under every answer: one prefill, then tokens fed on top of the key/value cache.

The loop is our own rather than `generate()`: it is a plain arg max whatever the model's generation
settings say, it can be stopped at any token, it is timed without overhead, and the same code scores
a given answer (teacher forcing).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence

import torch

from svl_core.lvlm.batching import collate
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import (
    PrefillState,
    fork_caches,
    recording,
    resumed,
    without_images,
)
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

# Inputs with one entry a position that decode steps still need.
GROWING = (
    "attention_mask",
    "cross_attention_mask",
)
IMAGE_TOKEN_NAMES = (
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "video_token_index",
)


class Decoding:
    """A decode in flight for a batch of B prompts of equal length (left padding where they differ).

    `logits` is (B, vocab): the prediction after everything fed so far. Position ids are left to the
    model: all supported decoders use rotary (relative) positions, so left padding only shifts a
    row. The exception are decoders with multimodal rotary positions, which number an image's
    positions by row and column: there each next token comes `rope_deltas` away from its count.
    Given `position_ids` (tokens may have left the sequence) go on from the last one.

    keep: depths of layers whose input is kept, in `prefill` (None where the model's caches cannot
    be shared). resume: (prefill, depth) of another model's decode of the same inputs: the pass
    starts there (see `prefix`), and `shared_ms` is the time that it spent until then.
    """

    @torch.inference_mode()
    def __init__(
        self,
        lvlm: LVLM,
        inputs: Mapping[str, torch.Tensor],
        *,
        keep: Collection[int] = (),
        resume: tuple[PrefillState, int] | None = None,
    ):
        self.lvlm = lvlm
        model = lvlm.model if resume is None else resumed(lvlm, *resume)
        self.depth = 0 if resume is None else resume[1]
        self.shared_ms = 0.0 if resume is None else resume[0].entered_ms[resume[1]]
        self._growing = {name: inputs[name] for name in GROWING if inputs.get(name) is not None}
        before = _rope_deltas(model)
        takes = inspect.signature(model.forward).parameters
        # Its name before transformers 5.24.
        self._slot = "cache" if "cache" in takes else "past_key_values"
        with recording(lvlm, keep) as (states, entered_ms):
            out = model(
                **(inputs if resume is None else without_images(inputs)),
                use_cache=True,
                **({"logits_to_keep": 1} if "logits_to_keep" in takes else {}),
            )
        self._went(out, states, entered_ms)
        after = _rope_deltas(model)
        rows = self.logits.shape[0]
        self._next = inputs["position_ids"][:, -1:] + 1 if "position_ids" in inputs else None
        self._deltas = (
            None
            if after is None
            else (
                after.view(rows, 1)
                if after is not before
                else torch.zeros(rows, 1, dtype=torch.long, device=self.logits.device)
            )
        )

    def fork(self) -> Decoding | None:
        """The same decode from here on, apart from this one; None where the cache cannot be shared."""
        made = copy.copy(self)
        caches = fork_caches(self._cache.layers)
        if caches is None:
            return None
        made._cache = copy.copy(self._cache)
        made._growing = dict(self._growing)
        made._cache.layers = list(caches)
        return made

    def _went(self, out, states: dict, entered_ms: dict) -> None:
        self._cache = getattr(out, self._slot)
        self.logits = out.logits[:, -1]
        caches = fork_caches(self._cache.layers) if states else None
        self.prefill = PrefillState(states, caches, entered_ms) if caches is not None else None

    @torch.inference_mode()
    def feed(
        self,
        ids: torch.Tensor,
        *,
        keep: Collection[int] = (),
        resume: tuple[PrefillState, int] | None = None,
    ) -> torch.Tensor:
        """Append ids (B, n); returns the n predictions after each of them, (B, n, vocab). keep,
        resume: as for the prompt, of the same ids behind it.
        """
        places = {}
        if self._deltas is not None:
            seen = self._growing["attention_mask"].sum(1, keepdim=True)
            places["position_ids"] = (
                seen + self._deltas + torch.arange(ids.shape[1], device=ids.device)
            ).expand(3, -1, -1)
        elif self._next is not None:
            places["position_ids"] = self._next + torch.arange(ids.shape[1], device=ids.device)
            self._next = self._next + ids.shape[1]
        for (
            name,
            value,
        ) in self._growing.items():  # a new position sees what the last one saw
            new = value[:, -1:].expand(-1, ids.shape[1], *value.shape[2:])
            self._growing[name] = torch.cat([value, new], dim=1)
        model = self.lvlm.model if resume is None else resumed(self.lvlm, *resume)
        with recording(self.lvlm, keep) as (states, entered_ms):
            out = model(
                input_ids=ids,
                use_cache=True,
                **{self._slot: self._cache},
                **self._growing,
                **places,
            )
        self._went(out, states, entered_ms)
        return out.logits


def _rope_deltas(model) -> torch.Tensor | None:
    """What a model with multimodal rotary positions left behind at its last prefill; None for all
    others.
    """
    return getattr(getattr(model, "model", model), "rope_deltas", None)


def image_token_ids(lvlm: LVLM) -> tuple[int, ...]:
    """Placeholder ids that stand for image features: never a valid output, so greedy choice leaves
    them out.
    """
    values = (getattr(lvlm.model.config, name, None) for name in IMAGE_TOKEN_NAMES)
    return tuple(sorted({int(v) for v in values if v is not None}))


@torch.inference_mode()
def greedy(logits: torch.Tensor, forbidden: tuple[int, ...] = ()) -> torch.Tensor:
    """Arg max over the vocabulary of (..., vocab) logits, `forbidden` ids left out; lowest id on
    ties.
    """
    forbidden = [i for i in forbidden if i < logits.shape[-1]]
    if forbidden:
        logits = logits.clone()
        logits[..., forbidden] = float("-inf")
    return logits.argmax(-1)


@torch.inference_mode()
def answers_together(
    lvlm: LVLM, samples: Sequence[Sample], limit: int, run: Run = QUIET
) -> list[tuple[int, ...]]:
    """Greedy token ids for the samples of one batch (see `batching.batches`), each up to and with
    its end token, at most `limit`. Raises Cancelled.
    """
    tokenizer = lvlm.tokenizer
    ends = lvlm.eos_token_ids
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    forbidden = image_token_ids(lvlm)
    decoding = Decoding(lvlm, collate(samples, pad))
    stop = torch.tensor(ends, dtype=torch.long, device=decoding.logits.device)
    columns: list[torch.Tensor] = []
    finished = torch.zeros(len(samples), dtype=torch.bool, device=decoding.logits.device)
    while True:
        run.check("Stopped before all questions were answered.")
        token = greedy(decoding.logits, forbidden).masked_fill(finished, pad)
        columns.append(token)
        finished |= torch.isin(token, stop)
        if len(columns) >= limit or bool(finished.all()):
            break
        decoding.feed(token[:, None])
    rows = torch.stack(columns, dim=1).tolist()
    return [_until(row, set(ends)) for row in rows]


def _until(ids: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    """The ids up to and with the first end token."""
    return tuple(
        ids[
            : next(
                (i + 1 for i, token in enumerate(ids) if token in ends),
                len(ids),
            )
        ]
    )
