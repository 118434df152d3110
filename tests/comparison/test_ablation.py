"""The ablation map: an identity layer changes nothing, rows equal `compare` on the pruned view,
tables and refusals.
"""

import copy
import json
import threading

import numpy as np
import pytest
import torch
from tiny import picture

from svl_core.comparison.ablation import (
    AblationMap,
    ablate,
    ablate_questions,
    blocks,
    stored_map,
)
from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import Question
from svl_core.comparison.fidelity import compare
from svl_core.errors import Cancelled, InputError
from svl_core.files import weights_hash
from svl_core.progress import Run
from svl_core.pruning.view import pruned_view

PROMPTS = ["what is in the top left ?", "a cat", "how many apples are there"]


@pytest.fixture(scope="module")
def idle(tiny):
    """The tiny model with layer 3 an exact identity: it adds nothing to the residual stream."""
    model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        layer = model.get_decoder().layers[3]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return tiny.with_model(model, tiny.layer_ids, {})


@pytest.fixture(scope="module")
def chart(idle, image):
    return ablate(
        idle, [idle.encode(image, p) for p in PROMPTS], sizes=(1, 2), max_new_tokens=6, batch_size=2
    )


def test_blocks():
    assert blocks(4, (1, 3)) == [(0,), (1,), (2,), (3,), (0, 1, 2), (1, 2, 3)]
    assert blocks(3, (1, 2), protected=(2,)) == [(0,), (1,), (0, 1)]
    assert blocks(2, (2, 3)) == []
    assert len(blocks(16)) == 16 + 15 + 14 + 13


def test_an_identity_layer_is_good_for_nothing(chart):
    rows = {row.layers: row for row in chart.rows}
    assert rows[(3,)].kl.max() < 1e-9 and rows[(3,)].exact.all()
    np.testing.assert_allclose(rows[(3,)].loss, chart.full.loss, atol=1e-5)
    assert all(rows[(i,)].kl.min() > 1e-3 for i in (0, 1, 2, 4, 5))
    np.testing.assert_allclose(rows[(2, 3)].kl, rows[(2,)].kl, rtol=1e-4)


def test_rows_equal_compare_on_the_pruned_view(idle, image, chart):
    row = next(row for row in chart.rows if row.layers == (1, 2))
    pruned = pruned_view(idle, [0, 3, 4, 5])
    for i, prompt in enumerate(PROMPTS):
        report = compare(idle, pruned, idle.encode(image, prompt), max_new_tokens=6)
        assert row.kl[i] == pytest.approx(report.kl, rel=1e-3)
        assert (
            row.agreement[i] == pytest.approx(report.agreement)
            and bool(row.exact[i]) == report.exact
        )
        assert row.losses[i] == pytest.approx(-np.log(report.token_probabilities[1]), rel=1e-3)
        assert chart.answers[i] == report.full.text


def test_the_full_model_is_the_reference(chart):
    assert chart.full.layers == () and chart.full.kl.max() == 0 and chart.full.exact.all()


def test_tables(chart):
    table = chart.matrix("kl", 2)
    assert table.shape == (5, 1) and table[1, 0] == pytest.approx(
        next(r for r in chart.rows if r.layers == (1, 2)).kl.mean()
    )
    tokens = chart.token_matrix(0)
    assert tokens.shape == (6, len(chart.tokens[0])) and np.abs(tokens[3]).max() < 1e-4
    with pytest.raises(InputError, match="unlabelled"):
        chart.matrix("accuracy")
    out = json.loads(json.dumps(chart.to_json()))
    assert (
        len(out["rows"]) == 6 + 5
        and out["rows"][0]["layers"] == [0]
        and len(out["rows"][0]["token_losses"]) == 3
    )


def test_labelled_questions_are_marked_by_kind(idle, image):
    right = [answer(idle, idle.encode(image, p), max_new_tokens=6).text for p in PROMPTS]
    questions = [
        Question(image, PROMPTS[0], right[0], "a"),
        Question(image, PROMPTS[1], "wrong", "a"),
        Question(image, PROMPTS[2], right[2], "b"),
    ]
    chart = ablate_questions(idle, questions, sizes=(1,), max_new_tokens=6, data="mine")
    assert chart.columns == ("a", "b") and chart.right == (True, False, True)
    assert (
        chart.matrix("accuracy")[3].tolist() == [0.5, 1.0]
        and chart.tally(chart.full, "a").correct == 1
    )
    row = chart.to_json()["rows"][3]
    assert (
        row["accuracy"] == pytest.approx(2 / 3)
        and row["by_kind"]["b"]["n"] == 1
        and "token_losses" not in row
    )


def test_progress_cancel_and_refusals(tiny, tiny_sample):
    seen = []
    ablate(
        tiny,
        [tiny_sample],
        sizes=(5,),
        max_new_tokens=2,
        run=Run(lambda fraction, what: seen.append(fraction)),
    )
    assert seen == sorted(seen) and seen[-1] == 1
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        ablate(tiny, [tiny_sample], run=Run(cancel=cancel))
    with pytest.raises(InputError, match="no samples"):
        ablate(tiny, [])
    with pytest.raises(InputError, match="block sizes"):
        ablate(tiny, [tiny_sample], sizes=(6,))
    with pytest.raises(InputError, match="block sizes"):
        ablate(tiny, [tiny_sample], sizes=(0, 1))


def test_the_map_holds_what_is_lost(tiny, tmp_path):
    """Against the rows themselves, and the same after being written and read."""
    questions = [
        Question(picture(seed=k), "what ?", answer, kind)
        for k, (answer, kind) in enumerate([("x", "a"), ("y", "b"), ("z", "a")])
    ]
    found = ablate_questions(tiny, questions, sizes=(1, 2), max_new_tokens=3)
    object.__setattr__(found, "right", (True, True, False))
    made = found.map()
    row = next(r for r in found.rows if r.layers == (2, 3))
    lost = {"a": (1 - float(row.exact[0])) / 2, "b": 1 - float(row.exact[1])}
    assert made.columns["accuracy"] == ("a", "b") and made.of("accuracy", 2)[2] == pytest.approx(
        [lost["a"], lost["b"]]
    )
    assert made.of("kl", 2)[2] == pytest.approx([row.kl[[0, 2]].mean(), row.kl[1]]) and made.of(
        "agreement", 2
    )[2, 1] == pytest.approx(1 - row.agreement[1])
    again = AblationMap.from_json(json.loads(json.dumps(made.to_json())))
    assert again.blocks == made.blocks and np.allclose(
        again.of("kl", 1), made.of("kl", 1), atol=1e-5
    )
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "ablation.json").write_text(
        json.dumps({"weights": weights_hash(tmp_path), **made.to_json()})
    )
    assert stored_map(tmp_path).n == 3
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert stored_map(tmp_path) is None


def test_any_of_several_answers_counts_as_right(tiny, image):
    """As in an evaluation of the same questions."""
    own = answer(tiny, tiny.encode(image, PROMPTS[0]), max_new_tokens=3).text
    several = Question(image, PROMPTS[0], "other", answers=("other", own))
    alone = Question(image, PROMPTS[0], "other")
    chart = ablate_questions(tiny, [several, alone], sizes=(1,), max_new_tokens=3)
    assert chart.right == (True, False)
