"""Plan files: the one dialect round trips, the three older ones still read, nothing else does."""

import json

import pytest

from svl_core.errors import InputError
from svl_core.pruning.plan_file import read_plan, saved_plan
from svl_core.recipe import Recipe

RECIPE = Recipe(compensation="scp", rank=2, strength=0.5, targets=("mlp", "attention"))


def read(tmp_path, data, encoding="utf-8"):
    file = tmp_path / "plan.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data), encoding=encoding)
    return read_plan(file)


def test_the_dialect_comes_back(tmp_path):
    written = saved_plan(RECIPE, (1, 3), (0, 2, 4), criterion="manual", model="m")
    assert written["drop"] == [1, 3] and written["keep"] == [0, 2, 4]
    assert (written["criterion"], written["compensation"]) == ("manual", "scp")
    expected = RECIPE.changed(drop=2, layers=(1, 3))
    for data in (written, {"model": "m", "plan": written}):
        found = read(tmp_path, data)
        assert found.recipe == expected and found.model == "m"
    assert read(tmp_path, written, encoding="utf-8-sig").recipe == expected


def test_halves_come_back_by_name(tmp_path):
    """The number that is dropped counts in the recipe's units."""
    skipped = {"attention": (2,), "mlp": (0, 4)}
    for granularity, drop in (("layer", 1), ("half", 5)):
        recipe = Recipe(granularity=granularity)
        written = saved_plan(recipe, (1,), (0, 2, 3, 4), skipped=skipped)
        assert written["attention"] == [2] and written["mlp"] == [0, 4]
        found = read(tmp_path, written).recipe
        assert found.layers == (1,) and found.drop == drop and found.chosen
        assert found.drop_attention == (2,) and found.drop_mlp == (0, 4)
    assert "mlp" not in saved_plan(RECIPE, (1,), (0, 2))


OLDER = {
    "page": {
        "model": "m",
        "drop": [1, 3],
        "keep": [0, 2, 4],
        "criterion": "svl",
        "seed": 7,
        "settings": {
            "compensation": "scp",
            "rank": 2,
            "strength": 0.5,
            "mode": "mass",
            "attention_target": True,
            "calibration": "bundled",
            "layer": 3,
        },
    },
    "command": {
        "model": "m",
        "plan": {
            "drop": [1, 3],
            "criterion": "svl",
            "compensation": "scp",
            "settings": {
                "criterion": {},
                "compensation": {
                    "name": "scp",
                    "rank": 2,
                    "strength": 0.5,
                    "energy": None,
                    "targets": ["mlp", "attention"],
                    "top_p_mode": "mass",
                },
            },
            "calibration": {"set": "demo", "samples": 32},
        },
    },
    "checkpoint": {
        "model": "m",
        "layer_ids": [0, 2, 4],
        "plan": {"drop": [1, 3], "criterion": "svl"},
        "compensation": {
            "name": "scp",
            "rank": 2,
            "strength": 0.5,
            "targets": ["mlp", "attention"],
            "top_p_mode": "mass",
            "samples": ["key"],
        },
    },
}


@pytest.mark.parametrize("dialect", OLDER)
def test_older_dialects_still_read(tmp_path, dialect):
    found = read(tmp_path, OLDER[dialect])
    recipe = found.recipe
    assert found.model == "m" and recipe.layers == (1, 3)
    assert (recipe.compensation, recipe.rank, recipe.strength) == ("scp", 2, 0.5)
    assert recipe.targets == ("mlp", "attention") and recipe.top_p_mode == "mass"
    assert recipe.calibration == ("auto" if dialect == "checkpoint" else "demo")
    assert recipe.seed == (7 if dialect == "page" else 0)


@pytest.mark.parametrize("dialect", OLDER)
def test_an_older_plan_of_layers_chosen_by_hand_still_reads(tmp_path, dialect):
    """Its criterion "manual" ranks nothing, so that the recipe keeps the usual one."""
    written = json.loads(json.dumps(OLDER[dialect]))
    written.get("plan", written)["criterion"] = "manual"
    recipe = read(tmp_path, written).recipe
    assert recipe.layers == (1, 3) and recipe.criterion == Recipe.criterion


def test_a_command_s_plan_without_its_calibration_set_still_reads(tmp_path):
    written = json.loads(json.dumps(OLDER["command"]))
    del written["plan"]["calibration"]
    recipe = read(tmp_path, written).recipe
    assert recipe.calibration == "auto" and recipe.layers == (1, 3)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "null", "3", '{"drop": [1]}', '{"recipe": {}}', '{"recipe": {"layers": "all"}}'],
)
def test_what_is_no_plan_is_one_sentence(tmp_path, text):
    with pytest.raises(InputError, match="Found no plan in"):
        read(tmp_path, text)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(InputError, match="Found no plan"):
        read_plan(tmp_path / "plan.json")


def test_a_folder_is_known_by_where_it_lies(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    plan = read(tmp_path, saved_plan(RECIPE, (1,), (0, 2), model="m"))
    for name in ("m", "./m", "m/", str(tmp_path / "m")):
        assert plan.is_for(name)
    assert not plan.is_for("other") and not plan.is_for("someone/m")
