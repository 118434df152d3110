"""How much faster a pruned model is than the full one: both timed in turn, medians compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from svl_core.lvlm.decoding import Decoding, greedy
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample


@dataclass(frozen=True)
class Speedup:
    """Full / pruned times: of the prefill, of a decoded token, and of the whole answer of `tokens`
    tokens.
    """

    prefill: float
    decode: float
    total: float


def measure_speedup(
    full: LVLM,
    pruned: LVLM,
    sample: Sample,
    *,
    tokens: int = 8,
    repeats: int = 5,
    pruned_sample: Sample | None = None,
) -> Speedup:
    """Times an answer of `tokens` >= 2 tokens with both models alternately, `repeats` times after
    one untimed round.

    pruned_sample: what the pruned model reads instead (fewer visual tokens).

    Alternating spreads whatever else the machine does over both; the median leaves out what hits
    one round only.
    """
    rounds = [
        (_timed(full, sample, tokens), _timed(pruned, pruned_sample or sample, tokens))
        for _ in range(repeats + 1)
    ][1:]
    (full_prefill, full_decode), (pruned_prefill, pruned_decode) = (
        [median(r[i][j] for r in rounds) for j in range(2)] for i in range(2)
    )
    total = (full_prefill + full_decode) / (pruned_prefill + pruned_decode)
    return Speedup(full_prefill / pruned_prefill, full_decode / pruned_decode, total)


@torch.inference_mode()
def _timed(lvlm: LVLM, sample: Sample, tokens: int) -> tuple[float, float]:
    """Seconds of the prefill and of the `tokens` - 1 decode steps after it."""
    start = time.perf_counter()
    decoding = Decoding(lvlm, sample.inputs)
    token = int(greedy(decoding.logits))
    middle = time.perf_counter()
    for _ in range(tokens - 1):
        decoding.feed(torch.tensor([[token]], device=decoding.logits.device))
        int(greedy(decoding.logits))  # waits for the device
    return middle - start, time.perf_counter() - middle
