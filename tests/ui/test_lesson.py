"""The lesson: what it tells was measured on the shipped weights and follows from its data, its
steps put the page into a valid state, and leaving brings the old one back.
"""

import json

import pytest
from test_documents import script
from updates import event, last, page_of

import svl_core as svl
from svl_core.demo.art import objects
from svl_core.demo.questions import caption
from svl_core.lvlm.catalogue import DEMO_PLACES
from svl_core.ui import examples
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import lesson, snapshots

measuring = script("lesson")


@pytest.fixture(scope="module")
def bundled():
    """The bundled model; skips where its weights are not there."""
    if not any((place / "model.safetensors").exists() for place in DEMO_PLACES):
        pytest.skip("the bundled weights are not there")
    return svl.load("demo")


@pytest.fixture(scope="module")
def shown():
    """What the lesson tells of its own pictures."""
    return lesson.measured()["shown"]


# ------------------------------------------------------------------ what was measured
def test_every_answer_that_the_lesson_tells_is_the_shipped_model_s(bundled, shown):
    fitted = {Settings().calibration_size: measuring.calibrated(bundled, 32)}
    found = json.loads(json.dumps(measuring.shown(bundled, fitted)))
    assert found["stages"] == shown["stages"]
    for name in ("tokens", "width", "ranking", "decided"):
        assert found[name] == shown[name]
    assert found["angles"] == pytest.approx(shown["angles"], abs=0.05)
    assert found["steps"] == pytest.approx(shown["steps"], abs=1e-3)
    for plan, runs in shown["gap"].items():
        assert found["gap"][plan] == [pytest.approx(run, abs=1e-3) for run in runs]


def test_the_layers_that_the_lesson_drops_are_those_that_the_page_would_drop(bundled):
    def ranking(step, criterion="svl"):
        stage = lesson.STAGES[step][""]
        sample = bundled.encode(measuring.picture(stage.origin), stage.prompt)
        trace = svl.trace(bundled, [sample])
        scores = svl.redundancy(trace, svl.importance(trace), criterion)
        return [int(layer) for layer in scores.ranking]

    guessed, stages = ranking(lesson.GUESS), lesson.STAGES
    assert stages[lesson.GUESS]["least"].drop == tuple(sorted(guessed[: lesson.GUESSES]))
    assert stages[lesson.GUESS]["one"].drop == (guessed[0],)
    important, everything = (stages[lesson.TOKENS][name].drop for name in ("important", "all"))
    assert important == tuple(sorted(ranking(lesson.TOKENS)[:7]))
    assert everything == tuple(sorted(ranking(lesson.TOKENS, "svl-all")[:7]))
    assert stages[lesson.REPAIR][""].drop == tuple(sorted(ranking(lesson.REPAIR)[:5]))
    many = lesson.measured()["ranking"][:4]
    assert stages[lesson.MANY][""].drop == tuple(sorted(many))
    assert stages[lesson.WHEN]["ranked"].drop == tuple(sorted(many))
    may_go = range(1, bundled.num_layers - 1)  # the first and the last layer stay
    assert stages[lesson.WHEN]["late"].drop == tuple(may_go[-4:])


def test_answers_are_decided_where_the_lesson_tells(bundled):
    """One question of each kind anew, through the library's own curve."""
    found = lesson.measured()["decided"]
    last = [int(layer) for layer in found["last"].split()]
    pairs = measuring.questions("scenes", measuring.ASKED, measuring.SEED)
    assert len(last) == len(pairs) == lesson.measured()["questions"]
    asked = pairs[:13]
    assert len({pair.kind for pair in asked}) == 13
    samples = [bundled.encode(pair.image, pair.question) for pair in asked]
    curve = svl.decided_share(bundled, samples)
    layers = range(bundled.num_layers)
    assert curve.answers.tolist() == [
        pytest.approx(sum(at <= layer for at in last[:13]) / 13) for layer in layers
    ]
    whole = [sum(at <= layer for at in last) / len(last) for layer in layers]
    assert found["answers"] == pytest.approx(whole, abs=1e-4)


def test_what_lies_behind_the_decision_is_not_what_the_ranking_drops(bundled):
    """The claim of the step "When is it decided?", on the shipped weights."""
    data = lesson.measured()
    found, told = data["decided"], lesson._when(data)
    right = {"ranked": data["kept"][4], "late": found["kept_late"]}
    assert found["answers"][lesson.LAST_OF_ALL[0] - 1] > 0.5  # most stand before the last layers
    assert right["ranked"] - right["late"] > 0.03  # and still these are needed
    assert "does more than confirm it" in told["after"]
    assert told["options"][0]["right"] and not told["options"][1]["right"]


def test_the_full_model_is_right_and_the_breaks_are_breaks(shown):
    """By what lies in the scenes, which no model was asked."""
    scenes = [examples.from_origin(stages[""].origin)[0] for stages in lesson.STAGES]
    stages = shown["stages"]
    for step in (lesson.TOKENS, lesson.GAP, lesson.REPAIR):
        assert stages[step]["full"] == caption(scenes[step])
    trumpets = [item for item in scenes[lesson.GUESS].items if item.name == "trumpet"]
    assert stages[lesson.GUESS]["full"] == str(len(trumpets)) == "1"
    assert stages[lesson.GUESS]["least"] == stages[lesson.GUESS]["one"] == "2"
    (cat,) = (item for item in scenes[lesson.WHERE].items if item.name == "cat")
    known = {kind.name for kind in objects() if kind.category == "animal"}
    animals = [item for item in scenes[lesson.WHEN].items if item.name in known]
    assert stages[lesson.WHEN]["full"] == str(len(animals)) == "1"
    assert stages[lesson.WHEN]["ranked"] == "1" and stages[lesson.WHEN]["late"] == "2"
    where = stages[lesson.WHERE]
    assert where["full"] == where["6"] == cat.place == "top left"
    assert where["3"] == "no" and where["10"] == "top"
    tokens, gap, repair = (stages[step] for step in (lesson.TOKENS, lesson.GAP, lesson.REPAIR))
    assert tokens["important"] == tokens["full"] and tokens["full"].startswith(tokens["all"])
    assert gap["back"] == gap["full"] != gap[""]
    assert repair["refit"] == repair["full"]
    assert repair["full"] not in (repair[""], repair["none"], repair["scp"], repair["lstsq"])


def test_tables_belong_to_the_shipped_weights_and_to_the_arena(bundled):
    data = lesson.measured()
    assert data["weights"] == measuring.weights()
    assert data["arena"] == json.loads(json.dumps(measuring.arena()))
    assert data["weights"].startswith(data["arena"]["weights"])
    assert data["questions"] >= 300 and data["layers"] == bundled.num_layers
    asked = {kind for kinds in lesson.GROUPS.values() for kind in kinds}
    assert set(data["ablation"]) >= asked


# ------------------------------------------------------------------ what is told of it
def test_figures_of_speech_are_worked_out():
    assert lesson.lasts_until([1.0, 0.97, 0.96, 0.94, 0.99]) == 2
    assert lesson.lasts_until([0.8, 0.78, 0.77]) == 2
    assert lesson.furthest([1.0, 0.9, 0.5], [1.0, 0.95, 0.7]) == 2
    assert lesson.only_in("a cat in the top left", "a cat in the top") == "left"
    assert lesson.only_in("a red cat, a bus", "a red dog, a bus") == "cat"
    assert lesson.only_in("a cat", "a cat in the top") == ""
    assert lesson.only_in("a cat in the top", "a cat") == "in the top"
    assert lesson.reached([0.1, 0.4, 0.5, 0.9]) == 2 and lesson.reached([0.5]) == 0
    shares = [0.125, 0.25, 0.25, 0.75, 1.0]
    assert lesson.decided_within(shares, (0, 3)) == 0.125 + 0.5
    assert lesson.decided_within(shares, range(5)) == 1
    skills = {"names": [0.1, 0.9], "places": [0.6, 0.7]}
    assert list(lesson.halves(skills).items()) == [("places", 0), ("names", 1)]
    data = {"full": {"by_kind": {"where": 1.0}}, "ablation": {"where": [0.0, 0.7, 1.0]}}
    assert lesson.lost_without(data, "where", 1) == pytest.approx(0.3)


def test_titles_ask_and_endings_tell():
    steps = lesson.content()["steps"]
    assert len(steps) == lesson.STEPS == 8
    for step, stages in zip(steps, lesson.STAGES, strict=True):
        assert step["title"].endswith("?") and step["anchor"] and step["shows"]
        assert 0 < len(step["line"]) <= 72, "in a lecture hall the ending is one line"
        right = [option for option in step.get("options", ()) if option["right"]]
        assert step.get("guess") or step.get("tries") or len(right) == 1
        offered = [*step.get("tries", ()), *step.get("more", ()), *step.get("options", ())]
        names = [each["do"] for each in offered if "do" in each] + [step.get("do", "")]
        assert set(names) <= set(stages) == set(step["stages"])
        if "plot" in step:
            assert json.loads(step["plot"]["figure"])["data"] and step["plot"]["alt"]


def test_what_is_told_follows_from_the_data():
    """The texts change with the numbers: the right options move, and so do the words."""
    data = json.loads(json.dumps(lesson.measured()))
    data["kept"] = [1.0, 0.99, 0.93, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    data["skills"] = {"names": [1.0, 0.99, 0.9], "places": [1.0, 0.9, 0.9]}
    many = lesson._many(data)
    assert [option["label"] for option in many["options"] if option["right"]] == ["1"]
    assert many["line"] == "1 of 16; places break first, names last"
    data["shown"]["stages"][lesson.WHERE]["6"] = "somewhere"
    assert "“somewhere”" in lesson._where(data)["after"]
    data["shown"]["stages"][lesson.REPAIR]["refit"] = "else"
    assert "none brings it back" in lesson._repair(data)["after"]
    decided = data["decided"]
    decided["answers"], decided["kept_late"] = [0.0, *[0.5] * 9, 0.625, *[1.0] * 5], 0.8
    decided["skills"] = {"names": [0.4, 0.5, 1.0], "places": [0.5, 0.5, 1.0]}
    data["shown"]["stages"][lesson.WHEN] = {"full": "1", "late": "1"}
    same = lesson._when(data)
    assert [option["right"] for option in same["options"]] == [False, False, True]
    assert "the two cost the same" in same["after"] and "still says “1”" in same["after"]
    assert "half by layer 1, 62 % by layer 10" in same["plot"]["alt"]
    assert "of the places by layer 0, of the names by layer 1" in same["after"]
    decided["kept_late"] = 0.9
    late = lesson._when(data)
    assert [option["right"] for option in late["options"]] == [False, True, False]
    assert "what should go first" in late["after"] and late["line"].startswith("62 % stand by")
    data["shown"]["angles"] = [40.0, *[10.0] * 14, 3.0]
    flow = lesson._flow(data)
    assert flow["options"][0]["label"] == "about 10°" and "Layer 0" in flow["after"]


# ------------------------------------------------------------------------------ the page
def test_steps_set_the_page_and_leaving_restores_it(page, analysed):
    state, strip, now = analysed["state"], {**analysed["strip"], "drop": [3]}, Settings(top_p=0.3)
    first = lesson.go(page, None, state, strip, now, event(step=0))
    assert first["before"] == snapshots.take(page, state, strip, now)
    assert first["wanted"] == [] and first["origin"] == "example:0"
    assert first["lesson"]["at"] == 0 and first["compensation"] == "none"
    assert first["top_p"] == Settings().top_p
    before = first["before"]
    block = lesson.go(page, before, state, strip, now, event(step=lesson.GAP))
    assert block["wanted"] == [11, 12, 13] and block["before"] is before
    tried = lesson.go(page, before, state, strip, now, event(step=lesson.REPAIR, do="scp"))
    assert tried["compensation"] == "scp" and tried["wanted"] == [6, 8, 11, 12, 13]
    many = lesson.go(page, before, state, strip, now, event(step=99, do="no such"))
    assert many["calibration"] == "demo" and many["wanted"] == [8, 9, 12, 13]
    back = lesson.go(page, before, {**state, "key": "lesson's"}, strip, now, event(step=-1))
    assert back["before"] is None and back["image"] == state["path"]
    assert back["wanted"] == [3] and back["top_p"] == 0.3
    assert lesson.go(page, None, state, strip, now, event(step=-1)) == {"before": None}
    outputs = {*snapshots.restored(page), "before", "lesson"}
    assert set(first) | set(block) | set(tried) | set(back) <= outputs


def test_a_plan_s_skills_are_asked_once_for_all_visitors(tiny, monkeypatch):
    """On a page whose model knows the scenes; another model is not asked."""
    page = page_of(tiny, {"tiny"})
    strip = {"ids": list(range(6)), "drop": [2], "protected": [0, 5], "ranking": [2, 3, 1, 4]}
    state, asked = {"model": page.workspace.models.first}, []
    page.workspace.scene_models = frozenset({state["model"]})
    evaluate = page.workspace.backend.evaluate

    def counted(*given, **options):
        asked.append(given)
        return evaluate(*given, **options)

    monkeypatch.setattr(page.workspace.backend, "evaluate", counted)
    monkeypatch.setattr(lesson, "ANSWER_TOKENS", 2)
    found = last(lesson.ask_skills(page, state, strip, Settings()))["lesson"]["skills"]
    assert found["drop"] == [2]
    assert [(skill, of) for skill, _, of in found["rows"]] == list(lesson.LIVE.items())
    assert all(0 <= right <= of for _, right, of in found["rows"])
    again = last(lesson.ask_skills(page, state, strip, Settings()))["lesson"]["skills"]
    assert again == found and len(asked) == 1
    assert len(asked[0][1]) == sum(lesson.LIVE.values()) and asked[0][2].drop == (2,)
    other = {"model": "no scenes"}
    assert "lesson" not in last(lesson.ask_skills(page, other, strip, Settings()))
