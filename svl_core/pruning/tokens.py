"""Visual-token pruning: the visual tokens that matter least leave the sequence before the decoder;
the others keep their positions.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from svl_core.analysis.importance import TopP, importance
from svl_core.analysis.trace import Trace, trace
from svl_core.errors import InputError
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import PatchGeometry, Sample
from svl_core.lvlm.stopping import reaching

COUNTED_INPUTS = {
    "input_ids",
    "attention_mask",
    "pixel_values",
}
"""Inputs of models whose positions are a plain count."""


def visual_scores(
    lvlm: LVLM,
    sample: Sample,
    traced: Trace | None = None,
) -> np.ndarray:
    """(V,) TIS of the sample's visual tokens, mean over layers, from one pass of `lvlm` (the full
    model, as a rule).

    traced: that pass, where it was made already.
    """
    visual, _ = importance(traced or trace(lvlm, sample)).averaged(0)
    return visual


def keep_visual(
    lvlm: LVLM,
    sample: Sample,
    share: float,
    scores: np.ndarray | None = None,
    traced: Trace | None = None,
) -> Sample:
    """`sample` with only its most important visual tokens, ceil(share x V) of V.

    share: above 0 and up to 1; 1 gives the sample itself, of any model.
    scores: (V,) importance of the visual tokens (default: `visual_scores`).
    traced: the model's trace of the sample, where it is there already.

    The image is embedded here. The result holds what enters the decoder: embeddings (1, S', d) with
    the positions that the tokens had, so that every pruned view of `lvlm` can read it too.

    Raises InputError for a share out of range, a sample without image, and a model whose inputs are
    not plainly counted (other than the LLaVA family).
    """
    if not 0 < share <= 1:
        raise InputError(
            f"Found a share of {share} of the visual tokens to keep; expected one above 0 and up to"
            " 1; change it."
        )
    if share == 1:
        return sample
    counted = not set(sample.inputs) - COUNTED_INPUTS
    if not counted or hasattr(lvlm.text_config, "layer_types") or not len(sample.visual):
        raise InputError(
            f"Found no plainly counted visual tokens for {lvlm.name}; expected an image and a model"
            " of the LLaVA family; keep all visual tokens."
        )
    if scores is None:
        scores = visual_scores(lvlm, sample, traced)
    scores = np.asarray(scores)
    if scores.shape != sample.visual.shape:
        raise InputError(
            f"Found {scores.size} scores for {len(sample.visual)} visual tokens; expected one each;"
            " take them from this sample's importance."
        )
    # (V,) whether each visual token stays
    chosen = TopP(share).select(scores)
    # (S',) the positions that stay
    going = sample.visual[~chosen]
    staying = np.setdiff1d(np.arange(sample.length), going)
    # (S,) the new position of each old one, -1 for those that go
    place = np.full(sample.length, -1)
    place[staying] = np.arange(len(staying))
    positions = torch.as_tensor(staying, device=lvlm.device)
    _, decoder_inputs = reaching(lvlm, lvlm.decoder, sample)
    position_ids = positions[None]
    inputs = {
        "inputs_embeds": decoder_inputs["inputs_embeds"][:, positions],
        "attention_mask": torch.ones_like(position_ids),
        "position_ids": position_ids,
    }
    geometry = PatchGeometry(
        sample.geometry.rects[chosen],
        sample.geometry.image_index[chosen],
    )
    numbers = ",".join(map(str, np.flatnonzero(chosen)))
    return dataclasses.replace(
        sample,
        inputs=inputs,
        visual=place[sample.visual[chosen]],
        textual=place[sample.textual],
        prompt_positions=place[sample.prompt_positions],
        tokens=tuple(sample.tokens[position] for position in staying),
        geometry=geometry,
        key=f"{sample.key}-keep-{numbers}",
        features=None,
    )
