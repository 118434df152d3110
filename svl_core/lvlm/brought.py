"""A torch model that a person loaded themselves, in the form in which this project calls models.

It is called as its own author wrote it. What differs from a model of transformers is met here: how
its layers are reached and cut, where its logits are, and how it decodes. Where its own key/value
cache does not hold what a whole pass gives, every further token reads the whole sequence again.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from svl_core.errors import SVLError
from svl_core.lvlm import blanks
from svl_core.lvlm.hooks import ThreadHooks

IDS = "input_ids"
MASK = "attention_mask"
CACHES = ("cache", "past_key_values", "past_key_value", "past")
"""What models call their key/value cache."""
COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
"""What configs and modules call the number of their layers."""
TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
NUMBER_MARKS = ("idx", "index", "layer_id", "layer_num")
"""What is in the names of attributes that hold a layer's own number."""


@dataclass(frozen=True)
class Parts:
    """Where the parts of a brought model are.

    layers: dotted name of its list of decoder layers.
    head: dotted name of the module that gives the logits; "" where it is not known yet.
    head_only: whether logits are taken from that module rather than from the model's output.
    cache: what the model calls its key/value cache; None: it decodes without.
    masked: whether its inputs bring an attention mask; otherwise it gets none.
    """

    layers: str
    head: str = ""
    head_only: bool = False
    cache: str | None = None
    masked: bool = True


@dataclass(eq=False)
class Memory:
    """What a pass over one prompt leaves for further tokens.

    inputs: all that was read, with the tokens since.
    length: positions in the decoder so far.
    cache: the model's own; None where it is not used.
    """

    inputs: dict[str, torch.Tensor]
    length: int
    cache: Any = None


Read = tuple[torch.Tensor, Memory]
"""Logits (1, n, vocabulary), and what further tokens go on from."""


@dataclass(eq=False)
class Memories:
    """Those of a batch's rows."""

    rows: list[Memory]

    @property
    def layers(self) -> tuple[None]:
        """No caches that another pass could go on from."""
        return (None,)


class BroughtModel(torch.nn.Module):
    """A person's model with the interface that this project asks of models.

    inner: the model itself.
    parts: where its parts are.
    config: settings under the names that transformers gives them.
    ends: ids that end an answer.
    """

    def __init__(
        self,
        inner: torch.nn.Module,
        parts: Parts,
        config: Any,
        ends: Sequence[int] = (),
    ):
        super().__init__()
        self.inner = inner
        self.parts = parts
        self.config = config
        stops = list(ends)
        self.generation_config = SimpleNamespace(eos_token_id=stops)
        self._known = _accepted(inner)
        self.training = inner.training

    # Its parts

    @property
    def brought_layers(self) -> Any:
        """The list of its decoder layers."""
        return self.inner.get_submodule(self.parts.layers)

    @property
    def brought_decoder(self) -> torch.nn.Module:
        """The module that holds the list."""
        owner, _, _ = self.parts.layers.rpartition(".")
        return self.inner.get_submodule(owner)

    @property
    def dtype(self) -> torch.dtype:
        """Of its first floating-point weight."""
        floating = (weight for weight in self.parameters() if weight.is_floating_point())
        return next(floating).dtype

    def get_input_embeddings(self) -> torch.nn.Module:
        """Its first table of embeddings, or the whole of it without one."""
        for module in self.inner.modules():
            if isinstance(module, torch.nn.Embedding):
                return module
        return self.inner

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The module that gives the logits."""
        if not self.parts.head:
            return None
        return self.inner.get_submodule(self.parts.head)

    def with_parts(self, **changes: Any) -> BroughtModel:
        """The same model with other knowledge of its parts."""
        parts = dataclasses.replace(self.parts, **changes)
        ends = self.generation_config.eos_token_id
        return BroughtModel(self.inner, parts, self.config, ends)

    # Passes

    def forward(
        self,
        use_cache: bool = False,
        past_key_values: Memories | None = None,
        **inputs: Any,
    ) -> SimpleNamespace:
        """Logits (B, n, vocabulary), and with `use_cache` what further tokens go on from.

        Each row of a batch is read alone: a person's model may know no padding.

        inputs: what the person's `encode` gives; behind a prompt `input_ids` alone is read.
        """
        keep = inputs.pop("logits_to_keep", None)
        if not self.parts.masked:
            inputs.pop(MASK, None)
        rows: list[Read] = []
        if past_key_values is None:
            rows = [self._read(row) for row in _rows(inputs)]
        else:
            pairs = zip(past_key_values.rows, inputs[IDS], strict=True)
            rows = [self._go_on(memory, ids[None]) for memory, ids in pairs]
        logits = torch.cat([one for one, _ in rows])
        if isinstance(keep, torch.Tensor):
            keep = 1  # every caller means the last position
        if keep:
            logits = logits[:, -keep:]
        memories = None
        if use_cache:
            memories = Memories([memory for _, memory in rows])
        return SimpleNamespace(logits=logits, past_key_values=memories)

    def _read(
        self,
        inputs: Mapping[str, torch.Tensor],
    ) -> Read:
        """A whole pass over one row: its logits, and what further tokens go on from."""
        given = dict(inputs)
        options = {}
        if self.parts.cache and "use_cache" in self._known:
            options["use_cache"] = True
        given_all = {**given, **options}
        out, logits = self._called(given_all)
        cache = _field(out, CACHES) if self.parts.cache else None
        return logits, Memory(given, logits.shape[1], cache)

    def _go_on(
        self,
        memory: Memory,
        ids: torch.Tensor,
    ) -> Read:
        """Further tokens of one row, ids (1, n): their n logits, and the memory behind them."""
        inputs = _lengthened(memory.inputs, ids)
        count = ids.shape[1]
        if memory.cache is None:
            logits, longer = self._read(inputs)
            return logits[:, -count:], longer
        cache = memory.cache
        length = memory.length
        steps = []
        for token in ids[0]:  # one at a time: not every model reads several behind a cache
            length += 1
            alone = token.view(1, 1)
            logits, cache = self._step(alone, cache, length)
            steps.append(logits[:, -1:])
        together = torch.cat(steps, dim=1)
        return together, Memory(inputs, length, cache)

    def _step(
        self,
        token: torch.Tensor,
        cache: Any,
        length: int,
    ) -> tuple[torch.Tensor, Any]:
        """One token (1, 1) behind a cache, at the `length`-th position."""
        assert self.parts.cache is not None, "the caller has looked"
        given = {
            IDS: token,
            self.parts.cache: cache,
            "use_cache": True,
            MASK: token.new_ones(1, length),
        }
        options = {name: value for name, value in given.items() if name in self._known}
        out, logits = self._called(options)
        return logits, _field(out, CACHES)

    def _called(self, inputs: Mapping[str, Any]) -> tuple[Any, torch.Tensor]:
        """The model's output and its logits (1, S, vocabulary)."""
        if not self.parts.head_only:
            out = self.inner(**inputs)
            return out, logits_of(out)
        outputs: list[torch.Tensor] = []
        with ThreadHooks() as hooks:
            head = self.inner.get_submodule(self.parts.head)
            hooks.on_output(head, lambda args, kwargs, output: outputs.append(output))
            out = self.inner(**inputs)
        return out, outputs[-1]

    # Fewer layers

    def with_layers(self, keep: Sequence[int]) -> BroughtModel:
        """The model with only some of its decoder layers, sharing all tensors; this one stays as it
        is.

        keep: the layers that it has, increasing.

        Raises SVLError where the model's own parts cannot be copied.
        """
        try:
            inner = blanks.copied(self.inner)
        except Exception as error:  # a person's model may hold anything
            reason = " ".join(str(error).split())[:200]
            raise SVLError(
                f"Found parts of {type(self.inner).__name__} that cannot be copied ({reason});"
                " expected modules, tensors and plain values; this model cannot be pruned."
            ) from error
        layers: Any = inner.get_submodule(self.parts.layers)
        count = len(layers)
        _renumber(layers, keep)
        kept = [layers[number] for number in keep]
        owner, _, leaf = self.parts.layers.rpartition(".")
        holder = inner.get_submodule(owner)
        setattr(holder, leaf, _listed(layers, kept))
        _recount(inner, owner, count, len(keep))
        settings = vars(self.config.text)
        text = SimpleNamespace(**settings)
        text.num_hidden_layers = len(keep)
        config = dataclasses.replace(self.config, text=text)
        ends = self.generation_config.eos_token_id
        return BroughtModel(inner, self.parts, config, ends)


def _accepted(model: torch.nn.Module) -> frozenset[str]:
    """The names of what a model's `forward` takes; those that any pass may bring where it takes
    everything.
    """
    parameters = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds
    usual = {IDS, MASK, "use_cache", *CACHES} if takes_all else set()
    return frozenset({*parameters, *usual})


def cache_name(model: torch.nn.Module) -> str | None:
    """What a model's `forward` calls its key/value cache; None where it takes none."""
    known = _accepted(model)
    return next((name for name in CACHES if name in known), None)


def logits_of(out: Any) -> torch.Tensor:
    """The logits in a model's output. Raises SVLError where there are none."""
    if isinstance(out, torch.Tensor):
        return out
    logits = _field(out, ("logits",))
    if logits is None and isinstance(out, (tuple, list)):
        logits = out[0]
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
        raise SVLError(f"no logits in its output, a {type(out).__name__}")
    return logits


def _field(out: Any, names: Sequence[str]) -> Any:
    """The first of some fields that an output has and that is not None."""
    for name in names:
        if isinstance(out, Mapping):
            value = out.get(name)
        else:
            value = getattr(out, name, None)
        if value is not None:
            return value
    return None


def _rows(inputs: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The inputs of each row of a batch whose rows have the same shapes."""
    count = len(inputs[IDS])
    if count == 1:
        return [dict(inputs)]
    rows: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for name, value in inputs.items():
        for row, part in zip(rows, value.chunk(count), strict=True):
            row[name] = part
    return rows


def _lengthened(
    inputs: Mapping[str, torch.Tensor],
    ids: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """A prompt's inputs with further tokens behind it: what has an entry for each of its ids goes
    on as it ended, positions by counting.

    ids: (1, n).
    """
    shape = inputs[IDS].shape
    count = ids.shape[1]
    longer = {}
    for name, value in inputs.items():
        if value.shape[:2] != shape:
            longer[name] = value
            continue
        last = value[:, -1:]
        rest = value.shape[2:]
        more = last.expand(-1, count, *rest)
        if name == IDS:
            more = ids.to(value)
        elif name == "position_ids":
            steps = torch.arange(count, device=value.device)
            more = last + 1 + steps
        longer[name] = torch.cat([value, more], dim=1)
    return longer


def _listed(
    before: Any,
    layers: Sequence[torch.nn.Module],
) -> torch.nn.Module:
    """A list of layers of the kind that they were in: `Sequential` takes them one by one."""
    if isinstance(before, torch.nn.Sequential):
        return torch.nn.Sequential(*layers)
    return torch.nn.ModuleList(layers)


def _renumber(layers: Any, keep: Sequence[int]) -> None:
    """Gives the kept layers their new numbers, wherever they hold their old ones, from 0 or from
    1.
    """
    for path, name, first in _numbers(layers):
        for new, old in enumerate(keep):
            part = layers[old].get_submodule(path)
            setattr(part, name, new + first)


def _numbers(layers: Any) -> list[tuple[str, str, int]]:
    """(module within a layer, attribute, first number) of all that holds each layer's number."""
    found = []
    for path, module in layers[0].named_modules():
        for name, first in vars(module).items():
            marked = any(mark in name for mark in NUMBER_MARKS)
            if not marked or type(first) is not int:
                continue
            if _counts(layers, path, name, first):
                found.append((path, name, first))
    return found


def _counts(
    layers: Any,
    path: str,
    name: str,
    first: int,
) -> bool:
    """Whether an attribute counts the layers, from `first` on."""
    values = []
    for layer in layers:
        modules = dict(layer.named_modules())
        part = modules.get(path)
        values.append(getattr(part, name, None))
    last = first + len(values)
    return len(values) > 1 and values == list(range(first, last))


def _recount(
    inner: torch.nn.Module,
    owner: str,
    before: int,
    count: int,
) -> None:
    """Tells the modules on the way to the layers, and their configs, how many there are.

    owner: dotted name of the module that holds them.
    before, count: how many there were, and are.
    """
    path = owner.split(".") if owner else []
    module = inner
    holders = [*_holders(module)]
    for name in path:
        module = module.get_submodule(name)
        holders += _holders(module)
    for holder in holders:
        known = getattr(holder, "__dict__", {})
        for name in COUNTS:
            if known.get(name) == before:
                setattr(holder, name, count)


def _holders(module: torch.nn.Module) -> list[Any]:
    """A module and its configs."""
    config = getattr(module, "config", None)
    parts = (getattr(config, name, None) for name in TEXT_CONFIGS)
    return [module, config, *parts]


@dataclass(frozen=True)
class BroughtConfig:
    """What this project asks of a model's config.

    model_type: the model's class.
    text: the decoder's settings.
    vision_config: nothing is known of the vision side.
    image_token_id: the id at the visual positions, where there is one.
    """

    model_type: str
    text: SimpleNamespace
    vision_config: SimpleNamespace
    image_token_id: int | None = None
    is_encoder_decoder: bool = False

    def get_text_config(self, decoder: bool = True) -> SimpleNamespace:
        """The decoder's settings."""
        return self.text


Encode = Callable[[Sequence[Any], str], Mapping[str, torch.Tensor]]
"""From images and a question to the model's inputs; see `wrapping.wrap`."""
