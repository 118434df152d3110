"""A checkpoint is saved in the dtypes that it was stored in, whatever it was computed in."""

import copy
import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_llava
from transformers import AutoModelForImageTextToText

import svl_core as svl
from svl_core.cli.main import main
from svl_core.errors import InputError
from svl_core.lvlm import checkpoint
from svl_core.lvlm.checkpoint import StoredDtypes

DROPPED = (2, 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with the tiny model in bfloat16."""
    folder = tmp_path_factory.mktemp("stored") / "bfloat16"
    model, processor = tiny_llava()
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def pruned(folder, image, compensation="scp", **options):
    """The folder's model without two layers, fitted on one sample, and the sample."""
    lvlm = svl.load(folder, **options)
    sample = lvlm.encode(image, "what is in the top left ?")
    trace = svl.trace(lvlm, [sample])
    return svl.prune(lvlm, svl.manual_plan(DROPPED, 6), compensation, trace), sample


def tensors(folder):
    return {
        name: tensor
        for file in checkpoint.weight_files(folder)
        for name, tensor in load_file(file).items()
    }


def dtypes(folder):
    return {tensor.dtype for tensor in tensors(folder).values()}


def cast(model, *through):
    """A copy whose parameters went through these dtypes; buffers, such as rotary frequencies, are
    not stored and stay.
    """
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        for dtype in through:
            parameter.data = parameter.data.to(dtype)
    return copied


def logits(model, sample):
    inputs = {
        name: value.to(model.dtype) if value.is_floating_point() else value
        for name, value in sample.inputs.items()
    }
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_bfloat16_computed_in_float32_is_saved_as_bfloat16(source, image, tmp_path):
    made, sample = pruned(source, image)
    assert made.dtype == torch.float32
    made.save(tmp_path / "out")
    made.save(tmp_path / "wide", "float32")
    assert dtypes(tmp_path / "out") == {torch.bfloat16} and made.dtype == torch.float32
    assert dtypes(tmp_path / "wide") == {torch.float32}
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("out", "wide")]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.01)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {config["dtype"], config["text_config"]["dtype"]} == {"bfloat16"}


def test_what_is_read_back_is_the_model_in_that_dtype(source, image, tmp_path):
    """The fitted weights too, by plain transformers and by `load`."""
    made, sample = pruned(source, image)
    made.save(tmp_path / "out")
    plain, report = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    again = svl.load(tmp_path / "out", dtype="float32")
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert plain.dtype == torch.bfloat16
    narrow = cast(made.model, torch.bfloat16)
    rounded = cast(made.model, torch.bfloat16, torch.float32)
    assert torch.equal(logits(plain, sample), logits(narrow, sample))
    assert torch.equal(logits(again.model, sample), logits(rounded, sample))
    assert not torch.equal(logits(made.model, sample), logits(rounded, sample))


def test_float32_stays_float32(tiny, image, tmp_path):
    tiny.save(tmp_path / "source")
    made, sample = pruned(tmp_path / "source", image)
    made.save(tmp_path / "out")
    assert dtypes(tmp_path / "out") == {torch.float32}
    again = svl.load(tmp_path / "out")
    assert torch.equal(logits(again.model, sample), logits(made.model, sample))


def test_half_precision_is_never_widened_by_itself(tiny, image, tmp_path):
    """A float32 checkpoint that was loaded as bfloat16 has lost what float32 would hold."""
    tiny.save(tmp_path / "source")
    made, _ = pruned(tmp_path / "source", image, dtype="bfloat16")
    made.save(tmp_path / "out")
    made.save(tmp_path / "wide", torch.float32)
    narrow, wide = tensors(tmp_path / "out"), tensors(tmp_path / "wide")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    assert all(
        narrow[name].dtype == torch.bfloat16 and torch.equal(narrow[name].float(), tensor)
        for name, tensor in wide.items()
    )


def test_a_model_that_was_not_loaded_is_saved_as_it_is(tiny, tmp_path):
    assert tiny.stored is None
    assert dtypes(tiny.save(tmp_path / "out")) == {torch.float32}


def test_a_source_in_several_files(source, image, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(source)
    model.save_pretrained(tmp_path / "source", max_shard_size="100KB")
    svl.load(source).processor.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "consolidated.safetensors").write_bytes(b"another format")
    assert (tmp_path / "source" / checkpoint.INDEX).is_file()
    made, sample = pruned(tmp_path / "source", image)
    assert made.stored == StoredDtypes(torch.bfloat16)
    made.save(tmp_path / "out")
    assert dtypes(tmp_path / "out") == {torch.bfloat16}


def test_several_files_are_converted(source, image, tmp_path):
    made, sample = pruned(source, image)
    made.model.save_pretrained(tmp_path, max_shard_size="100KB")
    checkpoint.convert(tmp_path, StoredDtypes(torch.bfloat16))
    index = json.loads((tmp_path / checkpoint.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors(tmp_path).values())
    read = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert len(checkpoint.weight_files(tmp_path)) > 1 and dtypes(tmp_path) == {torch.bfloat16}
    assert torch.equal(logits(read, sample), logits(cast(made.model, torch.bfloat16), sample))


def test_tensors_stored_otherwise_stay_so(source, image, tmp_path):
    """Norms in float32 in a bfloat16 checkpoint: exact, though their layers have other numbers; one
    that is wide in one layer alone counts as wide.
    """
    mixed = tensors(source)
    wide = {
        name: (tensor.float() + 1e-6)
        for name, tensor in mixed.items()
        if "input_layernorm" in name or name.endswith("layers.0.mlp.up_proj.weight")
    }
    made, _ = pruned(source, image, "none")
    svl.pruned_view(svl.load(source), range(6)).save(tmp_path / "source")
    save_file({**mixed, **wide}, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    made, _ = pruned(tmp_path / "source", image, "none")
    assert made.stored.usual == torch.bfloat16 and len(made.stored.others) == 2
    saved = tensors(made.save(tmp_path / "out"))
    norms = [name for name in saved if "input_layernorm" in name]
    assert len(norms) == 4
    for name in norms:
        old = name.replace(".3.", ".5.").replace(".2.", ".3.")  # layers 0, 1, 3, 5 are there
        assert torch.equal(saved[name], wide[old])
    ups = {saved[name].dtype for name in saved if "language" in name and "up_proj" in name}
    others = {saved[name].dtype for name in saved if name.endswith("o_proj.weight")}
    assert ups == {torch.float32} and others == {torch.bfloat16}


def test_a_full_disk_leaves_no_half_file(source, image, tmp_path, monkeypatch):
    made, sample = pruned(source, image)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="with room"):
        made.save(tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_numbers_that_are_not_floating_stay(tmp_path):
    values = {
        "counts": torch.arange(5),
        "flags": torch.tensor([True, False, True]),
        "layers.1.scale": torch.tensor(1.5),
        "layers.1.weight": torch.randn(3, 5),
        "empty": torch.zeros(0, 4),
    }
    save_file(values, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"dtype": "float32", "inner": {"dtype": "float32"}}')
    checkpoint.convert(tmp_path, StoredDtypes(torch.float16, {"layers.*.scale": torch.float32}))
    read = tensors(tmp_path)
    assert read.keys() == values.keys()
    for name, value in values.items():
        expected = value.half() if name in ("layers.1.weight", "empty") else value
        assert read[name].dtype == expected.dtype and torch.equal(read[name], expected)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"dtype": "float16", "inner": {"dtype": "float16"}}


def test_no_dtypes_of_what_holds_other_numbers(tmp_path):
    assert checkpoint.stored_dtypes(tmp_path) is None
    save_file({"weight": torch.zeros(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert checkpoint.stored_dtypes(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    assert checkpoint.stored_dtypes(tmp_path) is None


@pytest.mark.parametrize(
    "option, wanted",
    [((), torch.bfloat16), (("--dtype", "float32"), torch.float32)],
    ids=["as stored", "as asked for"],
)
def test_the_command_saves_as_asked_for(source, tmp_path, option, wanted, capsys):
    out = tmp_path / "out"
    line = ["prune", "--model", source, "--layers", "2,4", "--compensation", "none", "--out", out]
    assert main([*map(str, line), *option]) == 0
    assert dtypes(out) == {wanted}
