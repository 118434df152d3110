"""Our decode loop in every family: equal to `generate()`, batched with left padding, and scored by
teacher forcing.
"""

import pytest
import torch
from tiny import picture

from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import answer_batch
from svl_core.lvlm.batching import collate
from svl_core.lvlm.decoding import Decoding, image_token_ids
from svl_core.lvlm.forcing import forced_logits
from svl_core.lvlm.prefill import shared_depth
from svl_core.pruning.view import pruned_view

PROMPTS = ["a cat", "what is in the top left of this picture ?", "how many apples are there"]


@pytest.fixture
def endless(family, monkeypatch):
    monkeypatch.setattr(type(family), "eos_token_ids", property(lambda self: ()))
    return family


def generated(lvlm, sample, n):
    with torch.no_grad():
        out = lvlm.model.generate(
            **sample.inputs,
            max_new_tokens=n,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=list(image_token_ids(lvlm)),
        )
    return tuple(out[0, sample.length :].tolist())


def test_answer_equals_generate(endless):
    for prompt in PROMPTS:
        sample = endless.encode(picture(120, 80), prompt)
        assert answer(endless, sample, max_new_tokens=8).token_ids == generated(endless, sample, 8)


def test_batch_equals_one_by_one(endless):
    samples = [endless.encode(picture(120, 80, seed=i), prompt) for i, prompt in enumerate(PROMPTS)]
    assert answer_batch(endless, samples, max_new_tokens=6) == [
        answer(endless, s, max_new_tokens=6).token_ids for s in samples
    ]


def test_forcing_the_answer_reproduces_it(endless):
    sample = endless.encode(picture(120, 80), PROMPTS[1])
    ids = answer(endless, sample, max_new_tokens=6).token_ids
    logits = forced_logits(endless, [sample], [ids])[0].clone()
    logits[:, list(image_token_ids(endless))] = float("-inf")
    assert tuple(logits.argmax(-1).tolist()) == ids


def test_a_pass_begun_by_the_full_model_ends_as_a_whole_one(family):
    """Bit for bit, with left padding, at once and after more tokens; families that cannot begin so
    say so.
    """
    dropped = next(layer for layer in (3, 2, 1) if layer not in family.protected)
    pruned = pruned_view(family, [layer for layer in range(6) if layer != dropped])
    depth = shared_depth(family, pruned)
    assert depth == (None if family.name in ("qwen3.5", "gemma3n", "gemma4", "mllama") else 3)
    if depth is None:
        return
    inputs = collate(
        [family.encode(picture(120, 80), prompt) for prompt in PROMPTS[:2]],
        family.tokenizer.pad_token_id,
    )
    full, alone = Decoding(family, inputs, keep=[depth]), Decoding(pruned, inputs)
    prefill = full.prefill
    for _ in range(2):  # the first that begins there leaves it as it was
        shared = Decoding(pruned, inputs, resume=(prefill, depth))
        assert (
            torch.equal(shared.logits, alone.logits)
            and 0 < shared.shared_ms == prefill.entered_ms[depth]
        )
        ids = torch.tensor([[5, 9], [7, 11]])
        whole, more, fed = Decoding(pruned, inputs), torch.tensor([[3], [2]]), full.fork()
        fed.feed(ids, keep=[depth])
        predicted, go_on = whole.feed(ids), shared.fork()
        assert torch.equal(shared.fork().feed(ids), predicted) and torch.equal(
            shared.logits, alone.logits
        )
        assert torch.equal(go_on.feed(ids, resume=(fed.prefill, depth)), predicted) and torch.equal(
            go_on.feed(more), whole.feed(more)
        )  # the answer's pass begins there too
