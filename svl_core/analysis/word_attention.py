"""Where a model looks while it writes one word: the attention of the query in whose place it is
predicted, for every layer and head.

Only that query's row is computed, beside the model's own attention: heads x keys numbers a layer,
never a whole map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from svl_core.analysis.attention import collecting
from svl_core.analysis.lens import check_same, check_whole, checked_answer
from svl_core.analysis.reading import words_of
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

KINDS = ("image", "prompt", "earlier answer", "first token")
"""What a word's attention goes to; see `WordAttention.shares`."""


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class WordAttention(Shown):
    """The attention of one token of an answer in L layers of H heads each.

    layer_ids: for each layer its number in the original model.
    token: the token, readable.
    place: which token of the answer it is.
    length: S, positions of the prompt.
    visual: (V,) those of them that hold visual features.
    rows: (L, H, S + place) float32, 0..1: how much the query looks at each position before the
        token. A row sums to 1, or to less where the model has attention sinks. NaN in a layer
        without self-attention over the sequence.
    """

    layer_ids: tuple[int, ...]
    token: str
    place: int
    length: int
    visual: np.ndarray
    rows: np.ndarray

    def __post_init__(self):
        expected = (len(self.layer_ids), self.length + self.place)
        if self.rows.ndim != 3 or self.rows.shape[::2] != expected:
            raise ValueError(
                f"Found rows of shape {self.rows.shape}; expected {expected[0]} layers, their"
                f" heads, and {expected[1]} positions."
            )
        self.rows.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        layers, heads, positions = self.rows.shape
        return {"token": self.token, "layers": layers, "heads": heads, "positions": positions}

    @cached_property
    def shares(self) -> np.ndarray:
        """(L, H, 4) float32, 0..1: how much goes to each of `KINDS`.

        "image": the visual positions; "prompt": the prompt's other ones, marks of the template too;
        "earlier answer": the tokens before this one; "first token": position 0, whatever stands
        there, counted for itself alone, for many heads put there what they need nowhere else.
        """
        positions = self.rows.shape[2]
        kind = np.full(positions, 1)
        kind[self.visual] = 0
        kind[self.length :] = 2
        kind[0] = 3
        parts = [self.rows[:, :, kind == number].sum(2) for number in range(len(KINDS))]
        return np.stack(parts, axis=2)

    @property
    def image_share(self) -> np.ndarray:
        """(L, H) float32, 0..1: how much of each head's attention goes to the image."""
        return self.shares[:, :, KINDS.index("image")]

    def on_image(
        self,
        layer: int,
        head: int,
    ) -> np.ndarray:
        """(V,) float32: one head's attention to each visual position.

        layer: its number in the original model. head: 0..H-1.

        Raises InputError where the model has no such layer or head.
        """
        heads = self.rows.shape[1]
        if layer not in self.layer_ids or not 0 <= head < heads:
            raise InputError(
                f"Found layer {layer} and head {head}; expected one of the layers"
                f" {list(self.layer_ids)} and a head from 0 to {heads - 1}; choose another."
            )
        return self.rows[self.layer_ids.index(layer), head, self.visual]


def word_attention(
    lvlm: LVLM,
    sample: Sample,
    answer: Sequence[int],
    place: int = 0,
    *,
    traced: Trace | None = None,
    run: Run = QUIET,
) -> WordAttention:
    """Where a model looks while it predicts one token of an answer.

    lvlm: the model, full or pruned.
    sample: the question.
    answer: token ids, read as given; those behind `place` do not matter.
    place: which of them, from 0. The first one's query is the prompt's last position, for which the
        prompt is read again.
    traced: this model's trace of the sample, with its prompt (`keep_prompt`), behind which the
        answer is fed.
    run: cancellation.

    Raises InputError for an empty answer, a place beyond it, a trace of another model or sample,
    and a model whose attention cannot be watched; Cancelled.
    """
    said = checked_answer(answer, place)
    check_whole(sample)
    prompt = None
    if traced is not None:
        check_same(lvlm, sample, traced)
        prompt = traced.samples[0].prompt
    run.check()
    row = _Row(
        lvlm,
        sample.length + place,
    )
    if place == 0:
        with collecting(lvlm.decoder, row):
            Decoding(
                lvlm,
                sample.inputs,
                features=sample.features,
            )
    else:
        if prompt is None:
            decoding = Decoding(
                lvlm,
                sample.inputs,
                features=sample.features,
            )
        else:
            decoding = Decoding.behind(lvlm, prompt)
        run.check()
        fed = torch.tensor(
            [said[:place]],
            device=decoding.logits.device,
        )
        with collecting(lvlm.decoder, row):
            decoding.feed(fed)
    return WordAttention(
        layer_ids=lvlm.layer_ids,
        token=str(
            words_of(
                lvlm,
                np.array([said[place]]),
            )[0]
        ),
        place=place,
        length=sample.length,
        visual=np.array(sample.visual),
        rows=row.stacked(),
    )


class _Row:
    """Keeps the attention of a pass's last query, in every layer.

    lvlm: the model.
    length: positions that this query may see.
    """

    def __init__(
        self,
        lvlm: LVLM,
        length: int,
    ):
        self.watching: Callable = contextlib.nullcontext
        self._name = lvlm.name
        self._length = length
        self._layers = lvlm.num_layers
        # Cross-attention looks at other keys than the sequence's (Mllama).
        self._apart = getattr(lvlm.text_config, "cross_attention_layers", None) or ()
        self._rows: dict[int, np.ndarray] = {}

    def add(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        softcap: float | None,
        sinks: torch.Tensor | None = None,
        totals: torch.Tensor | None = None,
    ) -> None:
        """Sees one layer's attention; parameters as of `Collector.add`."""
        if layer in self._apart:
            return
        keys = key.shape[2]
        part = None if mask is None else mask[0, :, -1, :keys]
        row = attention_row(
            query[0, :, -1],
            key[0],
            scaling,
            part,
            softcap,
            sinks,
        )
        # A window's cache holds the last keys alone.
        whole = np.zeros(
            (len(row), self._length),
            np.float32,
        )
        whole[:, self._length - keys :] = row.cpu().numpy()
        self._rows[layer] = whole

    def stacked(self) -> np.ndarray:
        """(L, H, length). Raises InputError where no attention was seen."""
        if not self._rows:
            raise InputError(
                f"Found no attention to watch in {self._name}; expected one that goes through"
                " transformers' attention interface; choose another model."
            )
        absent = np.full_like(
            next(iter(self._rows.values())),
            np.nan,
        )
        return np.stack(
            [
                self._rows.get(
                    layer,
                    absent,
                )
                for layer in range(self._layers)
            ]
        )


def attention_row(
    query: torch.Tensor,
    key: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """(H, K) float32: one query's attention to K keys in H heads.

    query: (H, D).
    key: (H or fewer, K, D), shared by neighbouring heads where they are fewer.
    scaling: of the scores.
    mask: (1 or H, K), True or 0 where the query sees a key; None where it sees all.
    softcap: scores are capped softly at this value (None: not).
    sinks: (H,) logits of a key that is nobody, which takes a share of each row (GPT-OSS).
    """
    heads = len(query)
    keys = key.float().repeat_interleave(
        heads // len(key),
        0,
    )
    products = keys @ query.float()[:, :, None]
    scores = products[:, :, 0] * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(
            ~mask,
            float("-inf"),
        )
    elif mask is not None:
        scores = scores + mask.float()
    if sinks is None:
        return scores.softmax(-1)
    nobody = sinks.float()[:, None]
    with_sink = torch.cat([scores, nobody], -1)
    return with_sink.softmax(-1)[:, :-1]
