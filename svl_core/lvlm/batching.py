"""Several samples as one batch: left padding for what has an entry per position, concatenation for
the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from svl_core.lvlm.sample import Sample


def shape_key(sample: Sample) -> tuple:
    """Samples with equal keys fit into one batch: same inputs, same shapes apart from the batch and
    the positions; all of them have seen their images, or none. One whose visual tokens are thinned
    within the decoder fits with no other; those that may not be padded need the very same shapes.
    """
    parts: list[tuple] = []
    if sample.thinning is not None and sample.thinning.inside:
        parts.append(("alone", id(sample)))
    if not sample.pads:
        shapes = ((name, *value.shape) for name, value in sorted(sample.inputs.items()))
        return ("alike", sample.length, *parts, *shapes)
    if sample.features is not None:
        for name, (shape, _) in sorted(sample.features.pixels.items()):
            parts.append((name, "seen", *shape[1:]))
    for name, value in sorted(sample.inputs.items()):
        if _per_position(value, sample.length):
            parts.append((name, "positions", *value.shape[2:]))
        else:
            parts.append((name, "rows", *value.shape[1:]))
    return tuple(parts)


def _per_position(
    value: torch.Tensor,
    length: int,
) -> bool:
    """Whether an input has one entry for each of `length` positions."""
    return value.ndim >= 2 and value.shape[:2] == (1, length)


def collate(
    samples: Sequence[Sample],
    pad_id: int,
) -> dict[str, torch.Tensor]:
    """Inputs of a batch, left-padded to the longest sample; padding gets attention 0.

    Plain text gets its own positions too: decoders with learnt ones (GPT-2) would count the
    padding.

    samples: B samples with one `shape_key`.
    pad_id: the token in the padding.
    """
    longest = max(sample.length for sample in samples)
    batch = {}
    for name, first in samples[0].inputs.items():
        values = [sample.inputs[name] for sample in samples]
        if _per_position(first, samples[0].length):
            fill = pad_id if name == "input_ids" else 0
            values = [_padded(value, longest, fill) for value in values]
        batch[name] = torch.cat(values)
    if "attention_mask" not in batch:
        lengths = torch.tensor([[sample.length] for sample in samples])
        mask = torch.arange(longest) >= longest - lengths
        batch["attention_mask"] = mask.long().to(batch["input_ids"].device)
    plain_text = set(batch) == {"input_ids", "attention_mask"}
    if plain_text and any(sample.length < longest for sample in samples):
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return batch


def _padded(
    value: torch.Tensor,
    length: int,
    fill: int,
) -> torch.Tensor:
    """(1, n, ...) -> (1, length, ...), with `fill` on the left."""
    _, present, *shape = value.shape
    padding = value.new_full((1, length - present, *shape), fill)
    return torch.cat([padding, value], dim=1)


def batches(
    samples: Sequence[Sample],
    batch_size: int,
) -> list[list[int]]:
    """Indices of the samples of each batch; lengths are alike within a batch.

    batch_size: the most samples of a batch.
    """
    kinds = [(sample.length, shape_key(sample)) for sample in samples]
    groups: dict[tuple, list[int]] = {}
    for index in sorted(range(len(kinds)), key=lambda index: kinds[index][0]):
        _, key = kinds[index]
        groups.setdefault(key, []).append(index)
    return _cut(groups.values(), batch_size)


def unpadded(
    inputs: Iterable[Mapping[str, torch.Tensor]],
    most: int,
) -> list[list[int]]:
    """Indices of the inputs of each batch that needs no padding: all shapes are equal in it.

    inputs: looked at one by one and let go, so that they need not be in memory together.
    most: the most inputs of a batch.
    """
    groups: dict[tuple, list[int]] = {}
    for number, tensors in enumerate(inputs):
        shapes = tuple((name, *value.shape) for name, value in sorted(tensors.items()))
        groups.setdefault(shapes, []).append(number)
    return _cut(groups.values(), most)


def _cut(
    groups: Iterable[list[int]],
    most: int,
) -> list[list[int]]:
    """Each group in parts of at most `most`."""
    parts = []
    for members in groups:
        parts += [members[start : start + most] for start in range(0, len(members), most)]
    return parts
