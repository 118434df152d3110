"""Greedy answers: the decode loop against `generate()` and against uncached passes, ends, cancel,
detokenisation, times.
"""

import threading
from types import SimpleNamespace

import pytest
import torch

from svl_core.comparison.answer import Detokeniser, answer, stream
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding, greedy, image_token_ids
from svl_core.progress import Run


@pytest.fixture
def never_ends(monkeypatch, tiny):
    monkeypatch.setattr(type(tiny), "eos_token_ids", property(lambda self: ()))


def ends_on(monkeypatch, tiny, *ids):
    monkeypatch.setattr(type(tiny), "eos_token_ids", property(lambda self: ids))


def uncached_greedy(lvlm, sample, n):
    """Oracle: a whole forward pass for every token."""
    inputs, ids = dict(sample.inputs), []
    with torch.no_grad():
        for _ in range(n):
            ids.append(
                int(
                    greedy(
                        lvlm.model(**inputs, use_cache=False).logits[0, -1], image_token_ids(lvlm)
                    )
                )
            )
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[ids[-1]]])], 1)
            inputs["attention_mask"] = torch.cat(
                [inputs["attention_mask"], torch.ones(1, 1, dtype=torch.long)], 1
            )
    return tuple(ids)


def test_cached_equals_uncached(tiny, tiny_sample, never_ends):
    assert answer(tiny, tiny_sample, max_new_tokens=12).token_ids == uncached_greedy(
        tiny, tiny_sample, 12
    )


def test_equals_generate(tiny, tiny_sample, never_ends):
    with torch.no_grad():
        out = tiny.model.generate(
            **tiny_sample.inputs,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=list(image_token_ids(tiny)),
        )
    assert answer(tiny, tiny_sample, max_new_tokens=12).token_ids == tuple(
        out[0, tiny_sample.length :].tolist()
    )


def test_stream_grows_a_token_at_a_time_and_ends_complete(tiny, tiny_sample, never_ends):
    steps = list(stream(tiny, tiny_sample, max_new_tokens=5))
    assert [len(s.token_ids) for s in steps] == [1, 2, 3, 4, 5]
    assert [s.stopped for s in steps] == [None] * 4 + ["length"]
    assert all(steps[-1].token_ids[: len(s.token_ids)] == s.token_ids for s in steps)
    assert all("".join(s.tokens) == s.text for s in steps)


def test_does_not_leave_grad_mode_changed_between_steps(tiny, tiny_sample, never_ends):
    for _ in stream(tiny, tiny_sample, max_new_tokens=2):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("more", [(), (10_000, 10_001)])
def test_ends_on_any_end_token(tiny, tiny_sample, monkeypatch, more):
    free = uncached_greedy(tiny, tiny_sample, 8)
    at = next(i for i in range(1, 8) if free[i] not in free[:i])
    ends_on(monkeypatch, tiny, *more, free[at])
    last = answer(tiny, tiny_sample, max_new_tokens=8)
    assert last.stopped == "eos" and last.token_ids == free[: at + 1]


def test_context_limit_ends_the_answer(tiny, tiny_sample, monkeypatch, never_ends):
    monkeypatch.setattr(type(tiny), "max_positions", property(lambda self: tiny_sample.length + 3))
    last = answer(tiny, tiny_sample, max_new_tokens=50)
    assert len(last.token_ids) == 3 and last.stopped == "length"
    monkeypatch.setattr(type(tiny), "max_positions", property(lambda self: tiny_sample.length))
    with pytest.raises(InputError, match="shorten the prompt"):
        answer(tiny, tiny_sample)


def test_refuses_an_empty_length(tiny, tiny_sample):
    with pytest.raises(InputError, match="at least 1"):
        answer(tiny, tiny_sample, max_new_tokens=0)


def test_cancel_stops_within_one_token(tiny, tiny_sample, never_ends):
    cancel = threading.Event()
    lengths = []
    for step in stream(tiny, tiny_sample, max_new_tokens=50, run=Run(cancel=cancel)):
        lengths.append(len(step.token_ids))
        if lengths[-1] == 3:
            cancel.set()
    assert step.stopped == "cancelled" and lengths == [1, 2, 3, 3]


def test_cancelled_before_it_starts(tiny, tiny_sample):
    cancel = threading.Event()
    cancel.set()
    (only,) = stream(tiny, tiny_sample, run=Run(cancel=cancel))
    assert (
        only.stopped == "cancelled"
        and only.text == ""
        and only.token_ids == ()
        and only.total_ms == 0
    )


def test_times_add_up(tiny, tiny_sample, never_ends):
    last = answer(tiny, tiny_sample, max_new_tokens=4)
    assert last.prefill_ms > 0 and last.per_token_ms > 0
    assert last.total_ms == pytest.approx(last.prefill_ms + sum(last.token_ms))
    assert len(last.token_ms) == 3 and last.per_token_ms == sorted(last.token_ms)[1]
    assert answer(tiny, tiny_sample, max_new_tokens=1).per_token_ms is None and last.shared_ms == 0


def test_feeding_a_chunk_equals_feeding_one_by_one(tiny, tiny_sample):
    ids = torch.tensor([[5, 9, 7, 11]])
    chunk = Decoding(tiny, tiny_sample.inputs).feed(ids)
    one = Decoding(tiny, tiny_sample.inputs)
    rows = torch.cat([one.feed(ids[:, i : i + 1]) for i in range(4)], dim=1)
    torch.testing.assert_close(chunk, rows, atol=1e-5, rtol=1e-5)


def test_greedy_leaves_out_image_tokens():
    assert greedy(torch.tensor([0.0, 3.0, 2.0]), (1, 99)).item() == 2


BYTES = SimpleNamespace(
    decode=lambda ids, skip_special_tokens: bytes(i for i in ids if i < 256).decode(
        "utf-8", errors="replace"
    )
)


def test_characters_of_several_tokens_appear_whole():
    detokeniser, seen = Detokeniser(BYTES), []
    for byte in "aé🐈b".encode():
        detokeniser.push(byte)
        seen.append(detokeniser.read(final=False))
    assert [text for text, _ in seen] == ["a", "a", "aé", "aé", "aé", "aé", "aé🐈", "aé🐈b"]
    assert seen[-1][1] == ("a", "", "é", "", "", "", "🐈", "b")


def test_bytes_that_never_become_a_character_come_out_at_the_end():
    detokeniser = Detokeniser(BYTES)
    for byte in b"a\xf0\x9f":
        detokeniser.push(byte)
    assert detokeniser.read(final=False)[0] == "a"
    text, pieces = detokeniser.read(final=True)
    assert text == "a\ufffd" and "".join(pieces) == text and len(pieces) == 3


def test_special_tokens_have_empty_pieces():
    detokeniser = Detokeniser(BYTES)
    for token in (104, 105, 999):
        detokeniser.push(token)
    assert detokeniser.read(final=True) == ("hi", ("h", "i", ""))


def test_a_tokenizer_that_takes_back_a_space():
    texts = {1: "left", 2: "left ", 3: "left, right"}
    detokeniser = Detokeniser(
        SimpleNamespace(decode=lambda ids, skip_special_tokens: texts[len(ids)])
    )
    for token in range(3):
        detokeniser.push(token)
    text, pieces = detokeniser.read(final=True)
    assert "".join(pieces) == text == "left, right" and len(pieces) == 3
