"""Tests a model of no known family as it loads, so that it is served in full or refused with the
reason.

Places are found by trying: each way of cutting an image is proposed, and one is taken only if
changing the pixels of a rectangle changes that very position. Where none fits, positions have no
place, rather than a wrong one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import decoding, families, skeleton, vision
from svl_core.lvlm.batching import collate
from svl_core.lvlm.encoding import control_ids
from svl_core.lvlm.geometry import GEOMETRIES, unplaced
from svl_core.lvlm.hooks import ThreadHooks, ended_at, hidden_input, pass_over
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.stopping import reaching

# The largest difference of two logits that counts as none, as a share of their spread.
TOLERANCE = {
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 2e-1,
}
QUESTION = "What is this?"
# The pictures that places are tried on, in pixels: crops, paddings and tiles differ most there.
SHAPES = (
    (168, 392),
    (392, 168),
)
TRIED = 8  # positions tried in each picture
HIT_SHARE = 0.7  # the share of them that must answer to their own rectangle


def probe(lvlm: LVLM) -> LVLM:
    """Tries whether everything here works on a model of no known family.

    Looks for decoder layers, encodes a test picture (a text-only model gets the question alone),
    looks for visual positions that follow the picture and for attention that can be watched, and
    checks that a pruned forward pass equals one with the layers skipped, that generation with the
    cache equals generation without, and that left padding changes nothing.

    Returns the model with the places of its visual positions, where they could be found.
    Raises InputError naming the probe that failed.
    """
    with _probe(lvlm, "decoder layers"):
        _decoder(lvlm.model)
    with _probe(lvlm, "picture and question" if lvlm.supports_images else "question"):
        picture = noise(224, 224) if lvlm.supports_images else None
        sample = lvlm.encode(picture, QUESTION)
    if lvlm.supports_images:
        with _probe(lvlm, "visual positions"):
            _visual(lvlm, sample)
    with _probe(lvlm, "attention"):
        _attention(lvlm, sample)
    with _probe(lvlm, "pruning equals skipping"):
        _pruning(lvlm, sample)
    with _probe(lvlm, "generation with a cache"):
        _cache(lvlm, sample)
    with _probe(lvlm, "left padding"):
        _padding(lvlm, sample)
    return _placed(_seeing(lvlm, sample)) if lvlm.supports_images else lvlm


@contextlib.contextmanager
def _probe(lvlm: LVLM, step: str) -> Iterator[None]:
    """Whatever goes wrong within this block is the reason to refuse the model."""
    try:
        yield
    except Exception as error:  # an unknown model may fail in any way
        raise _refusal(lvlm.name, lvlm.model, step, error) from error


def noise(
    width: int,
    height: int,
) -> Image.Image:
    """A seeded picture of random pixels."""
    pixels = np.random.default_rng(0).integers(
        0,
        256,
        (height, width, 3),
        dtype=np.uint8,
    )
    return Image.fromarray(pixels)


def _refusal(
    name: str,
    model,
    step: str,
    error: Exception,
) -> InputError:
    reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
    return InputError(
        f"Found {name}, a {model.config.model_type} model of no known family, which fails the probe"
        f' "{step}" ({reason}); expected one that passes; choose a model of `svl models`.'
    )


def refuse_without_layers(model, name: str) -> None:
    """The first probe, for what is not even an `LVLM`. Raises InputError."""
    try:
        families.find_decoder(model)
    except SVLError as error:
        raise _refusal(name, model, "decoder layers", error) from error


def _decoder(model) -> None:
    if model.config.is_encoder_decoder:
        raise SVLError("it has an encoder for the text, and this project prunes decoders only")
    layers = len(families.decoder_layers(model))
    if layers < 3:
        raise SVLError(f"{layers} layers, where at least 3 are needed")


def _visual(lvlm: LVLM, sample: Sample) -> None:
    if not len(sample.visual):
        raise SVLError("no position of the sequence holds the image token")
    other = lvlm.encode(_inverted(sample.images[0]), QUESTION)
    moved = (entering(lvlm, other) != entering(lvlm, sample)).any(dim=1)
    if not moved[torch.tensor(sample.visual)].any():
        raise SVLError("another picture changes nothing at the positions of the image token")


_WATCHING: ContextVar[set[int] | None] = ContextVar("svl_watching", default=None)
WATCHED = "svl_probe"


def _watched(
    module,
    query,
    key,
    value,
    attention_mask,
    softcap=None,
    s_aux=None,
    **options,
):
    watching = _WATCHING.get()
    if watching is not None:
        watching.add(module.layer_idx)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)


AttentionInterface.register(WATCHED, _watched)
AttentionMaskInterface.register(WATCHED, AttentionMaskInterface()["sdpa"])


@torch.inference_mode()
def _attention(lvlm: LVLM, sample: Sample) -> None:
    """The decoder must take its attention from the library's registry, where it can be watched."""
    config: Any = lvlm.decoder.config
    implementation = config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise SVLError(f"the attention implementation {implementation!r}")
    seen: set[int] = set()
    token = _WATCHING.set(seen)
    try:
        config._attn_implementation = WATCHED
        lvlm.model(**sample.inputs, use_cache=False)
    finally:
        config._attn_implementation = implementation
        _WATCHING.reset(token)
    if not seen:
        raise SVLError("an attention of the model's own, which cannot be watched")


@torch.inference_mode()
def _pruning(lvlm: LVLM, sample: Sample) -> None:
    """One layer dropped, and three (which are others only from five layers on): a pruned pass
    equals one whose layers are skipped.
    """
    last = lvlm.num_layers - 1
    middle = last // 2
    for dropped in {(middle,), tuple(sorted({1, middle, last - 1}))}:
        if len(dropped) == lvlm.num_layers:
            continue
        keep = [layer for layer in range(lvlm.num_layers) if layer not in dropped]
        view = skeleton.with_layers(lvlm.model, keep)
        pruned = view(**sample.inputs, use_cache=False).logits
        with ThreadHooks() as hooks:
            for layer in dropped:
                hooks.on_output(lvlm.layers[layer], pass_over)
            skipped = lvlm.model(**sample.inputs, use_cache=False).logits
        _equal(lvlm, pruned, skipped)


@torch.inference_mode()
def _cache(lvlm: LVLM, sample: Sample) -> None:
    """Three ordinary tokens, whole and with the last layer but one dropped: predictions with the
    cache equal those of a whole pass each.
    """
    keep = [layer for layer in range(lvlm.num_layers) if layer != lvlm.num_layers - 2]
    view = skeleton.with_layers(lvlm.model, keep)
    for model in (lvlm, dataclasses.replace(lvlm, model=view, layer_ids=())):
        banned = sorted({*control_ids(model.reader), *decoding.image_token_ids(model)})
        generate: Any = model.model.generate
        uncached = generate(
            **sample.inputs,
            use_cache=False,
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=banned or None,
            return_dict_in_generate=True,
            output_logits=True,
        )
        cached = decoding.Decoding(model, sample.inputs)
        for step, expected in enumerate(uncached.logits):
            _equal(lvlm, cached.logits, expected)
            cached.feed(uncached.sequences[:, sample.length + step, None])


def _padding(lvlm: LVLM, sample: Sample) -> None:
    """In a batch with a longer question, predictions equal those alone, before and after a further
    token.
    """
    longer = lvlm.encode(sample.images or None, f"{QUESTION} {QUESTION}")
    padded = collate([sample, longer], lvlm.tokenizer.pad_token_id or 0)
    batch = decoding.Decoding(lvlm, padded)
    alone = decoding.Decoding(lvlm, sample.inputs)
    for _ in range(2):
        _equal(lvlm, batch.logits[:1], alone.logits)
        first = alone.logits.argmax(-1, keepdim=True)
        batch.feed(first.expand(2, 1))
        alone.feed(first)


def _seeing(lvlm: LVLM, sample: Sample) -> LVLM:
    """The model, as one that sees an image anew in every pass where kept features, alone and in a
    batch, do not bring the same into its decoder.
    """
    again = dataclasses.replace(lvlm.family, sees_once=False)
    try:
        other = lvlm.encode(_inverted(sample.images[0]), QUESTION)
        pair = [sample, other]
        seen = [vision.see(lvlm, one) for one in pair]
        if vision.together(seen) is None:
            return dataclasses.replace(lvlm, family=again)
        alike = all(
            _close(lvlm, _entering_all(lvlm, with_features), _entering_all(lvlm, with_pixels))
            for with_features, with_pixels in ((seen[:1], pair[:1]), (seen, pair))
        )
    except Exception:  # an unknown model may fail in any way
        alike = False
    return lvlm if alike else dataclasses.replace(lvlm, family=again)


@torch.inference_mode()
def _entering_all(lvlm: LVLM, samples: Sequence[Sample]) -> torch.Tensor:
    """What enters layer 0 in a pass over a batch of samples, which ends there."""
    inputs = collate(samples, lvlm.tokenizer.pad_token_id or 0)
    with ended_at(lvlm.layers[0]) as calls:
        vision.forward(lvlm, inputs, vision.together(samples), use_cache=False)
    return hidden_input(*calls[0])


def _close(lvlm: LVLM, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether hidden states differ by no more than the dtype's tolerance."""
    difference = (one.float() - other.float()).abs().max()
    return float(difference / other.float().std()) <= TOLERANCE.get(lvlm.dtype, 1e-3)


def _equal(
    lvlm: LVLM,
    logits: torch.Tensor,
    expected: torch.Tensor,
) -> None:
    """Raises SVLError for logits that differ by more than the dtype's tolerance."""
    expected = expected.float().to(logits.device)
    difference = (logits.float() - expected).abs().max()
    share = float(difference / expected.std())
    if not share <= TOLERANCE.get(lvlm.dtype, 1e-3):
        raise SVLError(f"logits differ by {share:.2g} of their spread")


# Places


def entering(
    lvlm: LVLM,
    sample: Sample,
) -> torch.Tensor:
    """What enters layer 0, (S, d) float32 on the CPU; the decoder itself does not run."""
    args, kwargs = reaching(lvlm, lvlm.layers[0], sample)
    stream = families.residual(hidden_input(args, kwargs), lvlm.text_config)
    return stream[0].float().cpu()


def _inverted(
    image: Image.Image,
    box: tuple[int, int, int, int] | None = None,
) -> Image.Image:
    """The picture with each colour in `box` (x0, y0, x1, y1; default: everywhere) at the far end of
    its range.
    """
    x0, y0, x1, y1 = box or (0, 0, *image.size)
    pixels = np.array(image)
    pixels[y0:y1, x0:x1] = 255 * (pixels[y0:y1, x0:x1] < 128)
    return Image.fromarray(pixels)


def _placed(lvlm: LVLM) -> LVLM:
    """The model with the first way of cutting images whose places hold on every test picture, or
    with none.
    """
    for name, rule in GEOMETRIES.items():
        if rule is unplaced:
            continue
        family = dataclasses.replace(lvlm.family, geometry=name)
        candidate = dataclasses.replace(lvlm, family=family)
        try:
            if all(places_hold(candidate, noise(*shape)) for shape in SHAPES):
                return candidate
        except Exception:  # made for other processors and configs: it may miss anything
            continue
    return lvlm


def places_hold(
    lvlm: LVLM,
    image: Image.Image,
) -> bool:
    """Whether changing the pixels of a position's rectangle changes that position most, among those
    of like size.
    """
    sample = lvlm.encode(image, QUESTION)
    visual = torch.tensor(sample.visual)
    rects = sample.geometry.rects
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    placed = np.flatnonzero(~np.isnan(areas))
    if len(placed) < max(4, len(visual) / 4):  # too few to tell a rule from chance
        return False
    # Not the slivers at the border of a crop.
    whole = placed[areas[placed] > 0.6 * np.median(areas[placed])]
    spread = np.linspace(0, len(whole) - 1, TRIED).astype(int)
    chosen = whole[np.unique(spread)]
    before = entering(lvlm, sample)[visual]
    hits = 0
    for index in chosen:
        x0, y0, x1, y1 = (rects[index] * (*image.size, *image.size)).round().astype(int)
        changed = lvlm.encode(_inverted(image, (x0, y0, x1, y1)), QUESTION)
        difference = entering(lvlm, changed)[visual] - before
        moved = torch.linalg.vector_norm(difference, dim=1).numpy()
        alike = placed[np.abs(areas[placed] / areas[index] - 1) < 0.3]
        hits += int(alike[moved[alike].argmax()] == index)
    return hits >= HIT_SHARE * len(chosen)
