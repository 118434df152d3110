"""Evaluation: batched against one by one, marks, Wilson against scipy, pairing by hand, the JSON
Lines reader.
"""

import json
import threading

import pytest
from scipy.stats import binomtest

from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import (
    Evaluation,
    PairedEvaluation,
    Question,
    answer_batch,
    evaluate,
    normalise,
    read_jsonl,
    wilson,
)
from svl_core.errors import Cancelled, InputError
from svl_core.progress import Run

PROMPTS = [
    "what",
    "what is in the picture",
    "a cat and a dog and a cat and a dog",
    "is the dog a cat",
]


def test_left_padded_batch_equals_one_by_one(tiny, image):
    samples = [tiny.encode(image, prompt) for prompt in PROMPTS]
    assert len({s.length for s in samples}) > 1
    together = answer_batch(tiny, samples, max_new_tokens=10)
    assert together == [answer(tiny, s, max_new_tokens=10).token_ids for s in samples]


def test_rows_end_on_their_own_end_token(tiny, image, monkeypatch):
    samples = [tiny.encode(image, prompt) for prompt in PROMPTS]
    monkeypatch.setattr(type(tiny), "eos_token_ids", property(lambda self: ()))
    free = answer_batch(tiny, samples, max_new_tokens=10)
    ends = (free[0][4], free[1][2])
    monkeypatch.setattr(type(tiny), "eos_token_ids", property(lambda self: ends))
    together = answer_batch(tiny, samples, max_new_tokens=10)
    assert together == [answer(tiny, s, max_new_tokens=10).token_ids for s in samples]
    assert min(map(len, together)) < 10


def test_evaluate_marks_by_kind_in_the_questions_order(tiny, image):
    right = [answer(tiny, tiny.encode(image, p), max_new_tokens=4).text for p in PROMPTS]
    questions = [Question(image, p, a, k) for p, a, k in zip(PROMPTS, right, "abab")]
    questions[1] = Question(image, PROMPTS[1], "surely not this", "b")
    seen = []
    result = evaluate(
        tiny,
        questions,
        data="mine",
        batch_size=3,
        max_new_tokens=4,
        run=Run(lambda f, what: seen.append(f)),
    )
    assert result.answers == tuple(right)
    assert result.correct == (True, False, True, True) and result.n == 4 and result.accuracy == 0.75
    assert result.by_kind["a"].accuracy == 1 and result.by_kind["b"].accuracy == 0.5
    assert seen == sorted(seen) and seen[-1] == 1
    out = json.loads(json.dumps(result.to_json()))
    assert out["data"] == "mine" and out["by_kind"]["b"] == {
        "n": 2,
        "correct": 1,
        "accuracy": 0.5,
        "interval": list(wilson(1, 2)),
    }


def test_evaluate_refuses_nothing_and_can_be_cancelled(tiny, image):
    with pytest.raises(InputError, match="no questions"):
        evaluate(tiny, [])
    with pytest.raises(InputError, match="batch size of 0"):
        evaluate(tiny, [Question(image, "what", "a")], batch_size=0)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        evaluate(tiny, [Question(image, "what", "a")], run=Run(cancel=cancel))


@pytest.mark.parametrize("text", ["Two cats.", " two  cats ", "TWO\ncats .", "two cats"])
def test_normalise(text):
    assert normalise(text) == "two cats"


def test_normalise_keeps_what_matters():
    assert normalise("a.b") == "a.b" and normalise("two, cats") != normalise("two cats")


@pytest.mark.parametrize("correct, n", [(0, 5), (5, 5), (1, 2), (37, 40), (1900, 2000)])
def test_wilson_against_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def marks(*correct, data="d"):
    return Evaluation(data, ("",) * len(correct), tuple(map(bool, correct)), ("k",) * len(correct))


def test_pairing_by_hand():
    pair = PairedEvaluation(marks(1, 1, 1, 1, 0), marks(1, 1, 0, 0, 1))
    assert (pair.lost, pair.gained) == (2, 1) and pair.accuracy_kept == pytest.approx(3 / 4)
    low, high = pair.interval  # exp(ln 0.75 -+ 1.96 * sqrt(3 / 12))
    assert (low, high) == pytest.approx((0.75 * 0.375318, 0.75 / 0.375318), rel=1e-5)
    out = pair.to_json()
    assert (
        out["accuracy"] == 0.6
        and out["full"]["accuracy"] == 0.8
        and out["by_kind"]["k"]["accuracy_kept"] == pytest.approx(0.75)
    )


def test_pairing_without_any_right_answer():
    pair = PairedEvaluation(marks(0, 0), marks(1, 0))
    assert pair.accuracy_kept is None and pair.interval is None
    with pytest.raises(ValueError, match="same questions"):
        PairedEvaluation(marks(1), marks(1, 1))


@pytest.fixture
def folder(tmp_path, image):
    image.save(tmp_path / "a.png")
    return tmp_path


def write(folder, *lines):
    path = folder / "q.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines),
        encoding="utf-8",
    )
    return path


def test_read_jsonl(folder):
    path = write(
        folder,
        {"image": "a.png", "question": "what?", "answer": "a cat", "kind": "x"},
        "",
        {"image": "a.png", "question": "h\u2028m?", "answer": "é"},
    )
    one, two = read_jsonl(path)
    assert (one.question, one.answer, one.kind) == (
        "what?",
        "a cat",
        "x",
    ) and one.image == folder / "a.png"
    assert (two.answer, two.kind) == ("é", "")


@pytest.mark.parametrize(
    "line, says",
    [
        ("{oops", "no valid JSON in line 2"),
        ("[1]", "a list in line 2"),
        ({"image": "a.png", "question": "what?"}, 'under "answer" in line 2'),
        ({"image": "a.png", "question": " ", "answer": "x"}, 'under "question" in line 2'),
        ({"image": 3, "question": "q", "answer": "x"}, 'under "image" in line 2'),
        ({"image": "b.png", "question": "q", "answer": "x"}, "b.png for line 2"),
    ],
)
def test_read_jsonl_names_the_line(folder, line, says):
    path = write(folder, {"image": "a.png", "question": "what?", "answer": "a cat"}, line)
    with pytest.raises(InputError, match=says):
        list(read_jsonl(path))


def test_read_jsonl_without_a_file(tmp_path):
    with pytest.raises(InputError, match="no file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "bad.jsonl"))
