"""Tests a model of no known family as it loads, so that it is served in full or refused with the
reason.

Places are found by trying: each way of cutting an image is proposed, and one is taken only if
changing the pixels of a rectangle changes that very position. Where none fits, positions have no
place, rather than a wrong one.
"""

from __future__ import annotations

import dataclasses
from contextvars import ContextVar

import numpy as np
import torch
from PIL import Image
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import decoding, families, skeleton
from svl_core.lvlm.batching import collate
from svl_core.lvlm.encoding import control_ids
from svl_core.lvlm.geometry import GEOMETRIES, unplaced
from svl_core.lvlm.hooks import ThreadHooks, hidden_input, pass_over
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.stopping import reaching

# Of the logits' spread.
TOLERANCE = {
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 2e-1,
}
QUESTION = "What is this?"
SHAPES = (
    (168, 392),
    (392, 168),
    # of the pictures that places are tried on, in pixels: crops, paddings and tiles differ most there
)
# Positions tried in each picture; the share of them that must answer to their own rectangle.
TRIED, HIT_SHARE = (
    8,
    0.7,
)


def probe(lvlm: LVLM) -> LVLM:
    """Looks for decoder layers, encodes a test picture (a text-only model gets the question alone),
    looks for visual positions that follow the picture and for attention that can be watched, and
    checks that a pruned forward pass equals one with the layers skipped, that generation with the
    cache equals generation without, and that left padding changes nothing.

    Returns the model with the places of its visual positions, where they could be found. Raises
    InputError naming the probe that failed.
    """
    found: dict[str, Sample] = {}

    def encodes():
        found["sample"] = (
            lvlm.encode(noise(224, 224), QUESTION)
            if lvlm.supports_images
            else lvlm.encode(None, QUESTION)
        )

    steps = [
        ("decoder layers", lambda: _decoder(lvlm.model)),
        (
            "picture and question" if lvlm.supports_images else "question",
            encodes,
        ),
    ]
    steps += [("visual positions", lambda: _visual(lvlm, found["sample"]))] * lvlm.supports_images
    steps += [
        ("attention", lambda: _attention(lvlm, found["sample"])),
        (
            "pruning equals skipping",
            lambda: _pruning(lvlm, found["sample"]),
        ),
        ("generation with a cache", lambda: _cache(lvlm, found["sample"])),
        ("left padding", lambda: _padding(lvlm, found["sample"])),
    ]
    for name, step in steps:
        try:
            step()
        except Exception as error:  # an unknown model may fail in any way
            raise _refusal(lvlm.name, lvlm.model, name, error) from error
    return _placed(lvlm) if lvlm.supports_images else lvlm


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def _refusal(name: str, model, step: str, error: Exception) -> InputError:
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
    if (layers := len(families.decoder_layers(model))) < 3:
        raise SVLError(f"{layers} layers, where at least 3 are needed")


def _visual(lvlm: LVLM, sample: Sample) -> None:
    if not len(sample.visual):
        raise SVLError("no position of the sequence holds the image token")
    other = lvlm.encode(_inverted(sample.images[0]), QUESTION)
    if (
        not (entering(lvlm, other) != entering(lvlm, sample))
        .any(dim=1)[torch.tensor(sample.visual)]
        .any()
    ):
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
    if _WATCHING.get() is not None:
        _WATCHING.get().add(module.layer_idx)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)


AttentionInterface.register(WATCHED, _watched)
AttentionMaskInterface.register(WATCHED, AttentionMaskInterface()["sdpa"])


@torch.inference_mode()
def _attention(lvlm: LVLM, sample: Sample) -> None:
    """The decoder must take its attention from the library's registry, where it can be watched."""
    config = lvlm.decoder.config
    token = _WATCHING.set(set())
    own = config._attn_implementation
    if own not in ("sdpa", "eager"):
        raise SVLError(f"the attention implementation {own!r}")
    try:
        config._attn_implementation = WATCHED
        lvlm.model(**sample.inputs, use_cache=False)
        seen = _WATCHING.get()
    finally:
        config._attn_implementation = own
        _WATCHING.reset(token)
    if not seen:
        raise SVLError("an attention of the model's own, which cannot be watched")


def _pruning(lvlm: LVLM, sample: Sample) -> None:
    last = lvlm.num_layers - 1
    for dropped in {
        (last // 2,),
        tuple(sorted({1, last // 2, last - 1})),
    }:  # the second needs five layers to differ
        if len(dropped) == lvlm.num_layers:
            continue
        view = skeleton.with_layers(
            lvlm.model,
            [i for i in range(lvlm.num_layers) if i not in dropped],
        )

        with torch.inference_mode(), ThreadHooks() as hooks:
            pruned = view(**sample.inputs, use_cache=False).logits
            for index in dropped:
                hooks.on_output(lvlm.layers[index], pass_over)
            skipped = lvlm.model(**sample.inputs, use_cache=False).logits
        _equal(lvlm, pruned, skipped)


@torch.inference_mode()
def _cache(lvlm: LVLM, sample: Sample) -> None:
    """Three ordinary tokens, whole and with the last layer but one dropped: predictions with the
    cache equal those of a whole pass each.
    """
    pruned = dataclasses.replace(
        lvlm,
        model=skeleton.with_layers(
            lvlm.model,
            [i for i in range(lvlm.num_layers) if i != lvlm.num_layers - 2],
        ),
        layer_ids=(),
    )
    for one in (lvlm, pruned):
        banned = sorted({*control_ids(one.reader), *decoding.image_token_ids(one)})
        slow = one.model.generate(
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
        quick = decoding.Decoding(one, sample.inputs)
        for step, expected in enumerate(slow.logits):
            _equal(lvlm, quick.logits, expected)
            quick.feed(slow.sequences[:, sample.length + step, None])


def _padding(lvlm: LVLM, sample: Sample) -> None:
    """In a batch with a longer question, predictions equal those alone, before and after a further
    token.
    """
    longer = lvlm.encode(sample.images or None, f"{QUESTION} {QUESTION}")
    batch, alone = (
        decoding.Decoding(lvlm, inputs)
        for inputs in (
            collate([sample, longer], lvlm.tokenizer.pad_token_id or 0),
            sample.inputs,
        )
    )
    for _ in range(2):
        _equal(lvlm, batch.logits[:1], alone.logits)
        first = alone.logits.argmax(-1, keepdim=True)
        batch.feed(first.expand(2, 1))
        alone.feed(first)


def _equal(lvlm: LVLM, found: torch.Tensor, expected: torch.Tensor) -> None:
    found, expected = found.float(), expected.float().to(found.device)
    difference = float((found - expected).abs().max() / expected.std())
    if not difference <= TOLERANCE.get(lvlm.dtype, 1e-3):
        raise SVLError(f"logits differ by {difference:.2g} of their spread")


# Places


def entering(lvlm: LVLM, sample: Sample) -> torch.Tensor:
    """What enters layer 0, (S, d) float32 on the CPU; the decoder itself does not run."""
    args, kwargs = reaching(lvlm, lvlm.layers[0], sample)
    stream = families.residual(hidden_input(args, kwargs), lvlm.text_config)
    return stream[0].float().cpu()


def _inverted(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> Image.Image:
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
        tried = dataclasses.replace(
            lvlm,
            family=dataclasses.replace(families.GENERIC, geometry=name),
        )
        try:
            if rule is not unplaced and all(places_hold(tried, noise(*shape)) for shape in SHAPES):
                return tried
        except Exception:  # made for other processors and configs: it may miss anything
            continue
    return lvlm


def places_hold(lvlm: LVLM, image: Image.Image) -> bool:
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
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, TRIED).astype(int))]
    before = entering(lvlm, sample)[visual]
    hits = 0
    for index in chosen:
        box = (rects[index] * (*image.size, *image.size)).round().astype(int)
        changed = lvlm.encode(_inverted(image, tuple(box)), QUESTION)
        moved = torch.linalg.vector_norm(entering(lvlm, changed)[visual] - before, dim=1).numpy()
        alike = placed[np.abs(areas[placed] / areas[index] - 1) < 0.3]
        hits += alike[moved[alike].argmax()] == index
    return hits >= HIT_SHARE * len(chosen)
