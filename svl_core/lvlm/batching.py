"""Several samples as one batch: left padding for what has an entry per position, concatenation for
the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from svl_core.lvlm.sample import Sample


def shape_key(sample: Sample) -> tuple:
    """Samples with equal keys fit into one batch: same inputs, same shapes apart from the batch and
    the positions.
    """
    return tuple(
        (name, *_tail(value, sample.length)) for name, value in sorted(sample.inputs.items())
    )


def _tail(value: torch.Tensor, length: int) -> tuple:
    return (
        ("positions", *value.shape[2:])
        if _per_position(value, length)
        else ("rows", *value.shape[1:])
    )


def _per_position(value: torch.Tensor, length: int) -> bool:
    return value.ndim >= 2 and value.shape[0] == 1 and value.shape[1] == length


def collate(samples: Sequence[Sample], pad_id: int) -> dict[str, torch.Tensor]:
    """Inputs of a batch of B samples with one `shape_key`, left-padded to the longest; padding gets
    attention 0.

    Plain text gets its own positions too: decoders with learnt ones (GPT-2) would count the
    padding.
    """
    longest = max(sample.length for sample in samples)
    batch = {}
    for name, first in samples[0].inputs.items():
        values = [sample.inputs[name] for sample in samples]
        if _per_position(first, samples[0].length):
            fill = pad_id if name == "input_ids" else 0
            values = [
                torch.cat(
                    [
                        v.new_full((1, longest - v.shape[1], *v.shape[2:]), fill),
                        v,
                    ],
                    dim=1,
                )
                for v in values
            ]
        batch[name] = torch.cat(values)
    if "attention_mask" not in batch:
        lengths = torch.tensor([[s.length] for s in samples])
        batch["attention_mask"] = (
            (torch.arange(longest) >= longest - lengths).long().to(batch["input_ids"].device)
        )
    if set(batch) == {"input_ids", "attention_mask"} and any(
        sample.length < longest for sample in samples
    ):
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    return batch


def batches(samples: Sequence[Sample], batch_size: int) -> list[list[int]]:
    """Indices of samples that fit into one batch, at most `batch_size` a batch, lengths alike
    within a batch.
    """
    groups: dict[tuple, list[int]] = {}
    kinds = [(sample.length, shape_key(sample)) for sample in samples]
    for i in sorted(range(len(kinds)), key=lambda i: kinds[i][0]):
        groups.setdefault(kinds[i][1], []).append(i)
    return _cut(groups.values(), batch_size)


def unpadded(inputs: Iterable[Mapping[str, torch.Tensor]], most: int) -> list[list[int]]:
    """Indices of inputs that go into one batch as they are, all shapes equal, at most `most` a
    batch; each is looked at once and let go.
    """
    alike: dict[tuple, list[int]] = {}
    for number, one in enumerate(inputs):
        alike.setdefault(
            tuple((name, *value.shape) for name, value in sorted(one.items())),
            [],
        ).append(number)
    return _cut(alike.values(), most)


def _cut(groups: Iterable[list[int]], most: int) -> list[list[int]]:
    return [
        members[start : start + most]
        for members in groups
        for start in range(0, len(members), most)
    ]
