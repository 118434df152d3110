"""Decoders of which only some layers keep positions: whatever goes, what stays can generate."""

import hybrids
import pytest
import torch
from hybrids import built

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.hooks import ThreadHooks, pass_over
from svl_core.pruning.plan import manual_plan

PROMPT = "what is in the top left ?"


def without(lvlm, staying):
    """The plan that drops all layers but these."""
    drop = [layer for layer in range(lvlm.num_layers) if layer not in staying]
    return manual_plan(drop, lvlm.num_layers, lvlm.protected)


@pytest.mark.parametrize("builder", hybrids.LAST_COUNTING, ids=lambda builder: builder.__name__)
def test_what_is_left_of_a_hybrid_generates(builder, tmp_path):
    lvlm = built(builder)
    last = hybrids.LAST_COUNTING[builder]
    assert lvlm.protected == (last,)
    sample = lvlm.encode(None, PROMPT)
    pruned = svl.prune(lvlm, without(lvlm, (last,)))
    assert svl.compare(lvlm, pruned, sample, max_new_tokens=3).kl >= 0
    pruned.save(tmp_path / "out")
    again = type(lvlm.model).from_pretrained(tmp_path / "out").eval()
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = again.generate(**sample.inputs, use_cache=True, **options)
    uncached = again.generate(**sample.inputs, use_cache=False, **options)
    assert torch.equal(cached, uncached) and cached.shape[1] == sample.length + 4
    logits = pruned.model(**sample.inputs).logits
    assert torch.equal(again(**sample.inputs).logits, logits)


def test_planning_keeps_it(tmp_path):
    """However redundant it seems, a plan of the most layers leaves it in."""
    lvlm = built(hybrids.lfm2)
    trace = svl.trace(lvlm, [lvlm.encode(None, PROMPT)])
    scores = svl.redundancy(trace, criterion="shortgpt", protect_ends=False)
    assert scores.most == 5 and 4 not in svl.plan(scores, 5).drop
    with pytest.raises(InputError, match=r"layers \[4\]"):
        without(lvlm, (1,))


def test_a_pruned_hybrid_can_be_pruned_again():
    lvlm = built(hybrids.lfm2)
    once = svl.prune(lvlm, without(lvlm, (0, 1, 4)))
    assert once.protected == (2,)
    twice = svl.prune(once, without(once, (2,)))
    assert twice.layer_ids == (4,)


@torch.inference_mode()
def test_kinds_told_by_periods_keep_some_or_are_refused(tmp_path):
    """Attention at layers 1 and 4, experts at 1, 3 and 5, each told by a period and its first."""
    lvlm = built(hybrids.jamba)
    with pytest.raises(InputError, match=r"by a period \(attn_layer_period\), which without these"):
        svl.prune(lvlm, without(lvlm, (0, 1, 4)))
    with pytest.raises(InputError, match=r"by a period \(expert_layer_period\), which without"):
        svl.prune(lvlm, without(lvlm, (1, 3, 4)))
    pruned = svl.prune(lvlm, without(lvlm, (0, 4, 5)))
    text = pruned.text_config
    assert (text.attn_layer_period, text.attn_layer_offset) == (2, 1)
    assert (text.expert_layer_period, text.expert_layer_offset) == (3, 2)
    sample = lvlm.encode(None, PROMPT)
    with ThreadHooks() as hooks:
        for layer in (1, 2, 3):
            hooks.on_output(lvlm.layers[layer], pass_over)
        skipped = lvlm.model(**sample.inputs, use_cache=False).logits
    logits = pruned.model(**sample.inputs, use_cache=False).logits
    assert torch.allclose(logits, skipped, atol=1e-4)
    pruned.save(tmp_path / "out")
    again = type(lvlm.model).from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(again(**sample.inputs, use_cache=False).logits, logits, atol=1e-5)


def test_what_the_models_own_config_refuses_is_told():
    lvlm = built(hybrids.olmo_hybrid)
    with pytest.raises(InputError, match="at least one 'linear_attention' layer"):
        svl.prune(lvlm, without(lvlm, (5,)))
