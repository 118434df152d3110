"""Tiny models of entries of transformers' mapping that no other file builds: those whose pictures
are read by torchvision only. Each has its own image processor, which borrows a stand-in.
"""

from builders import (
    GEMMA_AUDIO,
    GEMMA_MARKS,
    HIDDEN,
    SIGLIP,
    TEXT,
    ids,
    paligemma,
    qwen3_5,
    square_pixels,
    template,
    tokenizer,
)
from stand_in_torchvision import image_processor, lent
from zoo import marks_of

from svl_core.lvlm.processors import still_class


def still(name):
    """The processor class `name` for still images, which may need torchvision to be read."""
    with lent():
        return still_class(name)


def kimi_k25():
    """The image is made smaller, then padded right and below, to whole squares of patches."""
    from transformers import DeepseekV3Config, Kimi_K25Config

    words = tokenizer("<|media_pad|>", "<|kimi_k25_video_placeholder|>")
    pixels = image_processor("kimi_k25", "Kimi_K25ImageProcessor")(
        patch_size=8, merge_size=2, max_patches=96, size={"max_height": 16, "max_width": 16}
    )
    processor = still("Kimi_K25Processor")(
        pixels, words, None, chat_template=template("<|media_pad|>")
    )
    text = DeepseekV3Config(
        **TEXT | {"num_key_value_heads": 4},
        vocab_size=len(words),
        **LATENT,
        **ids(words),
    )
    vision = {**SIGLIP, "patch_size": 8, "pos_emb_height": 8, "pos_emb_width": 8}
    tokens = marks_of(
        words, image_token_id="<|media_pad|>", video_token_id="<|kimi_k25_video_placeholder|>"
    )
    return (
        Kimi_K25Config(
            text_config=text.to_dict(), vision_config=vision, projection_hidden_size=32, **tokens
        ),
        processor,
    )


LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 2,
}


def cohere2_vision():
    """Tiles row by row, a thumbnail behind them; each tile is closed by a line break."""
    from transformers import Cohere2Config, Cohere2VisionConfig, SiglipVisionConfig

    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": "<|START_OF_IMG|>",
        "eoi_token": "<|END_OF_IMG|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }
    words = tokenizer("<|IMG_PATCH|>", **named)
    pixels = image_processor("cohere2_vision", "Cohere2VisionImageProcessor")(
        **square_pixels(32), min_patches=1, max_patches=6, patch_size=4
    )
    processor = still("Cohere2VisionProcessor")(
        pixels, words, chat_template=template("<|IMG_PATCH|>")
    )
    text = Cohere2Config(
        **TEXT, head_dim=16, vocab_size=len(words), sliding_window=32, **ids(words)
    )
    vision = SiglipVisionConfig(**SIGLIP, image_size=32, patch_size=4, vision_use_head=False)
    return (
        Cohere2VisionConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_id=words.image_token_id,
            downsample_factor=2,
            alignment_intermediate_size=64,
        ),
        processor,
    )


def lfm2_vl():
    """Small pictures as one grid, larger ones as tiles with a thumbnail of another shape."""
    from transformers import Lfm2Config, Lfm2VlConfig, Siglip2VisionConfig

    rows = [f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)]
    words = tokenizer("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *rows)
    pixels = image_processor("lfm2_vl", "Lfm2VlImageProcessor")(
        downsample_factor=2,
        min_tiles=2,
        max_tiles=4,
        min_image_tokens=4,
        max_image_tokens=16,
        encoder_patch_size=8,
        tile_size=64,
    )
    processor = still("Lfm2VlProcessor")(pixels, words, chat_template=template("<image>"))
    text = Lfm2Config(
        **TEXT,
        vocab_size=len(words),
        layer_types=["conv", "full_attention"] * 3,
        conv_L_cache=3,
        **ids(words),
    )
    vision = Siglip2VisionConfig(**SIGLIP, patch_size=8, num_patches=64, vision_use_head=False)
    return (
        Lfm2VlConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            downsample_factor=2,
            projector_hidden_size=32,
        ),
        processor,
    )


def llama4():
    """Tiles of an image padded right and below, then the whole image once more."""
    from transformers import Llama4Config

    marks = {
        "image": "<|image|>",
        "patch": "<|patch|>",
        "start": "<|image_start|>",
        "end": "<|image_end|>",
        "x": "<|tile_x_separator|>",
        "y": "<|tile_y_separator|>",
    }
    words = tokenizer(*marks.values())
    pixels = image_processor("llama4", "Llama4ImageProcessor")(
        size={"height": 32, "width": 32}, max_patches=4
    )
    processor = still("Llama4Processor")(
        pixels,
        words,
        patch_size=8,
        pixel_shuffle_ratio=0.5,
        image_token=marks["image"],
        patch_token=marks["patch"],
        chat_template=template("<|image|>"),
    )
    text = {
        **TEXT,
        "intermediate_size": 32,
        "intermediate_size_mlp": 96,
        "head_dim": 16,
        "num_local_experts": 4,
        "interleave_moe_layer_step": 2,
        "vocab_size": len(words),
        "attention_chunk_size": 2048,
        **ids(words),
    }
    vision = {
        **SIGLIP,
        "image_size": 32,
        "patch_size": 8,
        "vision_output_dim": 48,
        "projector_input_dim": 48,
        "projector_output_dim": 48,
        "intermediate_size": 128,
    }
    tokens = marks_of(
        words,
        image_token_index=marks["patch"],
        boi_token_index=marks["start"],
        eoi_token_index=marks["end"],
    )
    return Llama4Config(text_config=text, vision_config=vision, **tokens), processor


def inkling2():
    from transformers import Inkling2Config

    words, processor = inkling2_parts()
    text = {
        **TEXT,
        **INKLING,
        **BLOCKS,
        "vocab_size": len(words),
        "unpadded_vocab_size": len(words),
    }
    return (
        Inkling2Config(
            text_config={**text, **ids(words)},
            vision_config=INKLING_VISION,
            image_token_id=words.convert_tokens_to_ids("<image>"),
        ),
        processor,
    )


def inkling2_parts():
    words = tokenizer("<image>", image_token="<image>")
    pixels = image_processor("inkling2", "Inkling2ImageProcessor")(size={"height": 16, "width": 16})
    return words, still("Inkling2Processor")(pixels, words, chat_template=template("<image>"))


INKLING = {
    "head_dim": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "sliding_window_size": 32,
    "d_rel": 4,
    "rel_extent": 64,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["hybrid_sliding", "hybrid"] * 3,
}
BLOCKS = {"n_layers_per_attn_res_block": 2}
INKLING_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "posemb_grid_size": 8,
    "projection_hidden_dim": 32,
    "text_hidden_size": HIDDEN,
}


def inkling2_loop():
    """The layers in the middle run three times."""
    from transformers import Inkling2LoopConfig

    words, processor = inkling2_parts()
    text = {
        **TEXT,
        **INKLING,
        **BLOCKS,
        "vocab_size": len(words),
        "unpadded_vocab_size": len(words),
    }
    loop = {"loop_layer_index_start": 2, "loop_layer_index_end": 4, "loop_gate_rank": 8}
    return (
        Inkling2LoopConfig(
            text_config={**text, **loop, **ids(words)},
            vision_config={**INKLING_VISION, "model_type": "inkling2_vision"},
            image_token_id=words.convert_tokens_to_ids("<image>"),
        ),
        processor,
    )


def inkling_mm_model():
    """Squares of pixels that are tokens by themselves, padded right and below."""
    from transformers import InklingConfig

    words = tokenizer(
        "<image>",
        "<audio>",
        "<|content_image|>",
        "<|content_audio_input|>",
        image_token="<image>",
        audio_token="<audio>",
        image_bos_token="<|content_image|>",
        audio_bos_token="<|content_audio_input|>",
    )
    pixels = image_processor("inkling", "InklingImageProcessor")(size={"height": 16, "width": 16})
    processor = still("InklingProcessor")(
        None, pixels, words, chat_template=template("<|content_image|><image>")
    )
    text = {**TEXT, **INKLING, "vocab_size": len(words), "n_shared_experts": 1, **ids(words)}
    text |= {"mlp_layer_types": ["dense"] + ["sparse"] * 5, "logits_mup_width_multiplier": 2.0}
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "patch_size": 16,
        "text_hidden_size": HIDDEN,
    }
    tokens = marks_of(
        words,
        image_token_id="<image>",
        audio_token_id="<audio>",
        image_bos_token_id="<|content_image|>",
        audio_bos_token_id="<|content_audio_input|>",
    )
    audio = {"n_mel_bins": 4, "mel_vocab_size": 4, "text_hidden_size": HIDDEN}
    return (
        InklingConfig(text_config=text, vision_config=vision, audio_config=audio, **tokens),
        processor,
    )


def minimax_m3_vl():
    """Merged patches; layers with an indexer that chooses blocks of keys."""
    from transformers import MiniMaxM3VLConfig

    marks = ("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>[")
    words = tokenizer(*marks)
    pixels = image_processor("minimax_m3_vl", "MiniMaxM3VLImageProcessor")(
        patch_size=8, size={"shortest_edge": 16 * 16 * 4, "longest_edge": 16 * 16 * 48}
    )
    processor = still("MiniMaxM3VLProcessor")(
        pixels, words, None, chat_template=template("]<]image[>[")
    )
    text = {
        **TEXT,
        "head_dim": 16,
        "rotary_dim": 8,
        "vocab_size": len(words),
        "intermediate_size": 16,
        "dense_intermediate_size": 96,
        "shared_intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 8,
        "index_topk_blocks": 4,
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 3,
        "mlp_layer_types": ["dense"] + ["sparse"] * 5,
        **ids(words),
    }
    vision = {**SIGLIP, "image_size": 64, "patch_size": 8}
    tokens = marks_of(words, image_token_index=marks[0], video_token_index=marks[1])
    return (
        MiniMaxM3VLConfig(
            text_config=text, vision_config=vision, projector_hidden_size=32, **tokens
        ),
        processor,
    )


def molmo2():
    """An overview of pooled patches, then those of overlapping crops, each row with its end."""
    from transformers import Molmo2Config

    words = tokenizer(
        "<|image|>",
        "<|video|>",
        "<im_patch>",
        "<im_col>",
        "<im_start>",
        "<low_res_im_start>",
        "<frame_start>",
        "<im_end>",
        "<frame_end>",
        "<im_low>",
        image_token="<|image|>",
        video_token="<|video|>",
    )
    pixels = image_processor("molmo2", "Molmo2ImageProcessor")(
        **square_pixels(48), max_crops=4, overlap_margins=[1, 1], patch_size=8
    )
    processor = still("Molmo2Processor")(pixels, None, words, chat_template=template("<|image|>"))
    text = {**TEXT, "head_dim": 16, "vocab_size": len(words), **ids(words)}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    vision = {**SIGLIP, **heads, "image_size": [48, 48], "patch_size": 8}
    adapter = {**heads, "hidden_size": 32, "intermediate_size": 48, "text_hidden_size": HIDDEN}
    tokens = marks_of(
        words,
        image_start_token_id="<im_start>",
        low_res_image_start_token_id="<low_res_im_start>",
        image_end_token_id="<im_end>",
        image_patch_id="<im_patch>",
        frame_start_token_id="<frame_start>",
        frame_end_token_id="<frame_end>",
    )
    return (
        Molmo2Config(
            text_config={**text, "additional_vocab_size": 0},
            vision_config=vision,
            adapter_config={**adapter, "vision_feature_layer": [-1, -2]},
            **tokens,
        ),
        processor,
    )


MUSE_MARKS = {
    "image_token": "<|patch|>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "video_token": "<|video|>",
    "audio_token": "<|audio|>",
}


def muse_parts(name):
    words = tokenizer(*MUSE_MARKS.values(), **MUSE_MARKS)
    pixels = image_processor("muse_glimmer", "MuseGlimmerImageProcessor")(
        patch_size=8, max_image_tokens=40
    )
    processor = still(name)(
        image_processor=pixels, tokenizer=words, chat_template=template("<|patch|>")
    )
    text = {**TEXT, "head_dim": 16, "sliding_window": 32, "vocab_size": len(words), **ids(words)}
    vision = {**SIGLIP, "patch_size": 8, "pos_emb_height": 8, "pos_emb_width": 8}
    vision |= {"max_position_embeddings": 64}
    tokens = marks_of(words, image_token_id="<|patch|>", video_token_id="<|video|>")
    return words, processor, text, vision, tokens


def muse_glimmer():
    """Merged patches; layers without rotation see everything, others a window."""
    from transformers import MuseGlimmerConfig

    _, processor, text, vision, tokens = muse_parts("MuseGlimmerProcessor")
    sizes = {"out_hidden_size": 32 * 4, "projector_hidden_size": 48}
    return MuseGlimmerConfig(text_config=text, vision_config=vision, **sizes, **tokens), processor


def muse_spark():
    """The same with mixtures of experts and an audio side."""
    from transformers import MuseSparkConfig

    words, processor, text, vision, tokens = muse_parts("MuseSparkProcessor")
    text |= {
        "moe_intermediate_size": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_hidden_size": 32,
        "mlp_layer_types": ["dense"] + ["sparse"] * 5,
    }
    audio = {
        "patch_sizes": [4, 4],
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "num_hidden_layers": 2,
        "out_hidden_size": HIDDEN,
    }
    sizes = {"out_hidden_size": 32 * 4, "projector_hidden_size": 48}
    return (
        MuseSparkConfig(
            text_config=text,
            vision_config=vision,
            audio_config=audio,
            audio_token_id=words.convert_tokens_to_ids("<|audio|>"),
            **sizes,
            **tokens,
        ),
        processor,
    )


def nemotron_h_omni():
    """Layers are a mixer each: state space, attention, mixture of experts or plain MLP."""
    from transformers import NemotronH_Omni_Reasoning_V3_Config

    words = tokenizer(
        "<image>", "<video>", "<so_embedding>", "<so_start>", "<so_end>", "<img>", "</img>"
    )
    pixels = image_processor("nemotron_h_omni", "NemotronH_Omni_Reasoning_V3ImageProcessor")(
        patch_size=8, min_num_patches=16, max_num_patches=192
    )
    processor = still("NemotronH_Omni_Reasoning_V3Processor")(
        pixels, None, words, None, chat_template=template("<image>")
    )
    text = {
        **TEXT,
        "model_type": "nemotron_h",
        "layers_block_type": [
            "linear_attention",
            "moe",
            "full_attention",
            "mlp",
            "full_attention",
            "moe",
            "linear_attention",
        ],
        "head_dim": 16,
        "vocab_size": len(words),
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 16,
        **ids(words),
    }
    text.pop("num_hidden_layers")
    vision = {
        "model_type": "radio",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 1.5,
        "patch_size": 8,
        "image_size": 64,
        "max_img_size": 256,
        "num_cls_tokens": 1,
        "num_registers": 1,
        "video_temporal_patch_size": 2,
    }
    tokens = marks_of(
        words, image_token_id="<image>", video_token_id="<video>", audio_token_id="<so_embedding>"
    )
    return (
        NemotronH_Omni_Reasoning_V3_Config(
            text_config=text,
            vision_config=vision,
            audio_config=None,
            vision_hidden_size=32,
            projector_hidden_size=32,
            **tokens,
        ),
        processor,
    )


def perception_lm():
    """A thumbnail, then tiles row by row. CLIP's vision tower stands in for the one of timm."""
    from transformers import CLIPVisionConfig, LlamaConfig, PerceptionLMConfig

    words = tokenizer("<|image|>", image_token="<|image|>", video_token="<|video|>")
    pixels = image_processor("perception_lm", "PerceptionLMImageProcessor")(
        tile_size=32, max_num_tiles=6
    )
    processor = still("PerceptionLMProcessor")(
        None, pixels, words, patch_size=4, chat_template=template("<|image|>"), pooling_ratio=2
    )
    vision = CLIPVisionConfig(**SIGLIP, image_size=32, patch_size=4, projection_dim=32)
    vision.model_args = {"embed_dim": 32}
    return (
        PerceptionLMConfig(
            vision_config=vision.to_dict(),
            text_config=LlamaConfig(**TEXT, vocab_size=len(words), **ids(words)).to_dict(),
            projector_pooling_ratio=2,
            image_token_id=words.image_token_id,
            video_token_id=words.video_token_id,
        ),
        processor,
    )


def step3p7():
    """Windows of the image first, the whole of it behind them."""
    from transformers import Step3p7Config

    marks = (
        "<im_patch>",
        "<im_start>",
        "<im_end>",
        "<patch_start>",
        "<patch_end>",
        "<patch_newline>",
    )
    words = tokenizer(*marks)
    pixels = image_processor("step3p7", "Step3p7ImageProcessor")(
        size={"height": 96, "width": 96}, patch_size=64, max_image_size=192
    )
    pixels.vision_patch_size = 4
    processor = still("Step3p7Processor")(pixels, words, chat_template=template("<im_patch>"))
    text = {
        **TEXT,
        "head_dim": 16,
        "vocab_size": len(words),
        "moe_intermediate_size": 16,
        "share_expert_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 32,
        "layer_types": ["full_attention", "sliding_attention"] * 3,
        **ids(words),
    }
    vision = {**SIGLIP, "image_size": 96, "patch_size": 4, "mlp_ratio": 1.5}
    vision |= {"max_position_embeddings": 576}
    return (
        Step3p7Config(
            text_config=text,
            vision_config=vision,
            image_token_id=words.convert_tokens_to_ids("<im_patch>"),
        ),
        processor,
    )


def gemma4_unified():
    """Pixels enter the decoder without a vision tower."""
    from transformers import Gemma4UnifiedConfig

    words = tokenizer("<image_soft_token>", **GEMMA_MARKS, **GEMMA_AUDIO)
    pixels = image_processor("gemma4_unified", "Gemma4UnifiedImageProcessor")(
        patch_size=4, max_soft_tokens=70, pooling_kernel_size=3
    )
    processor = still("Gemma4UnifiedProcessor")(
        None, pixels, words, None, chat_template=template("<image_soft_token>")
    )
    text = {
        **TEXT,
        "head_dim": 16,
        "global_head_dim": 32,
        "vocab_size": len(words),
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        **ids(words),
    }
    vision = {
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "mm_embed_dim": HIDDEN,
        "mm_posemb_size": 128,
        "output_proj_dims": HIDDEN,
    }
    tokens = marks_of(
        words,
        image_token_id="<image_soft_token>",
        boi_token_id="<start_of_image>",
        eoi_token_id="<end_of_image>",
        audio_token_id="<audio_soft_token>",
        boa_token_id="<start_of_audio>",
        eoa_token_index="<end_of_audio>",
        video_token_id="<|video|>",
    )
    return (
        Gemma4UnifiedConfig(
            text_config=text, vision_config=vision, audio_config={"audio_embed_dim": 16}, **tokens
        ),
        processor,
    )


def unlimited_ocr():
    """A padded overview, then tiles whose rows of patches are joined."""
    from transformers import UnlimitedOcrConfig

    words = tokenizer("<image>", image_token="<image>")
    pixels = image_processor("unlimited_ocr", "UnlimitedOcrImageProcessor")(
        size={"height": 128, "width": 128}, tile_size=96, max_patches=4, maximum_pad_value=96
    )
    processor = still("UnlimitedOcrProcessor")(
        pixels, words, patch_size=4, downsample_ratio=4, chat_template=template("<image>")
    )
    text = {
        **TEXT,
        "num_key_value_heads": 4,
        "vocab_size": len(words),
        "sliding_window": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        **ids(words),
    }
    sam = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 96,
        "patch_size": 4,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 48,
        "downsample_channels": [24, 32],
        "initializer_range": 0.02,
    }
    encoder = {**SIGLIP, "image_size": 96, "patch_size": 16}
    return (
        UnlimitedOcrConfig(
            text_config=text,
            vision_config={"sam_config": sam, "encoder_config": encoder},
            image_token_id=words.image_token_id,
        ),
        processor,
    )


def pi0():
    """A robot's policy: what it generates is movements."""
    from transformers import PI0Config

    config, paligemma_processor = paligemma()
    words = paligemma_processor.tokenizer
    pixels = image_processor("pi0", "PI0ImageProcessor")(
        size={"max_height": 48, "max_width": 48}, pad_size={"height": 48, "width": 48}
    )
    pixels.image_seq_length = 36
    processor = still("PI0Processor")(pixels, words)
    vlm = config.to_dict()
    vlm["text_config"]["vocab_size"] = len(words)
    vlm["image_token_id"] = words.convert_tokens_to_ids("<image>")
    movements = {**TEXT, "model_type": "gemma", "head_dim": 16, "hidden_size": 32}
    return PI0Config(vlm_config=vlm, dit_config=movements, chunk_size=4), processor


def apertus1p5():
    """Pictures as rows of discrete codes, which are looked up among the words."""
    from transformers import Apertus1p5Config

    named = {
        "image_token": "<|image|>",
        "audio_token": "<|audio|>",
        "boi_token": "<|img_start|>",
        "eoi_token": "<|img_end|>",
        "image_wrapper_token": "<|img_wrapper|>",
        "eol_token": "<|img_eol|>",
        "boa_token": "<|audio_start|>",
        "eoa_token": "<|audio_end|>",
    }
    words = tokenizer(*named.values(), **named)
    pixels = image_processor("apertus1p5", "Apertus1p5ImageProcessor")(
        size={"min_pixels": 32 * 32, "max_pixels": 64 * 64}, spatial_factor=8
    )
    processor = still("Apertus1p5Processor")(
        pixels, None, words, chat_template=template("<|image|>")
    )
    codes, sounds = 64, 16
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = {**TEXT, "vocab_size": len(words) + codes + sounds, "rope_parameters": rope}
    text |= ids(words)
    vision = {
        "codebook_size": codes,
        "embed_dim": 16,
        "latent_channels": 16,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "resolution": 64,
        "attn_resolutions": [8],
    }
    audio = {
        "model_type": "wavtokenizer_encoder",
        "num_filters": 4,
        "hidden_size": 16,
        "codebook_dim": 16,
        "codebook_size": sounds,
        "num_lstm_layers": 1,
    }
    return (
        Apertus1p5Config(
            text_config=text,
            vision_config=vision,
            audio_config=audio,
            image_token_id=words.image_token_id,
            audio_token_id=words.audio_token_id,
            image_token_offset=len(words),
            audio_token_offset=len(words) + codes,
        ),
        processor,
    )


def minicpm_ocr():
    """An overview, then slices; patches of all of them are packed into one row."""
    from transformers import MiniCPMOcrConfig

    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    words = tokenizer(*named.values(), **named)
    settings = {"max_slice_nums": 4, "scale_resolution": 48, "patch_size": 8}
    pixels = image_processor("minicpm_ocr", "MiniCPMOcrImageProcessor")(**settings)
    without_films = still("MiniCPMOcrProcessor")

    class Reading(without_films):
        video_processor = pixels  # its settings of the same names are asked for

    Reading.__name__ = without_films.__name__
    processor = Reading(pixels, None, words, chat_template=template("<|image_pad|>"))
    text = {**qwen3_5()[0].to_dict()["text_config"], "vocab_size": len(words), **ids(words)}
    text["model_type"] = "qwen3_5_text"
    vision = {**SIGLIP, "image_size": 64, "patch_size": 8, "insert_layer_id": 0}
    tokens = {"image_token_id": words.image_token_id, "video_token_id": words.video_token_id}
    return (
        MiniCPMOcrConfig(text_config=text, vision_config=vision, insert_layer_id=0, **tokens),
        processor,
    )


ZOO = {
    "apertus1p5": apertus1p5,
    "cohere2_vision": cohere2_vision,
    "gemma4_unified": gemma4_unified,
    "inkling2": inkling2,
    "inkling2_loop": inkling2_loop,
    "inkling_mm_model": inkling_mm_model,
    "kimi_k25": kimi_k25,
    "lfm2_vl": lfm2_vl,
    "llama4": llama4,
    "minicpm_ocr": minicpm_ocr,
    "minimax_m3_vl": minimax_m3_vl,
    "molmo2": molmo2,
    "muse_glimmer": muse_glimmer,
    "muse_spark": muse_spark,
    "nemotron_h_omni": nemotron_h_omni,
    "perception_lm": perception_lm,
    "pi0": pi0,
    "step3p7": step3p7,
    "unlimited_ocr": unlimited_ocr,
}
"""Entry of the mapping -> what builds its config and processor."""
