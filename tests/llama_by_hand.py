"""A Llama decoder written out by hand: what each layer does with each position, as plain products
with explicit masks. An oracle for passes that leave work out.
"""

import torch


def rms(hidden, weight, eps):
    scale = (hidden.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    return weight * (hidden * scale)


def turned(vectors, positions, base=10000.0):
    """Rotary positions: (heads, S, D) rotated by the angle of each position."""
    half = vectors.shape[-1] // 2
    inverse = base ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = positions[:, None].float() * inverse
    cos, sin = angle.cos(), angle.sin()
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attention(layer, normed, positions, seen):
    """(the update (S, d), weights (H, S, S), keys (kv, S, D)). seen: (S, S) bool, query x key."""
    own = layer.self_attn
    config = own.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    length = len(normed)

    def parted(linear, count):
        return (normed @ linear.weight.T).view(length, count, -1).transpose(0, 1)

    queries = turned(parted(own.q_proj, heads), positions)
    keys = turned(parted(own.k_proj, shared), positions)
    values = parted(own.v_proj, shared)
    scores = queries @ keys.repeat_interleave(heads // shared, 0).transpose(1, 2)
    scores = scores / queries.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    mixed = weights @ values.repeat_interleave(heads // shared, 0)
    together = mixed.transpose(0, 1).reshape(length, -1)
    return together @ own.o_proj.weight.T, weights, keys


def mlp(layer, normed):
    own = layer.mlp
    gate = torch.nn.functional.silu(normed @ own.gate_proj.weight.T)
    return (gate * (normed @ own.up_proj.weight.T)) @ own.down_proj.weight.T


def predictions(lvlm, embeds, *, seen_in=None, skip=None, ids=()):
    """Logits (1 + n, vocabulary) after the prompt and after each of n further ids, in one pass.

    embeds: (S, d) what enters the decoder.
    seen_in: layer -> (S + n, S + n) bool, keys that queries see besides being causal.
    skip: layer -> {"attention" or "mlp": (S,) bool, positions without that update}.
    Returns the logits, and by layer the weights and the keys.
    """
    further = lvlm.model.get_input_embeddings()(torch.tensor(list(ids), dtype=torch.long))
    hidden = torch.cat([embeds, further]) if ids else embeds
    length = len(hidden)
    positions = torch.arange(length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    watched = []
    for number, layer in enumerate(lvlm.layers):
        seen = causal if seen_in is None else causal & seen_in(number)
        left_out = {} if skip is None else skip(number)
        eps = layer.input_layernorm.variance_epsilon
        normed = rms(hidden, layer.input_layernorm.weight, eps)
        update, weights, keys = attention(layer, normed, positions, seen)
        watched.append((weights, keys))
        hidden = hidden + _without(update, left_out.get("attention"))
        normed = rms(hidden, layer.post_attention_layernorm.weight, eps)
        hidden = hidden + _without(mlp(layer, normed), left_out.get("mlp"))
    norm = lvlm.decoder.norm
    last = rms(hidden, norm.weight, norm.variance_epsilon)[len(embeds) - 1 :]
    return last @ lvlm.model.get_output_embeddings().weight.T, watched


def _without(update, positions):
    if positions is None:
        return update
    padded = torch.zeros(len(update), dtype=torch.bool)
    padded[: len(positions)] = positions
    return update.masked_fill(padded[:, None], 0.0)
