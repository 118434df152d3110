"""Models of the true shapes of released ones, with random weights and their families' own
processors, made offline; and a picture like a photograph.

What a model answers means nothing. What it costs is what the released one costs: layers, widths,
heads, vocabulary, tiles and visual tokens are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, initialization

import svl_core as svl
from svl_core.lvlm.families import family_of
from svl_core.lvlm.model import quiet
from svl_core.lvlm.processors import still_class

FULL, ONE = "full", "one"
"""Details: every tile that the released processor cuts a large picture into, or a single one."""

JPEG_QUALITY = 92


@dataclass(frozen=True)
class Shape:
    """What a model's cost depends on.

    text, vision: settings of both configs.
    vocabulary: tokens, of the tokenizer and of the head.
    side, patch: of a tile and of a patch, in pixels.
    context: positions, at most.
    tied: whether the head is the embedding, where sizes of a family differ in that.
    """

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    vocabulary: int
    side: int
    patch: int
    context: int
    tied: bool = True


def text_of(hidden: int, inner: int, layers: int, heads: int, pairs: int) -> dict[str, int]:
    """A decoder's settings. pairs: heads of keys and values."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
    }


def tower_of(hidden: int, inner: int, layers: int, heads: int) -> dict[str, int]:
    """A vision tower's settings."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def vocabulary_of(words, size: int):
    """The tokenizer with made-up words up to `size` tokens, for a model may answer any of them."""
    state = json.loads(words.backend_tokenizer.to_str())
    known = state["model"]["vocab"]
    known |= {f"\u0120{number}": number for number in range(len(words), size)}
    words._tokenizer = Tokenizer.from_str(json.dumps(state))
    return words


# ------------------------------------------------------------------------------- families
def smolvlm(shape: Shape, detail: str):
    """SmolVLM: SigLIP, every 16 patches one token, a picture of 4:3 in 12 tiles and as a whole."""
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMVisionConfig
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    scale = 4
    words = builders.tokenizer(
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        "<end_of_utterance>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    )
    words = vocabulary_of(words, shape.vocabulary)
    pixels = SmolVLMImageProcessorPil(
        size={"longest_edge": 4 * shape.side},
        max_image_size={"longest_edge": shape.side},
        do_image_splitting=detail == FULL,
    )
    processor = still_class("SmolVLMProcessor")(
        pixels,
        words,
        image_seq_len=(shape.side // shape.patch // scale) ** 2,
        chat_template=builders.template("<image>"),
    )
    vision = SmolVLMVisionConfig(**shape.vision, image_size=shape.side, patch_size=shape.patch)
    text = LlamaConfig(**shape.text, **_common(shape, words))
    config = SmolVLMConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=scale,
        pad_token_id=words.pad_token_id,
    )
    return config, processor


def onevision(shape: Shape, detail: str):
    """LLaVA-OneVision: SigLIP, up to 6 x 6 tiles beside the whole picture, shrunk to nine."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    most = range(1, 7 if detail == FULL else 2)
    pinpoints = [[shape.side * row, shape.side * column] for row in most for column in most]
    words = vocabulary_of(builders.tokenizer("<image>", "<video>"), shape.vocabulary)
    processor = still_class("LlavaOnevisionProcessor")(
        LlavaOnevisionImageProcessorPil(
            **builders.square_pixels(shape.side), image_grid_pinpoints=pinpoints
        ),
        words,
        None,
        num_image_tokens=(shape.side // shape.patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=builders.template("<image>"),
        vision_aspect_ratio="anyres_max_9",
    )
    sizes = {"image_size": shape.side, "patch_size": shape.patch}
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**shape.vision, **sizes, vision_use_head=False),
        text_config=Qwen2Config(**shape.text, **_common(shape, words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        video_token_id=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    return config, processor


def qwen2vl(shape: Shape, detail: str):
    """Qwen2-VL: a tower for any size, every four patches one token, 1,280 or 256 tokens at most."""
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = builders.tokenizer(
        "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
    )
    words = vocabulary_of(words, shape.vocabulary)
    token = (2 * shape.patch) ** 2  # pixels
    most = {"longest_edge": token * (1280 if detail == FULL else 256)}
    pixels = Qwen2VLImageProcessorPil(
        patch_size=shape.patch,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": 4 * token, **most},
    )
    turn = builders.template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = still_class("Qwen2VLProcessor")(pixels, words, None, chat_template=turn)
    head = shape.text["hidden_size"] // shape.text["num_attention_heads"]
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [head // 8, 3 * head // 16, 3 * head // 16],
    }
    config = Qwen2VLConfig(
        vision_config={**shape.vision, "patch_size": shape.patch},
        text_config={**shape.text, **_common(shape, words), "rope_parameters": rope},
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=shape.tied,
    )
    return config, processor


def llava(shape: Shape, detail: str):
    """LLaVA-1.5: CLIP, one size only."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = vocabulary_of(builders.tokenizer("<image>"), shape.vocabulary)
    square = {"height": shape.side, "width": shape.side}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": shape.side}, crop_size=square),
        words,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=builders.template("<image>"),
    )
    sizes = {"image_size": shape.side, "patch_size": shape.patch}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape.vision, **sizes, projection_dim=768),
        text_config=LlamaConfig(**shape.text, **_common(shape, words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    return config, processor


def _common(shape: Shape, words) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        **builders.ids(words),
    }


@dataclass(frozen=True)
class Released:
    """A released model's shape.

    title: its name.
    make: (shape, detail) -> config and processor.
    shape, tiny: the true one, and one for a trial of the code in seconds.
    tower: the vision tower's name within the model.
    dtype: of the weights, on a CPU; elsewhere bfloat16.
    """

    title: str
    make: Callable[[Shape, str], tuple[Any, Any]]
    shape: Shape
    tiny: Shape
    tower: str
    dtype: str


TINY_TEXT, TINY_TOWER = text_of(64, 96, 12, 4, 2), tower_of(32, 48, 2, 2)
TINY = Shape(TINY_TEXT, TINY_TOWER, 1024, 32, 4, 4096)
TOWER_QWEN = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4}
TINY_QWEN = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}

RELEASED = {
    "smolvlm": Released(
        "SmolVLM-256M",
        smolvlm,
        Shape(text_of(576, 1536, 30, 9, 3), tower_of(768, 3072, 12, 12), 49_280, 512, 16, 8192),
        TINY,
        "vision_model",
        "float32",
    ),
    "onevision": Released(
        "LLaVA-OneVision-0.5B",
        onevision,
        Shape(text_of(896, 4864, 24, 14, 2), tower_of(1152, 4304, 26, 16), 152_000, 384, 14, 32768),
        TINY,
        "vision_tower",
        "float32",
    ),
    "qwen2vl": Released(
        "Qwen2-VL-2B",
        qwen2vl,
        Shape(text_of(1536, 8960, 28, 12, 2), TOWER_QWEN, 151_936, 0, 14, 32768),
        Shape(TINY_TEXT, TINY_QWEN, 1024, 0, 4, 4096),
        "visual",
        "bfloat16",
    ),
    "qwen2vl7b": Released(
        "Qwen2-VL-7B",
        qwen2vl,
        Shape(
            text_of(3584, 18944, 28, 28, 4),
            {**TOWER_QWEN, "hidden_size": 3584},
            152_064,
            0,
            14,
            32768,
            tied=False,
        ),
        Shape(TINY_TEXT, TINY_QWEN, 1024, 0, 4, 4096, tied=False),
        "visual",
        "bfloat16",
    ),
    "llava7b": Released(
        "LLaVA-1.5-7B",
        llava,
        Shape(
            text_of(4096, 11008, 32, 32, 32), tower_of(1024, 4096, 24, 16), 32_064, 336, 14, 4096
        ),
        TINY,
        "vision_tower",
        "bfloat16",
    ),
}
"""By the names that the benchmark's option takes."""


# --------------------------------------------------------------------------------- models
def build(
    name: str,
    detail: str,
    device: torch.device,
    dtype: torch.dtype,
    tiny: bool = False,
    cache: Path | None = None,
) -> svl.LVLM:
    """A model with its processor.

    name: of `RELEASED`.
    detail: `FULL` or `ONE`.
    tiny: a few layers and narrow ones.
    cache: a folder where its weights are read, once they were written there; None: they are drawn.
    """
    released = RELEASED[name]
    config, processor = released.make(released.tiny if tiny else released.shape, detail)
    folder = (
        cache / f"{name}{'-tiny' * tiny}-{str(dtype).removeprefix('torch.')}" if cache else None
    )
    if folder is not None and (folder / "config.json").exists():
        with quiet():
            model = AutoModelForImageTextToText.from_pretrained(folder, config=config, dtype=dtype)
        model = model.to(device)
    else:
        model = drawn(config, device, dtype)
        if folder is not None:
            with quiet():
                model.save_pretrained(folder)
    model.generation_config.update(do_sample=False, **builders.ids(processor.tokenizer))
    model = model.eval().requires_grad_(False)
    return svl.LVLM(model, processor, family_of(model.config), f"{name}-{detail}")


@torch.no_grad()
def drawn(config, device: torch.device, dtype: torch.dtype):
    """The model of a config with random weights, made in the place and the dtype that it stays in.

    Matrices keep the length of what they are applied to, so that no layer is without effect.
    """
    torch.manual_seed(0)
    with torch.device(device), initialization.no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.tie_weights()
    for path, parameter in model.named_parameters():
        if parameter.dim() > 1:
            inputs = parameter[0].numel()
            parameter.normal_(0, inputs**-0.5)
        else:
            parameter.fill_(0.0 if path.endswith("bias") else 1.0)
    return model


# -------------------------------------------------------------------------------- picture
def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Soft light, things with edges before it, and the noise of a sensor, as RGB."""
    rng = np.random.default_rng(seed)
    light = rng.integers(30, 226, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(light).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        left, top = rng.integers(0, (width, height))
        wide, high = rng.integers(2, (max(3, width // 5), max(3, height // 5)))
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((int(left), int(top), int(left + wide), int(top + high)), fill=colour)
    picture = picture.filter(ImageFilter.GaussianBlur(1.5))
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    noise *= 6
    noise += np.asarray(picture)
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def photograph_file(folder: Path, width: int, height: int, seed: int) -> Path:
    """The same as a JPEG file."""
    path = folder / f"photograph-{width}x{height}-{seed}.jpg"
    if not path.exists():
        photograph(width, height, seed).save(path, quality=JPEG_QUALITY)
    return path
