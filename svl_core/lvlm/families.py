"""Model families as rows of data, and the rules they share: where the decoder is, what it is made
of.

Everything that differs between families is named here; code elsewhere asks a row and never compares
family names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from svl_core.errors import InputError, SVLError


@dataclass(frozen=True)
class Detail:
    """In which sizes a family reads pictures.

    rule: name of the rule in `detail.RULES`; "one" where there is one size.
    balanced, quick: the most of what the rule counts at these two levels; less where the processor
        itself would not take twice or four times as much.
    """

    rule: str = "one"
    balanced: int = 0
    quick: int = 0


@dataclass(frozen=True)
class Family:
    """What sets one family of models apart.

    model_types: `config.model_type` values that belong to it; vision_types narrows it to some
        `vision_config.model_type`.
    geometry: name of the function in `geometry.GEOMETRIES` that places its visual positions.
    plain_prompt: the text when the processor brings no chat template; {images} stands for one image
        token per image.
    template_options: variables for the chat template, passed where the template names them.
    mark: which of the processor's tokens the template writes for an image: its image token, "boi",
        the one that opens an image, or "none" where the processor writes its image token itself.
    in_sequence: False when images enter through cross-attention, so that no position of the
        sequence is visual.
    shares: name of the rule in `SHARED_FROM` for the layer from which on a pass may begin with
        another pass's states and caches.
    sees_once: whether the features of an image serve for every further pass.
    batched: whether several samples may share a pass, the shorter ones padded on their left.
    makes_cache: whether a pass makes the cache that it is asked for; else it is handed one.
    counts: whether its models count positions behind a cache themselves; others are told them.
    detail: the sizes in which it reads pictures.
    """

    name: str
    model_types: tuple[str, ...]
    geometry: str
    vision_types: tuple[str, ...] = ()
    plain_prompt: str = "{images}\n{prompt}"
    template_options: Mapping[str, Any] = field(default_factory=dict)
    image_required: bool = False
    in_sequence: bool = True
    mark: str = "image"
    shares: str = "any"
    sees_once: bool = True
    batched: bool = True
    makes_cache: bool = True
    counts: bool = True
    detail: Detail = Detail()


SPLITTING = Detail("splitting", balanced=2, quick=1)  # tiles along the longest edge
PIXELS = Detail("pixels", balanced=512, quick=128)  # visual tokens
LONGEST_EDGE = Detail("longest_edge", balanced=32, quick=16)  # visual tokens along it
TILES = Detail("tiles", balanced=4, quick=1)
NO_THINKING = {"enable_thinking": False}  # ask reasoning models for the answer itself
FAMILIES: tuple[Family, ...] = (
    Family(
        "LLaVA",
        ("llava",),
        "square",
        plain_prompt="USER: {images}\n{prompt} ASSISTANT:",
    ),
    Family(
        "LLaVA (Pixtral)",
        ("llava",),
        "row_breaks",
        vision_types=("pixtral",),
        plain_prompt="<s>[INST]{images}{prompt}[/INST]",
        detail=LONGEST_EDGE,
    ),
    Family(
        "LLaVA-NeXT",
        ("llava_next",),
        "resolution_grids",
        plain_prompt="USER: {images}\n{prompt} ASSISTANT:",
        detail=Detail("grids", balanced=2, quick=2),
    ),
    Family(
        "LLaVA-OneVision",
        ("llava_onevision",),
        "resolution_grids",
        detail=Detail("grids", balanced=4, quick=0),
    ),
    Family("SmolVLM", ("smolvlm",), "row_column_tiles", detail=SPLITTING),
    Family("Idefics3", ("idefics3",), "row_column_tiles", detail=SPLITTING),
    Family("Qwen2-VL", ("qwen2_vl",), "merged_grid", detail=PIXELS),
    Family("Qwen2.5-VL", ("qwen2_5_vl",), "merged_grid", detail=PIXELS),
    Family(
        "Qwen3-VL",
        ("qwen3_vl", "qwen3_vl_moe"),
        "merged_grid",
        shares="deepstack",
        template_options=NO_THINKING,
        detail=PIXELS,
    ),
    Family(
        "Qwen3.5",
        ("qwen3_5", "qwen3_5_moe"),
        "merged_grid",
        shares="never",
        template_options=NO_THINKING,
        detail=PIXELS,
    ),
    Family("InternVL", ("internvl",), "canvas_tiles", detail=TILES),
    Family("Aya Vision", ("aya_vision",), "canvas_tiles", detail=TILES),
    Family(
        "PaliGemma",
        ("paligemma",),
        "square",
        plain_prompt="{images}{prompt}",
        image_required=True,
    ),
    Family(
        "Gemma3", ("gemma3",), "square", mark="boi", detail=Detail("crops", balanced=2, quick=0)
    ),
    Family(
        "Gemma3n",
        ("gemma3n",),
        "square",
        shares="never",
    ),
    Family(
        "Gemma4",
        ("gemma4",),
        "pooled_grid",
        shares="never",
        template_options=NO_THINKING,
        detail=Detail("budget", balanced=140, quick=70),
    ),
    Family(
        "Mistral3",
        ("mistral3",),
        "row_breaks",
        plain_prompt="<s>[INST]{images}{prompt}[/INST]",
        detail=LONGEST_EDGE,
    ),
    Family(
        "Mllama",
        ("mllama",),
        "square",
        in_sequence=False,
        shares="never",
        plain_prompt="{images}<|begin_of_text|>{prompt}",
    ),
)
GENERIC = Family("generic", (), "unplaced", shares="never")  # places are looked for as it loads


def family_of(config) -> Family:
    """The row for a model's config, or `GENERIC`."""
    vision_type = getattr(getattr(config, "vision_config", None), "model_type", None)
    matches = [
        row
        for row in FAMILIES
        if config.model_type in row.model_types
        and (not row.vision_types or vision_type in row.vision_types)
    ]
    return max(
        matches,
        key=lambda row: bool(row.vision_types),
        default=GENERIC,
    )


# Parts of a model

LAYER_LISTS = ("layers", "h")  # what decoders call the list of their layers
# The linear map that ends a layer's MLP.
DOWN_PROJECTIONS = (
    "mlp.down_proj",
    "mlp.fc2",
    "fc2",
    "ffn.fc2",
    "mlp.dense_4h_to_h",
    "mixer.down_proj",
)
# And the one that ends its attention.
OUT_PROJECTIONS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "attention.dense",
    "self_attention.dense",
    "self_attn.dense",
    "attn.c_proj",
    "mixer.o_proj",
)


# The norm in front of a layer's MLP. Gemma norms what the attention gives too, under the name that
# others have for this one, so that its own name is looked for first.
MLP_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm")
NORM_BEHIND_MLP = "post_feedforward_layernorm"


def find_decoder(model) -> torch.nn.Module:
    """The module that holds the decoder layers: `get_decoder()`, or `.model` where that leads no
    further (Llama4), repeated until one does; of a model that a person brought, the one found or
    named (`wrapping`). Raises SVLError when there is none.
    """
    known = getattr(model, "brought_decoder", None)
    if known is not None:
        return known
    module = model
    for _ in range(5):
        if _layers(module) is not None:
            return module
        inner = module.get_decoder() if hasattr(module, "get_decoder") else None
        if inner is None or inner is module:
            inner = getattr(module, "model", None)
        module = inner
        if module is None:
            break
    raise SVLError(
        f"Found no list of decoder layers in {type(model).__name__}; expected get_decoder().layers;"
        " this model cannot be analysed."
    )


def _layers(module) -> torch.nn.ModuleList | None:
    """A module's own list of layers."""
    for name in LAYER_LISTS:
        layers = getattr(module, name, None)
        if isinstance(layers, torch.nn.ModuleList):
            return layers
    return None


def decoder_layers(model) -> torch.nn.ModuleList:
    """The decoder's layers. Raises SVLError when there are none."""
    known = getattr(model, "brought_layers", None)
    if known is not None:
        return known
    layers = _layers(find_decoder(model))
    assert layers is not None, "find_decoder gives a module that has layers"
    return layers


def named_map(
    layer: torch.nn.Module,
    names: Sequence[str],
) -> torch.nn.Module | None:
    """The first of the dotted `names` that a decoder layer has as a linear map; None without."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        holder = getattr(layer, owner, None) if owner else layer
        module = getattr(holder, leaf, None)
        has_weight = getattr(module, "weight", None) is not None
        if isinstance(module, torch.nn.Module) and has_weight and hasattr(module, "in_features"):
            return module
    return None


def mlp_entrance(layer: torch.nn.Module) -> torch.nn.Module | None:
    """What reads the residual stream between a decoder layer's attention and its MLP: the norm in
    front of the MLP, or the MLP itself where norms stand behind both alone (OLMo 2). None where
    both stand beside each other (Cohere), or names are unknown.
    """
    behind_alone = hasattr(layer, NORM_BEHIND_MLP) and not hasattr(layer, MLP_NORMS[0])
    if behind_alone:
        return getattr(layer, "mlp", None)
    found = (getattr(layer, name, None) for name in MLP_NORMS)
    return next((norm for norm in found if norm is not None), None)


def residual(
    hidden: torch.Tensor,
    text,
) -> torch.Tensor:
    """The residual stream (B, S, d) in what enters or leaves a decoder layer: of stacked streams
    (N, B, S, d) the active one (Gemma3n); streams (B, S, N, d) that layers mix side by side
    (B, S, N d), for a layer that is left out hands all of them on.

    Raises SVLError for several streams of which the config tells nothing.
    """
    if hidden.dim() != 4:
        return hidden
    active = getattr(text, "altup_active_idx", None)
    if active is not None:
        return hidden[active]
    streams = hidden.shape[-2]
    if streams != mixed_streams(text):
        raise SVLError(
            f"its layers pass on {streams} residual streams of which its config tells nothing,"
            " where one is needed to measure a layer by"
        )
    return hidden.flatten(-2)


def positioned(hidden: torch.Tensor, text) -> torch.Tensor:
    """A view (.., S, d) of what enters or leaves a decoder layer, whose last dimension but one are
    the positions: streams that layers mix go before them.
    """
    mixed = hidden.dim() == 4 and mixed_streams(text) == hidden.shape[-2] > 1
    return hidden.transpose(-3, -2) if mixed else hidden


# What configs call the number of residual streams that their layers mix (hyper-connections).
MIXED_STREAMS = ("hc_mult", "hc_count")


def mixed_streams(text) -> int:
    """How many residual streams decoder layers hand on and mix with each other: 1 of all but those
    with hyper-connections.
    """
    counts = [getattr(text, name, None) for name in MIXED_STREAMS]
    return next((count for count in counts if count), 1)


def stacks_streams(text) -> bool:
    """Whether decoder layers hand on several streams, which the model joins behind the last one
    (Gemma3n).
    """
    return getattr(text, "altup_active_idx", None) is not None


def layers_prefix(model) -> str:
    """Dotted name of the decoder's layer list inside the model, with the closing dot:
    "model.language_model.layers.".
    """
    layers = decoder_layers(model)
    return next(name for name, module in model.named_modules() if module is layers) + "."


def image_token_id(config) -> int | None:
    """The id at the visual positions of the sequence."""
    for name in (
        "image_token_id",
        "image_token_index",
        "media_placeholder_token_id",
    ):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    return None


def true_size(parameter) -> int:
    """How many numbers a parameter stands for, packed 4-bit weights too."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return torch.Size(shape).numel() if shape is not None else parameter.numel()


def count_parameters(model) -> int:
    """Number of parameters, tied ones once; packed 4-bit weights count as what they stand for."""
    return sum(true_size(parameter) for parameter in model.parameters())


# Beginning a pass within the decoder


SHARED_FROM = {
    "any": lambda config: 0,
    "deepstack": lambda config: len(config.vision_config.deepstack_visual_indexes),
    "never": lambda config: None,
}


def shared_from(family: Family, config) -> int | None:
    """The first layer at which a pass over a prompt may begin, its image already encoded; None: it
    cannot (layers that share keys, hold states that are written in place, or read the image again).
    """
    return SHARED_FROM[family.shares](config)


# Tensors with one block a layer along this dimension.
SLICED = {
    "embed_tokens_per_layer.weight": 1,
    "per_layer_model_projection.weight": 0,
}


def check_keep(
    keep: Sequence[int],
    layers: int,
    protected: Sequence[int] = (),
) -> tuple[int, ...]:
    """The layers to keep, sorted.

    Raises InputError for an empty, repeated or out-of-range choice and for a protected layer left
    out.
    """
    keep = tuple(sorted(int(i) for i in keep))
    if not keep or len(set(keep)) != len(keep) or keep[0] < 0 or keep[-1] >= layers:
        raise InputError(
            f"Found layers {list(keep)} to keep; expected different indices from 0 to {layers - 1},"
            " at least one; correct the choice."
        )
    if missing := sorted(set(protected) - set(keep)):
        raise InputError(
            f"Found layers {missing} among those to drop; expected them to stay, for this model"
            " cannot work without them; leave them in."
        )
    return keep
