"""lmms-eval and `svl evaluate` on the same questions. lmms-eval itself runs where `SVL_LMMS_PYTHON`
names an interpreter that has it.
"""

import json
import os

import pytest
from test_documents import script

import svl_core as svl
from svl_core.demo.questions import labelled

match = script("lmms_match")
PYTHON = os.environ.get("SVL_LMMS_PYTHON")
SAMPLES = "\n".join(
    json.dumps({"doc_id": number, "filtered_resps": [answer]})
    for number, answer in ((1, "no"), (0, " yes "))
)


def test_answers_are_put_in_order_and_none_may_be_missing():
    assert match.read_samples(SAMPLES, 2) == ["yes", "no"]
    with pytest.raises(SystemExit, match="Found 2 answers of lmms-eval; expected 3"):
        match.read_samples(SAMPLES, 3)


def test_what_differs():
    assert match.differing(["a", "b", "c"], ["a", "x", "c"]) == [1]


def test_a_run_that_fails_with_exit_code_0_is_noticed(tmp_path):
    quiet = tmp_path / "python"
    quiet.write_text("#!/bin/sh\necho Error during evaluation >&2\nexit 0\n")
    quiet.chmod(0o755)
    with pytest.raises(SystemExit, match="no answers of lmms-eval; it said: Error during"):
        match.by_lmms(tmp_path, [], str(quiet))


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="lmms-eval 0.7.3 is not there (SVL_LMMS_PYTHON names it)")
def test_every_answer_is_the_same(tmp_path, capsys):
    lvlm = svl.load("demo")
    svl.prune(lvlm, svl.manual_plan([5, 9], 16)).save(tmp_path / "pruned")
    rows = []
    for number, question in enumerate(labelled(13, 5)):
        question.image.save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "question": question.question, "answer": question.answer}
        rows.append(json.dumps(row))
    (tmp_path / "asked.jsonl").write_text("\n".join(rows))
    match.main([str(tmp_path / "pruned"), str(tmp_path / "asked.jsonl"), "--python", PYTHON])
    assert "13 questions, 0 answered differently" in capsys.readouterr().out
