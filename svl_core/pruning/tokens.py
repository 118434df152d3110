"""Visual-token pruning: the visual tokens that matter least leave the sequence before the decoder;
the others keep their positions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from svl_core.analysis.importance import TopP, importance
from svl_core.analysis.trace import trace
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import PatchGeometry, Sample
from svl_core.lvlm.stopping import reaching

TAKEN = {
    "input_ids",
    "attention_mask",
    "pixel_values",
}  # inputs of models whose positions are a plain count
KEPT = "keep"


def visual_scores(lvlm: LVLM, sample: Sample) -> np.ndarray:
    """(V,) TIS of the sample's visual tokens, mean over layers, from one pass of `lvlm` (the full
    model, as a rule).
    """
    return importance(trace(lvlm, sample)).averaged(0)[0]


def keep_visual(
    lvlm: LVLM, sample: Sample, share: float, scores: np.ndarray | None = None
) -> Sample:
    """`sample` with only the ceil(share x V) visual tokens of highest `scores` (V,), by default
    `visual_scores`.

    The image is embedded here, and what enters the decoder is kept: embeddings (1, S', d) with the
    positions that the tokens had, so the result works with every pruned view of `lvlm` too. share 1
    gives the sample itself, of any model. Raises InputError for a share outside 0..1 (0 excluded),
    a sample without image, and a model whose inputs are not plainly counted (other than the LLaVA
    family).
    """
    if not 0 < share <= 1:
        raise InputError(
            f"Found a share of {share} of the visual tokens to keep; expected one above 0 and up to"
            " 1; change it."
        )
    if share == 1:
        return sample
    if (
        set(sample.inputs) - TAKEN
        or hasattr(lvlm.text_config, "layer_types")
        or not len(sample.visual)
    ):
        raise InputError(
            f"Found no plainly counted visual tokens for {lvlm.name}; expected an image and a model"
            " of the LLaVA family; keep all visual tokens."
        )
    scores = visual_scores(lvlm, sample) if scores is None else np.asarray(scores)
    if scores.shape != sample.visual.shape:
        raise InputError(
            f"Found {scores.size} scores for {len(sample.visual)} visual tokens; expected one each;"
            " take them from this sample's importance."
        )
    chosen = TopP(share).select(scores)
    left = np.setdiff1d(np.arange(sample.length), sample.visual[~chosen])
    place = np.full(sample.length, -1)
    place[left] = np.arange(len(left))
    at = torch.as_tensor(left, device=lvlm.device)
    inputs = {
        "inputs_embeds": reaching(lvlm, lvlm.decoder, sample)[1]["inputs_embeds"][:, at],
        "attention_mask": torch.ones(1, len(left), dtype=torch.long, device=lvlm.device),
        "position_ids": at[None],
    }
    geometry = PatchGeometry(sample.geometry.rects[chosen], sample.geometry.image_index[chosen])
    return dataclasses.replace(
        sample,
        inputs=inputs,
        visual=place[sample.visual[chosen]],
        textual=place[sample.textual],
        prompt_positions=place[sample.prompt_positions],
        tokens=tuple(sample.tokens[i] for i in left),
        geometry=geometry,
        key=f"{sample.key}-{KEPT}-{','.join(map(str, np.flatnonzero(chosen)))}",
    )
