"""What image patches read as, and which of them name an object."""

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.analysis.visual_lens import NamedPatches, VisualLens
from svl_core.lvlm.head import logits_of


def test_a_patch_reads_as_the_head_s_likeliest_words(tiny, tiny_sample):
    """Against the trace's features, read by hand."""
    read = svl.trace(tiny, tiny_sample)
    seen = svl.visual_lens(tiny, tiny_sample, [3, 30], traced=read, top=2)
    features = read.samples[0].features
    for layer in range(tiny.num_layers):
        for place, patch in enumerate((3, 30)):
            hidden = features[layer + 1, tiny_sample.visual[patch]]
            shares = logits_of(tiny, hidden[None])[0].double().softmax(-1)
            shares[tiny.model.config.image_token_id] = 0  # a placeholder is no word
            best = shares.topk(2)
            assert seen.ids[layer, place].tolist() == best.indices.tolist()
            assert seen.shares[layer, place] == pytest.approx(best.values.numpy(), rel=1e-4)
    words, shares = seen.of_patch(30)
    assert (words == seen.words[:, 1]).all() and words.shape == shares.shape == (6, 2)
    assert tiny.tokenizer.decode([seen.ids[5, 1, 0]]) == words[5, 0]


def test_it_reads_the_same_without_a_trace(tiny, tiny_sample):
    read = svl.trace(tiny, tiny_sample)
    behind = svl.visual_lens(tiny, tiny_sample, traced=read)
    anew = svl.visual_lens(tiny, tiny_sample)
    assert np.array_equal(behind.ids, anew.ids)
    assert np.allclose(behind.entropy, anew.entropy, atol=1e-5)
    assert len(behind.patches) == len(tiny_sample.visual)


def hand_made(tiny, words):
    """A lens of as many patches as columns: the likeliest token behind each of the layers 2, 5,
    7.
    """
    encode = tiny.tokenizer.encode
    ids = [[encode(word, add_special_tokens=False)[0] for word in row] for row in words]
    ids = np.array(ids)[:, :, None]
    count = ids.shape[1]
    spelt = np.array(words, dtype=object)[:, :, None]
    shares = np.ones(ids.shape, np.float32)
    return VisualLens((2, 5, 7), np.arange(count), ids, spelt, shares, shares[:, :, 0])


def test_a_patch_names_an_object_from_the_first_layer_on(tiny):
    """Also where it does not stay; with a space before the word or without one."""
    seen = hand_made(tiny, [["two", "no", " dog"], [" cat", "no", "two"], ["two", " dog", "two"]])
    named = svl.named_patches(tiny, seen, ["cat", "dog"])
    assert named.names == ("cat", "dog") and named.left_out == ()
    assert named.layer.tolist() == [5, 7, 2]
    assert named.name.tolist() == [0, 1, 1]


def test_a_patch_that_names_nothing_has_no_layer(tiny):
    seen = hand_made(tiny, [["two"], ["two"], ["no"]])
    named = svl.named_patches(tiny, seen, ["cat"])
    assert np.isnan(named.layer).all() and named.name.tolist() == [-1]
    assert "named=0" in repr(named)


def test_a_name_in_pieces_counts_by_its_first_token_if_that_says_enough(tiny):
    """ "guitarist" begins with the token "guitar"; "zebra" is spelt letter by letter."""
    seen = hand_made(tiny, [["two"], [" guitar"], ["two"]])
    named = svl.named_patches(tiny, seen, ["guitarist", "zebra"])
    assert named.names == ("guitarist",) and named.left_out == ("zebra",)
    assert named.layer.tolist() == [5]


def test_it_says_what_is_wrong(tiny, tiny_sample):
    with pytest.raises(svl.InputError, match=r"Found the patches \[36\]; expected indices from 0"):
        svl.visual_lens(tiny, tiny_sample, [36])
    with pytest.raises(svl.InputError, match="Found no visual positions; expected an image"):
        svl.visual_lens(tiny, tiny.encode(None, "a cat"))
    seen = svl.visual_lens(tiny, tiny_sample, [1])
    with pytest.raises(svl.InputError, match="Found patch 2; expected one of the 1 that were"):
        seen.of_patch(2)
    with pytest.raises(svl.InputError, match="none of which begins with a token of at least 3"):
        svl.named_patches(tiny, seen, ["zebra"])


def test_values_print_as_one_line(tiny, tiny_sample):
    seen = svl.visual_lens(tiny, tiny_sample, [1, 2])
    assert repr(seen) == "VisualLens(layers=6, patches=2, words=object[6, 2, 3])"
    with pytest.raises(ValueError, match="expected one each"):
        NamedPatches(np.arange(2), ("cat",), (), np.zeros(3), np.zeros(2))


def test_streams_are_read_whole():
    """Gemma3n's layers hand on four streams; a trace keeps one of them, which is not enough."""
    import builders
    from tiny import picture

    lvlm = builders.build("gemma3n")
    sample = lvlm.encode(picture(), "a cat")
    seen = svl.visual_lens(lvlm, sample, [0], traced=svl.trace(lvlm, sample), top=1)
    with torch.inference_mode():
        logits = lvlm.model(**sample.inputs, use_cache=False).logits[0, sample.visual[0]]
    share = logits.softmax(-1)
    assert seen.shares[-1, 0, 0] == pytest.approx(float(share[seen.ids[-1, 0, 0]]), rel=1e-4)
