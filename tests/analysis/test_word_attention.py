"""Where a model looks while it writes a word, on hand-made numbers; in every family its rows stand
beside eager attention's in `tests/families/test_family_lens.py`.
"""

from threading import Event

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.analysis.word_attention import KINDS, WordAttention, attention_row
from svl_core.pruning.view import pruned_view

LOG = np.log


def row_of(**options):
    """Two heads that share one key head; scores log 1, log 3 and, for head 1, twice these."""
    query = torch.tensor([[1.0], [2.0]])
    key = torch.tensor([[[LOG(1.0)], [LOG(3.0)]]], dtype=torch.float32)
    return attention_row(query, key, 1.0, **options).numpy()


def test_a_row_is_computed_by_hand():
    assert row_of() == pytest.approx(np.array([[1 / 4, 3 / 4], [1 / 10, 9 / 10]]))


def test_a_mask_hides_keys():
    hidden = torch.tensor([[True, False]])
    assert row_of(mask=hidden).tolist() == [[1, 0], [1, 0]]
    added = torch.tensor([[0.0, torch.finfo(torch.float32).min]])
    assert row_of(mask=added).tolist() == [[1, 0], [1, 0]]


def test_a_sink_takes_its_share():
    """A key that is nobody, of score log 4 in head 0 and log 10 in head 1."""
    sinks = torch.tensor([LOG(4.0), LOG(10.0)], dtype=torch.float32)
    assert row_of(sinks=sinks) == pytest.approx(np.array([[1 / 8, 3 / 8], [1 / 20, 9 / 20]]))


def test_scores_are_capped_softly():
    capped = np.exp(np.tanh(np.array([0, LOG(3.0)]) / 0.5) * 0.5)
    assert row_of(softcap=0.5)[0] == pytest.approx(capped / capped.sum())


@pytest.fixture
def made():
    """One layer, one head; positions: first token, image, image, prompt, two of the answer."""
    rows = np.array([[[0.25, 0.125, 0.0625, 0.0625, 0.375, 0.125]]], np.float32)
    return WordAttention((3,), "cat", 2, 4, np.array([1, 2]), rows)


def test_shares_are_split_by_kind(made):
    shares = dict(zip(KINDS, made.shares[0, 0].tolist(), strict=True))
    expected = {"image": 0.1875, "prompt": 0.0625, "earlier answer": 0.5, "first token": 0.25}
    assert shares == expected
    assert made.image_share.tolist() == [[0.1875]]
    assert made.on_image(3, 0).tolist() == [0.125, 0.0625]


def test_all_shares_together_are_all_attention(tiny, tiny_sample):
    found = svl.word_attention(tiny, tiny_sample, [9, 30, 41], 2)
    assert found.rows.shape == (6, 4, tiny_sample.length + 2)
    assert np.allclose(found.shares.sum(2), 1, atol=1e-5)
    assert (found.shares > 0).all()


def test_a_kept_prompt_gives_the_same_and_later_words_do_not_matter(tiny, tiny_sample):
    read = svl.trace(tiny, tiny_sample, keep_prompt=True)
    anew = svl.word_attention(tiny, tiny_sample, [9, 30, 41], 1)
    behind = svl.word_attention(tiny, tiny_sample, [9, 30], 1, traced=read)
    assert np.allclose(anew.rows, behind.rows, atol=1e-6)
    assert anew.token == behind.token == svl.lens(tiny, tiny_sample, [9, 30]).tokens[1]


def test_a_pruned_model_s_layers_keep_their_numbers(tiny, tiny_sample):
    """Up to the first dropped layer both models look at the same."""
    full = svl.word_attention(tiny, tiny_sample, [9])
    pruned = svl.word_attention(pruned_view(tiny, [0, 1, 4, 5]), tiny_sample, [9])
    assert pruned.layer_ids == (0, 1, 4, 5)
    assert np.allclose(pruned.on_image(1, 2), full.on_image(1, 2), atol=1e-6)
    assert not np.allclose(pruned.on_image(4, 2), full.on_image(4, 2), atol=1e-4)


def test_the_model_s_attention_setting_is_as_before(tiny, tiny_sample):
    before = tiny.decoder.config._attn_implementation
    svl.word_attention(tiny, tiny_sample, [9])
    assert tiny.decoder.config._attn_implementation == before


def test_it_says_what_is_wrong(tiny, tiny_sample, made):
    with pytest.raises(svl.InputError, match="Found place 2 of an answer of 2 tokens; expected 0"):
        svl.word_attention(tiny, tiny_sample, [9, 30], 2)
    with pytest.raises(svl.InputError, match="Found an empty answer"):
        svl.word_attention(tiny, tiny_sample, [])
    for layer, head in ((2, 0), (3, 1)):
        with pytest.raises(svl.InputError, match="expected one of the layers"):
            made.on_image(layer, head)
    with pytest.raises(ValueError, match="6 positions"):
        WordAttention((3,), "cat", 2, 4, np.array([1]), np.zeros((1, 1, 5), np.float32))
    stop = Event()
    stop.set()
    with pytest.raises(svl.Cancelled):
        svl.word_attention(tiny, tiny_sample, [9], run=svl.Run(cancel=stop))


def test_it_prints_as_one_line(made):
    assert repr(made) == "WordAttention(token='cat', layers=1, heads=1, positions=6)"
