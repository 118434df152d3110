"""The table made of lmms-eval's results: by hand, with filters' names, older runs, missing
suites. No committed figures are read.
"""

import json
import os

import pytest
from test_documents import script

lmms = script("lmms_table")
FULL = {
    "mme": {"mme_perception_score,none": 1500.0, "mme_cognition_score,none": 350.0, "alias": "mme"},
    "pope": {"pope_accuracy,none": 0.86, "pope_f1_score,none": 0.85},
    "mmbench_en_dev_static": {"gpt_eval_score,none": 64.0},
    "seedbench": {"seed_all,none": 0.60, "seed_image,none": 0.66},
    "scienceqa_img": {"exact_match,none": 0.70},
}
PRUNED = {
    "mme": {"mme_perception_score,none": 1350.0, "mme_cognition_score,none": 315.0},
    "pope": {"pope_accuracy,none": 0.774},
}


def written(folder, results, name="20250101_results.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"results": results, "configs": {}}), encoding="utf-8")
    return folder / name


def test_scores_by_hand():
    assert lmms.scores(FULL) == pytest.approx(
        {"MME": 1850 / 2800, "POPE": 0.86, "MMBench": 0.64, "SEED-Bench": 0.60, "ScienceQA": 0.70}
    )
    assert (
        lmms.scores({"mme": {"mme_perception_score,none": 1500.0}}) == {}
    )  # half of a suite is none


def test_kept_is_the_mean_over_the_suites_of_both():
    assert lmms.kept(lmms.scores(FULL), lmms.scores(PRUNED)) == pytest.approx(0.9)
    assert lmms.kept(lmms.scores(FULL), lmms.scores(FULL)) == 1
    with pytest.raises(SystemExit, match="no suite"):
        lmms.kept(lmms.scores(FULL), {})


def test_a_folders_newer_results_come_first(tmp_path, capsys):
    written(tmp_path / "full" / "model", FULL)
    old = written(
        tmp_path / "pruned" / "b", {"pope": {"pope_accuracy,none": 0.1}}, "9_results.json"
    )
    os.utime(old, (1, 1))
    written(tmp_path / "pruned" / "a", PRUNED)
    lmms.main(
        [str(tmp_path / "full"), str(tmp_path / "pruned"), "--json", str(tmp_path / "made.json")]
    )
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert made["pruned"]["kept"] == pytest.approx(0.9) and set(made["pruned"]["scores"]) == {
        "MME",
        "POPE",
    }
    rows = capsys.readouterr().out.splitlines()
    assert rows[3] == "| pruned | 59.5% (90.0%) | 77.4% (90.0%) | - | - | - | 90.0% |"
    assert rows[2].startswith("| full | 66.1% (100.0%) |")


def test_nothing_there(tmp_path):
    with pytest.raises(SystemExit, match="no results"):
        lmms.main([str(tmp_path)])
