"""Ranking stability, sweeps and the ablation map behind the page, on the tiny model."""

import base64
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from tiny import picture
from updates import LINK, last, settings

import svl_core as svl
from svl_core.comparison.ablation import ablate
from svl_core.comparison.calibration import split
from svl_core.comparison.sweep import SweepRow, sweep
from svl_core.errors import InputError
from svl_core.ui.handlers import EVIDENCE, Desk
from svl_core.ui.sections import ablations, calibration, stability, sweeps
from svl_core.service.stores import Models
from svl_core.ui.state.settings import RECIPE, Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.wiring import CONTROLS


@pytest.fixture
def own(desk, tmp_path):
    """Controls with four pictures as the visitor's own set."""
    paths = []
    for k in range(4):
        picture(seed=k + 1).save(tmp_path / f"own{k}.png")
        paths.append(str(tmp_path / f"own{k}.png"))
    return settings(
        own=calibration.brought(desk, paths, "what is in the top left?", None)["own"],
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


def test_stability_is_that_of_the_set(desk, analysed, own, tiny):
    out = last(
        stability.resample(desk, analysed["state"], {**analysed["strip"], "drop": [1, 2]}, *own)
    )
    samples = [tiny.encode(path, prompt) for path, prompt in next(iter(desk.own_sets.values()))]
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
    with pytest.raises(gr.Error, match="calibration set"):
        last(stability.resample(desk, analysed["state"], analysed["strip"], *settings()))


def test_a_criterion_that_runs_the_model_is_resampled_once_it_is_wanted(desk, analysed, tiny, own):
    """Opening the fold runs no model for it; then its layers' measure on each sample serves every
    number of layers.
    """
    state, strip, asked = analysed["state"], {**analysed["strip"], "drop": [1, 2]}, list(own)
    asked[CONTROLS.index("criterion")] = "greedy-kl"
    waiting = last(stability.resample(desk, state, strip, *asked, wanted=False))
    assert (
        "Press “Resample the set”" in waiting["stability-note"]
        and waiting["plot-stability"] is None
    )
    out = last(stability.resample(desk, state, strip, *asked))
    samples = [tiny.encode(path, prompt) for path, prompt in next(iter(desk.own_sets.values()))]
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
    assert last(stability.resample(desk, state, strip, *asked, wanted=False)) == out
    assert (
        "of the same 3 layers"
        in last(
            stability.resample(desk, state, {**strip, "drop": [1, 2, 3]}, *asked, wanted=False)
        )["stability-note"]
    )
    asked[CONTROLS.index("criterion")] = "random"
    assert (
        "Random cannot be resampled"
        in last(stability.resample(desk, state, strip, *asked, wanted=False))["stability-note"]
    )


def test_stop_ends_a_sweep_within_a_pass_and_keeps_its_rows(desk, analysed, own, tiny, monkeypatch):
    """Counted in layers, not in seconds: behind a Stop inside a pass no layer runs any more."""
    rows, after, put = [], [], desk.sweeps.put
    monkeypatch.setattr(
        desk.sweeps,
        "put",
        lambda key, made, *size: (rows.append(made.rows[-1]), put(key, made, *size)),
    )

    def watched(*_):
        if after:
            after.append("ran on")
        elif len(rows) == 2:
            assert desk.jobs.cancel(next(iter(desk.jobs._deadlines))) == 1
            after.append("stopped here")

    hooks = [layer.register_forward_pre_hook(watched) for layer in tiny.layers]
    try:
        out = last(
            sweeps.run(
                desk,
                ["svl"],
                ["none"],
                4,
                8,
                "agreement",
                analysed["state"],
                analysed["strip"],
                *own,
            )
        )
        assert (
            desk.models.busy.acquire(timeout=1) and not desk.jobs._deadlines
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
    desk, analysed, own, tiny, monkeypatch
):
    state, strip = analysed["state"], analysed["strip"]
    ask = lambda *names, most=2: sweeps.run(
        desk, list(names), ["none", "scp"], most, 8, "agreement", state, strip, *own
    )  # noqa: E731
    measured_rows = []
    real = desk.backend.sweep

    def counted(*values):
        *head, each, run = values

        def after(found):
            measured_rows.append(found.rows[-1])
            each(found)
            if len(measured_rows) == 2:
                desk.jobs.cancel(next(iter(desk.jobs._deadlines)))

        return real(*head, after, run)

    monkeypatch.setattr(desk.backend, "sweep", counted)
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
        [tiny.encode(path, prompt) for path, prompt in next(iter(desk.own_sets.values()))], 0.5
    )
    true = sweep(
        tiny,
        held,
        fit,
        compensations=("none", "scp"),
        drops=range(3),
        max_new_tokens=4,
        repeats=1,
        compensation_settings={"rank": 4, "strength": 1.0, "targets": ("mlp",)},
    )
    assert [
        (r.layers, round(r.kl, 6), r.agreement) for r in sweeps._sweep(desk, out["sweep"]).rows
    ] == [(r.layers, round(r.kl, 6), r.agreement) for r in true.rows]
    last(ask("svl", "shortgpt", most=1))  # other criteria join what is there
    assert len(measured_rows) == 6 + 4
    table = list(
        csv.DictReader(
            io.StringIO(
                Path(sweeps.written(desk, out["sweep"], "csv", None)["sweep-file"]).read_text()
            )
        )
    )
    assert len(table) == 6 and {row["compensation"] for row in table} == {"none", "scp"}
    assert (
        len(
            json.loads(
                Path(sweeps.written(desk, out["sweep"], "json", None)["sweep-file"]).read_text()
            )["rows"]
        )
        == 6
    )
    assert (
        len(json.loads(sweeps.drawn(desk, out["sweep"], "kl")["plot-sweep"]["figure"])["data"]) >= 2
    )


def test_a_point_brings_all_that_it_was_made_with(tiny, path, monkeypatch):
    """Every control of the recipe, and a strip that is ranked as the sweep was: its slider goes on
    along the point's curve, without running the model for it again.
    """
    desk = Desk(Models(tiny), frozenset({"tiny"}))
    swept = {
        "calibration_size": 3,
        "rank": 2,
        "top_p": 0.3,
        "causal_correction": True,
        "protect_ends": False,
        "max_new_tokens": 3,
    }
    first = last(desk.analyse("tiny", path, "what?", None, None, *LINK, *settings(**swept)))
    state, strip = first["state"], first["strip"]
    shown = last(
        sweeps.run(
            desk,
            ["svl-visual", "greedy-kl", "streamline"],
            ["lstsq"],
            2,
            2,
            "kl",
            state,
            strip,
            *settings(**swept),
        )
    )["sweep"]
    fit = desk.samples("tiny", "demo", None, calibration.Settings(**swept))
    trace = svl.trace(tiny, fit)
    monkeypatch.setattr(desk.backend, "rank", None)  # greedy KL is not measured again
    for name in ("svl-visual", "greedy-kl", "streamline"):
        out = last(
            sweeps.load(
                desk,
                shown,
                state,
                strip,
                None,
                *settings(visual_share=0.5),
                event={"data": [name, "lstsq", 2]},
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
        made = Settings(**{field: out[field] for field in RECIPE})
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
        last(sweeps.load(desk, shown, state, strip, None, *settings(), event={"data": None})) == {}
    )
    with pytest.raises(InputError, match="run the sweep again"):
        last(
            sweeps.load(
                desk,
                shown,
                {**state, "model": "another"},
                strip,
                None,
                *settings(),
                event={"data": ["svl-visual", "lstsq", 2]},
            )
        )


def test_layers_of_a_point_stay_where_the_page_ranks_on_more_samples(desk, analysed, own):
    """Of a visitor's own set a sweep ranks on one half, the page on all: the layers are the
    point's, and the slider then follows the criterion.
    """
    state, strip = analysed["state"], analysed["strip"]
    shown = last(sweeps.run(desk, ["random"], ["none"], 2, 8, "kl", state, strip, *own))["sweep"]
    row = sweeps._sweep(desk, shown).rows[-1]
    monkey = replace(row, layers=(1, 4) if row.layers != (1, 4) else (1, 3))
    desk.sweeps.put(shown["key"], replace(desk.sweeps.get(shown["key"]), rows=(monkey,)))
    out = last(
        sweeps.load(desk, shown, state, strip, None, *own, event={"data": ["random", "none", 2]})
    )
    assert (
        out["strip"]["drop"] == list(monkey.layers)
        and out["criterion"] == out["strip"]["criterion"] == "random"
        and out["calibration"] == "own"
        and "your own choice" in out["plan-line"]
    )
    out = last(
        sweeps.load(
            desk, shown, state, strip, None, *settings(), event={"data": ["random", "none", 2]}
        )
    )
    assert out["calibration"] == "auto"  # the files went meanwhile


def test_a_sweep_says_what_it_measures_on_and_what_is_too_much(desk, analysed, monkeypatch):
    state, strip = analysed["state"], analysed["strip"]
    out = last(
        sweeps.run(desk, ["svl"], ["none"], 1, 8, "kl", state, strip, *settings(max_new_tokens=4))
    )
    assert "on this very image" in out["sweep-status"]
    assert (
        sweeps.drawn(desk, out["sweep"], "accuracy")["sweep-measure"] == "agreement"
    )  # nobody knows this image's answer
    monkeypatch.setattr(desk.workspace, "limits", replace(desk.limits, sweep_points=3))
    with pytest.raises(gr.Error, match="4 pruned models"):
        last(sweeps.run(desk, ["svl"], ["none", "scp"], 1, 8, "kl", state, strip, *settings()))
    for nothing in (([], ["none"]), (["svl"], [])):
        with pytest.raises(InputError, match="tick"):
            next(sweeps.run(desk, *nothing, 1, 8, "kl", state, strip, *settings()))
    with pytest.raises(InputError, match="run the sweep"):
        sweeps.written(desk, None, "csv", None)


def test_fit_and_measured_scenes_differ_and_right_answers_are_counted(tiny, path, monkeypatch):
    desk = Desk(Models(tiny), frozenset({"tiny"}))
    now = settings(calibration_size=3)
    state = last(desk.analyse("tiny", path, "what?", None, None, *LINK, *now))["state"]
    fit, measured, asked, said = sweeps.sides(
        desk, state, calibration.Settings(calibration_size=3), 4, lambda item: None, None
    )
    assert (
        not {s.key for s in fit} & {s.key for s in measured}
        and (len(fit), len(measured)) == (3, 4)
        and "4 other scenes" in said
    )
    assert [tiny.encode(one.image, one.question).key for one in asked] == [s.key for s in measured]
    strip = last(desk.analyse("tiny", path, "what?", None, None, *LINK, *now))["strip"]
    right = iter([1.0, 0.75, 0.25])

    def marked(lvlm, questions, **settings):
        assert [q.answer for q in questions] == [q.answer for q in asked]
        return SimpleNamespace(accuracy=next(right))

    monkeypatch.setattr("svl_core.comparison.sweep.evaluate", marked)
    out = last(sweeps.run(desk, ["svl"], ["none"], 2, 4, "accuracy", state, strip, *now))
    curve = next(
        trace
        for trace in json.loads(out["plot-sweep"]["figure"])["data"]
        if trace["mode"] == "lines+markers"
    )
    assert curve["y"] == [1.0, 0.75, 0.25] and "sweep-measure" not in out


def test_the_map_of_this_image(desk, analysed, tiny):
    state, strip = analysed["state"], {**analysed["strip"], "drop": [2]}
    ask = ("samples", "loss", 1, state, strip, *settings(max_new_tokens=4))
    assert (
        ablations.at_once(desk, *ask)["plot-ablation"] is None
        and ablations.at_once(desk, "world", "accuracy", 1, state, strip, *settings())[
            "ablation-measure"
        ]["value"]
        == "loss"
    )
    out = last(ablations.run(desk, *ask))
    found = ablate(tiny, [desk.analysis_of(state).sample], max_new_tokens=4)
    drawn = json.loads(out["plot-ablation"]["figure"])
    packed = drawn["data"][0]["z"]
    z = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).reshape(-1, 6)
    assert np.allclose(z.T, found.token_matrix(0), atol=1e-3)
    assert json.loads(
        ablations.drawn(desk, out["ablation-map"], "kl", 3, strip)["plot-ablation"]["figure"]
    )["data"][0]["customdata"][0][1][:2] == [1, 3]
    assert ablations.load(strip, {"data": [3, 3]})["strip"]["drop"] == [3, 4]
    with pytest.raises(InputError, match="protected"):
        ablations.load(strip, {"data": [0, 1]})


def test_evidence_runs_beside_the_answers(desk, analysed, own):
    """A sweep lets other work have the model between its rows, and only its own Stop ends it."""

    class Asked:
        session_hash = "one"

    running = sweeps.run(
        desk,
        ["svl"],
        ["none"],
        4,
        8,
        "kl",
        analysed["state"],
        analysed["strip"],
        *own,
        request=Asked,
    )
    for update in running:
        if "sweep" in update:
            break
    assert (
        "of 6 layers gone"
        in last(desk.compare(analysed["state"], analysed["strip"], None, *own, request=Asked))[
            "metrics"
        ]
    )
    assert desk.stop(Asked) == {"status": ""} and desk.jobs._deadlines
    desk.stop(Asked, EVIDENCE)
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
        for r in sweeps.chosen(
            kept, {"criteria": ["svl"], "compensations": ["none"], "most": 4}
        ).rows
    ] == [1, 2]
