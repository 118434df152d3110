"""Builds the untrained bundled model: tokenizer, processor, chat template and an ordinary LLaVA of
16 decoder layers.

Everything is made here from the world's own words; nothing is fetched. `save` writes a folder that
plain `AutoProcessor` and `AutoModelForImageTextToText.from_pretrained` read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from svl_core.demo import questions, scenes
from svl_core.demo.worlds import PATCH, SHIPPED, World

BOS, EOS, PAD, IMAGE, USER, ASSISTANT = SPECIAL = (
    "<s>",
    "</s>",
    "<pad>",
    "<image>",
    "<user>",
    "<assistant>",
)
SYSTEM = "<system>"  # only where the world has system turns
CONTEXT = 512  # positions
# System turns are taken and left out: words beside the question take the answer away, wherever they
# stand. So do earlier turns and further images, but those cannot be left out: the last question may
# hang on them. (Measured; see the model's card.)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages if message.role == 'user' %}{% if not loop.first %}"
    "{{ raise_exception('it answers one question; it has not learnt to follow earlier ones') }}"
    "{% endif %}{% endfor %}{% for message in messages if message.role != 'system' %}"
    "{% set content = [{'type': 'text', 'text': message.content}] if message.content is string else"
    " message.content %}{% for part in content if part.type == 'image' %}{% if not loop.first %}"
    "{{ raise_exception('it looks at one image; it has not learnt to compare several') }}"
    "{% endif %}<image>{% endfor %}{% for part in content if part.type == 'video' %}"
    "{{ raise_exception('it looks at one image; it has not learnt to watch a video') }}{% endfor %}"
    "{{ '<user> ' if message.role == 'user' else '<assistant> ' }}{% for part in content if"
    " part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% if message.role == 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
_SPEAKS = "{{ '<user> ' if message.role == 'user' else '<assistant> ' }}"
# A model that has learnt to read past a system turn finds it behind the image, before the question.
SYSTEM_TEMPLATE = TEMPLATE.replace(
    _SPEAKS,
    "{% if message.role == 'user' %}{% for turn in messages if turn.role == 'system' %}<system>"
    " {% if turn.content is string %}{{ turn.content | trim }}{% else %}{% for part in turn.content"
    " if part.type == 'text' %}{{ part.text | trim }}{% endfor %}{% endif %}{% endfor %}{% endif %}"
    + _SPEAKS,
)
SYSTEM_TURNS = (
    "you are a helpful assistant.",
    "you are a helpful assistant. answer with one word.",
    "answer the question about the picture.",
    "you see one picture and one question. give a short answer.",
    "be brief and tell the truth.",
    "you are an expert for pictures. look at the image with care, then answer.",
    "please answer in english.",
    "a person asks, and you answer. do not invent any object.",
)
"""Beside other sentences, what a model that is trained with system turns has met as one."""
EASY_VQA_WORDS = (
    "what color shape is the of in image picture does contain not no present a there gray"
)


def corpus(world: World = SHIPPED) -> list[str]:
    """Every word of the world in its sentences: what the tokenizer is trained on."""
    words = {
        "x": questions.all_names(),
        "xs": tuple(map(questions.plural, questions.all_names())),
        "a_x": tuple(map(questions.with_article, questions.all_names())),
        "category": questions.all_categories(),
        "categories": tuple(map(questions.plural, questions.all_categories())),
        "a_category": tuple(map(questions.with_article, questions.all_categories())),
        "place": scenes.PLACES,
        "side": questions.SIDES,
        "y": questions.all_names(),
    }
    lines = [" ".join(words[key]) for key in words] + [
        " ".join(scenes.COLOURS),
        EASY_VQA_WORDS,
        "yes no none nothing nowhere and , . ? " + " ".join("0123456789"),
    ]
    lines += [
        wording.replace("{", " ").replace("}", " ")
        for kind in world.kinds
        if kind not in world.later_kinds
        for wording in questions.WORDINGS[kind]
    ]
    if world.system:
        lines += ["more less as many than", *SYSTEM_TURNS]
    words = [word for line in lines for word in line.split()]
    return words * 3 + [f" {line}" for line in lines]


def tokenizer(world: World = SHIPPED) -> PreTrainedTokenizerFast:
    """Lower-casing byte-level BPE in which each of the world's words is one token; any other text
    falls back to pieces, so nothing is unknown.
    """
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    # An answer starts without the blank of its first word.
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    special = [*SPECIAL, SYSTEM] if world.system else list(SPECIAL)
    core.train_from_iterator(
        corpus(world),
        trainers.BpeTrainer(
            vocab_size=2048,
            min_frequency=1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=special,
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=special[3:],
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def image_processor(world: World = SHIPPED):
    """Stretch to a square (the whole picture is seen), scale to [-1, 1].

    The pillow variant: torchvision is not needed.
    """
    from transformers.models.clip.image_processing_pil_clip import (
        CLIPImageProcessorPil,
    )

    side = {"height": world.side, "width": world.side}
    return CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        do_convert_rgb=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def processor(world: World = SHIPPED) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor(world),
        tokenizer(world),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=SYSTEM_TEMPLATE if world.system else TEMPLATE,
        image_token=IMAGE,
    )


def untrained(
    words: PreTrainedTokenizerFast,
    *,
    layers: int = 16,
    width: int = 160,
    seed: int = 0,
    world: World = SHIPPED,
) -> LlavaForConditionalGeneration:
    """CLIP 4 x 160 and Llama `layers` x `width` with tied embeddings; residual outputs start small
    (GPT-2's 1/sqrt(2L) rule).
    """
    torch.manual_seed(seed)
    ids = {
        name: words.convert_tokens_to_ids(token)
        for name, token in (
            ("bos_token_id", BOS),
            ("eos_token_id", EOS),
            ("pad_token_id", PAD),
        )
    }
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=world.side,
        patch_size=PATCH,
        projection_dim=160,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=416,
        num_hidden_layers=layers,
        num_attention_heads=5,
        num_key_value_heads=5,
        vocab_size=len(words),
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=world.visual_tokens,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).float()
    model.generation_config.eos_token_id = ids["eos_token_id"]
    model.generation_config.pad_token_id = ids["pad_token_id"]
    model.generation_config.bos_token_id = ids["bos_token_id"]
    model.generation_config.do_sample = False
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.08)
        for layer in model.get_decoder().layers:
            for linear in layer.self_attn.children():
                if isinstance(linear, torch.nn.Linear):
                    linear.weight.normal_(0, width**-0.5)
            layer.mlp.gate_proj.weight.normal_(0, width**-0.5)
            layer.mlp.up_proj.weight.normal_(0, width**-0.5)
            layer.self_attn.o_proj.weight.normal_(0, (width * 2 * layers) ** -0.5)
            layer.mlp.down_proj.weight.normal_(0, (416 * 2 * layers) ** -0.5)
    return model


def save(
    model: LlavaForConditionalGeneration,
    proc: LlavaProcessor,
    folder: str | Path,
) -> None:
    """Write model, processor and chat template as one plain transformers folder."""
    model.save_pretrained(folder)
    proc.save_pretrained(folder)


def pixels(images, world: World = SHIPPED) -> torch.Tensor:
    """(n, 3, side, side) float32 in [-1, 1]: the processor's arithmetic without its per-image
    overhead, for training only (a test holds both equal).
    """
    from PIL import Image

    size = (world.side, world.side)
    arrays = []
    for image in images:
        fitting = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        arrays.append(np.asarray(fitting, np.float32))
    values = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return values.div_(127.5).sub_(1.0).contiguous()
