"""What is found about a model: the table and JSON say what the model itself shows, and a refusal is
a finding.
"""

import json

import builders
import pytest
import unlisted
from transformers import BertConfig, BertModel

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import probing
from svl_core.pruning import report
from svl_core.pruning.compensation import COMPENSATIONS

NAMES = ("tiny", "paligemma2", "qwen3.5", "gemma3n", "mllama")


@pytest.fixture(params=NAMES)
def model(request, tiny):
    if request.param == "tiny":
        return tiny
    return builders.build(request.param)


def attempted(lvlm, name):
    """The sentence that a compensation of this model ends in; None where it is done."""
    traced = svl.trace(lvlm, probing.question_of(lvlm), mlp=False)
    try:
        if COMPENSATIONS[name].needs_mlp:
            traced = svl.trace(lvlm, probing.question_of(lvlm), mlp=True)
        free = [layer for layer in range(1, lvlm.num_layers) if layer not in lvlm.protected]
        plan = svl.manual_plan(free[1:2], lvlm.num_layers, lvlm.protected)
        svl.prune(lvlm, plan, name, traced, rank=2)
    except InputError as error:
        return str(error)
    return None


def test_a_compensation_is_possible_where_it_can_be_done(model):
    """Each is tried: it is done, or ends in the very sentence."""
    for name, said in report.findings_of(model).compensations.items():
        done = attempted(model, name)
        assert (said is None) == (done is None), name
        assert said is None or done in said


def test_parts_are_named_as_the_model_has_them(tiny):
    found = report.findings_of(tiny)
    assert tiny.model.get_submodule(found.decoder) is tiny.layers
    assert (found.layers, found.hidden_size) == (6, 64)
    assert (found.model_type, found.text_type, found.family) == ("llava", "llama", "LLaVA")
    for target, edit in found.edits.items():
        assert edit.layers == tuple(range(6)) and edit.lacking == () and edit.why is None
        [name] = edit.maps
        weight = tiny.layers[3].get_submodule(name).weight
        assert weight.shape[0] == 64, target


def test_positions_are_those_of_the_test_picture(tiny):
    found = report.findings_of(tiny)
    sample = tiny.encode(probing.noise(*found.picture), probing.QUESTION)
    assert found.visual == len(sample.visual) == 36
    assert found.textual == len(sample.textual)
    assert found.places == "square" and "answers to its own pixels" in found.places_note


def test_layers_that_stay_and_kinds_of_layers():
    lvlm = builders.build("qwen3.5")
    found = report.findings_of(lvlm)
    assert tuple(found.protected) == lvlm.protected != ()
    assert sorted(sum(found.layer_kinds.values(), ())) == list(range(lvlm.num_layers))
    assert found.layer_kinds["full_attention"] == (2, 5)
    rows = dict(found.table())
    assert "full_attention: 2, 5" in rows["layers"] and rows["layers that stay"].startswith("5")


def test_images_beside_the_sequence_have_no_places():
    found = report.findings_of(builders.build("mllama"))
    assert found.visual == 0 and found.places is None
    assert "enter beside it" in found.places_note


def test_a_refusal_is_a_finding(tmp_path):
    config, processor = unlisted.fuyu()
    builders.weighted(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = report.examine(tmp_path)
    assert found.refused.startswith("Found ") and 'fails the probe "' in (found.refused)
    assert (found.family, found.layers) == ("generic", 6)  # told all the same
    assert found.visual is None and dict(found.table())["refused"] == found.refused
    with pytest.raises(InputError) as loading:
        svl.load(tmp_path)
    assert str(loading.value) == found.refused


def test_a_model_of_another_kind(tmp_path):
    BertModel(
        BertConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=20,
        )
    ).save_pretrained(tmp_path)
    found = report.examine(tmp_path)
    assert "bert" in found.refused and found.layers is None
    assert all(isinstance(cell, str) for row in found.table() for cell in row)


def test_no_model_at_all(tmp_path):
    with pytest.raises(InputError, match="without config.json"):
        report.examine(tmp_path)


@pytest.mark.parametrize(
    ("layers", "said"),
    [((), ""), ((3,), "3"), ((0, 1, 2, 5), "0-2, 5"), ((1, 3, 4), "1, 3-4")],
)
def test_numbers_as_ranges(layers, said):
    assert report._numbers(layers) == said


def test_json_holds_all_of_it(tiny):
    found = report.findings_of(tiny)
    written = json.loads(json.dumps(found.to_json()))
    assert written["decoder"] == found.decoder and written["refused"] is None
    assert set(written["compensations"]) == set(report.NEEDS) <= set(COMPENSATIONS)
    assert set(written["versions"]) == {"svl_core", "torch", "transformers"}
