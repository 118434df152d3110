"""How fast this processor multiplies matrices."""

from __future__ import annotations

import functools
import time

import torch

SIDE = 512  # of the matrices that are multiplied
SECONDS = 0.1  # for which they are


@functools.lru_cache
def products_per_second(dtype: torch.dtype) -> float:
    """Floating-point operations a second of this processor's matrix products in a dtype, measured
    once; a multiplication and an addition are two.
    """
    left, right = (torch.ones(SIDE, SIDE, dtype=dtype) for _ in range(2))
    times: list[float] = []
    with torch.inference_mode():
        while sum(times) < SECONDS:
            began = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - began)
    return 2 * SIDE**3 / min(times)
