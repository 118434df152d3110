"""Cutting a model's config down to the layers that are kept.

A config says things of its layers in lists with one entry a layer, in lists of layers, in numbers
that are counted from the end, and in a few other ways; each setting that does so is named here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svl_core.errors import InputError, SVLError
from svl_core.lvlm.protection import INJECTED, TARGETS, layer_kinds

# Lists with one entry a layer.
PER_LAYER = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "intermediate_size",
    "activation_sparsity_pattern",
    "no_rope_layers",
    "indexer_types",
    "layer_rope_theta",
    "num_attention_heads_per_layer",
)
# Lists with one layer's index for each layer.
SOURCES = ("kv_source_layers",)
# Lists of layer indices.
LAYER_INDICES = (
    "cross_attention_layers",
    "full_attn_idxs",
    "mlp_only_layers",
    "moe_layers",
    "attn_layer_indices",
    "rope_scaling_layers",
    "local_layer_ids",
)
# And those that call the first layer 1.
LAYER_NUMBERS = ("ple_layer_ids",)
KEYED_BY_LAYER = ("per_layer_config",)  # dicts from layer index
COUNTED_FROM_THE_END = ("num_kv_shared_layers",)  # how many of the last layers
COUNTED_FROM_THE_START = ("first_k_dense_replace",)  # how many of the first layers
# Pairs of a period and the first layer of a kind that comes at each period (Jamba).
PERIODS = (
    ("attn_layer_period", "attn_layer_offset"),
    ("expert_layer_period", "expert_layer_offset"),
)
NOT_PER_LAYER = (
    "architectures",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
    "keys_to_ignore_at_inference",
    "mrope_section",
    "id2label",
    "label2id",
    "deepstack_visual_indexes",
    "suppress_tokens",
    "begin_suppress_tokens",
    "attribute_map",
    "base_model_tp_plan",
    "base_model_pp_plan",
    "base_model_fsdp_plan",
    "base_model_ep_plan",
    "mlp_multipliers",
    "ssm_multipliers",
    "mtp_layer_types",
    "mtp_layers_block_type",
    "mtp_mlp_layer_types",
    "mtp_local_layer_ids",
)


@dataclass(frozen=True)
class Choice:
    """The layers that are kept.

    keep: increasing indices.
    layers: how many there were.
    """

    keep: tuple[int, ...]
    layers: int

    @property
    def position(self) -> dict[int, int]:
        """old index -> new index."""
        return {old: new for new, old in enumerate(self.keep)}


def _per_layer(name: str, value: Any, choice: Choice) -> Any:
    if len(value) != choice.layers:
        raise SVLError(
            f"Found {len(value)} entries in the config's {name}; expected one for each of"
            f" {choice.layers} layers; this model cannot be pruned."
        )
    return [value[old] for old in choice.keep]


def _sources(name: str, value: Any, choice: Choice) -> Any:
    position = choice.position
    named = _per_layer(name, value, choice)
    if missing := sorted(set(named) - set(position)):
        raise SVLError(
            f"Found layers {missing} among those to drop, which the config's {name} names for"
            " others; expected them to stay; leave them in."
        )
    return [position[old] for old in named]


def _indices(name: str, value: Any, choice: Choice) -> Any:
    position = choice.position
    return [position[old] for old in value if old in position]


def _numbers(name: str, value: Any, choice: Choice) -> Any:
    position = choice.position
    return [position[old - 1] + 1 for old in value if old - 1 in position]


def _from_the_end(name: str, value: Any, choice: Choice) -> Any:
    return sum(old >= choice.layers - value for old in choice.keep)


def _from_the_start(name: str, value: Any, choice: Choice) -> Any:
    return sum(old < value for old in choice.keep)


LISTS = (list, tuple)
CUTS: dict[str, tuple[Any, Callable[[str, Any, Choice], Any]]] = {
    **dict.fromkeys(PER_LAYER, (LISTS, _per_layer)),
    **dict.fromkeys(SOURCES, (LISTS, _sources)),
    **dict.fromkeys(LAYER_INDICES, (LISTS, _indices)),
    **dict.fromkeys(LAYER_NUMBERS, (LISTS, _numbers)),
    **dict.fromkeys(COUNTED_FROM_THE_END, (int, _from_the_end)),
    **dict.fromkeys(COUNTED_FROM_THE_START, (int, _from_the_start)),
}
"""setting -> (the kind of value that is cut, how)."""


def cut_text_config(
    text,
    keep: Sequence[int],
    layers: int,
) -> None:
    """Edits a text config in place so that it describes only the layers `keep` (increasing indices
    out of `layers`).

    Raises SVLError for a list or a dict that looks like one entry a layer but is not known here:
    guessing would give a checkpoint that loads and answers wrongly; and for layers whose kinds a
    config cannot name one by one.
    """
    choice = Choice(tuple(keep), layers)
    kinds = layer_kinds(text)
    written = text.to_dict()
    keyed = {name: written[name] for name in KEYED_BY_LAYER if written.get(name)}
    for name in keyed:
        setattr(text, name, None)
    for name, value in list(vars(text).items()):
        kind, cut = CUTS.get(name, ((), None))
        if cut is not None and isinstance(value, kind):
            setattr(text, name, cut(name, value, choice))
        elif _unknown(name, value, layers):
            raise SVLError(
                f"Found an unknown setting {name!r} with {layers} entries, as many as decoder"
                " layers; expected only known ones; this model cannot be pruned."
            )
    text.num_hidden_layers = len(keep)
    _cut_periods(text, choice)
    for name, value in keyed.items():
        setattr(text, name, _rekeyed(value, choice))
    _check_kinds(text, kinds, choice)


def _unknown(name: str, value: Any, layers: int) -> bool:
    """Whether a setting looks like one entry a layer, and nobody knows whether it is."""
    if name in (*NOT_PER_LAYER, *KEYED_BY_LAYER, *CUTS) or name.startswith("_"):
        return False
    if isinstance(value, LISTS):
        return len(value) == layers > 1
    numbers = {str(layer) for layer in range(layers)}
    return isinstance(value, Mapping) and len(value) > 0 and set(map(str, value)) == numbers


def _rekeyed(entries: Mapping, choice: Choice) -> dict:
    """A dict from layer indices with those of the kept layers, under their new ones."""
    position = choice.position
    return {
        type(old)(position[int(old)]): entry
        for old, entry in entries.items()
        if int(old) in position
    }


def _check_kinds(text, kinds: Sequence[str], choice: Choice) -> None:
    """Raises SVLError where the cut config tells of other kinds of layers than are kept.

    kinds: of all layers, before the cut.
    """
    if len(kinds) != choice.layers:
        return
    expected = [kinds[old] for old in choice.keep]
    if list(layer_kinds(text)) != expected:
        raise SVLError(
            f"Found layers of the kinds {', '.join(dict.fromkeys(kinds))} whose order the config of"
            f" {text.model_type} cannot tell without some of them; expected one that names the kind"
            " of each; this model cannot be pruned."
        )


def _cut_periods(text, choice: Choice) -> None:
    """Finds periods by which the kept layers have the kinds that they had.

    Raises InputError where there are none.
    """
    for names in PERIODS:
        period, offset = (getattr(text, name, None) for name in names)
        without = names == PERIODS[1] and getattr(text, "num_experts", 1) == 1
        if period is None or offset is None or without:
            continue
        marked = [layer % period == offset for layer in choice.keep]
        found = _period_of(marked)
        if found is None:
            raise InputError(
                f"Found that a {text.model_type} model tells some kind of layers by a period"
                f" ({names[0]}), which without these layers there is none of; expected a choice"
                " that keeps one; drop others."
            )
        for name, value in zip(names, found, strict=True):
            setattr(text, name, value)


def _period_of(marked: Sequence[bool]) -> tuple[int, int] | None:
    """(period, offset) by which just the marked layers come; None without any."""
    layers = range(len(marked))
    for period in range(1, len(marked) + 2):
        for offset in range(period):
            if all((layer % period == offset) == marked[layer] for layer in layers):
                return period, offset
    return None


def cut_config(config, keep: Sequence[int], layers: int):
    """A copy of a model's config for the layers `keep`; checked to survive writing and reading.

    Raises InputError for layers without which the model's own checks refuse the config, SVLError
    for one that does not survive.
    """
    cut = copied(config, keep, layers)
    written = cut.to_dict()
    try:
        again = type(cut).from_dict(copy.deepcopy(written)).to_dict()
    except Exception as error:  # each config checks what it likes
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"Found that a {config.model_type} model of layers {list(keep)} cannot be described"
            f" ({reason}); expected a choice that its config takes; leave other layers in."
        ) from error
    if again != written:
        raise SVLError(
            f"The config of {config.model_type} cut to layers {list(keep)} does not survive writing"
            " and reading; this model cannot be pruned so."
        )
    return cut


def copied(config, keep: Sequence[int], layers: int):
    """A copy of a model's whole config for the layers `keep`. Raises SVLError as
    `cut_text_config` does.
    """
    cut = copy.deepcopy(config)
    cut_text_config(cut.get_text_config(decoder=True), keep, layers)
    position = Choice(tuple(keep), layers).position
    if pairs := getattr(cut, INJECTED, None):
        moved = [(seen, position[layer]) for seen, layer in pairs if layer in position]
        setattr(cut, INJECTED, moved)
    if targets := getattr(cut, TARGETS, None):
        setattr(cut, TARGETS, [position[layer] for layer in targets if layer in position])
    return cut
