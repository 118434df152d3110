"""`trace`: one forward pass a sample, giving every layer's features and attention statistics.

The same pass leaves what everything after it begins with (`SampleTrace.prompt`): the model's answer
is decoding only, and a pruned model's pass begins at its first changed layer (`trace_behind`).

Features are the layers' raw inputs and outputs taken by hooks. (`output_hidden_states` would give
the last one already normed.) Hooks and statistics listen to their own thread only, so a shared
model can answer others meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from svl_core.analysis.attention import (
    AttentionStatistics,
    Collector,
    collecting,
)
from svl_core.analysis.plain_attention import collecting_plain
from svl_core.errors import InputError
from svl_core.lvlm.arithmetic import name_of
from svl_core.lvlm.decoding import Decoding, Prompt
from svl_core.lvlm.families import residual, shared_from
from svl_core.lvlm.hooks import ThreadHooks, hidden_input, hidden_of
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.refusals import picture_read
from svl_core.lvlm.roles import feed_forward_end
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import Spooled, value_store
from svl_core.lvlm.vision import Watched, prepared, seen
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

SLICE = 2**22  # numbers of features copied at a time


@dataclass(frozen=True, eq=False, repr=False)
class SampleTrace(Shown):
    """One sample's pass through L layers with S positions.

    features: (L+1, S, d) in the model's dtype: H[0] enters layer 0, H[l+1] is the raw output of
        layer l, before the final norm.
    visual, textual: positions, as in `Sample`.
    attention: sums over the attention of each layer.
    logits_last: (vocabulary,) float32, for the token after the prompt.
    key: the sample's.
    mlp: (L, S, d) outputs of the MLPs' down-projections, where they were asked for.
    sample: what was traced, its images seen, for fits that run the model again.
    prompt: what the pass left behind for answers, where it was asked for and can be kept.
    """

    features: torch.Tensor
    visual: np.ndarray
    textual: np.ndarray
    attention: AttentionStatistics
    logits_last: np.ndarray
    key: str
    mlp: torch.Tensor | None = None
    sample: Sample | None = None
    prompt: Prompt | None = None

    def brief(self) -> dict[str, Any]:
        return {
            "features": self.features,
            "visual": len(self.visual),
            "textual": len(self.textual),
            "mlp": self.mlp is not None,
            "prompt": self.prompt is not None,
        }

    @property
    def length(self) -> int:
        return self.features.shape[1]

    def without_features(self) -> SampleTrace:
        """The attention statistics alone: features (L+1, S, 0), and nothing else of the pass."""
        return dataclasses.replace(
            self,
            features=self.features[:, :, :0].clone(),
            mlp=None,
            sample=None,
            prompt=None,
        )

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


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Shown):
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

    def brief(self) -> dict[str, Any]:
        return {
            "samples": len(self.samples),
            "model_name": self.model_name,
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "timing_ms": self.timing_ms,
        }

    @property
    def num_layers(self) -> int:
        return len(self.layer_ids)

    @property
    def hidden_size(self) -> int:
        return self.samples[0].features.shape[2]


def trace(
    lvlm: LVLM,
    samples: Sample | Sequence[Sample],
    *,
    mlp: bool = False,
    keep_prompt: bool = False,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> Trace:
    """Run every sample through the model once, unpadded, and keep what the analysis needs.

    The model is left as it was.

    lvlm: the model.
    samples: one or several.
    mlp: keep the MLP outputs too (for compensation "lstsq").
    keep_prompt: keep what answers begin with too: the key/value caches of all layers. Where the
        family's caches cannot be shared, nothing is kept.
    spool: a folder on a disk where all that is kept lies instead of in memory, so that any number
        of samples (encoded into the same folder, see `encode_all`) takes the memory of one; its
        files go with the trace.
    run: progress and cancellation.

    Raises Cancelled, and InputError where the folder has no room and for hidden states that are not
    finite.
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
        kept = keep_prompt and spool is None
        traces[number] = _pass(lvlm, sample, mlp, new_tensor, kept)
        run.report((number + 1) / count, f"{number + 1} of {count} samples")
    traced = tuple(traces) if spool is None else traces
    return trace_of(lvlm, traced, 1000 * (time.perf_counter() - began), spool)


def trace_behind(
    lvlm: LVLM,
    sample: Sample,
    full: Trace,
    depth: int,
) -> tuple[Trace, Decoding]:
    """A pruned model's trace of a prompt which the full model has read, and the decode behind it.

    lvlm: the pruned model.
    sample: the prompt.
    full: the full model's trace of the sample, with its prompt.
    depth: the layer at which the pass begins, before which both models are the same (see
        `prefill.shared_depth`).
    """
    began = time.perf_counter()
    traced, decoding = _traced_prompt(lvlm, sample, behind=(full.samples[0], depth))
    return trace_of(lvlm, (traced,), 1000 * (time.perf_counter() - began)), decoding


def trace_of(
    lvlm: LVLM,
    samples: Sequence[SampleTrace],
    timing_ms: float,
    spool: str | Path | None = None,
) -> Trace:
    """The trace of a model that its passes make up; parameters as of `Trace`."""
    return Trace(
        samples=samples,
        model_name=lvlm.name,
        layer_ids=lvlm.layer_ids,
        protected=lvlm.protected,
        timing_ms=timing_ms,
        spool=spool,
    )


class _Clock:
    """The time of one pass, without what is spent on watching it.

    before_ms: milliseconds that its images had taken before it.
    """

    def __init__(self, device: torch.device, before_ms: float = 0.0):
        self._device = device
        self._before_ms = before_ms
        self._began = time.perf_counter()
        self.watching_ms = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """What is done within this block is no work of the pass."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        yield
        self.watching_ms += 1000 * (time.perf_counter() - began)

    def ms(self) -> float:
        """Milliseconds that the pass has worked."""
        elapsed_ms = 1000 * (time.perf_counter() - self._began)
        return self._before_ms + elapsed_ms - self.watching_ms


class _Features:
    """What the hooks of one pass copy out of it.

    The tensors are made once the pass shows their dtype, and filled as it goes, so that each
    feature is held once.

    before: features of another model's pass over the same sample, of the layers that run before
        this pass begins.
    """

    def __init__(
        self,
        lvlm: LVLM,
        new_tensor: Callable[..., torch.Tensor],
        clock: _Clock,
        before: torch.Tensor | None = None,
    ):
        self.lvlm = lvlm
        self.new_tensor = new_tensor
        self.clock = clock
        self.before = before
        self.features: torch.Tensor = torch.empty(0)
        self.mlp: torch.Tensor | None = None
        self.ran: set[int] = set()
        # What enters the first layer at which a pass may begin, where that is more than the layer
        # before it gave (Qwen3-VL).
        self.entered: dict[int, torch.Tensor] = {}
        self._may_begin = shared_from(lvlm.family, lvlm.model.config)
        self.entered_ms: dict[int, float] = {}

    def watch(self, hooks: ThreadHooks, mlp: bool) -> None:
        """Registers the hooks of one pass. mlp: on the MLPs' down-projections too."""
        for number, layer in enumerate(self.lvlm.layers):
            hooks.on_input(layer, partial(self._entering, number))
            hooks.on_output(layer, partial(self._leaving, number))
            if mlp:
                hooks.on_output(feed_forward_end(layer), partial(self._mapped, number))

    def hand_on_skipped(self) -> None:
        """A layer that the model passes over (cross-attention without an image) hands its input
        on.
        """
        begun = 0 if self.before is None else len(self.before) - 1
        for number in range(begun, self.lvlm.num_layers):
            if number not in self.ran:
                self.features[number + 1].copy_(self.features[number])
                if self.mlp is not None:
                    self.mlp[number].zero_()

    def states(self) -> dict[int, torch.Tensor]:
        """layer -> (1, S, d), what entered it: the features themselves."""
        states = {number: self.features[number][None] for number in range(self.lvlm.num_layers)}
        return states | self.entered

    def _stream(self, hidden: torch.Tensor) -> torch.Tensor:
        return residual(hidden, self.lvlm.text_config)[0]

    def _entering(self, number: int, args: tuple, kwargs: Mapping) -> None:
        self.entered_ms[number] = self.clock.ms()
        if number and number == self._may_begin:
            self.entered[number] = hidden_input(args, kwargs)
        if self.features.numel():
            return
        with self.clock.watching():
            entered = self._stream(hidden_input(args, kwargs))
            depths = self.lvlm.num_layers + 1
            self.features = self.new_tensor((depths, *entered.shape), dtype=entered.dtype)
            if self.before is None:
                self.features[0].copy_(entered)
            else:
                self.features[: len(self.before)].copy_(self.before)

    def _leaving(
        self,
        number: int,
        args: tuple,
        kwargs: Mapping,
        output,
    ) -> None:
        with self.clock.watching():
            self.ran.add(number)
            self.features[number + 1].copy_(self._stream(hidden_of(output)))

    def _mapped(
        self,
        number: int,
        args: tuple,
        kwargs: Mapping,
        output: torch.Tensor,
    ) -> None:
        with self.clock.watching():
            rows = output.reshape(-1, output.shape[-1])
            if self.mlp is None:
                shape = (self.lvlm.num_layers, *rows.shape)
                self.mlp = self.new_tensor(shape, dtype=rows.dtype)
            self.mlp[number].copy_(rows)


def _pass(
    lvlm: LVLM,
    sample: Sample,
    mlp: bool,
    new_tensor: Callable[..., torch.Tensor],
    keep_prompt: bool,
) -> SampleTrace:
    """One sample's pass. new_tensor: makes an empty tensor of a shape and `dtype`.

    Raises InputError for a sample whose visual tokens are thinned within the layers.
    """
    if sample.thinning is not None and sample.thinning.inside:
        raise InputError(
            "Found a sample whose visual tokens leave or are skipped within the layers; expected"
            " layers that read it whole; trace the sample that it was made of."
        )
    if keep_prompt and shared_from(lvlm.family, lvlm.model.config) is not None:
        return _traced_prompt(lvlm, sample, mlp=mlp, new_tensor=new_tensor)[0]

    def run(watch: Watched) -> tuple[Decoding | None, torch.Tensor]:
        model, tensors = prepared(lvlm, sample.inputs, sample.features, watch)
        # A number instead of the tensor would let Gemma4 skip positions in its last layers.
        last = torch.tensor([sample.length - 1], device=lvlm.device)
        pixels = tensors if sample.features is None else {}
        with picture_read(lvlm, pixels, sample.image_sizes):
            output = model(**tensors, use_cache=False, logits_to_keep=last)
        return None, output.logits[:, -1]

    return _observed(lvlm, sample, run, mlp=mlp, new_tensor=new_tensor)[0]


def _traced_prompt(
    lvlm: LVLM,
    sample: Sample,
    *,
    mlp: bool = False,
    behind: tuple[SampleTrace, int] | None = None,
    new_tensor: Callable[..., torch.Tensor] = torch.empty,
) -> tuple[SampleTrace, Decoding]:
    """One pass that traces a prompt and leaves the decode behind it, which goes on to the answer.

    lvlm: the model, full or pruned.
    sample: the question.
    mlp: see `trace`.
    behind: (the full model's trace of the sample with its prompt, depth): the pass begins at layer
        `depth` of this model, before which both are the same (see `prefill.shared_depth`).
    new_tensor: makes an empty tensor of a shape and `dtype`.
    """

    def run(watch: Watched) -> tuple[Decoding, torch.Tensor]:
        resume = None
        if behind is not None:
            traced, depth = behind
            assert traced.prompt is not None, "the caller has looked"
            resume = traced.prompt.prefill, depth
        decoding = Decoding(
            lvlm,
            sample.inputs,
            features=sample.features,
            resume=resume,
            watch=watch,
        )
        return decoding, decoding.logits

    traced, decoding = _observed(lvlm, sample, run, mlp=mlp, behind=behind, new_tensor=new_tensor)
    assert decoding is not None, "this pass decodes"
    return traced, decoding


def _check_finite(lvlm: LVLM, features: torch.Tensor) -> None:
    """Raises InputError where the hidden states overflowed: what is made of them would be nothing.

    features: (L+1, S, d). Each layer adds to the stream, so that the last depth shows it.
    """
    if bool(features[-1].isfinite().all()):
        return
    depth = next(number for number, states in enumerate(features) if not states.isfinite().all())
    dtype = name_of(features.dtype)
    behind = "the embeddings" if depth == 0 else f"layer {lvlm.layer_ids[depth - 1]}"
    remedy = "give another checkpoint"
    if features.dtype == torch.float16:
        remedy = "load it with --dtype bfloat16 or float32, which hold larger numbers"
    raise InputError(
        f"Found hidden states of {lvlm.name} that are not finite behind {behind}, in {dtype};"
        f" expected numbers; {remedy}."
    )


def _attention_of(
    lvlm: LVLM,
    collector: Collector,
) -> contextlib.AbstractContextManager[None]:
    """While open, this thread's passes through the model feed `collector`."""
    if lvlm.brought:
        return collecting_plain(list(lvlm.layers), collector)
    return collecting(lvlm.decoder, collector)


@torch.inference_mode()
def _observed(
    lvlm: LVLM,
    sample: Sample,
    run: Callable[[Watched], tuple[Decoding | None, torch.Tensor]],
    *,
    mlp: bool,
    new_tensor: Callable[..., torch.Tensor],
    behind: tuple[SampleTrace, int] | None = None,
) -> tuple[SampleTrace, Decoding | None]:
    """What hooks and statistics see of one pass.

    run: makes the pass, with what keeps the features of the images that it sees itself; returns its
        decode, if it is one, and its logits (1, vocab).
    """
    before_ms = 0.0 if sample.features is None else sample.features.ms
    collector = Collector(lvlm.num_layers, sample.visual, sample.textual)
    before = None
    if behind is not None:
        full, depth = behind
        assert full.prompt is not None, "the caller has looked"
        before_ms = full.prompt.prefill.entered_ms[depth]
        before = full.features[: depth + 1]
        collector.take_over(full.attention, depth)
    clock = _Clock(lvlm.device, before_ms)
    collector.watching = clock.watching
    watched = _Features(lvlm, new_tensor, clock, before)
    seeing = Watched(lvlm)
    with ThreadHooks() as hooks, _attention_of(lvlm, collector):
        watched.watch(hooks, mlp)
        decoding, logits = run(seeing)
        ms = clock.ms()
    watched.hand_on_skipped()
    _check_finite(lvlm, watched.features)
    statistics = collector.statistics()
    if np.isnan(statistics.text_to_text).all():
        raise InputError(
            f"Found no attention to watch in {lvlm.name}; expected one that goes through"
            " transformers' attention interface; choose another model."
        )
    prompt = None
    if decoding is not None:
        decoding.observing_ms = clock.watching_ms
    if decoding is not None and behind is None:
        prompt = decoding.prompt(watched.states(), watched.entered_ms, ms)
    read = seen(sample, seeing.features)
    traced = SampleTrace(
        features=watched.features,
        visual=read.visual,
        textual=read.textual,
        attention=statistics,
        logits_last=logits[0].float().cpu().numpy(),
        key=sample.key,
        mlp=watched.mlp,
        sample=read,
        prompt=prompt,
    )
    return traced, decoding
