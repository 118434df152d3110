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
from contextvars import ContextVar
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from svl_core.errors import SVLError
from svl_core.lvlm.forecast import steps

# The model's implementation -> ours around it.
SWITCHES = {
    "sdpa": "svl_statistics",
    "eager": "svl_statistics_plain",
}


LOG2E = 1 / math.log(2)


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """Sums over the head-averaged attention A[i, j] (rows i = queries, columns j = keys) of L
    layers; float32.

    Visual keys, (L, V): `visual_from_visual` and `visual_from_text` sum A[i, j] over visual and
    textual queries i. Text tokens, (L, T): `text_to_visual` sums token i's row over visual keys;
    `text_from_text` sums its column over textual queries (attention received); `text_to_text` sums
    its row over textual keys (attention given). `*_seen`: how many pairs the causal mask leaves in
    each of those sums; same shapes. A row of NaN = a layer without self-attention over the sequence
    (cross-attention layers).
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

    def __post_init__(self):
        for field in fields(self):
            getattr(self, field.name).setflags(write=False)


SUMS = tuple(
    field.name for field in fields(AttentionStatistics) if not field.name.endswith("_seen")
)


class Collector:
    """Adds up the statistics of one sample's pass; `layers` x positions are known from the start."""

    def __init__(self, layers: int, visual: np.ndarray, textual: np.ndarray):
        self.visual = torch.from_numpy(np.array(visual))
        self.textual = torch.from_numpy(np.array(textual))
        self.length = len(visual) + len(textual)
        size = {name: len(visual) if name.startswith("visual") else len(textual) for name in SUMS}
        self.sums = {
            name + end: np.full((layers, size[name]), np.nan, np.float32)
            for name in SUMS
            for end in ("", "_seen")
        }

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
        """query (1, H, S, D), key (1, H or fewer, S, D); mask None (causal), bool (True = seen) or
        float (added), (1, 1 or H, S, S).

        sinks (H,): logits of a key that is nobody, which takes a share of each row (GPT-OSS).
        totals (1, H, S): log-sum-exp of each row's scores, where the attention itself has told
        them; they save a softmax.
        """
        length = query.shape[2]
        if query.shape[0] != 1 or length != self.length or key.shape[2] != length:
            return  # a decoding step, or cross-attention
        device = query.device
        is_visual = torch.zeros(length, dtype=torch.bool)
        is_visual[self.visual] = True
        is_visual = is_visual.to(device)
        kinds = torch.stack([is_visual, ~is_visual]).float()  # (2, S): visual, textual
        if mask is None:  # causal: token j is seen by itself and all later ones
            received_seen = kinds.flip(1).cumsum(1).flip(1)
            given_seen = kinds.cumsum(1)
        else:
            received_seen, given_seen = _pairs_seen(mask[0, :, :, :length], kinds)
        if mask is None and softcap is None and sinks is None and totals is not None:
            received, given = _causal(query[0], key[0], kinds, scaling, totals[0])
        else:
            received, given = _general(query[0], key[0], kinds, scaling, mask, softcap, sinks)
        for end, column, row in (
            ("", received.cpu().numpy(), given.cpu().numpy()),
            (
                "_seen",
                received_seen.cpu().numpy(),
                given_seen.cpu().numpy(),
            ),
        ):
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
    """What each key receives from the two kinds of tokens and each textual query gives to them
    (rows of kinds, (2, S)), mean of the heads: (2, S) each; no meaning where a visual query gives.

    query (H, S, D), key (H or fewer, S, D), totals (H, S). The row totals known, scores are raised
    as they lie and read by thin products, the queries' weights being 2^-total; a chunk of queries
    of one kind is read once, and of its keys only those of the rarer kind, as the rest of a row is
    the other's. Totals that float32 does not hold as powers are subtracted from the scores first.
    """
    heads, length, _ = query.shape
    received = torch.zeros_like(kinds)
    to_rare = kinds.new_zeros(length)
    of_kind = kinds.sum(1)
    rare = int(of_kind[1] < of_kind[0])
    runs = _runs(kinds[rare])
    chunk, group = steps(query.device, heads, length)
    chunks = [
        (
            start,
            min(start + chunk, length),
            kinds[:, start : start + chunk].any(1).tolist(),
        )
        for start in range(0, length, chunk)
    ]
    room = query.new_empty(group * min(chunk, length) * length, dtype=torch.float32)
    less = totals * -LOG2E
    small = bool(less.abs().max() < 110)
    for some in (range(first, min(first + group, heads)) for first in range(0, heads, group)):
        those = slice(some.start, some.stop)
        queries = query[those].float() * (scaling * LOG2E)
        # Laid out anew, they are read a tenth faster.
        keys = (
            key[[head // (heads // len(key)) for head in some]].float().contiguous().transpose(1, 2)
        )
        weights = torch.exp2(less[those]) if small else torch.ones_like(less[those])  # (group, S)
        for start, stop, (visual, textual) in chunks:
            rows = slice(start, stop)
            scores = room[: len(some) * (stop - start) * stop].view(len(some), stop - start, stop)
            if small:
                torch.bmm(queries[:, rows], keys[:, :, :stop], out=scores)
            else:
                torch.baddbmm(
                    less[those, rows, None],
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
                if len(runs) > 4:
                    given = scores.view(-1, stop).mv(kinds[rare, :stop]).view(len(some), -1)
                else:
                    given = sum(
                        scores[:, :, first:last].sum(2) for first, last in runs if first < stop
                    )
                to_rare[rows] += (given * weighed[:, 0]).sum(0)
    to_rare /= heads
    to_other = (1 - to_rare).clamp_(0) * (kinds[1 - rare].cumsum(0) > 0)
    return received / heads, torch.stack([to_other, to_rare] if rare else [to_rare, to_other])


def _runs(kind: torch.Tensor) -> list[tuple[int, int]]:
    """Where the ones of a row of zeros and ones (S,) begin and end."""
    edges = torch.nn.functional.pad(kind, (1, 1)).diff()
    return list(
        zip(
            (edges == 1).nonzero().flatten().tolist(),
            (edges == -1).nonzero().flatten().tolist(),
            strict=True,
        )
    )


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
    # (H, D, S)
    keys = (
        (key.float() * scaling).repeat_interleave(heads // len(key), 0).transpose(1, 2).contiguous()
    )
    received = torch.zeros_like(kinds)
    given = torch.zeros_like(kinds)
    chunk, group = steps(query.device, heads, length)
    room = torch.empty(group * min(chunk, length) * length, device=query.device)
    # Added to keys of a chunk that its queries do not see.
    later = torch.full((chunk, chunk), float("-inf"), device=query.device).triu(1)
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        rows = slice(start, stop)
        seen = None if mask is None else _seen(mask[0, :, rows, :length])  # (1 or H, chunk, S)
        width = stop if mask is None else length  # a causal chunk needs no later key
        total = torch.zeros(stop - start, width, device=query.device)  # of the heads
        for some in (slice(first, first + group) for first in range(0, heads, group)):
            part = query[some, rows].float()
            # (group, chunk, width)
            scores = torch.bmm(
                part,
                keys[some, :, :width],
                out=room[: len(part) * len(total) * width].view(len(part), len(total), width),
            )
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            if mask is None:
                scores[:, :, start:] += later[: stop - start, : stop - start]
            elif mask.dtype == torch.bool:
                scores.masked_fill_(~_of(seen, some), float("-inf"))
            else:
                scores += _of(mask[0, :, rows, :length], some).float()
            if sinks is not None:
                scores = torch.cat(
                    [
                        scores,
                        sinks[some].float()[:, None, None].expand(-1, stop - start, 1),
                    ],
                    -1,
                )
            attention = torch.softmax(scores, -1, out=scores)[:, :, :width]
            total += attention[0] if len(attention) == 1 else attention.sum(0)
        total /= heads
        if mask is not None:
            total.nan_to_num_()  # a query that sees nothing gives nothing
        given[:, rows] = kinds[:, :width] @ total.T
        received[:, :width] += kinds[:, rows] @ total
    return received, given


def _pairs_seen(mask: torch.Tensor, kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many queries of each kind see a key, and keys of each kind a query sees, in any head, (2,
    S) each; mask (1 or H, S, S).
    """
    received = torch.zeros_like(kinds)
    given = torch.zeros_like(kinds)
    for start in range(0, kinds.shape[1], 512):
        rows = slice(start, start + 512)
        seen = _seen(mask[:, rows]).any(0).float()
        received += kinds[:, rows] @ seen
        given[:, rows] = kinds @ seen.T
    return received, given


def _seen(mask: torch.Tensor) -> torch.Tensor:
    """Which keys a bool or additive mask leaves."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _of(part: torch.Tensor, some: slice) -> torch.Tensor:
    """A mask's part (1 or H, ..) for some of the heads."""
    return part if len(part) == 1 else part[some]


_COLLECTOR: ContextVar[Collector | None] = ContextVar("svl_collector", default=None)


class _Totals(TorchDispatchMode):
    """While open, in this thread: keeps what PyTorch's own attention on a processor finds each
    row's log-sum-exp to be, (1, H, S) float32; None where another kernel ran.
    """

    found: torch.Tensor | None = None

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten.scaled_dot_product_attention.default:
            with self:  # which looks into it
                return operator.decompose(*args, **(kwargs or {}))
        out = operator(*args, **(kwargs or {}))
        if operator is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            self.found = out[1]
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
        function = (
            ALL_ATTENTION_FUNCTIONS[implementation]
            if implementation != "eager"
            else sys.modules[type(module).__module__].eager_attention_forward
        )
        totals = _Totals()
        with (
            totals
            if collector is not None and query.device.type == "cpu"
            else contextlib.nullcontext()
        ):
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
            scale = scaling if scaling is not None else query.shape[-1] ** -0.5
            collector.add(
                module.layer_idx,
                query,
                key,
                attention_mask,
                scale,
                kwargs.get("softcap"),
                kwargs.get("s_aux"),
                totals.found,
            )
        return out

    return attention


for _inner, _name in SWITCHES.items():
    AttentionInterface.register(_name, _beside(_inner))
    AttentionMaskInterface.register(_name, AttentionMaskInterface()[_inner])

_LOCK = threading.Lock()
# Decoder -> (threads tracing it, its own implementation)
_USERS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def collecting(decoder: torch.nn.Module, collector: Collector):
    """While open, this thread's forward passes through `decoder` feed `collector`; other threads'
    passes do not.

    The decoder's attention setting is switched for the first thread that enters and restored when
    the last one leaves, also after an error. Raises SVLError for an attention implementation that
    cannot be wrapped.
    """
    config = decoder.config
    with _LOCK:
        threads, own = _USERS.get(decoder, (0, config._attn_implementation))
        if own not in SWITCHES:
            raise SVLError(
                f"Found the attention implementation {own!r}; expected one of"
                f" {', '.join(SWITCHES)}; load the model with attn_implementation='sdpa'."
            )
        _USERS[decoder] = (threads + 1, own)
        config._attn_implementation = SWITCHES[own]
    token = _COLLECTOR.set(collector)
    try:
        yield
    finally:
        _COLLECTOR.reset(token)
        with _LOCK:
            threads, own = _USERS[decoder]
            if threads == 1:
                del _USERS[decoder]
                config._attn_implementation = own
            else:
                _USERS[decoder] = (threads - 1, own)
