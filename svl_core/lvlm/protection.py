"""Which decoder layers cannot go, and why: read from a model's config, whatever its family.

A rule looks at what the config says of each layer. A model that is served by no rule has no such
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Kinds of layers, as configs name them, whose state holds no positions that could be counted.
WITHOUT_POSITIONS = frozenset(
    {
        "linear_attention",
        "conv",
        "mamba",
        "moe",
        "mlp",
    }
)
WHOLE = ("full_attention", "hybrid")  # kinds that see every position
WINDOWED = ("sliding", "chunked")  # parts of the names of kinds that see the last ones
DEEPSTACK = "deepstack_visual_indexes"
INJECTED = "deepstack_layer_map"  # pairs of a vision layer and the decoder's layer
TARGETS = "spatial_target_layers"  # and the decoder's layers alone
REUSING = "reuse"  # how the modes of layers begin that use another layer's keys


def layer_kinds(text) -> tuple[str, ...]:
    """The kind of each decoder layer by a text config; () where it names none."""
    kinds = getattr(text, "layer_types", None)
    if not isinstance(kinds, (list, tuple)):
        kinds = getattr(text, "layers_block_type", None)
    return tuple(map(str, kinds)) if isinstance(kinds, (list, tuple)) else ()


def _counting(text, config) -> Iterable[int]:
    """Of a hybrid the last layer whose cache can count positions, one that sees all of them where
    there is one: without it there is no cache that generation could go on from.
    """
    kinds = layer_kinds(text)
    able = [layer for layer, kind in enumerate(kinds) if kind not in WITHOUT_POSITIONS]
    if len(able) == len(kinds):
        return ()
    whole = [layer for layer in able if kinds[layer] in WHOLE]
    unwindowed = [layer for layer in able if not any(part in kinds[layer] for part in WINDOWED)]
    return (whole or unwindowed or able)[-1:]


def _beside_cross_attention(text, config) -> Iterable[int]:
    """The first layer: positions are counted by its cache, which a cross-attention layer in its
    place would not do (Mllama).
    """
    return (0,) if getattr(text, "cross_attention_layers", None) else ()


def _deepstack(text, config) -> Iterable[int]:
    """The first layers, each followed by visual features of its own (Qwen3-VL)."""
    indexes = getattr(getattr(config, "vision_config", None), DEEPSTACK, None)
    return range(len(indexes or ()))


def _injected(text, config) -> Iterable[int]:
    """Layers that the config names as those which visual features are added to (Granite Vision)."""
    pairs = getattr(config, INJECTED, None) or ()
    targets = getattr(config, TARGETS, None) or ()
    return [int(layer) for layer in (*(layer for _, layer in pairs), *targets)]


def _storing(text, config) -> Iterable[int]:
    """Layers whose keys and values later layers use (Gemma3n, Gemma4). Configs name such layers
    also where none uses them.
    """
    modes = getattr(text, "kv_sharing_modes", None) or ()
    if not any(str(mode).startswith(REUSING) for mode in modes):
        return ()
    return [layer for layer, mode in enumerate(modes) if mode == "store"]


def _closing(text, config) -> Iterable[int]:
    """The last layer of a decoder whose last layers share keys: its kind is fixed (Gemma3n,
    Gemma4).
    """
    sharing = getattr(text, "num_kv_shared_layers", None) is not None
    return (text.num_hidden_layers - 1,) if sharing else ()


def _indexing(text, config) -> Iterable[int]:
    """Layers that choose the positions which the layers behind them look at."""
    kinds = list(getattr(text, "indexer_types", None) or ())
    pairs = zip(kinds, kinds[1:], strict=False)
    return [
        layer for layer, (kind, behind) in enumerate(pairs) if kind == "full" and behind == "shared"
    ]


RULES: Mapping[str, Callable[[Any, Any], Iterable[int]]] = {
    "last layer whose cache counts positions": _counting,
    "first layer, whose cache counts positions": _beside_cross_attention,
    "visual features are added behind it": _deepstack,
    "visual features are added to it": _injected,
    "later layers use its keys": _storing,
    "last layer, of fixed kind": _closing,
    "it chooses positions for layers behind it": _indexing,
}
"""Why a layer stays -> the rule that finds such layers by (text config, whole config)."""


def reasons(config) -> dict[int, str]:
    """The layers present that must stay for a model of this config to work, and why, by index."""
    text = config.get_text_config(decoder=True)
    found: dict[int, str] = {}
    for reason, rule in RULES.items():
        for layer in rule(text, config):
            found.setdefault(int(layer), reason)
    return {layer: found[layer] for layer in sorted(found)}
