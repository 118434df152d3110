"""Presets on the page: what they set, when the page says that it is one, and the competition of the
best.
"""

from dataclasses import replace

import gradio as gr
import pytest
from tiny import picture
from updates import last

import svl_core as svl
from svl_core.ui.state import presets
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.answers.presets import choose
from svl_core.ui.steps.evidence import calibration
from svl_core.ui.wiring import stop_all
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.ranking import plan_changed, select


@pytest.fixture
def own(page, tmp_path):
    """Settings with three pictures as the visitor's own set."""
    paths = []
    for k in range(3):
        picture(seed=k + 1).save(tmp_path / f"own{k}.png")
        paths.append(str(tmp_path / f"own{k}.png"))
    return {
        "own": calibration.bring(page, paths, "what is in the top left?", None)["own"],
        "calibration": "own",
    }


def test_as_published_is_the_page_s_start(page, analysed):
    assert analysed["preset"] == "as-published" and "Short-LVLM" in analysed["preset-note"]
    other = last(
        select(
            page,
            analysed["state"],
            analysed["strip"],
            None,
            Settings(criterion="shortgpt", strength=0.5, compensation="lstsq"),
        )
    )
    assert other["preset"] == "custom" and other["preset-note"] == ""
    back = last(
        choose(
            page,
            "as-published",
            analysed["state"],
            other["strip"],
            None,
            Settings(criterion="shortgpt", strength=0.5, compensation="lstsq", protect_ends=False),
        )
    )
    assert (back["criterion"], back["compensation"], back["strength"], back["preset"]) == (
        "svl",
        "scp",
        1.0,
        "as-published",
    ) and back["strip"]["ranking"][:4]
    assert (
        plan_changed(
            page,
            analysed["state"],
            {**analysed["strip"], "drop": analysed["strip"]["ranking"][-1:]},
            Settings(),
        )["preset"]
        == "custom"
    )


FITTED = {name: getattr(svl.PRESETS["best"].recipe, name) for name in ("targets", "answer_weight")}
"""What the preset sets beside criterion and compensation, other than the default."""


def test_best_lets_criteria_compete(page, analysed, own, tiny):
    """The same plan as the library's preset on the same samples."""
    strip = {**analysed["strip"], "drop": [1, 2]}
    out = last(choose(page, "best", analysed["state"], strip, None, Settings(**own)))
    samples = [tiny.encode(path, prompt) for path, prompt in page.workspace.own_sets[own["own"]]]
    plan = svl.PRESETS["best"].fit(tiny, samples).plan(2)
    assert (
        out["strip"]["drop"] == list(plan.drop)
        and out["criterion"] == plan.criterion
        and out["compensation"] == "refit"
        and out["preset"] == "best"
    )
    assert svl.CRITERIA[plan.criterion].title in out["preset-note"]
    now = replace(Settings(**own), criterion=out["criterion"], compensation="refit", **FITTED)
    assert presets.current("tiny", frozenset(), now, out["strip"]) == "best"
    assert (
        presets.current(
            "tiny", frozenset(), now, {**out["strip"], "drop": out["strip"]["ranking"][:1]}
        )
        == "custom"
    )
    assert (
        presets.current("tiny", frozenset(), replace(now, visual_share=0.5), out["strip"])
        == "custom"
    )
    ran, rank = (
        [],
        page.workspace.backend.rank,
    )  # its link, its card and the next image find the ranking, and that it won
    page.workspace.backend.rank = lambda *args: ran.append(args) or rank(*args)
    state = analysed["state"]
    asked = Settings(**own, criterion=out["criterion"], compensation="refit", **FITTED)
    again = last(
        analyse(
            page,
            state["model"],
            state["path"],
            state["prompt"],
            state,
            2,
            "",
            out["strip"]["drop"],
            asked,
        )
    )
    assert again["preset"] == "best" and again["strip"]["drop"] == out["strip"]["drop"] and not ran
    later = last(
        analyse(
            page,
            state["model"],
            state["path"],
            state["prompt"],
            state,
            2,
            "",
            None,
            Settings(**own, criterion="greedy-kl", compensation="refit", **FITTED),
        )
    )
    assert later["strip"]["rounds"] == 2 and not ran


def test_best_needs_a_set(page, analysed):
    updates = []
    with pytest.raises(gr.Error, match="at least two"):
        for update in choose(page, "best", analysed["state"], analysed["strip"], None, Settings()):
            updates.append(update)
    back = next(update for update in reversed(updates) if "preset" in update)
    assert (
        back["preset"] == "as-published"
        and "SCP" in back["preset-note"]
        and not any("strip" in update for update in updates)
    )


def test_best_is_cancelled(page, analysed, own):
    running = choose(page, "best", analysed["state"], analysed["strip"], None, Settings(**own))
    for update in running:
        if "status" in update:
            stop_all(page)
            page.workspace.jobs.cancel(next(iter(page.workspace.jobs._deadlines)))
            break
    left = last(running)
    assert (
        left["status"] == ""
        and left.get("preset", "as-published") == "as-published"
        and "strip" not in left
    )
