"""A trace whose passes several processes share, for rankings: what is fitted needs a trace of its
own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from svl_core.analysis.trace import SampleTrace, Trace, trace, trace_of
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.spool import store_values
from svl_core.progress import QUIET, Run


def trace_together(
    lvlm: LVLM,
    samples: Sequence[Sample],
    *,
    spool: str | Path | None = None,
    run: Run = QUIET,
) -> Trace:
    """`trace` by the run's team: each process runs the model over its samples, and all of them get
    what criteria, importance and similarity are computed from.

    That is the attention statistics and the inner products of the features, a small part of their
    size; the features themselves are let go, so that nothing can be fitted on this trace.
    Where a process is alone it is the whole trace. Parameters and errors are those of `trace`.
    """
    if run.team.count == 1:
        return trace(lvlm, samples, spool=spool, run=run)
    began = time.perf_counter()
    count = len(samples)

    def traced(number: int, alone: Run) -> SampleTrace:
        alone.step(number / count, f"{number + 1} of {count} samples")
        return _without_features(trace(lvlm, samples[number], run=alone.silent()).samples[0])

    shared = store_values(run.deal(range(count), traced), count, spool)
    return trace_of(lvlm, shared, 1000 * (time.perf_counter() - began), spool)


def _without_features(sample: SampleTrace) -> SampleTrace:
    """The trace with features (L+1, S, 0), and with all inner products of the features it had."""
    light = sample.without_features()
    vars(light)["products"] = sample.products  # where the cached property looks
    return light
