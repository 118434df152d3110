"""Configs that ask for what is not here, and weights in formats that cannot be written."""

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_llava

import svl_core as svl
from svl_core.cli.main import main
from svl_core.errors import InputError
from svl_core.lvlm import families
from svl_core.lvlm.arithmetic import usable_attention
from svl_core.lvlm.checkpoint import check_writable
from svl_core.lvlm.model import LVLM
from svl_core.progress import Run


class Quantizer:
    """As transformers' own, with a format that it can write or cannot."""

    def __init__(self, name, writable, **settings):
        self.is_serializable = lambda: writable
        self.quantization_config = SimpleNamespace(
            quant_method=name, to_dict=lambda: {"bits": 4, **settings}
        )


def test_an_attention_that_is_not_here(tiny, tiny_sample, image, tmp_path):
    folder = tiny.save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["_attn_implementation"] = "flash_attention_2"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    said = []
    again = svl.load(
        folder, dtype="float32", run=Run(progress=lambda share, text: said.append(text))
    )
    told = "with transformers' own attention in the place of flash_attention_2"
    assert told in again.computes_in and told in said[-1]
    sample = again.encode(image, tiny_sample.prompt)
    with torch.inference_mode():
        expected = tiny.model(**tiny_sample.inputs).logits
        assert torch.equal(again.model(**sample.inputs).logits, expected)
    assert svl.foresee(folder).layers == tiny.num_layers


def test_only_what_is_asked_for_is_replaced(tiny):
    assert usable_attention(tiny.model.config) is None
    assert tiny.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("quantizer", "told"),
    [
        (Quantizer("gguf", False), "format gguf, which transformers cannot write"),
        (
            Quantizer("awq", True, modules_to_not_convert=["model.layers.3.mlp"]),
            "format awq, which names layers by their numbers",
        ),
    ],
)
def test_a_format_that_cannot_be_written(quantizer, told, tmp_path, monkeypatch, capsys):
    model, processor = tiny_llava()
    model.hf_quantizer = quantizer
    lvlm = LVLM(model, processor, families.family_of(model.config), "quantised")
    with pytest.raises(InputError, match=told):
        lvlm.save(tmp_path / "out")
    from svl_core.cli import prune

    monkeypatch.setattr(prune, "load_model", lambda args, recipe: lvlm)
    monkeypatch.setattr(prune, "prune_by", lambda *args: pytest.fail("The work began."))
    assert main(["prune", "--model", "any", "--drop", "1", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_formats_that_can_be_written():
    check_writable(SimpleNamespace(hf_quantizer=None))
    settings = {"modules_to_not_convert": ["vision_tower", "lm_head"]}
    check_writable(SimpleNamespace(hf_quantizer=Quantizer("gptq", True, **settings)))


def test_widths_that_four_bits_cannot_hold():
    """As bitsandbytes 0.50 fails on a processor: within its own product, on the first pass."""
    from svl_core.lvlm.loading import _check_packed

    calls = []

    class Packed(torch.nn.Linear):
        def __init__(self, width):
            super().__init__(width, 8)
            self.weight.quant_state = SimpleNamespace(shape=(8, width))

        def forward(self, rows):
            calls.append(self.in_features)
            if self.in_features % 64:
                return rows.view(self.in_features, 0)
            return super().forward(rows)

    class Model(torch.nn.ModuleList):
        dtype = torch.float32

    _check_packed(Model([Packed(64), Packed(64), torch.nn.Linear(32, 8)]), "good", "4bit")
    assert calls == [64]
    with pytest.raises(
        InputError,
        match=r"weights of 8 x 32 numbers in bad \(1\), which bitsandbytes cannot use in 4bit here"
        r" \(shape '\[32, 0\]' is invalid.*load the model in 8bit or without quantisation",
    ):
        _check_packed(Model([Packed(64), Packed(32)]), "bad", "4bit")


def test_four_bits_themselves_are_refused_as_they_load(tiny, tmp_path):
    """Its vision tower is 32 wide, which holds no block of 64 numbers."""
    pytest.importorskip("bitsandbytes")
    folder = tiny.save(tmp_path / "model")
    with pytest.raises(InputError, match="which bitsandbytes cannot use in 4bit here"):
        svl.load(folder, quantize="4bit", device="cpu")
