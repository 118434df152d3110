"""mergekit's recipes, and mergekit itself on them where it is installed: `SVL_MERGEKIT` names its
command `mergekit-yaml` (0.1.5), or it is on the path.
"""

import os
import shutil
import subprocess

import builders
import pytest
import torch
from tiny import picture, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

import svl_core as svl
from svl_core.pruning.mergekit import REFUSAL, recipe

COMMAND = os.environ.get("SVL_MERGEKIT") or shutil.which("mergekit-yaml")
KEEP, DROP = [0, 1, 3, 4], [2, 5]


def test_slices_by_hand():
    text = recipe("llama", "org/model", KEEP)
    assert text.split("slices:\n")[1] == (
        '  - sources:\n      - model: "org/model"\n        layer_range: [0, 2]\n'
        '  - sources:\n      - model: "org/model"\n        layer_range: [3, 5]\n'
        "merge_method: passthrough\n"
    )


def test_modules_by_hand():
    text = recipe("mistral3", "m", [0, 1])
    assert text.split("modules:\n")[1] == (
        '  text_decoder:\n    slices:\n      - sources:\n          - model: "m"\n'
        "            layer_range: [0, 2]\n"
        '  multi_modal_projector:\n    models:\n      - model: "m"\n'
        '  vision_tower:\n    models:\n      - model: "m"\nmerge_method: passthrough\n'
    )


def test_what_it_cannot_do_is_said():
    assert recipe("llava", "demo", KEEP) == REFUSAL
    assert all(line.startswith("#") for line in REFUSAL.splitlines())
    assert "svl prune --from" in REFUSAL


@pytest.fixture
def source(request, tmp_path):
    """The folder of a small model of that type, and its class."""
    folder = tmp_path / "source"
    if request.param == "mistral3":
        builders.build("mistral3").save(folder)
        return folder, AutoModelForImageTextToText
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tiny_tokenizer()
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=2,
        vocab_size=len(words),
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder, AutoModelForCausalLM


@pytest.mark.skipif(not COMMAND, reason="mergekit is not installed (pip install mergekit==0.1.5)")
@pytest.mark.parametrize("source", ["llama", "mistral3"], indirect=True)
def test_mergekit_makes_the_same_model(source, tmp_path):
    """To the bit, in the dtype of the source, and it loads with nothing missing."""
    folder, kind = source
    lvlm = svl.load(folder, text_only=kind is AutoModelForCausalLM, dtype="float32")
    pruned = svl.prune(lvlm, svl.manual_plan(DROP, lvlm.num_layers))
    stored = lvlm.model.config.model_type
    (tmp_path / "kept.yml").write_text(recipe(stored, str(folder), KEEP), encoding="utf-8")
    command = [COMMAND, tmp_path / "kept.yml", tmp_path / "merged", "--no-write-model-card"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    merged, info = kind.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert merged.dtype == lvlm.stored.usual
    sample = lvlm.encode(picture() if lvlm.supports_images else None, "a cat ?")
    theirs = merged.float()(**sample.inputs).logits
    torch.testing.assert_close(theirs, pruned.model(**sample.inputs).logits, atol=0, rtol=0)
