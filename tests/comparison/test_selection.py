"""The rank by held-out fidelity: the lowest KL of those measured, fit and measurement apart, ties
to the smaller rank.
"""

import numpy as np
import pytest
from tiny import picture

from svl_core.analysis.trace import trace
from svl_core.comparison.calibration import split
from svl_core.comparison.fidelity import compare
from svl_core.comparison.selection import choose_rank
from svl_core.errors import InputError
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune


@pytest.fixture(scope="module")
def samples(tiny):
    return [tiny.encode(picture(seed=seed), "what is in the picture") for seed in range(4)]


def test_the_lowest_kl_of_samples_left_out(tiny, samples):
    plan = manual_plan((2, 3), tiny.num_layers)
    found = choose_rank(tiny, plan, "scp", samples, ranks=(0, 2, 9999), max_new_tokens=3)
    assert (
        found.ranks == (0, 2, tiny.hidden_size)
        and found.rank == found.ranks[int(np.argmin(found.kl))]
        and found.held_out == 2
    )
    fit, held = split(samples, 0.5, 0)
    pruned = prune(tiny, plan, "scp", trace(tiny, fit), rank=2)
    assert found.kl[1] == pytest.approx(
        np.mean([compare(tiny, pruned, sample, max_new_tokens=3).kl for sample in held]), rel=1e-3
    )


def test_ties_go_to_the_smaller_rank_and_refusals(tiny, samples):
    assert (
        choose_rank(
            tiny,
            manual_plan((), tiny.num_layers),
            "bridge",
            samples[:2],
            ranks=(8, 1),
            max_new_tokens=2,
        ).rank
        == 1
    )
    with pytest.raises(InputError, match="no rank"):
        choose_rank(tiny, manual_plan((2,), tiny.num_layers), "lstsq", samples)
    with pytest.raises(InputError, match="at least two"):
        choose_rank(tiny, manual_plan((2,), tiny.num_layers), "scp", samples[:1])
