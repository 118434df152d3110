"""One tiny model with random weights and a real processor for each family, built offline in a
second or two.
"""

import functools

import torch

from svl_core.lvlm.families import family_of, find_decoder
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.processors import still_class

LAYERS, HIDDEN, CONTEXT = 6, 64, 4096
CORPUS = [
    "what is in the top left of this picture ?",
    "a cat and a dog sit on the red chair .",
    "how many apples are there , and where is the guitar ?",
] * 4
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
SIGLIP = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def tokenizer(mark, *tokens, **named):
    """Byte-level BPE with the family's own special tokens; `named` become attributes
    (image_token="<image>" and the like).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(
        dict.fromkeys(["<s>", "</s>", "<pad>", "<user>", "<model>", mark, *tokens, *named.values()])
    )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=special,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named or None,
        additional_special_tokens=special[3:] if not named else None,
        padding_side="left",
    )


def template(mark):
    """A chat template of the family's form: the image's mark, then the words."""
    return (
        "{{ bos_token }}{% for message in messages %}<user>{% for part in message.content %}{% if"
        " part.type == 'image' %}"
        + mark
        + "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}<model>{% endif %}"
    )


def ids(words):
    return {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def square_pixels(side):
    return {"size": {"height": side, "width": side}, "do_resize": True}


def llava():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
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
    vision = CLIPVisionConfig(**SIGLIP, image_size=48, patch_size=8, projection_dim=32)
    return (
        LlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**TEXT, vocab_size=len(words), **ids(words)),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-1,
        ),
        processor,
    )


def pixtral_parts(merge):
    from transformers import PixtralVisionConfig
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    processor = still_class("PixtralProcessor")(
        PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}),
        words,
        patch_size=8,
        spatial_merge_size=merge,
        chat_template=template("[IMG]"),
    )
    return words, processor, PixtralVisionConfig(**SIGLIP, image_size=64, patch_size=8, head_dim=16)


def llava_pixtral():
    from transformers import LlavaConfig, MistralConfig

    words, processor, vision = pixtral_parts(1)
    return (
        LlavaConfig(
            vision_config=vision,
            text_config=MistralConfig(
                **TEXT, head_dim=16, vocab_size=len(words), sliding_window=None, **ids(words)
            ),
            image_token_id=words.convert_tokens_to_ids("[IMG]"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        ),
        processor,
    )


def mistral3():
    from transformers import Mistral3Config, MistralConfig

    words, processor, vision = pixtral_parts(2)
    return (
        Mistral3Config(
            vision_config=vision,
            text_config=MistralConfig(
                **TEXT, head_dim=16, vocab_size=len(words), sliding_window=None, **ids(words)
            ),
            image_token_id=words.convert_tokens_to_ids("[IMG]"),
            spatial_merge_size=2,
            vision_feature_layer=-1,
        ),
        processor,
    )


def llava_next():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    words, pinpoints = tokenizer("<image>"), [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaNextProcessor(
        pixels,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    vision = CLIPVisionConfig(**SIGLIP, image_size=32, patch_size=8, projection_dim=32)
    return (
        LlavaNextConfig(
            vision_config=vision,
            text_config=LlamaConfig(**TEXT, vocab_size=len(words), **ids(words)),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=pinpoints,
            vision_feature_layer=-1,
        ),
        processor,
    )


def llava_onevision():
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    words, pinpoints = (
        tokenizer("<image>", "<video>"),
        [[32 * r, 32 * c] for r in range(1, 5) for c in range(1, 5)],
    )
    pixels = LlavaOnevisionImageProcessorPil(**square_pixels(32), image_grid_pinpoints=pinpoints)
    processor = still_class("LlavaOnevisionProcessor")(
        pixels,
        words,
        None,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
        vision_aspect_ratio="anyres_max_9",
    )
    vision = SiglipVisionConfig(**SIGLIP, image_size=32, patch_size=8, vision_use_head=False)
    text = Qwen2Config(**TEXT, vocab_size=len(words), **ids(words))
    return (
        LlavaOnevisionConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=words.convert_tokens_to_ids("<image>"),
            video_token_id=words.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=pinpoints,
            vision_feature_layer=-1,
        ),
        processor,
    )


def idefics3(name="idefics3"):
    import transformers
    from transformers import LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    words = tokenizer(
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        "<end_of_utterance>",
        *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
    )
    smol = name == "smolvlm"
    pixels = (SmolVLMImageProcessorPil if smol else Idefics3ImageProcessorPil)(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
    )
    processor = still_class("SmolVLMProcessor" if smol else "Idefics3Processor")(
        pixels, words, image_seq_len=16, chat_template=template("<image>")
    )
    config, vision = (
        (transformers.SmolVLMConfig, transformers.SmolVLMVisionConfig)
        if smol
        else (transformers.Idefics3Config, transformers.Idefics3VisionConfig)
    )
    text = LlamaConfig(**TEXT, vocab_size=len(words), **ids(words))
    return (
        config(
            vision_config=vision(**SIGLIP, image_size=32, patch_size=4).to_dict(),
            text_config=text.to_dict(),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=words.pad_token_id,
        ),
        processor,
    )


def qwen_parts(processor_class, patch):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    pixels = Qwen2VLImageProcessorPil(
        patch_size=patch,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": (2 * patch) ** 2 * 4, "longest_edge": (2 * patch) ** 2 * 48},
    )
    processor = still_class(processor_class)(
        pixels, words, None, chat_template=template("<|vision_start|><|image_pad|><|vision_end|>")
    )
    marks = {
        f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    return words, processor, marks


def qwen2_vl():
    from transformers import Qwen2VLConfig

    words, processor, marks = qwen_parts("Qwen2VLProcessor", 8)
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": HIDDEN,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return (
        Qwen2VLConfig(
            vision_config=vision,
            text_config={
                **TEXT,
                "vocab_size": len(words),
                "rope_parameters": QWEN_ROPE,
                **ids(words),
            },
            **marks,
        ),
        processor,
    )


def qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig

    words, processor, marks = qwen_parts("Qwen2_5_VLProcessor", 8)
    vision = {
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
    return (
        Qwen2_5_VLConfig(
            vision_config=vision,
            text_config={
                **TEXT,
                "vocab_size": len(words),
                "rope_parameters": QWEN_ROPE,
                **ids(words),
            },
            **marks,
        ),
        processor,
    )


def qwen3_vl():
    from transformers import Qwen3VLConfig

    words, processor, marks = qwen_parts("Qwen3VLProcessor", 8)
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = {
        **TEXT,
        "head_dim": 16,
        "vocab_size": len(words),
        "rope_parameters": {**QWEN_ROPE, "mrope_interleaved": True},
        **ids(words),
    }
    return Qwen3VLConfig(vision_config=vision, text_config=text, **marks), processor


def qwen3_5():
    from transformers import Qwen3_5Config

    words, processor, marks = qwen_parts("Qwen3VLProcessor", 8)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
    }
    text = {
        **TEXT,
        "head_dim": 16,
        "vocab_size": len(words),
        "rope_parameters": {**QWEN_ROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
        **ids(words),
    }
    return Qwen3_5Config(vision_config=vision, text_config=text, **marks), processor


def internvl():
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer("<IMG_CONTEXT>", **named)
    pixels = GotOcr2ImageProcessorPil(
        **square_pixels(32), crop_to_patches=True, min_patches=1, max_patches=6
    )
    processor = still_class("InternVLProcessor")(
        pixels, words, None, image_seq_length=16, chat_template=template("<IMG_CONTEXT>")
    )
    vision = InternVLVisionConfig(**SIGLIP, image_size=[32, 32], patch_size=[4, 4])
    text = Qwen2Config(**TEXT, vocab_size=len(words), **ids(words))
    return (
        InternVLConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=16,
            downsample_ratio=0.5,
        ),
        processor,
    )


def aya_vision():
    from transformers import AyaVisionConfig, AyaVisionProcessor, Cohere2Config, SiglipVisionConfig
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    words = tokenizer(
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE",
        "TILE_GLOBAL",
    )
    processor = AyaVisionProcessor(
        GotOcr2ImageProcessorPil(
            **square_pixels(32), crop_to_patches=True, min_patches=1, max_patches=6
        ),
        words,
        patch_size=4,
        img_size=32,
        downsample_factor=2,
        chat_template=template("<image>"),
    )
    vision = SiglipVisionConfig(**SIGLIP, image_size=32, patch_size=4, vision_use_head=False)
    text = Cohere2Config(
        **TEXT, head_dim=16, vocab_size=len(words), sliding_window=32, **ids(words)
    )
    return (
        AyaVisionConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
            downsample_factor=2,
            adapter_layer_norm_eps=1e-6,
            vision_feature_layer=-1,
        ),
        processor,
    )


def paligemma(version=1):
    from transformers import (
        Gemma2Config,
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaProcessor,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    words = tokenizer("<image>", image_token="<image>")
    pixels = SiglipImageProcessorPil(**square_pixels(48))
    pixels.image_seq_length = 36
    processor = PaliGemmaProcessor(pixels, words, chat_template=None)
    text = {**TEXT, "head_dim": 16, "vocab_size": len(words), **ids(words)}
    text = (
        Gemma2Config(**text, sliding_window=64, query_pre_attn_scalar=16)
        if version == 2
        else GemmaConfig(**text)
    )
    vision = SiglipVisionConfig(
        **SIGLIP, image_size=48, patch_size=8, vision_use_head=False, projection_dim=HIDDEN
    )
    return (
        PaliGemmaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=words.convert_tokens_to_ids("<image>"),
            projection_dim=HIDDEN,
        ),
        processor,
    )


GEMMA_MARKS = {
    "image_token": "<image_soft_token>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
}
GEMMA_AUDIO = {
    "audio_token": "<audio_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
}


def gemma3():
    from transformers import Gemma3Config, Gemma3Processor, Gemma3TextConfig, SiglipVisionConfig
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    words = tokenizer("<start_of_image>", **GEMMA_MARKS)
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(**square_pixels(48)),
        words,
        chat_template=template("<start_of_image>"),
        image_seq_length=9,
    )
    text = Gemma3TextConfig(
        **TEXT,
        head_dim=16,
        vocab_size=len(words),
        sliding_window=32,
        query_pre_attn_scalar=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        **ids(words),
    )
    vision = SiglipVisionConfig(**SIGLIP, image_size=48, patch_size=8, vision_use_head=False)
    marks = {
        f"{name}_token_id": words.convert_tokens_to_ids(GEMMA_MARKS[f"{name}_token"])
        for name in ("image", "boi", "eoi")
    }
    return (
        Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=9, **marks),
        processor,
    )


def gemma3n():
    """The stock vision tower needs timm, which needs torchvision: a patch embedding of the same
    form stands in for it.
    """
    import transformers.models.gemma3n.modeling_gemma3n as home
    from transformers import Gemma3nConfig
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    class Tower(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, config.hidden_size, 16, 16)

        def forward(self, pixel_values, **options):
            return BaseModelOutputWithPooling(last_hidden_state=self.patches(pixel_values))

    class Auto(home.AutoModel if not hasattr(home.AutoModel, "stock") else home.AutoModel.stock):
        stock = home.AutoModel if not hasattr(home.AutoModel, "stock") else home.AutoModel.stock

        @classmethod
        def from_config(cls, config, **options):
            return (
                Tower(config)
                if config.model_type == "gemma3n_vision"
                else cls.stock.from_config(config, **options)
            )

    home.AutoModel = Auto
    words = tokenizer("<image_soft_token>", **GEMMA_MARKS, **GEMMA_AUDIO)
    processor = still_class("Gemma3nProcessor")(
        None,
        SiglipImageProcessorPil(**square_pixels(48)),
        words,
        chat_template=template("<image_soft_token>"),
        image_seq_length=9,
    )
    text = {
        **TEXT,
        "head_dim": 16,
        "vocab_size": len(words),
        "vocab_size_per_layer_input": len(words),
        "hidden_size_per_layer_input": 8,
        "sliding_window": 32,
        "num_kv_shared_layers": 2,
        "laurel_rank": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "intermediate_size": [96] * LAYERS,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0, 0.0, 0.0],
        **ids(words),
    }
    vision = {
        "hidden_size": 32,
        "vocab_size": 4,
        "vocab_offset": len(words),
        "label_names": ["thing"],
    }
    audio = {
        "hidden_size": 32,
        "conf_num_hidden_layers": 1,
        "conf_num_attention_heads": 2,
        "vocab_size": 4,
        "vocab_offset": len(words) + 4,
        "sscp_conv_channel_size": [8, 8],
    }
    marks = {
        f"{name}_token_id": words.convert_tokens_to_ids(token)
        for name, token in (
            ("image", "<image_soft_token>"),
            ("boi", "<start_of_image>"),
            ("eoi", "<end_of_image>"),
            ("audio", "<audio_soft_token>"),
            ("boa", "<start_of_audio>"),
            ("eoa", "<end_of_audio>"),
        )
    }
    return (
        Gemma3nConfig(
            vision_config=vision,
            text_config=text,
            audio_config=audio,
            vision_soft_tokens_per_image=9,
            **marks,
        ),
        processor,
    )


def gemma4():
    from transformers import Gemma4Config, Gemma4TextConfig, Gemma4VisionConfig
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    words = tokenizer("<image_soft_token>", **GEMMA_MARKS, **GEMMA_AUDIO)
    processor = still_class("Gemma4Processor")(
        None,
        Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=140, pooling_kernel_size=3),
        words,
        None,
        chat_template=template("<image_soft_token>"),
    )
    text = Gemma4TextConfig(
        **TEXT,
        head_dim=16,
        global_head_dim=32,
        vocab_size=len(words),
        vocab_size_per_layer_input=len(words),
        hidden_size_per_layer_input=8,
        sliding_window=32,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 3,
        **ids(words),
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        patch_size=4,
        pooling_kernel_size=3,
        position_embedding_size=512,
    )
    marks = {
        f"{name}_token_id": words.convert_tokens_to_ids(token)
        for name, token in (
            ("image", "<image_soft_token>"),
            ("boi", "<start_of_image>"),
            ("eoi", "<end_of_image>"),
            ("audio", "<audio_soft_token>"),
            ("boa", "<start_of_audio>"),
            ("video", "<|video|>"),
        )
    }
    return (
        Gemma4Config(
            vision_config=vision,
            text_config=text,
            audio_config=None,
            eoa_token_index=words.convert_tokens_to_ids("<end_of_audio>"),
            **marks,
        ),
        processor,
    )


def mllama():
    from transformers import MllamaConfig, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    words = tokenizer("<|image|>", "<|python_tag|>")
    pixels = MllamaImageProcessorPil(**square_pixels(32), max_image_tiles=4)
    processor = MllamaProcessor(pixels, words, chat_template=template("<|image|>"))
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "intermediate_size": 48,
        "vision_output_dim": 64,
        "image_size": 32,
        "patch_size": 8,
        "intermediate_layers_indices": [0],
    }
    text = {
        **TEXT,
        "vocab_size": len(words),
        "cross_attention_layers": [1, 4],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **ids(words),
    }
    return (
        MllamaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=words.convert_tokens_to_ids("<|image|>"),
        ),
        processor,
    )


BUILDERS = {
    "llava": llava,
    "llava-pixtral": llava_pixtral,
    "llava-next": llava_next,
    "llava-onevision": llava_onevision,
    "smolvlm": functools.partial(idefics3, "smolvlm"),
    "idefics3": idefics3,
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "qwen3.5": qwen3_5,
    "internvl": internvl,
    "aya-vision": aya_vision,
    "paligemma": paligemma,
    "paligemma2": functools.partial(paligemma, 2),
    "gemma3": gemma3,
    "gemma3n": gemma3n,
    "gemma4": gemma4,
    "mistral3": mistral3,
    "mllama": mllama,
}


@functools.cache
def build(name):
    """LVLM of family `name`: 6 decoder layers of width 64, weights large enough for every layer to
    matter.
    """
    config, processor = BUILDERS[name]()
    model = weighted(config)
    model.generation_config.update(do_sample=False, **ids(processor.tokenizer))
    return LVLM(model.eval().requires_grad_(False), processor, family_of(model.config), name)


# Families whose convolutions gather patches into positions: random ones look beside these.
GATHERING = ("deepseek_vl_hybrid", "got_ocr2")


def weighted(config):
    """The model of `config` with random weights that make layers matter and patches hardly mix in
    the vision tower.
    """
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).float()
    decoder = set(find_decoder(model).parameters())
    near = {
        id(module.weight): own_taps(module)
        for module in model.modules()
        if config.model_type in GATHERING
        and isinstance(module, torch.nn.Conv2d)
        and module.kernel_size == (3, 3)
    }
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
                parameter.mul_(near.get(id(parameter), 1.0))
                if parameter not in decoder and any(
                    part in path
                    for part in (".out_proj.", ".o_proj.", ".attn.proj.", "projection_layer")
                ):
                    parameter.mul_(0.1)
            if (
                parameter not in decoder
                and config.model_type == "gemma4"
                and "post_attention_layernorm" in path
            ):
                parameter.fill_(0.1)  # a norm on the attention's output undoes the line above
            if "gate_attn" in path or "gate_ffn" in path or path.endswith("_gate"):
                parameter.fill_(0.7)  # cross-attention starts closed
    return model


def own_taps(convolution):
    """(3, 3) of one where a convolution sees what its output stands for, of a tenth beside it."""
    taps = torch.full((3, 3), 0.1)
    first = convolution.padding[0]
    last = first + convolution.stride[0]
    taps[first:last, first:last] = 1.0
    return taps
