"""`trace`: one forward pass a sample, giving every layer's features and attention statistics.

Features are the layers' raw inputs and outputs taken by hooks. (`output_hidden_states` would give the last one already
normed.) Hooks and statistics listen to their own thread only, so a shared model can answer others meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from svl_core.analysis.attention import AttentionStatistics, Collector, collecting
from svl_core.errors import Cancelled, InputError
from svl_core.lvlm.families import DOWN_PROJECTIONS, linear_map, residual
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample


SLICE = 2**22  # numbers of features copied at a time


@dataclass(frozen=True, eq=False)
class SampleTrace:
    """One sample's pass through L layers with S positions.

    features: (L+1, S, d) in the model's dtype: H[0] enters layer 0, H[l+1] is the raw output of layer l, before the final norm.
    visual, textual: positions, as in `Sample`.
    logits_last: (vocabulary,) float32, for the token after the prompt.
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

    @cached_property
    def products(self) -> np.ndarray:
        """(S, L+1, L+1) float64: the inner products of H[i] and H[j] at every position. Cosines, steps and gaps on any set of tokens follow
        from them, so the features are read once; a slice of positions at a time is copied."""
        depths, length, width = self.features.shape
        made, step = np.empty((length, depths, depths)), max(1, SLICE // (depths * width))
        for start in range(0, length, step):
            rows = self.features[:, start:start + step].double().transpose(0, 1)  # (step, L+1, d)
            made[start:start + step] = (rows @ rows.transpose(1, 2)).numpy()
        made.setflags(write=False)
        return made

    def cosines(self, at: np.ndarray) -> np.ndarray:
        """(n, L+1, L+1) float64: cos(H[i], H[j]) at each of n positions; 0 where one of them is zero."""
        chosen = self.products[at]
        norms = np.sqrt(np.diagonal(chosen, axis1=1, axis2=2)).clip(1e-30)
        return chosen / (norms[:, :, None] * norms[:, None, :])


@dataclass(frozen=True, eq=False)
class Trace:
    """Passes of one model over some samples. `layer_ids` name the layers in the original model; `protected` cannot go."""

    samples: tuple[SampleTrace, ...]
    model_name: str
    layer_ids: tuple[int, ...]
    protected: tuple[int, ...]
    timing_ms: float

    def __post_init__(self):
        if not self.samples:
            raise InputError("Found no samples; expected at least one image and prompt to analyse; give one.")
        if any(sample.features.shape[0] != len(self.layer_ids) + 1 for sample in self.samples):
            raise ValueError("Each sample needs the features of all layers: L + 1 of them.")

    @property
    def num_layers(self) -> int:
        return len(self.layer_ids)

    @property
    def hidden_size(self) -> int:
        return self.samples[0].features.shape[2]


def down_projection(layer: torch.nn.Module) -> torch.nn.Linear:
    """The linear map that ends a decoder layer's MLP. Raises InputError where there is no single one (mixtures of experts)."""
    return linear_map(layer, DOWN_PROJECTIONS)


def trace(lvlm: LVLM, samples: Sample | Sequence[Sample], *, mlp: bool = False, progress: Callable[[float, str], None] | None = None, cancel: threading.Event | None = None) -> Trace:
    """Run every sample through the model once, unpadded, and keep what the analysis needs.

    mlp: keep the MLP outputs too (for compensation "lstsq"). The model is left as it was. Raises Cancelled.
    """
    samples = [samples] if isinstance(samples, Sample) else list(samples)
    began = time.perf_counter()
    made = []
    for number, sample in enumerate(samples):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped.")
        made.append(_pass(lvlm, sample, mlp))
        if progress:
            progress((number + 1) / len(samples), f"{number + 1} of {len(samples)} samples")
    return Trace(tuple(made), lvlm.name, lvlm.layer_ids, lvlm.protected, 1000 * (time.perf_counter() - began))


def _pass(lvlm: LVLM, sample: Sample, mlp: bool) -> SampleTrace:
    layers, here = lvlm.layers, threading.get_ident()
    features: list[torch.Tensor | None] = [None] * (len(layers) + 1)
    outputs: list[torch.Tensor | None] = [None] * len(layers)

    def entering(module, args, kwargs):
        if threading.get_ident() == here:
            features[0] = residual(args[0] if args else kwargs["hidden_states"], lvlm.text_config)[0].detach()

    def leaving(number):
        def hook(module, args, output):
            if threading.get_ident() == here:
                features[number + 1] = residual(output[0] if isinstance(output, tuple) else output, lvlm.text_config)[0].detach()
        return hook

    def mapped(number):
        def hook(module, args, output):
            if threading.get_ident() == here:
                outputs[number] = output.reshape(-1, output.shape[-1]).detach()
        return hook

    collector = Collector(len(layers), sample.visual, sample.textual)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        handles = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
        stack.callback(lambda: [handle.remove() for handle in handles])
        for number, layer in enumerate(layers):
            handles.append(layer.register_forward_hook(leaving(number)))
            if mlp:
                handles.append(down_projection(layer).register_forward_hook(mapped(number)))
        stack.enter_context(collecting(lvlm.decoder, collector))
        last = torch.tensor([sample.length - 1], device=lvlm.device)  # a number instead would let Gemma4 skip positions in its last layers
        logits = lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=last).logits
    statistics = collector.statistics()
    if np.isnan(statistics.text_to_text).all():
        raise InputError(f"Found no attention to watch in {lvlm.name}; expected one that goes through transformers' attention interface; choose another model.")
    return SampleTrace(torch.stack([f.cpu() for f in features]), sample.visual, sample.textual, statistics, logits[0, -1].float().cpu().numpy(), sample.key,
                       torch.stack([o.cpu() for o in outputs]) if mlp else None, sample)
