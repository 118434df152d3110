"""Visual-token pruning: keeping all is the sample itself, what leaves is as good as masked,
positions stay, refusals.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import picture

from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import Question, answer_batch, evaluate
from svl_core.comparison.fidelity import compare
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding
from svl_core.pruning.tokens import keep_visual, visual_scores
from svl_core.pruning.view import pruned_view


@pytest.fixture(scope="module")
def scores(tiny, tiny_sample):
    return np.random.default_rng(0).random(len(tiny_sample.visual))


def test_keeping_all_is_the_sample_itself(tiny, tiny_sample, scores):
    assert keep_visual(tiny, tiny_sample, 1.0, scores) is tiny_sample


def test_tokens_that_left_are_as_good_as_masked(tiny, tiny_sample, scores):
    """Against the whole sequence with the same tokens hidden from attention: rotary positions and
    all others unchanged.
    """
    kept = keep_visual(tiny, tiny_sample, 0.25, scores)
    assert len(kept.visual) == 9 and kept.length == tiny_sample.length - 27
    hidden = tiny_sample.visual[np.argsort(-scores)[9:]]
    seen = torch.tril(torch.ones(tiny_sample.length, tiny_sample.length, dtype=torch.bool))
    seen[:, hidden] = False
    seen[hidden, hidden] = True  # a row must see something
    mask = torch.where(seen, 0.0, -1e9)[None, None]
    with torch.inference_mode():
        masked = tiny.model(
            **{**tiny_sample.inputs, "attention_mask": mask}, use_cache=False
        ).logits[0, -1]
    assert torch.allclose(Decoding(tiny, kept.inputs).logits[0], masked, atol=1e-5)


def test_answers_go_on_from_the_last_position(tiny, tiny_sample, scores):
    """Token by token on the cache equals one pass over all with the positions written out."""
    kept = keep_visual(tiny, tiny_sample, 0.5, scores)
    decoding = Decoding(tiny, kept.inputs)
    ids = torch.tensor([[7, 9, 11]])
    cached = torch.cat([decoding.feed(ids[:, k : k + 1]) for k in range(3)], dim=1)
    with torch.inference_mode():
        embeds = torch.cat(
            [kept.inputs["inputs_embeds"], tiny.model.get_input_embeddings()(ids)], dim=1
        )
        places = torch.cat(
            [kept.inputs["position_ids"], tiny_sample.length + torch.arange(3)[None]], dim=1
        )
        whole = tiny.model(
            inputs_embeds=embeds,
            position_ids=places,
            attention_mask=torch.ones(1, embeds.shape[1]),
            use_cache=False,
        ).logits[:, -3:]
    assert torch.allclose(cached, whole, atol=1e-5)


def test_batches_and_pruned_layers(tiny, scores):
    samples = [
        keep_visual(tiny, tiny.encode(picture(), prompt), 0.3, scores)
        for prompt in ("what", "a cat and a dog sit", "is the dog a cat")
    ]
    pruned = pruned_view(tiny, [0, 1, 3, 5])
    assert answer_batch(pruned, samples, max_new_tokens=6) == [
        answer(pruned, sample, max_new_tokens=6).token_ids for sample in samples
    ]


def test_the_sample_tells_what_is_left(tiny, tiny_sample, scores):
    kept = keep_visual(tiny, tiny_sample, 0.5, scores)
    best = np.sort(np.argsort(-scores)[:18])
    assert (
        np.array_equal(kept.geometry.rects, tiny_sample.geometry.rects[best])
        and kept.key != tiny_sample.key
    )
    assert [kept.tokens[i] for i in kept.prompt_positions] == [
        tiny_sample.tokens[i] for i in tiny_sample.prompt_positions
    ]
    assert np.array_equal(
        kept.inputs["position_ids"][0, kept.visual.tolist()].numpy(), tiny_sample.visual[best]
    )


def test_scores_are_the_importance(tiny, tiny_sample):
    own = visual_scores(tiny, tiny_sample)
    assert own.shape == tiny_sample.visual.shape and np.array_equal(
        keep_visual(tiny, tiny_sample, 0.2).visual, keep_visual(tiny, tiny_sample, 0.2, own).visual
    )


def test_evaluation_and_comparison_take_it(tiny, tiny_sample, image, scores):
    def prepare(sample):
        return keep_visual(tiny, sample, 0.1, scores)

    kept = prepare(tiny_sample)
    text = answer(tiny, kept, max_new_tokens=4).text
    found = evaluate(
        tiny,
        [Question(image, "what is in the top left ?", text)],
        max_new_tokens=4,
        prepare=prepare,
    )
    assert found.answers == (text,)
    report = compare(tiny, tiny, tiny_sample, max_new_tokens=4, pruned_sample=kept)
    assert (
        report.pruned.text == text
        and report.full.text == answer(tiny, tiny_sample, max_new_tokens=4).text
        and report.kl > 0
    )


def test_refusals(tiny, tiny_sample, scores):
    for share in (0, 1.5, -1):
        with pytest.raises(InputError, match="share of"):
            keep_visual(tiny, tiny_sample, share, scores)
    with pytest.raises(InputError, match="3 scores for 36"):
        keep_visual(tiny, tiny_sample, 0.5, scores[:3])
    other = dataclasses.replace(
        tiny_sample, inputs={**tiny_sample.inputs, "image_grid_thw": torch.ones(1, 3)}
    )
    with pytest.raises(InputError, match="LLaVA family"):
        keep_visual(tiny, other, 0.5, scores)
