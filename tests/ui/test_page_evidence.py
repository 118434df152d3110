"""Ranking stability, sweeps and the ablation map behind the page, on the tiny model."""

import base64
import csv
import html
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from tiny import picture
from updates import LINK, event, last, page_of

import svl_core as svl
from svl_core.comparison.ablation import ablate
from svl_core.comparison.calibration import split
from svl_core.comparison.sweep import SweepRow
from svl_core.comparison.sweep import sweep as library_sweep
from svl_core.errors import InputError
from svl_core.progress import QUIET
from svl_core.service.workspace import EVIDENCE
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.steps.evidence import (
    EVIDENCE as HELD,
)
from svl_core.ui.steps.evidence import (
    ablation,
    calibration,
    measured,
    stability,
    sweep,
)
from svl_core.ui.steps.share import report
from svl_core.ui.wiring import stop
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.answering import compare


@pytest.fixture
def own(page, tmp_path):
    """Controls with four pictures as the visitor's own set."""
    paths = []
    for k in range(4):
        picture(seed=k + 1).save(tmp_path / f"own{k}.png")
        paths.append(str(tmp_path / f"own{k}.png"))
    return Settings(
        own=calibration.bring(page, paths, "what is in the top left?", None)["own"],
        calibration="own",
        max_new_tokens=4,
    )


def points(figure):
    return [
        point
        for trace in json.loads(figure["figure"])["data"]
        if trace["mode"].startswith(("lines+markers", "markers"))
        for point in trace.get("customdata") or []
    ]


def test_stability_is_that_of_the_set(page, analysed, own, tiny):
    out = last(
        stability.resample(page, analysed["state"], {**analysed["strip"], "drop": [1, 2]}, own)
    )
    samples = [
        tiny.encode(path, prompt) for path, prompt in next(iter(page.workspace.own_sets.values()))
    ]
    trace = svl.trace(tiny, samples)
    found = svl.stability(trace, svl.importance(trace), "svl", drop=2)
    assert (
        f"{100 * found.overlap:.0f} % of the 2" in out["stability-note"]
        and f"{found.rank_correlation:.2f}" in out["stability-note"]
    )
    drawn = json.loads(out["plot-stability"]["figure"])["data"]
    dropped = next(trace for trace in drawn if trace["name"] == "set, dropped")
    assert sorted(dropped["customdata"][k][0] for k in range(2)) == sorted(found.scores.chosen(2))
    assert len(json.loads(out["plot-overlap"]["figure"])["data"]) == 3
    found = stability.measured(analysed["state"], out["stability-kept"])
    assert [part.value for part in found] == [out["plot-stability"], out["plot-overlap"]]
    assert found[0].said in html.unescape(out["stability-note"])
    assert stability.measured({**analysed["state"], "key": "other"}, out["stability-kept"]) == []
    with pytest.raises(gr.Error, match="calibration set"):
        last(stability.resample(page, analysed["state"], analysed["strip"], Settings()))


def test_a_criterion_that_runs_the_model_is_resampled_once_it_is_wanted(page, analysed, tiny, own):
    """Opening the fold runs no model for it; then its layers' measure on each sample serves every
    number of layers.
    """
    state, strip = analysed["state"], {**analysed["strip"], "drop": [1, 2]}
    asked = replace(own, criterion="greedy-kl")
    waiting = last(stability.resample(page, state, strip, asked, wanted=False))
    assert (
        "Press “Resample the set”" in waiting["stability-note"]
        and waiting["plot-stability"] is None
    )
    out = last(stability.resample(page, state, strip, asked))
    samples = [
        tiny.encode(path, prompt) for path, prompt in next(iter(page.workspace.own_sets.values()))
    ]
    found = svl.stability(
        svl.trace(tiny, samples), criterion="greedy-kl", drop=2, lvlm=tiny, samples=samples
    )
    assert (
        f"given the layers dropped before it, on average {100 * found.overlap:.0f} % of them drop"
        f" the same layer as the whole set ({100 * found.by_round[0]:.0f},"
        f" {100 * found.by_round[1]:.0f} %)"
        in out["stability-note"]
        and "Greedy on KL: scores" in out["plot-stability"]["alt"]
    )
    assert last(stability.resample(page, state, strip, asked, wanted=False)) == out
    assert (
        "of the same 3 layers"
        in last(stability.resample(page, state, {**strip, "drop": [1, 2, 3]}, asked, wanted=False))[
            "stability-note"
        ]
    )
    asked = replace(own, criterion="random")
    assert (
        "Random cannot be resampled"
        in last(stability.resample(page, state, strip, asked, wanted=False))["stability-note"]
    )


def test_stop_ends_a_sweep_within_a_pass_and_keeps_its_rows(page, analysed, own, tiny, monkeypatch):
    """Counted in layers, not in seconds: behind a Stop inside a pass no layer runs any more."""
    rows, after, put = [], [], page.workspace.sweeps.put
    monkeypatch.setattr(
        page.workspace.sweeps,
        "put",
        lambda key, made, *size: (rows.append(made.rows[-1]), put(key, made, *size)),
    )

    def watched(*_):
        if after:
            after.append("ran on")
        elif len(rows) == 2:
            assert page.workspace.jobs.cancel(next(iter(page.workspace.jobs._deadlines))) == 1
            after.append("stopped here")

    hooks = [layer.register_forward_pre_hook(watched) for layer in tiny.layers]
    try:
        out = last(
            sweep.run(
                page,
                ["svl"],
                ["none"],
                4,
                8,
                "agreement",
                analysed["state"],
                analysed["strip"],
                own,
            )
        )
        assert (
            page.workspace.models.busy.acquire(timeout=1) and not page.workspace.jobs._deadlines
        )  # others may have the models
    finally:
        for hook in hooks:
            hook.remove()
    assert (
        after == ["stopped here"]
        and "Stopped after 2 of 5" in out["sweep-status"]
        and len(points(out["plot-pareto"])) == 2
    )


def test_a_sweep_is_that_of_the_library_and_goes_on_where_it_stopped(
    page, analysed, own, tiny, monkeypatch
):
    state, strip = analysed["state"], analysed["strip"]

    def ask(*names, most=2):
        asked = (list(names), ["none", "scp"], most, 8, "agreement")
        return sweep.run(page, *asked, state, strip, own)

    measured_rows = []
    real = page.workspace.backend.sweep

    def counted(*values):
        *head, each, run = values

        def after(found):
            measured_rows.append(found.rows[-1])
            each(found)
            if len(measured_rows) == 2:
                page.workspace.jobs.cancel(next(iter(page.workspace.jobs._deadlines)))

        return real(*head, after, run)

    monkeypatch.setattr(page.workspace.backend, "sweep", counted)
    stopped = last(ask("svl"))
    assert (
        len(measured_rows) == 2
        and "Stopped after 2 of 6" in stopped["sweep-status"]
        and len(points(stopped["plot-pareto"])) == 2
    )
    out = last(ask("svl"))
    assert (
        len(measured_rows) == 6
        and "6 pruned models" in out["sweep-status"]
        and "measured on the other 2" in out["sweep-status"]
    )
    fit, held = split(
        [
            tiny.encode(path, prompt)
            for path, prompt in next(iter(page.workspace.own_sets.values()))
        ],
        0.5,
    )
    true = library_sweep(
        tiny,
        held,
        fit,
        svl.Recipe(rank=4, strength=1.0, targets=("mlp",)),
        compensations=("none", "scp"),
        drops=range(3),
        max_new_tokens=4,
        repeats=1,
    )
    assert [
        (r.layers, round(r.kl, 6), r.agreement) for r in sweep.shown_rows(page, out["sweep"]).rows
    ] == [(r.layers, round(r.kl, 6), r.agreement) for r in true.rows]
    found = sweep.measured(page, state, out["sweep"], "kl")
    assert [part.figure for part in found] == [sweep.SWEEP, sweep.PARETO]
    assert found[0].said.startswith("6 of 6 pruned models measured. Ranked and fitted on 2")
    assert sweep.measured(page, {**state, "model": "another"}, out["sweep"], "kl") == []
    last(ask("svl", "shortgpt", most=1))  # other criteria join what is there
    assert len(measured_rows) == 6 + 4
    table = list(
        csv.DictReader(
            io.StringIO(Path(sweep.write(page, out["sweep"], "csv")["sweep-file"]).read_text())
        )
    )
    assert len(table) == 6 and {row["compensation"] for row in table} == {"none", "scp"}
    assert (
        len(
            json.loads(Path(sweep.write(page, out["sweep"], "json")["sweep-file"]).read_text())[
                "rows"
            ]
        )
        == 6
    )
    assert (
        len(json.loads(sweep.drawn(page, out["sweep"], "kl")["plot-sweep"]["figure"])["data"]) >= 2
    )


def test_a_point_brings_all_that_it_was_made_with(tiny, path, monkeypatch):
    """Every control of the recipe, and a strip that is ranked as the sweep was: its slider goes on
    along the point's curve, without running the model for it again.
    """
    page = page_of(tiny, {"tiny"})
    swept = {
        "calibration_size": 3,
        "rank": 2,
        "top_p": 0.3,
        "causal_correction": True,
        "protect_ends": False,
        "max_new_tokens": 3,
    }
    first = last(analyse(page, "tiny", path, "what?", None, None, *LINK, Settings(**swept)))
    state, strip = first["state"], first["strip"]
    shown = last(
        sweep.run(
            page,
            ["svl-visual", "greedy-kl", "streamline"],
            ["lstsq"],
            2,
            2,
            "kl",
            state,
            strip,
            Settings(**swept),
        )
    )["sweep"]
    fit = page.workspace.samples("tiny", "demo", None, Settings(**swept))
    trace = svl.trace(tiny, fit)
    monkeypatch.setattr(page.workspace.backend, "rank", None)  # greedy KL is not measured again
    for name in ("svl-visual", "greedy-kl", "streamline"):
        out = last(
            sweep.load(
                page,
                shown,
                state,
                strip,
                None,
                Settings(visual_share=0.5),
                event=event(data=[name, "lstsq", 2]),
            )
        )
        true = svl.redundancy(
            trace,
            svl.importance(trace, causal_correction=True),
            name,
            top_p=svl.TopP(0.3),
            protect_ends=False,
            lvlm=tiny,
            samples=fit,
        )
        made = Settings(**{name: out[name] for name in page.recipe_controls})
        assert made == Settings(
            **{
                **swept,
                "max_new_tokens": 64,
                "criterion": name,
                "compensation": "lstsq",
                "calibration": "demo",
            }
        )
        assert (
            out["strip"]["drop"] == sorted(true.chosen(2))
            and ranked_by(out["strip"]) == name
            and out["drop"]["value"] == 2
        )
        assert out["strip"]["ranking"] == list(true.ranking) and out["strip"]["blocks"] == (
            true.blocks and [sorted(block) for block in true.blocks]
        )
        assert (
            "ranked on the bundled set (3 scenes), compensation is fitted on the same"
            in out["calibration-note"]
        )
    assert (
        last(sweep.load(page, shown, state, strip, None, Settings(), event=event(data=None))) == {}
    )
    with pytest.raises(InputError, match="run the sweep again"):
        last(
            sweep.load(
                page,
                shown,
                {**state, "model": "another"},
                strip,
                None,
                Settings(),
                event=event(data=["svl-visual", "lstsq", 2]),
            )
        )


def test_layers_of_a_point_stay_where_the_page_ranks_on_more_samples(page, analysed, own):
    """Of a visitor's own set a sweep ranks on one half, the page on all: the layers are the
    point's, and the slider then follows the criterion.
    """
    state, strip = analysed["state"], analysed["strip"]
    shown = last(sweep.run(page, ["random"], ["none"], 2, 8, "kl", state, strip, own))["sweep"]
    row = sweep.shown_rows(page, shown).rows[-1]
    monkey = replace(row, layers=(1, 4) if row.layers != (1, 4) else (1, 3))
    page.workspace.sweeps.put(
        shown["key"], replace(page.workspace.sweeps.get(shown["key"]), rows=(monkey,))
    )
    out = last(
        sweep.load(page, shown, state, strip, None, own, event=event(data=["random", "none", 2]))
    )
    assert (
        out["strip"]["drop"] == list(monkey.layers)
        and out["criterion"] == out["strip"]["criterion"] == "random"
        and out["calibration"] == "own"
        and "your own choice" in out["plan-line"]
    )
    out = last(
        sweep.load(
            page, shown, state, strip, None, Settings(), event=event(data=["random", "none", 2])
        )
    )
    assert out["calibration"] == "auto"  # the files went meanwhile


def test_a_sweep_says_what_it_measures_on_and_what_is_too_much(page, analysed, monkeypatch):
    state, strip = analysed["state"], analysed["strip"]
    out = last(
        sweep.run(page, ["svl"], ["none"], 1, 8, "kl", state, strip, Settings(max_new_tokens=4))
    )
    assert "on this very image" in out["sweep-status"]
    assert (
        sweep.drawn(page, out["sweep"], "accuracy")["sweep-measure"] == "agreement"
    )  # nobody knows this image's answer
    monkeypatch.setattr(page.workspace, "limits", replace(page.workspace.limits, sweep_points=3))
    with pytest.raises(gr.Error, match="4 pruned models"):
        last(sweep.run(page, ["svl"], ["none", "scp"], 1, 8, "kl", state, strip, Settings()))
    for nothing in (([], ["none"]), (["svl"], [])):
        with pytest.raises(InputError, match="tick"):
            next(sweep.run(page, *nothing, 1, 8, "kl", state, strip, Settings()))
    with pytest.raises(InputError, match="run the sweep"):
        sweep.write(page, None, "csv")


def test_fit_and_measured_scenes_differ_and_right_answers_are_counted(tiny, path, monkeypatch):
    page = page_of(tiny, {"tiny"})
    now = Settings(calibration_size=3)
    state = last(analyse(page, "tiny", path, "what?", None, None, *LINK, now))["state"]
    fit, measured, asked, said = sweep.samples_for(
        page, state, Settings(calibration_size=3), 4, QUIET
    )
    assert (
        not {s.key for s in fit} & {s.key for s in measured}
        and (len(fit), len(measured)) == (3, 4)
        and "4 other scenes" in said
    )
    assert [tiny.encode(one.image, one.question).key for one in asked] == [s.key for s in measured]
    strip = last(analyse(page, "tiny", path, "what?", None, None, *LINK, now))["strip"]
    right = iter([1.0, 0.25, 0.75])  # a curve is measured from its ends

    def marked(lvlm, questions, **settings):
        assert [q.answer for q in questions] == [q.answer for q in asked]
        return SimpleNamespace(accuracy=next(right))

    monkeypatch.setattr("svl_core.comparison.sweep.evaluate", marked)
    out = last(sweep.run(page, ["svl"], ["none"], 2, 4, "accuracy", state, strip, now))
    curve = next(
        trace
        for trace in json.loads(out["plot-sweep"]["figure"])["data"]
        if trace["mode"] == "lines+markers"
    )
    assert curve["y"] == [1.0, 0.75, 0.25] and "sweep-measure" not in out


def test_the_map_of_this_image(page, analysed, tiny):
    state, strip = analysed["state"], {**analysed["strip"], "drop": [2]}
    ask = ("samples", "loss", 1, state, strip, Settings(max_new_tokens=4))
    assert (
        ablation.show_known(page, *ask)["plot-ablation"] is None
        and ablation.show_known(page, "world", "accuracy", 1, state, strip, Settings())[
            "ablation-measure"
        ]["value"]
        == "loss"
    )
    out = last(ablation.run(page, *ask))
    found = ablate(tiny, [page.workspace.analysis_of(state).sample], max_new_tokens=4)
    drawn = json.loads(out["plot-ablation"]["figure"])
    packed = drawn["data"][0]["z"]
    z = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).reshape(-1, 6)
    assert np.allclose(z.T, found.token_matrix(0), atol=1e-3)
    assert json.loads(
        ablation.drawn(page, out["ablation-map"], "kl", 3, strip)["plot-ablation"]["figure"]
    )["data"][0]["customdata"][0][1][:2] == [1, 3]
    on = out["ablation-map"], "kl", 1
    held = dict.fromkeys(HELD) | dict(zip(ablation.REPORTED, on, strict=True))
    (found,) = measured(page, state, strip, held)
    assert found.figure is ablation.ABLATION and "1 sample against" in found.said
    assert measured(page, {**state, "model": "another"}, strip, held) == []
    written = report.write(page, [], {}, state, strip, Settings(), *held.values())
    text = Path(written["report-file"]).read_text(encoding="utf-8")
    assert text.count(f"<h2>{ablation.ABLATION.heading}</h2>") == 1 and "Click" not in text
    added = ablation.load(page, *on, strip, event(data=[3, 3]))  # layer 5 always stays
    assert added["strip"]["drop"] == [2, 3, 4]
    assert "Layers 3, 4 added to the plan, which drops 3 layers now." in added["ablation-status"]
    assert added["plot-ablation"] != out["plot-ablation"]
    kept = ablation.load(page, *on, added["strip"], event(data=[3, 1]))
    assert kept["strip"]["drop"] == [2, 4] and "Layer 3 kept again" in kept["ablation-status"]
    with pytest.raises(InputError, match="protected"):
        ablation.load(page, *on, strip, event(data=[0, 1]))


def test_evidence_runs_beside_the_answers(page, analysed, own):
    """A sweep lets other work have the model between its rows, and only its own Stop ends it."""

    class Asked:
        session_hash = "one"

    running = sweep.run(
        page,
        ["svl"],
        ["none"],
        4,
        8,
        "kl",
        analysed["state"],
        analysed["strip"],
        own,
        request=Asked,
    )
    for update in running:
        if "sweep" in update:
            break
    assert (
        "of 6 layers gone"
        in last(compare(page, analysed["state"], analysed["strip"], None, own, request=Asked))[
            "metrics"
        ]
    )
    assert stop(page, Asked) == {"status": ""} and page.workspace.jobs._deadlines
    stop(page, Asked, lane=EVIDENCE)
    assert (
        "pruned models measured" in (said := last(running)["sweep-status"])
        or "Stopped after" in said
    )


def test_rows_are_kept_in_the_order_asked_for():
    row = SweepRow("svl", "none", 1, (2,), 0.1, 0.9, 0.5, None, 1.1, 1.1, 1.1, 10)
    from svl_core.comparison.sweep import Sweep

    kept = Sweep(
        {}, (replace(row, drop=2), row, replace(row, criterion="random"), replace(row, drop=5))
    )
    assert [
        r.drop
        for r in sweep.chosen(
            kept, {"criteria": ["svl"], "compensations": ["none"], "most": 4}
        ).rows
    ] == [1, 2]
