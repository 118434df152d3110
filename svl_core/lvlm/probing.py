"""Tests a model of no known family as it loads, so that it is served in full or refused with the
reason.

Places are found by trying: each way of cutting an image is proposed, and one is taken only if
changing the pixels of a rectangle changes that very position. Where none fits, places are looked
for without a rule (`lvlm/finding.py`); where none are found, positions have no place, rather than a
wrong one.

The probes run on a light stand-in that shares the model's tensors: two decoder layers of each kind,
and a vision side whose stacks of blocks hand on what they are given. They take a fixed, small part
of what one answer costs, whatever the model's size. The stand-in is taken only where its decoder
gives what the whole one gives with the other layers skipped; what fails on it is tried on a heavier
one, and at last on the whole model, which alone is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import cutting, decoding, families, kinds, skeleton, vision
from svl_core.lvlm.batching import collate
from svl_core.lvlm.beside import Beside
from svl_core.lvlm.encoding import control_ids
from svl_core.lvlm.finding import FOUND, Finder
from svl_core.lvlm.geometry import GEOMETRIES, found, unplaced
from svl_core.lvlm.hooks import (
    ThreadHooks,
    ended_at,
    hidden_input,
    pass_over,
    with_hidden,
)
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.stopping import reaching

# The largest difference of two logits that counts as none, as a share of their spread.
TOLERANCE = {
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 2e-1,
}
MASKED = -1e4  # logits from here down stand for tokens that a model rules out
QUESTION = "What is this?"
REACHING = "reaching the decoder"  # the first probe of what a model makes of a sample
# The pictures that models are asked about, in pixels: the one that gives fewer positions counts
# (those cut into tiles by their shape have few tiles of a strip); the last where no other is taken.
PICTURES = (
    (64, 64),
    (512, 64),
)
ORDINARY = (224, 224)
# The pictures that places are tried on, in pixels: tall and wide, where crops, paddings and tiles
# differ most; and where the model takes them tiny and flat ones, where a rim is a large part. They
# are multiples of no patch's side.
SHAPES = (
    (167, 389),
    (389, 167),
)
RIMS = (
    (45, 37),
    (211, 31),
    (33, 197),
)
FEWEST = 4  # positions that tell a rule from chance
LEAST_PIXELS = 5  # of a rectangle's side, for the pixels of its corners to be its own
# What is changed of rectangles in each turn, by turns: a corner (right, bottom), None: all of it.
Changes = tuple[tuple[tuple[bool, bool] | None, ...], ...]
CORNERS: Changes = (
    ((False, False), (True, False)),
    ((True, True), (False, True)),
)
WHOLE: Changes = ((None,),)
TRIED = 8  # positions tried in each picture
HIT_SHARE = 0.7  # the share of them that must answer to their own rectangle
# Of a stand-in: decoder layers at least, and blocks from which on a stack of them hands on.
LEAST_LAYERS = 4
STACK = 4
ANSWERED = 3  # tokens of the answer that is tried with a cache and without


def probe(lvlm: LVLM) -> LVLM:
    """Tries whether everything here works on a model of no known family.

    Looks for decoder layers, encodes a test picture (a text-only model gets the question alone),
    looks for one residual stream that enters them, for visual positions that follow the picture and
    for attention that can be watched, and checks whether features kept of an image serve as well as
    its pixels, that a pruned forward pass equals one with the layers skipped, and that generation
    with the cache equals generation without.

    Returns the model with the places of its visual positions, where they could be found; as one
    that reads samples one by one, where left padding changes something.
    Raises InputError naming the probe that failed.
    """
    with _probe(lvlm, "decoder layers"):
        _decoder(lvlm.model)
    with _probe(lvlm, "picture and question" if lvlm.supports_images else "question"):
        lvlm = _marking(lvlm)
        samples = _samples(lvlm)
        sample = next(samples)
    while True:
        try:
            return _tried(lvlm, sample)
        except Unreached:  # the model does not read this picture: perhaps another one
            following = next(samples, None)
            if following is None:
                raise
            sample = following


class Unreached(InputError):
    """A pass over a sample that does not reach the decoder."""


def _tried(lvlm: LVLM, sample: Sample) -> LVLM:
    """The probes on the lightest stand-in that passes them, at last on the model itself."""
    for light in _stand_ins(lvlm, sample):
        with contextlib.suppress(InputError):
            probed = _probed(light, sample, TRIED)
            return dataclasses.replace(
                lvlm,
                family=probed.family,
                find=probed.find,
                unplaced_because=probed.unplaced_because,
            )
    try:
        return _probed(lvlm, sample, 1)
    except Unreached:
        raise
    except InputError:
        with _probe(lvlm, "a plain pass"):
            _plain_pass(lvlm, sample)
        raise


@torch.inference_mode()
def _plain_pass(lvlm: LVLM, sample: Sample) -> None:
    """Raises SVLError where the model's own class does not even end a pass in which nothing of this
    project has a part: a fault of the installed library.
    """
    try:
        lvlm.model(**sample.inputs, use_cache=False)
    except Exception as error:  # an unknown model may fail in any way
        owner = f"{type(lvlm.model).__name__} of transformers {transformers.__version__}"
        kind = type(error).__name__
        raise SVLError(f"{owner} itself ends it with the {kind} {str(error)!r}") from None


def _probed(
    lvlm: LVLM,
    sample: Sample,
    at_once: int,
) -> LVLM:
    """The probes of what a model makes of a sample, see `probe`. at_once: see `places_hold`."""
    seen = sample
    with _probe(lvlm, REACHING):
        entering(lvlm, sample)
    if lvlm.supports_images:
        with _probe(lvlm, "visual positions"):
            _visual(lvlm, sample)
        lvlm = _wanting(_seeing(lvlm, sample))
        seen = vision.see(lvlm, sample)
    with _probe(lvlm, "attention"):
        _attention(lvlm, seen)
    with _probe(lvlm, "pruning equals skipping"):
        _pruning(lvlm, seen)
    with _probe(lvlm, "generation with a cache"):
        lvlm = _caching(lvlm, seen)
        lvlm = _cached(lvlm, sample, seen)
    lvlm = _together(lvlm, seen)
    return _placed(lvlm, at_once) if lvlm.supports_images else lvlm


@contextlib.contextmanager
def _probe(lvlm: LVLM, step: str) -> Iterator[None]:
    """Whatever goes wrong within this block is the reason to refuse the model."""
    try:
        yield
    except Exception as error:  # an unknown model may fail in any way
        refusal = _refusal(lvlm.name, lvlm.model, step, error)
        raise (Unreached(str(refusal)) if step == REACHING else refusal) from error


def noise(
    width: int,
    height: int,
    seed: int = 0,
) -> Image.Image:
    """A seeded picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(
        0,
        256,
        (height, width, 3),
        dtype=np.uint8,
    )
    return Image.fromarray(pixels)


def _marking(lvlm: LVLM) -> LVLM:
    """The model, as one whose text holds no image token where no chat template writes it, for the
    processor does so itself (BLIP-2, Fuyu).
    """
    templates = (
        getattr(owner, "chat_template", None) for owner in (lvlm.processor, lvlm.tokenizer)
    )
    if not lvlm.supports_images or any(templates):
        return lvlm
    unmarked = dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, mark="none"))
    for marking in (unmarked, lvlm):
        with contextlib.suppress(Exception):  # which says what the other one does, too
            if len(marking.encode(noise(*ORDINARY), QUESTION).visual):
                return marking
    return unmarked


def question_of(lvlm: LVLM) -> Sample:
    """What the probes ask a model: about a small picture, where it takes any."""
    return next(_samples(lvlm))


def _samples(lvlm: LVLM) -> Iterator[Sample]:
    """The question about each of `PICTURES`, the fewest positions first, and about an ordinary one;
    of a text-only model the question alone.
    """
    if not lvlm.supports_images:
        yield lvlm.encode(None, QUESTION)
        return
    samples = []
    for size in PICTURES:
        with contextlib.suppress(InputError):
            samples.append(lvlm.encode(noise(*size), QUESTION))
    yield from sorted(samples, key=lambda sample: sample.length)
    try:
        yield lvlm.encode(noise(*ORDINARY), QUESTION)
    except InputError as error:
        if samples:
            raise
        reason = " ".join(str(error.__cause__ or error).split("; expected")[0].split())[:100]
        raise SVLError(f"its processor takes none of the pictures tried: {reason}") from None


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
    """The first probes, for what is not even an `LVLM`. Raises InputError."""
    if not model.can_generate():
        reason = f"{type(model).__name__} generates no text"
        raise _refusal(name, model, "generation", SVLError(reason))
    try:
        families.find_decoder(model)
    except SVLError as error:
        unseen = families.image_token_id(model.config) is None
        if unseen and kinds.takes_images(model.config):
            raise InputError(
                f"Found {name}, a {model.config.model_type} model without a list of decoder layers,"
                " in which no token of the sequence stands for an image; expected one whose layers"
                " read image and question in one sequence; choose a model of `svl models`."
            ) from error
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
    other = lvlm.encode(inverted(sample.images[0]), QUESTION)
    moved = (entering(lvlm, other) != entering(lvlm, sample)).any(dim=1)
    if not moved[torch.tensor(sample.visual)].any():
        raise SVLError("another picture changes nothing at the positions of the image token")


def _logits(lvlm: LVLM, sample: Sample) -> torch.Tensor:
    """(1, S, vocabulary) predictions of a pass that keeps nothing."""
    return vision.forward(lvlm, sample.inputs, sample.features, use_cache=False).logits


def _skipping(
    lvlm: LVLM,
    sample: Sample,
    layers: Collection[int],
) -> torch.Tensor:
    """`_logits` of a pass in which some layers hand on what they are given."""
    with ThreadHooks() as hooks:
        for layer in layers:
            hooks.on_output(lvlm.layers[layer], pass_over)
        return _logits(lvlm, sample)


_WATCHING: ContextVar[set[int] | None] = ContextVar("svl_watching", default=None)
WATCHED = Beside("svl_probe", "sdpa")
ADDING = ("bias", "sink")  # in the names of what an attention adds to its scores
FOLLOWED = ("position_bias",)  # what statistics follow of it; sinks have a parameter of their own


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
        given = {name for name, option in options.items() if option is not None}
        for name in sorted(given - set(FOLLOWED)):
            if any(part in name for part in ADDING):
                raise SVLError(
                    f"an attention with a {name} of its own, whose statistics would be wrong"
                )
        if not hasattr(module, "layer_idx"):
            raise SVLError("an attention that does not know the number of its layer")
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
        watched = _logits(lvlm, sample)
    finally:
        config._attn_implementation = implementation
        _WATCHING.reset(token)
    if not seen:
        if not any(_is_attention(path) for path, _ in lvlm.layers.named_modules()):
            raise SVLError("no attention in its layers, which token importance is measured on")
        raise SVLError("an attention of the model's own, which cannot be watched")
    if implementation == "sdpa":
        _equal(lvlm, watched, _logits(lvlm, sample))


def _droppable(lvlm: LVLM) -> list[int]:
    """The layers that may go, but for the first and the last."""
    return [layer for layer in range(1, lvlm.num_layers - 1) if layer not in lvlm.protected]


def _is_attention(path: str) -> bool:
    """Whether a module's name says that it is an attention."""
    return "attn" in path.lower() or "attention" in path.lower()


def _cuts(lvlm: LVLM) -> list[tuple[int, ...]]:
    """The layers to drop: one in the middle, and more (two of four layers, from five on three);
    none where all have to stay.
    """
    free = _droppable(lvlm)
    if not free:
        return []
    middle = free[(len(free) - 1) // 2]
    more = tuple(sorted({free[0], middle, free[-1]}))
    return [(middle,)] if more == (middle,) else [(middle,), more]


@torch.inference_mode()
def _pruning(lvlm: LVLM, sample: Sample) -> None:
    """One layer dropped, and more: a pruned pass equals one whose layers are skipped.

    Raises SVLError where all have to stay, but for a model that was pruned before.
    """
    if not _droppable(lvlm) and not lvlm.provenance:
        raise SVLError("every layer between the first and the last has to stay")
    for dropped in _cuts(lvlm):
        keep = [layer for layer in range(lvlm.num_layers) if layer not in dropped]
        pruned = _with_layers(lvlm, keep)
        _equal(lvlm, _logits(pruned, sample), _skipping(lvlm, sample, dropped))


def _without_one(lvlm: LVLM) -> list[LVLM]:
    """The model without the last layer that may go by itself, for some configs cannot tell what is
    left of others; nothing where all have to stay. Raises InputError where none may go.
    """
    refusal: InputError | None = None
    for dropped in reversed(_droppable(lvlm)):
        keep = [layer for layer in range(lvlm.num_layers) if layer != dropped]
        try:
            return [_with_layers(lvlm, keep)]
        except InputError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return []


def _cached(
    lvlm: LVLM,
    sample: Sample,
    seen: Sample,
) -> LVLM:
    """The model; told the positions of further tokens where it does not count them itself (Bamba).
    Raises SVLError where its cache does not serve then either. seen: see `_cache`.
    """
    try:
        _cache(lvlm, sample, seen)
        return lvlm
    except SVLError:
        told = dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, counts=False))
        _cache(told, sample, seen)
        return told


@torch.inference_mode()
def _cache(
    lvlm: LVLM,
    sample: Sample,
    seen: Sample,
) -> None:
    """Three ordinary tokens, whole and without the last layer that may go: predictions with the
    cache equal those of a whole pass each.

    seen: the sample with its image seen, for those with the cache.
    """
    for model in (lvlm, *_without_one(lvlm)):
        tokens, uncached = _uncached(model, sample)
        cached = decoding.Decoding(model, seen.inputs, features=seen.features)
        for token, expected in zip(tokens, uncached, strict=True):
            _equal(lvlm, cached.logits, expected)
            cached.feed(torch.tensor([[token]], device=expected.device))


def _uncached(lvlm: LVLM, sample: Sample) -> tuple[list[int], list[torch.Tensor]]:
    """Three ordinary tokens behind a sample, and what was predicted at each, (1, vocabulary):
    by the library's own loop, or where that fails without a cache by passes over all of it.
    """
    banned = sorted({*control_ids(lvlm.reader), *decoding.image_token_ids(lvlm)})
    generate: Any = lvlm.model.generate
    # All logits: by default a slice, see `arithmetic.last_position`.
    known = inspect.signature(lvlm.model.forward).parameters
    keep_all = {"logits_to_keep": 0} if "logits_to_keep" in known else {}
    try:
        found = generate(
            **sample.inputs,
            use_cache=False,
            max_new_tokens=ANSWERED,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=banned or None,
            return_dict_in_generate=True,
            output_logits=True,
            **keep_all,
        )
    except Exception:  # made for a cache: it may forget an input that grows
        return _whole_passes(lvlm, sample, banned)
    return found.sequences[0, -ANSWERED:].tolist(), list(found.logits)


def _whole_passes(
    lvlm: LVLM,
    sample: Sample,
    banned: Sequence[int],
) -> tuple[list[int], list[torch.Tensor]]:
    """See `_uncached`. banned: tokens that are left out. Raises InputError for an input that an
    answer cannot lengthen.
    """
    tokens: list[int] = []
    predicted: list[torch.Tensor] = []
    for _ in range(ANSWERED):
        inputs = lengthened(sample, [*tokens, 0], "choose a model of `svl models`")
        logits = lvlm.model(**inputs, use_cache=False).logits[:, -1]
        known = [token for token in banned if token < logits.shape[-1]]
        ordinary = logits[0].clone()
        ordinary[known] = -torch.inf
        tokens.append(int(ordinary.argmax()))
        predicted.append(logits)
    return tokens, predicted


@torch.inference_mode()
def _caching(lvlm: LVLM, sample: Sample) -> LVLM:
    """The model, as one that is handed its cache where a pass that asks for one makes none."""
    out = vision.forward(lvlm, sample.inputs, sample.features, use_cache=True)
    if decoding.cache_of(lvlm, out) is not None:
        return lvlm
    return dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, makes_cache=False))


def _together(lvlm: LVLM, sample: Sample) -> LVLM:
    """The model, as one that reads samples one by one where a padded batch does not give what they
    give alone: pixels that are packed by picture, positions that count the padding; or where it
    takes lists from its processor, which are no batch.
    """
    lists = getattr(lvlm.processor, "skip_tensor_conversion", None) or ()
    try:
        if set(lists) & set(sample.inputs):
            raise SVLError("inputs that its processor gives as lists")
        _padding(lvlm, sample)
    except Exception:  # an unknown model may fail in any way
        return dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, batched=False))
    return lvlm


def _padding(lvlm: LVLM, sample: Sample) -> None:
    """In a batch with a longer question, predictions equal those alone, before and after a further
    token.
    """
    longer = lvlm.encode(sample.images or None, f"{QUESTION} {QUESTION}")
    longer = vision.seen(longer, sample.features)
    pair = [sample, longer]
    padded = collate(pair, lvlm.tokenizer.pad_token_id or 0)
    batch = decoding.Decoding(lvlm, padded, features=vision.together(pair))
    alone = decoding.Decoding(lvlm, sample.inputs, features=sample.features)
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
        other = lvlm.encode(inverted(sample.images[0]), QUESTION)
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


def _wanting(lvlm: LVLM) -> LVLM:
    """The model, as one that is asked about pictures only where a question alone does not reach its
    decoder.
    """
    try:
        entering(lvlm, lvlm.encode(None, QUESTION))
    except Exception:  # processors and models want a picture in many ways
        return dataclasses.replace(
            lvlm, family=dataclasses.replace(lvlm.family, image_required=True)
        )
    return lvlm


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
    """Raises SVLError for logits that differ by more than the dtype's tolerance; those that a model
    masks (Chameleon's of image tokens) must be the same ones, and count no further.
    """
    expected = expected.float().to(logits.device)
    logits = logits.float()
    masked = expected <= MASKED
    if not torch.equal(logits <= MASKED, masked):
        raise SVLError("other logits are masked")
    if bool(masked.all()):
        raise SVLError("all logits are masked")
    difference = (logits - expected)[~masked].abs().max()
    share = float(difference / expected[~masked].std())
    if not share <= TOLERANCE.get(lvlm.dtype, 1e-3):
        raise SVLError(f"logits differ by {share:.2g} of their spread")


# Stand-ins


def _with_layers(lvlm: LVLM, keep: list[int]) -> LVLM:
    """The model with some of its decoder layers, whose numbers are 0, 1, .. then; blocks that hand
    on go on doing so.
    """
    view = skeleton.with_layers(lvlm.model, keep)
    for path, module in lvlm.model.named_modules():
        replaced = module.__dict__.get("forward")
        if isinstance(getattr(replaced, "__self__", None), _HandingOn):
            view.get_submodule(path).forward = replaced
    return dataclasses.replace(lvlm, model=view, layer_ids=())


def _stand_ins(lvlm: LVLM, sample: Sample) -> Iterator[LVLM]:
    """Models to try in the place of a whole one, the lightest first; none where fewer layers, those
    of a stand-in and all but a few, do not give what the whole model gives without the others.

    sample: with a picture, where the model takes any.
    """
    keep = _two_of_each_kind(lvlm)
    cuts = _cuts(lvlm)
    if not cuts:
        return
    dropped = cuts[-1]
    try:
        light = _with_layers(lvlm, keep)
        _check_layers(lvlm, light, keep)
        rest = [layer for layer in range(lvlm.num_layers) if layer not in dropped]
        _check_layers(lvlm, _with_layers(lvlm, rest), rest)
    except Exception:  # what is wrong with it the probes of the whole model say
        return
    with contextlib.suppress(Exception):  # then with all blocks
        if lvlm.supports_images and _hand_on(light, sample):
            yield light
    yield _with_layers(lvlm, keep)


@torch.inference_mode()
def _check_layers(
    lvlm: LVLM,
    light: LVLM,
    keep: list[int],
) -> None:
    """Raises SVLError unless a model with some layers gives what the whole one gives that skips the
    others. The question alone is asked: a pass through all layers, but a short one.

    keep: the layers.
    """
    sample = lvlm.encode(None, QUESTION)
    skipped = set(range(lvlm.num_layers)) - set(keep)
    _equal(lvlm, _logits(light, sample), _skipping(lvlm, sample, skipped))


def _two_of_each_kind(lvlm: LVLM) -> list[int]:
    """The first two decoder layers of each kind, the last layer and those that must stay, with more
    of the first ones up to `LEAST_LAYERS`.
    """
    layers = range(lvlm.num_layers)
    kinds: Counter[tuple] = Counter()
    keep = {lvlm.num_layers - 1, *lvlm.protected}
    for number in layers:
        kind = _kind(lvlm, number)
        kinds[kind] += 1
        if kinds[kind] <= 2:
            keep.add(number)
    more = [number for number in layers if number not in keep]
    keep.update(more[: max(LEAST_LAYERS - len(keep), 0)])
    return sorted(keep)


def _kind(lvlm: LVLM, number: int) -> tuple:
    """What sets a decoder layer apart from others: its modules with their weights' shapes and their
    settings but for the layer's number, and what the config says of it.
    """
    parts: list[tuple] = []
    for path, module in lvlm.layers[number].named_modules():
        settings = [
            (name, value)
            for name, value in sorted(vars(module).items())
            if isinstance(value, (bool, int, float, str)) and not _is_number_of_layer(name)
        ]
        shapes = [(name, *weight.shape) for name, weight in module.named_parameters(recurse=False)]
        parts.append((path, type(module), *settings, *shapes))
    config = lvlm.text_config
    for name in cutting.PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, (list, tuple)) and len(values) == lvlm.num_layers:
            parts.append((name, str(values[number])))
    for name in cutting.LAYER_INDICES:
        values = getattr(config, name, None)
        if isinstance(values, (list, tuple)):
            parts.append((name, number in values))
    return tuple(parts)


def _is_number_of_layer(name: str) -> bool:
    """Whether an attribute's name is one of those for the number of a layer, or of torch's own."""
    return name.startswith("_") or any(part in name for part in ("idx", "index", "layer_id"))


def _hand_on(lvlm: LVLM, sample: Sample) -> bool:
    """Lets all long stacks of equal blocks outside the decoder hand on what they are given; whether
    there is such a stack.

    lvlm: with a view, whose modules are its own.
    sample: for a first pass.
    """
    stacks = list(_stacks(lvlm.model, lvlm.decoder))
    for blocks in stacks:
        _HandingOn(blocks)
    if stacks:
        entering(lvlm, sample)
    return bool(stacks)


def _stacks(
    module: torch.nn.Module,
    decoder: torch.nn.Module,
) -> Iterator[list]:
    """The long lists of equal modules in a model, but for the decoder's."""
    for child in module.children():
        if child is decoder:
            continue
        blocks = list(child) if isinstance(child, torch.nn.ModuleList) else []
        if len(blocks) >= STACK and len(set(map(type, blocks))) == 1:
            yield blocks
        else:
            yield from _stacks(child, decoder)


class _HandingOn:
    """Makes a stack's blocks give what they are given, in the form of what the first one gives when
    it is called first.
    """

    def __init__(self, blocks: list[Any]):
        self._run = blocks[0].forward
        self._output: Any = None
        for block in blocks:
            block.forward = self.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._output is None:
            self._output = self._run(*args, **kwargs)
        return with_hidden(self._output, hidden_input(args, kwargs))


# Places


def entering(
    lvlm: LVLM,
    sample: Sample,
) -> torch.Tensor:
    """What enters layer 0, (S, d) float32 on the CPU; the decoder itself does not run."""
    args, kwargs = reaching(lvlm, lvlm.layers[0], sample)
    hidden = hidden_input(args, kwargs)
    _alone(hidden, [*args, *kwargs.values()])
    stream = families.residual(hidden, lvlm.text_config)
    return stream[0].float().cpu()


def _alone(hidden: torch.Tensor, given: Sequence[Any]) -> None:
    """Raises SVLError for layers that read the states of earlier blocks of layers too (B, S, n, d),
    beside the one residual stream (B, S, d): without a layer the blocks would be others.

    given: all that a layer is called with.
    """
    for other in given:
        if not isinstance(other, torch.Tensor) or other is hidden or other.dim() != 4:
            continue
        if other.shape[:2] == hidden.shape[:2] and other.shape[-1] == hidden.shape[-1]:
            raise SVLError(
                "its layers read what earlier blocks of layers gave (attention residuals), where"
                " one residual stream is needed to leave a layer out of"
            )


def inverted(
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


def placed(lvlm: LVLM) -> LVLM:
    """The model with the first way of cutting images whose places hold, or with none."""
    return _placed(lvlm, TRIED)


def _placed(lvlm: LVLM, at_once: int) -> LVLM:
    """The model with the first way of cutting images whose places hold on every test picture, with
    the places that are found without one, or with none. at_once: see `places_hold`.

    Among ways that hold on the large pictures the small ones decide; where they speak against each
    of them, the first stays, for hardly a pixel of a small picture may be a position's own. Where
    none holds, and none is found, the best of those stays that hold but for their borders.
    """
    pictures = [noise(*shape) for shape in SHAPES]
    rims = [noise(*shape) for shape in RIMS]
    rims = [picture for picture in rims if _taken(lvlm, picture)]
    doubtful = lvlm
    blurred: list[tuple[float, LVLM]] = []
    for name, rule in GEOMETRIES.items():
        if rule in (unplaced, found):
            continue
        family = dataclasses.replace(lvlm.family, geometry=name)
        candidate = dataclasses.replace(lvlm, family=family)
        try:
            if not all(places_hold(candidate, picture, at_once) for picture in pictures):
                blurred += _blurred(candidate, pictures)
                continue
            if all(_not_contradicted(candidate, picture, at_once) for picture in rims):
                return candidate
        except Exception:  # made for other processors and configs: it may miss anything
            continue
        doubtful = candidate if doubtful is lvlm else doubtful
    if doubtful is not lvlm:
        return doubtful
    looked = finding(lvlm, at_once)
    if looked.find is None and blurred:
        return max(blurred, key=lambda each: each[0])[1]
    return looked


def _blurred(
    candidate: LVLM,
    pictures: Sequence[Image.Image],
) -> list[tuple[float, LVLM]]:
    """A way of cutting whose rectangles are answered to as wholes, though their corners are not,
    with the share of corners that are; nothing where the wholes are not either. Convolutions that
    overlap let a position see beyond its own rectangle (PP-Chart2Table). Each is changed alone.
    """
    wholes = [_answering_share(candidate, picture, 1, WHOLE) for picture in pictures]
    if any(share is None or share < HIT_SHARE for share in wholes):
        return []
    corners = [_answering_share(candidate, picture, 1) or 0.0 for picture in pictures]
    return [(sum(corners), candidate)]


def finding(lvlm: LVLM, at_once: int) -> LVLM:
    """The model with a finder of places for each size of picture, where that finds some for the
    large test pictures; else with the reason why it has none.

    at_once: see `places_hold`.
    """
    finder = _finder(lvlm, at_once)
    for shape in SHAPES:
        try:
            outcome = finder.map_of(shape)
        except Exception as error:  # an unknown model may fail in any way
            outcome = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(outcome, str):
            return dataclasses.replace(lvlm, unplaced_because=outcome)
    family = dataclasses.replace(lvlm.family, geometry=FOUND)
    return dataclasses.replace(lvlm, family=family, find=finder.placed)


def _finder(lvlm: LVLM, at_once: int) -> Finder:
    """A finder of places that looks through a model's vision side."""
    family = dataclasses.replace(lvlm.family, geometry=unplaced.__name__)
    reader = dataclasses.replace(lvlm, family=family, find=None)

    def look(picture: Image.Image) -> np.ndarray:
        return _seen_at(reader, reader.encode(picture, QUESTION)).numpy()

    def confirm(size: tuple[int, int], rects: np.ndarray) -> bool:
        sample = reader.encode(noise(*size, seed=1), QUESTION)
        share = _answering(reader, sample, rects, max(at_once, 2))
        return share is not None and share >= HIT_SHARE

    return Finder(look, noise, confirm)


def _taken(lvlm: LVLM, picture: Image.Image) -> bool:
    """Whether a model takes a picture, places aside."""
    family = dataclasses.replace(lvlm.family, geometry=unplaced.__name__)
    reader = dataclasses.replace(lvlm, family=family)
    try:
        entering(reader, reader.encode(picture, QUESTION))
    except Exception:  # processors and vision towers refuse pictures in many ways
        return False
    return True


def places_hold(
    lvlm: LVLM,
    image: Image.Image,
    at_once: int = 1,
) -> bool:
    """Whether changing the pixels of a position's rectangle changes that position more than any of
    like size whose own pixels stay, and more than those without a place. False where the picture
    cannot tell.

    at_once: rectangles that are changed in one pass; more than one where positions hardly mix.
    """
    share = _answering_share(lvlm, image, at_once)
    return share is not None and share >= HIT_SHARE


def _not_contradicted(lvlm: LVLM, image: Image.Image, at_once: int) -> bool:
    """The same, but for a picture that cannot tell, which says nothing against a rule."""
    share = _answering_share(lvlm, image, at_once)
    return share is None or share >= HIT_SHARE


def _answering_share(
    lvlm: LVLM,
    image: Image.Image,
    at_once: int,
    changes: Changes = CORNERS,
) -> float | None:
    """The share of the changes that move most the position whose rectangle they lie in, see
    `places_hold`; None where there are too few positions, or their rectangles are a few pixels.
    """
    sample = lvlm.encode(image, QUESTION)
    return _answering(lvlm, sample, sample.geometry.rects, at_once, changes)


def _answering(
    lvlm: LVLM,
    sample: Sample,
    rects: np.ndarray,
    at_once: int,
    changes: Changes = CORNERS,
) -> float | None:
    """The same, of one encoded picture and any rectangles of its visual positions.

    changes: `CORNERS`, or `WHOLE` rectangles.

    Changed are two opposite corners of each rectangle tried, two fifths of its sides wide: one that
    is too large, or lies half a cell beside the right one, has a corner in another position's. All
    other positions must move less, those without a place too. The shares of small and of large
    rectangles are counted apart, and the smaller one is given: small ones may lie within the right
    ones by chance.
    """
    [image] = sample.images
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    pixels = (rects * (*image.size, *image.size)).round()
    chosen = _tried_positions(areas, pixels)
    if not len(chosen):
        return None
    before = _seen_at(lvlm, sample)
    hits = np.zeros((len(chosen), len(changes)))
    for end, corners in enumerate(changes):
        for members in _together_changed(len(chosen), _most_at_once(areas, at_once), end):
            changed = image
            for member in members:
                box = _part(pixels[chosen[member]], corners[member % len(corners)])
                changed = inverted(changed, box)
            difference = _seen_at(lvlm, lvlm.encode(changed, QUESTION)) - before
            moved = torch.linalg.vector_norm(difference, dim=1).numpy()
            group = chosen[members]
            hits[members, end] = moved[group] > _most_around(moved, rects, group)
    small, large = np.array_split(hits, 2)
    return float(min(small.mean(), large.mean() if len(large) else 1.0))


def _most_at_once(areas: np.ndarray, at_once: int) -> int:
    """How many rectangles may change in one pass: most stay as they are, for the others to be told
    from. areas: (V,), NaN without a place.
    """
    placed = int((~np.isnan(areas)).sum())
    return min(at_once, max(1, placed // 4))


def _together_changed(count: int, at_once: int, turn: int) -> list[np.ndarray]:
    """Which of `count` rectangles change in one pass: never all of them, and others in every other
    turn, for those that change together might have each other's places (rows taken for columns).
    """
    groups = max(-(-count // at_once), min(2, count))
    members = np.arange(count)
    if turn % 2:
        return np.array_split(members, groups)
    return [members[number::groups] for number in range(groups)]


def _tried_positions(areas: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The positions whose rectangles are tried, the small ones first; none where there are too few,
    or a corner of a rectangle is hardly a pixel.

    areas: (V,) of the picture.
    pixels: (V, 4) the rectangles.
    """
    placed = np.flatnonzero(~np.isnan(areas))
    if len(placed) < max(FEWEST, len(areas) / 4):
        return placed[:0]
    # Not the slivers at the border of a crop.
    large = areas[placed] > 0.6 * np.median(areas[placed])
    sides = (pixels[:, 2:] - pixels[:, :2])[placed].min(axis=1)
    whole = placed[large & (sides >= LEAST_PIXELS)]
    if not len(whole):
        return whole
    spread = np.linspace(0, len(whole) - 1, TRIED).astype(int)
    chosen = whole[np.unique(spread)]
    order = np.argsort(areas[chosen].round(6), kind="stable")
    return chosen[order]


def _part(
    rect: np.ndarray,
    corner: tuple[bool, bool] | None,
) -> tuple[int, int, int, int]:
    """The box, in pixels, of one corner of a rectangle, two fifths of its width and height, or of
    all of it. corner: see `Changes`.
    """
    x0, y0, x1, y1 = rect.astype(int).tolist()
    if corner is None:
        return x0, y0, x1, y1
    right, bottom = corner
    width = max(2 * (x1 - x0) // 5, 1)
    height = max(2 * (y1 - y0) // 5, 1)
    left = x1 - width if right else x0
    top = y1 - height if bottom else y0
    return left, top, left + width, top + height


def _most_around(
    moved: np.ndarray,
    rects: np.ndarray,
    group: np.ndarray,
) -> np.ndarray:
    """For each position of a group the most that another one moved: of those whose rectangles touch
    none of the group's, each counts for the nearest, and one without a place for all.
    """
    centres = (rects[:, :2] + rects[:, 2:]) / 2
    distances = np.abs(centres[:, None] - centres[group]).sum(axis=2)
    nearest = distances == distances.min(axis=1, keepdims=True)
    counts = nearest | np.isnan(distances)
    apart = np.array([not _touches(rect, rects[group]) for rect in rects])
    return np.where(counts & apart[:, None], moved[:, None], 0).max(axis=0)


def _seen_at(lvlm: LVLM, sample: Sample) -> torch.Tensor:
    """(V, d): what enters layer 0 at the visual positions."""
    return entering(lvlm, sample)[torch.tensor(sample.visual)]


def _touches(rect: np.ndarray, others: np.ndarray) -> bool:
    """Whether a rectangle (4,) has an area in common with one of others (n, 4)."""
    wide = np.minimum(rect[2], others[:, 2]) > np.maximum(rect[0], others[:, 0])
    high = np.minimum(rect[3], others[:, 3]) > np.maximum(rect[1], others[:, 1])
    return bool((wide & high).any())
