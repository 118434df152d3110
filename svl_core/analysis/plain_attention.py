"""Attention statistics of a model whose attention does not go through transformers' interface: its
own calls of softmax, or of PyTorch's attention, are watched while a layer runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from svl_core.analysis.attention import Collector
from svl_core.lvlm.hooks import ThreadHooks

SOFTMAX = "softmax"
FUSED = "scaled_dot_product_attention"
FUSED_ARGUMENTS = (
    "query",
    "key",
    "value",
    "attn_mask",
    "dropout_p",
    "is_causal",
    "scale",
    "enable_gqa",
)


class _Watch(TorchFunctionMode):
    """While open, in this thread: shows each layer's first attention over the whole sequence to a
    collector.

    collector: of one sample's pass.
    """

    def __init__(self, collector: Collector):
        super().__init__()
        self._collector = collector
        self._layer: int | None = None  # the one that runs

    def entering(self, layer: int, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """A layer begins."""
        self._layer = layer

    def leaving(
        self,
        layer: int,
        args: tuple,
        kwargs: Mapping[str, Any],
        output: Any,
    ) -> None:
        """A layer has ended."""
        self._layer = None

    def __torch_function__(
        self,
        function,
        types,
        args=(),
        kwargs=None,
    ):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        layer = self._layer
        if layer is None or name not in (SOFTMAX, FUSED):
            return out
        with self._collector.watching():
            if name == SOFTMAX:
                watched = self._of_map(layer, args, out)
            else:
                given = dict(zip(FUSED_ARGUMENTS, args, strict=False))
                watched = self._fused(layer, {**given, **kwargs})
        if watched:
            self._layer = None  # what follows within the layer is no attention of its own
        return out

    def _of_map(
        self,
        layer: int,
        args: tuple,
        attention: torch.Tensor,
    ) -> bool:
        """Takes a softmax whose result is a map over the sequence; whether it is one."""
        length = self._collector.length
        if attention.ndim < 3 or attention.shape[-2:] != (length, length):
            return False
        scores = args[0].reshape(-1, length, length)
        maps = attention.reshape(-1, length, length)
        self._collector.add_map(layer, scores, maps)
        return True

    def _fused(self, layer: int, given: Mapping[str, Any]) -> bool:
        """Takes a call of PyTorch's attention; whether it is one over the sequence.

        given: its arguments by name.
        """
        query = given["query"]
        key = given["key"]
        length = self._collector.length
        if query.ndim != 4 or query.shape[2] != length or key.shape[2] != length:
            return False
        self._collector.add(
            layer=layer,
            query=query,
            key=key,
            mask=_mask(given, length),
            scaling=given.get("scale") or query.shape[-1] ** -0.5,
            softcap=None,
        )
        return True


def _mask(given: Mapping[str, Any], length: int) -> torch.Tensor | None:
    """The (1, 1 or H, S, S) mask of a call; None where it is causal and no more.

    given: the call's arguments by name.
    length: S.
    """
    mask = given.get("attn_mask")
    if mask is None and given.get("is_causal"):
        return None
    if mask is None:
        every = torch.ones(length, length, dtype=torch.bool, device=given["query"].device)
        return every[None, None]
    while mask.ndim < 4:
        mask = mask[None]
    return mask.expand(1, -1, length, length)


@contextlib.contextmanager
def collecting_plain(
    layers: Sequence[torch.nn.Module],
    collector: Collector,
) -> Iterator[None]:
    """While open, this thread's passes through the layers feed `collector`.

    What is watched: the softmax over (.., S, S) scores, or PyTorch's fused attention, whichever a
    layer calls first. Fused kernels of other packages are not seen.
    """
    watch = _Watch(collector)
    with ThreadHooks() as hooks:
        for number, layer in enumerate(layers):
            hooks.on_input(layer, partial(watch.entering, number))
            hooks.on_output(layer, partial(watch.leaving, number))
        with watch:
            yield
