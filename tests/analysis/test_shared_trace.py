"""Rankings from a trace whose passes a team shares are those of one process, to the bit."""

import numpy as np
import pytest
from teams import as_team
from tiny import picture

from svl_core.analysis.criteria import CRITERIA
from svl_core.analysis.importance import importance
from svl_core.analysis.redundancy import redundancy, similarity
from svl_core.analysis.shared_trace import trace_together
from svl_core.analysis.trace import trace
from svl_core.progress import QUIET


@pytest.fixture(scope="module")
def samples(tiny):
    """Three of them, one without an image."""
    asked = [(picture(seed=1), "a cat"), (None, "no"), (picture(seed=2), "is the chair red ?")]
    return [tiny.encode(*pair) for pair in asked]


RUNNING = {"greedy-kl": {"rounds": 1}, "sleb": {"rounds": 1}, "shortv": {}, "gradient": {}}


def found(lvlm, traced, samples, run):
    """Every score that follows from a trace, and those of criteria that run the model."""
    weights = importance(traced)
    scores = [similarity(traced, weights)]
    for name, criterion in CRITERIA.items():
        if criterion.needs == "trace":
            scores.append(redundancy(traced, weights, name).scores)
    for name, options in RUNNING.items():
        model = {"lvlm": lvlm, "samples": samples, "run": run, **options}
        scores.append(redundancy(traced, weights, name, **model).scores)
    return scores


@pytest.fixture(scope="module")
def alone(tiny, samples):
    return found(tiny, trace(tiny, samples), samples, QUIET)


@pytest.mark.parametrize("spooled", [False, True])
def test_scores_are_those_of_one_process(tiny, samples, alone, tmp_path, spooled):
    spool = tmp_path if spooled else None

    def body(run):
        return found(tiny, trace_together(tiny, samples, spool=spool, run=run), samples, run)

    for scores in as_team(2, body):
        for score, expected in zip(scores, alone, strict=True):
            np.testing.assert_array_equal(score, expected)


def test_features_do_not_travel(tiny, samples):
    whole = trace(tiny, samples)
    for shared in as_team(2, lambda run: trace_together(tiny, samples, run=run)):
        assert [sample.key for sample in shared.samples] == [sample.key for sample in samples]
        for sample, expected in zip(shared.samples, whole.samples, strict=True):
            assert sample.features.numel() == 0 and sample.length == expected.length
            assert sample.sample is None and sample.mlp is None
