"""The arena's bookkeeping: who is measured once, how the work is shared out, the intervals against
hand-made cases and a plain bootstrap, the tables from saved parts. The committed table is guarded
by test_documents.py.
"""

import json

import numpy as np
import pytest
from test_documents import script

arena = script("arena")
statistics = script("arena_statistics")
page = script("arena_page")

LAYERS = 16


@pytest.fixture
def ranked():
    """Two seeds: the same layers by every criterion for seed 0, others by svl for seed 1."""
    drops = list(arena.drop_counts(LAYERS))
    same = {
        recipe.source: {drop: list(range(1, 1 + drop)) for drop in drops}
        for recipe in arena.recipes()
    }
    others = {drop: list(range(2, 2 + drop)) for drop in drops}
    return {0: same, 1: same | {"svl": others}}


def test_drop_counts():
    assert arena.drop_counts(16) == {2: 0.10, 3: 0.20, 4: 0.25, 5: 0.30, 6: 0.40, 8: 0.50}


def test_equal_models_are_measured_once(ranked):
    entrants = arena.entrants(ranked, LAYERS)
    rows = [row for found in entrants.values() for row in found]
    wanted = [
        (recipe, drop, seed)
        for recipe in arena.recipes()
        for drop in arena.counts_of(recipe, LAYERS)
        for seed in (0, 1)
    ]
    assert len(rows) == len(set(rows)) == len(wanted) and set(rows) == set(wanted)
    # without a fit the seeds share their models
    assert sum(1 for model in entrants if model.how == "none") == 12
    few = arena.FEW
    assert arena.Model((1, 2), "scp", few, 0) in entrants
    assert arena.Model((2, 3), "scp", few, 1) in entrants
    assert arena.Model((2, 3), "scp", few, 0) not in entrants


def test_work_is_shared_out_once_and_what_is_fitted_alike_stays_together(ranked):
    models = list(arena.entrants(ranked, LAYERS))
    shares = arena.shared_out(models, 2)
    assert sorted(model.key for share in shares for model in share) == sorted(
        model.key for model in models
    )
    groups = [{(model.seed, model.size) for model in share} for share in shares]
    assert not groups[0] & groups[1]


def test_only_what_lacks_is_answered(tmp_path):
    old, new = arena.Model((1,), "none", 0, None), arena.Model((2,), "none", 0, None)
    for first in (0, 100):
        arena._keep(tmp_path, "scenes", first, {old.key: np.ones(3, bool)})
    parts = [(0, "scenes"), (100, "scenes"), (200, "scenes")]
    assert arena._lacking([old, new], parts, tmp_path) == [
        ([old], [parts[2]]),
        ([new], parts),
    ]


def test_questions_of_easy_vqa_stand_on_pictures_of_their_own():
    asked = arena.asked_of("easy-vqa", 40)
    assert len({one.open.args for one in asked}) == len(asked) == 40
    again = arena.asked_of("easy-vqa", 20)
    assert [one.question for one in again] == [one.question for one in asked[:20]]


def table(marks, clusters=None):
    marks = np.atleast_2d(marks)
    return statistics.Table(marks, np.arange(marks.shape[1]) if clusters is None else clusters)


def test_what_is_kept_by_hand():
    full = table([1, 1, 1, 0])
    own = table([[1, 1, 1, 0], [1, 0, 0, 0]])
    found = statistics.kept([own], [full])
    assert found.by_seed == pytest.approx((1.0, 1 / 3)) and found.value == pytest.approx(2 / 3)
    both = statistics.kept([own, own], [full, full])
    assert both.value == found.value
    gap = statistics.difference([own], [table([[1, 1, 0, 0], [1, 0, 0, 0]])])
    assert gap.by_seed == pytest.approx((0.25, 0.0)) and gap.value == pytest.approx(0.125)


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not():
    rng = np.random.default_rng(0)
    full = table(np.ones(4000))
    right = rng.random(4000)
    alike = table(np.stack([right < 0.9] * 8))
    spread = table(np.stack([right < share for share in np.linspace(0.8, 1.0, 8)]))
    narrow, wide = (statistics.kept([each], [full]) for each in (alike, spread))
    # of questions alone: 1.96 sqrt(0.9 x 0.1 / 4000)
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 * np.sqrt(0.09 / 4000), rel=0.1)
    # of seeds alone: 1.96 standard deviations of eight, over the root of eight
    of_seeds = 2 * 1.96 * np.std(np.linspace(0.8, 1.0, 8)) / np.sqrt(8)
    assert wide.high - wide.low == pytest.approx(of_seeds, rel=0.15)


def test_questions_about_one_picture_are_drawn_together():
    """A thousand questions on ten pictures, each right or wrong as a whole, are ten answers."""
    clusters = np.repeat(np.arange(10), 100)
    marks = (clusters < 5).astype(float)
    full = table(np.ones(1000), clusters)
    together = statistics.kept([table([marks], clusters)], [full])
    alone = statistics.kept([table([marks])], [table(np.ones(1000))])
    assert together.value == alone.value == 0.5
    assert (together.high - together.low) == pytest.approx(10 * (alone.high - alone.low), rel=0.2)


def test_the_interval_against_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    full = rng.random(300) < 0.95
    own = (rng.random((8, 300)) < rng.uniform(0.7, 0.95, (8, 1))) & full
    found = statistics.kept([table(own)], [table(full)])
    drawn = []
    for _ in range(2000):
        seeds, questions = rng.integers(8, size=8), rng.integers(300, size=300)
        drawn.append(own[seeds][:, questions].mean() / full[questions].mean())
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


LAYERS_OF_SVL = (1, 2, 3), (2, 3, 4)
"""That SVL drops on either seed."""


def test_the_tables_from_saved_parts(ranked, tmp_path):
    settings = {
        "weights": "w",
        "questions": 150,
        "data": ["scenes", "easy-vqa"],
        "seeds": [0, 1],
        "calibration_samples": 4,
        "question_seed": 1,
        "part": arena.PART,
    }
    models, rng = list(arena.entrants(ranked, LAYERS)), np.random.default_rng(1)
    names = [arena.FULL, *(model.key for model in models)]
    truth = {}
    for data in settings["data"]:
        truth[data] = rng.random((len(names), 150)) < 0.8
        for first in (0, 100):
            part = truth[data][:, first : first + 100]
            arena._keep(tmp_path, data, first, dict(zip(names, part, strict=True)))
    made = arena.summary(settings, ranked, tmp_path, LAYERS)
    assert made["complete"] and made["models"] == len(models)
    row = next(
        row
        for row in made["rows"]
        if (row["criterion"], row["compensation"], row["size"], row["drop"])
        == ("svl", "scp", arena.FEW, 3)
    )
    at = [
        names.index(arena.Model(layers, "scp", arena.FEW, seed).key)
        for seed, layers in enumerate(LAYERS_OF_SVL)
    ]
    assert row["data"]["scenes"]["accuracy"] == pytest.approx(truth["scenes"][at].mean())
    assert row["kept"] == pytest.approx(
        np.mean([truth[n][at].mean() / truth[n][0].mean() for n in settings["data"]])
    )
    none = [names.index(arena.Model(layers, "none", 0, None).key) for layers in LAYERS_OF_SVL]
    assert row["brings"]["value"] == pytest.approx(
        np.mean([truth[n][at].mean() - truth[n][none].mean() for n in settings["data"]])
    )
    assert all(
        (row["brings"] is None) == (row["compensation"] == "none" or row["criterion"] == "preset")
        for row in made["rows"]
    )
    assert {found["baseline"] for found in made["published"] if found["svl"]} == {
        name for name in arena.criteria() if name.startswith("svl")
    }
    arena._save(tmp_path / "arena.json", made)
    again = json.loads((tmp_path / "arena.json").read_text(encoding="utf-8"))
    assert again == json.loads(json.dumps(made))
    text = page.figures(again)
    assert "| as-published | both |" in text and f"{row['kept']:.1%}"[:-1] in text
    assert "Not all rows" not in text
    (tmp_path / "easy-vqa-00100.npz").unlink()
    assert not arena.summary(settings, ranked, tmp_path, LAYERS)["complete"]
