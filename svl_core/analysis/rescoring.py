"""SVL's ranking iterated: after each drop the pruned model reads the samples again, and the layers
that are left are scored anew.
"""

from __future__ import annotations

import numpy as np
import torch

from svl_core.analysis.criterion import Measured, Request
from svl_core.analysis.greedy import lowest, rounds_of
from svl_core.analysis.importance import TokenImportance, importance
from svl_core.analysis.measures import cosine_sums
from svl_core.analysis.skipping import without
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import trace
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import empty_tensor
from svl_core.progress import Run


def rescored_distances(request: Request) -> Measured:
    """1 - cos(H[l], H[l+1]) on the important tokens; the layer of the smallest mean goes, round by
    round.

    In every round the model without the layers that went before reads each sample again: its own
    attention says which tokens are important, as the request's importance read it, and its own
    hidden states say how far each layer turns them. The first round is the one-shot measure.

    Returns sums (n, R, L) over the important tokens of each sample in each of R rounds, NaN for
    layers that are gone, and counts (n, R, 1) of these tokens; `greedy.follow` reads them.
    """
    depth = request.model.num_layers
    count = len(request.samples)
    rounds = rounds_of(request, depth)
    shape = count, rounds, depth
    unknown = empty_tensor(shape, torch.float64, request.trace.spool).fill_(torch.nan)
    sums = unknown.numpy()
    counts = np.zeros((count, rounds, 1))
    gone: list[int] = []
    for number in range(rounds):
        kept = [layer for layer in range(depth) if layer not in gone]
        part = request.run.part(number / rounds, (number + 1) / rounds)
        read = _round(request, without(request.model, gone), part)
        for place, (distances, tokens) in enumerate(read):
            sums[place, number, kept] = distances
            counts[place, number] = tokens
        mean = Measured(sums[:, number], counts[:, number]).mean()
        free = [layer for layer in kept if layer not in request.protected]
        gone += lowest(mean, free)[:1]
    return Measured(sums, counts)


def _round(
    request: Request,
    model: LVLM,
    run: Run,
) -> list[tuple[np.ndarray, float]]:
    """For each sample the sums over its important tokens of 1 - cosine of each of the model's
    layers, and how many these tokens are.
    """
    samples = request.samples

    def measured(place: int, alone: Run) -> tuple[np.ndarray, float]:
        dropped = request.trace.num_layers - model.num_layers
        alone.step(place / len(samples), f"{dropped} layers gone, sample {place + 1}")
        return _distances(request, model, samples[place])

    return list(run.deal(range(len(samples)), measured))


def _distances(
    request: Request,
    model: LVLM,
    sample: Sample,
) -> tuple[np.ndarray, float]:
    """One sample's part of a round."""
    traced = trace(model, sample)
    weighed = _weighed_alike(request.importance)
    importances = importance(traced, **weighed)
    positions = token_positions(traced, importances, "important", request.top_p)
    cosines = cosine_sums(traced, positions)
    tokens = float(cosines.counts[0])
    return tokens - cosines.sums[0], tokens


def _weighed_alike(given: TokenImportance | None) -> dict:
    """How the request's importance read attention, as arguments of `importance`."""
    if given is None:
        return {}
    return {
        "causal_correction": given.causal_correction,
        "text_self": given.text_self,
    }
