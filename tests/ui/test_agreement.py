"""The page, its link, its code, its plan and its endpoints agree over every field of a recipe."""

import inspect
import json
import typing

import pytest

import svl_core as svl
from svl_core.pruning.plan_file import read_plan
from svl_core.recipe import OPTIONS, Recipe
from svl_core.service.calibration import sources_for
from svl_core.ui import api, arguments
from svl_core.ui.state import exports
from svl_core.ui.state.settings import DEFAULTS, PLAN, Settings
from svl_core.ui.state.strip import strip_value

OTHER = {
    "criterion": "shortgpt",
    "top_p": 0.3,
    "top_p_mode": "mass",
    "text_self": "given",
    "causal_correction": True,
    "rounds": 2,
    "protect_ends": False,
    "seed": 3,
    "text_ends": "sink-aware",
    "compensation": "lstsq",
    "rank": 8,
    "energy": 0.5,
    "strength": 0.5,
    "targets": ("mlp", "attention"),
    "ridge": 0.25,
    "answer_weight": 5.0,
    "weighted": True,
    "tokens": "all",
    "gap_rows": "samples",
    "gap_centred": True,
    "gap_span": "layer",
    "calibration": "this",
    "calibration_size": 8,
    "detail": "quick",
    "max_visual_tokens": 100,
    "visual_share": 0.5,
    "visual_tokens": "shortv",
    "visual_from": 2,
    "visual_layers": (1, 4),
}
"""A value of each field that is not the page's default."""
STATE = {"model": "demo", "path": "image.png", "prompt": "what & <where>?", "origin": "example:0"}
KNOWS = frozenset({"demo"})


def strip_of(settings):
    return strip_value(
        range(6),
        [3, 2, 4, 1],
        [0, 5],
        [2, 3],
        criterion=settings.criterion,
        rounds=settings.rounds,
    )


def test_every_field_is_tried():
    assert set(OTHER) == set(OPTIONS) - set(PLAN)
    assert all(getattr(DEFAULTS, name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", OTHER)
def test_a_field_goes_through_link_code_and_plan(name, tmp_path):
    settings = Settings(**{name: OTHER[name]})
    assert isinstance(settings, Recipe) and settings.recipe.unusual(DEFAULTS.recipe) == {
        name: OTHER[name]
    }
    strip = strip_of(settings)
    read = exports.read_query(exports.query(STATE, strip, settings))
    assert Settings(**read["settings"]) == settings and read["drop"] == [2, 3]
    sources = sources_for("demo", KNOWS, settings)
    code = exports.snippet(STATE, strip, settings, sources)
    compile(code, "snippet", "exec")
    if OTHER[name] != getattr(Recipe(), name):
        assert f"{name}={OTHER[name]!r}" in code
    plan = tmp_path / "plan.json"
    plan.write_text(exports.plan_json(STATE, strip, settings, sources), encoding="utf-8")
    saved = read_plan(plan)
    assert saved.recipe.layers == (2, 3) and saved.model == "demo"
    if name != "calibration":
        assert getattr(saved.recipe, name) == OTHER[name]
    assert saved.recipe.calibration == sources.fit  # never "auto", which says nothing later


def test_fields_that_are_displayed_alone_are_in_no_recipe():
    displayed = Settings(
        layer=3,
        map="published",
        opacity=0.1,
        token_set="last",
        max_new_tokens=9,
        word="pruned-2",
        own="x",
    )
    assert displayed.recipe == DEFAULTS.recipe and displayed != DEFAULTS
    read = exports.read_query(exports.query(STATE, strip_of(displayed), displayed))["settings"]
    assert read == {
        "layer": 3,
        "map": "published",
        "opacity": 0.1,
        "token_set": "last",
        "max_new_tokens": 9,
        "word": "pruned-2",
    }


def test_links_of_before_are_still_read():
    old = "mode=mass&attention_target=1&calibration=bundled&rank=8&all_layers=0"
    assert exports.read_query(old)["settings"] == {
        "top_p_mode": "mass",
        "targets": ("mlp", "attention"),
        "calibration": "demo",
        "rank": 8,
        "all_layers": False,
    }
    wrong = "top_p=9&rank=x&mode=best&seed=-1&layer=1.5&own=abc&calibration=/etc/passwd&targets=x"
    assert exports.read_query(wrong)["settings"] == {}
    odd = "drop=1,-3,x,2," + "9" * 5000 + "&strength=nan&rank=0&opacity=1e999&layer=" + "9" * 5000
    assert exports.read_query(odd) == {"drop": [1, 2], "settings": {}}


def test_a_link_names_the_bundled_weights_and_one_to_others_says_so(monkeypatch):
    def link(model):
        return exports.query({**STATE, "model": model}, strip_of(DEFAULTS), DEFAULTS)

    monkeypatch.setattr(exports, "demo_weights", lambda: "0ld0ld00")
    earlier = link("demo")
    assert "weights=0ld0ld00" in earlier and "weights" not in link("other/model")
    assert exports.refused_in(earlier) == []
    monkeypatch.setattr(exports, "demo_weights", lambda: "ne3ne3ne")
    (sentence,) = exports.refused_in(earlier)
    assert "'0ld0ld00'" in sentence and "'ne3ne3ne'" in sentence
    assert exports.read_query(earlier) == exports.read_query(link("demo"))  # all else is kept
    assert exports.refused_in("prompt=what&drop=1,2") == []  # an address by hand names none
    assert exports.refused_in("model=other/model&weights=0ld0ld00") == []


def published(name):
    service = api.Service.__new__(api.Service)
    return arguments.endpoint(getattr(service, name), api.ARGUMENTS[name])


FIRST = {
    "analyse": ["image", "prompt", "model", "criterion", "top_p"],
    "compare": [
        *("image", "prompt", "drop", "layers", "model", "criterion", "compensation", "rank"),
        *("strength", "max_new_tokens"),
    ],
    "sweep": [
        *("image", "prompt", "criteria", "compensations", "drops", "model", "max_new_tokens"),
    ],
    "evaluate": ["drop", "questions", "seed", "model", "criterion", "compensation"],
    "lens": [
        *("image", "prompt", "drop", "layers", "model", "criterion", "compensation", "rank"),
        *("strength", "max_new_tokens"),
    ],
    "word": ["image", "prompt", "answer", "place", "drop", "layers", "model"],
    "models": [],
}
"""The arguments of the first version, which programs may pass by place."""


@pytest.mark.parametrize("name", api.NAMES)
def test_arguments_keep_their_places_and_are_explained(name):
    function = published(name)
    given = list(inspect.signature(function).parameters)
    assert given[: len(FIRST[name])] == FIRST[name] and given[-1] == "request"
    for parameter in given[:-1]:
        assert f"    {parameter}: " in function.__doc__
    assert "Returns:" in function.__doc__
    for words in ("--", "svl models", "FILE.jsonl", "let the first and the last layer be dropped"):
        assert words not in function.__doc__, "worded for the command line"


def test_an_endpoint_offers_every_field_of_a_recipe():
    parameters = inspect.signature(published("compare")).parameters
    assert set(OPTIONS) <= set(parameters)
    kinds = typing.get_type_hints(published("compare"))
    assert typing.get_args(kinds["compensation"]) == tuple(svl.COMPENSATIONS)
    assert "svl" in typing.get_args(kinds["criterion"])
    assert typing.get_args(kinds["tokens"]) == OPTIONS["tokens"].choices
    assert parameters["drop"].default == 4 and kinds["drop"] is int
    usual = {"drop": 4, "compensation": "none", "layers": None, "detail": "full"}
    for name in OPTIONS:
        default = parameters[name].default
        wanted = usual.get(name, getattr(DEFAULTS, name))
        assert (tuple(default) if isinstance(default, list) else default) == wanted, name


def test_arguments_become_settings(page):
    service = api.Service(page.workspace)
    given = {
        name: list(value) if value == OTHER["targets"] else value for name, value in OTHER.items()
    }
    given |= {"drop": 3, "layers": None}
    assert service._settings(given, "compare") == Settings(**OTHER)


def test_the_plan_says_which_set_was_fitted_on():
    settings = Settings(own="abc", calibration="own")
    for model, calibration, fitted in (
        ("demo", "auto", "demo"),
        ("other", "auto", "this"),
        ("demo", "own", "own"),
        ("demo", "this", "this"),
    ):
        chosen = settings.changed(calibration=calibration)
        sources = sources_for(model, KNOWS, chosen)
        plan = json.loads(exports.plan_json(STATE, strip_of(chosen), chosen, sources))
        assert plan["recipe"]["calibration"] == fitted


def test_a_link_that_asks_for_what_is_not_accepted_is_told_so():
    for query, says in (
        ("strength=nan", "Found a strength of"),
        ("strength=1e308", "expected a number from 0 to 100"),
        ("rank=null", "Found a rank of 'null'"),
        ("energy=2", "energy share"),
        ("rank=0", "Found a rank of"),
        ("layer=-3", "expected a whole number from 0"),
        ("layer=" + "9" * 5000, "Found a layer of"),
        ("criterion=magic", "the criterion 'magic'; expected one of svl"),
        ("calibration=/etc/passwd", "expected one of this, demo"),
        ("calibration_size=9999", "expected 1 to 4096"),
        ("drop=a,3", "the layers 'a,3' to drop"),
        ("drop=" + "9" * 5000, "expected whole numbers"),
    ):
        sentences = exports.refused_in(query + "&top_p=0.5")
        assert len(sentences) == 1 and says in sentences[0], sentences
        assert len(sentences[0]) < 300
    assert exports.refused_in("drop=none") == exports.refused_in("drop=1,2") == []
    assert exports.refused_in("strength=1&rank=auto&prompt=what") == []
