"""Causal language models without images, the controls: each kind of decoder is analysed, pruned,
saved and loaded again, or refused with the true reason.
"""

import json

import control_table
import controls
import pytest
import torch
from transformers import AutoModelForCausalLM

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.hooks import ThreadHooks, pass_over
from svl_core.pruning.report import findings_of

QUESTION = "what is in the top left of this picture ?"
FITTED = {"lstsq", "refit"}
NOT_FITTED = {  # kind -> compensations that cannot be used, and a part of why
    "llama": (set(), ""),
    "mistral": (set(), ""),
    "qwen2": (set(), ""),
    "qwen3": (set(), ""),
    "gemma2": (FITTED, "a norm behind the MLP"),
    "gemma3_text": (FITTED, "a norm behind the MLP"),
    "gemma4_text": (FITTED, "a norm behind the MLP"),
    "phi3": (set(), ""),
    "olmo2": (FITTED, "a norm behind the MLP"),
    "glm4": (FITTED, "a norm, or a factor"),
    "granite": (FITTED, "a norm, or a factor"),
    "smollm3": (set(), ""),
    "gpt_oss": (FITTED, "a mixture of experts"),
    "deepseek_v3": (FITTED, "a mixture of experts"),
    "lfm2": (set(), ""),
    "qwen3_next": (FITTED, "a mixture of experts"),
    "falcon_h1": (set(), ""),
    "jamba": (set(), ""),
    "bamba": (set(), ""),
    "nemotron_h": (FITTED | {"scp"}, "not at layers 0, 2-3, 5"),
}
STORED = json.loads(control_table.RESULTS.read_text(encoding="utf-8"))
QUICK = ("lfm2", "gpt_oss")
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in NOT_FITTED]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_control_is_served(kind, tmp_path):
    lvlm = svl.load(controls.saved(kind, tmp_path / "model"), text_only=True, dtype="float32")
    sample = lvlm.encode(None, QUESTION)
    found = findings_of(lvlm)
    cannot, why = NOT_FITTED[kind]
    assert found.images is False and found.refused is None
    assert control_table.state(found) == tuple(STORED[kind])
    assert {name for name, said in found.compensations.items() if said} == cannot
    assert all(why in found.compensations[name] for name in cannot)
    trace = svl.trace(lvlm, sample)
    free = [layer for layer in range(1, 6) if layer not in lvlm.protected]
    dropped = free[:2]
    with ThreadHooks() as hooks:
        for layer in dropped:
            hooks.on_output(lvlm.layers[layer], pass_over)
        skipped = lvlm.model(**sample.inputs, use_cache=False).logits
    pruned = svl.prune(lvlm, svl.manual_plan(dropped, 6, lvlm.protected))
    logits = pruned.model(**sample.inputs, use_cache=False).logits
    assert torch.allclose(logits, skipped, atol=1e-4)
    edited = svl.prune(lvlm, svl.manual_plan(free[1:2], 6, lvlm.protected), "scp", trace, rank=2)
    edited.save(tmp_path / "pruned")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").eval()
    given = again(**sample.inputs, use_cache=False).logits
    kept = edited.model(**sample.inputs, use_cache=False).logits
    assert torch.allclose(given, kept, atol=1e-5)  # experts' sums come in any order
    assert svl.compare(lvlm, pruned, sample, max_new_tokens=3).kl > 0


def test_every_control_is_in_a_state():
    assert set(STORED) == set(controls.SETTINGS)
    assert {kind for kind, (state, _) in STORED.items() if state == "refused"} == {
        "jamba_experts",
        "mamba2",
    }
    page = control_table.PAGE.read_text(encoding="utf-8")
    assert control_table.table(STORED) in page


def test_a_decoder_without_attention_is_refused(tmp_path):
    with pytest.raises(InputError, match="no attention in its layers, which token importance is"):
        svl.load(controls.saved("mamba2", tmp_path / "model"), text_only=True)


def test_layers_that_come_by_a_period_are_refused_where_no_other_fits(tmp_path):
    """Every second layer of Jamba holds experts, which its config tells by a period alone."""
    folder = controls.saved("jamba_experts", tmp_path / "model")
    with pytest.raises(
        InputError, match=r"by a period \(expert_layer_period\), which without these"
    ):
        svl.load(folder, text_only=True)
