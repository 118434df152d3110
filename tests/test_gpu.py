"""The benchmark for a GPU, on tiny models on the CPU, so that it runs once there is one: every
measure, and that a stopped run goes on. Nothing that it measures is asserted.
"""

import json

import gpu
import pytest


def options(out, *more):
    return gpu.arguments(["--tiny", "--device", "cpu", "--out", str(out), *more])


@pytest.mark.slow
def test_every_measure_once(tmp_path):
    made = gpu.measure(options(tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")) == made
    assert list(made["measures"]) == [
        f"{name}: {key}" for name in gpu.MODELS for key in gpu.MEASURES
    ]
    assert made["failures"] == {}
    refit = made["measures"]["llava7b: refit"]
    assert (refit["width"], refit["pictures"]) == (64, gpu.FITTED) and refit["layers"] > 0
    assert made["measures"]["llava7b: speed"]["share"] == pytest.approx(12 / 9)
    rows = gpu.table(made).splitlines()
    assert len(rows) == 2 + len(gpu.MEASURES) and not any("| - |" in row for row in rows)


def test_a_stopped_or_failed_run_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    made = []

    def measure(name):
        def work(bench):
            made.append(name)
            if broken and name == "second":
                raise MemoryError("no room")
            return {"refused": name}

        return work

    names = ("first", "second", "third")
    monkeypatch.setattr(gpu, "MEASURES", {name: measure(name) for name in names})
    monkeypatch.setattr(gpu, "SAID", dict.fromkeys(names))
    asked = options(tmp_path / "gpu.json", "--model", "llava7b")
    asked.minutes = -1
    broken = True
    assert gpu.measure(asked)["measures"] == {} and made == []
    assert "Stopped before llava7b: first" in capsys.readouterr().out
    asked.minutes = 1
    found = gpu.measure(asked)
    assert made == ["first", "second", "third"]
    assert found["failures"] == {"llava7b: second": "MemoryError: no room"}
    assert "| second | MemoryError: no room |" in gpu.table(found)
    broken = False
    found = gpu.measure(asked)
    assert made == ["first", "second", "third", "second"] and found["failures"] == {}
    assert gpu.measure(asked) == found and len(made) == 4


def test_a_trial_is_no_result():
    with pytest.raises(SystemExit, match="only a GPU's figures are results"):
        gpu.arguments(["--tiny", "--device", "cpu"])
