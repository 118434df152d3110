"""Many models at once: the marks are those of generating each answer with each model, whatever is
shared between them.
"""

import threading

import numpy as np
import pytest
from batched_match import _rows, _tree, batched_exact_match
from tiny import picture

from svl_core.analysis.trace import trace
from svl_core.comparison.evaluation import answer_batch
from svl_core.errors import Cancelled, InputError
from svl_core.progress import Run
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune

PROMPTS = [
    "what",
    "what is in the picture",
    "a cat and a dog and a cat and a dog",
    "is the dog a cat",
    "how many",
]


@pytest.fixture(scope="module")
def samples(tiny):
    """Five questions about one picture and three about others."""
    return [tiny.encode(picture(), prompt) for prompt in PROMPTS] + [
        tiny.encode(picture(seed=seed), PROMPTS[seed]) for seed in (1, 2, 2)
    ]


@pytest.fixture(scope="module")
def models(tiny, samples):
    traced = trace(tiny, samples[:4], mlp=True)
    plans = [manual_plan(layers, tiny.num_layers) for layers in ((), (2,), (2, 3), (1, 4), (4,))]
    return [
        prune(tiny, plan, compensation, traced, rank=2)
        for plan in plans
        for compensation in ("none", "scp", "lstsq", "bridge")
    ]


def test_marks_are_those_of_generation(tiny, models, samples):
    generated = [answer_batch(model, samples, max_new_tokens=5) for model in models]
    assert len({ids for answers in generated for ids in answers}) > 2 * len(
        samples
    )  # the models differ, and so do the questions
    for reference in (generated[0], generated[5], generated[-1]):
        wanted = np.array(
            [[ids == true for ids, true in zip(answers, reference)] for answers in generated]
        )
        assert wanted.any() and not wanted.all()
        for positions, row in ((4096, 256), (200, 256), (1, 1)):
            assert (
                batched_exact_match(
                    tiny, models, samples, reference, batch_positions=positions, longest_row=row
                )
                == wanted
            ).all()


def test_a_last_token_that_differs_is_seen(tiny, samples):
    answers = [list(ids) for ids in answer_batch(tiny, samples, max_new_tokens=4)]
    answers[3][-1] = (answers[3][-1] + 1) % 300
    assert batched_exact_match(tiny, [tiny], samples, answers)[0].tolist() == [True] * 3 + [
        False
    ] + [True] * (len(samples) - 4)


def test_equal_beginnings_are_one_branch_and_equal_edits_one_node(tiny, models):
    def nodes(tree):
        return sum(1 + nodes(node.children) for node in tree.values())

    assert nodes(_tree(tiny, [tiny, tiny, models[0]])) == tiny.num_layers
    without = prune(tiny, manual_plan((4,), tiny.num_layers))
    assert (
        nodes(_tree(tiny, [tiny, without])) == tiny.num_layers + 1
    )  # layer 5 again, after layer 3
    scp = models[5]
    assert nodes(_tree(tiny, [scp, models[5]])) == scp.num_layers


def test_one_pictures_questions_share_its_positions(samples):
    rows = _rows(samples, [(1, 2)] * len(samples), 256)
    assert sorted(sorted(row.questions) for row in rows) == [[0, 1, 2, 3, 4], [5], [6, 7]]
    assert sorted(
        i for row in _rows(samples, [(1, 2)] * len(samples), 60) for i in row.questions
    ) == list(range(len(samples)))


def test_refusals(tiny, samples):
    with pytest.raises(InputError, match="2 answers for 8 samples"):
        batched_exact_match(tiny, [tiny], samples, [(1,), (1,)])
    with pytest.raises(InputError, match="at least a token"):
        batched_exact_match(tiny, [tiny], samples, [()] * len(samples))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        batched_exact_match(tiny, [tiny], samples, [(1,)] * len(samples), run=Run(cancel=cancel))
