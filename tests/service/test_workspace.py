"""The workspace: everything is computed once for its content, and refused in a sentence."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import svl_core as svl
from svl_core.demo.questions import labelled
from svl_core.errors import Cancelled, InputError
from svl_core.progress import Run
from svl_core.recipe import DEMO, OWN, THIS, Recipe
from svl_core.service import calibration, derived
from svl_core.service.backend import LocalBackend
from svl_core.service.limits import HOME, PUBLIC
from svl_core.service.settings import VisitorSettings as Settings
from svl_core.service.stores import Analysis, Models
from svl_core.service.tasks import Deadline
from svl_core.service.workspace import EVIDENCE, RANKING, Workspace

PROMPT = "what is in the top left?"


@pytest.fixture
def analysis(workspace, path):
    return workspace.analyse("tiny", path, PROMPT)


@pytest.fixture
def own(workspace, image, tmp_path):
    """Settings that rank and fit on four pictures of a visitor's own."""
    paths = []
    for k in range(4):
        picture = image.copy()
        picture.putpixel((k, 0), (200, 10 * k, 30))
        paths.append(str(tmp_path / f"own{k}.png"))
        picture.save(paths[-1])
    pairs = calibration.read_files(paths, "where is the cat?")
    mark = calibration.digest(pairs)
    workspace.own_sets[mark] = pairs
    return Settings(calibration=OWN, own=mark)


def state_of(analysis, path):
    return {"model": "tiny", "key": analysis.sample.key, "path": path, "prompt": PROMPT}


def ban_passes(monkeypatch):
    monkeypatch.setattr(svl, "trace", lambda *a, **k: pytest.fail("a forward pass"))


# ------------------------------------------------------------------------------ analyses
def test_an_analysis_is_made_once(workspace, path, analysis, monkeypatch):
    reported = []
    run = Run(lambda share, what: reported.append((share, what)))
    ban_passes(monkeypatch)
    assert workspace.analyse("tiny", path, PROMPT, run) is analysis
    assert reported == [(0.05, "Reading the image …")]
    assert workspace.analysis_of(state_of(analysis, path)) is analysis


def test_an_evicted_analysis_is_made_again(workspace, path, analysis):
    workspace.analyses.clear()
    again = workspace.analysis_of(state_of(analysis, path))
    assert again is not analysis and again.sample.key == analysis.sample.key


def test_what_cannot_be_analysed_is_said(workspace, path, tmp_path):
    for wrong in (str(tmp_path / "gone.png"), str(tmp_path)):
        with pytest.raises(InputError, match="choose it again"):
            workspace.analyse("tiny", wrong, PROMPT)
    workspace.limits = replace(HOME, prompt_chars=3)
    with pytest.raises(InputError, match="characters in the prompt"):
        workspace.analyse("tiny", path, PROMPT)
    workspace.limits, workspace.scene_models = HOME, frozenset({"tiny"})
    with pytest.raises(InputError, match="Found no image"):
        workspace.analyse("tiny", None, PROMPT)


def test_loading_is_told_and_can_be_cancelled(tmp_path):
    release, reported = threading.Event(), []

    def load(name):
        release.wait(20)
        return name.upper()

    workspace = Workspace(Models("first", load), frozenset(), HOME, lambda: tmp_path)
    workspace.models.loading["slow"] = 0.5, "reading the weights"
    run = Run(lambda share, what: (reported.append((share, what)), release.set()))
    assert workspace.load_model("slow", run) == "SLOW"
    assert reported[0] == (0.5, "Loading slow … reading the weights")
    release.clear()
    cancelled = Deadline()
    cancelled.set()
    with pytest.raises(Cancelled):
        workspace.load_model("another", Run(cancel=cancelled))
    release.set()


# --------------------------------------------------------------------------- calibration
def test_sources_are_encoded_and_traced_once(workspace, analysis, own, monkeypatch):
    assert workspace.samples("tiny", THIS, analysis, own) is analysis.samples
    assert workspace.analysis_of_source("tiny", THIS, analysis, own) is analysis
    traced = workspace.analysis_of_source("tiny", OWN, analysis, own)
    assert len(traced.samples) == 4
    ban_passes(monkeypatch)
    assert workspace.samples("tiny", OWN, analysis, own) is traced.samples
    assert workspace.analysis_of_source("tiny", OWN, analysis, own) is traced


def test_the_bundled_set_is_drawn_by_its_size_and_seed(workspace):
    few = workspace.samples("tiny", DEMO, None, Settings(calibration_size=3, seed=7))
    same = workspace.samples("tiny", DEMO, None, Settings(calibration_size=3, seed=7))
    other = workspace.samples("tiny", DEMO, None, Settings(calibration_size=3, seed=8))
    assert same is few and len(few) == len(other) == 3
    assert [s.key for s in few] != [s.key for s in other]
    workspace.limits = replace(HOME, calibration_samples=2)
    with pytest.raises(InputError, match="4 calibration samples"):
        workspace.samples("tiny", DEMO, None, Settings(calibration_size=4))


def test_own_files_that_went_or_are_none_are_named(workspace, tmp_path):
    with pytest.raises(InputError, match="none of your files any more"):
        workspace.samples("tiny", OWN, None, Settings(own="gone"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    workspace.own_sets["x"] = ((str(broken), "what?"),)
    with pytest.raises(InputError, match="In the file 'broken.png': found data"):
        workspace.samples("tiny", OWN, None, Settings(own="x"))


def test_large_pictures_are_counted_where_they_are_kept(workspace, tiny, image, tmp_path):
    """Sets in pixels before the model reads them, analyses in the bytes of their pictures too."""
    paths = []
    for k in range(3):
        paths.append(str(tmp_path / f"{k}.png"))
        image.save(paths[-1])
    size = image.width * image.height
    workspace.limits = replace(PUBLIC, set_pixels=2 * size)
    workspace.own_sets["three"] = calibration.read_files(paths, "what?")
    with pytest.raises(InputError, match=f"{3 * size:,} pixels"):
        workspace.samples("tiny", OWN, None, Settings(own="three"))
    (tmp_path / "list.jsonl").write_text('{"image": "0.png", "prompt": "' + "x" * 3000 + '"}\n')
    listed = calibration.read_files([*paths, str(tmp_path / "list.jsonl")], "what?")
    workspace.own_sets["listed"] = listed
    with pytest.raises(InputError, match="characters in a prompt of the set"):
        workspace.samples("tiny", OWN, None, Settings(own="listed"))
    small, large = (tiny.encode(picture, "what?") for picture in (image, image.resize((600, 400))))
    traces = [svl.trace(tiny, [sample]) for sample in (small, large)]
    found = [
        Analysis("tiny", (sample,), trace, None).nbytes
        for sample, trace in zip((small, large), traces, strict=True)
    ]
    assert found[1] - found[0] == 3 * (600 * 400 - size)


def test_the_set_beside_this_image(workspace, path, analysis, own):
    state = state_of(analysis, path)
    assert workspace.evidence_source(state, own) == OWN
    with pytest.raises(InputError, match="no calibration set for this model"):
        workspace.evidence_source(state, Settings())
    assert workspace.evidence_source(state, replace(own, calibration=THIS)) == OWN
    workspace.scene_models = frozenset({"tiny"})
    assert workspace.evidence_source(state, Settings()) == DEMO
    assert workspace.ranking_analysis(state, Settings()) is analysis
    assert workspace.ranking_analysis(state, own).samples != analysis.samples


# ------------------------------------------------------------------------------ rankings
def test_rankings_run_the_model_once(workspace, analysis, monkeypatch):
    settings = Settings()
    from_trace = workspace.rank(analysis, settings)
    assert workspace.rank(analysis, settings) is from_trace
    expected = svl.redundancy(analysis.trace, analysis.importance, "svl")
    assert from_trace.ranking == expected.ranking
    assert workspace.cached_ranking(analysis, settings, "greedy-kl") is None
    two = workspace.rank(analysis, settings, criterion="greedy-kl", rounds=2)
    assert workspace.cached_ranking(analysis, settings, "greedy-kl") is None
    whole = workspace.rank(analysis, settings, criterion="greedy-kl")
    assert whole.ranking[:2] == two.ranking[:2]
    monkeypatch.setattr(LocalBackend, "rank", None)
    for rounds in (None, 1, 3):  # a ranking of all rounds serves for fewer
        assert workspace.rank(analysis, settings, criterion="greedy-kl", rounds=rounds) is whole


def test_settings_that_change_a_ranking_make_another_key():
    key = derived.scores_key
    base = Recipe()
    for change in ({"top_p": 0.2}, {"top_p_mode": "mass"}, {"protect_ends": False}):
        assert key("svl", base.changed(**change)) != key("svl", base)
    assert key("greedy-kl", base.changed(top_p=0.2)) == key("greedy-kl", base)
    assert key("random", base.changed(seed=1)) != key("random", base)
    assert key("svl", base.changed(rank=9)) == key("svl", base)
    plain = Settings(rank=9, own="x").recipe
    assert type(plain) is Recipe and plain.rank == 9


def test_competing_settings_rank_as_they_competed(workspace, analysis, own, monkeypatch):
    preset = svl.PRESETS["best"]
    best = replace(own, **{name: getattr(preset.recipe, name) for name in preset.sets})
    assert workspace.contest("tiny", best) is preset
    assert workspace.contest("tiny", replace(own, rank=7, compensation="refit")) is None
    asked = []
    monkeypatch.setattr(
        Workspace, "rank", lambda self, *given, **options: asked.append(options) or "ranking"
    )
    assert workspace.rank_for_count(analysis, best, 3) == "ranking"
    assert workspace.rank_for_count(analysis, own, 3) == "ranking"
    assert asked == [{"rounds": 3, "most": preset.ranked_on}, {}]


# --------------------------------------------------------------------------- comparisons
def test_a_comparison_is_found_by_plan_and_settings(workspace, analysis):
    settings, strip = Settings(compensation="scp"), {"drop": [2, 3]}
    assert workspace.comparison_of(analysis, strip, settings) is None
    plan, reported, grown = svl.manual_plan([2, 3], 6), [], []
    compared = workspace.backend.compare(
        "tiny",
        analysis.sample,
        plan,
        settings,
        analysis.samples,
        4,
        lambda answers, growing: grown.append(list(growing)),
        Run(lambda share, what: reported.append(what)),
    )
    assert grown[-1] == [] and len(grown) > 2
    assert reported[-1] == "Measuring how far apart they are …"
    assert any(what.startswith("Fitting the compensation") for what in reported)
    workspace.keep_comparison(analysis, strip, settings, compared)
    assert workspace.comparison_of(analysis, strip, settings) is compared.comparison
    kept = workspace.pruned_trace_of(analysis, strip, settings)
    pruned_trace = compared.pruned_trace
    assert kept.trace.samples[0].attention is pruned_trace.samples[0].attention
    assert torch.equal(kept.bridged, pruned_trace.samples[0].features[2])  # behind layers 0 and 1
    assert workspace.comparison_of(analysis, {"drop": [2]}, settings) is None
    nothing = workspace.backend.compare(
        "tiny", analysis.sample, svl.manual_plan([], 6), settings, (), 4
    )
    same = nothing.comparison
    assert nothing.pruned_trace is None and same.full.token_ids == same.pruned.token_ids


def test_a_pruned_model_records_its_whole_recipe(workspace, analysis):
    """What the backend prunes is what `svl.prune` makes of the recipe."""
    recipe = Settings(compensation="scp", rank=2, strength=0.5, targets=("mlp", "attention"))
    plan, lvlm = svl.manual_plan([2, 3], 6), workspace.load_model("tiny")
    pruned = workspace.backend._pruned("tiny", lvlm, analysis.samples, plan, recipe, Run())
    expected = svl.prune(
        lvlm,
        plan,
        "scp",
        analysis.trace,
        rank=2,
        strength=0.5,
        targets=("mlp", "attention"),
    )
    here, there = (model.model.state_dict() for model in (pruned, expected))
    assert all(np.array_equal(here[name].numpy(), there[name].numpy()) for name in there)
    assert pruned.provenance["recipe"]["targets"] == ["mlp", "attention"]


def test_the_answer_length_is_limited(workspace):
    settings = Settings(max_new_tokens=9)
    assert workspace.checked_settings(settings) is settings
    workspace.limits = replace(HOME, new_tokens=8)
    with pytest.raises(InputError, match="tokens as the answer's length"):
        workspace.checked_settings(settings)


# ------------------------------------------------------------------------------ sessions
def test_lanes_are_stopped_alone_or_all(workspace):
    def patient(task):
        task.emit({"begun": True})
        assert task.cancel.wait(20)
        task.check()

    def begun(lane):
        running = workspace.work(patient, "visitor", lane)
        assert next(running) == {"begun": True}
        return running

    answers, ranking, evidence = begun(""), begun(RANKING), begun(EVIDENCE)
    workspace.stop("visitor", RANKING, replaced=True)
    with pytest.raises(Cancelled) as stopped:
        list(ranking)
    assert stopped.value.replaced and next(answers) is None
    workspace.leave("visitor")
    for running in (answers, evidence):
        with pytest.raises(Cancelled) as stopped:
            list(running)
        assert not stopped.value.replaced


def test_what_nobody_holds_is_forgotten(workspace, path, analysis, own):
    key = "tiny", analysis.sample.key
    workspace.backend.traced("tiny", analysis.samples, False)
    workspace.analysis_of_source("tiny", OWN, analysis, own)
    workspace.uploads.hold("one", key, own.own)
    workspace.uploads.hold("two", key)
    workspace.leave("one")
    assert workspace.analyses.get(key) is analysis and own.own not in workspace.own_sets
    stores = workspace.encoded_sets, workspace.traced_sets, workspace.backend.set_traces
    assert not any(map(len, stores))
    workspace.backend.traced("tiny", analysis.samples, False)
    workspace.leave("two")
    assert not len(workspace.analyses) and not len(workspace.backend.set_traces)


def test_relief_keeps_the_first_model_alone(workspace, analysis, own):
    workspace.analysis_of_source("tiny", OWN, analysis, own)
    workspace.relieve()
    stores = workspace.analyses, workspace.traced_sets, workspace.encoded_sets
    assert not any(map(len, stores)) and workspace.models.ready("tiny")
    assert isinstance(workspace.analyse("tiny", None, PROMPT), Analysis)


def test_marks_are_of_what_the_recipe_reads(workspace, tiny):
    """Thinned visual tokens count in an evaluation, also where no layer goes."""
    asked = labelled(13, 5)
    recipe = Recipe(visual_tokens="cluster", visual_share=0.1)
    plan = svl.manual_plan([], 6)
    found = workspace.backend.evaluate("tiny", asked, plan, recipe, (), 4)
    alone = svl.evaluate(tiny, asked, max_new_tokens=4, prepare=lambda x: svl.thin(tiny, x, recipe))
    assert found.pruned.answers == alone.answers
    assert found.full.answers == svl.evaluate(tiny, asked, max_new_tokens=4).answers
    assert found.full.answers != found.pruned.answers
