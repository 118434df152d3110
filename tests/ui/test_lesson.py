"""The lesson: what it tells follows from its data, its steps put the page into a valid state, and
leaving brings the old one back.
"""

import copy
import json

import pytest
from updates import event

import svl_core as svl
from svl_core.ui import examples
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import lesson, snapshots

DATA = {
    "layers": 6,
    "block": 2,
    "questions": 40,
    "calibration": [4, 7],
    "rankings": {"svl": [3, 2, 4, 1], "svl-all": [2, 3, 4, 1]},
    "full": {
        "accuracy": 1.0,
        "by_kind": {kind: 1.0 for kinds in lesson.GROUPS.values() for kind in kinds},
    },
    "ablation": {
        kind: [
            0.0,
            0.9 if group == "names" else 1.0,
            0.2 if group == "numbers" else 0.95,
            0.5 if group == "places" else 1.0,
            0.0,
        ]
        for group, kinds in lesson.GROUPS.items()
        for kind in kinds
    },
    "curves": {
        "svl, none": [1.0, 1.0, 0.97, 0.6, 0.5],
        "svl-all, none": [1.0, 1.0, 0.9, 0.6, 0.5],
        "svl, scp": [1.0] * 9,
        "svl, lstsq": [1.0] * 9,
        "svl, refit": [1.0] * 9,
    },
}


def test_what_is_told_follows_from_the_data():
    assert (
        lesson.worst(DATA, "places") == (3, 0.5)
        and lesson.worst(DATA, "numbers") == (2, pytest.approx(0.8))
        and lesson.worst(DATA, "names")[0] == 1
    )
    step = lesson._skipped(DATA)
    assert [o["label"] for o in step["options"] if o["right"]] == [
        "Layers 3 to 4"
    ] and "−50 points" in step["after"]
    tokens = lesson._tokens(DATA)
    assert (
        "97 %" in tokens["after"]
        and "90 %" in tokens["after"]
        and [o["label"] for o in tokens["options"] if o["right"]] == ["Yes, a lot"]
    )
    other = copy.deepcopy(DATA)
    other["curves"]["svl, none"], other["curves"]["svl-all, none"] = (
        DATA["curves"]["svl-all, none"],
        DATA["curves"]["svl, none"],
    )
    assert "all tokens even choose better" in lesson._tokens(other)["after"]
    cliff = lesson._cliff(DATA)
    assert (
        lesson.cliff(DATA["curves"]["svl, none"]) == 3
        and cliff["do"] == "3"
        and [o["label"] for o in cliff["options"] if o["right"]] == ["2"]
    )
    assert lesson.cliff([1.0, 0.95, 0.9]) is None


def test_the_shipped_steps_are_whole():
    steps = lesson.content()["steps"]
    assert len(steps) == lesson.STEPS == len(lesson.PAGES)
    for step in steps:
        assert (
            step["title"]
            and step["anchor"].startswith("#")
            and (
                step.get("guess")
                or step.get("tries")
                or sum(o["right"] for o in step["options"]) == 1
            )
        )
        assert (
            "plot" not in step or json.loads(step["plot"]["figure"])["data"] and step["plot"]["alt"]
        )
    data = lesson.measured()
    assert (
        data["questions"] >= 300
        and data["layers"] == 16
        and set(data["ablation"]) >= {kind for kinds in lesson.GROUPS.values() for kind in kinds}
    )


def test_steps_set_the_page_and_leaving_restores_it(page, analysed):
    state, strip, now = analysed["state"], {**analysed["strip"], "drop": [3]}, Settings(top_p=0.3)
    first = lesson.go(page, None, state, strip, now, event(step=0))
    assert (
        first["before"] == snapshots.take(page, state, strip, now)
        and first["drop"] == 0
        and first["wanted"] is None
        and first["origin"] == "example:0"
        and first["lesson"]["at"] == 0
    )
    assert first["compensation"] == "none" and first["top_p"] == Settings().top_p
    block = lesson.go(page, first["before"], state, strip, now, event(step=3))
    assert block["wanted"] == [11, 12, 13] and block["before"] is first["before"]
    assert (
        lesson.go(page, first["before"], state, strip, now, event(step=4, do="scp"))["compensation"]
        == "scp"
    )
    assert lesson.go(page, first["before"], state, strip, now, event(step=5, do="6"))["drop"] == 6
    back = lesson.go(
        page, first["before"], {**state, "key": "lesson's"}, strip, now, event(step=-1)
    )
    assert (
        back["before"] is None
        and back["image"] == state["path"]
        and back["wanted"] == [3]
        and back["top_p"] == 0.3
    )
    assert lesson.go(page, None, state, strip, now, event(step=-1)) == {"before": None}
    assert set(first) | set(block) | set(back) <= {
        *snapshots.restored(page),
        "drop",
        "before",
        "lesson",
    }
    assert all(examples.from_origin(origin) for origin, *_ in lesson.PAGES) and all(
        Settings(**changes) for *_, changes in lesson.PAGES
    )
    assert {one["do"] for one in lesson.content()["steps"][4]["tries"]} <= set(svl.COMPENSATIONS)
