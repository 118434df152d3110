"""Which half of a layer is redundant, against the layer's own parts run by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.analysis.half_scores import SublayerScores


def by_hand(lvlm, sample):
    """(L, 2) cosines and steps over all positions: attention and MLP as hooks of the test's own see
    them, put together with numpy.
    """
    seen = {}
    handles = []
    for number, layer in enumerate(lvlm.layers):
        for name in ("self_attn", "mlp"):
            handles.append(
                getattr(layer, name).register_forward_hook(
                    lambda module, args, output, key=(number, name): seen.__setitem__(key, output)
                )
            )
        handles.append(
            layer.register_forward_pre_hook(
                lambda module, args, number=number: seen.__setitem__(number, args[0])
            )
        )
    with torch.inference_mode():
        lvlm.model(**sample.inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    cosines, steps = [], []
    for number in range(lvlm.num_layers):
        entered = seen[number][0].double().numpy()
        between = entered + seen[number, "self_attn"][0][0].double().numpy()
        left = between + seen[number, "mlp"][0].double().numpy()
        row, lengths = [], []
        for before, after in ((entered, between), (between, left)):
            norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
            row.append(((before * after).sum(1) / norms).mean())
            added = np.linalg.norm(after - before, axis=1)
            lengths.append((added / np.linalg.norm(after, axis=1)).mean())
        cosines.append(row)
        steps.append(lengths)
    return np.array(cosines), np.array(steps)


def test_the_halves_are_what_attention_and_mlp_add(tiny, tiny_sample):
    cosine, step = by_hand(tiny, tiny_sample)
    found = svl.sublayers(tiny, svl.trace(tiny, tiny_sample), tokens="all")
    assert np.allclose(found.cosine, cosine, atol=1e-5)
    assert np.allclose(found.step, step, atol=1e-5)
    assert not found.parallel


def test_it_is_measured_on_the_chosen_tokens_and_averaged_over_samples(tiny, tiny_sample, image):
    """Both samples' last positions: the mean of what each gives alone."""
    other = tiny.encode(image, "a cat")
    both = svl.sublayers(tiny, svl.trace(tiny, [tiny_sample, other]), tokens="last")
    alone = [
        svl.sublayers(tiny, svl.trace(tiny, sample), tokens="last").cosine
        for sample in (tiny_sample, other)
    ]
    assert np.allclose(both.cosine, np.mean(alone, axis=0), atol=1e-9)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)


def test_a_half_that_adds_nothing_is_redundant(tiny, tiny_sample):
    """Layer 2 without attention and layer 4 without MLP come out as such."""
    model = copy.deepcopy(tiny.model)
    model.model.language_model.layers[2].self_attn.o_proj.weight.zero_()
    model.model.language_model.layers[4].mlp.down_proj.weight.zero_()
    lvlm = replace(tiny, model=model)
    found = svl.sublayers(lvlm, svl.trace(lvlm, tiny_sample))
    assert found.cosine[2, 0] == pytest.approx(1) and found.step[2, 0] == 0
    assert found.cosine[4, 1] == pytest.approx(1) and found.step[4, 1] == 0
    assert found.redundant_half[2] == "attention" and found.redundant_half[4] == "MLP"
    assert found.cosine[2, 1] < 0.999 and found.cosine[4, 0] < 0.999


def test_it_says_what_is_wrong(tiny, tiny_sample):
    from svl_core.pruning.view import pruned_view

    read = svl.trace(tiny, tiny_sample)
    with pytest.raises(svl.InputError, match="expected one of tiny with 4; trace it anew"):
        svl.sublayers(pruned_view(tiny, [0, 1, 2, 5]), read)
    bare = replace(read, samples=(replace(read.samples[0], sample=None),))
    with pytest.raises(svl.InputError, match="Found a trace without its samples"):
        svl.sublayers(tiny, bare)
    with pytest.raises(ValueError, match="two for each of 1 layers"):
        SublayerScores((0,), np.zeros((1, 3)), np.zeros((1, 2)), "all", False)


def test_it_prints_as_one_line_with_a_table(tiny, tiny_sample):
    found = svl.sublayers(tiny, svl.trace(tiny, tiny_sample))
    assert repr(found) == "SublayerScores(layers=6, tokens='important', parallel=False)"
    assert "more redundant" in found._repr_html_()
