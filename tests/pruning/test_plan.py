"""Drop plans: nesting, ranges, runs and the round trip through JSON."""

import json

import numpy as np
import pytest

from svl_core.analysis.redundancy import LayerScores
from svl_core.errors import InputError
from svl_core.pruning.plan import DropPlan, manual_plan, plan

SCORES = LayerScores("svl", np.array([0.1, 0.9, 0.8, 0.2, 0.95, 0.3]), (4, 1, 2, 3), (0, 5))


def test_plans_of_one_ranking_are_nested():
    plans = [plan(SCORES, n) for n in range(5)]
    assert [p.drop for p in plans] == [(), (4,), (1, 4), (1, 2, 4), (1, 2, 3, 4)]
    assert (
        plans[3].runs == ((1, 2), (4, 4))
        and plans[3].keep == (0, 3, 5)
        and plans[3].criterion == "svl"
    )


@pytest.mark.parametrize("n", [-1, 5])
def test_a_count_out_of_range_is_refused_in_one_sentence(n):
    with pytest.raises(InputError, match=f"Found {n} layers to drop; expected 0 to 4"):
        plan(SCORES, n)


def test_layers_without_a_score_are_not_dropped():
    """A criterion on visual tokens says nothing about samples without an image."""
    empty = LayerScores("svl-visual", np.full(6, np.nan), (4, 3, 2, 1), (0, 5))
    assert plan(empty, 0).drop == ()
    with pytest.raises(InputError, match="no scores of the criterion 'svl-visual'"):
        plan(empty, 1)


def test_manual_plans():
    assert manual_plan([3, 1], 6, (0, 5)).drop == (1, 3)
    for layers, words in (
        ([0, 1], "protected"),
        ([1, 1], "different"),
        ([7], "0 to 5"),
        (range(6), "at least one"),
    ):
        with pytest.raises(InputError, match=words):
            manual_plan(list(layers), 6, (0,) if words == "protected" else ())


def test_json_round_trip():
    one = plan(SCORES, 3)
    assert DropPlan.from_json(json.loads(json.dumps(one.to_json()))) == one
    with pytest.raises(InputError, match="'drop' and 'num_layers'"):
        DropPlan.from_json({"drop": [1]})


def test_a_plan_may_skip_halves_of_layers_that_stay():
    one = manual_plan([3], 6, (0, 5), attention=[2, 1], mlp=[0, 2])
    assert one.drop == (2, 3) and one.attention == (1,) and one.mlp == (0,)
    assert one.keep == (0, 1, 4, 5) and one.halves == 6 and one.changes
    assert one.skipped == {"attention": (1,), "mlp": (0,)} and "mlp" in repr(one)
    assert one.key == ((2, 3), (1,), (0,)) != manual_plan([2, 3], 6).key
    written = json.loads(json.dumps(one.to_json()))
    assert written["attention"] == [1] and DropPlan.from_json(written) == one
    whole = manual_plan([3], 6)
    assert whole.skipped == {} and "attention" not in whole.to_json() and whole.halves == 2
    assert not manual_plan([], 6).changes


@pytest.mark.parametrize(
    "choice, sentence",
    [
        ({"attention": [5]}, r"Found the protected layers \[5\] among those to drop"),
        ({"mlp": [6]}, r"Found the layers \[6\] to skip the MLP of; expected different indices"),
        ({"mlp": [3]}, r"Found the layers \[3\] to drop and to skip a half of; expected one of"),
    ],
)
def test_halves_that_cannot_be_planned(choice, sentence):
    with pytest.raises(InputError, match=sentence):
        manual_plan([3], 6, (0, 5), **choice)
