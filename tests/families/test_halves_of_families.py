"""A half of a layer that is skipped adds what one with zeros in its last projection adds: nothing.

Each family's view is held against a copy of its model whose projections are set to zero, in one
pass and in a cached decode.
"""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.lvlm.families import find_decoder
from svl_core.pruning.view import pruned_view

REFUSED = {
    "Gemma3n": "several residual streams",  # streams that its layers mix
    "Mllama": "MllamaCrossAttentionDecoderLayer has no self_attn",
    "Qwen3.5": "Qwen3_5DecoderLayer has no self_attn",  # linear attention
}


@pytest.fixture
def sample(family):
    return family.encode(picture(), "what is in the top left ?")


def zeroed(lvlm, attention, mlp):
    """A copy whose named halves end with zeros."""
    model = copy.deepcopy(lvlm.model)
    layers = find_decoder(model).layers
    ends = [layers[layer].self_attn.o_proj for layer in attention]
    ends += [layers[layer].mlp.down_proj for layer in mlp]
    for end in ends:
        end.weight.zero_()
        if end.bias is not None:
            end.bias.zero_()
    return replace(lvlm, model=model)


@torch.inference_mode()
def logits(lvlm, sample):
    return lvlm.model(**sample.inputs, use_cache=False).logits


def halves_of(lvlm):
    """Two halves that may go, of a family that can skip them: an attention and an MLP."""
    free = [layer for layer in range(lvlm.num_layers) if layer not in lvlm.protected]
    return free[:1], free[1:2]


def test_a_skipped_half_is_one_that_adds_nothing(family, sample):
    attention, mlp = halves_of(family)
    if family.family.name in REFUSED:
        with pytest.raises(svl.InputError, match=REFUSED[family.family.name]):
            pruned_view(family, range(family.num_layers), attention=attention)
        if family.family.name == "Gemma3n":
            return
        if family.family.name == "Mllama":  # of the other kind of its layers
            with pytest.raises(svl.InputError, match="MllamaTextSelfAttention gives something"):
                pruned_view(family, range(family.num_layers), attention=[2])
        attention = []
    view = pruned_view(family, range(family.num_layers), attention=attention, mlp=mlp)
    reference = zeroed(family, attention, mlp)
    assert torch.equal(logits(view, sample), logits(reference, sample))
    answers = [svl.answer(lvlm, sample, max_new_tokens=6) for lvlm in (view, reference)]
    assert answers[0].token_ids == answers[1].token_ids
    assert view.num_parameters < family.num_parameters


def test_it_is_saved_as_zeros(family, sample, tmp_path):
    """What transformers loads of it alone gives the same logits."""
    attention, mlp = halves_of(family)
    if family.family.name == "Gemma3n":
        pytest.skip("its halves cannot be skipped")
    if family.family.name in REFUSED:
        attention = []
    view = pruned_view(family, range(family.num_layers), attention=attention, mlp=mlp)
    expected = logits(view, sample)
    saved = view.save(tmp_path / "saved")
    plain = type(family.model).from_pretrained(saved, dtype="auto").eval()
    assert torch.equal(logits(replace(family, model=plain), sample), expected)
    again = svl.load(saved)
    assert again.skipped == view.skipped and again.num_parameters == view.num_parameters
    assert torch.equal(logits(again, sample), expected)
