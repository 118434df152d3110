"""Tiny causal language models without images, which serve as controls: one for each kind of
decoder.
"""

import torch
from builders import HIDDEN, LAYERS, ids, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
HALF = ["linear_attention", "linear_attention", "full_attention"] * 2
SETTINGS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window": 16},
    "gemma4_text": {
        "sliding_window": 16,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": 420,
    },
    "phi3": {},
    "olmo2": {},
    "glm4": {},
    "granite": {"residual_multiplier": 0.25},
    "smollm3": {},
    "gpt_oss": {**EXPERTS, "sliding_window": 16},
    "deepseek_v3": LATENT,
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"] * 2, "block_ff_dim": 96},
    "qwen3_next": {
        **LINEAR,
        **EXPERTS,
        "layer_types": HALF,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128},
    "jamba": {
        "num_experts": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
        "attn_layer_period": 3,
        "attn_layer_offset": 2,
        "use_mamba_kernels": False,
    },
    "jamba_experts": {
        **EXPERTS,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
        "attn_layer_period": 3,
        "attn_layer_offset": 2,
        "use_mamba_kernels": False,
    },
    "bamba": {**MAMBA, "attn_layer_indices": [2, 5]},
    "nemotron_h": {
        "layers_block_type": ["mamba", "mlp", "attention"] * 2,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
        "use_mamba_kernels": False,
    },
    "mamba2": {
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "chunk_size": 16,
        "expand": 2,
    },
}


def saved(kind, folder):
    """A folder with a tiny model of a kind and its tokenizer."""
    words = tokenizer("<image>")
    sizes = {key: value for key, value in SIZES.items() if kind != "mamba2" or "head" not in key}
    settings = {**sizes, **SETTINGS[kind]}
    config = AutoConfig.for_model(
        kind.removesuffix("_experts"), vocab_size=len(words), **ids(words), **settings
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name and "conv" not in name:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
