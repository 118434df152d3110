"""In every family: a prompt is read once and an image is seen once, and nothing is lost by it."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core
from svl_core.analysis.trace import trace, trace_behind
from svl_core.comparison.fidelity import compare, compare_known
from svl_core.comparison.pair import Known
from svl_core.lvlm.batching import collate
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.families import FAMILIES
from svl_core.lvlm.prefill import shared_depth
from svl_core.lvlm.vision import METHOD, forward, see, together
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune

PROMPTS = ("a cat", "what is in the top left of this picture ?")
WHOLE = ("qwen3.5", "gemma3n", "gemma4", "mllama")
"""Families whose caches cannot be shared, so that every pass is a whole one."""
SEES_AGAIN = ("mllama",)
"""Families whose image is seen in every pass: its features enter through cross-attention."""


@pytest.fixture
def sample(family):
    return family.encode(picture(120, 80), PROMPTS[1])


@pytest.fixture
def towers(monkeypatch):
    """How often a family's image features were made since it was first asked."""
    counts = {}

    def count_of(family):
        kind = type(family.model.model)
        if kind not in counts:
            counts[kind] = 0
            original = getattr(kind, METHOD, None)

            def counted(*args, **kwargs):
                counts[kind] += 1
                return original(*args, **kwargs)

            if original is not None:
                monkeypatch.setattr(kind, METHOD, counted)
        return counts[kind]

    return count_of


def droppable(family):
    return next(layer for layer in (3, 2, 1) if layer not in family.protected)


def same_trace(one, other):
    """Bit for bit, NaN where NaN is."""
    assert torch.equal(one.features, other.features)
    assert np.array_equal(one.logits_last, other.logits_last)
    for field in fields(one.attention):
        ours, theirs = getattr(one.attention, field.name), getattr(other.attention, field.name)
        assert np.array_equal(ours, theirs, equal_nan=True), field.name


@torch.inference_mode()
def test_a_seen_image_gives_the_logits_of_its_pixels(family, sample):
    plain = family.model(**sample.inputs).logits
    seen = see(family, sample)
    assert (seen.features is None) == (family.name in SEES_AGAIN)
    assert torch.equal(forward(family, seen.inputs, seen.features).logits, plain)
    if seen.features is not None:
        with pytest.raises(Exception):  # noqa: B017  whatever the tower says of one pixel
            family.model(**seen.inputs)


def test_an_image_is_seen_once_however_many_questions(family, sample, towers):
    known, before = {}, towers(family)
    first = see(family, sample, known)
    again = see(family, family.encode(picture(120, 80), PROMPTS[0]), known)
    other = see(family, family.encode(picture(120, 80, seed=1), PROMPTS[0]), known)
    if family.name in SEES_AGAIN:
        return
    assert first.features is again.features is not other.features
    assert towers(family) == before + 2


@torch.inference_mode()
def test_a_batch_of_seen_images_reads_as_one_of_pixels(family):
    samples = [
        family.encode(picture(120, 80, seed=number), prompt)
        for number, prompt in enumerate(PROMPTS)
    ]
    pad = family.tokenizer.pad_token_id or 0
    whole = Decoding(family, collate(samples, pad))
    seen = [see(family, sample) for sample in samples]
    batch = Decoding(family, collate(seen, pad), features=together(seen))
    # One image alone, or two together: matrix products of other shapes round otherwise.
    torch.testing.assert_close(batch.logits, whole.logits, rtol=1e-4, atol=1e-5)
    fed = torch.tensor([[5], [7]])
    torch.testing.assert_close(batch.feed(fed), whole.feed(fed), rtol=1e-4, atol=1e-5)


def test_the_pass_that_traces_leaves_a_whole_prefill(family, sample):
    plain = trace(family, sample).samples[0]
    read = trace(family, sample, keep_prompt=True).samples[0]
    same_trace(plain, read)
    assert (read.prompt is None) == (family.name in WHOLE)
    if read.prompt is None:
        return
    alone = Decoding(family, sample.inputs)
    for _ in range(2):  # the first that goes on leaves it as it was
        behind = Decoding.behind(family, read.prompt)
        assert torch.equal(behind.logits, alone.logits)
        ids = torch.tensor([[5, 9]])
        assert torch.equal(behind.feed(ids), Decoding(family, sample.inputs).feed(ids))


def test_a_pruned_model_is_traced_by_the_pass_of_its_answer(family, sample):
    full = trace(family, sample, keep_prompt=True)
    drop = droppable(family)
    pruned = prune(family, manual_plan([drop], 6))
    depth = shared_depth(family, pruned)
    if family.name in WHOLE:
        assert depth is None
        return
    whole = trace(pruned, sample).samples[0]
    shared, decoding = trace_behind(pruned, full.samples[0].sample, full, depth)
    same_trace(whole, shared.samples[0])
    alone = Decoding(pruned, sample.inputs)
    ids = torch.tensor([[5, 9]])
    assert torch.equal(decoding.logits, alone.logits)
    assert torch.equal(decoding.feed(ids), alone.feed(ids))


def test_what_is_known_changes_no_comparison(family, sample, towers):
    full = trace(family, sample, keep_prompt=True)
    seen = towers(family)
    read = full.samples[0].sample
    answer = None
    for drop in ([droppable(family)], []):
        pruned = prune(family, manual_plan(drop, 6))
        options = {"max_new_tokens": 5, "watched": bool(drop)}
        known = Known(full, answer)
        compared = compare_known(family, pruned, read, known=known, **options)
        if family.name not in SEES_AGAIN:
            assert towers(family) == seen, "the image was seen by the analysis"
        plain = compare(family, pruned, sample, max_new_tokens=5)
        seen = towers(family)
        assert compared.comparison.full.token_ids == plain.full.token_ids
        assert compared.comparison.pruned.token_ids == plain.pruned.token_ids
        assert compared.comparison.kl == plain.kl
        assert compared.comparison.token_probabilities == plain.token_probabilities
        assert (compared.pruned_trace is None) == (not drop or family.name in WHOLE)
        answer = compared.full_answer


def test_the_support_page_names_the_others():
    """The families that read anew are named, and no other."""
    page = Path(svl_core.__file__).parent / "SUPPORT.md"
    text = " ".join(page.read_text(encoding="utf-8").split())
    named = text.split("Not so in ")[1].split(", nor in")[0].replace(" and ", ", ").split(", ")
    assert named == [row.name for row in FAMILIES if row.shares == "never"]
    assert [name.lower() for name in named] == list(WHOLE)
    assert "in every family but Mllama" in text
