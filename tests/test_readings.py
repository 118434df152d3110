"""The benchmark of the readings: its statistics on numbers worked out by hand, the questions, and
all of it once at small size, stopped and gone on with.
"""

import json

import numpy as np
import pytest
import readings

# Two seeds, four questions; the full model answers three of the scenes' and two of easy-VQA's.
FULL = {"scenes": [1, 1, 1, 0], "easy-vqa": [1, 0, 1, 0]}
SETS = {"3": [1, 2, 3], "5": [1, 2, 3, 4, 5], "8": [1, 2, 3, 4, 5, 6, 7, 8]}


def marks(*rows):
    return {name: np.array(rows, bool) for name in readings.DATA}


def made_by_hand():
    """Every ranking drops the same layers, and every model answers as the full one does."""
    full = {name: readings.packed(np.array(right, bool)) for name, right in FULL.items()}
    made = {"questions": 4, "seeds": 2, "scenes": 2, "prompts": 4, "weights": "0" * 64}
    made |= {"of_layers": 16, "layers": {name: [SETS, SETS] for name in readings.RANKINGS}}
    made["ends"] = {reading: {"first": 1.0, "last": 0.25} for reading in readings.TIS}
    names = [readings.FULL, *(model.key for model in readings.wanted(made))]
    return made | {"marks": dict.fromkeys(names, full)}


def test_marks_are_kept_bit_by_bit():
    right = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], bool)
    assert readings.packed(right) == "b180"
    np.testing.assert_array_equal(readings.unpacked("b180", 9), right)


def test_accuracy_kept_by_hand():
    """Scenes: 2 of 3 and 3 of 3 right answers kept; easy-VQA: 2 of 2 and 3 of 2."""
    made = made_by_hand()
    found = marks([1, 1, 0, 0], [1, 1, 1, 0])
    kept = readings.kept_of(made, found)
    np.testing.assert_allclose(kept, [(2 / 3 + 1) / 2, (1 + 3 / 2) / 2])


def test_a_difference_that_every_question_shares_has_no_width():
    made = made_by_hand()
    none, every = marks([0] * 4, [0] * 4), marks([1] * 4, [1] * 4)
    mean, low, high = readings.difference(made, every, none)
    expected = (1 / 0.75 + 1 / 0.5) / 2
    assert (mean, low, high) == pytest.approx((expected, expected, expected))


def test_a_difference_of_one_seed_alone_is_as_wide_as_its_draws():
    """One of two seeds gains everything: half of it on average, none or all in some draws."""
    made = made_by_hand()
    none, one = marks([0] * 4, [0] * 4), marks([1] * 4, [0] * 4)
    mean, low, high = readings.difference(made, one, none)
    whole = (1 / 0.75 + 1 / 0.5) / 2
    assert (mean, low, high) == pytest.approx((whole / 2, 0, whole))


def test_agreement_by_hand():
    assert readings.agreement([[1, 2], [1, 2]]) == 1
    assert readings.agreement([[1, 2], [2, 3], [4, 5]]) == pytest.approx((0.5 + 0 + 0) / 3)
    assert readings.agreement([[1, 2]]) == 1


def test_equal_layer_sets_are_one_model():
    """Three sets as they are; five and eight dropped, every reading of SCP on each of two seeds."""
    models = readings.wanted(made_by_hand())
    assert len(models) == 3 + 2 * 2 * len(readings.SCP)
    assert len({model.key for model in models}) == len(models)


def test_the_page_names_every_reading():
    table = readings.table(made_by_hand())
    for reading in (*readings.TIS, *readings.SCP, readings.ITERATED):
        assert reading in table
    assert "| received (default) | 100.0% | 25.0% |" in table
    assert (
        "| received (default) | 1, 2, 3 (2 of 2) | 1.00, 1.00 | 100.0% (100.0% to 100.0%) | 0 |"
        in (table)
    )


def test_the_first_readings_are_the_defaults():
    import svl_core as svl

    usual = svl.Recipe()
    for named in (readings.TIS, readings.SCP):
        first, *others = named.values()
        assert usual.changed(**first) == usual
        assert all(usual.changed(**other) != usual for other in others) and len(others) == 7


def test_no_two_questions_share_a_picture():
    for data in readings.DATA:
        pictures = [picture.tobytes() for picture, _, _ in readings.asked(data, 12)]
        assert len(set(pictures)) == 12


@pytest.mark.slow
def test_a_run_at_small_size_goes_on_where_it_stopped(tmp_path, monkeypatch):
    for name, value in {"SCENES": 2, "PROMPTS": 4, "GROUP": 40}.items():
        monkeypatch.setattr(readings, name, value)
    out = tmp_path / "readings.json"
    made = readings.measure(out, 4, 2)
    assert json.loads(out.read_text(encoding="utf-8")) == made
    assert readings.table(made).count("\n|") > 40
    assert made["ends"][readings.USUAL_TIS]["first"] == 1  # the sink

    stopped = json.loads(out.read_text(encoding="utf-8"))
    lost = [key for key in made["marks"] if key.endswith("|1")]
    for key in lost:
        del stopped["marks"][key]
    out.write_text(json.dumps(stopped), encoding="utf-8")
    asked, answer = [], readings.Asked.marks

    def counting(self, models):
        asked.append(len(models))
        return answer(self, models)

    monkeypatch.setattr(readings.Asked, "marks", counting)
    again = readings.measure(out, 4, 2)
    assert asked == [len(lost)] * len(readings.DATA) and again == made
