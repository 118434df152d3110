"""A whole file or none, homes in paths, and outputs that fail without taking others along."""

import errno
import json
import os
import subprocess
import sys

import pytest

from svl_core import files
from svl_core.cli.main import CLOSED_PIPE, main
from svl_core.errors import InputError
from svl_core.lvlm.loading import load


def svl(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "svl_core", *words], capture_output=True, timeout=120, **options
    )


def test_homes_in_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("~/x.json") == tmp_path / "x.json"
    with pytest.raises(InputError, match="'~nobody-of-that-name/x', whose user is not known"):
        files.expanded("~nobody-of-that-name/x")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    target.write_text("old")
    target.chmod(0o640)
    files.write_text(str(target), "new", "json")
    assert target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o640

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="result.json cannot be written .No space left"):
        files.write_text(str(target), "newer", "json")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_outputs_are_tried_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, said in (("folder", "a folder at"), ("none/x.json", "no folder for")):
        with pytest.raises(InputError, match=said):
            files.check_writable(str(tmp_path / name), "json")
    files.check_writable(str(tmp_path / "new.json"), "json")
    files.check_writable("/dev/null", "json")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError, InputError])
def test_a_folder_that_is_not_filled_is_not_there(tmp_path, stop):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/new"):
        with pytest.raises(stop), files.new_folder(tmp_path / name) as partial:
            (partial / "half").write_text("half")
            raise stop
        assert not [path for path in (tmp_path / name).parent.iterdir() if path.name[0] == "."]
    assert not list((tmp_path / "empty").iterdir())
    with files.new_folder(tmp_path / "empty") as partial:
        (partial / "whole").write_text("whole")
    assert (tmp_path / "empty" / "whole").read_text() == "whole"


def test_one_output_that_fails_takes_no_other_along(tmp_path, capsys, monkeypatch):
    """The rows are printed and the CSV is written, though the JSON finds no room."""
    original = files.replace_text

    def replace_text(path, text):
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, text)

    monkeypatch.setattr(files, "replace_text", replace_text)
    words = "sweep --image assets/examples/0.png --prompt x --calibration this --drop 1"
    image = next((files.Path(__file__).parents[1] / "assets").rglob("*.png"))
    words = words.replace("assets/examples/0.png", str(image))
    code = main(
        [*words.split(), "--csv", str(tmp_path / "a.csv"), "--json", str(tmp_path / "a.json")]
    )
    told = capsys.readouterr()
    assert code == 2 and "a.json cannot be written (No space left" in told.err
    assert told.out.startswith("criterion") and (tmp_path / "a.csv").read_text().count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_weights_that_changed_since_are_refused(tiny, tmp_path):
    from svl_core.pruning.plan import manual_plan
    from svl_core.pruning.prune import prune

    folder = prune(tiny, manual_plan([2], 6)).save(tmp_path / "pruned")
    record = json.loads((folder / "svl_plan.json").read_text())
    assert list(record["sha256"]) == ["model.safetensors"]
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="other bytes in the place of model.safetensors in pruned"):
        load(str(folder))


def test_a_checkpoint_of_no_numbers_is_not_written(tiny, tmp_path):
    import copy

    import torch

    broken = tiny.with_model(copy.deepcopy(tiny.model), tiny.layer_ids, {})
    with torch.no_grad():
        broken.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"layers.1.mlp.down_proj.weight \(float32\) that are not"):
        broken.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_ends_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    told = subprocess.run(
        [sys.executable, "-m", "svl_core", "models"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (told.returncode, told.stderr) == (CLOSED_PIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_output_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        told = subprocess.run(
            [sys.executable, "-m", "svl_core", "models", "--json", "-"],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert told.returncode == 1 and told.stderr.count(b"\n") == 1
    assert b"standard output cannot be read or written (No space left" in told.stderr


def test_an_output_without_unicode():
    """Text is written in codes where letters lack, and JSON stays JSON."""
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    told = svl("models", "--json", "-", env=plain)
    assert told.returncode == 0 and json.loads(told.stdout)
    assert svl("models", env=plain).returncode == 0


def test_a_prompt_may_begin_with_a_dash():
    from svl_core.cli.parser import build_parser

    parsed = build_parser().parse_args(["analyze", "--image", "x.png", "--prompt", "-what?"])
    assert parsed.prompt == "-what?"
    with pytest.raises(InputError, match="nothing after --prompt"):
        build_parser().parse_args(["analyze", "--prompt", "--image", "x.png"])


def test_what_ships_is_found_within_the_package_or_beside_it(tmp_path, monkeypatch):
    """A wheel holds it within, a Space beside; where it is nowhere, the place that a clone has."""
    package = tmp_path / "svl_core"
    package.mkdir()
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    beside, within = tmp_path / "assets" / "objects", package / "assets" / "objects"
    assert files.bundled("objects") == beside
    beside.mkdir(parents=True)
    assert files.bundled("objects") == beside
    within.mkdir(parents=True)
    assert files.bundled("objects") == within
