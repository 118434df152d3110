"""How much faster a pruned model is than the full one: both timed in turn, medians compared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from svl_core.lvlm.decoding import Decoding, greedy
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample


@dataclass(frozen=True)
class Speedup:
    """How many times faster the pruned model is: full / pruned times.

    prefill: of the pass over image and prompt.
    decode: of the tokens after the first.
    total: of the whole answer.
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
    """Times both models' answers of equal length in turn.

    tokens: the length of an answer, at least 2.
    repeats: rounds that are timed, after one that is not.
    pruned_sample: what the pruned model reads instead (fewer visual tokens).

    Taking turns spreads whatever else the machine does over both; the median leaves out what hits
    one round only.
    """
    full_times = []
    pruned_times = []
    for _ in range(repeats + 1):
        full_times.append(_timed(full, sample, tokens))
        pruned_times.append(_timed(pruned, pruned_sample or sample, tokens))
    full_prefill, full_decode = _medians(full_times[1:])
    pruned_prefill, pruned_decode = _medians(pruned_times[1:])
    return Speedup(
        prefill=full_prefill / pruned_prefill,
        decode=full_decode / pruned_decode,
        total=(full_prefill + full_decode) / (pruned_prefill + pruned_decode),
    )


def _medians(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The median of the prefills, and that of the decodes, of several rounds."""
    prefills = [prefill for prefill, _ in times]
    decodes = [decode for _, decode in times]
    return median(prefills), median(decodes)


@torch.inference_mode()
def _timed(
    lvlm: LVLM,
    sample: Sample,
    tokens: int,
) -> tuple[float, float]:
    """Seconds of the prefill, images included, and of the `tokens` - 1 decode steps after it."""
    start = time.perf_counter()
    decoding = Decoding(lvlm, sample.inputs, features=sample.features)
    token = int(greedy(decoding.logits))
    middle = time.perf_counter()
    for _ in range(tokens - 1):
        decoding.feed(torch.tensor([[token]], device=decoding.logits.device))
        # reading the number waits for the device
        int(greedy(decoding.logits))
    seen_s = decoding.shared_ms / 1000
    return middle - start + seen_s, time.perf_counter() - middle
