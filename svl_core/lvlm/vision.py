"""An image is seen once: what the vision side of a model makes of a sample's images, kept with the
sample and handed to every later pass.

Multimodal models of transformers turn pixels into the features of the visual positions in one
method, `get_image_features`. A pass that records runs it and keeps its output; a later pass runs on
a shallow copy of the model in which that method gives the kept output. The model itself is never
touched, so other threads may use it meanwhile. A model without that method, or one whose features
depend on the prompt, sees the image anew in every pass.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import ModelOutput

from svl_core.lvlm.features import FeatureStore, ImageFeatures, KnownFeatures, joined, renewed
from svl_core.lvlm.hooks import ended_at, shallow_copy
from svl_core.lvlm.refusals import picture_read

if TYPE_CHECKING:
    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample

METHOD = "get_image_features"
INNER = "model"  # the module under a model with a head that has the method too
# Fields of the method's output that no decoder reads once the pooled features are there.
UNREAD = ("hidden_states", "attentions", "last_hidden_state")
PIXEL_NAMES = ("pixel_values", "pixel_attention_mask", "flattened_patches")


def is_pixels(name: str) -> bool:
    """Whether an input of that name is read by the vision side alone."""
    return any(part in name for part in PIXEL_NAMES)


def without_pixels(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs of a pass whose images are encoded already."""
    return {name: value for name, value in inputs.items() if not is_pixels(name)}


# Passes


def prepared(
    lvlm: LVLM,
    inputs: Mapping[str, torch.Tensor],
    features: ImageFeatures | None,
    watch: Watched | None = None,
) -> tuple[torch.nn.Module, Mapping[str, torch.Tensor]]:
    """The module to call for a pass over a batch, and the inputs to call it with.

    inputs: those of samples whose images have been seen where `features` are given.
    features: of the batch's images; None: the pass sees them itself.
    watch: keeps what a pass over a batch of one makes of the images that it sees.
    """
    if features is None:
        return lvlm.model if watch is None else watch.model(inputs), inputs
    model = _answering(lvlm.model, lambda original: lambda *a, **k: renewed(features.output))
    return model, {**inputs, **features.stand_ins(lvlm.device)}


def forward(
    lvlm: LVLM,
    inputs: Mapping[str, torch.Tensor],
    features: ImageFeatures | None,
    **options: Any,
) -> Any:
    """One pass of a model over a batch; see `prepared`.

    options: for the model's `forward`.
    """
    model, tensors = prepared(lvlm, inputs, features)
    with picture_read(lvlm, tensors if features is None else {}):
        return model(**tensors, **options)


class Watched:
    """Makes passes of a model keep what they make of the images that they see.

    features: of the last pass; None where there is nothing to keep, or it cannot be.
    """

    def __init__(self, lvlm: LVLM) -> None:
        self.features: ImageFeatures | None = None
        self._lvlm = lvlm

    def model(self, inputs: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The module to call with the inputs of a batch of one."""
        pixels = {
            name: (tuple(value.shape), value.dtype)
            for name, value in inputs.items()
            if is_pixels(name)
        }
        if not pixels or not self._lvlm.family.sees_once:
            return self._lvlm.model

        def watching(original: Callable) -> Callable:
            def method(*args: Any, **kwargs: Any) -> Any:
                began = time.perf_counter()
                output = original(*args, **kwargs)
                if any(name.endswith("input_ids") for name in kwargs):
                    return output  # features of this prompt alone
                if self._lvlm.device.type == "cuda":
                    torch.cuda.synchronize(self._lvlm.device)
                spent_ms = 1000 * (time.perf_counter() - began)
                self.features = ImageFeatures(_kept(output), pixels, spent_ms)
                return output

            return method

        return _answering(self._lvlm.model, watching)


def _answering(
    model: torch.nn.Module,
    replaced: Callable[[Callable], Callable],
) -> torch.nn.Module:
    """`model`, or a shallow copy of it that has another method in the place of
    `get_image_features`.

    replaced: makes that method of the model's own one.
    """
    inner = model._modules.get(INNER)
    owners = [module for module in (model, inner) if hasattr(module, METHOD)]
    if not owners or _is_dispatched(model) or (inner is not None and _is_dispatched(inner)):
        return model
    root = shallow_copy(model)
    if hasattr(model, METHOD):
        root.__dict__[METHOD] = replaced(getattr(model, METHOD))
    if inner is not None and hasattr(inner, METHOD):
        copied = root._modules[INNER] = shallow_copy(inner)
        copied.__dict__[METHOD] = replaced(getattr(inner, METHOD))
    return root


def _is_dispatched(module: torch.nn.Module) -> bool:
    """Whether a module's call is replaced by one bound to it, as accelerate does to spread it."""
    return "forward" in module.__dict__


# Samples


def seen(sample: Sample, features: ImageFeatures | None) -> Sample:
    """`sample` with the features of its images in the place of their pixels.

    In the inputs one number stands where the pixels were, in a shape that no vision side takes: a
    pass that overlooks the features fails.

    features: None leaves the sample as it is.
    """
    if features is None:
        return sample
    inputs = {
        name: value.new_zeros((1,) * value.ndim) if is_pixels(name) else value
        for name, value in sample.inputs.items()
    }
    return dataclasses.replace(sample, inputs=inputs, features=features)


@torch.inference_mode()
def see(
    lvlm: LVLM,
    sample: Sample,
    known: KnownFeatures | None = None,
) -> Sample:
    """`sample` with its images seen, so that no later pass runs the vision side of the model.

    lvlm: the model that encoded it, or a pruned view of that.
    known: features that are there already; those of this sample's images are added.
    Returns the sample itself where it has no image, has been seen, or cannot be.
    """
    new = sample.features is None and any(map(is_pixels, sample.inputs))
    if not new or not lvlm.family.sees_once:
        return sample
    key = lvlm.name, sample.image_key
    features = known.get(key) if known is not None else None
    if features is None:
        features = _features_of(lvlm, sample)
        if features is not None and known is not None:
            known[key] = features
    return seen(sample, features)


def seen_all(
    lvlm: LVLM,
    samples: Sequence[Sample],
    known: KnownFeatures | None = None,
) -> Sequence[Sample]:
    """The samples with their images seen, each image once; samples in a file stay as they are, for
    they were seen when they were written there (`encode_all`).

    known: see `see`.
    """
    if not isinstance(samples, (list, tuple)):
        return samples
    known = FeatureStore() if known is None else known
    return [see(lvlm, sample, known) for sample in samples]


def _features_of(lvlm: LVLM, sample: Sample) -> ImageFeatures | None:
    """What a pass makes of the sample's images; it ends before the first decoder layer."""
    watched = Watched(lvlm)
    reading = picture_read(lvlm, sample.inputs, sample.image_sizes)
    with ended_at(lvlm.layers[0]), reading:
        watched.model(sample.inputs)(**sample.inputs, use_cache=False)
    return watched.features


def together(samples: Sequence[Sample]) -> ImageFeatures | None:
    """The features of a batch's images, in its order; None where its samples have none.

    Raises ValueError for samples of which only some have been seen.
    """
    parts = [sample.features for sample in samples if sample.features is not None]
    if not parts:
        return None
    if len(parts) != len(samples):
        raise ValueError(
            f"Found {len(parts)} of {len(samples)} samples with their images seen; expected all or"
            " none of a batch."
        )
    return joined(parts)


def _kept(output: Any) -> Any:
    """An output without the fields that no decoder reads."""
    if not isinstance(output, ModelOutput) or output.get("pooler_output") is None:
        return renewed(output)
    fields = {name: part for name, part in output.items() if name not in UNREAD}
    return type(output)(**{name: renewed(part) for name, part in fields.items()})
