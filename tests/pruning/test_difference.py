"""The readings of SCP's feature difference, on numbers worked out on paper and against an SVD with
numpy of the full model's own features.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import picture

import svl_core as svl
from svl_core.pruning.difference import difference_gram, difference_rows, row_count
from svl_core.pruning.fit import Fit
from svl_core.recipe import GAP_ROWS, GAP_SPANS, Recipe

# Two dimensions, layers 1 and 2 dropped: what enters is zero, so that a row is what stands here.
BEHIND_THE_FIRST = [[[1.0, 0.0], [3.0, 0.0]], [[0.0, 2.0]]]
BEHIND_THE_RUN = [[[2.0, 2.0], [4.0, 0.0]], [[0.0, 6.0]]]


def on_paper(**reading):
    """Three tokens of two samples; a third sample has no token that is fitted on."""
    samples, positions = [], []
    for one, run in zip(BEHIND_THE_FIRST, BEHIND_THE_RUN):
        behind = [np.zeros_like(one), np.zeros_like(one), one, run]
        samples.append(SimpleNamespace(features=torch.tensor(np.array(behind))))
        positions.append(np.arange(len(one)))
    samples.append(SimpleNamespace(features=torch.ones(4, 1, 2)))
    positions.append(np.array([], int))
    trace = SimpleNamespace(samples=samples, hidden_size=2)
    return Fit(trace, positions, None, Recipe(**reading), 0.0)


@pytest.mark.parametrize(
    "reading, rows",
    [
        ({}, [[2, 2], [4, 0], [0, 6]]),
        ({"gap_span": "layer"}, [[1, 0], [3, 0], [0, 2]]),
        ({"gap_rows": "samples"}, [[3, 1], [0, 6]]),
        ({"gap_rows": "samples", "gap_span": "layer"}, [[2, 0], [0, 2]]),
        ({"gap_centred": True}, [[0, -2 / 3], [2, -8 / 3], [-2, 10 / 3]]),
        ({"gap_centred": True, "gap_rows": "samples"}, [[1.5, -2.5], [-1.5, 2.5]]),
    ],
    ids=str,
)
def test_rows_on_paper(reading, rows):
    fit = on_paper(**reading)
    np.testing.assert_allclose(difference_rows(fit, 1, 2).numpy(), rows, atol=1e-12)
    assert row_count(fit) == len(rows)
    expected = np.array(rows).T @ np.array(rows)
    np.testing.assert_allclose(difference_gram(fit, 1, 2), expected, atol=1e-12)


@pytest.fixture(scope="module")
def calibration(tiny):
    """Five samples: fewer sample means than dimensions, more tokens."""
    return svl.trace(tiny, [tiny.encode(picture(seed=k), "a cat and a dog") for k in range(5)])


@pytest.mark.parametrize("gap_span", GAP_SPANS)
@pytest.mark.parametrize("gap_centred", [False, True])
@pytest.mark.parametrize("gap_rows", GAP_ROWS)
def test_the_edit_of_every_reading_is_that_of_an_svd(
    tiny, calibration, gap_rows, gap_centred, gap_span
):
    reading = {"gap_rows": gap_rows, "gap_centred": gap_centred, "gap_span": gap_span}
    plan = svl.manual_plan([2, 3], 6)
    pruned = svl.prune(tiny, plan, "scp", calibration, rank=2, tokens="textual", **reading)

    behind = 4 if gap_span == "run" else 3
    rows = []
    for sample in calibration.samples:
        features = sample.features.double().numpy()[:, sample.textual]
        step = features[behind] - features[2]
        rows.append(step if gap_rows == "tokens" else step.mean(0)[None])
    difference = np.concatenate(rows)
    if gap_centred:
        difference = difference - difference.mean(0)
    directions = np.linalg.svd(difference)[2][:2]
    weight = tiny.layers[1].mlp.down_proj.weight.double().numpy()
    expected = weight + directions.T @ directions @ weight
    found = pruned.layers[1].mlp.down_proj.weight.double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    recorded = pruned.provenance["compensation"]
    assert {name: recorded[name] for name in reading} == reading


def test_one_sample_s_mean_taken_out_of_itself_leaves_nothing_to_amplify(tiny, tiny_sample):
    alone = svl.trace(tiny, tiny_sample)
    plan = svl.manual_plan([2, 3], 6)
    pruned = svl.prune(tiny, plan, "scp", alone, gap_rows="samples", gap_centred=True)
    own = tiny.layers[1].mlp.down_proj.weight
    assert torch.equal(pruned.layers[1].mlp.down_proj.weight, own)
    assert pruned.provenance["compensation"]["ranks"] == {"2-3": 0}


def test_readings_do_not_share_a_kept_subspace(tiny, calibration):
    """On one trace, one after the other, each is what it is on a trace of its own."""
    plan = svl.manual_plan([2, 3], 6)
    edited = set()
    for reading in ({}, {"gap_rows": "samples"}, {"gap_centred": True}, {"gap_span": "layer"}):
        pruned = svl.prune(tiny, plan, "scp", calibration, rank=2, **reading)
        edited.add(float(pruned.layers[1].mlp.down_proj.weight.double().norm()))
    assert len(edited) == 4
