"""What an answer costs a model, counted from its shape: multiply-adds, bytes read and products."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from svl_core.lvlm import families, halves
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.recipe import ATTENTION

TOWER, PROJECTOR, DECODER, HEAD = "tower", "projector", "decoder", "head"
"""The parts of a model that read the image, bring it into the decoder, decode, and predict."""

PROJECTOR_MARKS = ("projector", "connector", "merger", "embed_vision")
"""What modules between vision tower and decoder are called: they see the visual tokens, mostly
fewer than the tower's patches.
"""
TABLE_MARKS = ("embedding", "position")
"""What weights are called that a module looks up itself."""
PIXELS = "pixel_values"
"""The input whose shape says how many patches there are."""
UNUSED_MARKS = ("audio",)
"""What modules are called that no image goes through."""
SKIPPED_BY_ATTENTION = ("self_attn.q_proj", *families.OUT_PROJECTIONS)
"""Maps of a layer that a token does not meet which looks at no other, though others look at it."""


@dataclass(frozen=True)
class Work:
    """What one model's answer to one sample costs.

    prefill: multiply-adds of the pass over image and prompt. It is bound by arithmetic.
    decode: bytes read for each later token: weights, keys and values. It is bound by memory.
    prefill_products, decode_products: how many matrices each multiplies by. That is what a pass
        costs where starting a product takes longer than the product: small models, fast devices.

    A count to within a tenth or so: attention inside the vision tower, norms and what the functions
    between products cost are left out, and every layer is taken to read all positions.
    """

    prefill: float
    decode: float
    prefill_products: int
    decode_products: int


class Matrix(NamedTuple):
    """A weight that is multiplied by.

    part: TOWER, PROJECTOR, DECODER or HEAD.
    size: how many numbers of it one position meets: all, or of experts the share that is active.
    size_bytes: the memory that they take.
    layer: the decoder layer that it belongs to; None for none.
    place: its module's name within that layer, such as "mlp.down_proj".
    """

    part: str
    size: float
    size_bytes: float
    layer: int | None = None
    place: str = ""


def count_work(
    lvlm: LVLM,
    sample: Sample,
) -> Work:
    """Counts what `lvlm` does to answer `sample`; no weight is read and nothing is run.

    A sample whose visual tokens are thinned costs what its layers still read. The pass that ranked
    them is not in it: it is the full model's, see `comparison.speed.possible`.
    """
    patches = _unseen_patches(lvlm, sample)
    meeting = {
        TOWER: patches,
        PROJECTOR: (_visual_tokens(sample) or patches) if patches else 0,
        HEAD: 1,
    }
    found = list(matrices(lvlm))
    products = 0.0
    for matrix in found:
        met = _rows(lvlm, sample, matrix) if matrix.part == DECODER else meeting[matrix.part]
        products += matrix.size * met
    attention = 0.0
    cache = 0
    for layer, (queries, keys) in enumerate(layer_widths(lvlm)):
        # two products of queries with the keys before them: half of the square each
        attention += queries * _pairs(lvlm, sample, layer)
        cache += 2 * keys * _length(lvlm, sample, layer)
    decoding = [matrix for matrix in found if matrix.part in (DECODER, HEAD)]
    return Work(
        prefill=attention + products,
        decode=cache * lvlm.dtype.itemsize + sum(matrix.size_bytes for matrix in decoding),
        prefill_products=sum(
            matrix.part == DECODER or meeting[matrix.part] > 0 for matrix in found
        ),
        decode_products=len(decoding),
    )


def _length(
    lvlm: LVLM,
    sample: Sample,
    layer: int,
) -> int:
    """How many positions a layer reads."""
    thinning = sample.thinning
    return sample.length - (thinning.gone(lvlm.layer_ids, layer) if thinning else 0)


def _skipped(
    lvlm: LVLM,
    sample: Sample,
    layer: int,
    part: str,
) -> int:
    """How many positions a layer leaves out of a part of its work."""
    thinning = sample.thinning
    if thinning is None or not thinning.skips(lvlm.layer_ids[layer], part):
        return 0
    return len(sample.visual)


def _rows(
    lvlm: LVLM,
    sample: Sample,
    matrix: Matrix,
) -> int:
    """How many positions meet a matrix of the decoder."""
    if matrix.layer is None:
        return sample.length
    skipped = 0
    if matrix.place.startswith("mlp."):
        skipped = _skipped(lvlm, sample, matrix.layer, "mlp")
    elif matrix.place in SKIPPED_BY_ATTENTION:
        skipped = _skipped(lvlm, sample, matrix.layer, "attention")
    return _length(lvlm, sample, matrix.layer) - skipped


def _pairs(
    lvlm: LVLM,
    sample: Sample,
    layer: int,
) -> int:
    """Twice the pairs of a query and a key that it sees, in one layer."""
    skipped = _skipped(lvlm, sample, layer, "attention")
    return _length(lvlm, sample, layer) ** 2 - skipped**2


def attention_widths(
    lvlm: LVLM,
) -> tuple[int, int]:
    """How many numbers of queries, and of keys, one position has in all layers together."""
    queries, keys = zip(*layer_widths(lvlm), strict=True)
    return sum(queries), sum(keys)


def layer_widths(
    lvlm: LVLM,
) -> list[tuple[int, int]]:
    """How many numbers of queries, and of keys, one position has in each layer; none where its
    attention is skipped.
    """
    widths = []
    text = lvlm.text_config
    by_layer = getattr(text, "per_layer_config", None)
    for layer in range(lvlm.num_layers):
        config = text if by_layer is None else by_layer[layer]
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        present = not halves.lacks(lvlm.layers[layer], ATTENTION)
        widths.append((heads * size * present, shared * size * present))
    return widths


def _visual_tokens(
    sample: Sample,
) -> int:
    """How many visual tokens there were before any left."""
    thinning = sample.thinning
    if thinning is None or thinning.stay is None:
        return len(sample.visual)
    return len(thinning.stay)


def _unseen_patches(
    lvlm: LVLM,
    sample: Sample,
) -> int:
    """How many patches the vision tower reads for an answer; 0 where the pass that ranked visual
    tokens has read them.
    """
    thinning = sample.thinning
    if thinning is None:
        return vision_patches(lvlm, sample)
    if thinning.ranked:
        return 0
    return vision_patches(lvlm, sample) if thinning.patches is None else thinning.patches


def vision_patches(
    lvlm: LVLM,
    sample: Sample,
) -> int:
    """How many patches the vision tower reads of a sample, those of padding included; 0 where there
    is no image, or it is embedded already.

    Where the tower's patch size is not known, the number of visual tokens.
    """
    if "inputs_embeds" in sample.inputs:
        return 0
    shape = _pixels_shape(sample)
    if shape is None:
        return len(sample.visual)
    if len(shape) < 4:  # patches already: (.., P, values)
        return math.prod(shape[:-1])
    tower = getattr(lvlm.model.config, "vision_config", None)
    side = getattr(tower, "patch_size", None)
    if side is None:
        return len(sample.visual)
    height, width = (side, side) if isinstance(side, int) else side
    *tiles, _, rows, columns = shape
    return math.prod(tiles) * (rows // height) * (columns // width)


def _pixels_shape(
    sample: Sample,
) -> Sequence[int] | None:
    """The shape of the pixels, also of images that have been seen; None where there are none."""
    if sample.features is not None:
        return sample.features.pixels.get(PIXELS, (None, None))[0]
    pixels = sample.inputs.get(PIXELS)
    return None if pixels is None else pixels.shape


def matrices(
    lvlm: LVLM,
) -> Iterator[Matrix]:
    """Every weight of two or more dimensions that inputs are multiplied by: no look-up tables, no
    norms and biases, and nothing that no image goes through.
    """
    head = lvlm.model.get_output_embeddings()
    inside = set(lvlm.decoder.modules())
    share = active_share(lvlm.text_config)
    prefix = families.layers_prefix(lvlm.model)
    for path, module in lvlm.model.named_modules():
        if isinstance(module, torch.nn.Embedding) or any(mark in path for mark in UNUSED_MARKS):
            continue
        part = _part(path, module is head, module in inside)
        active = share if "experts" in path.split(".") else 1.0
        for name, weight in module._parameters.items():
            if weight is None or weight.dim() < 2 or any(mark in name for mark in TABLE_MARKS):
                continue
            size = families.true_size(weight)
            stored = weight.numel() * weight.element_size()
            yield Matrix(part, active * size, active * stored, *_home(path, prefix))


def _home(
    path: str,
    prefix: str,
) -> tuple[int | None, str]:
    """The decoder layer that a module belongs to, and its name there."""
    if not path.startswith(prefix):
        return None, ""
    layer, _, place = path[len(prefix) :].partition(".")
    return int(layer), place


def _part(
    path: str,
    is_head: bool,
    in_decoder: bool,
) -> str:
    if is_head:
        return HEAD
    if in_decoder:
        return DECODER
    between = any(mark in path for mark in PROJECTOR_MARKS)
    return PROJECTOR if between else TOWER


def active_share(
    text,
) -> float:
    """The share 0..1 of a mixture's experts that one position goes through; 1 without experts."""
    every = _first(text, "num_experts", "num_local_experts", "n_routed_experts")
    active = _first(text, "num_experts_per_tok", "top_k_experts")
    return min(1.0, active / every) if every and active else 1.0


def _first(
    text,
    *names: str,
) -> int | None:
    """The first of a config's settings that it has."""
    values = (getattr(text, name, None) for name in names)
    return next((value for value in values if value), None)
