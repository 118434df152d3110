"""Tests a model of no known family as it loads, so that it is served in full or refused with the reason."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families, skeleton
from svl_core.lvlm.model import LVLM

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}  # of the logits' spread


def probe(lvlm: LVLM) -> None:
    """Encodes a test picture, looks for its visual positions, and checks that one pruned forward pass equals one with the
    layer skipped. Raises InputError naming the probe that failed."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    steps = (("decoder layers", lambda: _decoder(lvlm)), ("visual positions", lambda: _visual(lvlm, picture)), ("pruning equals skipping", lambda: _pruning(lvlm, picture)))
    for name, step in steps:
        try:
            step()
        except Exception as error:  # an unknown model may fail in any way
            raise InputError(f"Found {lvlm.name}, a {lvlm.model.config.model_type} model of no known family, which fails the probe \"{name}\" ({' '.join(str(error).split())[:200]}); expected a supported family; choose one of `svl models`.") from error


def _decoder(lvlm: LVLM) -> None:
    families.find_decoder(lvlm.model)
    if lvlm.num_layers < 3:
        raise SVLError(f"{lvlm.num_layers} layers")


def _visual(lvlm: LVLM, picture: Image.Image) -> None:
    if not len(lvlm.encode(picture, "What is this?").visual):
        raise SVLError("no position of the sequence holds the image token")


def _pruning(lvlm: LVLM, picture: Image.Image) -> None:
    sample, dropped = lvlm.encode(picture, "What is this?"), lvlm.num_layers // 2
    view = skeleton.with_layers(lvlm.model, [i for i in range(lvlm.num_layers) if i != dropped])

    def hand_on(module, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with torch.inference_mode():
        pruned = view(**sample.inputs, use_cache=False).logits.float()
        handle = lvlm.layers[dropped].register_forward_hook(hand_on, with_kwargs=True)
        try:
            skipped = lvlm.model(**sample.inputs, use_cache=False).logits.float()
        finally:
            handle.remove()
    difference = (pruned - skipped).abs().max() / skipped.std()
    if not difference <= TOLERANCE.get(lvlm.dtype, 1e-3):
        raise SVLError(f"logits differ by {float(difference):.2g} of their spread")
