"""LinearPatch and Prune&Comp: scales on paper, and that the weights compute the published map."""

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.hooks import ThreadHooks, hidden_of, with_hidden
from svl_core.pruning.scaling import channel_scales, gap_scale

PROMPT = "what is in the top left of this picture ?"
PLAN = svl.manual_plan([3, 4], 6)


@pytest.fixture(scope="module")
def calibration(tiny):
    return svl.trace(tiny, [tiny.encode(picture(seed=k), PROMPT) for k in range(4)])


class Features:
    """A trace of given features, (L+1, S, d) a sample."""

    def __init__(self, *features):
        self.samples = [type("Sample", (), {"features": torch.tensor(each)}) for each in features]
        self.hidden_size = self.samples[0].features.shape[-1]


def test_scales_on_paper():
    """Two samples of two tokens and two channels; the second's second channel is 0 before the run.

    Sample 1: before 1, 2 and behind 3, 3 (means of sizes): ratios 3, 1.5. Sample 2: 2, 0 and 1, 5:
    ratios .5, 1 by rule. Means: 1.75, 1.25.
    """
    one = [[[1.0, -2.0], [-1.0, 2.0]], [[9.0, 9.0], [9.0, 9.0]], [[-2.0, 6.0], [4.0, 0.0]]]
    two = [[[2.0, 0.0], [-2.0, 0.0]], [[9.0, 9.0], [9.0, 9.0]], [[1.0, 5.0], [-1.0, -5.0]]]
    found = channel_scales(Features(one, two), 0, 1)
    np.testing.assert_allclose(found, [1.75, 1.25])
    turned = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)  # exchanges the channels
    np.testing.assert_allclose(channel_scales(Features(one, two), 0, 1, turned), [1.25, 1.75])


def scales_by_numpy(trace, first, last, rotation):
    ratios = []
    for sample in trace.samples:
        before, behind = (
            np.abs(sample.features[depth].double().numpy() @ rotation).mean(0)
            for depth in (first, last + 1)
        )
        ratios.append(behind / before)
    return np.mean(ratios, 0)


def test_the_patch_is_the_published_matrix(tiny, tiny_sample, calibration):
    """What leaves the kept layer is H Q diag(s) Q^T of the full model's H, with scipy's Q."""
    from scipy.linalg import hadamard

    rotation = hadamard(64) / 8.0
    scales = scales_by_numpy(calibration, 3, 4, rotation)
    patch = rotation @ np.diag(scales) @ rotation.T
    pruned = svl.prune(tiny, PLAN, "linearpatch", calibration)
    own = svl.trace(tiny, tiny_sample).samples[0].features[3].double().numpy()
    after = svl.trace(pruned, tiny_sample).samples[0].features[3].numpy()
    np.testing.assert_allclose(after, own @ patch, atol=1e-5)
    np.testing.assert_allclose(patch, patch.T, atol=1e-12)
    change = pruned.layers[2].svl_bridge.change
    torch.testing.assert_close(change, change.T)
    plain = svl.prune(tiny, PLAN)
    assert pruned.num_parameters - plain.num_parameters == 64 * 64


def test_patched_channels_have_the_magnitude_behind_the_run(tiny, tiny_sample):
    """Fitted on one sample, the patched stream has in the rotated basis the sizes of the full
    model's stream behind the run.
    """
    from scipy.linalg import hadamard

    alone = svl.trace(tiny, tiny_sample)
    pruned = svl.prune(tiny, PLAN, "linearpatch", alone)
    rotation = hadamard(64) / 8.0
    wanted, found = (
        np.abs(features.double().numpy() @ rotation).mean(0)
        for features in (
            alone.samples[0].features[5],
            svl.trace(pruned, tiny_sample).samples[0].features[3],
        )
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_patched_model_answers_alike_with_and_without_a_cache_and_is_not_saved(
    tiny, tiny_sample, calibration, tmp_path
):
    pruned = svl.prune(tiny, PLAN, "linearpatch", calibration)
    ids = svl.answer(pruned, tiny_sample, max_new_tokens=5).token_ids
    inputs = dict(tiny_sample.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        logits = pruned.model(**inputs, use_cache=False).logits[0, tiny_sample.length - 1 : -1]
    assert logits.argmax(-1).tolist() == list(ids)
    with pytest.raises(InputError, match="cannot hold them"):
        pruned.save(tmp_path / "out")


def test_the_gap_is_one_number_on_paper():
    one = [[[1.0, -2.0], [-1.0, 2.0]], [[9.0, 9.0], [9.0, 9.0]], [[-2.0, 6.0], [4.0, 0.0]]]
    assert gap_scale(Features(one), 0, 1) == pytest.approx((3 + 1.5) / 2)


def test_magnitude_computes_the_published_function(tiny, tiny_sample, calibration):
    """The stream times a at each gap, as the authors have it, by hooks on an uncompensated model:
    the same logits, although here later weights are divided instead. Only the norms' epsilon parts
    them.
    """
    plan = svl.manual_plan([1, 3, 4], 6)
    plain = svl.prune(tiny, plan)
    pruned = svl.prune(tiny, plan, "magnitude", calibration)
    scales = {
        kept: scales_by_numpy(calibration, first, last, np.eye(64)).mean()
        for kept, first, last in ((0, 1, 1), (1, 3, 4))
    }
    assert max(abs(scale - 1) for scale in scales.values()) > 0.1
    with ThreadHooks() as hooks, torch.no_grad():
        for kept, scale in scales.items():
            hooks.on_output(
                plain.layers[kept],
                lambda args, kwargs, output, scale=scale: with_hidden(
                    output, hidden_of(output) * scale
                ),
            )
        wanted = plain.model(**tiny_sample.inputs).logits
    with torch.no_grad():
        found = pruned.model(**tiny_sample.inputs).logits
        before = svl.prune(tiny, plan).model(**tiny_sample.inputs).logits
    assert (found - wanted).abs().max() < 0.01 * (before - wanted).abs().max()


def test_later_layers_are_divided_by_every_gap_before_them(tiny, calibration):
    pruned = svl.prune(tiny, svl.manual_plan([0, 2, 4], 6), "magnitude", calibration)
    first, second = gap_scale(calibration, 2, 2), gap_scale(calibration, 4, 4)
    for place, layer, scale in ((0, 1, 1), (1, 3, first), (2, 5, first * second)):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            own = tiny.layers[layer].get_submodule(name).weight
            found = pruned.layers[place].get_submodule(name).weight
            torch.testing.assert_close(found, own / scale)
    record = pruned.provenance["compensation"]
    assert record["layers"] == [3, 5] and record["uncompensated_runs"] == [[0, 0]]
    # behind the last gap no layer is left to divide
    assert (
        svl.prune(tiny, svl.manual_plan([5], 6), "magnitude", calibration).provenance[
            "compensation"
        ]["layers"]
        == []
    )


def test_magnitude_is_exported(tiny, tiny_sample, calibration, tmp_path):
    pruned = svl.prune(tiny, PLAN, "magnitude", calibration)
    again = svl.load(str(pruned.save(tmp_path / "out")))
    with torch.no_grad():
        assert torch.equal(
            again.model(**tiny_sample.inputs).logits, pruned.model(**tiny_sample.inputs).logits
        )
