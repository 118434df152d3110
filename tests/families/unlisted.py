"""Tiny models of families that the table does not list, for the general rules: each is built as
those of `builders`.
"""

from builders import HIDDEN, LAYERS, SIGLIP, TEXT, ids, square_pixels, template, tokenizer

from svl_core.lvlm.processors import still_class


def vipllava():
    """A centre crop, features of several vision layers."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaProcessor, VipLlavaConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer("<image>")
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    vision = CLIPVisionConfig(
        **{**SIGLIP, "num_hidden_layers": 3}, image_size=48, patch_size=8, projection_dim=32
    )
    return (
        VipLlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**TEXT, vocab_size=len(words), **ids(words)),
            image_token_index=words.convert_tokens_to_ids("<image>"),
            vision_feature_layers=[-2, -1, 1],
        ),
        processor,
    )


def deepseek_vl():
    """Images padded to a square; the decoder keeps the attention setting of its own config."""
    from transformers import DeepseekVLConfig, LlamaConfig, SiglipVisionConfig
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
        DeepseekVLImageProcessorPil,
    )

    words = tokenizer("<image_placeholder>", image_token="<image_placeholder>")
    processor = still_class("DeepseekVLProcessor")(
        DeepseekVLImageProcessorPil(**square_pixels(48)),
        words,
        num_image_tokens=36,
        chat_template=template("<image_placeholder>"),
    )
    vision = SiglipVisionConfig(**SIGLIP, image_size=48, patch_size=8, vision_use_head=False)
    return (
        DeepseekVLConfig(
            vision_config=vision.to_dict(),
            text_config=LlamaConfig(**TEXT, vocab_size=len(words), **ids(words)).to_dict(),
            image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
        ),
        processor,
    )


def ovis2():
    """The whole image first, then tiles; features are mixtures of visual words."""
    from transformers import Ovis2Config, Qwen2Config
    from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

    marks = ("<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>")
    words = tokenizer("<image>", "<IMG_ATOM>", *marks)
    processor = still_class("Ovis2Processor")(
        Ovis2ImageProcessorPil(
            **square_pixels(32), crop_to_patches=True, min_patches=1, max_patches=6
        ),
        words,
        image_seq_length=16,
        chat_template=template("<image>"),
    )
    vision = {
        **SIGLIP,
        "image_size": 32,
        "patch_size": 4,
        "hidden_stride": 2,
        "vocab_size": 64,
        "num_visual_indicator_tokens": len(marks),
    }
    return (
        Ovis2Config(
            vision_config=vision,
            text_config=Qwen2Config(**TEXT, vocab_size=len(words), **ids(words)),
            image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
            vocab_size=len(words),
            hidden_size=HIDDEN,
            visual_indicator_token_ids=words.convert_tokens_to_ids(list(marks)),
        ),
        processor,
    )


def glm4v():
    """Merged patches by image size, multimodal rotary positions."""
    from transformers import Glm4vConfig
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    marks = {
        "image": "<|image|>",
        "video": "<|video|>",
        "image_start": "<|begin_of_image|>",
        "image_end": "<|end_of_image|>",
        "video_start": "<|begin_of_video|>",
        "video_end": "<|end_of_video|>",
    }
    words = tokenizer(*marks.values())
    pixels = Glm4vImageProcessorPil(
        patch_size=8,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": 16 * 16 * 8, "longest_edge": 16 * 16 * 96},
    )
    processor = still_class("Glm4vProcessor")(
        pixels, words, None, chat_template=template("<|begin_of_image|><|image|><|end_of_image|>")
    )
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": HIDDEN,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "image_size": 64,
    }
    text = {
        **TEXT,
        "vocab_size": len(words),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
            "partial_rotary_factor": 1.0,
        },
        **ids(words),
    }
    return (
        Glm4vConfig(
            vision_config=vision,
            text_config=text,
            **{
                f"{name}_token_id": words.convert_tokens_to_ids(token)
                for name, token in marks.items()
            },
        ),
        processor,
    )


def idefics2():
    """Eight latents that each see the whole image: no position has a place."""
    from transformers import Idefics2Config, Idefics2Processor, MistralConfig
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    words = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    processor = Idefics2Processor(
        Idefics2ImageProcessorPil(
            size={"shortest_edge": 32, "longest_edge": 64}, do_image_splitting=False
        ),
        words,
        image_seq_len=8,
        chat_template=template("<image>"),
    )
    latents = {
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "resampler_n_latents": 8,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 16,
        "num_key_value_heads": 1,
    }
    text = MistralConfig(
        **TEXT, head_dim=16, vocab_size=len(words), sliding_window=None, **ids(words)
    )
    return (
        Idefics2Config(
            vision_config={**SIGLIP, "image_size": 64, "patch_size": 8},
            text_config=text.to_dict(),
            perceiver_config=latents,
            image_token_id=words.convert_tokens_to_ids("<image>"),
        ),
        processor,
    )


def blip_2():
    """Its processor puts the image's tokens ahead of whatever the text holds, and its forward wants
    pixels in every pass, so that decode steps go to its language model.
    """
    from transformers import (
        Blip2Config,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = tokenizer("<image>")
    processor = Blip2Processor(
        BlipImageProcessorPil(**square_pixels(32)), words, num_query_tokens=4
    )
    text = OPTConfig(
        hidden_size=HIDDEN,
        ffn_dim=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        word_embed_proj_dim=HIDDEN,
        vocab_size=len(words),
        max_position_embeddings=512,
        **ids(words),
    )
    queries = Blip2QFormerConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        encoder_hidden_size=32,
    )
    return (
        Blip2Config(
            vision_config=Blip2VisionConfig(**SIGLIP, image_size=32, patch_size=8).to_dict(),
            qformer_config=queries.to_dict(),
            text_config=text.to_dict(),
            num_query_tokens=4,
            image_token_index=words.convert_tokens_to_ids("<image>"),
        ),
        processor,
    )


def fuyu():
    """Its processor writes the image's mark into the text by itself; its image processor without
    torchvision fails on every picture (transformers 5.24).
    """
    from transformers import FuyuConfig
    from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil

    words = tokenizer("|SPEAKER|", "|NEWLINE|", "<0x04>", "<0x00>", "<0x01>", "<0x02>", "<0x03>")
    processor = still_class("FuyuProcessor")(
        FuyuImageProcessorPil(size={"height": 90, "width": 90}), words
    )
    return (
        FuyuConfig(
            vocab_size=len(words),
            hidden_size=HIDDEN,
            intermediate_size=96,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=1024,
            image_token_id=words.convert_tokens_to_ids("|SPEAKER|"),
            **ids(words),
        ),
        processor,
    )


SERVED = {
    vipllava: "square",
    deepseek_vl: "padded_square",
    ovis2: "first_then_tiles",
    glm4v: "merged_grid",
    idefics2: "unplaced",
    blip_2: "unplaced",
}  # -> how its places were found
REFUSED = {fuyu: "picture and question"}  # -> the probe that fails
