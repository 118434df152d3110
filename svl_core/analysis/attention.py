"""Attention statistics of one forward pass, added up beside the model's own attention instead of
keeping its maps.

A function registered with transformers' `AttentionInterface` calls the implementation that the
model uses anyway (so the output is bit-identical) and, for the thread that is tracing, adds up sums
of the head-averaged attention matrix in chunks of queries: memory is chunk x S, never L x H x S x
S.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from svl_core.errors import SVLError
from svl_core.lvlm.beside import Beside
from svl_core.lvlm.forecast import steps
from svl_core.notebook import Shown

# The model's implementation -> ours around it.
SWITCHES = {
    "sdpa": Beside("svl_statistics", "sdpa"),
    "eager": Beside("svl_statistics_plain", "eager"),
}


LOG2E = 1 / math.log(2)
UNSEEN = 1000.0
"""A score so far below its row's highest is a masked one: its share is 0 in every dtype."""


@dataclass(frozen=True, eq=False, repr=False)
class AttentionStatistics(Shown):
    """Sums over the head-averaged attention A[i, j] (rows i = queries, columns j = keys) of L
    layers; float32.

    A row of NaN is a layer without self-attention over the sequence (cross-attention layers).

    visual_from_visual, visual_from_text: (L, V) for each visual key j the sum of A[i, j] over
        visual and over textual queries i.
    text_to_visual: (L, T) for each text token the sum of its row over visual keys.
    text_from_text: (L, T) the sum of its column over textual queries (attention received).
    text_to_text: (L, T) the sum of its row over textual keys (attention given).
    *_seen: how many pairs the causal mask leaves in each of those sums; same shapes.
    *_even: those of the visual keys where each query's attention were even over all keys that it
        sees.
    """

    visual_from_visual: np.ndarray
    visual_from_text: np.ndarray
    text_to_visual: np.ndarray
    text_from_text: np.ndarray
    text_to_text: np.ndarray
    visual_from_visual_seen: np.ndarray
    visual_from_text_seen: np.ndarray
    text_to_visual_seen: np.ndarray
    text_from_text_seen: np.ndarray
    text_to_text_seen: np.ndarray
    visual_from_visual_even: np.ndarray
    visual_from_text_even: np.ndarray

    def __post_init__(self):
        for field in fields(self):
            getattr(self, field.name).setflags(write=False)

    def brief(self) -> dict[str, int]:
        layers, visual = self.visual_from_visual.shape
        return {"layers": layers, "visual": visual, "textual": self.text_to_text.shape[1]}


STATISTICS = tuple(field.name for field in fields(AttentionStatistics))
SUMS = tuple(name for name in STATISTICS if not name.endswith(("_seen", "_even")))


class Watcher(Protocol):
    """What sees the queries and keys of every attention of a pass.

    watching: what is done within this block is no work of the model's.
    """

    watching: Callable[[], contextlib.AbstractContextManager]

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
        ...


class Collector:
    """Adds up the statistics of one sample's pass.

    layers: L, the number of decoder layers.
    visual, textual: the sample's positions.
    """

    def __init__(
        self,
        layers: int,
        visual: np.ndarray,
        textual: np.ndarray,
    ):
        self.visual = torch.from_numpy(np.array(visual))
        self.textual = torch.from_numpy(np.array(textual))
        self.length = len(visual) + len(textual)
        # What is added up within this block is no work of the model's.
        self.watching: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        self.sums = {}
        for name in STATISTICS:
            tokens = visual if name.startswith("visual") else textual
            self.sums[name] = np.full(
                (layers, len(tokens)),
                np.nan,
                np.float32,
            )

    def take_over(self, others: AttentionStatistics, count: int) -> None:
        """The sums of the first `count` layers are those of another pass over the sample."""
        for name, sums in self.sums.items():
            sums[:count] = getattr(others, name)[:count]

    def statistics(self) -> AttentionStatistics:
        return AttentionStatistics(**self.sums)

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
        """Adds one layer's attention, H heads over S positions.

        layer: its number.
        query: (1, H, S, D).
        key: (1, H or fewer, S, D).
        mask: None (causal), bool (True = seen) or float (added), (1, 1 or H, S, S).
        scaling: of the scores.
        softcap: scores are capped softly at this value (None: not).
        sinks: (H,) logits of a key that is nobody, which takes a share of each row (GPT-OSS).
        totals: (1, H, S) log-sum-exp of each row's scores, where the attention itself has computed
            them; they save a softmax.
        """
        length = query.shape[2]
        if query.shape[0] != 1 or length != self.length or key.shape[2] != length:
            return  # a decoding step, or cross-attention
        device = query.device
        kinds = self._kinds(device)
        if mask is None:  # causal: token j is seen by itself and all later ones
            received_seen = kinds.flip(1).cumsum(1).flip(1)
            given_seen = kinds.cumsum(1)
            keys = torch.arange(1, length + 1, device=device)
            even = (kinds / keys).flip(1).cumsum(1).flip(1)
        else:
            received_seen, given_seen, even = _pairs_seen(mask[0, :, :, :length], kinds)
        if mask is None and softcap is None and sinks is None and totals is not None:
            received, given = _causal(
                query[0],
                key[0],
                kinds,
                scaling,
                totals[0],
            )
        else:
            received, given = _general(
                query[0],
                key[0],
                kinds,
                scaling,
                mask,
                softcap,
                sinks,
            )
        self._put_all(layer, received, given, (received_seen, given_seen, even))

    def add_map(
        self,
        layer: int,
        scores: torch.Tensor,
        attention: torch.Tensor,
    ) -> None:
        """Adds one layer's attention that lies there as maps of H heads over S positions.

        layer: its number.
        scores: (H, S, S), what went into the softmax, masks added.
        attention: (H, S, S), what came out of it.
        """
        kinds = self._kinds(attention.device)
        mean = attention.float().mean(0)
        raised = scores.float()
        highest = raised.amax(-1, keepdim=True)
        mask = raised > highest - UNSEEN
        seen = mask.any(0, keepdim=True)
        received = kinds @ mean
        given = kinds @ mean.T
        self._put_all(layer, received, given, _pairs_seen(seen, kinds))

    def _kinds(self, device: torch.device) -> torch.Tensor:
        """(2, S) ones at the visual and at the textual positions."""
        is_visual = torch.zeros(self.length, dtype=torch.bool)
        is_visual[self.visual] = True
        is_visual = is_visual.to(device)
        return torch.stack([is_visual, ~is_visual]).float()

    def _put_all(
        self,
        layer: int,
        received: torch.Tensor,
        given: torch.Tensor,
        seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """Takes one layer's sums.

        received, given: (2, S), the rows visual and textual.
        seen: the pairs in each of both, and what keys receive of even attention; (2, S) each.
        """
        received_seen, given_seen, even = seen
        self._put(layer, "", received, given)
        self._put(layer, "_seen", received_seen, given_seen)
        received_even = even.cpu().numpy()
        self.sums["visual_from_visual_even"][layer] = received_even[0, self.visual]
        self.sums["visual_from_text_even"][layer] = received_even[1, self.visual]

    def _put(
        self,
        layer: int,
        end: str,
        received: torch.Tensor,
        given: torch.Tensor,
    ) -> None:
        """Takes one layer's sums apart by kind of token.

        received, given: (2, S), the rows visual and textual.
        """
        column = received.cpu().numpy()
        row = given.cpu().numpy()
        self.sums["visual_from_visual" + end][layer] = column[0, self.visual]
        self.sums["visual_from_text" + end][layer] = column[1, self.visual]
        self.sums["text_from_text" + end][layer] = column[1, self.textual]
        self.sums["text_to_visual" + end][layer] = row[0, self.textual]
        self.sums["text_to_text" + end][layer] = row[1, self.textual]


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    kinds: torch.Tensor,
    scaling: float,
    totals: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each key receives from the two kinds of tokens and each textual query gives to them,
    mean of the heads: (2, S) each; no meaning where a visual query gives.

    The row totals known, scores are raised as they lie and read by thin products, the queries'
    weights being 2^-total. A chunk of queries of one kind is read once, and of its keys only those
    of the rarer kind, as the rest of a row is the other's. Totals that float32 does not hold as
    powers are subtracted from the scores first.

    query: (H, S, D).
    key: (H or fewer, S, D).
    kinds: (2, S) ones at the visual and at the textual positions.
    scaling: of the scores.
    totals: (H, S) log-sum-exp of each row's scores.
    """
    heads, length, _ = query.shape
    received = torch.zeros_like(kinds)
    to_rare = kinds.new_zeros(length)
    of_kind = kinds.sum(1)
    rare = int(of_kind[1] < of_kind[0])
    runs = _runs(kinds[rare])
    chunk, group = steps(query.device, heads, length)
    chunks = []
    for start in range(0, length, chunk):
        present = kinds[:, start : start + chunk].any(1).tolist()  # visual queries, textual ones
        chunks.append((start, min(start + chunk, length), present))
    buffer = query.new_empty(group * min(chunk, length) * length, dtype=torch.float32)
    less = totals * -LOG2E
    small = bool(less.abs().max() < 110)
    for first in range(0, heads, group):
        those = slice(first, min(first + group, heads))
        count = those.stop - first
        queries = query[those].float() * (scaling * LOG2E)
        shared = [head // (heads // len(key)) for head in range(first, those.stop)]
        # Laid out anew, keys are read a tenth faster.
        keys = key[shared].float().contiguous().transpose(1, 2)
        weights = torch.exp2(less[those]) if small else torch.ones_like(less[those])  # (group, S)
        for start, stop, (visual, textual) in chunks:
            rows = slice(start, stop)
            width = stop - start
            scores = buffer[: count * width * stop].view(
                count,
                width,
                stop,
            )
            if small:
                torch.bmm(
                    queries[:, rows],
                    keys[:, :, :stop],
                    out=scores,
                )
            else:
                offset = less[those, rows, None]
                torch.baddbmm(
                    offset,
                    queries[:, rows],
                    keys[:, :, :stop],
                    out=scores,
                )
            torch.exp2(scores, out=scores)
            scores[:, :, start:].tril_()  # a query sees no later key
            weighed = weights[:, None, rows]
            if visual and textual:
                received[:, :stop] += torch.bmm(kinds[:, rows] * weighed, scores).sum(0)
            else:
                received[int(textual), :stop] += torch.bmm(weighed, scores).sum((0, 1))
            if textual:
                given = _sum_at(scores, kinds[rare, :stop], runs)
                to_rare[rows] += (given * weighed[:, 0]).sum(0)
    to_rare /= heads
    to_other = (1 - to_rare).clamp_(0) * (kinds[1 - rare].cumsum(0) > 0)
    given_to = [to_other, to_rare] if rare else [to_rare, to_other]
    return received / heads, torch.stack(given_to)


def _sum_at(
    scores: torch.Tensor,
    kind: torch.Tensor,
    runs: list[tuple[int, int]],
) -> torch.Tensor:
    """(H, n): the sum of each row of scores (H, n, m) over the keys of one kind.

    kind: (m,) ones at these keys.
    runs: where they begin and end; few runs are read as slices.
    """
    heads, _, width = scores.shape
    if len(runs) > 4:
        return scores.view(-1, width).mv(kind).view(heads, -1)
    total = scores.new_zeros(scores.shape[:2])
    for first, last in runs:
        if first < width:
            total += scores[:, :, first:last].sum(2)
    return total


def _runs(kind: torch.Tensor) -> list[tuple[int, int]]:
    """Where the ones of a row of zeros and ones (S,) begin and end."""
    edges = torch.nn.functional.pad(kind, (1, 1)).diff()
    begins = (edges == 1).nonzero().flatten().tolist()
    ends = (edges == -1).nonzero().flatten().tolist()
    return list(zip(begins, ends, strict=True))


def _general(
    query: torch.Tensor,
    key: torch.Tensor,
    kinds: torch.Tensor,
    scaling: float,
    mask: torch.Tensor | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_causal`, for any mask, soft cap and sinks, row totals unknown."""
    heads, length, _ = query.shape
    scaled = (key.float() * scaling).repeat_interleave(heads // len(key), 0)
    keys = scaled.transpose(1, 2).contiguous()  # (H, D, S)
    received = torch.zeros_like(kinds)
    given = torch.zeros_like(kinds)
    chunk, group = steps(query.device, heads, length)
    buffer = torch.empty(group * min(chunk, length) * length, device=query.device)
    # Added to keys of a chunk that its queries do not see.
    later = torch.full((chunk, chunk), float("-inf"), device=query.device).triu(1)
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        count = stop - start
        rows = slice(start, stop)
        part = None if mask is None else mask[0, :, rows, :length]  # (1 or H, chunk, S)
        width = stop if mask is None else length  # a causal chunk needs no later key
        total = torch.zeros(
            count,
            width,
            device=query.device,
        )  # of the heads
        for first in range(0, heads, group):
            some = slice(first, first + group)
            queries = query[some, rows].float()
            scores = buffer[: len(queries) * count * width].view(
                len(queries),
                count,
                width,
            )
            torch.bmm(
                queries,
                keys[some, :, :width],
                out=scores,
            )
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if part is None:
                scores[:, :, start:] += later[:count, :count]
            elif part.dtype == torch.bool:
                scores.masked_fill_(~_of_heads(part, some), float("-inf"))
            else:
                scores += _of_heads(part, some).float()
            if sinks is not None:
                sink = sinks[some].float()[:, None, None]
                sink = sink.expand(-1, count, 1)
                scores = torch.cat([scores, sink], -1)
            attention = torch.softmax(scores, -1, out=scores)[:, :, :width]
            total += attention[0] if len(attention) == 1 else attention.sum(0)
        total /= heads
        if mask is not None:
            total.nan_to_num_()  # a query that sees nothing gives nothing
        given[:, rows] = kinds[:, :width] @ total.T
        received[:, :width] += kinds[:, rows] @ total
    return received, given


def _pairs_seen(
    mask: torch.Tensor,
    kinds: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many queries of each kind see a key, and keys of each kind a query sees, in any head, and
    what a key receives of queries whose attention is even, (2, S) each; mask (1 or H, S, S).
    """
    received = torch.zeros_like(kinds)
    given = torch.zeros_like(kinds)
    even = torch.zeros_like(kinds)
    for start in range(0, kinds.shape[1], 512):
        rows = slice(start, start + 512)
        seen = _seen(mask[:, rows]).any(0).float()
        received += kinds[:, rows] @ seen
        given[:, rows] = kinds @ seen.T
        even += kinds[:, rows] @ (seen / seen.sum(1, keepdim=True).clamp(min=1))
    return received, given, even


def _seen(mask: torch.Tensor) -> torch.Tensor:
    """Which keys a bool or additive mask leaves."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _of_heads(
    part: torch.Tensor,
    some: slice,
) -> torch.Tensor:
    """A mask's part (1 or H, ..) for some of the heads."""
    return part if len(part) == 1 else part[some]


def biased(
    mask: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor | None:
    """An attention's mask together with what it adds to its scores by position (Inkling).

    mask: None (causal), bool (True = seen) or float (added), (1, 1 or H, Q, K).
    bias: (1, H, Q, K); None leaves the mask as it is.
    """
    if bias is None:
        return mask
    if mask is None:
        queries, keys = bias.shape[-2:]
        seen = torch.ones(queries, keys, dtype=torch.bool, device=bias.device)
        mask = seen.tril(keys - queries)
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return mask + bias


_COLLECTOR: ContextVar[Watcher | None] = ContextVar("svl_collector", default=None)


class _Totals(TorchDispatchMode):
    """While open, in this thread: takes the log-sum-exp of each row's scores from PyTorch's own
    attention on a processor.

    totals: (1, H, S) float32; None where another kernel ran.
    """

    totals: torch.Tensor | None = None

    def __torch_dispatch__(
        self,
        operator,
        types,
        args=(),
        kwargs=None,
    ):
        if operator is torch.ops.aten.scaled_dot_product_attention.default:
            with self:  # which looks into it
                return operator.decompose(*args, **(kwargs or {}))
        out = operator(*args, **(kwargs or {}))
        if operator is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.totals = out[1]
        return out


def _beside(implementation: str):
    """The attention function that calls `implementation` and shows query and key to the collector
    of this thread.
    """

    def attention(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling=None,
        dropout=0.0,
        **kwargs,
    ):
        collector = _COLLECTOR.get()
        if implementation == "eager":
            function = sys.modules[type(module).__module__].eager_attention_forward
        else:
            function = ALL_ATTENTION_FUNCTIONS[implementation]
        log_sum_exp = _Totals()
        watched = collector is not None and query.device.type == "cpu"
        with log_sum_exp if watched else contextlib.nullcontext():
            out = function(
                module,
                query,
                key,
                value,
                attention_mask,
                scaling=scaling,
                dropout=dropout,
                **kwargs,
            )
        if collector is not None:
            with collector.watching():
                collector.add(
                    layer=module.layer_idx,
                    query=query,
                    key=key,
                    mask=biased(attention_mask, kwargs.get("position_bias")),
                    scaling=scaling if scaling is not None else query.shape[-1] ** -0.5,
                    softcap=kwargs.get("softcap"),
                    sinks=kwargs.get("s_aux"),
                    totals=log_sum_exp.totals,
                )
        return out

    return attention


for _inner, _name in SWITCHES.items():
    AttentionInterface.register(_name, _beside(_inner))
    AttentionMaskInterface.register(_name, AttentionMaskInterface()[_inner])

_LOCK = threading.Lock()
# Decoder -> (threads that trace it, its own attention implementation).
_USERS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def collecting(decoder: torch.nn.Module, collector: Watcher):
    """While open, this thread's forward passes through `decoder` feed `collector`; other threads'
    passes do not.

    The decoder's attention setting is switched for the first thread that enters and restored when
    the last one leaves, also after an error. Raises SVLError for an attention implementation that
    cannot be wrapped.
    """
    config: Any = decoder.config
    with _LOCK:
        threads, original = _USERS.get(decoder, (0, config._attn_implementation))
        if original not in SWITCHES:
            raise SVLError(
                f"Found the attention implementation {original!r}; expected one of"
                f" {', '.join(SWITCHES)}; load the model with attn_implementation='sdpa'."
            )
        _USERS[decoder] = (threads + 1, original)
        config._attn_implementation = SWITCHES[original]
    token = _COLLECTOR.set(collector)
    try:
        yield
    finally:
        _COLLECTOR.reset(token)
        with _LOCK:
            threads, original = _USERS[decoder]
            if threads == 1:
                del _USERS[decoder]
                config._attn_implementation = original
            else:
                _USERS[decoder] = (threads - 1, original)
