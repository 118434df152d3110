"""Fold "Which half of a layer is redundant?": what is measured, marked and asked is the library's,
at the cost of one pass, and the command line shown prunes just that.
"""

import base64
import html
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import picture
from updates import LINK, last

import svl_core as svl
from svl_core.analysis import sublayers as measuring
from svl_core.cli.main import main
from svl_core.service import halves as found_halves
from svl_core.service.workspace import HALVES, LANES
from svl_core.ui.state import commands, exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import halves, head
from svl_core.ui.steps.evidence import calibration
from svl_core.ui.steps.share import report
from svl_core.ui.work.analysing import analyse

USUAL = Settings()


@pytest.fixture
def asked(analysed):
    """(state, strip) of an analysed page that drops two layers."""
    return analysed["state"], {**analysed["strip"], "drop": [2, 3]}


@pytest.fixture
def passes(monkeypatch):
    """The passes that measured halves."""
    taken = []
    measured = measuring._measured

    def counted(*values):
        taken.append(1)
        return measured(*values)

    monkeypatch.setattr(measuring, "_measured", counted)
    return taken


def measured(page, asked, settings=USUAL):
    return last(halves.measure(page, *asked, settings))


def curves(update):
    """name -> {"x", "y"} of each trace of the figure."""
    traces = json.loads(update["plot-halves"]["figure"])["data"]
    return {trace["name"]: {axis: numbers(trace[axis]) for axis in "xy"} for trace in traces}


def numbers(values):
    """An axis of a figure: a list, or packed."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return values


def true_plan(page, asked, lvlm, settings):
    """The plan of as many halves as two layers have, by the library alone."""
    trace = page.workspace.analysis_of(asked[0]).trace
    scores = svl.redundancy(
        trace,
        svl.importance(trace),
        settings.criterion,
        lvlm=lvlm,
        samples=[traced.sample for traced in trace.samples],
        granularity="half",
        seed=settings.seed,
    )
    return svl.plan(scores, 4)


def marked(drawn):
    """(layer, half) of all marks, from the figure alone: a mark lies on the line of its half."""
    lines = {half: drawn[half]["y"] for half in drawn if half not in ("dropped", "skipped")}
    marks = set()
    for kind in ("dropped", "skipped"):
        trace = drawn.get(kind, {"x": (), "y": ()})
        for layer, height in zip(trace["x"], trace["y"], strict=True):
            marks |= {(layer, half) for half, line in lines.items() if line[layer] == height}
    return marks


def halves_in(plan):
    """The same of a plan."""
    both = {(layer, half) for layer in plan.drop for half in ("attention", "MLP")}
    alone = {(layer, "attention") for layer in plan.attention}
    return both | alone | {(layer, "MLP") for layer in plan.mlp}


@pytest.mark.parametrize("criterion", ["svl", *found_halves.TOKENS, "random"])
def test_one_pass_measures_and_marks_as_the_library_does(page, asked, tiny, passes, criterion):
    settings = Settings(criterion=criterion)
    drawn = curves(measured(page, asked, settings))
    assert len(passes) == 1
    trace = page.workspace.analysis_of(asked[0]).trace
    tokens = found_halves.TOKENS.get(criterion, "important")
    true = svl.sublayers(tiny, trace, svl.importance(trace), tokens=tokens)
    assert np.allclose(drawn["attention"]["y"], true.cosine[:, 0], atol=1e-6)
    assert np.allclose(drawn["MLP"]["y"], true.cosine[:, 1], atol=1e-6)
    assert marked(drawn) == halves_in(true_plan(page, asked, tiny, settings))


def test_the_plan_moves_the_marks_without_a_pass(page, asked, tiny, passes):
    state, strip = asked
    before = marked(curves(measured(page, asked)))
    more = marked(curves(measured(page, (state, {**strip, "drop": [1, 2, 3]}))))
    assert len(passes) == 1
    assert len(before) == 4 and len(more) == 6 and before < more  # plans are nested
    none = measured(page, (state, {**strip, "drop": []}))
    assert marked(curves(none)) == set()
    assert halves.NOTHING in none["halves-said"] and "svl prune" not in none["halves-said"]


def test_what_is_open_is_asked_for_again_when_it_is_new(page, asked):
    """Another number, another criterion; not another choice of as many layers, nor a look."""
    state, strip = asked

    def named(strip=strip, settings=USUAL):
        return halves.open_fold(page, state, strip, settings)["halves-sight"]

    assert named() == named({**strip, "drop": [1, 2]}) == named(settings=Settings(opacity=0.1))
    others = named({**strip, "drop": [1]}), named(settings=Settings(criterion="svl-all"))
    assert len({named(), *others}) == 3
    assert halves.open_fold(page, None, None, Settings()) == {}
    assert last(halves.measure(page, None, None, Settings())) == {}


@pytest.mark.parametrize("criterion", ["angular", "streamline"])
def test_criteria_of_whole_layers_say_so(page, asked, passes, criterion):
    update = measured(page, asked, Settings(criterion=criterion))
    assert len(passes) == 1 and marked(curves(update)) == set()
    title = svl.CRITERIA[criterion].title
    assert f"{title} measures whole layers only, so no half is marked" in update["halves-said"]
    assert "SLEB" in update["halves-said"]


def test_criteria_that_run_the_model_wait_for_the_button(page, asked, tiny, passes):
    settings = Settings(criterion="greedy-kl", max_new_tokens=3)
    update = measured(page, asked, settings)
    assert len(passes) == 1 and marked(curves(update)) == set()
    assert "none is marked before you press" in update["halves-said"]
    update = last(halves.ask(page, *asked, settings))
    plan = true_plan(page, asked, tiny, settings)
    assert marked(curves(update)) == halves_in(plan)
    assert measured(page, asked, settings) == update


def test_what_is_found_is_kept(page, asked, monkeypatch):
    first = measured(page, asked)
    for name in ("sublayers", "rank"):
        monkeypatch.setattr(page.workspace.backend, name, lambda *a, **k: pytest.fail("ran"))
    assert measured(page, asked) == first


def test_layers_that_cannot_be_taken_apart_are_told(page, asked, monkeypatch):
    from svl_core.errors import InputError

    def refuse(*values):
        raise InputError("Found layers that cannot be told apart; expected others; choose one.")

    monkeypatch.setattr(page.workspace.backend, "sublayers", refuse)
    update = measured(page, asked)
    assert "cannot be told apart" in update["halves-note"] and update["plot-halves"] is None


def test_a_borrowed_gpu_is_not_asked(page, asked, monkeypatch):
    monkeypatch.setattr(page.workspace.backend, "computes_here", lambda name: False)
    assert "borrows its GPU" in measured(page, asked)["halves-note"]
    assert halves.measured(page.view(asked[0], Settings(), asked[1])) == []


def test_it_ends_like_other_work(page):
    assert HALVES in LANES
    outputs = {page["plot-halves"]}
    heavy = [event for event in page.blocks.fns.values() if outputs & set(event.outputs)]
    assert len(heavy) == 2 and {event.concurrency_id for event in heavy} == {"model"}


def test_the_answers_are_those_of_the_library(page, asked, tiny):
    settings = Settings(max_new_tokens=3)
    updates = list(halves.ask(page, *asked, settings))
    update = last(updates)
    plan = true_plan(page, asked, tiny, settings)
    sample = page.workspace.analysis_of(asked[0]).sample
    true = svl.compare(tiny, svl.prune(tiny, plan), sample, max_new_tokens=3)
    text = re.sub(r"<[^>]+>", "", update["halves-answers"])
    assert true.full.text.split()[0] in text and true.pruned.text.split()[0] in text
    assert f"{true.kl:.3f}" in text and f"{100 * true.agreement:.0f} %" in text
    assert f"expected {true.speed_decode.expected:.2f}×" in text
    fewer = 1 - true.parameters_pruned / true.parameters_full
    assert f"4 of 12 halves gone, {100 * fewer:.0f} % fewer parameters" in text
    assert "8 halves, no compensation" in text
    other = {**asked[1], "drop": [1]}
    assert measured(page, (asked[0], other), settings)["halves-answers"] == ""  # of another plan
    assert measured(page, asked, settings)["halves-answers"] == update["halves-answers"]


def test_nothing_dropped_is_not_asked(page, asked):
    with pytest.raises(Exception, match="Found no dropped layer"):
        last(halves.ask(page, asked[0], {**asked[1], "drop": []}, Settings()))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(criterion="svl-all", protect_ends=False),
        Settings(criterion="random", seed=5),
        Settings(top_p=0.2, text_self="given"),
    ],
    ids=["usual", "ends", "drawn", "weighed"],
)
def test_the_command_prunes_the_marked_halves(page, asked, tiny, path, tmp_path, settings):
    tiny.save(tmp_path / "model")
    said = measured(page, asked, settings)["halves-said"]
    line = html.unescape(re.search(r"<code>(.*?)</code>", said)[1])
    words = shlex.split(line)
    assert words[:2] == ["svl", "prune"]
    placed = {
        page.workspace.models.first: str(tmp_path / "model"),
        commands.IMAGE: path,
        commands.OUT: str(tmp_path / "out"),
    }
    assert main([placed.get(word, word) for word in words[1:]]) == 0
    record = json.loads((tmp_path / "out" / "svl_plan.json").read_text(encoding="utf-8"))
    shown = halves.halves_of(page.view(asked[0], settings, asked[1])).known_plan()
    recipe = record["recipe"]
    named = [recipe[name] or [] for name in ("layers", "drop_attention", "drop_mlp")]
    assert named == [list(layers) for layers in shown.key]


def test_the_command_names_a_set(asked):
    state = asked[0]
    of_demo = commands.prune_halves(state, 4, Settings(calibration_size=9), "demo")
    assert "--calibration demo" in of_demo and "--calibration-size 9" in of_demo
    assert "--seed 7" in of_demo and "--prompt" not in of_demo
    assert "--calibration calibration/" in commands.prune_halves(state, 4, Settings(), "own")


def test_the_report_has_what_was_opened(page, asked):
    def written():
        file = report.write(page, [], None, *asked, USUAL)["report-file"]
        return html.unescape(Path(file).read_text(encoding="utf-8"))

    assert halves.CURVES.heading not in written()
    measured(page, asked)
    text = written()
    assert halves.CURVES.heading in text
    shown = page.view(asked[0], USUAL, asked[1])
    plan = halves.halves_of(shown).known_plan()
    assert halves.in_words(plan, shown.layer_ids) in text
    assert "<script" not in text


@pytest.mark.parametrize("query", ["granularity=half&drop=6", "drop_mlp=3", "drop_attention=1,2"])
def test_a_link_to_halves_opens_the_page_with_a_sentence(page, query):
    """Its numbers are no layers, so none of these goes."""
    opened = head.open_address(page, SimpleNamespace(query_params=query))
    note = html.unescape(opened["link-note"])
    assert "Found a plan of halves of layers" in note and halves.FOLD in note
    assert "wanted" not in opened


def test_a_link_to_layers_is_read_as_before():
    link = "granularity=layer&drop=2,3"
    assert exports.read_query(link)["drop"] == [2, 3] and exports.refused_in(link) == []


def test_half_of_a_plan_in_words():
    """By the original model's numbers, a layer that goes whole among them."""
    plan = svl.DropPlan((1,), 4, "svl", attention=(0,), mlp=(2, 3))
    said = halves.in_words(plan, (0, 2, 4, 6))
    title = svl.CRITERIA["svl"].title
    assert said == (
        f"{title} would skip 5 halves: both halves of layer 2, the attention of layer 0 and the MLP"
        " of layers 4, 6."
    )


def test_a_set_is_measured_at_the_press_of_the_button(page, asked, tiny, tmp_path, passes):
    """One pass over the question when the fold opens, one over each sample once it is asked."""
    paths = []
    for seed in (1, 2, 3):
        paths.append(str(tmp_path / f"own{seed}.png"))
        picture(seed=seed).save(paths[-1])
    brought = calibration.bring(page, paths, "what is it?", None)["own"]
    settings = Settings(own=brought, calibration="own", max_new_tokens=2)
    waiting = measured(page, asked, settings)
    assert len(passes) == 1 and marked(curves(waiting)) == set()
    assert "runs the model on 3 samples to rank halves" in waiting["halves-said"]
    update = last(halves.ask(page, *asked, settings))
    assert len(passes) == 4
    samples = [tiny.encode(path, "what is it?") for path in paths]
    trace = svl.trace(tiny, samples)
    weights = svl.importance(trace)
    scores = svl.redundancy(trace, weights, "svl", lvlm=tiny, granularity="half")
    assert marked(curves(update)) == halves_in(svl.plan(scores, 4))
    assert "--calibration calibration/" in update["halves-said"]


def test_tokens_that_are_not_there_are_told(page):
    """A criterion of visual tokens on a prompt alone: a sentence, and a report without a plan."""
    name = page.workspace.models.first
    settings = Settings(criterion="svl-visual")
    update = last(analyse(page, name, None, "what is it?", None, None, *LINK, USUAL))
    asked = update["state"], {**update["strip"], "drop": [2]}
    found = measured(page, asked, settings)
    assert "Found no scores of the criterion" in found["halves-note"]
    assert found["plot-halves"] is None
    assert halves.measured(page.view(asked[0], settings, asked[1])) == []
    at_once = measured(page, asked)
    assert marked(curves(at_once)) and "--image" not in at_once["halves-said"]


def test_measuring_is_cancelled_like_other_work(page, asked, monkeypatch):
    real = svl.sublayers
    stopped = []

    def slow(*values, run, **options):
        (lane,) = page.workspace.jobs._deadlines
        page.workspace.stop(lane.removesuffix(HALVES), HALVES)
        stopped.append(run.cancelled)
        return real(*values, run=run, **options)

    monkeypatch.setattr(svl, "sublayers", slow)
    update = measured(page, asked)
    assert stopped == [True] and update["halves-note"] == "" and not update["plot-halves"]
    free = page.workspace.models.busy.acquire(timeout=5)
    assert free and not page.workspace.jobs._deadlines
    page.workspace.models.busy.release()
