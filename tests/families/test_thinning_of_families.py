"""In every family: tokens that left before a layer are as good as masked from there on, layers that
freeze them equal whole ones whose update is undone, and a family that cannot says so.
"""

import numpy as np
import pytest
import torch
from tiny import picture

from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.hooks import ThreadHooks, hidden_input, hidden_of, with_hidden
from svl_core.pruning.tokens import thin
from svl_core.recipe import Recipe

CANNOT = ("qwen3.5", "aya-vision", "paligemma2", "gemma3", "gemma3n", "gemma4", "mllama")
"""Families whose layers slide or share their caches, or that have no visual positions."""
LEAVE = 4
IDS = torch.tensor([[5, 7, 9]])


@pytest.fixture
def sample(family):
    return family.encode(picture(120, 80), "what is in the top left of this picture ?")


def along(family, sample):
    decoding = Decoding(family, sample.inputs, features=sample.features, thinning=sample.thinning)
    first, together = decoding.logits, decoding.fork()
    one_by_one = torch.cat([decoding.feed(IDS[:, k : k + 1]) for k in range(3)], dim=1)
    assert torch.allclose(together.feed(IDS), one_by_one, atol=1e-5)
    return torch.cat([first[:, None], one_by_one], dim=1)[0]


def masked(layer, positions, length):
    """The layer's call with the keys at some positions hidden from all others."""
    original = layer.forward

    def forward(hidden, *args, attention_mask=None, **kwargs):
        queries = hidden.shape[1]
        if attention_mask is None:
            keys = length if queries == length else length + 3
            attention_mask = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
        shown = torch.ones(attention_mask.shape[-2:], dtype=torch.bool)
        shown[:, positions] = False
        if queries == length:
            shown[positions, positions] = True
        if attention_mask.dtype == torch.bool:
            attention_mask = attention_mask & shown
        else:
            attention_mask = attention_mask.masked_fill(~shown, torch.finfo(hidden.dtype).min)
        return original(hidden, *args, attention_mask=attention_mask, **kwargs)

    return forward


def test_tokens_leave_or_the_family_says_that_they_cannot(family, sample, monkeypatch):
    wanted = Recipe(visual_tokens="cluster", visual_share=0.5, visual_from=LEAVE)
    if family.name in CANNOT:
        with pytest.raises(InputError, match=f"{family.name}.*; expected"):
            thin(family, sample, wanted)
        return
    thinned = thin(family, sample, wanted)
    found = along(family, thinned)
    positions = torch.as_tensor(np.array(sample.visual[~thinned.thinning.stay]))
    for layer in family.layers[LEAVE:]:
        monkeypatch.setattr(layer, "forward", masked(layer, positions, sample.length))
    whole = Decoding(family, sample.inputs)
    expected = torch.cat([whole.logits[:, None], whole.feed(IDS)], dim=1)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_frozen_tokens_are_those_of_layers_that_are_undone(family, sample):
    if family.name in CANNOT:
        return
    found = along(family, thin(family, sample, Recipe(visual_tokens="shortv", visual_layers=(4,))))
    visual = torch.as_tensor(np.array(sample.visual))

    def undo(args, kwargs, output):
        entered, hidden = hidden_input(args, kwargs), hidden_of(output).clone()
        if hidden.shape[1] == sample.length:
            hidden[:, visual] = entered[:, visual]
        return with_hidden(output, hidden)

    with ThreadHooks() as hooks:
        hooks.on_output(family.layers[4], undo)
        whole = Decoding(family, sample.inputs)
        expected = torch.cat([whole.logits[:, None], whole.feed(IDS)], dim=1)[0]
    assert torch.allclose(found, expected, atol=1e-5)
