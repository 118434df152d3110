"""Tiny models of entries of transformers' mapping that no other file builds: those from
"hunyuan_vl" to "video_llava".
"""

from builders import (
    GEMMA_MARKS,
    HIDDEN,
    LAYERS,
    QWEN_ROPE,
    SIGLIP,
    TEXT,
    ids,
    pixtral_parts,
    qwen3_5,
    qwen_parts,
    square_pixels,
    template,
    tokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from svl_core.lvlm.processors import still_class

VISION_MARKS = "<|vision_start|><|image_pad|><|vision_end|>"
OMNI_MARKS = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
TINY_AUDIO = {
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 32,
    "num_mel_bins": 16,
    "output_dim": HIDDEN,
}
LATENT_ATTENTION = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
}
INDEXED = {
    "index_topk": 8,
    "index_head_dim": 16,
    "index_n_heads": 16,
    "indexer_types": ["full"] * LAYERS,
}
FEW = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
}
SLICE_MARKS = {
    "image_token": "<image_pad>",
    "video_token": "<video_pad>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def ids_of(words, **tokens):
    return {name: words.convert_tokens_to_ids(token) for name, token in tokens.items()}


def hunyuan_vl():
    """Each row of an image's positions is closed by one more, and the image by one at either end;
    four channels of rotary positions.
    """
    from transformers import HunYuanVLConfig
    from transformers.models.hunyuan_vl.image_processing_pil_hunyuan_vl import (
        HunYuanVLImageProcessorPil,
    )

    marks = {
        "image_token": "<image>",
        "image_start_token": "<image_start>",
        "image_end_token": "<image_end>",
    }
    words = tokenizer("<image>", **marks)
    pixels = HunYuanVLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        size={"shortest_edge": 32 * 32, "longest_edge": 112 * 112},
    )
    processor = still_class("HunYuanVLProcessor")(
        pixels, words, chat_template=template("<image_start><image><image_end>")
    )
    text = {**TEXT, "head_dim": 16, "vocab_size": len(words), **ids(words)}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 2, 2, 2],
    }
    vision = {**SIGLIP, "patch_size": 8, "max_image_size": 128, "out_hidden_size": HIDDEN}
    start, end = words.image_start_token_id, words.image_end_token_id
    return (
        HunYuanVLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=words.image_token_id,
            im_start_id=start,
            im_end_id=end,
        ),
        processor,
    )


def hy_v4_vl():
    """Layers that hand on four residual streams, which they mix."""
    from transformers import HYV4VLConfig
    from transformers.models.hy_v4_vl.image_processing_pil_hy_v4_vl import (
        HYV4VLImageProcessorPil,
    )

    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    pixels = HYV4VLImageProcessorPil(
        patch_size=8,
        merge_size=2,
        size={"shortest_edge": 32 * 32, "longest_edge": 112 * 112},
    )
    processor = still_class("HYV4VLProcessor")(
        pixels, words, None, chat_template=template(VISION_MARKS)
    )
    text = {**TEXT, **LATENT_ATTENTION, **ROUTED, **INDEXED, "vocab_size": len(words), **ids(words)}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
    }
    vision = {**SIGLIP, "patch_size": 8, "max_image_size": 128, "out_hidden_size": HIDDEN}
    tokens = ids_of(words, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>")
    return HYV4VLConfig(text_config=text, vision_config=vision, **tokens), processor


def idefics():
    """Its pictures enter through blocks between the decoder's layers."""
    from transformers import IdeficsConfig

    return IdeficsConfig(**FEW, vision_config={}, perceiver_config={}), None


def query_parts(words):
    """Config of the queries and of the picture's side of InstructBLIP."""
    queries = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "encoder_hidden_size": 32,
    }
    return queries, {**SIGLIP, "image_size": 32, "patch_size": 8}


def instructblip():
    """Its queries read the question too, by a tokenizer of their own."""
    from transformers import InstructBlipConfig, InstructBlipProcessor, LlamaConfig
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = tokenizer("<image>")
    processor = InstructBlipProcessor(
        BlipImageProcessorPil(**square_pixels(32)),
        words,
        tokenizer("<query>"),
        num_query_tokens=6,
    )
    queries, vision = query_parts(processor.qformer_tokenizer)
    text = LlamaConfig(**TEXT, vocab_size=len(words), **ids(words))
    return (
        InstructBlipConfig(
            vision_config=vision,
            qformer_config=queries,
            text_config=text.to_dict(),
            num_query_tokens=6,
            image_token_index=words.convert_tokens_to_ids("<image>"),
        ),
        processor,
    )


def instructblipvideo():
    """Reads videos alone."""
    from transformers import InstructBlipVideoConfig

    text = {**TEXT, "model_type": "llama"}
    return InstructBlipVideoConfig(text_config=text, num_query_tokens=6), None


def kosmos_parts():
    """Latent queries of the whole picture, at positions that the processor marks."""
    text = {
        "embed_dim": HIDDEN,
        "ffn_dim": 96,
        "layers": LAYERS,
        "attention_heads": 4,
        "max_position_embeddings": 512,
    }
    return {**text, "dropout": 0.0, "attention_dropout": 0.0}


def kosmos_2():
    """The whole model wants a picture in every pass, so that tokens go to its language model."""
    from transformers import Kosmos2Config
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer("<image>", "</image>", "<unk>")
    words.unk_token = "<unk>"
    crop = {"height": 32, "width": 32}
    processor = still_class("Kosmos2Processor")(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop),
        words,
        num_patch_index_tokens=4,
    )
    words.add_tokens([f"<latent{number}>" for number in range(64)])
    vision = {**SIGLIP, "image_size": 32, "patch_size": 8}
    text = {**kosmos_parts(), "vocab_size": len(words), **ids(words)}
    return (
        Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=64),
        processor,
    )


def kosmos_2_5():
    """An image's positions hold the token that begins a text."""
    from transformers import Kosmos2_5Config
    from transformers.models.kosmos2_5.image_processing_pil_kosmos2_5 import (
        Kosmos2_5ImageProcessorPil,
    )

    marks = {"boi_token": "<image>", "eoi_token": "</image>", "image_token": "<s>"}
    words = tokenizer("<image>", **marks)
    pixels = Kosmos2_5ImageProcessorPil(patch_size={"height": 8, "width": 8}, max_patches=32)
    processor = still_class("Kosmos2_5Processor")(pixels, words, num_image_tokens=6)
    processor.images_kwargs = {**processor.images_kwargs, "max_patches": 32}
    vision = {
        **SIGLIP,
        "patch_embed_hidden_size": 192,
        "head_dim": 16,
        "max_num_patches": 33,
    }
    text = {**kosmos_parts(), "vocab_size": len(words), **ids(words)}
    return (
        Kosmos2_5Config(text_config=text, vision_config=vision, latent_query_num=6),
        processor,
    )


def lfm3_vl():
    """Convolutions between layers of attention, in the vision side too."""
    from transformers import Lfm3Config, Lfm3VlConfig

    words, processor, marks = qwen_parts("Lfm3VlProcessor", 8)
    kinds = ["conv", "sliding_attention", "full_attention"] * 2
    text = Lfm3Config(
        **TEXT,
        head_dim=16,
        vocab_size=len(words),
        sliding_window=64,
        layer_types=kinds,
        **ids(words),
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "layer_types": ["conv", "full_attention"],
        "patch_size": 8,
    }
    return (
        Lfm3VlConfig(
            text_config=text.to_dict(), vision_config=vision, projector_hidden_size=48, **marks
        ),
        processor,
    )


def minicpm_parts(name):
    """Slices behind the whole picture, each of a size of its own."""
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import (
        MiniCPMV4_6ImageProcessorPil,
    )

    words = tokenizer("<image_pad>", **SLICE_MARKS)
    pixels = MiniCPMV4_6ImageProcessorPil(patch_size=4, scale_resolution=48, max_slice_nums=4)
    processor = still_class(name)(pixels, None, words, chat_template=template("<image_pad>"))
    decoder = qwen3_5()[0].text_config.to_dict()
    text = {**decoder, "vocab_size": len(words), **ids(words)}
    vision = {
        **SIGLIP,
        "num_hidden_layers": 3,
        "image_size": 48,
        "patch_size": 4,
    }
    settings = {
        "text_config": text,
        "vision_config": vision,
        "insert_layer_id": 1,
        "image_size": 48,
        "image_token_id": words.image_token_id,
        "video_token_id": words.video_token_id,
    }
    return words, processor, settings


def minicpmv4_6():
    from transformers import MiniCPMV4_6Config

    _, processor, settings = minicpm_parts("MiniCPMV4_6Processor")
    return MiniCPMV4_6Config(**settings), processor


def minicpmv4_7():
    """The same, with rotary positions by the places of slices on the picture."""
    from transformers import MiniCPMV4_7Config

    words, processor, settings = minicpm_parts("MiniCPMV4_7Processor")
    marks = ids_of(
        words,
        image_start_id="<image>",
        image_end_id="</image>",
        slice_start_id="<slice>",
        slice_end_id="</slice>",
    )
    newline = words("\n", add_special_tokens=False)["input_ids"][0]
    return MiniCPMV4_7Config(**settings, **marks, newline_id=newline), processor


def mistral4():
    """A text decoder; as a part of Mistral 3 it reads images."""
    from transformers import Mistral4Config

    return Mistral4Config(**TEXT), None


def mistral_large4():
    """Layers that use the keys of an earlier one, and layers without rotary positions."""
    from transformers import MistralLarge4Config

    words, processor, vision = pixtral_parts(2)
    text = {**TEXT, **LATENT_ATTENTION, **ROUTED, **INDEXED, "vocab_size": len(words), **ids(words)}
    text["num_key_value_heads"] = text["num_attention_heads"]
    text["kv_source_layers"] = [0, 1, 1, 3, 4, 5]
    return (
        MistralLarge4Config(
            text_config=text,
            vision_config=vision.to_dict(),
            image_token_index=words.convert_tokens_to_ids("[IMG]"),
            spatial_merge_size=2,
        ),
        processor,
    )


def pp_chart2table():
    """Its template writes as many marks as an image has positions."""
    from transformers import PPChart2TableConfig
    from transformers.models.pp_chart2table.image_processing_pil_pp_chart2table import (
        PPChart2TableImageProcessorPil,
    )

    words = tokenizer("<imgpad>", "<img>", "</img>")
    marks = "<img>" + 16 * "<imgpad>" + "</img>"
    processor = still_class("PPChart2TableProcessor")(
        PPChart2TableImageProcessorPil(**square_pixels(128)), words, chat_template=template(marks)
    )
    vision = {
        "hidden_size": 32,
        "mlp_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "output_channels": 16,
        "image_size": 128,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "initializer_range": 0.02,
    }
    text = {**TEXT, "model_type": "qwen2", "vocab_size": len(words), **ids(words)}
    return (
        PPChart2TableConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=words.convert_tokens_to_ids("<imgpad>"),
            image_seq_length=16,
        ),
        processor,
    )


def qianfan_ocr():
    """Its template writes another mark than the one at the visual positions."""
    from transformers import QianfanOCRConfig
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    words = tokenizer("<IMG_CONTEXT>", "<image>", **marks)
    pixels = GotOcr2ImageProcessorPil(
        **square_pixels(32), crop_to_patches=True, min_patches=1, max_patches=6
    )
    processor = still_class("QianfanOCRProcessor")(
        pixels, words, image_seq_length=16, chat_template=template("<image>\n")
    )
    vision = {**SIGLIP, "image_size": [32, 32], "patch_size": [4, 4]}
    text = {**TEXT, "model_type": "qwen3", "head_dim": 16, "vocab_size": len(words), **ids(words)}
    return (
        QianfanOCRConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=words.context_image_token_id,
            image_seq_length=16,
            downsample_ratio=0.5,
        ),
        processor,
    )


def omni_parts(name):
    """An omni model's processor without its halves for videos and sounds."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer("<|IMAGE|>", **OMNI_MARKS)
    pixels = Qwen2VLImageProcessorPil(
        patch_size=8,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": 32 * 32, "longest_edge": 112 * 112},
    )
    marks = "<|vision_bos|><|IMAGE|><|vision_eos|>"
    processor = still_class(name)(
        image_processor=pixels, tokenizer=words, chat_template=template(marks)
    )
    return words, processor


def qwen2_5_omni_thinker():
    from transformers import Qwen2_5OmniThinkerConfig

    words, processor = omni_parts("Qwen2_5OmniProcessor")
    text = {**TEXT, "vocab_size": len(words), "rope_parameters": QWEN_ROPE, **ids(words)}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "window_size": 64,
        "fullatt_block_indexes": [1],
    }
    return (
        Qwen2_5OmniThinkerConfig(
            text_config=text,
            vision_config=vision,
            audio_config=TINY_AUDIO,
            image_token_index=words.image_token_id,
            video_token_index=words.video_token_id,
            audio_token_index=words.audio_token_id,
            audio_start_token_id=words.audio_bos_token_id,
            audio_end_token_id=words.audio_eos_token_id,
            vision_start_token_id=words.vision_bos_token_id,
            vision_end_token_id=words.vision_eos_token_id,
        ),
        processor,
    )


def qwen3_omni_moe_thinker():
    """Mixtures of experts, with visual features added behind the first layers."""
    from transformers import Qwen3OmniMoeThinkerConfig

    words, processor = omni_parts("Qwen3OmniMoeProcessor")
    text = {
        **TEXT,
        "vocab_size": len(words),
        "rope_parameters": {**QWEN_ROPE, "mrope_interleaved": True},
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        **ids(words),
    }
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
    return (
        Qwen3OmniMoeThinkerConfig(
            text_config=text,
            vision_config=vision,
            audio_config={**TINY_AUDIO, "downsample_hidden_size": 8},
            image_token_id=words.image_token_id,
            video_token_id=words.video_token_id,
            audio_token_id=words.audio_token_id,
            audio_start_token_id=words.audio_bos_token_id,
            vision_start_token_id=words.vision_bos_token_id,
            vision_end_token_id=words.vision_eos_token_id,
        ),
        processor,
    )


def qwen4_exp():
    """Residual streams side by side, which the layers mix; attention between linear layers."""
    from transformers import Qwen4ExpConfig

    words, processor, marks = qwen_parts("Qwen3VLProcessor", 8)
    text = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "vocab_size": len(words),
        "rope_parameters": {**QWEN_ROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "hc_count": 2,
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "layer_types": ["linear_attention", "linear_attention", "indexed_attention"] * 2,
        **ids(words),
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "num_position_embeddings": 64,
    }
    return Qwen4ExpConfig(text_config=text, vision_config=vision, **marks), processor


def shieldgemma2():
    """Gemma3's parts under another name, with a processor that writes policies."""
    from transformers import ShieldGemma2Config
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    words = tokenizer("<start_of_image>", **GEMMA_MARKS)
    processor = still_class("ShieldGemma2Processor")(
        Gemma3ImageProcessorPil(**square_pixels(48)),
        words,
        chat_template=template("<start_of_image>"),
        image_seq_length=9,
    )
    text = {
        **TEXT,
        "model_type": "gemma3_text",
        "head_dim": 16,
        "vocab_size": len(words),
        "sliding_window": 32,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        **ids(words),
    }
    vision = {
        **SIGLIP,
        "model_type": "siglip_vision_model",
        "image_size": 48,
        "patch_size": 8,
        "vision_use_head": False,
    }
    marks = {
        f"{name}_token_index": words.convert_tokens_to_ids(GEMMA_MARKS[f"{name}_token"])
        for name in ("image", "boi", "eoi")
    }
    return (
        ShieldGemma2Config(text_config=text, vision_config=vision, mm_tokens_per_image=9, **marks),
        processor,
    )


def video_llava():
    from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig
    from transformers.models.video_llava.image_processing_video_llava import (
        VideoLlavaImageProcessor,
    )

    words = tokenizer("<image>", "<video>")
    pixels = VideoLlavaImageProcessor(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}
    )
    processor = still_class("VideoLlavaProcessor")(
        image_processor=pixels,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    vision = CLIPVisionConfig(**SIGLIP, image_size=48, patch_size=8, projection_dim=32)
    text = LlamaConfig(**TEXT, vocab_size=len(words), **ids(words))
    return (
        VideoLlavaConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            image_token_index=words.convert_tokens_to_ids("<image>"),
            video_token_index=words.convert_tokens_to_ids("<video>"),
            vision_feature_layer=-1,
            image_seq_length=36,
        ),
        processor,
    )


ZOO = {
    "hunyuan_vl": hunyuan_vl,
    "hy_v4_vl": hy_v4_vl,
    "idefics": idefics,
    "instructblip": instructblip,
    "instructblipvideo": instructblipvideo,
    "kosmos-2": kosmos_2,
    "kosmos-2.5": kosmos_2_5,
    "lfm3_vl": lfm3_vl,
    "minicpmv4_6": minicpmv4_6,
    "minicpmv4_7": minicpmv4_7,
    "mistral4": mistral4,
    "mistral_large4": mistral_large4,
    "pp_chart2table": pp_chart2table,
    "qianfan_ocr": qianfan_ocr,
    "qwen2_5_omni_thinker": qwen2_5_omni_thinker,
    "qwen3_omni_moe_thinker": qwen3_omni_moe_thinker,
    "qwen4_exp": qwen4_exp,
    "shieldgemma2": shieldgemma2,
    "video_llava": video_llava,
}
ZOO = {entry: build for entry, build in ZOO.items() if entry in CONFIG_MAPPING_NAMES}
"""Entry of the mapping -> what builds its config and processor, of those that the installed
transformers has.
"""
