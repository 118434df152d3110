"""`trace`: one forward pass a sample, giving every layer's features and attention statistics.

Features are the layers' raw inputs and outputs taken by hooks. (`output_hidden_states` would give
the last one already normed.) Hooks and statistics listen to their own thread only, so a shared
model can answer others meanwhile.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from svl_core.analysis.attention import (
    AttentionStatistics,
    Collector,
    collecting,
)
from svl_core.errors import InputError
from svl_core.lvlm.families import DOWN_PROJECTIONS, linear_map, residual
from svl_core.lvlm.hooks import ThreadHooks, hidden_input, hidden_of
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import Spooled, value_store
from svl_core.progress import QUIET, Run

SLICE = 2**22  # numbers of features copied at a time


@dataclass(frozen=True, eq=False)
class SampleTrace:
    """One sample's pass through L layers with S positions.

    features: (L+1, S, d) in the model's dtype: H[0] enters layer 0, H[l+1] is the raw output of
        layer l, before the final norm.
    visual, textual: positions, as in `Sample`.
    attention: sums over the attention of each layer.
    logits_last: (vocabulary,) float32, for the token after the prompt.
    key: the sample's.
    mlp: (L, S, d) outputs of the MLPs' down-projections, where they were asked for.
    sample: what was traced, for fits that run the model again.
    """

    features: torch.Tensor
    visual: np.ndarray
    textual: np.ndarray
    attention: AttentionStatistics
    logits_last: np.ndarray
    key: str
    mlp: torch.Tensor | None = None
    sample: Sample | None = None

    @property
    def length(self) -> int:
        return self.features.shape[1]

    @property
    def derived_bytes(self) -> int:
        """What `products` take in memory from when they are first asked for."""
        depths, length, _ = self.features.shape
        return 8 * length * depths * depths

    @cached_property
    def products(self) -> np.ndarray:
        """(S, L+1, L+1) float64: the inner products of H[i] and H[j] at every position.

        Cosines, steps and gaps on any set of tokens follow from them, so the features are read
        once; a slice of positions at a time is copied.
        """
        depths, length, width = self.features.shape
        products = np.empty((length, depths, depths))
        step = max(1, SLICE // (depths * width))
        for start in range(0, length, step):
            part = self.features[:, start : start + step].double()
            rows = part.transpose(0, 1)  # (step, L+1, d)
            products[start : start + step] = (rows @ rows.transpose(1, 2)).numpy()
        products.setflags(write=False)
        return products

    def cosines(self, at: np.ndarray) -> np.ndarray:
        """(n, L+1, L+1) float64: cos(H[i], H[j]); 0 where one of them is zero.

        at: the n positions.
        """
        chosen = self.products[at]
        lengths = np.sqrt(np.diagonal(chosen, axis1=1, axis2=2)).clip(1e-30)
        return chosen / (lengths[:, :, None] * lengths[:, None, :])


@dataclass(frozen=True, eq=False)
class Trace:
    """Passes of one model over some samples.

    samples: in memory, or in a file, from which a sample is read anew whenever it is asked for.
    model_name: the model's.
    layer_ids: for each layer its number in the original model.
    protected: layers that the model cannot run without.
    timing_ms: milliseconds that the passes took.
    spool: the folder in whose files `samples` lie, if any; what is computed of all of them goes
        there too.
    """

    samples: Sequence[SampleTrace]
    model_name: str
    layer_ids: tuple[int, ...]
    protected: tuple[int, ...]
    timing_ms: float
    spool: str | Path | None = None

    def __post_init__(self):
        if not self.samples:
            raise InputError(
                "Found no samples; expected at least one image and prompt to analyse; give one."
            )
        if any(sample.features.shape[0] != len(self.layer_ids) + 1 for sample in self.samples):
            raise ValueError("Each sample needs the features of all layers: L + 1 of them.")

    @property
    def num_layers(self) -> int:
        return len(self.layer_ids)

    @property
    def hidden_size(self) -> int:
        return self.samples[0].features.shape[2]


def down_projection(layer: torch.nn.Module) -> torch.nn.Module:
    """The linear map that ends a decoder layer's MLP.

    Raises InputError where there is no single one (mixtures of experts).
    """
    return linear_map(layer, DOWN_PROJECTIONS)


def trace(
    lvlm: LVLM,
    samples: Sample | Sequence[Sample],
    *,
    mlp: bool = False,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> Trace:
    """Run every sample through the model once, unpadded, and keep what the analysis needs.

    The model is left as it was.

    lvlm: the model.
    samples: one or several.
    mlp: keep the MLP outputs too (for compensation "lstsq").
    spool: a folder on a disk where all that is kept lies instead of in memory, so that any number
        of samples (encoded into the same folder, see `encode_all`) takes the memory of one; its
        files go with the trace.
    run: progress and cancellation.

    Raises Cancelled, and InputError where the folder has no room.
    """
    samples = [samples] if isinstance(samples, Sample) else samples
    began = time.perf_counter()
    count = len(samples)
    traces = value_store(count, spool)
    new_tensor = traces.empty_tensor if isinstance(traces, Spooled) else torch.empty
    for number, sample in enumerate(samples):
        run.check("Stopped.")
        if spool is not None:
            sample = dataclasses.replace(sample, images=())
        traces[number] = _pass(lvlm, sample, mlp, new_tensor)
        run.report((number + 1) / count, f"{number + 1} of {count} samples")
    return Trace(
        samples=tuple(traces) if spool is None else traces,
        model_name=lvlm.name,
        layer_ids=lvlm.layer_ids,
        protected=lvlm.protected,
        timing_ms=1000 * (time.perf_counter() - began),
        spool=spool,
    )


class _Features:
    """What the hooks of one pass copy out of it.

    The tensors are made once the pass shows their dtype, and filled as it goes, so that each
    feature is held once.
    """

    def __init__(self, lvlm: LVLM, new_tensor: Callable[..., torch.Tensor]):
        self.lvlm = lvlm
        self.new_tensor = new_tensor
        self.features: torch.Tensor = torch.empty(0)
        self.mlp: torch.Tensor | None = None
        self.ran: set[int] = set()

    def watch(self, hooks: ThreadHooks, mlp: bool) -> None:
        """Registers the hooks of one pass. mlp: on the MLPs' down-projections too."""
        layers = self.lvlm.layers
        hooks.on_input(layers[0], self._entering)
        for number, layer in enumerate(layers):
            hooks.on_output(layer, partial(self._leaving, number))
            if mlp:
                hooks.on_output(down_projection(layer), partial(self._mapped, number))

    def hand_on_skipped(self) -> None:
        """A layer that the model passes over (cross-attention without an image) hands its input
        on.
        """
        for number in range(self.lvlm.num_layers):
            if number not in self.ran:
                self.features[number + 1].copy_(self.features[number])
                if self.mlp is not None:
                    self.mlp[number].zero_()

    def _stream(self, hidden: torch.Tensor) -> torch.Tensor:
        return residual(hidden, self.lvlm.text_config)[0]

    def _entering(self, args: tuple, kwargs: Mapping) -> None:
        entered = self._stream(hidden_input(args, kwargs))
        depths = self.lvlm.num_layers + 1
        self.features = self.new_tensor((depths, *entered.shape), dtype=entered.dtype)
        self.features[0].copy_(entered)

    def _leaving(self, number: int, args: tuple, kwargs: Mapping, output) -> None:
        self.ran.add(number)
        self.features[number + 1].copy_(self._stream(hidden_of(output)))

    def _mapped(
        self,
        number: int,
        args: tuple,
        kwargs: Mapping,
        output: torch.Tensor,
    ) -> None:
        rows = output.reshape(-1, output.shape[-1])
        if self.mlp is None:
            shape = (self.lvlm.num_layers, *rows.shape)
            self.mlp = self.new_tensor(shape, dtype=rows.dtype)
        self.mlp[number].copy_(rows)


@torch.inference_mode()
def _pass(
    lvlm: LVLM,
    sample: Sample,
    mlp: bool,
    new_tensor: Callable[..., torch.Tensor],
) -> SampleTrace:
    """One sample's pass. new_tensor: makes an empty tensor of a shape and `dtype`."""
    seen = _Features(lvlm, new_tensor)
    collector = Collector(lvlm.num_layers, sample.visual, sample.textual)
    with ThreadHooks() as hooks, collecting(lvlm.decoder, collector):
        seen.watch(hooks, mlp)
        # A number instead of the tensor would let Gemma4 skip positions in its last layers.
        last = torch.tensor([sample.length - 1], device=lvlm.device)
        logits = lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=last).logits
    seen.hand_on_skipped()
    statistics = collector.statistics()
    if np.isnan(statistics.text_to_text).all():
        raise InputError(
            f"Found no attention to watch in {lvlm.name}; expected one that goes through"
            " transformers' attention interface; choose another model."
        )
    return SampleTrace(
        features=seen.features,
        visual=sample.visual,
        textual=sample.textual,
        attention=statistics,
        logits_last=logits[0, -1].float().cpu().numpy(),
        key=sample.key,
        mlp=seen.mlp,
        sample=sample,
    )
