"""The one-pass trace against an independent eager forward pass, and that it leaves no mark on the
model.
"""

import copy
import dataclasses
import threading

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import Cancelled, InputError
from svl_core.progress import Run


def eager_oracle(lvlm, sample):
    """Head-averaged attention maps (L, S, S) from transformers' own eager attention, and logits."""
    decoder = lvlm.decoder
    own = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            out = lvlm.model(**sample.inputs, output_attentions=True, use_cache=False)
    finally:
        decoder.config._attn_implementation = own
    return np.stack([a[0].mean(0).numpy() for a in out.attentions])


@pytest.fixture(scope="module")
def traced(tiny, tiny_sample):
    return svl.trace(tiny, tiny_sample, mlp=True)


def test_attention_sums_equal_those_of_eager_maps(tiny, tiny_sample, traced):
    maps, stats = eager_oracle(tiny, tiny_sample), traced.samples[0].attention
    v, t = tiny_sample.visual, tiny_sample.textual
    expected = {
        "visual_from_visual": maps[:, v][:, :, v].sum(1),
        "visual_from_text": maps[:, t][:, :, v].sum(1),
        "text_to_visual": maps[:, t][:, :, v].sum(2),
        "text_from_text": maps[:, t][:, :, t].sum(1),
        "text_to_text": maps[:, t][:, :, t].sum(2),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(stats, name), values, atol=1e-5, err_msg=name)
    causal = np.tril(np.ones(maps.shape[1:]))
    np.testing.assert_array_equal(stats.visual_from_text_seen[0], causal[t][:, v].sum(0))
    np.testing.assert_array_equal(stats.text_to_text_seen[-1], causal[t][:, t].sum(1))


@pytest.mark.parametrize(
    "steps",
    [(7, 1), (512, 512), (13, 3)],
    ids=["head by head", "all at once", "the last group smaller"],
)
def test_steps_do_not_change_the_sums(tiny, tiny_sample, traced, monkeypatch, steps):
    monkeypatch.setattr("svl_core.analysis.attention.steps", lambda *_: steps)
    again = svl.trace(tiny, tiny_sample).samples[0].attention
    for name, sums in vars(traced.samples[0].attention).items():
        np.testing.assert_allclose(getattr(again, name), sums, atol=1e-6, rtol=1e-6, err_msg=name)


def test_features_are_the_raw_layer_outputs(tiny, tiny_sample, traced):
    with torch.no_grad():
        out = tiny.model(**tiny_sample.inputs, output_hidden_states=True, use_cache=False)
    features = traced.samples[0].features
    assert features.shape == (tiny.num_layers + 1, tiny_sample.length, tiny.hidden_size)
    for layer in range(tiny.num_layers):
        torch.testing.assert_close(features[layer], out.hidden_states[layer][0], atol=0, rtol=0)
    torch.testing.assert_close(
        tiny.decoder.norm(features[-1]), out.hidden_states[-1][0], atol=0, rtol=0
    )
    assert not torch.equal(features[-1], out.hidden_states[-1][0])
    with torch.no_grad():
        last = tiny.model(**tiny_sample.inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
    np.testing.assert_array_equal(traced.samples[0].logits_last, last.numpy())


def test_mlp_outputs_complete_the_residual_stream(tiny, traced):
    """H[l+1] - mlp[l] is what the layer's attention left: computed here from the layer's parts."""
    sample, layer = traced.samples[0], tiny.layers[2]
    with torch.no_grad():
        middle = sample.features[3] - sample.mlp[2]
        torch.testing.assert_close(
            layer.mlp(layer.post_attention_layernorm(middle)), sample.mlp[2], atol=1e-5, rtol=1e-5
        )


def test_the_model_is_left_as_it_was(tiny, tiny_sample):
    def logits():
        with torch.no_grad():
            return tiny.model(**tiny_sample.inputs, use_cache=False).logits

    def hooks():
        return sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks)
            for layer in tiny.layers
            for m in layer.modules()
        )

    before, hooked = logits(), hooks()
    broken = {**tiny_sample.inputs, "input_ids": tiny_sample.inputs["input_ids"] * 0 + 10**6}
    with pytest.raises((IndexError, ValueError)):
        svl.trace(tiny, dataclasses.replace(tiny_sample, inputs=broken))
    svl.trace(tiny, tiny_sample)
    assert torch.equal(before, logits())
    assert tiny.decoder.config._attn_implementation == "sdpa"
    assert hooks() == hooked


def test_threads_do_not_mix(tiny, tiny_sample):
    samples = [
        tiny.encode(picture(seed=k), "how many apples are there ?" * (1 + k % 3)) for k in range(4)
    ]
    alone = [svl.trace(tiny, sample).samples[0] for sample in samples]
    together = [None] * 4

    def work(k):
        for _ in range(4):
            together[k] = svl.trace(tiny, samples[k]).samples[0]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, two in zip(alone, together):
        assert torch.allclose(one.features, two.features, atol=1e-5)
        np.testing.assert_allclose(
            one.attention.text_to_visual, two.attention.text_to_visual, atol=1e-5
        )
    assert tiny.decoder.config._attn_implementation == "sdpa"


def test_cancel_and_nothing_to_trace(tiny, tiny_sample):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        svl.trace(tiny, [tiny_sample], run=Run(cancel=stop))
    with pytest.raises(InputError, match="at least one"):
        svl.trace(tiny, [])


def test_progress_counts_samples(tiny, tiny_sample):
    told = []
    svl.trace(tiny, [tiny_sample, tiny_sample], run=Run(lambda share, what: told.append(share)))
    assert told == [0.5, 1.0]


def test_features_in_files_are_those_in_memory(tiny, tiny_sample, tmp_path):
    held, filed = (
        svl.trace(tiny, tiny_sample, mlp=True),
        svl.trace(tiny, [tiny_sample], mlp=True, spool=tmp_path),
    )
    assert list(tmp_path.iterdir()) == []  # no name is left to clean up
    one, other = held.samples[0], filed.samples[0]
    assert (
        torch.equal(one.features, other.features)
        and torch.equal(one.mlp, other.mlp)
        and np.array_equal(one.products, other.products)
    )
    plan = svl.manual_plan([2, 3], 6)
    a, b = (svl.prune(tiny, plan, "lstsq", trace).model.state_dict() for trace in (held, filed))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    with pytest.raises(InputError, match="existing folder"):
        svl.trace(tiny, tiny_sample, spool=tmp_path / "absent")


def test_states_that_overflow_are_refused_by_layer_dtype_and_remedy(tiny, tiny_sample):
    """A weight of infinity, and float16 where the numbers grow too large for it."""
    broken = tiny.with_model(copy.deepcopy(tiny.model), tiny.layer_ids, {})
    with torch.no_grad():
        broken.layers[2].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite behind layer 2, in float32; .*another check"):
        svl.trace(broken, tiny_sample)
    half = tiny.with_model(copy.deepcopy(tiny.model).half(), tiny.layer_ids, {})
    with torch.no_grad():
        half.layers[3].mlp.down_proj.weight *= (
            60000 / half.layers[3].mlp.down_proj.weight.abs().max()
        )
        half.layers[3].post_attention_layernorm.weight.fill_(60000)
    sample = half.encode(tiny_sample.images[0], tiny_sample.prompt)
    with pytest.raises(InputError, match="behind layer 3, in float16; .*--dtype bfloat16"):
        svl.trace(half, sample)
