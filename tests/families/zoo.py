"""Tiny models of further entries of transformers' image-text-to-text mapping, built as those of
`builders`; `state_table.py` puts each of them into its state.
"""

from builders import (
    HIDDEN,
    QWEN_ROPE,
    SIGLIP,
    TEXT,
    ids,
    pixtral_parts,
    qwen3_5,
    qwen3_vl,
    qwen_parts,
    square_pixels,
    template,
    tokenizer,
)
from unlisted import glm4v

from svl_core.lvlm.processors import still_class

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 2,
}
WINDOWED = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 64,
    "fullatt_block_indexes": [1],
}


def marks_of(words, **tokens):
    return {name: words.convert_tokens_to_ids(token) for name, token in tokens.items()}


def qwen3_vl_moe():
    from transformers import Qwen3VLMoeConfig

    config, processor = qwen3_vl()
    whole = config.to_dict()
    text = {**whole["text_config"], **EXPERTS, "decoder_sparse_step": 1}
    text.pop("model_type")
    vision = {**whole["vision_config"]}
    vision.pop("model_type")
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    return Qwen3VLMoeConfig(text_config=text, vision_config=vision, **marks), processor


def qwen3_5_moe():
    from transformers import Qwen3_5MoeConfig

    config, processor = qwen3_5()
    whole = config.to_dict()
    text = {**whole["text_config"], **EXPERTS}
    text.pop("model_type")
    vision = {**whole["vision_config"]}
    vision.pop("model_type")
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    return Qwen3_5MoeConfig(text_config=text, vision_config=vision, **marks), processor


def cosmos3_omni():
    """Qwen3-VL's parts under another name."""
    from transformers import Cosmos3OmniConfig

    config, processor = qwen3_vl()
    whole = config.to_dict()
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    return (
        Cosmos3OmniConfig(
            text_config=whole["text_config"], vision_config=whole["vision_config"], **marks
        ),
        processor,
    )


def exaone4_5():
    from transformers import Exaone4_5_Config

    words, processor, marks = qwen_parts("Exaone4_5_Processor", 8)
    text = {**TEXT, "model_type": "exaone4", "vocab_size": len(words), **ids(words)}
    text |= {"sliding_window": None, "layer_types": ["full_attention"] * 6}
    vision = {**WINDOWED, "num_key_value_heads": 1}
    tokens = {name: marks[name] for name in ("image_token_id", "video_token_id")}
    return Exaone4_5_Config(text_config=text, vision_config=vision, **tokens), processor


def hyperclovax():
    from transformers import HyperCLOVAXVisionV2Config

    words, processor, marks = qwen_parts("HyperCLOVAXVisionV2Processor", 8)
    text = {**TEXT, "model_type": "hyperclovax", "vocab_size": len(words), **ids(words)}
    vision = {**WINDOWED, "model_type": "qwen2_5_vl_vision"}
    tokens = {name: marks[name] for name in ("image_token_id", "video_token_id")}
    return HyperCLOVAXVisionV2Config(text_config=text, vision_config=vision, **tokens), processor


def glm46v():
    from transformers import Glm46VConfig
    from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

    config, processor = glm4v()
    whole = config.to_dict()
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    old = processor.image_processor
    pixels = Glm46VImageProcessorPil(
        patch_size=8, temporal_patch_size=2, merge_size=2, size=dict(old.size)
    )
    made = still_class("Glm46VProcessor")(
        pixels, processor.tokenizer, None, chat_template=processor.chat_template
    )
    return (
        Glm46VConfig(
            text_config=whole["text_config"], vision_config=whole["vision_config"], **marks
        ),
        made,
    )


def glm4v_moe():
    """Two dense layers ahead of the mixtures of experts."""
    from transformers import Glm4vMoeConfig

    config, processor = glm4v()
    whole = config.to_dict()
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    text, vision = dict(whole["text_config"]), dict(whole["vision_config"])
    text.pop("model_type")
    vision.pop("model_type")
    return Glm4vMoeConfig(text_config={**text, **ROUTED}, vision_config=vision, **marks), processor


def glm_ocr():
    from transformers import GlmOcrConfig

    config, processor = glm4v()
    whole = config.to_dict()
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    text, vision = dict(whole["text_config"]), dict(whole["vision_config"])
    text.pop("model_type")
    vision.pop("model_type")
    text["head_dim"] = 16
    return GlmOcrConfig(text_config=text, vision_config=vision, **marks), processor


def lighton_ocr():
    from transformers import LightOnOcrConfig, Qwen3Config
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    _, _, vision = pixtral_parts(2)
    words = tokenizer(
        "<|image_pad|>",
        image_token="<|image_pad|>",
        image_break_token="<|vision_pad|>",
        image_end_token="<|vision_end|>",
    )
    processor = still_class("LightOnOcrProcessor")(
        PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
        words,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=template("<|image_pad|>"),
    )
    text = Qwen3Config(**TEXT, head_dim=16, vocab_size=len(words), **ids(words))
    return (
        LightOnOcrConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            spatial_merge_size=2,
            image_token_id=words.image_token_id,
        ),
        processor,
    )


def video_llama_3():
    from transformers import Qwen2Config, VideoLlama3Config
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import (
        VideoLlama3ImageProcessorPil,
    )

    words = tokenizer("<|image_pad|>", "<|video_pad|>")
    pixels = VideoLlama3ImageProcessorPil(
        patch_size=8, merge_size=1, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    )
    processor = still_class("VideoLlama3Processor")(
        pixels, words, None, chat_template=template("<|image_pad|>")
    )
    text = Qwen2Config(**TEXT, vocab_size=len(words), **ids(words))
    tokens = marks_of(words, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>")
    return (
        VideoLlama3Config(
            text_config=text.to_dict(), vision_config={**SIGLIP, "patch_size": 8}, **tokens
        ),
        processor,
    )


def paddleocr_vl():
    from transformers import PaddleOCRVLConfig
    from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import (
        PaddleOCRVLImageProcessorPil,
    )

    words = tokenizer("<|IMG|>", "<|VID|>", image_token="<|IMG|>")
    pixels = PaddleOCRVLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        temporal_patch_size=1,
        size={"shortest_edge": 32 * 32, "longest_edge": 128 * 128},
    )
    processor = still_class("PaddleOCRVLProcessor")(
        pixels, words, chat_template=template("<|IMG|>")
    )
    text = {**TEXT, "head_dim": 16, "vocab_size": len(words), **ids(words)}
    text["rope_parameters"] = QWEN_ROPE
    vision = {**SIGLIP, "image_size": 64, "patch_size": 8, "spatial_merge_size": 2}
    tokens = marks_of(words, image_token_id="<|IMG|>", video_token_id="<|VID|>")
    return PaddleOCRVLConfig(text_config=text, vision_config=vision, **tokens), processor


def janus():
    from transformers import JanusConfig, LlamaConfig
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    words = tokenizer(
        "<image_placeholder>",
        image_token="<image_placeholder>",
        boi_token="<begin_of_image>",
        eoi_token="<end_of_image>",
    )
    processor = still_class("JanusProcessor")(
        JanusImageProcessorPil(**square_pixels(48)),
        words,
        num_image_tokens=36,
        chat_template=template("<image_placeholder>"),
    )
    vision = {
        **{name: SIGLIP[name] for name in SIGLIP if name != "intermediate_size"},
        "image_size": 48,
        "patch_size": 8,
        "projection_dim": HIDDEN,
        "num_image_tokens": 36,
        "mlp_ratio": 1.5,
    }
    codes = {
        "embed_dim": 8,
        "num_embeddings": 16,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "latent_channels": 32,
        "num_patches": 6,
        "projection_dim": HIDDEN,
        "image_token_embed_dim": HIDDEN,
    }
    text = LlamaConfig(**TEXT, vocab_size=len(words), **ids(words))
    return (
        JanusConfig(
            text_config=text.to_dict(),
            vision_config=vision,
            vq_config=codes,
            image_token_id=words.image_token_id,
        ),
        processor,
    )


def llava_next_video():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextVideoConfig
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    words = tokenizer("<image>", "<video>")
    pinpoints = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=pinpoints,
    )
    processor = still_class("LlavaNextVideoProcessor")(
        image_processor=pixels,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    vision = CLIPVisionConfig(**SIGLIP, image_size=32, patch_size=8, projection_dim=32)
    return (
        LlavaNextVideoConfig(
            vision_config=vision.to_dict(),
            text_config=LlamaConfig(**TEXT, vocab_size=len(words), **ids(words)).to_dict(),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            video_token_id=words.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=pinpoints,
            vision_feature_layer=-1,
        ),
        processor,
    )


ZOO = {
    "cosmos3_omni": cosmos3_omni,
    "exaone4_5": exaone4_5,
    "glm46v": glm46v,
    "glm4v_moe": glm4v_moe,
    "glm_ocr": glm_ocr,
    "hyperclovax_vision_v2": hyperclovax,
    "janus": janus,
    "lighton_ocr": lighton_ocr,
    "llava_next_video": llava_next_video,
    "paddleocr_vl": paddleocr_vl,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_vl_moe": qwen3_vl_moe,
    "video_llama_3": video_llama_3,
}
"""Entry of the mapping -> what builds its config and processor."""
