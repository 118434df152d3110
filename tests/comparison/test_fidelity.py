"""Fidelity: KL by hand and against scipy, divergence on hand-made lists, a model against itself and
against another.
"""

import copy
import dataclasses
import math
import threading

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from svl_core.analysis.trace import trace
from svl_core.comparison.answer import answer
from svl_core.comparison.fidelity import compare, divergent_words, first_divergence
from svl_core.comparison.speed import possible
from svl_core.errors import Cancelled, InputError
from svl_core.lvlm.forcing import forced_logits, kl_per_token, token_losses
from svl_core.progress import Run
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune
from svl_core.pruning.view import pruned_view


def test_kl_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    by_hand = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(kl_per_token(p, q)) == pytest.approx(by_hand)


def test_kl_against_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 11))
    expected = [
        entropy(np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()) for x, y in zip(a, b)
    ]
    np.testing.assert_allclose(kl_per_token(torch.tensor(a), torch.tensor(b)), expected, rtol=1e-10)


def test_kl_with_an_impossible_token():
    p, q = torch.tensor([[0.0, -math.inf]]), torch.tensor([[0.0, 0.0]])
    assert float(kl_per_token(p, q)) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    "full, pruned, index",
    [
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 3], [1, 9, 3], 1),
        ([1, 2, 3], [1, 2], 2),
        ([1], [1, 2], 1),
        ([1], [2], 0),
        ([], [], None),
    ],
)
def test_first_divergence(full, pruned, index):
    assert first_divergence(full, pruned) == index


@pytest.mark.parametrize(
    "full, pruned, spans",
    [
        ("a cat in the left", "a cat in the left", None),
        ("a cat in the left", "a dog in the left", ((2, 5), (2, 5))),
        ("a red cat", "a redder cat", ((2, 5), (2, 8))),
        ("a cat sat", "a cat", ((6, 9), (5, 5))),
        ("", "yes", ((0, 0), (0, 3))),
        ("a  cat", "a cat", None),
    ],
)
def test_divergent_words(full, pruned, spans):
    assert divergent_words(full, pruned) == spans


def test_a_model_is_itself(tiny, tiny_sample):
    report = compare(tiny, tiny, tiny_sample, max_new_tokens=6)
    assert report.kl == 0 and report.agreement == 1 and report.exact
    assert report.first_divergence is None and report.first_divergent_word is None
    assert report.token_probabilities[0] == report.token_probabilities[1]
    assert report.parameters_full == report.parameters_pruned
    assert report.speed_prefill.measured > 0
    assert report.speed_prefill.expected == report.speed_decode.expected == 1


def test_forced_logits_equal_one_uncached_pass(tiny, tiny_sample):
    ids = [5, 9, 7, 11]
    inputs = dict(tiny_sample.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["attention_mask"] = torch.cat(
        [inputs["attention_mask"], torch.ones(1, 4, dtype=torch.long)], 1
    )
    with torch.no_grad():
        oracle = tiny.model(**inputs, use_cache=False).logits[0, tiny_sample.length - 1 : -1]
    torch.testing.assert_close(
        forced_logits(tiny, [tiny_sample], [ids])[0], oracle, atol=1e-5, rtol=1e-5
    )


def test_forcing_a_batch_equals_one_by_one(tiny, image):
    samples = [
        tiny.encode(image, p) for p in ("what", "what is in the picture ?", "a cat and a dog")
    ]
    answers = [[5, 9, 7, 11], [6], [8, 12]]
    together = forced_logits(tiny, samples, answers, batch_size=2)
    for found, sample, ids in zip(together, samples, answers):
        torch.testing.assert_close(
            found, forced_logits(tiny, [sample], [ids])[0], atol=1e-4, rtol=1e-4
        )
        assert len(found) == len(ids)


def test_token_losses_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert token_losses(logits, [0, 1]).tolist() == pytest.approx([math.log(2), math.log(4)])


def test_report_of_a_pruned_model_follows_its_definitions(tiny, tiny_sample):
    pruned = pruned_view(tiny, [0, 1, 4, 5])
    report = compare(tiny, pruned, tiny_sample, max_new_tokens=6)
    ids = report.full.token_ids
    a, b = (forced_logits(m, [tiny_sample], [ids])[0].double() for m in (tiny, pruned))
    expected = np.mean([entropy(x.softmax(-1), y.softmax(-1)) for x, y in zip(a, b)])
    assert report.kl == pytest.approx(expected, rel=1e-5) and report.kl > 0
    assert report.token_probabilities[1] == pytest.approx(
        [float(y.softmax(-1)[i]) for y, i in zip(b, ids)], rel=1e-4
    )
    assert report.parameters_pruned < report.parameters_full
    assert report.first_divergence == first_divergence(ids, report.pruned.token_ids)
    first, later = possible((tiny, tiny_sample), (pruned, tiny_sample))
    assert report.speed_prefill.expected == first.expected
    assert report.speed_decode.expected == later.expected
    assert report.to_json()["speedup"]["expected"]["decode"] == later.expected
    keys = {"full", "pruned", "kl", "agreement", "first_divergence", "parameters", "speedup"}
    assert keys <= set(report.to_json()) and {
        "text",
        "tokens",
        "ms_prefill",
        "ms_per_token",
    } <= set(report.to_json()["full"])


@pytest.mark.parametrize(
    "keep, compensation",
    [
        ([0, 1, 2, 5], "none"),
        ([0, 1, 4, 5], "scp"),
        ([1, 2, 3], "none"),
        (range(6), "none"),
        ([0, 1, 2, 3], "bridge"),
    ],
)
def test_sharing_the_beginning_changes_nothing_but_the_wait(tiny, tiny_sample, keep, compensation):
    traced = trace(tiny, tiny_sample)
    pruned = prune(tiny, manual_plan(sorted(set(range(6)) - set(keep)), 6), compensation, traced)
    shown = []
    report = compare(
        tiny,
        pruned,
        tiny_sample,
        max_new_tokens=6,
        show=lambda answers, live: shown.append((answers, live)),
    )
    assert [a.token_ids for a in (report.full, report.pruned)] == [
        answer(m, tiny_sample, max_new_tokens=6).token_ids for m in (tiny, pruned)
    ]
    assert (
        0 < report.full.shared_ms < report.pruned.shared_ms < report.pruned.prefill_ms
        and report.pruned.shared_ms < report.full.prefill_ms
    )  # the image, and for the pruned model the layers before the first change too
    logits = [forced_logits(m, [tiny_sample], [report.full.token_ids])[0] for m in (tiny, pruned)]
    assert report.kl == float(kl_per_token(*logits).mean())
    assert shown[-1] == ((report.full, report.pruned), ()) and len(shown[0][0][1].token_ids) == 1
    alone = compare(
        tiny,
        pruned.with_model(copy.deepcopy(pruned.model), pruned.layer_ids, pruned.provenance),
        tiny_sample,
        max_new_tokens=6,
    )  # another model's tensors: nothing to share
    assert (
        alone.pruned.shared_ms == alone.full.shared_ms  # the image alone
        and alone.pruned.token_ids == report.pruned.token_ids
        and alone.kl == report.kl
    )


def test_given_answers_are_not_made_again(tiny, tiny_sample):
    first = answer(tiny, tiny_sample, max_new_tokens=3)
    report = compare(tiny, tiny, tiny_sample, answers=(first, first))
    assert report.full is first


def test_cancel(tiny, tiny_sample):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        compare(tiny, tiny, tiny_sample, run=Run(cancel=cancel))
    stopped = dataclasses.replace(answer(tiny, tiny_sample, max_new_tokens=2), stopped="cancelled")
    with pytest.raises(Cancelled):
        compare(tiny, tiny, tiny_sample, answers=(stopped, stopped))


def test_nothing_to_force(tiny, tiny_sample):
    with pytest.raises(InputError, match="empty answer"):
        forced_logits(tiny, [tiny_sample], [[]])
