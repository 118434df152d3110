"""A prompt with an answer behind it, as one pass reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from svl_core.errors import InputError
from svl_core.lvlm.sample import Sample

BEHIND: Mapping[str, int | None] = {
    "attention_mask": 1,
    "mm_token_type_ids": 0,
    "moe_mm_token_type_ids": 0,
    "image_embeds_position_mask": 0,
    "cross_attention_mask": None,
}
"""Inputs with an entry a position, beside the ids, and what an answer's tokens have there: a
number (0 is the type of text, and what holds no image), or None for what the prompt's last position
has.
"""


def lengthened(
    sample: Sample,
    ids: Sequence[int],
    remedy: str = "choose 'lstsq', 'scp' or 'none'",
) -> dict[str, torch.Tensor]:
    """Inputs of the prompt with an answer behind it, the answer's last token left out.

    ids: the answer's token ids.
    remedy: what to do where the inputs cannot be lengthened.

    Raises InputError for an input with an entry a position that is not known, such as PaliGemma's
    types: under its mask an answer reads otherwise in one pass than token by token.
    """
    answer = list(ids[:-1])
    inputs = {}
    for name, value in sample.inputs.items():
        by_position = value.shape[:2] == (1, sample.length)
        if not by_position:
            inputs[name] = value
            continue
        if name != "input_ids" and name not in BEHIND:
            raise InputError(
                f"Found {name} among this model's inputs, which an answer cannot lengthen; expected"
                f" {', '.join(('input_ids', *BEHIND))} with an entry a position; {remedy}."
            )
        inputs[name] = torch.cat([value, _behind(name, value, answer)], dim=1)
    return inputs


def _behind(
    name: str,
    prompt: torch.Tensor,
    answer: Sequence[int],
) -> torch.Tensor:
    """What the answer's positions have. prompt: (1, S, ..)."""
    if name == "input_ids":
        return prompt.new_tensor([list(answer)])
    entry = BEHIND[name]
    last = prompt[:, -1:]
    repeated = last.expand(-1, len(answer), *last.shape[2:])
    if entry is None:
        return repeated
    return torch.full_like(repeated, entry)
