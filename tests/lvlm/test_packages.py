"""A package that a model needs and that is not here is named with its remedy."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import tiny_tokenizer
from transformers import Gemma3nConfig, PerceptionLMConfig

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import packages
from svl_core.lvlm.processors import load_processor

NEED_TIMM = {"gemma3n": Gemma3nConfig, "perception_lm": PerceptionLMConfig}


def told(error):
    with pytest.raises(InputError) as caught:
        packages.refuse_missing("'some/model'", error)
    return str(caught.value)


def test_what_an_error_asks_for_is_named(monkeypatch):
    monkeypatch.setattr(packages, "present", lambda module: module == "scipy")
    timm = ImportError("TimmWrapperModel requires the timm library but it was not found.")
    assert packages.missing(timm) == ["timm"]
    assert told(timm) == (
        "Found 'some/model', which needs the package timm; expected it to be installed; install it"
        " with: pip install timm, or this project with its extra 'families'."
    )
    assert packages.missing(ImportError("scipy is too old")) == []
    packages.refuse_missing("a model", ValueError("no such file"))  # nothing to say
    behind = RuntimeError("The processor failed.")
    behind.__cause__ = ImportError("It needs Torchvision and num2words.")
    assert packages.missing(behind) == ["torchvision", "num2words"]
    assert "the packages torchvision and num2words" in told(behind)
    assert told(ImportError("Loading a GGUF file needs `gguf`")).endswith("pip install gguf.")


def test_the_extra_installs_what_is_said_of_it():
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    listed = extras["optional-dependencies"][packages.EXTRA]
    assert [entry.split(">")[0] for entry in listed] == list(packages.IN_EXTRA)
    assert set(packages.IN_EXTRA) <= {pip for _, pip in packages.OPTIONAL.values()}


LOADED = """
import sys
import svl_core as svl
from svl_core.errors import InputError
for folder in sys.argv[1:]:
    for use in (svl.load, svl.foresee):
        try:
            use(folder)
        except InputError as error:
            print(error)
"""


@pytest.mark.skipif(packages.present("timm"), reason="timm is installed")
def test_a_skeleton_that_needs_a_package(tmp_path):
    """In a process of its own: the builders of families put a tower of theirs in timm's place."""
    folders = [tmp_path / name for name in NEED_TIMM]
    for folder in folders:
        NEED_TIMM[folder.name]().save_pretrained(folder)
    ran = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, folders)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    told_of = ran.stdout.splitlines()
    assert len(told_of) == 4, ran.stderr
    for sentence in told_of:
        assert "needs the package timm; " in sentence and "pip install timm" in sentence


def test_a_config_of_which_no_model_can_be_made(tmp_path, tiny):
    config = tiny.model.config.to_dict()
    config["text_config"]["hidden_act"] = "no such activation"
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match="no llava model can be made"):
        svl.load(tmp_path)


@pytest.mark.skipif(packages.present("torchvision"), reason="torchvision is installed")
def test_a_processor_that_needs_a_package(tmp_path):
    """No pillow image processor stands beside LFM2-VL's."""
    from hybrids import lfm2_vl

    tiny_tokenizer().save_pretrained(tmp_path)
    named = {
        "image_processor_type": "Lfm2VlImageProcessor",
        "processor_class": "Lfm2VlProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(named), encoding="utf-8")
    config = lfm2_vl()
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="needs the package torchvision"):
        load_processor(tmp_path, config)


@pytest.mark.skipif(packages.present("torchvision"), reason="torchvision is installed")
def test_a_missing_file_is_not_mistaken_for_a_missing_package(tmp_path):
    """The stock class wants torchvision for videos, but it is the tokenizer that is missing."""
    from builders import qwen2_vl

    config, processor = qwen2_vl()
    processor.save_pretrained(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="get the complete model folder") as caught:
        load_processor(tmp_path, config)
    assert "torchvision" not in str(caught.value)
