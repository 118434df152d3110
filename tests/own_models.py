"""Two vision-language models in plain torch, as a person might bring them: neither is known to
transformers.

`Owl` is in the manner of mPLUG-Owl2: one id stands for the whole image and is replaced by several
visual tokens inside the model; layers take a mask of modalities, and have norms and key/value
projections for each of the two. `Captain` is in the manner of Qwen-VL-Chat: ids between two marks
spell the image's path, and a resampler turns its patches into as many tokens.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import tiny_tokenizer

WIDTH, HEADS, LAYERS, SIDE, PATCH = 32, 4, 6, 32, 8
IMAGE = -200  # Owl's mark
QUERIES = 5  # of a resampler


def pixels(image):
    """(1, 3, SIDE, SIDE) in -1..1."""
    shown = image.convert("RGB").resize((SIDE, SIDE))
    return torch.from_numpy(np.array(shown)).float().permute(2, 0, 1)[None] / 127.5 - 1


def randomised(make, seed=0):
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model.float().eval().requires_grad_(False)


class Resampler(torch.nn.Module):
    """Learnt queries attend to patches: no token has a place."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.queries = torch.nn.Parameter(torch.zeros(QUERIES, WIDTH))

    def forward(self, image):
        patches = self.patches(image).flatten(2).transpose(1, 2)
        for block in self.blocks:
            patches = patches + torch.tanh(block(patches))
        scores = self.queries @ patches.transpose(1, 2)
        return scores.softmax(-1) @ patches


class Modal(torch.nn.Module):
    """One module for each modality."""

    def __init__(self, make):
        super().__init__()
        self.multiway = torch.nn.ModuleList([make(), make()])

    def forward(self, hidden, is_visual):
        textual, visual = (module(hidden) for module in self.multiway)
        return torch.where(is_visual[..., None], visual, textual)


class OwlLayer(torch.nn.Module):
    def __init__(self, number):
        super().__init__()
        self.layer_idx = number
        self.input_layernorm = Modal(lambda: torch.nn.LayerNorm(WIDTH))
        self.q_proj = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.k_proj = Modal(lambda: torch.nn.Linear(WIDTH, WIDTH, bias=False))
        self.v_proj = Modal(lambda: torch.nn.Linear(WIDTH, WIDTH, bias=False))
        self.o_proj = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.post_attention_layernorm = Modal(lambda: torch.nn.LayerNorm(WIDTH))
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, 48), torch.nn.SiLU(), torch.nn.Linear(48, WIDTH)
        )

    def forward(self, hidden_states, multiway_indices, attention_mask=None, past_key_value=None):
        normed = self.input_layernorm(hidden_states, multiway_indices)
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (
                self.q_proj(normed),
                self.k_proj(normed, multiway_indices),
                self.v_proj(normed, multiway_indices),
            )
        )
        if past_key_value is not None:
            key = torch.cat([past_key_value[0], key], dim=2)
            value = torch.cat([past_key_value[1], value], dim=2)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + attention_mask
        attended = torch.nn.functional.softmax(scores, dim=-1) @ value
        hidden_states = hidden_states + self.o_proj(attended.transpose(1, 2).flatten(2))
        normed = self.post_attention_layernorm(hidden_states, multiway_indices)
        return hidden_states + self.mlp(normed), (key, value)


class Owl(torch.nn.Module):
    """In the manner of mPLUG-Owl2."""

    def __init__(self, vocabulary):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(vocabulary, WIDTH)
        self.places = torch.nn.Embedding(64, WIDTH)
        self.visual_abstractor = Resampler()
        self.layers = torch.nn.ModuleList(OwlLayer(number) for number in range(LAYERS))
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.lm_head = torch.nn.Linear(WIDTH, vocabulary, bias=False)
        self.config = SimpleNamespace(num_hidden_layers=LAYERS, max_position_embeddings=64)

    def prepared(self, input_ids, images, begun):
        """Embeddings (1, S, d) with the image's tokens in the place of its mark, and which
        positions are visual.
        """
        parts, modality = [], []
        for token in input_ids[0]:
            if token == IMAGE:
                parts.append(self.visual_abstractor(images)[0])
                modality += [True] * QUERIES
            else:
                parts.append(self.embed_tokens(token)[None])
                modality.append(False)
        hidden = torch.cat(parts)[None]
        hidden = hidden + self.places(begun + torch.arange(hidden.shape[1]))
        return hidden, torch.tensor(modality)[None]

    def forward(
        self,
        input_ids,
        attention_mask=None,
        images=None,
        past_key_values=None,
        use_cache=False,
    ):
        begun = 0 if past_key_values is None else past_key_values[0][0].shape[2]
        hidden, modality = self.prepared(input_ids, images, begun)
        length = hidden.shape[1]
        mask = torch.full((length, begun + length), torch.finfo(hidden.dtype).min)
        mask = mask.triu(begun + 1)[None, None]
        caches = []
        assert self.config.num_hidden_layers == len(self.layers)
        for layer in self.layers:
            past = None if past_key_values is None else past_key_values[layer.layer_idx]
            hidden, cache = layer(hidden, modality, attention_mask=mask, past_key_value=past)
            caches.append(cache)
        logits = self.lm_head(self.norm(hidden)).float()
        return SimpleNamespace(logits=logits, past_key_values=tuple(caches) if use_cache else None)


class CaptainLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1 = torch.nn.LayerNorm(WIDTH)
        self.c_attn = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.c_proj = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.ln_2 = torch.nn.LayerNorm(WIDTH)
        self.w1 = torch.nn.Linear(WIDTH, 48, bias=False)
        self.w2 = torch.nn.Linear(48, WIDTH, bias=False)

    def forward(self, x):
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.c_proj(attended.transpose(1, 2).flatten(2))
        return x + self.w2(F.silu(self.w1(self.ln_2(x))))


class Captain(torch.nn.Module):
    """In the manner of Qwen-VL-Chat; knows no cache and gives bare logits."""

    def __init__(self, vocabulary):
        super().__init__()
        self.begin, self.end = vocabulary, vocabulary + 1  # marks around an image's path
        self.pad = vocabulary + 2
        transformer = torch.nn.Module()
        transformer.wte = torch.nn.Embedding(vocabulary + 3, WIDTH)
        transformer.wpe = torch.nn.Embedding(128, WIDTH)
        transformer.visual = Resampler()
        transformer.visual.queries = torch.nn.Parameter(torch.zeros(60, WIDTH))
        transformer.h = torch.nn.ModuleList(CaptainLayer() for _ in range(LAYERS))
        transformer.ln_f = torch.nn.LayerNorm(WIDTH)
        self.transformer = transformer
        self.lm_head = torch.nn.Linear(WIDTH, vocabulary, bias=False)

    def embedded(self, input_ids):
        hidden = self.transformer.wte(input_ids)
        ids = input_ids[0].tolist()
        if self.begin in ids:
            first, last = ids.index(self.begin) + 1, ids.index(self.end)
            path = bytes(one for one in ids[first:last] if one != self.pad).decode()
            hidden = hidden.clone()
            hidden[0, first:last] = self.transformer.visual(pixels(Image.open(path)))[0]
        return hidden + self.transformer.wpe(torch.arange(len(ids)))

    def forward(self, input_ids):
        hidden = self.embedded(input_ids)
        for block in self.transformer.h:
            hidden = block(x=hidden)
        return self.lm_head(self.transformer.ln_f(hidden))


def owl():
    """(model, tokenizer, encode)."""
    tokenizer = tiny_tokenizer()
    model = randomised(lambda: Owl(len(tokenizer)))

    def encode(images, question):
        head, words = (tokenizer(text)["input_ids"] for text in ("<user>", question))
        mark = [IMAGE] if images else []
        ids = torch.tensor([[*head, *mark, *words]])
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return found | ({"images": pixels(images[0])} if images else {})

    return model, tokenizer, encode


def captain(kind=Captain):
    """(model, tokenizer, encode)."""
    tokenizer = tiny_tokenizer()
    model = randomised(lambda: kind(len(tokenizer)), seed=1)
    folder = Path(tempfile.mkdtemp(prefix="svl-"))

    def encode(images, question):
        spelt = []
        for image in images:
            path = folder / f"{abs(hash(image.tobytes()))}.png"
            image.save(path)
            spelt = list(str(path).encode())
            spelt = [model.begin, *spelt, *[model.pad] * (60 - len(spelt)), model.end]
        words = tokenizer(question)["input_ids"]
        return {"input_ids": torch.tensor([[*spelt, *words]])}

    return model, tokenizer, encode
