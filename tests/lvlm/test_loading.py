"""Loading: saved folders come back the same, and every wrong name gets a sentence."""

import json

import pytest
import torch

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import loading


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("saved") / "tiny")


def test_a_folder_comes_back_the_same(tiny, saved, tiny_sample, image):
    again = svl.load(saved)
    sample = again.encode(image, tiny_sample.prompt)
    assert all(torch.equal(sample.inputs[name], value) for name, value in tiny_sample.inputs.items())
    assert torch.equal(again.model(**sample.inputs).logits, tiny.model(**tiny_sample.inputs).logits)
    assert again.layer_ids == tiny.layer_ids and again.provenance == {} and again.family is tiny.family
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())


def test_dtype(saved):
    assert svl.load(saved, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(InputError, match="float64"):
        svl.load(saved, dtype="float64")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_device(saved, device):
    with pytest.raises(InputError, match="device"):
        svl.load(saved, device=device)


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no-such-model", "not a valid id!", "./no/such/folder", "/no/such/folder", "a/b/c", ""])
def test_a_name_that_leads_nowhere(name):
    with pytest.raises(InputError, match="expected"):
        svl.load(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        svl.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="config"):
        svl.load(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(InputError, match="config"):
        svl.load(tmp_path)


def test_a_checkpoint_without_weights_or_processor(saved, tmp_path):
    import shutil

    shutil.copytree(saved, tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights"):
        svl.load(tmp_path / "a")
    shutil.copytree(saved, tmp_path / "b")
    for file in ("tokenizer.json", "processor_config.json", "tokenizer_config.json"):
        (tmp_path / "b" / file).unlink()
    with pytest.raises(InputError, match="processor"):
        svl.load(tmp_path / "b")


def test_a_text_only_model(tmp_path):
    from tiny import tiny_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, vocab_size=len(tokenizer), max_position_embeddings=64)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="without image input"):
        svl.load(tmp_path)
    control = svl.load(tmp_path, text_only=True)
    sample = control.encode(None, "what is a cat ?")
    assert len(sample.visual) == 0 and control.num_layers == 3
    assert torch.isfinite(control.model(**sample.inputs).logits).all()


def test_demo_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "DEMO_PLACES", (tmp_path,))
    with pytest.raises(InputError, match="assets/demo_lvlm"):
        svl.load("demo")


def test_saving_never_overwrites(tiny, saved, tmp_path):
    with pytest.raises(InputError, match="empty folder"):
        tiny.save(saved)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="empty folder"):
        tiny.save(tmp_path / "file")


def test_the_record_of_a_pruned_model(tiny, tmp_path):
    view = svl.pruned_view(tiny, [0, 2, 3, 5])
    folder = view.save(tmp_path / "out")
    record = json.loads((folder / "svl_plan.json").read_text())
    assert record["layer_ids"] == [0, 2, 3, 5] and record["dropped"] == [1, 4] and record["versions"]["transformers"]
    assert svl.load(folder).layer_ids == (0, 2, 3, 5)
