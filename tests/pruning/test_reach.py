"""What a layer's feed-forward gives reaches the residual stream as it is, or that is found."""

import controls
import pytest
from builders import build

import svl_core as svl
from svl_core.errors import InputError
from svl_core.pruning.reach import reaches_the_stream

QUESTION = "what is in the top left of this picture ?"


@pytest.mark.parametrize(
    ("kind", "reaches"),
    [("llama", True), ("glm4", False), ("granite", False)],
)
def test_a_norm_and_a_factor_are_found(kind, reaches, tmp_path):
    """GLM-4 has a norm behind the MLP under another name, Granite a factor in its config."""
    lvlm = svl.load(controls.saved(kind, tmp_path / "model"), text_only=True, dtype="float32")
    sample = lvlm.encode(None, QUESTION)
    assert reaches_the_stream(lvlm, sample) == reaches
    traced = svl.trace(lvlm, sample, mlp=True)
    plan = svl.manual_plan([2], 6)
    assert svl.prune(lvlm, plan, "scp", traced).num_layers == 5
    if reaches:
        assert svl.prune(lvlm, plan, "lstsq", traced).num_layers == 5
        return
    for name in ("lstsq", "refit"):
        with pytest.raises(InputError, match=r"\(a norm, or a factor\); expected .* choose 'scp'"):
            svl.prune(lvlm, plan, name, traced)


@pytest.mark.parametrize("name", ["llava", "qwen3-vl", "aya-vision"])
def test_families_whose_output_reaches_it(name):
    """Features added between layers, and a layer whose parts run beside each other, change
    nothing.
    """
    lvlm = build(name)
    assert reaches_the_stream(lvlm, lvlm.encode(None, QUESTION))
