"""What an attention adds to its scores by position, as part of its mask: numbers made by hand."""

import torch

from svl_core.analysis.attention import biased

LOWEST = torch.finfo(torch.float32).min
BIAS = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])


def test_without_a_bias_a_mask_stays():
    assert biased(None, None) is None
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert biased(mask, None) is mask


def test_without_a_mask_later_keys_are_hidden():
    assert biased(None, BIAS).tolist() == [[[[1, LOWEST], [3, 4]]]]
    last = BIAS[:, :, 1:]  # one new query behind a cache sees all keys
    assert biased(None, last).tolist() == [[[[3, 4]]]]


def test_masks_of_both_kinds():
    seen = torch.tensor([[[[True, False], [False, True]]]])
    assert biased(seen, BIAS).tolist() == [[[[1, LOWEST], [LOWEST, 4]]]]
    added = torch.tensor([[[[0.0, LOWEST], [0.5, 0.0]]]])
    assert biased(added, BIAS).tolist() == [[[[1, LOWEST], [3.5, 4]]]]
