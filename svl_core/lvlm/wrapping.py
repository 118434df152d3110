"""`wrap`: a torch model that a person has loaded themselves becomes an `LVLM`.

Some models live in code of their own, which transformers does not carry and this project never
runs by itself (mPLUG-Owl2, Qwen-VL-Chat). Whoever has loaded one can have it analysed: its decoder
layers, its head and its visual positions are found by watching it at work on a test picture, or
named. What is found is tried as it is for an unlisted family (`probing`), and what cannot be found
is said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families, geometry, probing
from svl_core.lvlm.brought import (
    IDS,
    MASK,
    BroughtConfig,
    BroughtModel,
    Encode,
    Parts,
    cache_name,
    logits_of,
)
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.encoding import asked
from svl_core.lvlm.hooks import ThreadHooks, ended_at, hidden_input, hidden_of, pass_over
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample

BROUGHT = dataclasses.replace(families.GENERIC, name="brought", sees_once=False)
"""The family of models that are wrapped."""
LISTS = (torch.nn.ModuleList, torch.nn.Sequential)
"""Kinds of lists that layers are in."""
FEWEST = 3
"""Decoder layers that a model must have."""
STEPS = 3
"""Tokens for which a model's own cache must hold what whole passes give."""
SIZES = {
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels"),
    "max_position_embeddings": ("max_position_embeddings", "seq_length", "n_positions"),
}
"""The decoder's settings -> what configs call them."""
AUTO_PLACES = "auto"
Visual = int | None
"""The id that stands for an image among the ids; None: positions are found by changing pixels."""


@dataclass(frozen=True, eq=False)
class Own:
    """What a wrapped model needs of its person; it goes in the place of a processor.

    encode: see `wrap`.
    tokenizer: decodes the answer's ids.
    visual: see `wrap`.
    images: whether it takes images.
    protect: layers of the whole model that must stay.
    """

    encode: Encode
    tokenizer: Any
    visual: Visual
    images: bool
    protect: tuple[int, ...] = ()


class BroughtLVLM(LVLM):
    """An `LVLM` around a model that a person loaded themselves. Nothing of it can be saved: its
    plan is kept instead, and used again on the model as it was.
    """

    processor: Own

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def max_positions(self) -> int | None:
        return self.text_config.max_position_embeddings

    @property
    def supports_images(self) -> bool:
        return self.processor.images

    @property
    def protection(self) -> dict[int, str]:
        """Why each protected layer stays, by its index."""
        named = set(self.processor.protect)
        present = enumerate(self.layer_ids)
        return {index: "named when it was wrapped" for index, layer in present if layer in named}

    @property
    def protected(self) -> tuple[int, ...]:
        return tuple(self.protection)

    def encode(
        self,
        image,
        prompt,
        *,
        detail: str | None = None,
        max_visual_tokens: int | None = None,
    ) -> Sample:
        """Encodes one question with the person's own `encode`; see `LVLM.encode`.

        detail, max_visual_tokens: not used; the model reads pictures as its `encode` gives them.

        Raises InputError for a chat of several turns, for an image that cannot be opened, and for
        inputs that are no tensors or bring no ids.
        """
        chat, images = asked(image, prompt)
        if not chat.alone:
            raise InputError(
                f"Found {chat.in_words()} for {self.name}, a wrapped model; expected one question;"
                " write the chat in `encode`."
            )
        if images and not self.supports_images:
            raise InputError(
                f"Found an image for {self.name}, wrapped without images; expected a prompt alone;"
                " leave the image out, or wrap it with text_only=False."
            )
        inputs = self._inputs(images, chat.question)
        entered = self._entering(inputs)
        visual: list[int] = []
        if images:
            visual = self._visual(images, chat.question, inputs, entered)
        length = len(entered)
        if self.max_positions is not None and length >= self.max_positions:
            raise InputError(
                f"Found a question of {length} positions; expected fewer than"
                f" {self.max_positions}, the model's context, so that the answer has room; shorten"
                " the prompt."
            )
        positions = np.array(visual, np.int64)
        textual = np.setdiff1d(np.arange(length), positions)
        ids = inputs[IDS][0].tolist()
        at = _places_of_ids(ids, textual, length, self.processor.visual)
        config: Any = self.model.config
        view = _view(config, inputs, images, len(positions))
        sizes = [one.size for one in images]
        image_key = _digest(self.name, sizes, *images)
        sample = Sample(
            inputs=inputs,
            visual=positions,
            textual=textual,
            prompt_positions=_own_words(self.tokenizer, chat.question, at, textual),
            tokens=_written(self.tokenizer, at, length),
            geometry=geometry.place(self.family.geometry, view),
            images=images,
            prompt=chat.question,
            key=_digest(image_key, chat.question),
            image_key=image_key if images else "",
            image_sizes=tuple(sizes),
            pads=False,
        )
        return sample if self.find is None else self.find(sample)

    def _inputs(
        self,
        images: Sequence[Image.Image],
        question: str,
    ) -> dict[str, torch.Tensor]:
        """The person's inputs, on the model's device and in its dtype. Raises InputError."""
        encoded = self.processor.encode(images, question)
        given = dict(encoded)
        inputs = {name: value for name, value in given.items() if value is not None}
        kinds = {name: type(value).__name__ for name, value in inputs.items()}
        tensors = [isinstance(value, torch.Tensor) for value in inputs.values()]
        if not all(tensors) or IDS not in inputs or len(inputs[IDS]) != 1:
            raise InputError(
                f"Found inputs {kinds} for {self.name}; expected tensors by name, among them"
                f" {IDS} (1, n), a batch of one; mend what `encode` returns."
            )
        return _placed_like(self.model, inputs)

    @torch.inference_mode()
    def _entering(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What enters layer 0, (S, d); the decoder itself does not run."""
        with ended_at(self.layers[0]) as calls:
            self.model(**inputs)
        args, kwargs = calls[0]
        return hidden_input(args, kwargs)[0]

    def _visual(
        self,
        images: Sequence[Image.Image],
        question: str,
        inputs: Mapping[str, torch.Tensor],
        entered: torch.Tensor,
    ) -> list[int]:
        """The visual positions: those of the named id, or those that another picture changes.

        Raises InputError where there are none, or where nothing else is left.
        """
        ids = inputs[IDS][0].tolist()
        if self.processor.visual is not None:
            return _expanded(self.name, ids, self.processor.visual, len(entered))
        others = [probing.inverted(image) for image in images]
        other = self._entering(self._inputs(others, question))
        if other.shape != entered.shape:
            raise InputError(
                f"Found {len(entered)} and {len(other)} positions for two pictures of one size in"
                f" {self.name}; expected as many; name the image's id with visual=..."
            )
        differ = (other != entered).any(dim=1)
        moved = differ.nonzero().flatten().tolist()
        if not moved or len(moved) == len(entered):
            what = "every position" if moved else "no position"
            raise InputError(
                f"Found that {what} entering the layers of {self.name} follows the picture;"
                " expected some of them; name the image's id with visual=..., or the decoder's"
                " layers with layers=..."
            )
        return moved

    def save(self, folder, dtype="auto", figures=()):
        """Raises InputError: the code of such a model is its person's, and no checkpoint of
        transformers.
        """
        raise InputError(
            f"Found {self.name}, a wrapped model; expected one of transformers' own to write a"
            " checkpoint of; keep the plan, and prune the model anew where it is loaded."
        )


def wrap(
    model: torch.nn.Module,
    processor: Any = None,
    *,
    encode: Encode | None = None,
    tokenizer: Any = None,
    layers: str | None = None,
    head: str | None = None,
    visual: int | None = None,
    places: str | None = AUTO_PLACES,
    protect: Sequence[int] = (),
    ends: Sequence[int] = (),
    text_only: bool = False,
    name: str | None = None,
) -> LVLM:
    """Makes an `LVLM` of a torch model that you have loaded yourself, of whatever class.

    Trace, importance, redundancy, plans, pruned views, answers and comparisons work on it as on any
    other; only saving does not. The model is not changed; its views share its tensors.

    model: in evaluation mode. Called with what `encode` returns; takes `input_ids`, and gives its
        logits (1, S, vocabulary) as output, as the first of a tuple or as `.logits`.
    processor: called with images=..., text=... where there is no `encode`; written by its chat
        template where it has one.
    encode: encode(images, question) -> the model's inputs by name, tensors for a batch of one;
        images is a list of pictures, empty without any.
    tokenizer: decodes ids to text (default: the processor's, or the processor itself).
    layers: dotted name of the list of decoder layers (default: found by watching a pass).
    head: dotted name of the module that gives the logits (default: found by comparing).
    visual: the id among `input_ids` that stands for an image, once for each visual position or once
        for a whole image (default: positions that other pixels change; costs two passes of the
        vision side for each question).
    places: a rule of `geometry.GEOMETRIES`, "auto" to try them all, None: positions have no place,
        as those of resampled visual tokens.
    protect: layers that must stay.
    ends: ids that end an answer, beside the tokenizer's.
    text_only: the model takes no images.
    name: of the model in results (default: its class).

    Raises InputError for a model in training mode, for parts that are not found, naming the
    argument that names them, and for a model that fails a probe.
    """
    name = name or type(model).__name__
    if model.training:
        raise InputError(
            f"Found {name} in training mode; expected evaluation mode; call its eval() first."
        )
    tokenizer = tokenizer or getattr(processor, "tokenizer", processor)
    if tokenizer is None or encode is None and processor is None:
        raise InputError(
            f"Found no processor for {name}; expected one, or encode=... and tokenizer=...; give"
            " them."
        )
    own = Own(
        encode=encode or _by_processor(processor),
        tokenizer=tokenizer,
        visual=visual,
        images=not text_only,
        protect=tuple(protect),
    )
    example = _example(own, name)
    parts = _parts(model, example, layers, head, name)
    config = _config(model, parts, example, visual)
    brought = BroughtModel(model, parts, config, ends)
    lvlm = BroughtLVLM(brought, own, BROUGHT, name)  # type: ignore[arg-type]  # has its interface
    return _probed(lvlm, places)


def _by_processor(processor: Any) -> Encode:
    """`encode` of a processor that is called with images and text."""

    def encode(images: Sequence[Image.Image], question: str) -> Mapping[str, torch.Tensor]:
        text = question
        if getattr(processor, "chat_template", None):
            content = [{"type": "image"} for _ in images]
            content.append({"type": "text", "text": question})
            messages = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(messages, add_generation_prompt=True)
        shown = list(images) or None
        return processor(images=shown, text=text, return_tensors="pt")

    return encode


def _example(own: Own, name: str) -> Mapping[str, Any]:
    """The inputs of a test question. Raises InputError where `encode` fails."""
    images = [probing.noise(*probing.ORDINARY)] if own.images else []
    try:
        return dict(own.encode(images, probing.QUESTION))
    except Exception as error:  # a person's function may fail in any way
        raise _refusal(name, "picture and question", error, "mend `encode`") from error


def _refusal(
    name: str,
    step: str,
    error: BaseException | str,
    remedy: str,
) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f'Found {name}, which fails the probe "{step}" ({reason.rstrip(".")}); expected a model'
        f" that passes; {remedy}."
    )


# Its parts


def _parts(
    model: torch.nn.Module,
    example: Mapping[str, Any],
    layers: str | None,
    head: str | None,
    name: str,
) -> Parts:
    """Where the layers and the head are: named, or found in one pass. Raises InputError."""
    for argument, path in (("layers", layers), ("head", head)):
        if path is not None and path not in dict(model.named_modules()):
            raise InputError(
                f"Found no module {path!r} in {name}; expected the dotted name of one; correct"
                f" {argument}=..."
            )
    watched = _Watched(model)
    try:
        out = watched.run(_placed_like(model, example))
    except Exception as error:
        raise _refusal(name, "one pass", error, "mend `encode`") from error
    head_only = False
    try:
        logits = logits_of(out)
    except SVLError as error:
        if head is None:
            raise InputError(
                f"Found {error} of {name}; expected (1, S, vocabulary) as output, first of a tuple"
                " or .logits; name the module that gives them with head=..."
            ) from error
        head_only = True
        logits = watched.outputs[head]
    found_head = head or watched.giving(logits)
    if found_head is None:
        raise InputError(
            f"Found no module of {name} whose output are its logits; expected one, such as a linear"
            " map to the vocabulary; name it with head=..."
        )
    length = logits.shape[1]
    found = layers or watched.stack(length)
    if found is None:
        raise InputError(
            f"Found no list of decoder layers in {name}; expected a ModuleList of at least"
            f" {FEWEST} modules called one after the other on (1, {length}, d), as its logits are;"
            " name it with layers=..."
        )
    _check_stack(model, found, watched, name, length)
    return Parts(
        layers=found,
        head=found_head,
        head_only=head_only,
        masked=MASK in example,
    )


def _placed_like(
    model: torch.nn.Module,
    example: Mapping[str, Any],
) -> dict[str, torch.Tensor]:
    """Inputs on the model's device and in its dtype."""
    floating = (weight for weight in model.parameters() if weight.is_floating_point())
    like = next(floating)
    placed = {}
    for name, value in example.items():
        if not isinstance(value, torch.Tensor):
            continue
        value = value.to(like.device)
        placed[name] = value.to(like.dtype) if value.is_floating_point() else value
    return placed


def _check_stack(
    model: torch.nn.Module,
    path: str,
    watched: _Watched,
    name: str,
    length: int,
) -> None:
    """Raises InputError unless a list of layers is one that hands hidden states (1, S, d) on.

    length: S.
    """
    layers: Any = model.get_submodule(path)
    listed = isinstance(layers, LISTS)
    count = len(layers) if listed else 0
    if count < FEWEST:
        raise InputError(
            f"Found {type(layers).__name__} of {count} layers at {path!r} in {name}; expected a"
            f" ModuleList or Sequential of at least {FEWEST}; correct layers=..."
        )
    if not watched.hands_on(path, length):
        raise InputError(
            f"Found that {path!r} of {name} does not hand hidden states (1, {length}, d) on from"
            " each module to the next; expected decoder layers, each called once; correct"
            " layers=..."
        )


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    """The shape of a tensor by its name, () where there is none."""
    return tuple(tensors[name].shape) if name in tensors else ()


class _Watched:
    """One pass of a model, of which every module's first input and output are noted.

    outputs: name -> the tensor that it gave, if it gave one.
    """

    def __init__(self, model: torch.nn.Module):
        self._model = model
        self._names: dict[str, Any] = dict(model.named_modules())
        self.outputs: dict[str, torch.Tensor] = {}
        self._entered: dict[str, torch.Tensor] = {}
        self._calls: list[str] = []  # in the order in which they ended

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """Runs the model; returns its output."""
        with ThreadHooks() as hooks:
            for name, module in self._names.items():
                hooks.on_output(module, self._noting(name))
            return self._model(**inputs)

    def _noting(self, name: str):
        """The action that notes a call of the module of this name."""

        def note(args: tuple, kwargs: Mapping[str, Any], output: Any) -> None:
            self._calls.append(name)
            with contextlib.suppress(StopIteration, IndexError):
                entered = hidden_input(args, kwargs)
                if isinstance(entered, torch.Tensor):
                    self._entered[name] = entered
                given = hidden_of(output)
                if isinstance(given, torch.Tensor):
                    self.outputs[name] = given

        return note

    def stack(self, length: int) -> str | None:
        """The list of modules that hand hidden states on and end last; None without one.

        length: S, positions in the decoder.
        """
        found: dict[int, str] = {}
        for path in self._lists():
            members = len(self._names[path])
            if members >= FEWEST and self.hands_on(path, length):
                last = f"{path}.{self._last(path)}".lstrip(".")
                found[self._calls.index(last)] = path
        return found[max(found)] if found else None

    def _lists(self) -> Iterator[str]:
        """The outermost lists of modules."""
        outer: list[str] = []
        for name, module in self._names.items():
            inside = any(name.startswith(f"{path}.") for path in outer)
            if not inside and isinstance(module, LISTS):
                outer.append(name)
                yield name

    def _members(self, path: str) -> list[str]:
        return [f"{path}.{leaf}".lstrip(".") for leaf, _ in self._names[path].named_children()]

    def _last(self, path: str) -> str:
        return self._members(path)[-1].rpartition(".")[2]

    def hands_on(self, path: str, length: int) -> bool:
        """Whether each member of a list is called once, in order, on (1, S, d), and gives the
        same shape.

        length: S; 1 where the model gives its last logits only.
        """
        members = self._members(path)
        called = [name for name in self._calls if name in set(members)]
        if called != members:
            return False
        shapes: set[tuple[int, ...]] = set()
        for name in members:
            shapes.add(_shape(self._entered, name))
            shapes.add(_shape(self.outputs, name))
        [shape, *others] = shapes
        if others or len(shape) != 3 or shape[0] != 1:
            return False
        return length in (1, shape[1])

    def giving(self, logits: torch.Tensor) -> str | None:
        """The last module without parts of its own whose output are the logits."""
        for name in reversed(self._calls):
            output = self.outputs.get(name)
            whole = any(True for _ in self._names[name].children())
            if output is None or whole or output.shape != logits.shape:
                continue
            if torch.allclose(output.float(), logits.float()):
                return name
        return None


def _config(
    model: torch.nn.Module,
    parts: Parts,
    example: Mapping[str, Any],
    visual: int | None,
) -> BroughtConfig:
    """The settings of a model under the names that this project asks for."""
    layers: Any = model.get_submodule(parts.layers)
    with torch.inference_mode(), ended_at(layers[0]) as calls:
        model(**_placed_like(model, example))
    args, kwargs = calls[0]
    width = hidden_input(args, kwargs).shape[-1]
    config = getattr(model, "config", None)
    text = {name: _setting(config, names) for name, names in SIZES.items()}
    text["num_attention_heads"] = text["num_attention_heads"] or 1
    kind = type(model).__name__
    return BroughtConfig(
        model_type=kind,
        text=SimpleNamespace(
            model_type=kind,
            hidden_size=width,
            num_hidden_layers=len(layers),
            **text,
        ),
        vision_config=SimpleNamespace(),
        image_token_id=visual if visual is not None and visual >= 0 else None,
    )


def _setting(config: Any, names: Sequence[str]) -> int | None:
    """The first of a config's settings that is a number."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)


# Probes


def _probed(lvlm: BroughtLVLM, places: str | None) -> LVLM:
    """The model, tried; with its own cache where that holds, and with places where they do."""
    picture = probing.noise(*probing.ORDINARY) if lvlm.supports_images else None
    sample = lvlm.encode(picture, probing.QUESTION)
    try:
        _check_pruning(lvlm, sample)
    except Exception as error:  # a person's model may fail in any way
        raise _refusal(
            lvlm.name,
            "pruning equals skipping",
            error,
            "name the decoder's layers with layers=..., or those that must stay with protect=...",
        ) from error
    lvlm = _decoding(lvlm, sample)
    if not lvlm.supports_images or places is None:
        return lvlm
    if places != AUTO_PLACES:
        if places not in geometry.GEOMETRIES:
            raise InputError(
                f"Found the places {places!r}; expected {AUTO_PLACES!r}, None or one of"
                f" {', '.join(geometry.GEOMETRIES)}; correct places=..."
            )
        if places == geometry.found.__name__:
            return probing.finding(lvlm, 1)
        family = dataclasses.replace(lvlm.family, geometry=places)
        return dataclasses.replace(lvlm, family=family)
    return probing.placed(lvlm)


def _without(lvlm: LVLM, dropped: Sequence[int]) -> LVLM:
    """The model without some of its layers."""
    keep = [layer for layer in range(lvlm.num_layers) if layer not in dropped]
    ids = [lvlm.layer_ids[layer] for layer in keep]
    model: Any = lvlm.model
    return lvlm.with_model(model.with_layers(keep), ids, {})


def _middle(lvlm: LVLM) -> list[int]:
    """The layers between the first and the last that may go. Raises SVLError without any."""
    between = range(1, lvlm.num_layers - 1)
    free = [layer for layer in between if layer not in lvlm.protected]
    if not free:
        raise SVLError("every layer between the first and the last has to stay")
    return free


@torch.inference_mode()
def _check_pruning(lvlm: LVLM, sample: Sample) -> None:
    """One layer dropped, and three: a pruned pass equals one whose layers are skipped."""
    free = _middle(lvlm)
    middle = free[len(free) // 2]
    for dropped in ({middle}, {free[0], middle, free[-1]}):
        with ThreadHooks() as hooks:
            for layer in dropped:
                hooks.on_output(lvlm.layers[layer], pass_over)
            expected = lvlm.model(**sample.inputs).logits
        pruned = _without(lvlm, sorted(dropped))
        logits = pruned.model(**sample.inputs).logits
        if not _close(lvlm, logits, expected):
            raise SVLError(f"other logits without layers {sorted(dropped)} than with them skipped")


def _close(
    lvlm: LVLM,
    logits: torch.Tensor,
    expected: torch.Tensor,
) -> bool:
    """Whether two logits are the same but for what the dtype leaves."""
    spread = expected.float().std().clamp_min(1e-6)
    difference = logits.float() - expected.float()
    largest = difference.abs().max() / spread
    return bool(largest < probing.TOLERANCE[lvlm.dtype])


def _decoding(lvlm: BroughtLVLM, sample: Sample) -> BroughtLVLM:
    """The model with its own key/value cache, where that gives what whole passes give, for the
    whole model and without a layer; else without.
    """
    model: Any = lvlm.model
    name = cache_name(model.inner)
    if name is None:
        return lvlm
    caching = model.with_parts(cache=name)
    cached = dataclasses.replace(lvlm, model=caching)
    dropped = _middle(lvlm)[-1:]
    try:
        holds = all(
            _cache_holds(_without(lvlm, gone), _without(cached, gone), sample)
            for gone in ([], dropped)
        )
    except Exception:  # it is not used then: every token reads the whole sequence
        return lvlm
    return cached if holds else lvlm


def _cache_holds(
    whole: LVLM,
    cached: LVLM,
    sample: Sample,
) -> bool:
    """Whether further tokens get the same predictions behind a cache as in whole passes."""
    one = Decoding(whole, sample.inputs)
    other = Decoding(cached, sample.inputs)
    for _ in range(STEPS):
        if not _close(whole, other.logits, one.logits):
            return False
        token = one.logits.argmax(-1, keepdim=True)
        one.feed(token)
        other.feed(token)
    return _close(whole, other.logits, one.logits)


# Positions


def _view(
    config: BroughtConfig,
    inputs: Mapping[str, torch.Tensor],
    images: Sequence[Image.Image],
    count: int,
) -> geometry.View:
    """What rules of places may look at: the pixels are taken for images stretched to their shape.

    count: visual positions.
    """
    pixels = [value for value in inputs.values() if value.ndim >= 4]
    known = dict(inputs)
    size = {}
    if pixels:
        known["pixel_values"] = pixels[0]
        size["height"], size["width"] = pixels[0].shape[-2:]
    stretching = SimpleNamespace(size=size)
    return geometry.View(
        config,
        stretching,
        known,
        images,
        {},
        count,
    )


def _expanded(
    name: str,
    ids: Sequence[int],
    mark: int,
    length: int,
) -> list[int]:
    """The visual positions of a sequence: those of the marks, each of which may stand for as many
    positions as the decoder has more.

    ids: n ids.
    mark: the image's.
    length: S, positions in the decoder.

    Raises InputError where the marks do not account for them.
    """
    marks = ids.count(mark)
    more = length - len(ids)
    if not marks or more < 0 or more % marks:
        raise InputError(
            f"Found {marks} marks {mark} among {len(ids)} ids for {length} positions of {name};"
            " expected some, each for as many positions; correct visual=..., or leave it out."
        )
    each = more // marks + 1
    visual: list[int] = []
    at = 0
    for token in ids:
        count = each if token == mark else 1
        if token == mark:
            visual += range(at, at + count)
        at += count
    return visual


def _places_of_ids(
    ids: Sequence[int],
    textual: np.ndarray,
    length: int,
    mark: int | None,
) -> dict[int, int]:
    """position -> id, of the textual positions whose id is certain.

    ids: n ids, of which some stand for images.
    textual: the positions that are no image's.
    length: S.
    mark: the image's id, where it was named.
    """
    if len(ids) == length:
        return {int(at): ids[at] for at in textual}
    known = [token for token in ids if token != mark and token >= 0]
    if len(known) == len(textual):
        pairs = zip(textual, known, strict=True)
        return {int(at): token for at, token in pairs}
    found = {}
    first, behind = length, 0
    inside = np.setdiff1d(np.arange(length), textual)
    if len(inside):
        first = int(inside[0])
        behind = length - 1 - int(inside[-1])
    for at, token in enumerate(ids[:first]):
        found[at] = token
    for back in range(1, behind + 1):
        if back <= len(ids) and length - back not in found:
            found[length - back] = ids[-back]
    return {at: token for at, token in found.items() if token >= 0}


def _written(
    tokenizer: Any,
    ids: Mapping[int, int],
    length: int,
) -> tuple[str, ...]:
    """S printable strings, "" where the id is not known."""
    strings = [""] * length
    for at, token in ids.items():
        strings[at] = tokenizer.decode([token])
    return tuple(strings)


def _own_words(
    tokenizer: Any,
    question: str,
    ids: Mapping[int, int],
    textual: np.ndarray,
) -> np.ndarray:
    """The positions of the question's own words; all textual ones where they are not found."""
    said = "".join(question.split())
    run: list[int] = []
    places = sorted(ids)
    for start in range(len(places)):
        for stop in range(start + 1, len(places) + 1):
            chosen = [ids[at] for at in places[start:stop]]
            words = tokenizer.decode(chosen).split()
            text = "".join(words)
            if text == said:
                run = places[start:stop]
            if len(text) > len(said):
                break
    return np.array(run or list(textual), np.int64)


def _digest(*parts: Any) -> str:
    """sha256 of texts, sizes and pictures."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Image.Image):
            digest.update(part.tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
