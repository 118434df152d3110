"""A bfloat16 model on a CPU: traced, scored, pruned and asked in its own dtype, without float32
copies of weights or features.
"""

import numpy as np
import pytest
import torch
from tiny import HIDDEN, LAYERS, tiny_llava
from torch.utils._python_dispatch import TorchDispatchMode

import svl_core as svl
from svl_core.analysis.gap import gram_of_difference
from svl_core.lvlm.families import family_of
from svl_core.lvlm.model import LVLM
from svl_core.pruning.edits import subspace


class Wide(TorchDispatchMode):
    """Notes the most numbers that any float32 or float64 result of an operation holds."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor) and each.dtype in (torch.float32, torch.float64):
                self.most = max(self.most, each.numel())
        return made


@pytest.fixture(scope="module")
def half(tiny):
    model, processor = tiny_llava()
    return LVLM(model.to(torch.bfloat16), processor, family_of(model.config), "half")


def test_nothing_is_widened(half, tiny, tiny_sample, image, monkeypatch):
    monkeypatch.setattr(
        "svl_core.analysis.attention.steps",
        lambda *_: (16, 1),
        # scores are float32, some heads and queries at a time; here smaller than so small a model's
        # weights
    )
    sample = half.encode(image, tiny_sample.prompt)
    weights = min(weight.numel() for weight in half.layers[0].mlp.parameters())
    with Wide() as seen:
        trace = svl.trace(half, sample, mlp=True)
        plain = svl.answer(half, sample, max_new_tokens=4)
    kept = trace.samples[0]
    assert (
        kept.features.dtype == kept.mlp.dtype == torch.bfloat16
        and kept.features.nbytes == 2 * (LAYERS + 1) * sample.length * HIDDEN
    )
    assert (
        0 < seen.most < weights and seen.most < kept.features.numel() / LAYERS * 2
    )  # one layer's at most
    wide = svl.trace(tiny, tiny_sample)
    cosines, exact = (svl.redundancy(each, svl.importance(each)).scores for each in (trace, wide))
    np.testing.assert_allclose(cosines, exact, atol=0.02)
    for name in ("text_to_visual", "visual_from_text"):
        np.testing.assert_allclose(
            getattr(kept.attention, name), getattr(wide.samples[0].attention, name), atol=0.02
        )
    plan = svl.plan(svl.redundancy(trace, svl.importance(trace)), 2)
    for compensation in ("none", "scp", "lstsq"):
        pruned = svl.prune(half, plan, compensation, trace)
        report = svl.compare(half, pruned, sample, max_new_tokens=4)
        assert (
            {p.dtype for p in pruned.model.parameters()} == {torch.bfloat16}
            and report.full.token_ids == plain.token_ids
            and np.isfinite(report.kl)
        )
        own = {p.data_ptr() for p in half.model.parameters()}
        assert sum(p.data_ptr() not in own for p in pruned.model.parameters()) == (
            0 if compensation == "none" else len({k - 1 for k in plan.drop} - set(plan.drop))
        )


def test_criteria_and_gaps_agree_with_float32(half, tiny, tiny_sample, image):
    """What is measured on bfloat16 features is measured in float64: it differs from float32's by
    the rounding of the features alone.
    """
    sample = half.encode(image, tiny_sample.prompt)
    narrow, wide = svl.trace(half, sample), svl.trace(tiny, tiny_sample)
    for name, row in svl.CRITERIA.items():
        if row.needs != "trace" or name == "random":
            continue
        scores = [
            svl.redundancy(made, svl.importance(made), criterion=name) for made in (narrow, wide)
        ]
        found, exact = (each.scores for each in scores)
        np.testing.assert_allclose(found, exact, atol=0.02 * np.ptp(exact), err_msg=name)
    chosen = [svl.token_positions(made, None, "all") for made in (narrow, wide)]
    curves = [svl.feature_gap(made, (2, 3), tokens="all") for made in (narrow, wide)]
    np.testing.assert_allclose(curves[0].per_layer, curves[1].per_layer, rtol=0.01)
    np.testing.assert_allclose(curves[0].runs[0].spectrum, curves[1].runs[0].spectrum, rtol=0.05)
    bases = [
        subspace(gram_of_difference(made, at, 2, 3), 4)
        for made, at in zip((narrow, wide), chosen, strict=True)
    ]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])  # of the angles between the subspaces
    assert cosines.dtype == torch.float64 and cosines.min() > 0.99
