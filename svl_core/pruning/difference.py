"""The feature difference D whose subspace SCP amplifies, as the recipe reads the published figure.

The figure says "feature difference" and no more: what its rows are, whether their mean is taken
out, and how many layers it goes across are options of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from svl_core.analysis.gap import difference
from svl_core.pruning.fit import Fit


def rows_by_sample(
    fit: Fit,
    first: int,
    last: int,
) -> Iterator[torch.Tensor]:
    """Each sample's rows of D, (m, d) float64, before any centring.

    "run" is H[last+1] - H[first], "layer" H[first+1] - H[first]. A row is one fitted token, or
    their mean over the sample; a sample without fitted tokens has no row.

    first, last: the dropped run.
    """
    whole = fit.recipe.gap_span == "run"
    end = last if whole else first
    averaged = fit.recipe.gap_rows == "samples"
    for sample, chosen in zip(fit.trace.samples, fit.positions, strict=True):
        rows = difference(sample, chosen, first, end)
        if averaged and len(rows):
            rows = rows.mean(0, keepdim=True)
        yield rows


def row_count(fit: Fit) -> int:
    """How many rows D has."""
    tokens = [len(chosen) for chosen in fit.positions]
    if fit.recipe.gap_rows == "samples":
        return sum(count > 0 for count in tokens)
    return sum(tokens)


def difference_gram(
    fit: Fit,
    first: int,
    last: int,
) -> np.ndarray:
    """D^T D, (d, d) float64, centred where the recipe says so: memory d x d for any number of rows.

    first, last: the dropped run.
    """
    size = fit.trace.hidden_size
    gram = torch.zeros(size, size, dtype=torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    for rows in rows_by_sample(fit, first, last):
        gram += rows.T @ rows
        total += rows.sum(0)
    if fit.recipe.gap_centred:
        count = max(row_count(fit), 1)
        gram -= torch.outer(total, total) / count
    return gram.numpy()


def difference_rows(
    fit: Fit,
    first: int,
    last: int,
) -> torch.Tensor:
    """D, (n, d) float64, centred where the recipe says so; for fewer rows than dimensions.

    first, last: the dropped run.
    """
    rows = torch.cat(list(rows_by_sample(fit, first, last)))
    if fit.recipe.gap_centred:
        rows = rows - rows.mean(0)
    return rows
