"""One recipe, one model: what the page's plan says, `svl prune --from` makes, to the byte.

For every field of a recipe and every calibration source, the weights that the command writes from
the page's plan are those that the library makes of the page's recipe.
"""

import json

import builders
import pytest
from safetensors.torch import load_file

import svl_core as svl
from svl_core.cli.main import main
from svl_core.comparison.calibration import encode_all, read_calibration
from svl_core.demo.questions import calibration
from svl_core.pruning.compensation import COMPENSATIONS
from svl_core.recipe import DEMO, OPTIONS, OWN, THIS
from svl_core.service.calibration import sources_for
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import strip_value

PROMPT = "what is in the top left ?"
DROP = (2, 3)
SMALL = {"calibration_size": 3, "calibration": DEMO}
CHANGES = {  # a field, what it is changed to, and a compensation that reads it
    "criterion": ("shortgpt", "scp"),
    "top_p": (0.3, "scp"),
    "top_p_mode": ("mass", "scp"),
    "text_self": ("given", "scp"),
    "causal_correction": (True, "scp"),
    "rounds": (2, "scp"),
    "protect_ends": (False, "scp"),
    "seed": (3, "scp"),
    "text_ends": ("sink-aware", "scp"),
    "compensation": ("lstsq", "lstsq"),
    "rank": (2, "scp"),
    "energy": (0.5, "scp"),
    "strength": (0.5, "lstsq"),
    "targets": (("mlp", "attention"), "scp"),
    "ridge": (0.5, "lstsq"),
    "answer_weight": (3.0, "refit"),
    "weighted": (True, "lstsq"),
    "tokens": ("all", "scp"),
    "gap_rows": ("samples", "scp"),
    "gap_centred": (True, "scp"),
    "gap_span": ("layer", "scp"),
    "calibration_size": (4, "scp"),
    "detail": ("quick", "scp"),
    "max_visual_tokens": (100, "scp"),
    "visual_share": (0.5, "scp"),
    "visual_tokens": ("random", "scp"),
    "visual_from": (2, "scp"),
    "visual_layers": ((1, 4), "scp"),
}
HALVES = ("granularity", "drop_attention", "drop_mlp")  # not the plan's on the page
OF_THE_PLAN = ("drop", "layers", *HALVES, "preset", "calibration")  # tried apart


@pytest.fixture(scope="module")
def folder(tiny, image, tmp_path_factory):
    """The tiny model, a picture, and a visitor's own pictures."""
    folder = tmp_path_factory.mktemp("agreement")
    tiny.save(folder / "model")
    image.save(folder / "a.png")
    (folder / "own").mkdir()
    for turn in (10, 20, 30):
        image.rotate(turn).save(folder / "own" / f"{turn}.png")
    return folder


def made_by_the_library(lvlm, folder, recipe, source):
    """The pruned model of the recipe, fitted on what the source stands for."""
    samples = {
        THIS: lambda: [lvlm.encode(str(folder / "a.png"), PROMPT)],
        OWN: lambda: encode_all(lvlm, read_calibration(folder / "own")),
        DEMO: lambda: encode_all(lvlm, calibration(recipe.calibration_size, recipe.seed)),
    }[source]()
    needs_mlp = COMPENSATIONS[recipe.compensation].needs_mlp
    traced = svl.trace(lvlm, samples, mlp=needs_mlp)
    return svl.prune(lvlm, svl.manual_plan(DROP, lvlm.num_layers), recipe, traced)


def made_by_the_command(folder, out, settings, *options):
    """The folder that `svl prune --from` writes of the page's plan for these settings."""
    state = {"model": str(folder / "model"), "path": "a.png", "prompt": PROMPT, "origin": ""}
    strip = strip_value(
        range(6), [3, 2, 4, 1], [0, 5], DROP, criterion=settings.criterion, rounds=settings.rounds
    )
    sources = sources_for(state["model"], frozenset({state["model"]}), settings)
    plan = out.parent / "plan.json"
    plan.write_text(exports.plan_json(state, strip, settings, sources), encoding="utf-8")
    call = ("prune", "--model", state["model"], "--from", plan, *options, "--out", out)
    assert main([str(word) for word in call]) == 0
    return out


def weights_of(folder):
    return {
        name: tensor for name, tensor in sorted(load_file(folder / "model.safetensors").items())
    }


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_every_field_is_tried():
    assert set(CHANGES) | set(OF_THE_PLAN) == set(OPTIONS)


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_of_the_page_is_made_again_by_the_command(folder, tmp_path, name):
    value, compensation = CHANGES[name]
    settings = Settings.of(**{**SMALL, "compensation": compensation, name: value})
    lvlm = svl.load(folder / "model")
    pruned = made_by_the_library(lvlm, folder, settings.recipe, DEMO)
    expected = weights_of(pruned.save(tmp_path / "library"))
    out = made_by_the_command(folder, tmp_path / "command", settings)
    assert_equal(weights_of(out), expected)
    record = json.loads((out / "svl_plan.json").read_text(encoding="utf-8"))
    assert record["recipe"]["calibration"] == DEMO and record["recipe"]["layers"] == list(DROP)
    assert record["versions"]["svl_core"] == svl.__version__ and "preset" in record["recipe"]


@pytest.mark.parametrize("reading", [{"detail": "quick"}, {"max_visual_tokens": 90}], ids=str)
def test_a_plan_is_fitted_in_the_page_s_detail(folder, tmp_path, reading):
    """A model that reads pictures in several sizes: other weights than at full detail."""
    builders.build("smolvlm").save(tmp_path / "model")
    settings = Settings.of(**{**SMALL, "detail": "full", **reading})
    lvlm = svl.load(tmp_path / "model", **reading)
    pruned = made_by_the_library(lvlm, folder, settings.recipe, DEMO)
    expected = weights_of(pruned.save(tmp_path / "library"))
    out = made_by_the_command(tmp_path, tmp_path / "command", settings)
    assert_equal(weights_of(out), expected)
    record = json.loads((out / "svl_plan.json").read_text(encoding="utf-8"))
    assert {name: record["recipe"][name] for name in reading} == reading
    whole = made_by_the_library(svl.load(tmp_path / "model"), folder, settings.recipe, DEMO)
    full = weights_of(whole.save(tmp_path / "full"))
    assert any(not full[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("source", [THIS, OWN, DEMO])
def test_every_calibration_source(folder, tmp_path, source):
    own = "digest" if source == OWN else ""
    settings = Settings.of(**{**SMALL, "calibration": source, "own": own})
    lvlm = svl.load(folder / "model")
    pruned = made_by_the_library(lvlm, folder, settings.recipe, source)
    expected = weights_of(pruned.save(tmp_path / "library"))
    options = {
        THIS: ("--image", folder / "a.png", "--prompt", PROMPT),
        OWN: ("--calibration", folder / "own"),
        DEMO: (),
    }[source]
    out = made_by_the_command(folder, tmp_path / "command", settings, *options)
    assert_equal(weights_of(out), expected)
