"""The logit lens on hand-made numbers and on the tiny model; every family is in
`tests/families/test_family_lens.py`.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

import svl_core as svl
from svl_core.analysis import reading
from svl_core.analysis.lens import Lens, decided_at
from svl_core.lvlm import head
from svl_core.lvlm.families import family_of
from svl_core.lvlm.model import LVLM
from svl_core.pruning.view import pruned_view

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50,
}


def test_a_word_is_decided_where_it_begins_to_stay_first():
    rank = np.array([[0, 5, 0, 0], [2, 1, 0, 0], [0, 0, 0, 3], [0, 0, 0, 1]])
    assert decided_at(rank).tolist() == [2, 2, 0, -1]


@pytest.fixture
def logits_as_states(monkeypatch):
    """The head hands on what it gets, two rows at a time."""
    monkeypatch.setattr(reading, "logits_of", lambda lvlm, hidden: hidden)
    monkeypatch.setattr(reading, "rows_at_once", lambda lvlm: 2)
    monkeypatch.setattr(reading, "image_token_ids", lambda lvlm: (3,))


def test_readings_are_those_computed_by_hand(tiny, logits_as_states):
    """Probabilities 1/2, 1/4, 1/8, 1/8, the last of them a placeholder; then four equal ones."""
    uneven = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    rows = torch.stack([uneven, uneven.flip(0), torch.zeros(4)])
    found = reading.read(tiny, rows, [2, 0, 2], top=2)
    assert found.top_ids[:2].tolist() == [[0, 1], [2, 1]]
    assert found.top_ids[2, 0] == 0 and found.top_ids[2, 1] in (1, 2)  # of equals the lowest id
    assert np.allclose(found.top_probabilities, [[0.5, 0.25], [0.25, 0.125], [0.25, 0.25]])
    assert found.probability == pytest.approx([0.125, 0.125, 0.25])
    assert found.rank.tolist() == [2, 1, 2]  # the placeholder, likeliest in row 1, is no word
    bits = np.array([1.75, 1.75, 2.0])
    assert found.entropy == pytest.approx(bits * np.log(2))


def test_without_a_word_to_look_for_there_is_no_rank(tiny, logits_as_states):
    found = reading.read(tiny, torch.zeros(1, 4), top=9)
    assert np.isnan(found.probability).all() and found.rank.tolist() == [-1]
    assert sorted(found.top_ids[0].tolist()) == [0, 1, 2, 3]


def test_few_logits_are_in_memory_at_a_time(tiny, tiny_sample, monkeypatch):
    """Never layers x tokens x vocabulary: with room for three rows, no pass of the head makes
    more, and nothing else comes out.
    """
    whole = svl.lens(tiny, tiny_sample, [9, 30, 41])
    made = []
    monkeypatch.setattr(head, "AT_ONCE", 3 * tiny.text_config.vocab_size)
    monkeypatch.setattr(
        reading,
        "logits_of",
        lambda lvlm, hidden: made.append(hidden.shape[-2]) or head.logits_of(lvlm, hidden),
    )
    parts = svl.lens(tiny, tiny_sample, [9, 30, 41])
    assert made == [3] * tiny.num_layers
    assert np.array_equal(parts.rank, whole.rank)
    assert np.allclose(parts.probability, whole.probability, atol=1e-6)


def test_the_model_s_own_answer_stands_first_at_the_end(tiny, tiny_sample):
    said = svl.answer(tiny, tiny_sample, max_new_tokens=64).token_ids
    found = svl.lens(tiny, tiny_sample)
    assert found.token_ids == said
    assert (found.rank[-1] == 0).all() and None not in found.decided
    assert [words[0] for words in found.words[-1]] == list(found.tokens)


def test_a_pruned_model_s_rows_stand_at_their_original_layers(tiny, tiny_sample):
    """Layers 1 and 4 gone: layer 0 says what it says in the full model, 1 and 4 say nothing, and
    the full model's words are looked for.
    """
    view = pruned_view(tiny, [0, 2, 3, 5])
    full = svl.lens(tiny, tiny_sample, [9, 30])
    pruned = svl.lens(view, tiny_sample, [9, 30])
    rows = pruned.by_original_layer(pruned.probability, tiny.num_layers)
    assert np.isnan(rows[[1, 4]]).all() and not np.isnan(rows[[0, 2, 3, 5]]).any()
    assert np.allclose(rows[0], full.probability[0], atol=1e-6)
    assert set(pruned.decided) <= {0, 2, 3, 5, None}


def test_hooks_give_what_stand_ins_give(tiny, monkeypatch):
    """A model spread over devices runs its layers, and hands on the given states all the same."""
    hidden = torch.randn(5, tiny.hidden_size)
    stood_in = head.logits_of(tiny, hidden)
    monkeypatch.setattr(head, "can_stand_in", lambda lvlm: False)
    assert torch.equal(head.logits_of(tiny, hidden), stood_in)


@pytest.mark.parametrize(
    "model",
    [
        (CohereForCausalLM, CohereConfig(**SMALL, logit_scale=0.25)),
        (GraniteForCausalLM, GraniteConfig(**SMALL, logits_scaling=8.0, residual_multiplier=0.2)),
        (Gemma2ForCausalLM, Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0)),
    ],
    ids=["scaled", "multiplied", "capped"],
)
def test_scaled_multiplied_and_capped_logits(model):
    """Tied heads with multipliers, of decoders that no family names."""
    kind, config = model
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    language = kind(config).eval()
    for parameter in language.parameters():
        torch.nn.init.normal_(parameter)
    lvlm = LVLM(language, None, family_of(config), "text")
    seen = []
    handle = lvlm.layers[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.inference_mode():
        logits = language(torch.tensor([[3, 1, 4, 1, 5]]), use_cache=False).logits[0]
    handle.remove()
    last = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(head.logits_of(lvlm, last[0]), logits)


def test_the_curve_counts_answers_and_tokens(tiny, tiny_sample, monkeypatch):
    """Two answers, of two tokens and of one: decided behind the layers 1 and 3, and never."""
    ranks = [np.ones((6, 2), int), np.ones((6, 1), int)]
    ranks[0][1:, 0] = 0
    ranks[0][3:, 1] = 0
    answers = [[9, 30], [41]]

    def made(lvlm, sample, answer, **options):
        rank = ranks[answers.index(answer)]
        shares = np.ones((*rank.shape, 1), np.float32)
        named = tuple("x" for _ in answer)
        words = np.full(shares.shape, "x", dtype=object)
        flat = shares[..., 0]
        return Lens(lvlm.layer_ids, tuple(answer), named, words, shares, flat, rank, flat)

    monkeypatch.setattr("svl_core.analysis.lens.lens", made)
    curve = svl.decided_share(tiny, [tiny_sample] * 2, answers)
    assert curve.answers.tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
    assert curve.tokens == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert curve.count == 2


def test_every_own_answer_is_decided_in_the_end(tiny, tiny_sample):
    curve = svl.decided_share(tiny, [tiny_sample])
    assert curve.answers[-1] == curve.tokens[-1] == 1
    assert (np.diff(curve.answers) >= 0).all() and (curve.answers <= curve.tokens).all()


def test_it_says_what_is_wrong(tiny, tiny_sample, image):
    with pytest.raises(svl.InputError, match="Found an empty answer; expected at least one token"):
        svl.lens(tiny, tiny_sample, [])
    with pytest.raises(svl.InputError, match="Found 0 words a place; expected at least 1"):
        svl.lens(tiny, tiny_sample, [9], top=0)
    read = svl.trace(tiny, tiny.encode(image, "another question"), keep_prompt=True)
    with pytest.raises(svl.InputError, match="of this very sample; trace it anew"):
        svl.lens(tiny, tiny_sample, [9], traced=read)
    with pytest.raises(svl.InputError, match="Found no questions; expected at least one"):
        svl.decided_share(tiny, [])
    with pytest.raises(svl.InputError, match="Found 1 answers for 2 questions; expected one each"):
        svl.decided_share(tiny, [tiny_sample] * 2, [[9]])


def test_tokens_that_leave_within_the_layers_are_refused(tiny, tiny_sample):
    """By every reading of layers, for what a layer hands on has then no common length."""
    thinned = replace(tiny_sample, thinning=SimpleNamespace(inside=True))
    read = svl.trace(tiny, tiny_sample)
    traced = replace(read, samples=(replace(read.samples[0], sample=thinned),))
    for look in (
        lambda: svl.lens(tiny, thinned, [9]),
        lambda: svl.visual_lens(tiny, thinned),
        lambda: svl.word_attention(tiny, thinned, [9]),
        lambda: svl.relevance(tiny, thinned, [9]),
        lambda: svl.sublayers(tiny, traced),
    ):
        with pytest.raises(svl.InputError, match="leave within the layers; expected one that"):
            look()


def test_it_can_be_cancelled(tiny, tiny_sample):
    from threading import Event

    stop = Event()
    stop.set()
    with pytest.raises(svl.Cancelled):
        svl.lens(tiny, tiny_sample, [9], run=svl.Run(cancel=stop))


def test_it_prints_as_one_line(tiny, tiny_sample):
    found = svl.lens(tiny, tiny_sample, [9, 30])
    told = repr(found)
    assert told.startswith("Lens(layers=6, tokens=(") and len(told) <= 320
    assert "decided behind layer" in found._repr_html_()
    assert repr(svl.decided_share(tiny, [tiny_sample])).startswith("DecidedCurve(")
