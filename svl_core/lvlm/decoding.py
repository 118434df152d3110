"""The decode loop under every answer: one prefill, then tokens fed on top of the key/value cache.

The loop is our own rather than `generate()`: it can be stopped at any token, it is timed without
overhead, and the same code scores a given answer (teacher forcing). An answer is greedy: the arg
max of the predictions as the model's generation settings change them (`generation.py`). What is
scored are the predictions themselves.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache

from svl_core.lvlm.arithmetic import last_position
from svl_core.lvlm.batching import collate
from svl_core.lvlm.features import ImageFeatures
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.prefill import (
    PrefillState,
    fork_caches,
    recording,
    resumed,
)
from svl_core.lvlm.refusals import picture_read
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.thin_pass import ThinPass
from svl_core.lvlm.thinning import Thinning
from svl_core.lvlm.vision import Watched, prepared, together, without_pixels
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

OPENING_TOKEN_NAME = "vision_start_token_id"


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a model's pass over one prompt left behind: whatever follows begins with it.

    logits: (1, vocab), the prediction of the first token.
    prefill: what other models begin with.
    cache: the model's key/value cache behind the prompt.
    growing: inputs with one entry a position, as they were.
    next_position: (1, 1) of the next token, where positions were given.
    deltas: (1, 1), see `Decoding`.
    ms: milliseconds that the pass took, image encoding included.
    """

    logits: torch.Tensor
    prefill: PrefillState
    cache: Cache
    growing: Mapping[str, torch.Tensor]
    next_position: torch.Tensor | None
    deltas: torch.Tensor | None
    ms: float

    @property
    def nbytes(self) -> int:
        """Bytes of its caches and logits; its states are the trace's features."""
        return self.prefill.cache_bytes + self.logits.nbytes


class Decoding:
    """A decode in flight for a batch of B prompts of equal length (left padding where they differ).

    `logits` is (B, vocab): the prediction after everything fed so far. Position ids are left to the
    model: all supported decoders use rotary (relative) positions, so left padding only shifts a
    row. The exception are decoders with multimodal rotary positions, which number an image's
    positions by row and column: there each next token comes `rope_deltas` away from its count.
    Given `position_ids` (tokens may have left the sequence) go on from the last one.

    lvlm: the model.
    inputs: the prompts, for `model(**inputs)`.
    features: of the prompts' images, where these have been seen.
    keep: layers whose input is kept, in `prefill` (None where the model's caches cannot be shared).
    resume: (prefill, depth) of another model's decode of the same inputs: the pass starts at layer
        `depth` (see `prefill`).
    watch: keeps the features of the prompt's images, a batch of one, as the pass makes them.
    thinning: what happens to visual tokens in the layers, of a batch of one.
    differentiable: gradients can flow from the logits to what a hook lets require them.

    `shared_ms` is the time that belongs to the prompt and was spent before: on its images, or by
    the other pass until there. `observing_ms` is what was spent within on something else.
    """

    _differentiable = False

    def __init__(
        self,
        lvlm: LVLM,
        inputs: Mapping[str, torch.Tensor],
        *,
        features: ImageFeatures | None = None,
        keep: Collection[int] = (),
        resume: tuple[PrefillState, int] | None = None,
        watch: Watched | None = None,
        thinning: Thinning | None = None,
        differentiable: bool = False,
    ):
        self.lvlm = lvlm
        self.depth = 0
        self.shared_ms = _spent_before(features, thinning)
        self.observing_ms = 0.0
        self._differentiable = differentiable
        with torch.inference_mode(not differentiable):
            self._read(
                inputs,
                features,
                keep,
                resume,
                watch,
                thinning,
            )

    def _read(
        self,
        inputs: Mapping[str, torch.Tensor],
        features: ImageFeatures | None,
        keep: Collection[int],
        resume: tuple[PrefillState, int] | None,
        watch: Watched | None,
        thinning: Thinning | None,
    ) -> None:
        """The pass over the prompts."""
        lvlm = self.lvlm
        model: torch.nn.Module = lvlm.model
        self._growing = {name: inputs[name] for name in GROWING if inputs.get(name) is not None}
        before = _rope_deltas(model)
        parameters = inspect.signature(model.forward).parameters
        self._slot = cache_slot(lvlm)
        self._thin = ThinPass(lvlm, thinning) if thinning and thinning.inside else None
        tensors = inputs
        options: dict[str, Any] = {"use_cache": True}
        if not lvlm.family.makes_cache and resume is None:
            options[self._slot] = DynamicCache(config=lvlm.text_config)
        if "logits_to_keep" in parameters:
            length = _length_of(inputs)
            options["logits_to_keep"] = last_position(lvlm.dtype, lvlm.device, length)
        with recording(lvlm, keep, self.shared_ms) as (states, entered_ms):
            if resume is not None:
                prefill, self.depth = resume
                self.shared_ms = prefill.entered_ms[self.depth]
                model = resumed(lvlm, prefill, self.depth)
                tensors = without_pixels(inputs)
            else:
                model, tensors = prepared(lvlm, inputs, features, watch)
            if self._thin is not None:
                model = self._thin.reading(model)
            with picture_read(lvlm, tensors if features is None else {}):
                out = model(**tensors, **options)
        self._take_over(out, states, entered_ms)
        self._next = self._first_position(inputs)
        self._deltas = self._position_deltas(before, _rope_deltas(model))

    @classmethod
    def behind(cls, lvlm: LVLM, prompt: Prompt) -> Decoding:
        """A decode that begins behind a prompt which the model has read, and leaves it as it is."""
        decoding = cls.__new__(cls)
        decoding.lvlm = lvlm
        decoding.depth = 0
        decoding.shared_ms = prompt.ms
        decoding.observing_ms = 0.0
        decoding._thin = None
        decoding.logits = prompt.logits
        decoding.prefill = prompt.prefill
        decoding._growing = dict(prompt.growing)
        decoding._slot = cache_slot(lvlm)
        decoding._cache = _with_layers(prompt.cache, fork_caches(prompt.cache.layers) or ())
        decoding._next = prompt.next_position
        decoding._deltas = prompt.deltas
        return decoding

    def prompt(
        self,
        states: Mapping[int, torch.Tensor],
        entered_ms: Mapping[int, float],
        ms: float,
    ) -> Prompt | None:
        """What the pass over a batch of one left behind; None where its caches cannot be shared.

        states, entered_ms: see `PrefillState`.
        ms: milliseconds that the pass took.
        """
        caches = fork_caches(self._cache.layers)
        if caches is None:
            return None
        return Prompt(
            logits=self.logits,
            prefill=PrefillState(states, caches, entered_ms),
            cache=_with_layers(self._cache, caches),
            growing=dict(self._growing),
            next_position=self._next,
            deltas=self._deltas,
            ms=ms,
        )

    def _first_position(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """(B, 1): the position of the first token behind the prompts; None where the model counts
        by itself.
        """
        if "position_ids" in inputs:
            return inputs["position_ids"][:, -1:] + 1
        if self.lvlm.family.counts:
            return None
        rows = self.logits.shape[0]
        length = _length_of(inputs)
        return torch.full((rows, 1), length, device=self.logits.device)

    def _position_deltas(
        self,
        before: torch.Tensor | None,
        after: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """(B, 1): how far each row's next position is from its count of tokens; None for models
        that count them plainly.

        before, after: the model's `rope_deltas` around the prefill; unchanged ones are another
            prompt's.
        """
        if after is None:
            return None
        rows = self.logits.shape[0]
        if after is before:
            return torch.zeros(
                rows,
                1,
                dtype=torch.long,
                device=self.logits.device,
            )
        return after.view(rows, 1)

    def fork(self) -> Decoding | None:
        """A copy that decodes on from here without changing this one; None where the model's cache
        cannot be shared.
        """
        caches = fork_caches(self._cache.layers)
        if caches is None:
            return None
        forked = copy.copy(self)
        forked._growing = dict(self._growing)
        forked._cache = _with_layers(self._cache, caches)
        return forked

    def _take_over(
        self,
        out,
        states: dict,
        entered_ms: dict,
    ) -> None:
        """Keeps a pass's cache, its last predictions and what was recorded of it."""
        self._cache = cache_of(self.lvlm, out)
        self.logits: torch.Tensor = out.logits[:, -1]
        caches = fork_caches(self._cache.layers) if states else None
        self.prefill: PrefillState | None = None
        if caches is not None:
            self.prefill = PrefillState(states, caches, entered_ms)

    def feed(
        self,
        ids: torch.Tensor,
        *,
        keep: Collection[int] = (),
        resume: tuple[PrefillState, int] | None = None,
    ) -> torch.Tensor:
        """Append tokens.

        ids: (B, n).
        keep, resume: as for the prompt, of the same ids behind it.
        Returns the n predictions after each of them, (B, n, vocab).
        """
        with torch.inference_mode(not self._differentiable):
            return self._fed(ids, keep, resume)

    def _fed(
        self,
        ids: torch.Tensor,
        keep: Collection[int],
        resume: tuple[PrefillState, int] | None,
    ) -> torch.Tensor:
        count = ids.shape[1]
        places = self._next_positions(count, ids.device)
        for name, value in self._growing.items():  # a new position sees what the last one saw
            new = value[:, -1:].expand(-1, count, *value.shape[2:])
            self._growing[name] = torch.cat([value, new], dim=1)
        model = stepping(self.lvlm) if resume is None else resumed(self.lvlm, *resume)
        if self._thin is not None:
            model = self._thin.decoding(model)
        with recording(self.lvlm, keep) as (states, entered_ms):
            out = model(
                input_ids=ids,
                use_cache=True,
                **{self._slot: self._cache},
                **self._growing,
                **places,
            )
        self._take_over(out, states, entered_ms)
        return out.logits

    def _next_positions(
        self,
        count: int,
        device: torch.device,
    ) -> dict[str, torch.Tensor]:
        """The `position_ids` of the next `count` tokens, where the model does not count itself."""
        steps = torch.arange(count, device=device)
        if self._deltas is not None:
            seen = self._growing["attention_mask"].sum(1, keepdim=True)
            channels = _rotary_channels(self.lvlm.text_config)
            return {"position_ids": (seen + self._deltas + steps).expand(channels, -1, -1)}
        if self._next is not None:
            places = {"position_ids": self._next + steps}
            self._next = self._next + count
            return places
        return {}


def _spent_before(features: ImageFeatures | None, thinning: Thinning | None) -> float:
    """Milliseconds that belong to a prompt's pass and were spent before it."""
    if thinning is not None:
        return thinning.before_ms or 0.0
    return 0.0 if features is None else features.ms


def _length_of(inputs: Mapping[str, torch.Tensor]) -> int:
    """Positions of a batch: of ids, or of embeddings in their place."""
    return inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"].shape[1]


def stepping(lvlm: LVLM) -> torch.nn.Module:
    """The module that takes tokens behind a cache: the model, or where its own `generate` leaves
    them to its language model, for it wants a picture in every pass (BLIP-2, Kosmos-2), that.
    """
    model: Any = lvlm.model
    own = getattr(type(model), "generate", None) is not GenerationMixin.generate
    inner: Any = getattr(model, "language_model", getattr(model, "text_model", None))
    whole = isinstance(inner, GenerationMixin)
    return inner if own and whole else model


def cache_of(lvlm: LVLM, out: Any) -> Any:
    """The cache that a pass left behind, also where it lies with the language model's outputs; None
    without.
    """
    slot = cache_slot(lvlm)
    inner = getattr(out, "language_model_outputs", out)
    return getattr(inner, slot, None)


def cache_slot(lvlm: LVLM) -> str:
    """What the `forward` of what takes tokens calls the cache; transformers 5.24 changed it."""
    parameters = inspect.signature(stepping(lvlm).forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def _with_layers(cache: Cache, layers: Sequence) -> Cache:
    """A cache of the same kind with other layers in it."""
    copied = copy.copy(cache)
    copied.layers = list(layers)
    return copied


def _rope_deltas(model) -> torch.Tensor | None:
    """What a model with multimodal rotary positions left behind at its last prefill; None for all
    others.
    """
    return getattr(getattr(model, "model", model), "rope_deltas", None)


def _rotary_channels(text) -> int:
    """How many numbers a position has in a decoder with multimodal rotary positions: a section of
    the rotary dimensions each; time, row and column where the config names none.
    """
    rotary = getattr(text, "rope_parameters", None) or {}
    sections = rotary.get("mrope_section")
    return len(sections) if sections else 3


def image_token_ids(lvlm: LVLM) -> tuple[int, ...]:
    """Placeholder ids that stand for image features: never a valid output, so greedy choice leaves
    them out.
    """
    values = (getattr(lvlm.model.config, name, None) for name in IMAGE_TOKEN_NAMES)
    return tuple(sorted({int(v) for v in values if v is not None}))


def before_pictures(lvlm: LVLM, ids: Sequence[int]) -> tuple[int, ...]:
    """An answer's ids up to the first that opens a picture, that one included.

    A model reads the picture behind it when the answer stands in a prompt, and there is none.
    """
    opening = getattr(lvlm.model.config, OPENING_TOKEN_NAME, None)
    ids = tuple(ids)
    return ids[: ids.index(opening) + 1] if opening in ids else ids


@torch.inference_mode()
def greedy(
    logits: torch.Tensor,
    forbidden: Sequence[int] = (),
) -> torch.Tensor:
    """The most likely token; the lowest id on ties.

    logits: (..., vocab).
    forbidden: ids that are left out.
    Returns ids (...).
    """
    present = [token for token in forbidden if token < logits.shape[-1]]
    if present:
        logits = logits.clone()
        logits[..., present] = float("-inf")
    return logits.argmax(-1)


@torch.inference_mode()
def answers_together(
    lvlm: LVLM,
    samples: Sequence[Sample],
    limit: int,
    run: Run = QUIET,
) -> list[tuple[int, ...]]:
    """Greedy answers to the samples of one batch, as token ids up to and with the end token.

    samples: those of one batch, see `batching.batches`.
    limit: the most tokens of an answer.
    run: cancellation.

    Raises Cancelled.
    """
    ends = lvlm.eos_token_ids
    pad = lvlm.tokenizer.pad_token_id
    if pad is None:
        pad = ends[0] if ends else 0
    forbidden = image_token_ids(lvlm)
    decoding = Decoding(
        lvlm,
        collate(samples, pad),
        features=together(samples),
        thinning=samples[0].thinning,
    )
    device = decoding.logits.device
    stop = torch.tensor(ends, dtype=torch.long, device=device)
    finished = torch.zeros(
        len(samples),
        dtype=torch.bool,
        device=device,
    )
    columns: list[torch.Tensor] = []
    steered = [lvlm.steering(sample, limit) for sample in samples]
    while True:
        run.check("Stopped before all questions were answered.")
        logits = decoding.logits
        if any(steered):
            pairs = zip(steered, logits, strict=True)
            logits = torch.stack([row if each is None else each(row) for each, row in pairs])
        token = greedy(logits, forbidden).masked_fill(finished, pad)
        columns.append(token)
        for each, said in zip(steered, token.tolist(), strict=True):
            if each is not None:
                each.push(said)
        finished |= torch.isin(token, stop)
        if len(columns) >= limit or bool(finished.all()):
            break
        decoding.feed(token[:, None])
    rows = torch.stack(columns, dim=1).tolist()
    return [_until(row, set(ends)) for row in rows]


def _until(
    ids: Sequence[int],
    ends: set[int],
) -> tuple[int, ...]:
    """The ids up to and with the first end token."""
    for number, token in enumerate(ids):
        if token in ends:
            return tuple(ids[: number + 1])
    return tuple(ids)
