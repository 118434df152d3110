"""Presets on the page: what they set, when the page says that it is one, and the competition of the
best.
"""

from dataclasses import replace

import gradio as gr
import pytest
from tiny import picture
from updates import last, settings

import svl_core as svl
from svl_core.ui.sections import calibration, presets
from svl_core.ui.state import recipes
from svl_core.ui.state.settings import Settings


@pytest.fixture
def own(desk, tmp_path):
    """Settings with three pictures as the visitor's own set."""
    paths = []
    for k in range(3):
        picture(seed=k + 1).save(tmp_path / f"own{k}.png")
        paths.append(str(tmp_path / f"own{k}.png"))
    return {
        "own": calibration.brought(desk, paths, "what is in the top left?", None)["own"],
        "calibration": "own",
    }


def test_as_published_is_the_page_s_start(desk, analysed):
    assert analysed["preset"] == "as-published" and "Short-LVLM" in analysed["preset-note"]
    other = last(
        desk.select(
            analysed["state"],
            analysed["strip"],
            None,
            *settings(criterion="shortgpt", strength=0.5, compensation="lstsq"),
        )
    )
    assert other["preset"] == "custom" and other["preset-note"] == ""
    back = last(
        presets.choose(
            desk,
            "as-published",
            analysed["state"],
            other["strip"],
            None,
            *settings(criterion="shortgpt", strength=0.5, compensation="lstsq", protect_ends=False),
        )
    )
    assert (back["criterion"], back["compensation"], back["strength"], back["preset"]) == (
        "svl",
        "scp",
        1.0,
        "as-published",
    ) and back["strip"]["ranking"][:4]
    assert (
        desk.plan_changed(
            analysed["state"],
            {**analysed["strip"], "drop": analysed["strip"]["ranking"][-1:]},
            *settings(),
        )["preset"]
        == "custom"
    )


def test_best_lets_criteria_compete(desk, analysed, own, tiny):
    """The same plan as the library's preset on the same samples."""
    strip = {**analysed["strip"], "drop": [1, 2]}
    out = last(presets.choose(desk, "best", analysed["state"], strip, None, *settings(**own)))
    samples = [tiny.encode(path, prompt) for path, prompt in desk.own_sets[own["own"]]]
    plan = svl.PRESETS["best"].fit(tiny, samples).plan(2)
    assert (
        out["strip"]["drop"] == list(plan.drop)
        and out["criterion"] == plan.criterion
        and out["compensation"] == "refit"
        and out["preset"] == "best"
    )
    assert svl.CRITERIA[plan.criterion].title in out["preset-note"]
    now = replace(Settings(**own), criterion=out["criterion"], compensation="refit")
    assert recipes.current("tiny", frozenset(), now, out["strip"]) == "best"
    assert (
        recipes.current(
            "tiny", frozenset(), now, {**out["strip"], "drop": out["strip"]["ranking"][:1]}
        )
        == "custom"
    )
    assert (
        recipes.current("tiny", frozenset(), replace(now, visual_share=0.5), out["strip"])
        == "custom"
    )
    ran, rank = (
        [],
        desk.backend.rank,
    )  # its link, its card and the next image find the ranking, and that it won
    desk.backend.rank = lambda *args: ran.append(args) or rank(*args)
    state = analysed["state"]
    asked = settings(**own, criterion=out["criterion"], compensation="refit")
    again = last(
        desk.analyse(
            state["model"],
            state["path"],
            state["prompt"],
            state,
            2,
            "",
            out["strip"]["drop"],
            *asked,
        )
    )
    assert again["preset"] == "best" and again["strip"]["drop"] == out["strip"]["drop"] and not ran
    later = last(
        desk.analyse(
            state["model"],
            state["path"],
            state["prompt"],
            state,
            2,
            "",
            None,
            *settings(**own, criterion="greedy-kl", compensation="refit"),
        )
    )
    assert later["strip"]["rounds"] == 2 and not ran


def test_best_needs_a_set(desk, analysed):
    updates = []
    with pytest.raises(gr.Error, match="at least two"):
        for update in presets.choose(
            desk, "best", analysed["state"], analysed["strip"], None, *settings()
        ):
            updates.append(update)
    back = next(update for update in reversed(updates) if "preset" in update)
    assert (
        back["preset"] == "as-published"
        and "SCP" in back["preset-note"]
        and not any("strip" in update for update in updates)
    )


def test_best_is_cancelled(desk, analysed, own):
    running = presets.choose(
        desk, "best", analysed["state"], analysed["strip"], None, *settings(**own)
    )
    for update in running:
        if "status" in update:
            desk.stop_all()
            desk.jobs.cancel(next(iter(desk.jobs._deadlines)))
            break
    left = last(running)
    assert (
        left["status"] == ""
        and left.get("preset", "as-published") == "as-published"
        and "strip" not in left
    )
