"""Attention statistics against the maps that a model itself returns with eager attention."""

import numpy as np
import torch
from tiny import picture

import svl_core as svl


def statistics_equal_eager_maps(lvlm) -> None:
    """Asserts that what a trace says of attention is what the maps of a small picture say.

    lvlm: a tiny model of its own, for its attention setting is changed meanwhile.
    """
    sample = lvlm.encode(picture(70, 40), "what is in the top left ?")
    found = svl.trace(lvlm, [sample]).samples[0].attention
    config = lvlm.decoder.config
    config._attn_implementation = "eager"
    try:
        with torch.inference_mode():
            out = lvlm.model(**sample.inputs, output_attentions=True, use_cache=False)
    finally:
        config._attn_implementation = "sdpa"
    out = getattr(out, "language_model_outputs", out)
    maps = np.stack([each[0].mean(0).numpy() for each in out.attentions if each is not None])
    attending = ~np.isnan(found.text_to_visual).any(axis=1)  # hybrids have layers of other kinds
    assert attending.sum() == len(maps) > 0
    visual, textual = sample.visual, sample.textual
    to_visual = maps[:, textual][:, :, visual].sum(2)
    received = maps[:, textual][:, :, textual].sum(1)
    np.testing.assert_allclose(found.text_to_visual[attending], to_visual, atol=1e-5)
    np.testing.assert_allclose(found.text_from_text[attending], received, atol=1e-5)
