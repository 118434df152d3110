"""The pruned view: equal to skipping layers, shares every tensor, leaves the full model as it was,
saves plainly.
"""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import svl_core as svl
from svl_core.errors import InputError, SVLError
from svl_core.lvlm.cutting import cut_config, cut_text_config
from svl_core.pruning.view import gaps_of, places_of, pruned_view

KEEPS = [(0, 1, 2, 3, 4, 5), (0, 2, 4, 5), (0, 5), (1, 2, 3), (3,)]


def logits(lvlm, sample, **options):
    with torch.inference_mode():
        return lvlm.model(**sample.inputs, **options).logits


def skipping(lvlm, sample, keep):
    """Oracle: a separate copy of the full model in which every dropped layer hands its input on."""
    model = copy.deepcopy(lvlm.model)
    for index, layer in enumerate(model.get_decoder().layers):
        if index not in keep:
            layer.register_forward_hook(lambda module, args, output: args[0])
    with torch.inference_mode():
        return model(**sample.inputs, use_cache=False).logits


@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_equals_skipping_the_layers(tiny, tiny_sample, keep):
    view = pruned_view(tiny, keep)
    assert view.num_layers == len(keep) and view.layer_ids == keep
    assert torch.equal(logits(view, tiny_sample), skipping(tiny, tiny_sample, keep))


def test_each_layer_matters(tiny, tiny_sample):
    """The oracle can fail: no two choices of layers give the same logits."""
    seen = [logits(pruned_view(tiny, keep), tiny_sample) for keep in KEEPS]
    assert all(not torch.allclose(a, b, atol=1e-2) for i, a in enumerate(seen) for b in seen[:i])


def test_dropping_nothing_is_bit_equal(tiny, tiny_sample):
    view = pruned_view(tiny, range(6))
    assert (
        torch.equal(logits(view, tiny_sample), logits(tiny, tiny_sample))
        and view.provenance == {}
        and view.model is not tiny.model
    )


def test_shares_every_tensor_and_leaves_the_full_model_alone(tiny, tiny_sample):
    before, tensors = (
        logits(tiny, tiny_sample),
        {name: value.clone() for name, value in tiny.model.state_dict().items()},
    )
    config = tiny.model.config.to_dict()
    view = pruned_view(tiny, (0, 2, 4, 5))
    owned = {p.data_ptr() for p in [*tiny.model.parameters(), *tiny.model.buffers()]}
    assert all(p.data_ptr() in owned for p in [*view.model.parameters(), *view.model.buffers()])
    logits(view, tiny_sample)
    layer = view.layers[1]
    layer.mlp.down_proj.weight = torch.nn.Parameter(
        layer.mlp.down_proj.weight * 2, requires_grad=False
    )  # an edit by assignment
    view.model.set_attn_implementation("eager")
    assert torch.equal(logits(tiny, tiny_sample), before) and tiny.model.config.to_dict() == config
    assert all(torch.equal(value, tensors[name]) for name, value in tiny.model.state_dict().items())
    assert tiny.model.config._attn_implementation != "eager" and tiny.num_layers == 6


def test_full_and_pruned_models_work_at_once_in_their_own_threads(tiny, tiny_sample):
    """Answers, features and predictions are bit-equal to those made alone, though the models share
    their weights and one of them is being traced.
    """
    trace = svl.trace(tiny, tiny_sample, mlp=True)
    plans = [svl.manual_plan(drop, 6, (0, 5)) for drop in ((2,), (1, 4), (2, 3))]
    models = [
        tiny,
        *(
            svl.prune(tiny, plan, compensation, trace)
            for plan, compensation in zip(plans, ("none", "scp", "lstsq"))
        ),
    ]

    def work(lvlm):
        traced = svl.trace(lvlm, tiny_sample).samples[0]
        return (
            svl.answer(lvlm, tiny_sample, max_new_tokens=6).token_ids,
            traced.features,
            traced.logits_last,
            traced.attention.text_to_visual,
            logits(lvlm, tiny_sample),
        )

    alone, start = [work(lvlm) for lvlm in models], threading.Barrier(len(models))

    def together(lvlm):
        start.wait(30)
        return [work(lvlm) for _ in range(3)]

    with ThreadPoolExecutor(len(models)) as pool:
        for once, repeated in zip(alone, pool.map(together, models)):
            for again in repeated:
                assert once[0] == again[0] and all(
                    np.array_equal(a, b) for a, b in zip(once[1:], again[1:])
                )
    assert len({tuple(once[0]) for once in alone}) > 1  # the models differ, so a mix-up would show


def test_a_view_of_a_view(tiny, tiny_sample):
    twice = pruned_view(pruned_view(tiny, (0, 2, 4, 5)), (0, 1, 3))
    assert twice.layer_ids == (0, 2, 5) and twice.provenance["dropped"] == [1, 3, 4]
    assert torch.equal(
        logits(twice, tiny_sample), logits(pruned_view(tiny, (0, 2, 5)), tiny_sample)
    )


@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_cached_equals_uncached(tiny, tiny_sample, keep):
    view = pruned_view(tiny, keep)
    options = {
        "max_new_tokens": 8,
        "do_sample": False,
        "eos_token_id": None,
        "suppress_tokens": [view.model.config.image_token_id],
        "pad_token_id": 0,
    }
    cached = view.model.generate(**tiny_sample.inputs, use_cache=True, **options)
    assert torch.equal(
        cached, view.model.generate(**tiny_sample.inputs, use_cache=False, **options)
    )
    assert cached.shape[1] == tiny_sample.length + 8


@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_a_saved_view_loads_plainly(tiny, tiny_sample, keep, tmp_path):
    view = pruned_view(tiny, keep)
    view.save(tmp_path / "out")
    model, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and not report["mismatched_keys"]
    )
    assert model.config.get_text_config().num_hidden_layers == len(keep)
    with torch.inference_mode():
        assert torch.equal(model.eval()(**tiny_sample.inputs).logits, logits(view, tiny_sample))


def test_parameters_are_counted(tiny):
    layer = sum(p.numel() for p in tiny.layers[0].parameters())
    assert tiny.num_parameters - pruned_view(tiny, (0, 5)).num_parameters == 4 * layer


def test_a_tied_head_stays_tied(image, tmp_path):
    from tiny import tiny_llava

    from svl_core.lvlm.families import family_of
    from svl_core.lvlm.model import LVLM

    model, processor = tiny_llava(4, tie=True)
    full = LVLM(model, processor, family_of(model.config), "tied")
    view = pruned_view(full, (0, 3))
    assert view.model.get_output_embeddings().weight is model.get_input_embeddings().weight
    sample = full.encode(image, "a cat")
    view.save(tmp_path / "out")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        assert torch.equal(again(**sample.inputs).logits, logits(view, sample))


@pytest.mark.parametrize("keep", [(), (0, 0), (-1, 2), (0, 6), (1.5, 9)], ids=str)
def test_impossible_choices_are_told(tiny, keep):
    with pytest.raises(InputError, match="from 0 to 5"):
        pruned_view(tiny, keep)


def test_unknown_lists_as_long_as_the_model_are_refused(tiny):
    config = copy.deepcopy(tiny.model.config)
    config.text_config.strange = list(range(6))
    with pytest.raises(SVLError, match="strange"):
        cut_config(config, (0, 1), 6)
    config.text_config.strange = {str(i): {} for i in range(6)}
    with pytest.raises(SVLError, match="strange"):
        cut_config(config, (0, 1), 6)


def test_known_lists_are_cut():
    from transformers import LlamaConfig

    text = LlamaConfig(
        num_hidden_layers=4,
        layer_types=["full_attention", "sliding_attention"] * 2,
        eos_token_id=[1, 2, 3, 4],
    )
    text.cross_attention_layers, text.num_kv_shared_layers = [1, 3], 2
    text.per_layer_config = {0: {"intermediate_size": 7}, 3: {"intermediate_size": 9}}
    cut_text_config(text, (0, 3), 4)
    assert (
        text.num_hidden_layers == 2
        and text.layer_types == ["full_attention", "sliding_attention"]
        and text.cross_attention_layers == [1]
    )
    assert text.num_kv_shared_layers == 1 and text.eos_token_id == [1, 2, 3, 4]
    assert [text.per_layer_config[i].intermediate_size for i in (0, 1)] == [7, 9]
    text.layer_types = ["full_attention"]
    with pytest.raises(SVLError, match="layer_types"):
        cut_text_config(text, (0,), 2)


def test_what_a_view_lacks(tiny):
    """Layers 0, 2, 3 and 5 gone: 1 and 4 stay, and the run at the start has no layer before it."""
    view = svl.pruned_view(tiny, (1, 4))
    assert places_of(tiny, view) == [1, 4] and gaps_of(tiny, view) == [(2, 3), (5, 5)]
    assert gaps_of(view, svl.pruned_view(view, (0,))) == [(1, 1)]
