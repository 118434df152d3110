"""What each layer says, in every family: at the last layer it is what the model predicts."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.analysis import lens
from svl_core.lvlm.decoding import image_token_ids
from svl_core.lvlm.head import logits_of
from svl_core.pruning.view import pruned_view

ANSWER = (9, 30, 41, 12)  # any words: they are read as given


@pytest.fixture
def sample(family):
    return family.encode(picture(120, 80), "what is in the top left ?")


def with_answer(lvlm, sample):
    """The inputs of prompt and answer, but for its last token, in one uncached pass."""
    inputs = dict(sample.inputs)
    fed = torch.tensor([ANSWER[:-1]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], fed], 1)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask"):
        if name in inputs:
            last = inputs[name][:, -1:].expand(-1, 3, *inputs[name].shape[2:])
            if lvlm.family.name == "PaliGemma" and name == "token_type_ids":
                last = torch.ones_like(last)  # 0 would be a prefix, whose words see each other
            inputs[name] = torch.cat([inputs[name], last], 1)
    return inputs


def plain_pass(lvlm, sample):
    """The logits (S + n - 1, vocab) of prompt and answer in one uncached pass, and what each layer
    hands on there, by hooks of the test's own.
    """
    seen = {}
    handles = [
        layer.register_forward_hook(
            lambda module, args, output, number=number: seen.__setitem__(number, output)
        )
        for number, layer in enumerate(lvlm.layers)
    ]
    inputs = with_answer(lvlm, sample)
    with torch.inference_mode():
        logits = lvlm.model(**inputs, use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits, seen


def test_the_head_s_logits_are_the_model_s(family, sample):
    """To the bit: norm, head, scaling, soft cap and streams are the model's own."""
    logits, seen = plain_pass(family, sample)
    last = seen[max(seen)][..., 0, :, :]
    assert torch.equal(logits_of(family, last), logits)
    view = pruned_view(family, family.protected or (0, 3))
    logits, seen = plain_pass(view, sample)
    words = seen[max(seen)][..., 0, sample.textual, :]
    assert torch.allclose(logits_of(view, words), logits[sample.textual], atol=1e-5)


def test_the_last_layer_says_what_the_model_predicts(family, sample):
    logits, _ = plain_pass(family, sample)
    shares = logits[-len(ANSWER) :].double().softmax(-1).numpy()
    found = svl.lens(family, sample, ANSWER, top=3)
    said = shares[range(len(ANSWER)), ANSWER]
    assert np.allclose(found.probability[-1], said, atol=1e-5)
    words = np.delete(shares, image_token_ids(family), axis=1)  # a placeholder is no word
    assert np.array_equal(found.rank[-1], (words > said[:, None]).sum(1))
    assert np.allclose(found.entropy[-1], -(shares * np.log(shares)).sum(1), atol=1e-4)
    assert np.allclose(found.shares[-1], np.sort(words, 1)[:, :-4:-1], atol=1e-5)


def test_every_layer_is_read_from_what_it_hands_on(family, sample):
    """Each layer's row against the test's own hooks in an uncached pass; a layer that the model
    passes over says what the one before it does.
    """
    _, seen = plain_pass(family, sample)
    found = svl.lens(family, sample, ANSWER, top=1)
    for number in range(family.num_layers):
        hidden = seen[max(layer for layer in seen if layer <= number)][..., 0, -len(ANSWER) :, :]
        shares = logits_of(family, hidden).softmax(-1).numpy()
        said = shares[range(len(ANSWER)), ANSWER]
        assert np.allclose(found.probability[number], said, atol=1e-5), number


def test_a_kept_prompt_is_not_read_again(family, sample):
    read = svl.trace(family, sample, keep_prompt=True)
    anew = svl.lens(family, sample, ANSWER)
    behind = svl.lens(family, sample, ANSWER, traced=read)
    assert np.allclose(behind.probability, anew.probability, atol=1e-5)
    assert np.array_equal(behind.rank, anew.rank)


def test_a_trace_alone_will_do_for_an_answer_of_one_token(family, sample, monkeypatch):
    """Its last position predicts that token: nothing is read again, unless layers hand on several
    streams.
    """
    anew = svl.lens(family, sample, ANSWER[:1])
    traced = svl.trace(family, sample)
    if family.family.name != "Gemma3n":
        monkeypatch.setattr(lens, "Decoding", None)
    behind = svl.lens(family, sample, ANSWER[:1], traced=traced)
    assert np.allclose(behind.probability, anew.probability, atol=1e-5)
    assert np.array_equal(behind.rank, anew.rank)


def test_patches_are_read_as_they_leave_each_layer(family, sample):
    """The last layer's reading of every patch is the model's own prediction there."""
    if not len(sample.visual):
        with pytest.raises(svl.InputError, match="Found no visual positions"):
            svl.visual_lens(family, sample)
        return
    seen = svl.visual_lens(family, sample, traced=svl.trace(family, sample), top=1)
    with torch.inference_mode():
        logits = family.model(**sample.inputs, use_cache=False).logits[0, sample.visual]
    shares = logits.softmax(-1).numpy()
    likeliest = np.take_along_axis(shares, seen.ids[-1], 1)
    assert np.allclose(seen.shares[-1], likeliest, atol=1e-5)
    words = np.delete(shares, image_token_ids(family), axis=1)
    assert np.allclose(likeliest[:, 0], words.max(1), atol=1e-5)
    anew = svl.visual_lens(family, sample, top=1)  # without the trace
    assert np.allclose(anew.shares, seen.shares, atol=1e-5)


def test_a_word_s_attention_is_eager_attention_s_row(family, sample):
    """Of every head, for the first word and for a later one, against whole maps of a copy."""
    model = copy.deepcopy(family.model)
    model.set_attn_implementation("eager")
    maps = {}
    for index, layer in enumerate(model.get_decoder().layers):
        attention = getattr(layer, "self_attn", None)
        if attention is not None:
            attention.register_forward_hook(
                lambda module, args, output, index=index: maps.__setitem__(index, output[1])
            )
    with torch.inference_mode():
        model(**with_answer(family, sample), use_cache=False, output_attentions=True)
    read = svl.trace(family, sample, keep_prompt=True)
    for place in (0, 1, 3):
        found = svl.word_attention(family, sample, ANSWER, place, traced=read)
        query = sample.length - 1 + place
        for index in range(family.num_layers):
            if index not in maps:
                assert np.isnan(found.rows[index]).all(), index
                continue
            row = maps[index][0, :, query, : query + 1].float().numpy()
            assert np.abs(found.rows[index] - row).max() < 1e-5, (place, index)


def test_relevance_is_autograd_s_in_every_family(family, sample):
    """Against a plain uncached pass of the test's own, differentiated at what enters layer 0."""
    if not len(sample.visual):
        with pytest.raises(svl.InputError, match="Found no visual positions"):
            svl.relevance(family, sample, ANSWER)
        return
    entered = []
    handle = family.layers[0].register_forward_pre_hook(
        lambda module, args: entered.append(args[0].requires_grad_())
    )
    logits = family.model(**with_answer(family, sample), use_cache=False).logits[0]
    handle.remove()
    for place in (0, 2):
        found = svl.relevance(family, sample, ANSWER, place)
        logit = logits[sample.length - 1 + place, ANSWER[place]]
        [gradient] = torch.autograd.grad(logit, entered, retain_graph=True)
        products = (gradient * entered[0]).detach().sum(-1)
        expected = products.reshape(-1, products.shape[-1]).sum(0)[sample.visual].numpy()
        assert found.logit == pytest.approx(float(logit), abs=1e-4)
        assert np.allclose(found.values, expected, atol=1e-4 * np.abs(expected).max())
        anew = svl.relevance(family, sample, ANSWER, place, keep=0)  # layer by layer, where it can
        assert np.allclose(anew.values, expected, atol=1e-4 * np.abs(expected).max())


def test_a_half_without_weights_adds_nothing_in_every_family(family, sample):
    """Of a copy whose third layer's attention writes nothing, and whose fourth layer's MLP does
    not; streams of several kinds are refused.
    """
    if family.family.name == "Gemma3n":
        with pytest.raises(svl.InputError, match="attention and MLP cannot be told apart"):
            svl.sublayers(family, svl.trace(family, sample))
        return
    model = copy.deepcopy(family.model)
    layers = model.get_decoder().layers
    attention = getattr(layers[2], "self_attn", None)
    attention.o_proj.weight.zero_()
    layers[3].mlp.down_proj.weight.zero_()
    lvlm = replace(family, model=model)
    found = svl.sublayers(lvlm, svl.trace(lvlm, sample), tokens="textual")
    assert found.parallel == (family.family.name == "Aya Vision")
    assert found.cosine[2, 0] == pytest.approx(1, abs=1e-6)
    assert found.step[2, 0] == pytest.approx(0, abs=1e-6)
    others = np.delete(found.step.ravel(), [4, 7])
    assert (others > 0.01).all()
    if family.family.name != "Gemma4":  # whose layers end with more than the MLP
        assert found.cosine[3, 1] == pytest.approx(1, abs=1e-6)
        assert found.step[3, 1] == pytest.approx(0, abs=1e-6)
