"""`trace`: one forward pass a sample, giving every layer's features and attention statistics.

Features are the layers' raw inputs and outputs taken by hooks. (`output_hidden_states` would give
the last one already normed.) Hooks and statistics listen to their own thread only, so a shared
model can answer others meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from svl_core.analysis.attention import AttentionStatistics, Collector, collecting
from svl_core.errors import InputError
from svl_core.lvlm.families import DOWN_PROJECTIONS, linear_map, residual
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import value_store
from svl_core.progress import QUIET, Run

SLICE = 2**22  # numbers of features copied at a time


@dataclass(frozen=True, eq=False)
class SampleTrace:
    """One sample's pass through L layers with S positions.

    features: (L+1, S, d) in the model's dtype: H[0] enters layer 0, H[l+1] is the raw output of
    layer l, before the final norm. visual, textual: positions, as in `Sample`.
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

    @property
    def derived_bytes(self) -> int:
        """What `products` take in memory from when they are first asked for."""
        depths, length, _ = self.features.shape
        return 8 * length * depths * depths

    @cached_property
    def products(self) -> np.ndarray:
        """(S, L+1, L+1) float64: the inner products of H[i] and H[j] at every position.

        Cosines, steps and gaps on any set of tokens follow
        from them, so the features are read once; a slice of positions at a time is copied.
        """
        depths, length, width = self.features.shape
        made, step = np.empty((length, depths, depths)), max(1, SLICE // (depths * width))
        for start in range(0, length, step):
            rows = self.features[:, start : start + step].double().transpose(0, 1)  # (step, L+1, d)
            made[start : start + step] = (rows @ rows.transpose(1, 2)).numpy()
        made.setflags(write=False)
        return made

    def cosines(self, at: np.ndarray) -> np.ndarray:
        """(n, L+1, L+1) float64: cos(H[i], H[j]) at each of n positions; 0 where one of them is
        zero.
        """
        chosen = self.products[at]
        norms = np.sqrt(np.diagonal(chosen, axis1=1, axis2=2)).clip(1e-30)
        return chosen / (norms[:, :, None] * norms[:, None, :])


@dataclass(frozen=True, eq=False)
class Trace:
    """Passes of one model over some samples.

    `layer_ids` name the layers in the original model; `protected` cannot go.

    spool: the folder in whose files `samples` lie, if any: each is then made anew when it is asked
    for, and what is made of all of them goes there too.
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


def down_projection(layer: torch.nn.Module) -> torch.nn.Linear:
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

    mlp: keep the MLP outputs too (for compensation "lstsq"). spool: a folder on a disk where all
    that is kept lies instead of in memory, so that any number of samples (encoded into the same
    folder, see `encode_all`) takes the memory of one; it goes with the trace. The model is left as
    it was. Raises Cancelled, and InputError where the folder has no room.
    """
    samples = [samples] if isinstance(samples, Sample) else samples
    began = time.perf_counter()
    made = value_store(len(samples), spool)
    room = torch.empty if spool is None else made.empty_tensor
    for number, sample in enumerate(samples):
        run.check("Stopped.")
        made[number] = _pass(
            lvlm, sample if spool is None else dataclasses.replace(sample, images=()), mlp, room
        )
        run.report((number + 1) / len(samples), f"{number + 1} of {len(samples)} samples")
    return Trace(
        tuple(made) if spool is None else made,
        lvlm.name,
        lvlm.layer_ids,
        lvlm.protected,
        1000 * (time.perf_counter() - began),
        spool,
    )


def _pass(lvlm: LVLM, sample: Sample, mlp: bool, room: Callable[..., torch.Tensor]) -> SampleTrace:
    """room: makes an empty tensor of a shape and `dtype`."""
    layers, here = lvlm.layers, threading.get_ident()
    features = outputs = (
        # made once their dtype is known, and filled as the pass goes: each feature is held once
        None
    )
    ran: set[int] = set()

    def entering(module, args, kwargs):
        nonlocal features
        if threading.get_ident() == here:
            entered = residual(args[0] if args else kwargs["hidden_states"], lvlm.text_config)[0]
            features = room((len(layers) + 1, *entered.shape), dtype=entered.dtype)
            features[0].copy_(entered)

    def leaving(number):
        def hook(module, args, output):
            if threading.get_ident() == here:
                ran.add(number)
                features[number + 1].copy_(
                    residual(output[0] if isinstance(output, tuple) else output, lvlm.text_config)[
                        0
                    ]
                )

        return hook

    def mapped(number):
        def hook(module, args, output):
            nonlocal outputs
            if threading.get_ident() == here:
                rows = output.reshape(-1, output.shape[-1])
                outputs = (
                    room((len(layers), *rows.shape), dtype=rows.dtype)
                    if outputs is None
                    else outputs
                )
                outputs[number].copy_(rows)

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
        last = torch.tensor(
            [sample.length - 1], device=lvlm.device
        )  # a number instead would let Gemma4 skip positions in its last layers
        logits = lvlm.model(**sample.inputs, use_cache=False, logits_to_keep=last).logits
        for number in sorted(
            set(range(len(layers))) - ran
            # a layer that the model passes over (cross-attention without an image) hands its input on
        ):
            features[number + 1].copy_(features[number])
            if outputs is not None:
                outputs[number].zero_()
    statistics = collector.statistics()
    if np.isnan(statistics.text_to_text).all():
        raise InputError(
            f"Found no attention to watch in {lvlm.name}; expected one that goes through"
            " transformers' attention interface; choose another model."
        )
    return SampleTrace(
        features,
        sample.visual,
        sample.textual,
        statistics,
        logits[0, -1].float().cpu().numpy(),
        sample.key,
        outputs,
        sample,
    )
