"""Models to start from: the bundled one and public ones of the Hub, with what they cost and what
they are good for.

Figures are the model cards' and configs' own; `load` computes the memory anew from the config
before it reads weights.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

from svl_core.files import bundled, weights_hash

BF16_BYTES = 2
DEMO = "demo"
# With the package; in the working folder.
DEMO_PLACES = (bundled("demo_lvlm"), Path("assets") / "demo_lvlm")
HASH_SHOWN = 8
"""Digits of a weights' hash that a link names."""


def demo_folder() -> Path:
    """Where the bundled model is."""
    return next((place for place in DEMO_PLACES if place.is_dir()), DEMO_PLACES[0])


@functools.cache
def demo_weights() -> str:
    """Which weights the bundled model has, the first `HASH_SHOWN` digits of their hash."""
    return weights_hash(demo_folder())[:HASH_SHOWN]


@dataclass(frozen=True)
class CatalogueEntry:
    """One model.

    id: "demo" or the Hub id.
    parameters: their number.
    layers: the number of decoder layers.
    visual_tokens: what one image takes in the sequence, in words.
    memory_gb: of the weights in bfloat16.
    licence, good_for, family: in words.
    gated: the owner asks for consent first.
    """

    id: str
    parameters: int
    layers: int
    visual_tokens: str
    memory_gb: float
    licence: str
    good_for: str
    family: str
    gated: bool = False


def _entry(
    id: str,
    billions: float,
    layers: int,
    visual_tokens: str,
    licence: str,
    family: str,
    good_for: str,
    gated: bool = False,
) -> CatalogueEntry:
    return CatalogueEntry(
        id,
        round(billions * 1e9),
        layers,
        visual_tokens,
        round(billions * BF16_BYTES, 3),
        licence,
        good_for,
        family,
        gated,
    )


TILES_64 = "64 a tile, up to 17 tiles"
TILES_81 = "81 a tile, up to 17 tiles"
TILES_256 = "256 a tile, up to 13 tiles"
ANYRES = "729 and up to 6,561 more"
QWEN = "by image size, 4 to 16,384"
ENTRIES = (
    _entry(
        "HuggingFaceTB/SmolVLM-256M-Instruct",
        0.257,
        30,
        TILES_64,
        "Apache-2.0",
        "Idefics3",
        "photos on a free CPU: the smallest; quick to analyse",
    ),
    _entry(
        "HuggingFaceTB/SmolVLM-500M-Instruct",
        0.508,
        32,
        TILES_64,
        "Apache-2.0",
        "Idefics3",
        "photos on a CPU, better answers than 256M",
    ),
    _entry(
        "HuggingFaceTB/SmolVLM-Instruct",
        2.25,
        24,
        TILES_81,
        "Apache-2.0",
        "Idefics3",
        "photos and documents on a small GPU",
    ),
    _entry(
        "llava-hf/llava-1.5-7b-hf",
        7.06,
        32,
        "576",
        "Llama 2",
        "LLaVA",
        "the method's own subject: compare with the published figures",
    ),
    _entry(
        "llava-hf/llava-1.5-13b-hf",
        13.35,
        40,
        "576",
        "Llama 2",
        "LLaVA",
        "the method's larger subject; 40 layers, much redundancy",
    ),
    _entry(
        "llava-hf/llava-v1.6-mistral-7b-hf",
        7.57,
        32,
        "576 and up to 2,304 more",
        "Apache-2.0",
        "LLaVA-NeXT",
        "fine detail at higher resolution",
    ),
    _entry(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        0.894,
        24,
        ANYRES,
        "Apache-2.0",
        "LLaVA-OneVision",
        "a small model with many visual tokens",
    ),
    _entry(
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        8.03,
        28,
        ANYRES,
        "Apache-2.0",
        "LLaVA-OneVision",
        "photos, charts and documents on one GPU",
    ),
    _entry(
        "Qwen/Qwen2-VL-2B-Instruct",
        2.21,
        28,
        QWEN,
        "Apache-2.0",
        "Qwen2-VL",
        "general use on a small GPU",
    ),
    _entry(
        "Qwen/Qwen2-VL-7B-Instruct",
        8.29,
        28,
        QWEN,
        "Apache-2.0",
        "Qwen2-VL",
        "general use on one GPU",
    ),
    _entry(
        "Qwen/Qwen2.5-VL-3B-Instruct",
        3.75,
        36,
        QWEN,
        "Qwen Research",
        "Qwen2.5-VL",
        "documents and places in an image; research use only",
    ),
    _entry(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        8.29,
        28,
        QWEN,
        "Apache-2.0",
        "Qwen2.5-VL",
        "documents and places in an image",
    ),
    _entry(
        "Qwen/Qwen3-VL-2B-Instruct",
        2.13,
        28,
        QWEN,
        "Apache-2.0",
        "Qwen3-VL",
        "recent and small; its first three layers stay (deepstack)",
    ),
    _entry(
        "Qwen/Qwen3-VL-4B-Instruct",
        4.44,
        36,
        QWEN,
        "Apache-2.0",
        "Qwen3-VL",
        "recent, for one small GPU",
    ),
    _entry(
        "Qwen/Qwen3-VL-8B-Instruct",
        8.77,
        36,
        QWEN,
        "Apache-2.0",
        "Qwen3-VL",
        "recent, for one GPU",
    ),
    _entry(
        "OpenGVLab/InternVL3-1B-hf",
        0.94,
        24,
        TILES_256,
        "MIT and Apache-2.0",
        "InternVL",
        "small, with tiles and a thumbnail",
    ),
    _entry(
        "OpenGVLab/InternVL3-2B-hf",
        2.09,
        28,
        TILES_256,
        "MIT and Apache-2.0",
        "InternVL",
        "charts and documents on a small GPU",
    ),
    _entry(
        "OpenGVLab/InternVL3-8B-hf",
        7.94,
        28,
        TILES_256,
        "MIT and Apache-2.0",
        "InternVL",
        "charts and documents on one GPU",
    ),
    _entry(
        "google/paligemma2-3b-mix-224",
        3.03,
        26,
        "256",
        "Gemma",
        "PaliGemma",
        "short answers; a full view of the image by every token",
        gated=True,
    ),
    _entry(
        "google/gemma-3-4b-it",
        4.3,
        34,
        "256",
        "Gemma",
        "Gemma3",
        "chat in many languages; sliding and full attention layers",
        gated=True,
    ),
    _entry(
        "CohereLabs/aya-vision-8b",
        8.63,
        32,
        "169 a tile, up to 13 tiles",
        "CC-BY-NC-4.0",
        "Aya Vision",
        "23 languages; not for commercial use",
        gated=True,
    ),
    _entry(
        "mistral-community/pixtral-12b",
        12.7,
        40,
        "by image size, up to 4,096",
        "Apache-2.0",
        "LLaVA (Pixtral)",
        "any image shape, 40 layers",
    ),
    _entry(
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        10.67,
        40,
        "none: cross-attention",
        "Llama 3.2",
        "Mllama",
        "cross-attention layers as candidates for pruning",
        gated=True,
    ),
)


def catalogue() -> tuple[CatalogueEntry, ...]:
    """The bundled model, where it is there, then the public ones: small to large in each family."""
    return (*_bundled(), *ENTRIES)


def _bundled() -> tuple[CatalogueEntry, ...]:
    for folder in DEMO_PLACES:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            with (folder / "model.safetensors").open("rb") as file:
                # The header: 8 bytes of length, then names and shapes.
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (OSError, ValueError):
            continue
        parameters = sum(
            math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"
        )
        text = config.get("text_config", {})
        tokens = config.get("image_seq_length", "")
        return (
            _entry(
                DEMO,
                parameters / 1e9,
                text.get("num_hidden_layers", 0),
                str(tokens),
                "Apache-2.0",
                "LLaVA",
                "scenes of everyday objects and easy-VQA shapes; bundled, no network",
            ),
        )
    return ()
