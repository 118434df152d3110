"""The arena's bookkeeping: who is measured once, how the work is shared out, the statistics against
scipy, the table from saved parts. The committed table is guarded by test_documents.py.
"""

import json

import numpy as np
import pytest
from scipy import stats
from test_documents import script

arena = script("arena")


@pytest.fixture
def ranked():
    """Two seeds: the same layers by every criterion for seed 0, others by svl for seed 1."""
    names = sorted(
        {c for c, _ in arena.recipes() if c != arena.PRESET}
        | {f"{arena.PRESET}:{k}" for c, k in arena.recipes() if c == arena.PRESET}
    )
    drops = list(arena.drop_counts(16))
    same = {name: {d: list(range(1, 1 + d)) for d in drops} for name in names}
    return {0: same, 1: same | {"svl": {d: list(range(2, 2 + d)) for d in drops}}}


def test_drop_counts():
    assert arena.drop_counts(16) == {2: 0.10, 3: 0.20, 4: 0.25, 5: 0.30, 6: 0.40, 8: 0.50}


def test_equal_models_are_measured_once(ranked):
    entrants = arena.entrants(ranked)
    assert sorted(row for rows in entrants.values() for row in rows) == sorted(
        (c, k, d, s) for c, k in arena.recipes() for d in arena.drop_counts(16) for s in (0, 1)
    )
    assert (
        sum(1 for _, how, _ in entrants if how == "none") == 12
    )  # without a fit the seeds share their models
    assert (
        ((1, 2), "scp", 0) in entrants
        and ((1, 2), "scp", 1) in entrants
        and ((2, 3), "scp", 0) not in entrants
    )


def test_work_is_shared_out_once_and_evenly(ranked):
    keys = list(arena.entrants(ranked))
    shares = arena.shared_out(keys, 2)
    assert sorted(i for share in shares for i in share) == list(range(len(keys)))
    assert abs(len(shares[0]) - len(shares[1])) <= max(
        sum(1 for _, how, seed in keys if (how, seed) == group)
        for group in {key[1:] for key in keys}
    )


def test_statistics_against_scipy():
    for correct, n in ((0, 10), (7, 10), (1990, 2000)):
        assert arena.wilson(correct / n, n) == pytest.approx(
            stats.binomtest(correct, n).proportion_ci(method="wilson"), abs=1e-12
        )
    rng = np.random.default_rng(0)
    full, marks = rng.random(500) < 0.9, rng.random((3, 500)) < 0.8
    difference, half = arena.paired(marks, full)
    gap = marks.mean(0) - full
    assert difference == pytest.approx(marks.mean() - full.mean()) and half == pytest.approx(
        stats.norm.ppf(0.975) * stats.sem(gap)
    )


def test_the_table_from_saved_parts(ranked, tmp_path):
    settings = {
        "weights": "w",
        "questions": 150,
        "data": ["scenes", "easy-vqa"],
        "seeds": [0, 1],
        "calibration_samples": 4,
        "question_seed": 1,
        "part": arena.PART,
    }
    entrants, rng = list(arena.entrants(ranked)), np.random.default_rng(1)
    truth = {}
    for name in settings["data"]:
        truth[name] = rng.random((len(entrants) + 1, 150)) < 0.8
        for first in (0, 100):
            arena._keep(
                tmp_path,
                name,
                first,
                dict(
                    zip(
                        [arena.FULL, *map(arena.key_of, entrants)],
                        truth[name][:, first : first + 100],
                    )
                ),
            )
    made = arena.summary(settings, ranked, tmp_path)
    assert (
        made["complete"]
        and made["n"] == {"scenes": [150, 150], "easy-vqa": [150, 150]}
        and made["models"] == len(entrants)
    )
    row = next(
        r
        for r in made["rows"]
        if (r["criterion"], r["compensation"], r["drop"]) == ("svl", "scp", 3)
    )
    at = [1 + entrants.index(((1, 2, 3), "scp", 0)), 1 + entrants.index(((2, 3, 4), "scp", 1))]
    assert row["data"]["scenes"]["accuracy"] == pytest.approx(truth["scenes"][at].mean())
    assert row["kept"] == pytest.approx(
        np.mean([truth[n][at].mean() / truth[n][0].mean() for n in settings["data"]])
    )
    arena._save(tmp_path / "arena.json", made)
    again = json.loads((tmp_path / "arena.json").read_text(encoding="utf-8"))
    assert again == json.loads(json.dumps(made))
    text = arena.with_figures(f"a\n{arena.BEGIN}\n{arena.END}\nb", again)
    assert (
        arena.with_figures(text, again) == text
        and "as-published" in text
        and f"{row['kept']:.1%}" in text
    )
    (tmp_path / "easy-vqa-00100.npz").unlink()
    assert not arena.summary(settings, ranked, tmp_path)["complete"]
    fewer = {
        seed: {name: plans for name, plans in found.items() if not name.startswith(arena.PRESET)}
        for seed, found in ranked.items()
    }
    assert {row["criterion"] for row in arena.summary(settings, fewer, tmp_path)["rows"]} == {
        criterion for criterion, _ in arena.recipes()
    } - {arena.PRESET}
