"""A half of a layer that is skipped adds what one with zeros in its last projection adds: nothing.

Each family's view is held against a copy of its model whose projections are set to zero, in one
pass and in a cached decode.
"""

import copy
from dataclasses import replace

import controls
import numpy as np
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


CONTROLS = {  # kind -> halves that it refuses, and a part of why
    "llama": {},
    "gemma2": {},
    "phi3": {},
    "olmo2": {},
    "glm4": {},
    "granite": {},
    "deepseek_v3": {},
    "gpt_oss": {"mlp": "GptOssMLP gives something else than its kind does"},
    "qwen3_next": {"attention": "Qwen3NextDecoderLayer has no self_attn"},
    "falcon_h1": {"mlp": "FalconH1DecoderLayer has no mlp"},
}
QUICK = ("olmo2", "gpt_oss")
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in CONTROLS]
ENDS = {"attention": ("self_attn.", "o_proj"), "mlp": ("mlp.", "down_proj")}


def control(kind, folder):
    return svl.load(controls.saved(kind, folder), text_only=True, dtype="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_decoder_skips_halves_or_says_why_not(kind, tmp_path):
    """The fourth layer's, one after the other; norms behind, factors, experts and latent keys."""
    lvlm = control(kind, tmp_path / "model")
    sample = lvlm.encode(None, "what is in the top left of this picture ?")
    for half, (place, end) in ENDS.items():
        reason = CONTROLS[kind].get(half)
        if reason is not None:
            with pytest.raises(svl.InputError, match=reason):
                pruned_view(lvlm, range(6), **{half: [3]})
            continue
        view = pruned_view(lvlm, range(6), **{half: [3]})
        model = copy.deepcopy(lvlm.model)
        for name, parameter in find_decoder(model).layers[3].named_parameters():
            if name.startswith(place) and end in name:
                parameter.zero_()
        reference = replace(lvlm, model=model)
        expected = logits(reference, sample)
        assert torch.allclose(logits(view, sample), expected, atol=1e-5)
        assert not torch.allclose(logits(lvlm, sample), expected, atol=1e-3)
        answers = [svl.answer(each, sample, max_new_tokens=4) for each in (view, reference)]
        assert answers[0].token_ids == answers[1].token_ids


def test_halves_before_norms_are_measured_as_they_reach_the_stream(tmp_path):
    """OLMo 2 norms what a half gives: that is what it adds, and the MLP reads the stream itself."""
    lvlm = control("olmo2", tmp_path / "model")
    sample = lvlm.encode(None, "what is in the top left ?")
    seen = {}

    def keep(key, *args):
        seen[key] = args[-1][0].double().numpy()

    handles = []
    for number, layer in enumerate(lvlm.layers):
        handles += [
            layer.register_forward_pre_hook(
                lambda module, args, number=number: keep(number, args[0])
            ),
            layer.post_attention_layernorm.register_forward_hook(
                lambda module, args, output, number=number: keep((number, 0), output)
            ),
            layer.post_feedforward_layernorm.register_forward_hook(
                lambda module, args, output, number=number: keep((number, 1), output)
            ),
        ]
    logits(lvlm, sample)
    for handle in handles:
        handle.remove()
    found = svl.sublayers(lvlm, svl.trace(lvlm, sample), tokens="all")
    for number in range(6):
        before = seen[number]
        for half in (0, 1):
            after = before + seen[number, half]
            lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            cosine = ((before * after).sum(1) / lengths).mean()
            assert found.cosine[number, half] == pytest.approx(cosine, abs=1e-5)
            before = after
