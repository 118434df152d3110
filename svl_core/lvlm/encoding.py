"""From images and a prompt to a `Sample`: chat template, processor, visual positions, and the
user's words as plain text.

The processor runs on a stand-in for the user's words; the words take its place only when the text
is split into tokens. So what a user writes can neither be read as a special token nor be mistaken
for an image placeholder.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchEncoding

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families, geometry
from svl_core.lvlm.detail import Level, Setup, Sizes, too_many
from svl_core.lvlm.images import open_image
from svl_core.lvlm.sample import Sample
from svl_core.recipe import FULL

STAND_IN = (  # private-use characters: no template, tokenizer or user writes these
    "\ue0f0\ue0f1\ue0f0"
)
# word joiner, put into a special token's text to break it; its own tokens are taken out again
BREAK = "\u2060"
# What some processors return beside the model's inputs.
NOT_FOR_THE_MODEL = (
    "labels",
    "rows",
    "cols",
    "num_crops",
    "num_patches",
)
# Options of a tokenizer's call that make no sense for one text whose offsets are read here.
UNUSED_OPTIONS = (
    "return_tensors",
    "padding",
    "truncation",
    "max_length",
    "pad_to_multiple_of",
    "return_offsets_mapping",
)
# What processors raise for pictures that they do not take.
PROCESSOR_ERRORS = (
    ValueError,
    TypeError,
    ZeroDivisionError,
    IndexError,
    RuntimeError,
    OSError,
)
TOKEN_SETTINGS = ("_token_id", "_token_index")  # how a config's settings that name a token end
ROUNDS = 8  # of breaking; whatever still reads as a special token then is left out


@dataclass(frozen=True, eq=False)
class Reader:
    """What reading a question takes of a model: everything but its weights.

    config: the whole model's.
    name, revision: the model's; they go into samples' keys.
    """

    processor: Any
    family: families.Family
    config: Any
    name: str
    revision: str | None = None

    @property
    def tokenizer(self):
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def supports_images(self) -> bool:
        """Whether it takes images; a text-only model's processor is its tokenizer."""
        return self.processor is not self.tokenizer

    @property
    def max_positions(self) -> int | None:
        """The context length in positions; None when the model states none."""
        return getattr(
            self.config.get_text_config(decoder=True),
            "max_position_embeddings",
            None,
        )

    @property
    def sizes(self) -> Sizes:
        """The sizes in which it reads pictures."""
        return Sizes(self.family, Setup(self.processor, self.config))

    def encode(
        self,
        image,
        prompt: str,
        device: torch.device,
        dtype: torch.dtype,
        detail: str = FULL,
        max_visual_tokens: int | None = None,
    ) -> Sample:
        """See `LVLM.encode`."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(
                "Found an empty prompt; expected a question or an instruction; type one."
            )
        prompt = prompt.strip().replace(STAND_IN, "")
        images = opened(image)
        if images and not self.supports_images:
            raise InputError(
                f"Found an image for {self.name}, a text-only model; expected a prompt alone; leave"
                " the image out or choose one of `svl models`."
            )
        if not images and self.family.image_required:
            raise InputError(
                f"Found no image; expected one, for {self.family.name} models answer about images"
                " only; add an image."
            )
        words = _Words(self.tokenizer, prompt, control_ids(self))
        level, processor, shown = _prepared(self, images, detail, max_visual_tokens)
        inputs, cuts = _processed(self, processor, shown, words)
        ids = inputs["input_ids"][0]
        if self.max_positions is not None and len(ids) >= self.max_positions:
            raise InputError(
                f"Found a question of {len(ids)} positions{' with its image' * bool(images)};"
                f" expected fewer than {self.max_positions}, the model's context, so that the"
                " answer has room; shorten the prompt."
            )

        visual_id = families.image_token_id(self.config)
        visual = (
            (ids == visual_id).nonzero()[:, 0].numpy()
            if images and self.family.in_sequence and visual_id is not None
            else np.zeros(0, np.int64)
        )
        if max_visual_tokens is not None and len(visual) > max_visual_tokens:
            raise too_many(len(visual), max_visual_tokens)
        view = geometry.View(
            self.config,
            getattr(processor, "image_processor", None),
            inputs,
            shown,
            cuts,
            len(visual),
        )
        on_device = {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }
        image_key = _image_key(self, images, level)
        return Sample(
            inputs=on_device,
            visual=visual,
            textual=np.setdiff1d(np.arange(len(ids)), visual),
            prompt_positions=np.setdiff1d(words.places_in(ids), visual),
            tokens=printable(self.tokenizer, ids.tolist()),
            geometry=geometry.place(self.family.geometry, view),
            images=images,
            prompt=prompt,
            key=_key(image_key, prompt),
            image_key=image_key if images else "",
            image_sizes=tuple(image.size for image in images),
            detail=level.name,
        )


def printable(
    tokenizer,
    ids: Sequence[int],
) -> tuple[str, ...]:
    """One readable string for each token id; a leading space shows where a word begins."""
    strings = []
    for piece in tokenizer.convert_ids_to_tokens(list(ids)):
        text = tokenizer.convert_tokens_to_string([piece])
        if "\ufffd" in text:
            text = piece  # part of a character: show the tokenizer's own spelling
        if piece[:1] in "\u2581\u0120" and not text.startswith(" "):
            text = " " + text
        strings.append(text)
    return tuple(strings)


def opened(image) -> tuple[Image.Image, ...]:
    """What `encode` takes as its image, as pictures. Raises InputError."""
    if image is None:
        return ()
    several = isinstance(image, Sequence) and not isinstance(image, (str, bytes, bytearray))
    sources = image if several else [image]
    return tuple(open_image(source) for source in sources)


def _image_key(reader: Reader, images: Sequence[Image.Image], level: Level) -> str:
    """sha256 of model, images and how closely they are looked at."""
    sizes = [image.size for image in images]
    read: tuple = reader.name, reader.revision, sizes
    if level.amount is not None:
        read = *read, reader.family.detail.rule, level.amount
    digest = hashlib.sha256(repr(read).encode())
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()


def _key(image_key: str, prompt: str) -> str:
    """sha256 of model, images and prompt."""
    return hashlib.sha256(f"{image_key} {prompt}".encode()).hexdigest()


# Template


def _rendered(reader: Reader, images: int) -> str:
    """The text for the processor: chat template where there is one, with `STAND_IN` for the user's
    words.
    """
    for owner in (reader.processor, reader.tokenizer):
        template = getattr(owner, "chat_template", None)
        text = _templated(reader, owner, template, images) if template else None
        if text is not None:
            return text
    marks = _image_marks(reader, images)
    return reader.family.plain_prompt.format(images=marks, prompt=STAND_IN).strip()


def _templated(
    reader: Reader,
    owner,
    template,
    images: int,
) -> str | None:
    """The text by a chat template; None where the template does not take such a message.

    owner: the processor or tokenizer that has it.
    """
    source = template if isinstance(template, str) else " ".join(map(str, dict(template).values()))
    options = {
        name: value for name, value in reader.family.template_options.items() if name in source
    }
    parts = [{"type": "image"}] * images + [{"type": "text", "text": STAND_IN}]
    plain = _image_marks(reader, images) + STAND_IN  # some templates take a plain string only
    for content in (parts, plain):
        message = {"role": "user", "content": content}
        try:
            text = owner.apply_chat_template(
                [message],
                add_generation_prompt=True,
                tokenize=False,
                **options,
            )
        except Exception:
            continue
        if text.count(STAND_IN) == 1 and (not images or _shows_images(reader, text, images)):
            return text
    return None


def _image_mark(reader: Reader) -> str:
    """What the template writes for one image."""
    token = "boi_token" if reader.family.mark == "boi" else "image_token"
    mark = getattr(reader.processor, token, None)
    if mark is None:
        token_id = families.image_token_id(reader.config)
        if token_id is not None:
            mark = reader.tokenizer.convert_ids_to_tokens(token_id)
    return str(mark or "")


def _image_marks(reader: Reader, images: int) -> str:
    return _image_mark(reader) * images


def _shows_images(
    reader: Reader,
    text: str,
    images: int,
) -> bool:
    return text.count(_image_mark(reader)) == images


# Tokens


class _Words:
    """Stands in for the tokenizer inside the processor, so that the user's words are read as plain
    text.

    The text that the processor hands over has `STAND_IN` in the words' place. The words are put in
    here; where some of their characters would read as a control token, breaks are put between
    these, and the tokens of the breaks are taken out again. The words' positions are remembered.
    """

    def __init__(
        self,
        tokenizer,
        prompt: str,
        control_ids: frozenset[int],
    ):
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._control_ids = control_ids
        self._ids: list[int] = []
        self._positions = np.zeros(0, np.int64)

    def places_in(self, ids: torch.Tensor) -> np.ndarray:
        """Positions of the user's words in the whole sequence `ids`.

        Some processors put an image's tokens before the text's (BLIP-2).
        """
        ahead = len(ids) - len(self._ids)
        if ids[max(ahead, 0) :].tolist() != self._ids:
            raise SVLError(
                "Found a processor that rearranges the text's tokens; expected them as its"
                " tokenizer gave them; this model cannot be used."
            )
        return self._positions + ahead

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __len__(self):
        return len(self._tokenizer)

    def __call__(self, text=None, **options):
        """Tokenizes `text` (a string or a list of one) with the user's words in the place of
        `STAND_IN`.
        """
        single = isinstance(text, str)
        text = text if single else text[0]
        for name in UNUSED_OPTIONS:
            options.pop(name, None)
        if STAND_IN not in text:  # a part of its own, such as the image's tokens
            return self._tokenizer(text if single else [text], **options)
        start = text.index(STAND_IN)
        behind = text[start + len(STAND_IN) :]
        words = _Broken(self._prompt)
        for _ in range(ROUNDS):
            whole = text[:start] + "".join(words.characters) + behind
            coded = self._tokenizer(whole, return_offsets_mapping=True, **options)
            end = start + len(words.characters)
            pieces = list(zip(coded["input_ids"], coded["offset_mapping"], strict=True))
            control = [
                start <= first < last <= end and self._is_control(token, whole[first:last])
                for token, (first, last) in pieces
            ]
            spans = [
                span for (_, span), is_control in zip(pieces, control, strict=True) if is_control
            ]
            breakable = {first - start for first, last in spans if last - first > 1}
            if not breakable:
                break
            words.insert_breaks(breakable)
        keep = [
            not is_control and not words.is_break(first - start, last - start)
            for (_, (first, last)), is_control in zip(pieces, control, strict=True)
        ]
        data = {
            name: [value for value, stays in zip(values, keep, strict=True) if stays]
            for name, values in coded.items()
        }
        offsets = data.pop("offset_mapping")
        self._ids = data["input_ids"]
        end = start + len(words.characters)
        inside = [last > first and first < end and last > start for first, last in offsets]
        self._positions = np.flatnonzero(inside).astype(np.int64)
        shift = len(words.characters) - len(STAND_IN)
        batch = data if single else {name: [values] for name, values in data.items()}
        return _Coded(batch, offsets, start, shift)

    def _is_control(
        self,
        ident: int,
        written: str,
    ) -> bool:
        """Whether the piece is a control token that `written` spells, rather than an unknown piece
        that shares its id.
        """
        if ident not in self._control_ids:
            return False
        token = self._tokenizer.added_tokens_decoder.get(ident)
        return (
            token is None
            or ident != self._tokenizer.unk_token_id
            or token.content.strip().lower() == written.strip().lower()
        )


class _Broken:
    """The user's words with breaks of ours between some of their characters."""

    def __init__(self, words: str):
        self.characters = list(words)
        self._breaks = [False] * len(words)

    def insert_breaks(self, firsts: Iterable[int]) -> None:
        """Puts a break behind each of these characters."""
        for first in sorted(firsts, reverse=True):
            self.characters.insert(first + 1, BREAK)
            self._breaks.insert(first + 1, True)

    def is_break(
        self,
        first: int,
        last: int,
    ) -> bool:
        """Whether the characters first..last - 1 are breaks and nothing else."""
        if not 0 <= first < last:
            return False
        marks = self._breaks[first:last]
        return bool(marks) and all(marks)


class _Coded(BatchEncoding):
    """A tokenizer's answer for one text, whose character positions are those of the text with the
    stand-in.
    """

    def __init__(self, data, offsets, start, shift):
        super().__init__(data)
        self._offsets = offsets
        self._start = start
        self._shift = shift

    def char_to_token(self, batch_or_char_index, char_index=None, sequence_index=0):
        char = batch_or_char_index if char_index is None else char_index
        char += self._shift if char > self._start else 0
        return next(
            (i for i, (a, b) in enumerate(self._offsets) if a <= char < b),
            None,
        )


def control_ids(reader: Reader) -> frozenset[int]:
    """Ids that a user's words must never turn into: special tokens, marks of images, tiles and
    turns.
    """
    tokenizer = reader.tokenizer
    template = str(getattr(reader.processor, "chat_template", None) or "")
    marks = re.compile(
        r"image|img|vision|video|audio|row_\d|tile|patch|turn",
        re.IGNORECASE,
    )
    ids = set(tokenizer.all_special_ids)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        content = token.content
        is_mark = content in template or marks.search(content)
        if token.special or (is_mark and not content.isspace()):
            ids.add(token_id)
    for name in dir(reader.config):
        value = getattr(reader.config, name, None) if name.endswith(TOKEN_SETTINGS) else None
        if isinstance(value, int):
            ids.add(value)
    return frozenset(ids)


# Processor


def _prepared(
    reader: Reader,
    images: Sequence[Image.Image],
    detail: str,
    max_visual_tokens: int | None,
) -> tuple[Level, Any, Sequence[Image.Image]]:
    """How closely the images are looked at, the processor that does so, and the images for it."""
    if not images or detail == FULL and max_visual_tokens is None:
        return Level(FULL), reader.processor, images
    sizes = reader.sizes
    with _taken(reader, images):
        level = sizes.level(images, detail, max_visual_tokens)
        return level, *sizes.prepared(level, images)


@contextlib.contextmanager
def _taken(reader: Reader, images: Sequence[Image.Image]) -> Iterator[None]:
    """What the processor raises within this block is said in a sentence."""
    try:
        yield
    except InputError:
        raise
    except PROCESSOR_ERRORS as error:
        sizes = ", ".join(f"{image.width} x {image.height}" for image in images) or "none"
        raise InputError(
            f"Found images ({sizes} pixels) that the processor of {reader.name} does not take"
            f" ({' '.join(str(error).split())[:200]}); expected an ordinary picture; try"
            " another one."
        ) from error


def _processed(
    reader: Reader,
    processor: Any,
    images: Sequence[Image.Image],
    words: _Words,
) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    """The processor's tensors for a batch of one, on the CPU, and what its image processor returns
    about cutting the images.
    """
    text = _rendered(reader, len(images))
    cuts: dict[str, Any] = {}
    bos = reader.tokenizer.bos_token
    options = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    if reader.processor is reader.tokenizer:
        encoded = words([text], **options)
    else:
        processor = copy.copy(processor)
        processor.tokenizer = words
        replace_image_token: Any = getattr(processor, "replace_image_token", None)

        def record_cuts(image_inputs, *args, **kwargs):
            cuts.update(image_inputs)
            return replace_image_token(image_inputs, *args, **kwargs)

        processor.replace_image_token = record_cuts
        with _taken(reader, images):
            encoded = _run_processor(processor, images, text, options)
    inputs = {
        name: torch.as_tensor(value)
        for name, value in encoded.items()
        if name not in NOT_FOR_THE_MODEL
    }
    return inputs, cuts


def _run_processor(
    processor,
    images: Sequence[Image.Image],
    text: str,
    options: dict,
):
    """The processor's answer for a batch of one; some take a flat list of images only (GOT-OCR)."""
    batch = [list(images)] if images else None
    try:
        return processor(
            images=batch,
            text=[text],
            return_tensors="pt",
            **options,
        )
    except ValueError:
        if not images:
            raise
        return processor(
            images=list(images),
            text=[text],
            return_tensors="pt",
            **options,
        )
