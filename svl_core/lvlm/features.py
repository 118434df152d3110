"""What a model's vision side makes of images, as a value, and a bounded store of such values."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

BY_LAYER = ("deepstack_features",)
"""Fields that hold one tensor a vision layer, rather than one an image."""


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What a model's vision side makes of the images of one sample, or of a batch of samples.

    output: what `get_image_features` returned, without what no decoder reads.
    pixels: name -> (shape, dtype) of the inputs that it was made of.
    ms: milliseconds that it took.
    """

    output: Any
    pixels: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    ms: float

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in _tensors(self.output))

    def stand_ins(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Inputs of the pixels' names, shapes and dtypes, of one number each: models look whether
        there are pixels, and some at their shape. The number is none, so that a model which reads
        them shows it.
        """
        return {
            name: torch.full((), _nothing(dtype), dtype=dtype, device=device).expand(shape)
            for name, (shape, dtype) in self.pixels.items()
        }


def _nothing(dtype: torch.dtype) -> float:
    return float("nan") if dtype.is_floating_point else 1


KnownFeatures = MutableMapping[tuple[str, str], ImageFeatures]
"""Features by the model's name and the images' key (`Sample.image_key`)."""


class FeatureStore(MutableMapping):
    """The features of many images, of which those that were used longest ago go once they are too
    many: to see them again costs time only. Several threads may use it.

    most: bytes of all of them together; the newest stays in any case.
    """

    def __init__(self, most: int = 2**28) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._features: OrderedDict[tuple[str, str], ImageFeatures] = OrderedDict()
        self._bytes = 0  # of all of them

    def __getitem__(self, key: tuple[str, str]) -> ImageFeatures:
        with self._lock:
            self._features.move_to_end(key)
            return self._features[key]

    def __setitem__(self, key: tuple[str, str], features: ImageFeatures) -> None:
        with self._lock:
            self._let_go(key)
            self._features[key] = features
            self._bytes += features.nbytes
            while len(self._features) > 1 and self._bytes > self.most:
                self._let_go(next(iter(self._features)))

    def _let_go(self, key: tuple[str, str]) -> None:
        """Forgets a key, if it is there; the lock is held."""
        gone = self._features.pop(key, None)
        self._bytes -= 0 if gone is None else gone.nbytes

    def __delitem__(self, key: tuple[str, str]) -> None:
        with self._lock:
            if key not in self._features:
                raise KeyError(key)
            self._let_go(key)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with self._lock:
            return iter(list(self._features))

    def __len__(self) -> int:
        return len(self._features)


# Outputs: tensors in tuples, lists and transformers' records


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same structure with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, ModelOutput):
        return type(value)(**{name: mapped(part, change) for name, part in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(part, change) for part in value)
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor of a structure."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (ModelOutput, tuple, list)):
        for part in value.values() if isinstance(value, ModelOutput) else value:
            yield from _tensors(part)


def renewed(value: Any) -> Any:
    """The same tensors in containers of their own, which the model may write into."""
    return mapped(value, lambda tensor: tensor)


def _merged(parts: Sequence[Any], name: str) -> Any:
    """One output of several, one a sample.

    name: of the field that they stand in, "" for a whole output.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, ModelOutput):
        fields = {key: _merged([part[key] for part in parts], key) for key in first}
        return type(first)(**fields)
    if isinstance(first, (tuple, list)):
        if name in BY_LAYER:
            return type(first)(_merged(layer, "") for layer in zip(*parts, strict=True))
        return type(first)(value for part in parts for value in part)
    return first


def joined(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    """The features of a batch of samples, of which each has its own."""
    if len(parts) == 1:
        return parts[0]
    pixels = {}
    for name, (shape, dtype) in parts[0].pixels.items():
        rows = sum(part.pixels[name][0][0] for part in parts)
        pixels[name] = (rows, *shape[1:]), dtype
    output = _merged([part.output for part in parts], "")
    return ImageFeatures(output, pixels, sum(part.ms for part in parts))
