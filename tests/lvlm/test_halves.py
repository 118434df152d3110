"""Skipped halves of layers: what is computed, cached and counted; views of views; refusals."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import HIDDEN, LAYERS, tiny_llava
from transformers import AutoModelForImageTextToText

import svl_core as svl
from svl_core.lvlm import exported, halves
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.families import decoder_layers, family_of
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.roles import Ending
from svl_core.lvlm.work import count_work
from svl_core.pruning.view import pruned_view

EVERY = range(LAYERS)
INNER, HEADS, SHARED, SIZE = 128, 4, 2, 16  # of the tiny decoder


def zeroed(lvlm, attention=(), mlp=()):
    """A copy whose named halves end with zeros."""
    model = copy.deepcopy(lvlm.model)
    layers = model.get_decoder().layers
    for layer in attention:
        layers[layer].self_attn.o_proj.weight.zero_()
    for layer in mlp:
        layers[layer].mlp.down_proj.weight.zero_()
    return replace(lvlm, model=model)


@torch.inference_mode()
def logits(lvlm, sample):
    return lvlm.model(**sample.inputs, use_cache=False).logits


@pytest.mark.parametrize(
    "attention, mlp",
    [((2,), ()), ((), (3,)), ((0, 1), (5,)), (EVERY, ()), ((), EVERY)],
    ids=str,
)
def test_it_is_bit_equal_to_a_projection_of_zeros(tiny, tiny_sample, attention, mlp):
    """In one pass, in a cached decode, and in an uncached one; also where the first layer, by whose
    cache the decoder counts positions, has no attention.
    """
    view = pruned_view(tiny, EVERY, attention=attention, mlp=mlp)
    reference = zeroed(tiny, attention, mlp)
    assert torch.equal(logits(view, tiny_sample), logits(reference, tiny_sample))
    decoding = Decoding(view, tiny_sample.inputs)
    ids = list(tiny_sample.inputs["input_ids"][0].tolist())
    for token in (9, 30, 12):
        decoding.feed(torch.tensor([[token]]))
        ids.append(token)
    inputs = {**tiny_sample.inputs, "input_ids": torch.tensor([ids])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        whole = reference.model(**inputs, use_cache=False).logits[:, -1]
    assert torch.allclose(decoding.logits, whole, atol=1e-5)


def test_the_full_model_stays_as_it_is(tiny, tiny_sample):
    before = logits(tiny, tiny_sample)
    view = pruned_view(tiny, EVERY, attention=[1], mlp=[4])
    shared = {weight.data_ptr() for weight in tiny.model.parameters()}
    assert all(weight.data_ptr() in shared for weight in view.model.parameters())
    assert tiny.skipped == {} and view.skipped == {"attention": (1,), "mlp": (4,)}
    assert torch.equal(logits(tiny, tiny_sample), before)
    assert "skipped" in repr(view) and "skipped" not in repr(tiny)


def test_what_is_skipped_is_not_there(tiny, tiny_sample):
    """Neither its weights nor its work; of the cache one number a position stays, twice."""
    view = pruned_view(tiny, EVERY, attention=[2, 3], mlp=[3])
    attention = HIDDEN * SIZE * (2 * HEADS + 2 * SHARED)
    mlp = 3 * HIDDEN * INNER
    assert tiny.num_parameters - view.num_parameters == 2 * attention + mlp
    full, left = count_work(tiny, tiny_sample), count_work(view, tiny_sample)
    length = tiny_sample.length
    pairs = HEADS * SIZE * length**2
    assert full.prefill - left.prefill == length * (2 * attention + mlp) + 2 * pairs
    cache = 2 * SHARED * SIZE * length
    assert full.decode - left.decode == 4 * (2 * attention + mlp + 2 * cache)
    assert full.prefill_products - left.prefill_products == 2 * 4 + 3
    decoding = Decoding(view, tiny_sample.inputs)
    cached = decoding._cache.layers
    assert cached[2].keys.shape == cached[2].values.shape == (1, 1, length, 1)
    assert cached[1].keys.shape == (1, SHARED, length, SIZE)
    assert [layer.get_seq_length() for layer in cached] == [length] * LAYERS


def test_the_speed_up_is_that_of_what_is_not_computed(tiny, tiny_sample):
    """Expected of a view without any attention in its last layers, beside one without the layers:
    less, and more than none.
    """
    fewer = svl.compare(tiny, pruned_view(tiny, [0, 1, 2, 3]), tiny_sample, max_new_tokens=4)
    half = pruned_view(tiny, EVERY, attention=[4, 5])
    halved = svl.compare(tiny, half, tiny_sample, max_new_tokens=4)
    assert 1 < halved.speed_prefill.expected < fewer.speed_prefill.expected
    full, left = count_work(tiny, tiny_sample), count_work(half, tiny_sample)
    assert halved.speed_prefill.expected == pytest.approx(full.prefill / left.prefill)
    assert halved.speed_decode.expected == pytest.approx(full.decode / left.decode)


def test_an_answer_begun_by_the_full_model_is_the_view_s_own(tiny, tiny_sample):
    """Compared answers share the layers before the first changed one."""
    view = pruned_view(tiny, EVERY, mlp=[2], attention=[3])
    compared = svl.compare(tiny, view, tiny_sample, max_new_tokens=8)
    alone = svl.answer(zeroed(tiny, [3], [2]), tiny_sample, max_new_tokens=8)
    assert compared.pruned.token_ids == alone.token_ids


def test_a_view_of_a_view_skips_what_both_do(tiny, tiny_sample):
    first = pruned_view(tiny, [0, 1, 2, 4, 5], attention=[1])
    second = pruned_view(first, [0, 1, 3, 4], mlp=[3])
    assert second.layer_ids == (0, 1, 4, 5)
    assert second.skipped == {"attention": (1,), "mlp": (4,)}
    assert second.provenance["skipped"] == {"attention": [1], "mlp": [4]}
    assert second.provenance["dropped"] == [2, 3]
    reference = pruned_view(zeroed(tiny, [1], [4]), [0, 1, 4, 5])
    assert torch.equal(logits(second, tiny_sample), logits(reference, tiny_sample))
    assert first.skipped == {"attention": (1,), "mlp": ()}


def test_a_trace_hands_features_on_and_knows_no_attention_there(tiny, tiny_sample):
    read = svl.trace(pruned_view(tiny, EVERY, attention=[2]), tiny_sample).samples[0]
    same = svl.trace(zeroed(tiny, [2]), tiny_sample).samples[0]
    assert torch.equal(read.features, same.features)
    unknown = np.isnan(read.attention.text_to_text).all(1)
    assert unknown.tolist() == [layer == 2 for layer in EVERY]


def test_a_checkpoint_is_whole_and_says_what_is_zero(tiny, tiny_sample, tmp_path):
    plan = svl.manual_plan([1], LAYERS, attention=[2], mlp=[3])
    pruned = svl.prune(tiny, plan)
    folder = pruned.save(tmp_path / "saved")
    plain = AutoModelForImageTextToText.from_pretrained(folder).eval()
    layers = decoder_layers(plain)
    assert not layers[1].self_attn.o_proj.weight.any() and layers[1].self_attn.q_proj.weight.any()
    assert not layers[2].mlp.down_proj.weight.any() and layers[2].mlp.up_proj.weight.any()
    with torch.inference_mode():
        loaded = plain(**tiny_sample.inputs, use_cache=False).logits
    assert torch.equal(loaded, logits(pruned, tiny_sample))
    record = json.loads((folder / "svl_plan.json").read_text(encoding="utf-8"))
    assert record["skipped"] == {"attention": [2], "mlp": [3]}
    assert record["plan"]["attention"] == [2] and record["plan"]["mlp"] == [3]
    again = svl.load(folder)
    assert again.skipped == pruned.skipped and again.num_parameters == pruned.num_parameters
    assert torch.equal(logits(again, tiny_sample), loaded)
    once_more = svl.load(again.save(tmp_path / "again"))
    assert torch.equal(logits(once_more, tiny_sample), loaded)
    assert tiny.layers[2].self_attn.o_proj.weight.any()


def test_it_says_what_cannot_be_skipped(tiny):
    view = pruned_view(tiny, EVERY, attention=[2])
    for model, choice, sentence in (
        (view, {"attention": [2]}, "attention of layer 2 cannot be skipped .it is skipped already"),
        (tiny, {"mlp": [6]}, r"Found the layers \[6\] to skip a half of; expected some of those"),
    ):
        with pytest.raises(svl.InputError, match=sentence):
            pruned_view(model, EVERY, **choice)


def odd(change):
    """A tiny model of its own, whose layers' classes are changed in one way."""
    model, processor = tiny_llava()
    change(model.get_decoder().layers[1])
    return LVLM(model, processor, family_of(model.config), "odd")


class _Pair(torch.nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden), None


class _Undeclared(torch.nn.Module):
    def forward(self, hidden_states, **kwargs):
        return hidden_states


@pytest.mark.parametrize(
    "half, change, reason",
    [
        ("mlp", lambda layer: layer.__delattr__("mlp"), "LlamaDecoderLayer has no mlp"),
        (
            "mlp",
            lambda layer: setattr(layer, "mlp", _Pair(HIDDEN, HIDDEN)),
            "_Pair gives something else",
        ),
        (
            "attention",
            lambda layer: setattr(layer, "self_attn", _Undeclared()),
            "_Undeclared gives something else",
        ),
        (
            "mlp",
            lambda layer: setattr(layer, "post_mlp_layernorm", torch.nn.LayerNorm(HIDDEN)),
            "a norm of LlamaDecoderLayer adds something behind it",
        ),
    ],
)
def test_a_half_that_would_not_add_nothing_is_refused(half, change, reason):
    lvlm = odd(change)
    with pytest.raises(svl.InputError, match=f"{half} of layer 1 cannot be skipped .{reason}"):
        halves.skip(lvlm.model, half, [1])


def test_no_compensation_bridges_a_half(tiny):
    plan = svl.manual_plan([], LAYERS, mlp=[3])
    sentence = "Found the compensation 'scp' for a plan that skips halves of layers; expected 'none"
    with pytest.raises(svl.InputError, match=sentence):
        svl.prune(tiny, plan, "scp")


def test_a_record_of_other_halves_is_refused(tiny, tmp_path):
    folder = pruned_view(tiny, EVERY, mlp=[3]).save(tmp_path / "saved")
    record = json.loads((folder / "svl_plan.json").read_text(encoding="utf-8"))
    for wrong in ({"mlp": [9]}, {"head": [3]}):
        text = json.dumps(record | {"skipped": wrong})
        (folder / "svl_plan.json").write_text(text, encoding="utf-8")
        with pytest.raises(svl.InputError, match="skipped in svl_plan.json; expected attention or"):
            svl.load(folder)


def test_visual_tokens_and_halves_are_not_skipped_at_once(tiny, tiny_sample):
    """Where tokens leave by a score that is there before the pass, a view reads what is left."""
    view = pruned_view(tiny, EVERY, attention=[2], mlp=[3])
    recipe = svl.Recipe(visual_tokens="shortv", visual_from=1)
    with pytest.raises(svl.InputError, match="Found halves of layers of tiny skipped already"):
        svl.answer(view, svl.thin(tiny, tiny_sample, recipe), max_new_tokens=2)
    for share in (svl.Recipe(visual_share=0.5), svl.Recipe(visual_share=0.5, visual_from=2)):
        thinned = svl.thin(tiny, tiny_sample, share.changed(visual_tokens="cluster"))
        reference = svl.answer(zeroed(tiny, [2], [3]), thinned, max_new_tokens=4)
        assert svl.answer(view, thinned, max_new_tokens=4).token_ids == reference.token_ids


def test_quantised_weights_are_not_saved_as_zeros():
    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        svl.InputError, match="Found quantised weights behind a half that is skipped"
    ):
        exported._zero(Ending(layer))


def test_layers_that_mix_streams_are_refused():
    lvlm = odd(lambda layer: None)
    lvlm.text_config.hc_mult = 2
    with pytest.raises(svl.InputError, match="whose halves cannot be skipped .code of its own, or"):
        halves.skip(lvlm.model, "mlp", [1])
