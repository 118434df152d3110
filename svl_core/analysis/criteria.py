"""The registry of redundancy criteria. A new one is a row here and its function.

The functions that need torch are imported when they are called: the registry alone is read without
it, by the command's help and by the page before the first model is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType

import numpy as np

from svl_core.analysis.blocks import best_blocks
from svl_core.analysis.criterion import Criterion, Measured, Request, Scored
from svl_core.analysis.greedy import follow
from svl_core.analysis.spacing import spaced
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.triplets import interleaved
from svl_core.errors import InputError


def _over_tokens(
    tokens: str,
    measure: str,
) -> Callable[[Request], Measured]:
    """A function of `analysis.measures`, by its name, over one of the token sets."""

    def measured(request: Request) -> Measured:
        from svl_core.analysis import measures

        positions = token_positions(
            request.trace,
            request.importance,
            tokens,
            request.top_p,
        )
        return getattr(measures, measure)(request.trace, positions)

    return measured


def _running_the_model(
    measure: str,
    module: str = "skipping",
) -> Callable[[Request], Measured]:
    """A function by its name in a file of this room, `analysis.skipping` by default."""

    def measured(request: Request) -> Measured:
        running = import_module(f"svl_core.analysis.{module}")
        return getattr(running, measure)(request)

    return measured


def _over_tokens_of_halves(tokens: str) -> Callable[[Request], Measured]:
    """The cosine of what enters and leaves each half, over one of the token sets."""

    def measured(request: Request) -> Measured:
        from svl_core.analysis.sublayers import half_cosines

        return half_cosines(request, tokens)

    return measured


def _rescored(request: Request) -> Measured:
    """1 - cosine of every layer, measured anew on the model without those that went before."""
    from svl_core.analysis.rescoring import rescored_distances

    return rescored_distances(request)


def _by_mean(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The higher the mean, the more redundant the layer."""
    return Scored(mean)


def _by_negated_mean(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The lower the mean, the more redundant the layer."""
    return Scored(0.0 - mean)


def _most_similar_block(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The block of layers whose input and output are most alike."""
    return best_blocks(mean, request.protected)


def _nearest_block(
    mean: np.ndarray,
    request: Request,
) -> Scored:
    """The block of layers with the smallest distance; it starts behind layer 0, as published."""
    scored = best_blocks(1 - mean, (*request.protected, 0))
    return Scored(
        scored.scores,
        scored.ranking,
        scored.blocks,
        protects=(0,),
    )


def _random(request: Request) -> Scored:
    """A draw that the request's seed decides."""
    return Scored(np.random.default_rng(request.seed).random(request.depth))


def _manual(request: Request) -> Scored:
    """The user's layers, the first with the highest score. Raises InputError for none, for one
    named twice, out of range or protected.
    """
    if request.layers is None:
        raise InputError(
            "Found no layers for criterion 'manual'; expected them in the order in which they go;"
            " pass layers=."
        )
    layers = list(request.layers)
    depth = request.trace.num_layers
    droppable = set(range(depth)) - set(request.protected)
    if len(set(layers)) != len(layers) or not set(layers) <= droppable:
        raise InputError(
            f"Found the layers {layers} for criterion 'manual'; expected different ones from 0 to"
            f" {depth - 1} without the protected {list(request.protected)}; correct them."
        )
    scores = np.zeros(depth)
    scores[layers] = 1 - np.arange(len(layers)) / max(len(layers), 1)
    return Scored(scores)


SVL = "Short-LVLM, arXiv 2507.23362"
HIGH = "high = redundant"
LOW = "low = redundant"
ONE_PASS = "1"
GREEDY_PASSES = "up to L (L + 1) / 2"

ROWS = (
    Criterion(
        name="svl",
        title="SVL (important tokens)",
        source=SVL,
        formula="mean over important tokens of cos(H[l], H[l+1])",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("important", "cosine_sums"),
        of_halves=_over_tokens_of_halves("important"),
        select=_by_mean,
    ),
    Criterion(
        name="svl-all",
        title="SVL on all tokens",
        source=SVL + " (ablation)",
        formula="mean over all tokens of cos(H[l], H[l+1])",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("all", "cosine_sums"),
        of_halves=_over_tokens_of_halves("all"),
        select=_by_mean,
    ),
    Criterion(
        name="svl-visual",
        title="SVL on visual tokens",
        source=SVL + " (ablation)",
        formula="mean over visual tokens of cos(H[l], H[l+1])",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("visual", "cosine_sums"),
        of_halves=_over_tokens_of_halves("visual"),
        select=_by_mean,
    ),
    Criterion(
        name="svl-textual",
        title="SVL on text tokens",
        source=SVL + " (ablation)",
        formula="mean over textual tokens of cos(H[l], H[l+1])",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("textual", "cosine_sums"),
        of_halves=_over_tokens_of_halves("textual"),
        select=_by_mean,
    ),
    Criterion(
        name="svl-last",
        title="SVL on the last token",
        source=SVL + " (ablation)",
        formula="cos(H[l], H[l+1]) at the prompt's last token",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("last", "cosine_sums"),
        of_halves=_over_tokens_of_halves("last"),
        select=_by_mean,
    ),
    Criterion(
        name="svl-iterated",
        title="SVL, re-scored after each drop",
        source=SVL + " (ablation)",
        formula="1 - mean over important tokens of cos(H[l], H[l+1]) of the model without the"
        " layers that went before; greedy, re-scored",
        direction=LOW,
        cost_forward_passes="up to L",
        needs="model",
        weighs=True,
        measure=_rescored,
        select=follow,
    ),
    Criterion(
        name="svl-spaced",
        title="SVL, spaced",
        source="this project, after a finding of arXiv 2603.20275",
        formula="SVL's cosine; of the layers whose drop leaves the shortest run of dropped ones the"
        " most redundant, again and again",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("important", "cosine_sums"),
        select=spaced,
    ),
    Criterion(
        name="shortgpt",
        title="ShortGPT (Block Influence)",
        source="ShortGPT, arXiv 2403.03853",
        formula="1 - mean over all tokens of cos(H[l], H[l+1])",
        direction=LOW,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("all", "cosine_sums"),
        of_halves=_over_tokens_of_halves("all"),
        select=_by_mean,
    ),
    Criterion(
        name="angular",
        title="PruneMe (angular distance of a block)",
        source="arXiv 2403.17887",
        formula="arccos(cos(H[s], H[s+n])) / pi at the last token; one block of n layers, s >= 1",
        direction=LOW,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("last", "angular_distances"),
        select=_nearest_block,
    ),
    Criterion(
        name="streamline",
        title="LLM-Streamline (block)",
        source="LLM-Streamline, arXiv 2403.19135 (selection only)",
        formula="mean over all tokens of cos(H[s], H[s+n]); one block of n layers",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("all", "matrix_sums"),
        select=_most_similar_block,
    ),
    Criterion(
        name="sleb",
        title="SLEB (greedy on loss)",
        source="SLEB, arXiv 2402.09025",
        formula="mean loss of the answers' tokens with the layer skipped; greedy, re-scored",
        direction=LOW,
        cost_forward_passes=GREEDY_PASSES,
        needs="model",
        measure=_running_the_model("by_loss"),
        of_halves=_running_the_model("by_loss"),
        select=follow,
    ),
    Criterion(
        name="greedy-kl",
        title="Greedy on KL",
        source="this project",
        formula="mean KL(full || skipped) on the answers' tokens; greedy, re-scored",
        direction=LOW,
        cost_forward_passes=GREEDY_PASSES,
        needs="model",
        measure=_running_the_model("by_kl"),
        of_halves=_running_the_model("by_kl"),
        select=follow,
    ),
    Criterion(
        name="shortv",
        title="ShortV (layer contribution)",
        source="ShortV, arXiv 2504.00502 (ranking only)",
        formula="KL(frozen || full) at the last token; frozen: the layer's update of visual tokens"
        " undone",
        direction=LOW,
        cost_forward_passes="L + 1",
        needs="model",
        measure=_running_the_model("frozen_divergence"),
        select=_by_negated_mean,
    ),
    Criterion(
        name="gradient",
        title="Gradient magnitude",
        source="after GradMAP, arXiv 2602.14649 (this project's reading)",
        formula="mean over the layer's weights of |d loss / d w|, the loss that of the answers'"
        " tokens",
        direction=LOW,
        cost_forward_passes="1 and a backward pass",
        needs="model",
        measure=_running_the_model("gradient_magnitude", "gradients"),
        select=_by_negated_mean,
    ),
    Criterion(
        name="interlace",
        title="INTERLACE (triplets)",
        source="INTERLACE, arXiv 2511.19676 (selection only)",
        formula="triplets by mean over all tokens of cos(H[l], H[l+3]), no layer twice; of each the"
        " first or second layer, whichever has the higher cos(H[l], H[l+1])",
        direction=HIGH,
        cost_forward_passes=ONE_PASS,
        measure=_over_tokens("all", "matrix_sums"),
        select=interleaved,
    ),
    Criterion(
        name="random",
        title="Random",
        source="-",
        formula="a seeded draw",
        direction="-",
        cost_forward_passes="0",
        score=_random,
    ),
    Criterion(
        name="manual",
        title="One's own order",
        source="-",
        formula="the given layers, in the given order",
        direction="-",
        cost_forward_passes="0",
        needs="layers",
        score=_manual,
    ),
)
CRITERIA: Mapping[str, Criterion] = MappingProxyType({row.name: row for row in ROWS})
