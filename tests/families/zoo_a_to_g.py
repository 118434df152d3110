"""Tiny models of the mapping's entries from "aria" to "granite_docling" that no other file builds;
`state_table.py` puts each of them into its state.
"""

from builders import (
    HIDDEN,
    LAYERS,
    QWEN_ROPE,
    SIGLIP,
    TEXT,
    ids,
    square_pixels,
    template,
    tokenizer,
)
from unlisted import glm4v
from zoo import marks_of

from svl_core.lvlm.processors import still_class

EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
QWEN_MARKS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def aria():
    """A mixture of experts that reads eight queries of the whole image."""
    from transformers import AriaConfig
    from transformers.models.aria.image_processing_pil_aria import AriaImageProcessorPil

    words = tokenizer("<image>", image_token="<image>")
    processor = still_class("AriaProcessor")(
        AriaImageProcessorPil(max_image_size=980),
        words,
        size_conversion={980: 8},
        chat_template=template("<image>"),
    )
    text = {**TEXT, "vocab_size": len(words), "moe_num_experts": 4, **ids(words)}
    vision = {**SIGLIP, "model_type": "idefics3_vision", "image_size": 980, "patch_size": 140}
    return (
        AriaConfig(
            text_config=text,
            vision_config=vision,
            projector_patch_to_query_dict={49: 8},
            image_token_index=words.image_token_id,
        ),
        processor,
    )


def codes_of_chameleon(count):
    """Its names of the image's codes, whose digits are letters."""
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    return [f"IMGIMG{str(code).translate(letters)}Z" for code in range(count)]


def chameleon():
    """The image as codes of the vocabulary, 4 x 4 of them."""
    from transformers import ChameleonConfig
    from transformers.models.chameleon.image_processing_pil_chameleon import (
        ChameleonImageProcessorPil,
    )

    codes = codes_of_chameleon(64)
    words = tokenizer("<image>", "<racm3:break>", "<eoss>", "<reserved08706>", *codes)
    words.sep_token = "<reserved08706>"
    processor = still_class("ChameleonProcessor")(
        ChameleonImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        words,
        image_seq_length=16,
    )
    codebook = {
        "embed_dim": 8,
        "num_embeddings": len(codes),
        "latent_channels": 8,
        "resolution": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1,
    }
    marks = {code: words.convert_tokens_to_ids(code) for code in ("<image>", *codes)}
    config = ChameleonConfig(
        **TEXT,
        vocab_size=len(words),
        vq_config=codebook,
        vocabulary_map=marks,
        **ids(words),
    )
    return config, processor


def cohere_compass():
    """Visual features of the vision side's layers are added behind the first decoder layers."""
    from transformers import CohereCompassConfig
    from transformers.models.cohere_compass.image_processing_pil_cohere_compass import (
        CohereCompassImageProcessorPil,
    )

    marks = ("<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>")
    words = tokenizer(*marks)
    pixels = CohereCompassImageProcessorPil(
        patch_size=8,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 48},
    )
    processor = still_class("CohereCompassProcessor")(
        pixels,
        words,
        None,
        chat_template=template("<|VISION_START|><|IMAGE_PAD|><|VISION_END|>"),
    )
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {
        **TEXT,
        "vocab_size": len(words),
        "logit_scale": 1.0,
        "layer_types": ["full_attention"] * LAYERS,
        "rope_parameters": {"full_attention": {**QWEN_ROPE, "mrope_interleaved": True}},
        **ids(words),
    }
    tokens = dict(zip(QWEN_MARKS, words.convert_tokens_to_ids(list(marks)), strict=True))
    return CohereCompassConfig(text_config=text, vision_config=vision, **tokens), processor


def cosmos3_edge():
    from transformers import Cosmos3EdgeConfig
    from transformers.models.cosmos3_edge.image_processing_pil_cosmos3_edge import (
        Cosmos3EdgeImageProcessorPil,
    )

    words = tokenizer(*QWEN_MARKS.values())
    pixels = Cosmos3EdgeImageProcessorPil(
        patch_size=8,
        merge_size=2,
        size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 48},
    )
    processor = still_class("Cosmos3EdgeProcessor")(
        pixels,
        words,
        None,
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {
        **TEXT,
        "head_dim": 16,
        "vocab_size": len(words),
        "rope_parameters": rope,
        **ids(words),
    }
    vision = {**SIGLIP, "patch_size": 8, "num_patches": 64, "spatial_merge_size": 2}
    return (
        Cosmos3EdgeConfig(
            text_config=text,
            vision_config=vision,
            projector_hidden_size=48,
            **marks_of(words, **QWEN_MARKS),
        ),
        processor,
    )


SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "mlp_dim": 48,
}


def deepseek_vl_hybrid():
    """One square grid of what a small and a large copy of the padded image show."""
    from transformers import DeepseekVLHybridConfig
    from transformers.models.deepseek_vl_hybrid.image_processing_pil_deepseek_vl_hybrid import (
        DeepseekVLHybridImageProcessorPil,
    )

    words = tokenizer("<image_placeholder>", image_token="<image_placeholder>")
    pixels = DeepseekVLHybridImageProcessorPil(
        size={"height": 48, "width": 48}, high_res_size={"height": 96, "width": 96}
    )
    processor = still_class("DeepseekVLHybridProcessor")(
        pixels,
        words,
        num_image_tokens=36,
        chat_template=template("<image_placeholder>"),
    )
    low = {"model_type": "siglip_vision_model", "image_size": 48, "patch_size": 8}
    high = {"model_type": "sam_vision_model", "image_size": 96, "patch_size": 4}
    text = {**TEXT, "model_type": "llama", "vocab_size": len(words), **ids(words)}
    return (
        DeepseekVLHybridConfig(
            text_config=text,
            vision_config={**SIGLIP, **low, "vision_use_head": False},
            high_res_vision_config={**SAM, **high},
            image_token_id=words.image_token_id,
        ),
        processor,
    )


def ernie4_5_vl_moe():
    """Experts of two kinds: some for the words, others for the image."""
    from transformers import Ernie4_5_VLMoeConfig
    from transformers.models.ernie4_5_vl_moe.image_processing_pil_ernie4_5_vl_moe import (
        Ernie4_5_VLMoeImageProcessorPil,
    )

    marks = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    }
    words = tokenizer("<|IMAGE_PLACEHOLDER|>", **marks)
    pixels = Ernie4_5_VLMoeImageProcessorPil(
        patch_size=8,
        merge_size=2,
        size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 48},
    )
    processor = still_class("Ernie4_5_VLMoeProcessor")(
        pixels,
        words,
        None,
        chat_template=template("<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"),
    )
    text = {
        **TEXT,
        "vocab_size": len(words),
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_intermediate_size": [16, 16],
        "rope_parameters": {"rope_type": "default", "mrope_section": [3, 3, 2]},
        **ids(words),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "patch_size": 8,
    }
    tokens = {f"{name}_id": words.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    return Ernie4_5_VLMoeConfig(text_config=text, vision_config=vision, **tokens), processor


def glmga():
    """GLM-4.6V's parts with an image processor of its own."""
    from transformers import GlmgaConfig
    from transformers.models.glmga.image_processing_pil_glmga import GlmgaImageProcessorPil

    config, processor = glm4v()
    whole = config.to_dict()
    marks = {name: value for name, value in whole.items() if name.endswith("_token_id")}
    pixels = GlmgaImageProcessorPil(
        patch_size=8,
        temporal_patch_size=2,
        merge_size=2,
        size=dict(processor.image_processor.size),
    )
    made = still_class("Glm46VProcessor")(
        pixels, processor.tokenizer, None, chat_template=processor.chat_template
    )
    parts = {name: whole[name] for name in ("text_config", "vision_config")}
    return GlmgaConfig(**parts, **marks), made


def got_ocr2():
    """One square grid of 16 x 16; its processor takes a flat list of images."""
    from transformers import GotOcr2Config
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        GotOcr2ImageProcessorPil,
    )

    words = tokenizer("<imgpad>", "<img>", "</img>", "<|im_start|>", "<|im_end|>")
    pixels = GotOcr2ImageProcessorPil(**square_pixels(256))
    processor = still_class("GotOcr2Processor")(
        pixels,
        words,
        chat_template=template("<img><imgpad></img>"),
    )
    vision = {"image_size": 256, "patch_size": 4, "global_attn_indexes": []}
    text = {**TEXT, "model_type": "qwen2", "vocab_size": len(words), **ids(words)}
    return (
        GotOcr2Config(
            text_config=text,
            vision_config={**SAM, **vision},
            image_token_index=words.convert_tokens_to_ids("<imgpad>"),
        ),
        processor,
    )


def granite4_vision():
    """Features of several vision layers, each added to a decoder layer of its own."""
    from transformers import Granite4VisionConfig
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    words = tokenizer("<image>", image_token="<image>")
    pinpoints = [[64, 128], [128, 64], [128, 128]]
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_grid_pinpoints=pinpoints,
    )
    processor = still_class("Granite4VisionProcessor")(
        pixels,
        words,
        patch_size=8,
        vision_feature_select_strategy="full",
        downsample_rate="2/4",
        chat_template=template("<image>"),
    )
    vision = {**SIGLIP, "hidden_size": 64, "image_size": 64, "patch_size": 8}
    qformer = {
        "model_type": "blip_2_qformer",
        "num_hidden_layers": 1,
        "intermediate_size": 48,
        "use_qformer_text_input": False,
        "cross_attention_frequency": 1,
    }
    text = {**TEXT, "vocab_size": len(words), **ids(words)}
    return (
        Granite4VisionConfig(
            text_config=text,
            vision_config={**vision, "model_type": "siglip_vision_model", "vision_use_head": False},
            qformer_config=qformer,
            image_token_index=words.image_token_id,
            image_grid_pinpoints=pinpoints,
            vision_feature_select_strategy="full",
            downsample_rate="2/4",
            deepstack_layer_map=[(-2, 0), (-1, 1)],
            spatial_target_layers=[2, 2, 3, 3],
        ),
        processor,
    )


def deepseek_ocr2():
    """Queries that each read all of a view; those of tiles first, a separator behind all."""
    from transformers import DeepseekOcr2Config
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (
        DeepseekOcr2ImageProcessorPil,
    )

    words = tokenizer("<image>", image_token="<image>")
    pixels = DeepseekOcr2ImageProcessorPil(**square_pixels(128), tile_size=96)
    processor = still_class("DeepseekOcr2Processor")(
        pixels,
        words,
        patch_size=2,
        downsample_ratio=4,
        chat_template=template("<image>"),
    )
    sam = {**SAM, "image_size": 128, "patch_size": 2, "global_attn_indexes": []}
    queries = {**TEXT, "hidden_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 2}
    text = {
        **TEXT,
        **EXPERTS,
        "n_shared_experts": 1,
        "mlp_layer_types": ["dense", *["sparse"] * (LAYERS - 1)],
        "vocab_size": len(words),
        **ids(words),
    }
    return (
        DeepseekOcr2Config(
            vision_config={
                "sam_config": {**sam, "downsample_channels": [32, 32]},
                "encoder_config": queries,
            },
            text_config=text,
            image_token_id=words.image_token_id,
        ),
        processor,
    )


def dots3_note():
    """Compressed keys, a sliding window in some layers and an index of positions in the others; its
    video and audio halves are left out.
    """
    from transformers import Dots3NoteConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer("<|imgpad|>", "<|video_pad|>", "<|audio_comp_pad|>")
    pixels = Qwen2VLImageProcessorPil(
        patch_size=8,
        temporal_patch_size=1,
        merge_size=2,
        size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 48},
    )
    processor = still_class("Dots3NoteProcessor")(
        pixels, words, None, None, chat_template=template("<|imgpad|>")
    )
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "head_dim": 16,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    }
    text = {
        **TEXT,
        **EXPERTS,
        **heads,
        **{f"swa_{name}": value for name, value in heads.items()},
        "qk_rope_head_dim": 8,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "index_topk": 4096,
        "sliding_window": 512,
        "shared_experts_intermediate_size": 16,
        "vocab_size": len(words),
        **ids(words),
    }
    vision = {
        **SIGLIP,
        "patch_size": 8,
        "mlp_layer_types": ["dense", "dense"],
        "adapter_in_dim": 32,
        "adapter_out_dim": HIDDEN,
    }
    audio = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "downsample_hidden_size": 8,
        "adapter_input_size": 32,
        "adapter_out_dim": HIDDEN,
    }
    tokens = {
        "image_token_id": "<|imgpad|>",
        "video_token_id": "<|video_pad|>",
        "audio_token_id": "<|audio_comp_pad|>",
    }
    return (
        Dots3NoteConfig(
            text_config=text,
            vision_config=vision,
            audio_config=audio,
            **marks_of(words, **tokens),
        ),
        processor,
    )


def emu3():
    """The image as codes of the vocabulary, each of their rows closed by a mark."""
    from transformers import Emu3Config
    from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

    codes = [f"<|visual token {code:06d}|>" for code in range(16)]
    marks = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    others = {f"code_{number}": code for number, code in enumerate(codes)}
    words = tokenizer("<image>", **marks, eol_token="<|extra_200|>", **others)
    processor = still_class("Emu3Processor")(
        Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64),
        words,
        chat_template=template("<image>"),
    )
    codebook = {
        "codebook_size": len(codes),
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "hidden_size": 32,
    }
    text = {**TEXT, "vocab_size": len(words), **ids(words)}
    named = ("<image>", "<|extra_200|>", *codes)
    vocabulary = {token: words.convert_tokens_to_ids(token) for token in named}
    return (
        Emu3Config(text_config=text, vq_config=codebook, vocabulary_map=vocabulary),
        processor,
    )


def fast_vlm():
    """The stock vision tower needs timm: another convolutional one of the library stands in for it.
    Its checkpoints bring LLaVA's processor.
    """
    from transformers import FastVlmConfig, LlavaProcessor, PoolFormerConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer("<image>")
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
        words,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )
    tower = PoolFormerConfig(
        hidden_size=32,
        hidden_sizes=[32],
        depths=[1],
        patch_sizes=[16],
        strides=[16],
        padding=[0],
        num_encoder_blocks=1,
    )
    text = {**TEXT, "model_type": "qwen2", "vocab_size": len(words), **ids(words)}
    return (
        FastVlmConfig(
            vision_config=tower.to_dict(),
            text_config=text,
            image_token_index=words.convert_tokens_to_ids("<image>"),
            image_seq_length=36,
        ),
        processor,
    )


def glm5_next():
    """Several residual streams, which each layer mixes."""
    from transformers import Glm5NextConfig
    from transformers.models.glm5_next.image_processing_pil_glm5_next import (
        Glm5NextImageProcessorPil,
    )

    _, known = glm4v()
    words = known.tokenizer
    pixels = Glm5NextImageProcessorPil(
        patch_size=8,
        temporal_patch_size=2,
        merge_size=2,
        size=dict(known.image_processor.size),
    )
    processor = still_class("Glm5NextProcessor")(
        pixels, words, None, chat_template=known.chat_template
    )
    text = {
        **TEXT,
        **EXPERTS,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "index_topk": 4096,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "vocab_size": len(words),
        **ids(words),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "image_size": 64,
        "patch_size": 8,
        "out_hidden_size": HIDDEN,
        "projection_intermediate_size": 48,
    }
    tokens = marks_of(words, image_token_id="<|image|>", video_token_id="<|video|>")
    return Glm5NextConfig(text_config=text, vision_config=vision, **tokens), processor


def granite_docling():
    """Tiles row by row and the whole page last; features are added behind the first layers."""
    from transformers import GraniteDoclingConfig
    from transformers.models.granite_docling.image_processing_pil_granite_docling import (
        GraniteDoclingImageProcessorPil,
    )

    sides = range(1, 5)
    words = tokenizer(
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{row}_col_{column}>" for row in sides for column in sides),
    )
    processor = still_class("GraniteDoclingProcessor")(
        GraniteDoclingImageProcessorPil(**square_pixels(64), max_patches=4),
        words,
        image_seq_len=16,
        chat_template=template("<image>"),
    )
    vision = {
        **SIGLIP,
        "image_size": 64,
        "patch_size": 8,
        "scale_factor": 2,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0, 1],
        "use_fine_route": False,
    }
    text = {**TEXT, "vocab_size": len(words), **ids(words)}
    return (
        GraniteDoclingConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=words.convert_tokens_to_ids("<image>"),
            pad_token_id=words.pad_token_id,
        ),
        processor,
    )


# Refused by their configs alone: they need no processor.


def blip():
    """Layers that read the image through cross-attention."""
    from transformers import BlipConfig

    text = {
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
    }
    vision = {**SIGLIP, "image_size": 32, "patch_size": 8}
    return BlipConfig(text_config=text, vision_config=vision), None


def diffusion_gemma():
    from transformers import DiffusionGemmaConfig

    return DiffusionGemmaConfig(), None


def evolla():
    """It reads proteins."""
    from transformers import EvollaConfig

    return EvollaConfig(), None


def git():
    """Its image enters ahead of the words, within the model."""
    from transformers import GitConfig

    text = {
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
    }
    return GitConfig(**text, vision_config={**SIGLIP, "image_size": 32, "patch_size": 8}), None


ZOO = {
    "aria": aria,
    "blip": blip,
    "chameleon": chameleon,
    "cohere_compass": cohere_compass,
    "cosmos3_edge": cosmos3_edge,
    "deepseek_ocr2": deepseek_ocr2,
    "deepseek_vl_hybrid": deepseek_vl_hybrid,
    "diffusion_gemma": diffusion_gemma,
    "dots3_note": dots3_note,
    "emu3": emu3,
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
    "evolla": evolla,
    "fast_vlm": fast_vlm,
    "git": git,
    "glm5_next": glm5_next,
    "glmga": glmga,
    "got_ocr2": got_ocr2,
    "granite4_vision": granite4_vision,
    "granite_docling": granite_docling,
}
"""Entry of the mapping -> what builds its config and processor."""
