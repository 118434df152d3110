"""What ranks and what is fitted on: the source of the settings, the visitor's files, criteria that
run the model.
"""

import gradio as gr
import numpy as np
import pytest
from tiny import picture
from updates import last

import svl_core as svl
from svl_core.errors import InputError
from svl_core.service import calibration as sets
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.answers import draw_calibration_note
from svl_core.ui.steps.evidence import calibration
from svl_core.ui.work.answering import compare
from svl_core.ui.work.ranking import select


def test_a_set_that_cannot_be_read_leaves_the_choice_as_it_was(page, analysed, tmp_path):
    """No files yet, or one that is no picture: a sentence, and the control goes back."""
    (tmp_path / "torn.png").write_bytes(b"no picture")
    picture(seed=1).save(tmp_path / "whole.png")
    mark = calibration.bring(
        page, [str(tmp_path / "whole.png"), str(tmp_path / "torn.png")], "what?", None
    )["own"]
    for own, says in (
        ("", "no files of yours"),
        (mark, "'torn.png': found data that is not a readable image"),
    ):
        updates = []
        with pytest.raises(gr.Error, match=says):
            for update in select(
                page,
                analysed["state"],
                analysed["strip"],
                None,
                Settings(calibration="own", own=own),
            ):
                updates.append(update)
        assert {"status": "", "criterion": "svl", "calibration": "auto"} in updates


def test_own_files_rank_and_fit(page, analysed, own_files, tiny):
    paths, _ = own_files
    state, strip = analysed["state"], analysed["strip"]
    out = calibration.bring(page, paths, "what is in the top left?", None)
    mine = Settings(calibration="own", own=out["own"])
    ranked = last(select(page, state, strip, None, mine))
    samples = [tiny.encode(path, "what is in the top left?") for path in paths]
    trace = svl.trace(tiny, samples)
    assert (
        ranked["strip"]["ranking"] == list(svl.redundancy(trace, svl.importance(trace)).ranking)
        and ranked["strip"]["calibration"] == "own"
    )
    assert (
        "your set (3 samples)" in ranked["calibration-note"]
        and "own" not in ranked["link"]["query"]
    )
    plan = svl.manual_plan([2, 3], 6, [0, 5])
    seen = last(
        compare(
            page,
            state,
            {**ranked["strip"], "drop": [2, 3]},
            None,
            Settings(calibration="own", own=out["own"], max_new_tokens=4),
        )
    )
    fitted = svl.prune(tiny, plan, "scp", trace, svl.importance(trace))
    sample = page.workspace.analysis_of(state).sample
    result = svl.compare(tiny, fitted, sample, max_new_tokens=4)
    assert f"{result.kl:.3f}" in seen["metrics"]
    assert calibration.bring(page, None, "", None) == {"own": "", "calibration": "auto"}
    page.workspace._forget(out["own"])
    with pytest.raises(gr.Error, match="upload it again"):
        last(select(page, state, strip, None, mine))


def test_a_set_with_the_shown_picture_is_not_called_new_to_it(page, analysed, own_files, path):
    """By the picture: the set asks another question of it."""
    paths, _ = own_files
    analysis = page.workspace.analysis_of(analysed["state"])
    for files, holds in ((paths, False), ([*paths, path], True)):
        settings = Settings(
            calibration="own", own=calibration.bring(page, files, "what else?", None)["own"]
        )
        assert page.workspace.fit_holds(analysis, settings) is None  # not read yet
        page.workspace.fit_samples(analysis, settings)
        assert page.workspace.fit_holds(analysis, settings) is holds
        view = page.view(analysed["state"], settings, {**analysed["strip"], "drop": [2]})
        note = draw_calibration_note(view)
        assert ("is not among the samples" in note, 'class="note"' in note) == (not holds, holds)


def test_a_failed_ranking_leaves_the_controls_as_they_were(page, analysed, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    mark = calibration.bring(page, [str(tmp_path / "broken.png")], "", None)["own"]
    updates = []
    with pytest.raises(gr.Error, match="expected"):
        for update in select(
            page,
            analysed["state"],
            analysed["strip"],
            None,
            Settings(calibration="own", own=mark, criterion="shortgpt"),
        ):
            updates.append(update)
    assert {"status": "", "criterion": "svl", "calibration": "auto"} in updates


def test_more_samples_than_allowed(page, own_files, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(
        page.workspace, "limits", replace(page.workspace.limits, calibration_samples=2)
    )
    with pytest.raises(InputError, match="3 calibration samples"):
        calibration.bring(page, own_files[0], "", None)


def test_criteria_that_run_the_model_are_measured_once(page, analysed, tiny, monkeypatch):
    state, strip = analysed["state"], {**analysed["strip"], "drop": [1, 2]}
    assert "click to measure" in analysed["criteria"]
    ranked = last(select(page, state, strip, None, Settings(criterion="greedy-kl")))
    sample = page.workspace.analysis_of(state).sample
    trace = svl.trace(tiny, sample)
    assert (
        ranked["strip"]["ranking"]
        == list(svl.redundancy(trace, None, "greedy-kl", lvlm=tiny, samples=sample).ranking)
        and ranked["strip"]["criterion"] == "greedy-kl"
    )
    assert (
        analysed["criteria"].count("click to measure")
        == ranked["criteria"].count("click to measure") + 1
    )
    monkeypatch.setattr(svl, "redundancy", lambda *a, **k: pytest.fail("measured again"))
    assert (
        last(select(page, state, strip, None, Settings(criterion="greedy-kl")))["strip"]
        == ranked["strip"]
    )


def test_blocks_follow_their_criterion(page, analysed):
    out = last(
        select(
            page,
            analysed["state"],
            {**analysed["strip"], "drop": [1, 4]},
            None,
            Settings(criterion="streamline"),
        )
    )["strip"]
    assert out["drop"] == out["blocks"][2] and np.diff(out["drop"]).tolist() == [1]


def test_fewer_visual_tokens_for_the_pruned_model(page, analysed, tiny):
    now = Settings(visual_share=0.25, max_new_tokens=4)
    strip = {**analysed["strip"], "drop": [2]}
    out = last(compare(page, analysed["state"], strip, None, now))
    sample = page.workspace.analysis_of(analysed["state"]).sample
    used = sets.CalibrationSources("this", "this")
    trace = svl.trace(tiny, sample)
    pruned = svl.prune(tiny, svl.manual_plan([2], 6, [0, 5]), "scp", trace, svl.importance(trace))
    result = svl.compare(
        tiny, pruned, sample, max_new_tokens=4, pruned_sample=svl.keep_visual(tiny, sample, 0.25)
    )
    assert (
        f"{result.kl:.3f}" in out["metrics"]
        and ">9<" in out["metrics"]
        and ">36<" in out["metrics"]
    )
    code = exports.snippet(analysed["state"], strip, now, used)
    assert "svl.keep_visual(lvlm, sample, 0.25)" in code
    assert (
        exports.read_query(exports.query(analysed["state"], strip, now))["settings"]["visual_share"]
        == 0.25
    )


def test_selectors_of_visual_tokens_on_the_page(page, analysed, tiny):
    """Its comparison is the library's, its sentence says what is skipped, and its link keeps it."""
    sample = page.workspace.analysis_of(analysed["state"]).sample
    strip = {**analysed["strip"], "drop": []}
    for changes, said in (
        ({"visual_tokens": "vitcop", "visual_share": 0.25, "visual_from": 2}, "9 of 36 visual"),
        ({"visual_tokens": "shortv", "visual_from": 1}, "layers skip visual tokens"),
    ):
        now = Settings(max_new_tokens=4, compensation="none", **changes)
        out = last(compare(page, analysed["state"], strip, None, now))
        thinned = svl.thin(tiny, sample, now.recipe)
        result = svl.compare(tiny, tiny, sample, max_new_tokens=4, pruned_sample=thinned)
        assert f"{result.kl:.3f}" in out["metrics"] and said in out["metrics"]
        link = exports.query(analysed["state"], strip, now)
        assert exports.read_query(link)["settings"] == {"max_new_tokens": 4, **changes} | {
            "compensation": "none"
        }
    words = exports.in_words(analysed["state"], strip, now, "")
    read = words["Visual tokens that the pruned model reads"]
    assert read == "visual tokens frozen in layers (ShortV), from layer 1 on"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"calibration": "demo"},
        {"criterion": "greedy-kl", "compensation": "refit"},
        {"compensation": "bridge"},
        {"compensation": "none"},
        {"visual_share": 0.5},
        {"visual_tokens": "fastv", "visual_share": 0.5, "visual_from": 2},
        {"visual_tokens": "shortv", "visual_from": 3},
    ],
)
def test_the_code_runs(page, analysed, tiny, image, monkeypatch, capsys, changes):
    """What the page offers as Python gives the page's plan."""
    now = Settings(**changes)
    strip = last(
        select(
            page,
            analysed["state"],
            {**analysed["strip"], "drop": [1, 2]},
            None,
            Settings(**changes),
        )
    )["strip"]
    code = exports.snippet(analysed["state"], strip, now, sets.sources_for("tiny", {"tiny"}, now))
    monkeypatch.setattr(svl, "load", lambda name: tiny)
    code = (
        code.replace('"image.png"', "image")
        .replace('pruned.save("pruned")', "None")
        .replace("calibration(32,", "calibration(2,")
    )
    scope = {"image": image}
    exec(compile(code, "snippet", "exec"), scope)
    assert scope["pruned"].num_layers == 4 and capsys.readouterr().out
    if "calibration" not in changes:
        assert list(scope["plan"].drop) == strip["drop"]
