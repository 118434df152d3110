"""What the server keeps: by what it is found again, and how many bytes count for it."""

from dataclasses import replace

import numpy as np

import svl_core as svl
from svl_core.service.stores import MEMO_BYTES, Analysis, BoundedStore, nbytes


def test_a_sample_is_found_by_model_revision_picture_and_prompt(tiny, image):
    """Each of them alone makes another key; the same again makes the same."""
    other = image.copy()
    other.putpixel((5, 5), (1, 2, 3))
    keys = [
        lvlm.encode(picture, prompt).key
        for lvlm, picture, prompt in (
            (tiny, image, "what?"),
            (replace(tiny, name="other"), image, "what?"),
            (replace(tiny, revision="v2"), image, "what?"),
            (tiny, other, "what?"),
            (tiny, image, "what"),
            (tiny, None, "what?"),
        )
    ]
    assert len(set(keys)) == 6 and tiny.encode(image.copy(), "what?").key == keys[0]


def test_every_byte_counts(tiny, tiny_sample):
    """The trace with the inner products that it will keep, the pictures, the model's inputs, and
    what may be derived, against a sum by hand.
    """
    trace = svl.trace(tiny, tiny_sample, mlp=True, keep_prompt=True)
    kept = trace.samples[0]
    seen = kept.sample
    analysis = Analysis("tiny", (seen,), trace, svl.importance(trace))
    layers, length, visual, textual = (
        tiny.num_layers,
        tiny_sample.length,
        len(tiny_sample.visual),
        len(tiny_sample.textual),
    )
    numbers = (
        4 * (layers + 1) * length * tiny.hidden_size
        + 4 * layers * length * tiny.hidden_size
        + 8 * length * (layers + 1) ** 2
    )
    numbers += (
        2 * 4 * layers * (2 * visual + 3 * textual)
        + 2 * 4 * layers * visual  # what attention that is even would give
        + kept.logits_last.nbytes
        + 4 * layers * (visual + textual)
    )
    held = (
        tiny_sample.visual.nbytes
        + tiny_sample.textual.nbytes
        + tiny_sample.prompt_positions.nbytes
        + tiny_sample.geometry.rects.nbytes
        + tiny_sample.geometry.image_index.nbytes
    )
    held += 3 * 120 * 80 + sum(value.nbytes for value in seen.inputs.values())
    held += 4 * visual * tiny.hidden_size  # the image's features
    heads = tiny.text_config.num_key_value_heads * tiny.text_config.head_dim
    held += 4 * layers * 2 * length * heads + 4 * len(tiny.model.get_output_embeddings().weight)
    held += sum(
        {
            id(text): len(text)
            for text in (
                *seen.tokens,
                seen.prompt,
                seen.key,
                seen.image_key,
                seen.detail,
                analysis.detail,
                trace.model_name,
                analysis.importance.text_self,
            )
        }.values()
    )
    assert kept.products.nbytes == 8 * length * (layers + 1) ** 2
    assert analysis.nbytes == numbers + held + analysis.memo.size
    assert analysis.memo.size == max(MEMO_BYTES, nbytes(trace) // 8)
    assert nbytes((trace, trace)) == nbytes(trace)


def test_derived_results_count_in_the_bound(tiny, tiny_sample):
    trace = svl.trace(tiny, tiny_sample)
    analysis = Analysis("tiny", (tiny_sample,), trace, svl.importance(trace))
    for number in range(4):
        analysis.memoized(number, lambda: {"a": (np.zeros(MEMO_BYTES // 24), np.zeros(8))})
    assert [analysis.memo.get(number) is None for number in range(4)] == [True, True, False, False]
    store = BoundedStore(9, 2 * analysis.nbytes)
    for number in range(3):
        store.put(number, Analysis("tiny", (tiny_sample,), trace, analysis.importance))
    assert len(store) == 2 and store.get(0) is None
