"""Tiny decoders in which attention alternates with layers that keep a state of another kind."""

import functools

import torch
import transformers
from builders import LAYERS, SIGLIP, TEXT, ids, tokenizer

from svl_core.lvlm.families import GENERIC
from svl_core.lvlm.model import LVLM

WORDS = tokenizer("<image>")
DECODER = {**TEXT, "vocab_size": len(WORDS), **ids(WORDS)}
STATES = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8, "mamba_chunk_size": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
THIRDS = ["linear_attention", "linear_attention", "full_attention"] * (LAYERS // 3)


def lfm2():
    kinds = ["conv", "full_attention", "conv"] * (LAYERS // 3)
    return transformers.Lfm2Config(**DECODER, layer_types=kinds, block_auto_adjust_ff_dim=False)


def lfm2_vl():
    vision = {**SIGLIP, "model_type": "siglip2_vision_model", "num_patches": 64, "patch_size": 8}
    return transformers.Lfm2VlConfig(
        text_config=lfm2().to_dict(),
        vision_config=vision,
        image_token_id=WORDS.convert_tokens_to_ids("<image>"),
        projector_hidden_size=32,
    )


def qwen3_next():
    return transformers.Qwen3NextConfig(
        **DECODER, **STATES, **EXPERTS, head_dim=16, layer_types=THIRDS
    )


def granite_moe_hybrid():
    kinds = ["linear_attention", "full_attention", "linear_attention"] * (LAYERS // 3)
    return transformers.GraniteMoeHybridConfig(
        **DECODER,
        **MAMBA,
        mamba_n_groups=1,
        layer_types=kinds,
        num_local_experts=0,
        shared_intermediate_size=48,
    )


def bamba():
    """Its attention layers are a list of indices."""
    return transformers.BambaConfig(**DECODER, **MAMBA, mamba_n_groups=1, attn_layer_indices=[1, 4])


def jamba():
    """Its attention layers are told by a period."""
    return transformers.JambaConfig(
        **DECODER, attn_layer_period=3, attn_layer_offset=1, num_experts=2, mamba_d_state=8
    )


def olmo_hybrid():
    """Its config wants a layer of the other kind too."""
    return transformers.OlmoHybridConfig(**DECODER, **STATES, layer_types=THIRDS)


LAST_COUNTING = {lfm2: 4, lfm2_vl: 4, qwen3_next: 5, granite_moe_hybrid: 4, bamba: 4}
"""Those whose layers can go one by one -> the last layer whose cache counts positions."""


@functools.cache
def built(builder):
    """The model of a config without a picture's processor: questions alone."""
    config = builder()
    torch.manual_seed(0)
    maker = (
        transformers.AutoModelForImageTextToText
        if hasattr(config, "vision_config")
        else transformers.AutoModelForCausalLM
    )
    model = maker.from_config(config).float().eval().requires_grad_(False)
    model.generation_config.update(do_sample=False, **ids(WORDS))
    return LVLM(model, WORDS, GENERIC, builder.__name__)
