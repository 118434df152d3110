"""Sweeps: rows equal `compare`, resume, cancel, cliffs and Pareto rows by hand, CSV, refusals."""

import csv
import io
import json
import threading

import numpy as np
import pytest

from svl_core.analysis.importance import importance
from svl_core.analysis.redundancy import redundancy
from svl_core.analysis.trace import trace
from svl_core.comparison.answer import answer
from svl_core.comparison.evaluation import Question
from svl_core.comparison.fidelity import compare
from svl_core.comparison.speed import Stopwatch
from svl_core.comparison.sweep import SweepRow, cliff, ends_first, pareto, sweep
from svl_core.errors import Cancelled, InputError
from svl_core.progress import Run
from svl_core.pruning.plan import plan
from svl_core.pruning.prune import prune
from svl_core.pruning.tokens import thin
from svl_core.recipe import Recipe

QUICK = {"max_new_tokens": 4, "repeats": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def sets(tiny, image):
    """(measured, fit) samples."""
    asked = [
        tiny.encode(image, p)
        for p in (
            "what is in the top left ?",
            "a cat",
            "how many apples are there",
            "where is the guitar ?",
        )
    ]
    return asked[:2], asked[2:]


def row(drop, agreement, speedup=1.0, kl=0.0, accuracy=None, criterion="svl", **speed):
    return SweepRow(
        criterion,
        "none",
        drop,
        tuple(range(drop)),
        kl,
        agreement,
        0.0,
        accuracy,
        speedup,
        1.0,
        1.0,
        100,
        **speed,
    )


def test_rows_equal_compare(tiny, sets):
    measured, fit = sets
    found = sweep(tiny, measured, fit, criteria=["shortgpt"], drops=[0, 2], **QUICK)
    traced = trace(tiny, fit)
    pruned = prune(tiny, plan(redundancy(traced, importance(traced), "shortgpt"), 2))
    reports = [compare(tiny, pruned, sample, max_new_tokens=4) for sample in measured]
    zero, two = found.rows
    assert (zero.kl, zero.agreement, zero.exact, zero.drop, zero.layers, zero.speedup) == (
        0,
        1,
        1,
        0,
        (),
        1,
    )
    assert two.kl == pytest.approx(np.mean([r.kl for r in reports]), rel=1e-3)
    assert two.agreement == pytest.approx(np.mean([r.agreement for r in reports]))
    assert two.exact == np.mean([r.exact for r in reports])
    assert two.parameters == pruned.num_parameters and two.speedup > 0 and two.accuracy is None


def test_every_combination_once_and_json(tiny, sets):
    seen = []
    found = sweep(
        tiny,
        *sets,
        criteria=["svl", "random"],
        compensations=["none", "scp"],
        drops=[1, 2],
        draws=2,
        run=Run(lambda f, what: seen.append(f)),
        **QUICK,
    )
    assert [(r.criterion, r.compensation, r.drop) for r in found.rows] == [
        (c, k, d) for c in ("svl", "random") for k in ("none", "scp") for d in (1, 2)
    ]
    assert all((r.spread is None) == (r.criterion != "random") for r in found.rows)
    assert seen == sorted(seen) and seen[-1] == 1
    out = json.loads(json.dumps(found.to_json()))
    assert {"criterion", "compensation", "drop", "kl", "agreement", "exact", "speedup"} <= set(
        out["rows"][0]
    )
    assert len(out["cliffs"]) == 4 and out["pareto"] and out["layers"] == 6


def test_default_drop_counts_are_all_droppable_layers(tiny, sets):
    assert [r.drop for r in sweep(tiny, *sets, **QUICK).rows] == [0, 1, 2, 3, 4]


def test_accuracy_on_labelled_questions(tiny, sets, image):
    text = answer(tiny, tiny.encode(image, "what"), max_new_tokens=4).text
    found = sweep(
        tiny,
        *sets,
        drops=[0],
        questions=[Question(image, "what", text), Question(image, "what", "no")],
        **QUICK,
    )
    assert found.rows[0].accuracy == 0.5


def test_random_rows_are_means_over_draws(tiny, sets):
    both = sweep(
        tiny, *sets, criteria=["random"], drops=[2], draws=2, recipe=Recipe(seed=3), **QUICK
    ).rows[0]
    each = [
        sweep(
            tiny, *sets, criteria=["random"], drops=[2], draws=1, recipe=Recipe(seed=s), **QUICK
        ).rows[0]
        for s in (3, 4)
    ]
    assert both.kl == pytest.approx(np.mean([r.kl for r in each])) and both.spread[
        "kl"
    ] == pytest.approx(np.std([r.kl for r in each], ddof=1))


def test_resume_goes_on_where_it_stopped(tiny, sets, tmp_path):
    file, cancel = tmp_path / "sweep.json", threading.Event()

    def stop_at_third(fraction, what):
        if "3 of" in what:
            cancel.set()

    with pytest.raises(Cancelled):
        sweep(
            tiny,
            *sets,
            drops=[1, 2, 3, 4],
            resume=file,
            run=Run(stop_at_third, cancel),
            **QUICK,
        )
    written = json.loads(file.read_text())["rows"]
    assert 1 <= len(written) < 4
    steps = []
    found = sweep(
        tiny,
        *sets,
        drops=[1, 2, 3, 4],
        resume=file,
        run=Run(lambda f, what: steps.append(what)),
        **QUICK,
    )
    assert [r.drop for r in found.rows] == [1, 2, 3, 4]
    again = {row.drop: row.to_json() for row in found.rows}
    assert all(again[row["drop"]] == row for row in written)
    assert not any(what.startswith("svl, none, 1 of") for what in steps)
    more = sweep(tiny, *sets, criteria=["svl", "shortgpt"], drops=[1], resume=file, **QUICK)
    assert len(more.rows) == 2 and len(json.loads(file.read_text())["rows"]) == 5
    with pytest.raises(InputError, match="other settings"):
        sweep(tiny, *sets, Recipe(seed=9), drops=[1], resume=file, **QUICK)


def test_tokens_weigh_as_asked(tiny, sets, tmp_path):
    """Rankings are those of the importance that is asked for, and rows of another one are not put
    beside them.
    """
    measured, fit = sets
    traced = trace(tiny, fit)
    for asked in ({}, {"causal_correction": True, "text_self": "given"}):
        found = sweep(
            tiny,
            measured,
            fit,
            criteria=["svl", "shortgpt"],
            drops=[1],
            recipe=Recipe.of(**asked),
            resume=tmp_path / f"{len(asked)}.json",
            **QUICK,
        )
        true = redundancy(traced, importance(traced, **asked), "svl")
        np.testing.assert_array_equal(found.rankings["svl"].scores, true.scores)
        assert found.rows[0].layers == true.chosen(1) and set(found.rankings) == {"svl", "shortgpt"}
    sweep(
        tiny,
        measured,
        fit,
        drops=[1],
        recipe=Recipe(causal_correction=False),
        resume=tmp_path / "0.json",
        **QUICK,
    )
    with pytest.raises(InputError, match="other settings"):
        sweep(tiny, measured, fit, drops=[1], resume=tmp_path / "2.json", **QUICK)


def test_a_sweep_in_memory_is_not_ranked_again(tiny, sets, monkeypatch):
    first = sweep(tiny, *sets, criteria=["greedy-kl"], drops=[1], **QUICK)
    monkeypatch.setattr("svl_core.comparison.sweep.rank_layers", None)
    more = sweep(tiny, *sets, criteria=["greedy-kl"], drops=[1, 2], resume=first, **QUICK)
    assert (
        more.rows[0] is first.rows[0]
        and more.rows[1].layers == tuple(sorted(first.rankings["greedy-kl"].chosen(2)))
        and more.rankings == first.rankings
    )


def test_resume_refuses_other_files(tiny, sets, tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(InputError, match="no sweep"):
        sweep(tiny, *sets, drops=[1], resume=tmp_path / "x.json", **QUICK)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"criteria": ["svk"]}, "expected one of svl"),
        ({"compensations": ["glue"]}, "expected one of none"),
        ({"criteria": []}, "no criterion"),
        ({"drops": [5]}, "from 0 to 4"),
        ({"drops": [-1]}, "from 0 to 4"),
        ({"draws": 0}, "0 draws"),
        ({"repeats": 0}, "0 repeats"),
    ],
)
def test_refusals(tiny, sets, options, says):
    with pytest.raises(InputError, match=says):
        sweep(tiny, *sets, **options)


def test_nothing_is_measured_on_what_it_was_fitted(tiny, sets):
    measured, fit = sets
    with pytest.raises(InputError, match="among those measured"):
        sweep(tiny, measured, measured)
    with pytest.raises(InputError, match="measure on"):
        sweep(tiny, [], fit)
    assert (
        sweep(tiny, measured, [*fit, measured[0]], drops=[1], **QUICK).header["fit"]["samples"] == 2
    )


def test_a_curve_is_measured_from_its_ends():
    assert ends_first(range(9)) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert ends_first([3]) == [3] and ends_first([0, 5]) == [0, 5]
    assert sorted(ends_first(range(2, 15))) == list(range(2, 15))


def test_cliff_by_hand():
    curve = [row(0, 1.0), row(1, 0.98), row(2, 0.95), row(3, 0.6), row(4, 0.5)]
    assert cliff(curve) == 3
    assert cliff(curve[:3]) is None and cliff(curve[:3], fall=0.03) == 2
    assert cliff([]) is None and cliff(curve[:1]) is None
    assert cliff([row(0, 1, kl=0.0), row(1, 1, kl=0.1), row(2, 1, kl=2.0)], "kl") == 2
    with pytest.raises(InputError, match="without accuracy"):
        cliff(curve, "accuracy")


def test_pareto_by_hand():
    rows = [
        row(0, 1.0, 1.0),
        row(1, 0.9, 1.2),
        row(1, 0.95, 1.2),
        row(2, 0.5, 1.1),
        row(3, 0.7, 1.5),
        row(4, 0.7, 1.4),
    ]
    assert [(r.agreement, r.speedup) for r in pareto(rows)] == [(1.0, 1.0), (0.95, 1.2), (0.7, 1.5)]


def test_noise_is_no_trade():
    """2.78 times where 1.45 are possible, and 0.64 times with fewer layers: both count as what
    their work lets one expect.
    """
    fast = row(5, 0.6, 2.78, expected=1.45, noise="more than ...")
    slow = row(3, 0.9, 0.64, expected=1.2, noise="slower than ...")
    sure = row(6, 0.7, 1.5, expected=1.6)
    whole = row(0, 1.0, 1.0, expected=1.0)
    assert pareto([whole, slow, fast, sure]) == (whole, slow, sure)
    assert [r.likely_speedup for r in (whole, slow, fast, sure)] == [1.0, 1.2, 1.45, 1.5]
    assert pareto([whole, row(3, 0.9, 0.64), row(5, 0.6, 2.78)])[-1].speedup == 2.78


def test_a_loaded_machine_marks_rows(tiny, sets, monkeypatch):
    """Times of the full model ten times as long as they should be: the rows say so."""
    seconds = {6: (0.1, 0.1), 4: (0.01, 0.01), 5: (0.09, 0.09)}
    monkeypatch.setattr(Stopwatch, "_full_round", lambda self: seconds[6])
    monkeypatch.setattr(Stopwatch, "_pruned_round", lambda self, lvlm, _: seconds[lvlm.num_layers])
    found = sweep(tiny, *sets, drops=[0, 1, 2], **QUICK)
    zero, one, two = found.rows
    assert (zero.expected, zero.noise, one.noise) == (1.0, None, None)
    assert two.speedup == pytest.approx(10) and "times that the work left allows" in two.noise
    assert 1 < one.expected < two.expected == two.likely_speedup < 6 / 4
    assert one.likely_speedup == pytest.approx(1 / 0.9)
    written = json.loads(json.dumps(found.to_json()))["rows"]
    assert [r["noise"] for r in written] == [None, None, two.noise]
    assert SweepRow.from_json(written[2]) == two
    older = {k: v for k, v in written[2].items() if k not in ("expected", "noise")}
    assert SweepRow.from_json(older).likely_speedup == two.speedup


def test_csv(tiny, sets):
    lines = list(csv.DictReader(io.StringIO(sweep(tiny, *sets, drops=[0, 2], **QUICK).to_csv())))
    assert (
        [line["drop"] for line in lines] == ["0", "2"]
        and lines[0]["layers"] == ""
        and len(lines[1]["layers"].split()) == 2
    )
    assert lines[0]["accuracy"] == "" and float(lines[0]["kl"]) == 0


def test_rows_read_fewer_visual_tokens(tiny, sets):
    """A row equals `compare` of the pruned model on the thinned samples, nothing dropped too."""
    measured, fit = sets
    recipe = Recipe(visual_tokens="vitcop", visual_share=0.25, visual_from=2)
    found = sweep(tiny, measured, fit, recipe, drops=[0, 1], **QUICK)
    traced = trace(tiny, fit)
    scores = redundancy(traced, importance(traced))
    for row in found.rows:
        pruned = prune(tiny, plan(scores, row.drop))
        reports = [
            compare(tiny, pruned, x, max_new_tokens=4, pruned_sample=thin(tiny, x, recipe))
            for x in measured
        ]
        assert row.kl == pytest.approx(np.mean([report.kl for report in reports]), rel=1e-4)
        assert row.kl > 0 and row.expected > 1
    plain = sweep(tiny, measured, fit, Recipe(), drops=[0], **QUICK)
    assert plain.rows[0].kl == 0
    assert "visual_tokens" not in plain.header["settings"]["recipe"]
    with pytest.raises(InputError, match="other settings"):
        sweep(tiny, measured, fit, recipe, drops=[0], resume=plain, **QUICK)


def test_rows_of_halves_equal_compare(tiny, sets, tmp_path):
    """They count halves, say which go, and come back from their file; their speed-up is that of the
    view, whose skipped halves are not computed.
    """
    measured, fit = sets
    recipe = Recipe(criterion="shortgpt", granularity="half")
    file = tmp_path / "halves.json"
    found = sweep(tiny, measured, fit, recipe, drops=[0, 3, 8], resume=file, **QUICK)
    traced = trace(tiny, fit)
    scores = redundancy(traced, None, "shortgpt", lvlm=tiny, granularity="half")
    chosen = plan(scores, 3)
    pruned = prune(tiny, chosen)
    reports = [compare(tiny, pruned, sample, max_new_tokens=4) for sample in measured]
    none, three, eight = found.rows
    assert three.kl == pytest.approx(np.mean([r.kl for r in reports]), rel=1e-3)
    assert three.exact == np.mean([r.exact for r in reports])
    assert three.parameters == pruned.num_parameters < tiny.num_parameters
    assert (three.drop, three.layers) == (3, chosen.drop)
    assert (three.attention, three.mlp) == (chosen.attention, chosen.mlp) != ((), ())
    assert eight.layers == (1, 2, 3, 4) and eight.attention == eight.mlp == ()
    assert none.expected == 1 < three.expected < eight.expected
    again = sweep(tiny, measured, fit, recipe, drops=[0, 3, 8], resume=file, **QUICK)
    assert again.rows == found.rows
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert lines[1]["attention"].split() == [str(layer) for layer in chosen.attention]
    with pytest.raises(InputError, match="Found a sweep with other settings"):
        sweep(tiny, measured, fit, recipe.changed(granularity="layer"), resume=file, **QUICK)


def test_halves_are_swept_uncompensated(tiny, sets):
    with pytest.raises(InputError, match="Found the compensation 'scp' for a plan that skips"):
        sweep(tiny, *sets, Recipe(granularity="half"), compensations=["none", "scp"], **QUICK)


def test_rows_of_layers_say_nothing_of_halves():
    written = row(2, 0.5).to_json()
    assert "attention" not in written and "mlp" not in written
    assert SweepRow.from_json(written) == row(2, 0.5)


def test_both_granularities_go_as_far_as_they_can(tiny, sets):
    counts = [r.drop for r in sweep(tiny, *sets, Recipe(granularity="half"), **QUICK).rows]
    assert counts == list(range(9))
