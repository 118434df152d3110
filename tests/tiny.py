"""A tiny LLaVA with random weights and a real processor, built offline, and test pictures."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

LAYERS, HIDDEN, IMAGE_SIDE, PATCH, CONTEXT = 6, 64, 96, 16, 256
CORPUS = [
    "what is in the top left of this picture ?",
    "a cat and a dog sit on the red chair .",
    "how many apples are there , and where is the guitar ?",
    "yes no one two three left right above below",
] * 4
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<user> {% for part in message.content %}{% if"
    " part.type == 'image' %}<image>{% endif %}{% endfor %}{% for part in message.content %}{% if"
    " part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}{% if"
    " add_generation_prompt %}<assistant>{% endif %}"
)


def awaited(coroutine):
    """Its result, also where a browser's event loop already runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def tiny_tokenizer():
    """A byte-level BPE trained in memory on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<pad>", "<image>", "<user>", "<assistant>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
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
        additional_special_tokens=["<image>", "<user>", "<assistant>"],
        padding_side="left",
    )


def tiny_llava(layers: int = LAYERS, *, tie: bool = False, seed: int = 0):
    """A LLaVA with a CLIP tower whose layers all change the residual stream: (model, processor)."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = tiny_tokenizer()
    size = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=PATCH,
        projection_dim=32,
    )
    text = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        **ids,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-1,
            tie_word_embeddings=tie,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    model.generation_config.update(**ids, do_sample=False)
    return model.float().eval().requires_grad_(False), processor


def picture(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    """Coloured ramps with seeded noise: no two patches alike."""
    rng = np.random.default_rng(seed)
    ramp = np.stack(
        [
            np.tile(np.linspace(0, 255, width), (height, 1)),
            np.tile(np.linspace(255, 0, height)[:, None], (1, width)),
            np.full((height, width), 128.0),
        ],
        axis=2,
    )
    return Image.fromarray(np.clip(ramp + rng.normal(0, 40, ramp.shape), 0, 255).astype(np.uint8))
