"""From images and a prompt, or a whole chat, to a `Sample`: chat template, processor, visual
positions, and the words of every turn as plain text.

The processor runs on a stand-in for a turn's words; the words take its place only when the text
is split into tokens. So what a user writes can neither be read as a special token nor be mistaken
for an image placeholder.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import BatchEncoding

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families, geometry
from svl_core.lvlm.chat import CHAT_KEYS, USER, Chat, Turn, read_chat
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
SIMPLE = Chat((Turn(USER, ""),))
FORMS: tuple[Callable[[Turn], bool], ...] = (
    lambda turn: True,
    lambda turn: False,
    lambda turn: turn.role == USER,
)
"""Which turns are lists of parts: templates take all of them so, none, or the user's."""

TYPES = "mm_token_type_ids"  # which of a sequence's tokens stand for an image
NOWHERE = np.zeros(0, np.int64)  # no position
MARKED = "image_embeds_position_mask"
"""The input that is 1 where a position holds an image."""

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
        chat: Chat,
        images: Sequence[Image.Image],
        device: torch.device,
        dtype: torch.dtype,
        detail: str = FULL,
        max_visual_tokens: int | None = None,
    ) -> Sample:
        """See `LVLM.encode`. chat, images: as `asked` gives them."""
        images = tuple(images)
        if images and not self.supports_images:
            raise InputError(
                f"Found an image for {self.name}, a text-only model; expected a prompt alone; leave"
                " the image out or choose one of `svl models`."
            )
        if not images and self.family.image_required:
            raise InputError(
                f"Found no image; expected one, for {self.name} answers about images only; add an"
                " image."
            )
        text, chat = _rendered(self, chat)
        said = [turn.text for turn in chat.turns]
        words = _Words(self.tokenizer, said, control_ids(self))
        level, processor, shown = _prepared(self, images, detail, max_visual_tokens)
        inputs, cuts = _processed(self, processor, text, shown, words)
        ids = inputs["input_ids"][0]
        if self.max_positions is not None and len(ids) >= self.max_positions:
            raise InputError(
                f"Found a question of {len(ids)} positions{' with its image' * bool(images)};"
                f" expected fewer than {self.max_positions}, the model's context, so that the"
                " answer has room; shorten the prompt."
            )

        visual = self._visual(inputs) if images else NOWHERE
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
            prompt_positions=np.setdiff1d(words.places_in(ids, visual), visual),
            tokens=printable(self.tokenizer, ids.tolist()),
            geometry=geometry.place(self.family.geometry, view),
            images=images,
            prompt=chat.question,
            key=_key(image_key, chat),
            image_key=image_key if images else "",
            image_sizes=tuple(image.size for image in images),
            detail=level.name,
        )

    def _visual(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        """The positions that hold an image: those of the image token, or those that the processor
        marks where it brings a mask of them (Kosmos-2).
        """
        token = families.image_token_id(self.config)
        marks = inputs.get(MARKED)
        if not self.family.in_sequence or (marks is None and token is None):
            return NOWHERE
        wanted = token if marks is None else 1
        held = (inputs["input_ids"] if marks is None else marks)[0].numpy() == wanted
        return np.flatnonzero(held).astype(np.int64)


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


def asked(image, prompt) -> tuple[Chat, tuple[Image.Image, ...]]:
    """What `encode` takes, as one chat and its pictures.

    image, prompt: see `LVLM.encode`.

    Raises InputError.
    """
    if isinstance(prompt, Mapping):  # a data set's row, or one message
        turns = next((prompt[key] for key in CHAT_KEYS if key in prompt), None)
        prompt = [prompt] if turns is None else turns
    if isinstance(prompt, str):
        prompt = Chat((Turn(USER, prompt),))
    elif isinstance(prompt, Sequence):
        read = read_chat(prompt, "the prompt")
        prompt = read.chat
        if read.sources and image is not None:
            raise InputError(
                "Found images in the chat and beside it; expected them in one place; leave one of"
                " the two out."
            )
        image = list(read.sources) or image
    if not isinstance(prompt, Chat) or not all(turn.text.strip() for turn in prompt.turns):
        raise InputError(
            "Found an empty prompt; expected a question or an instruction, or a list of messages;"
            " type one."
        )
    images = opened(image)
    shown = prompt.showing(len(images))
    turns = (replace(turn, text=turn.text.strip().replace(STAND_IN, "")) for turn in shown.turns)
    return Chat(tuple(turns)), images


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


def _key(image_key: str, chat: Chat) -> str:
    """sha256 of model, images and prompt."""
    prompt = chat.question if chat.alone else json.dumps(astuple(chat))
    return hashlib.sha256(f"{image_key} {prompt}".encode()).hexdigest()


# Template


def _rendered(reader: Reader, chat: Chat) -> tuple[str, Chat]:
    """The text for the processor, with `STAND_IN` for the words of each turn, and the chat that it
    holds: chat template where there is one. A template may leave the system turn out.

    Raises InputError for more than one question where no template writes all of it, in the
    template's own words where it has some.
    """
    refusals: list[str] = []
    for owner in (reader.processor, reader.tokenizer):
        template = getattr(owner, "chat_template", None)
        text = _templated(reader, owner, template, chat, refusals) if template else None
        if text is not None:
            return text, chat if text.count(STAND_IN) == len(chat.turns) else chat.without_system()
    if refusals and not _simple(chat):
        raise InputError(
            f"Found {chat.in_words()}, which the chat template of {reader.name} refuses"
            f" ({refusals[0]}); expected what it takes; leave the rest out."
        )
    if not chat.alone:
        raise InputError(
            f"Found {chat.in_words()}, which no chat template of {reader.name} writes; expected"
            " one question; ask it alone."
        )
    marks = _image_mark(reader) * chat.images
    return reader.family.plain_prompt.format(images=marks, prompt=STAND_IN).strip(), chat


def _templated(
    reader: Reader,
    owner,
    template,
    chat: Chat,
    refusals: list[str],
) -> str | None:
    """The text by a chat template; None where the template does not take such messages.

    owner: the processor or tokenizer that has it.
    refusals: what the template says against them is added.
    """
    source = template if isinstance(template, str) else " ".join(map(str, dict(template).values()))
    options = {
        name: value for name, value in reader.family.template_options.items() if name in source
    }
    write = partial(
        owner.apply_chat_template,
        add_generation_prompt=True,
        tokenize=False,
        **options,
    )
    asked_alone = chat.without_system()
    of_its_own = None
    for in_parts in FORMS:
        messages = _messages(reader, chat, in_parts)
        try:
            text = write(messages)
            left_out = asked_alone != chat and text == write(messages[1:])
        except Exception as error:
            if type(error) is TemplateError:  # what a template raises itself
                refusals.append(" ".join(str(error).split())[:200].rstrip("."))
                if not _simple(chat) and _takes(write, _messages(reader, SIMPLE, in_parts)):
                    return None  # it is the chat that it refuses, not the form
            continue
        written = asked_alone if left_out else chat
        shows = not chat.images or text.count(_image_mark(reader)) == chat.images
        if text.count(STAND_IN) != len(written.turns):
            continue
        if shows:
            return text
        if (
            of_its_own is None
            and in_parts(chat.turns[-1])
            and _marks(write, reader, chat, in_parts)
        ):
            of_its_own = text
    return of_its_own


def _marks(
    write: Callable[[list], str],
    reader: Reader,
    chat: Chat,
    in_parts: Callable[[Turn], bool],
) -> bool:
    """Whether a template writes something for images, though not the processor's own mark: a mark
    that its processor reads.
    """
    bare = replace(chat, turns=tuple(replace(turn, images=0) for turn in chat.turns))
    try:
        with_images = write(_messages(reader, chat, in_parts))
        return with_images != write(_messages(reader, bare, in_parts))
    except Exception:  # a template that wants an image
        return True


def _simple(chat: Chat) -> bool:
    """Whether it is one question about one image at most."""
    return chat.alone and chat.images <= 1


def _takes(write: Callable[[list], str], messages: list) -> bool:
    """Whether a template takes these messages."""
    try:
        write(messages)
    except Exception:
        return False
    return True


def _messages(
    reader: Reader,
    chat: Chat,
    in_parts: Callable[[Turn], bool],
) -> list[dict[str, Any]]:
    """The chat as a template takes it.

    in_parts: whether a turn is a list of parts rather than a text.
    """
    messages = []
    for turn in chat.turns:
        content: Any = _image_mark(reader) * turn.images + STAND_IN
        if in_parts(turn):
            text = {"type": "text", "text": STAND_IN}
            content = [*({"type": "image"} for _ in range(turn.images)), text]
        messages.append({"role": turn.role, "content": content})
    return messages


def _image_mark(reader: Reader) -> str:
    """What the template writes for one image; "" where the processor does so itself."""
    if reader.family.mark == "none":
        return ""
    token = "boi_token" if reader.family.mark == "boi" else "image_token"
    mark = getattr(reader.processor, token, None)
    if mark is None:
        token_id = families.image_token_id(reader.config)
        if token_id is not None:
            mark = reader.tokenizer.convert_ids_to_tokens(token_id)
    return str(mark or "")


# Tokens


class _Words:
    """Stands in for the tokenizer inside the processor, so that the words of every turn are read as
    plain text.

    The text that the processor hands over has `STAND_IN` in the place of each turn's words. The
    words are put in here; where some of their characters would read as a control token, breaks are
    put between these, and the tokens of the breaks are taken out again. The words' positions are
    remembered.
    """

    def __init__(
        self,
        tokenizer,
        said: Sequence[str],
        control_ids: frozenset[int],
    ):
        self._tokenizer = tokenizer
        self._said = said
        self._control_ids = control_ids
        self._ids: list[int] = []
        self._positions = np.zeros(0, np.int64)

    def by(self, tokenizer) -> _Words:
        """The same words for another tokenizer."""
        return _Words(tokenizer, self._said, frozenset(tokenizer.all_special_ids))

    def places_in(self, ids: torch.Tensor, visual: np.ndarray) -> np.ndarray:
        """Positions of the words in the whole sequence `ids`.

        Some processors put an image's tokens before the text's (BLIP-2), others put them in the
        place of the text's marks (Kosmos-2).

        visual: the positions that hold images.
        """
        ahead = len(ids) - len(self._ids)
        given = ids[max(ahead, 0) :].numpy()
        others = given != self._ids if len(given) == len(self._ids) else None
        if others is None or np.setdiff1d(others.nonzero()[0] + ahead, visual).size:
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
        """Tokenizes `text` (a string or a list of one) with each turn's words in the place of its
        `STAND_IN`.
        """
        single = isinstance(text, str)
        if not single and len(text) > 1:
            raise InputError(
                f"Found a processor that writes {len(text)} texts of its own for one question;"
                " expected one that reads the question; choose another model."
            )
        tensors = None if single else options.get("return_tensors")
        text = text if single else text[0]
        for name in UNUSED_OPTIONS:
            options.pop(name, None)
        if STAND_IN not in text:  # a part of its own, such as the image's tokens
            return self._tokenizer(text if single else [text], **options)
        filled = _Filled(text, self._said)
        for _ in range(ROUNDS):
            whole = filled.text
            coded = self._tokenizer(whole, return_offsets_mapping=True, **options)
            offsets = coded["offset_mapping"]
            pieces = zip(coded["input_ids"], offsets, strict=True)
            control = [
                filled.holds(first, last) and self._is_control(token, whole[first:last])
                for token, (first, last) in pieces
            ]
            spans = [span for span, found in zip(offsets, control, strict=True) if found]
            if not filled.insert_breaks(first for first, last in spans if last - first > 1):
                break
        keep = [
            not is_control and not filled.is_break(first, last)
            for (first, last), is_control in zip(offsets, control, strict=True)
        ]
        data = {
            name: [value for value, stays in zip(values, keep, strict=True) if stays]
            for name, values in coded.items()
        }
        offsets = data.pop("offset_mapping")
        self._ids = data["input_ids"]
        inside = [filled.touches(first, last) for first, last in offsets]
        self._positions = np.flatnonzero(inside).astype(np.int64)
        batch = data if single else {name: [values] for name, values in data.items()}
        return _Coded(batch, offsets, filled, tensors)

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


class _Filled:
    """A text in which words have taken the places of the stand-ins.

    Raises SVLError where there is another number of stand-ins than of words: a processor hands
    over a part of the text only.
    """

    def __init__(self, text: str, said: Sequence[str]):
        self._around = text.split(STAND_IN)
        self._words = [_Broken(words) for words in said]
        if len(self._around) != len(said) + 1:
            raise SVLError(
                f"Found a processor that reads a chat of {len(said)} turns in parts; expected one"
                " that reads it whole; ask one question alone."
            )
        self._place()

    def _place(self) -> None:
        """Where the words of each turn lie: `starts`, `ends` of their characters."""
        at, self.starts, self.ends = 0, [], []
        for before, words in zip(self._around, self._words, strict=False):
            self.starts.append(at + len(before))
            at += len(before) + len(words.characters)
            self.ends.append(at)

    @property
    def text(self) -> str:
        """The whole of it."""
        parts = [self._around[0]]
        for words, behind in zip(self._words, self._around[1:], strict=True):
            parts += ["".join(words.characters), behind]
        return "".join(parts)

    def holds(
        self,
        first: int,
        last: int,
    ) -> bool:
        """Whether the characters first..last - 1 are all words of one turn."""
        spans = zip(self.starts, self.ends, strict=True)
        return first < last and any(start <= first and last <= end for start, end in spans)

    def touches(
        self,
        first: int,
        last: int,
    ) -> bool:
        """Whether one of the characters first..last - 1 is one of the words'."""
        spans = zip(self.starts, self.ends, strict=True)
        return first < last and any(first < end and last > start for start, end in spans)

    def insert_breaks(self, firsts: Iterable[int]) -> bool:
        """Puts a break behind each of these characters of the words; whether there were any."""
        found = set(firsts)
        for start, end, words in zip(self.starts, self.ends, self._words, strict=True):
            words.insert_breaks({first - start for first in found if start <= first < end})
        self._place()
        return bool(found)

    def is_break(
        self,
        first: int,
        last: int,
    ) -> bool:
        """Whether the characters first..last - 1 are breaks and nothing else."""
        spans = zip(self.starts, self._words, strict=True)
        return any(words.is_break(first - start, last - start) for start, words in spans)

    def place_of(self, char: int) -> int:
        """Where a character of the text with the stand-ins lies now."""
        shift, start = 0, 0
        for before, words in zip(self._around, self._words, strict=False):
            start += len(before)
            if char > start:
                shift += len(words.characters) - len(STAND_IN)
            start += len(STAND_IN)
        return char + shift


class _Coded(BatchEncoding):
    """A tokenizer's answer for one text, whose character positions are those of the text with the
    stand-ins.
    """

    def __init__(self, data, offsets, filled: _Filled, tensors: str | None = None):
        super().__init__(data, tensor_type=tensors)
        self._offsets = offsets
        self._filled = filled

    def char_to_token(self, batch_or_char_index, char_index=None, sequence_index=0):
        char = batch_or_char_index if char_index is None else char_index
        char = self._filled.place_of(char)
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
    text: str,
    images: Sequence[Image.Image],
    words: _Words,
) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    """The processor's tensors for a batch of one, on the CPU, and what its image processor returns
    about cutting the images.
    """
    cuts: dict[str, Any] = {}
    bos = reader.tokenizer.bos_token
    options = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    if reader.processor is reader.tokenizer:
        encoded = words([text], **options)
    else:
        if images and _counts_by_type(reader):
            options[f"return_{TYPES}"] = True
        processor = copy.copy(processor)
        processor.tokenizer = words
        for half in _further_tokenizers(processor):
            setattr(processor, half, words.by(getattr(processor, half)))
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


def _further_tokenizers(processor: Any) -> list[str]:
    """The processor's other halves that read the question: InstructBLIP's queries have words of
    their own.
    """
    halves = processor.get_attributes() if hasattr(processor, "get_attributes") else ()
    return [half for half in halves if half.endswith("tokenizer") and half != "tokenizer"]


def _counts_by_type(reader: Reader) -> bool:
    """Whether the decoder has multimodal rotary positions, which are counted by the type of each
    token, and the processor can tell it. Most return the types unasked, not all (Cosmos3 Edge).
    """
    text = reader.config.get_text_config(decoder=True)
    rotary = getattr(text, "rope_parameters", None)
    if not isinstance(rotary, Mapping) or "mrope_section" not in rotary:
        return False
    return TYPES in (getattr(reader.processor, "model_input_names", None) or ())


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
