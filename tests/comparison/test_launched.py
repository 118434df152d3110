"""Commands in several processes that meet through gloo, as a launcher starts them: the numbers of
one process, files written once, errors told once.
"""

import atexit
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from svl_core.cli.main import main
from svl_core.comparison import evaluation

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240
MODEL = ("--model", "model")
SET = ("--calibration", "calibration")
ASK = ("--image", "0.png", "--prompt", "what is in the top left ?")


@pytest.fixture(scope="module")
def world(tiny, image, tmp_path_factory):
    """A folder with the tiny model, five images, five questions, and five of which one image is
    none.
    """
    folder = tmp_path_factory.mktemp("world")
    tiny.save(folder / "model")
    (folder / "calibration").mkdir()
    (folder / "measured").mkdir()
    (folder / "no.png").write_bytes(b"no picture")
    rows = []
    for number in range(5):
        image.rotate(30 * number).save(folder / f"{number}.png")
        image.rotate(30 * number + 7).save(folder / "calibration" / f"{number}.png")
        image.rotate(30 * number + 11).save(folder / "measured" / f"{number}.png")
        asked = ["a cat", "what is in the top left ?", "how many apples are there ?"][number % 3]
        rows.append({"image": f"{number}.png", "question": asked, "answer": "cat", "kind": asked})
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows[3]["image"] = "no.png"
    (folder / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


class Process:
    """A fork of this process that runs command lines in a folder, as one of `count`."""

    def __init__(self, folder, commands, rank, count, port, before=None):
        self.files = [folder / f"process{rank}.{kind}" for kind in ("codes", "out", "err")]
        self.pid = os.fork()
        if self.pid:
            return
        try:
            atexit._clear()  # what the tests' own process does at its end is not this one's
            os.chdir(folder)
            if count > 1:
                number = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
                os.environ.update({name: str(value) for name, value in number.items()})
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            sys.stdout, sys.stderr = (open(file, "w") for file in self.files[1:])
            streams = sys.stdout, sys.stderr
            if before is not None:
                before(rank)
            codes = [main(list(map(str, command))) for command in commands]
            self.files[0].write_text(json.dumps(codes))
            for stream in streams:
                stream.close()
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)

    def ended(self):
        """(exit codes, standard output, standard error); a process that hangs is stopped."""
        until = time.monotonic() + PATIENCE_S
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                pytest.fail("a process waits for another that never comes")
            time.sleep(0.02)
        codes, out, err = (file.read_text() if file.exists() else "null" for file in self.files)
        for file in self.files:
            file.unlink(missing_ok=True)
        return json.loads(codes), out, err


@pytest.fixture
def run(world):
    """Runs command lines in `count` processes: for each (exit codes, output, errors)."""

    def in_processes(count, *commands, before=None):
        port = free_port()
        started = [Process(world, commands, rank, count, port, before) for rank in range(count)]
        return [process.ended() for process in started]

    return in_processes


def untimed(value):
    """What a result holds beside times."""
    timed = ("speedup", "timing", "pareto", "expected", "noise")
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if not key.startswith(timed)}
    return [untimed(part) for part in value] if isinstance(value, list) else value


COMMANDS = {
    "evaluate": (
        *("evaluate", *MODEL, "--data", "q.jsonl", "--drop", "2", "--compensation", "scp"),
        *(*SET, "--batch-size", "2", "--max-new-tokens", "6"),
    ),
    "sweep": (
        *("sweep", *MODEL, "--criterion", "svl,random", "--compensation", "none,lstsq"),
        *("--drop", "0-2", *SET, "--measure", "measured", "--data", "q.jsonl"),
        *("--draws", "2", "--batch-size", "2", "--max-new-tokens", "4"),
    ),
    "ablate": (
        *("ablate", *MODEL, "--data", "q.jsonl", "--sizes", "1,5", "--batch-size", "2"),
        *("--max-new-tokens", "6"),
    ),
    "analyze": ("analyze", *MODEL, *ASK, *SET, "--criterion", "greedy-kl", "--stability", "2"),
    "analyze in files": ("analyze", *MODEL, *ASK, *SET, "--criterion", "shortv", "--spool", "."),
}


def asked(command, count):
    return (*COMMANDS[command], "--json", f"{command}{count}.json")


@pytest.fixture(scope="module")
def alone(world):
    """What one process finds, by command."""
    commands = [asked(command, 1) for command in COMMANDS]
    codes, _, err = Process(world, commands, 0, 1, "0").ended()
    assert codes == [0] * len(COMMANDS), err
    return {name: json.loads((world / f"{name}1.json").read_text()) for name in COMMANDS}


@pytest.mark.parametrize("count", [2, 3])
def test_the_numbers_of_one_process(world, run, alone, count):
    """Five samples go evenly into neither two nor three processes."""
    processes = run(count, *[asked(command, count) for command in COMMANDS])
    assert [codes for codes, _, _ in processes] == [[0] * len(COMMANDS)] * count, processes
    assert processes[0][1] and not any(out + err for _, out, err in processes[1:])
    for name, found in alone.items():
        shared = json.loads((world / f"{name}{count}.json").read_text())
        assert untimed(shared) == untimed(found), name
    rows = json.loads((world / f"sweep{count}.json").read_text())["rows"]
    sizes = {(row["drop"], row["parameters"], row["speedup"]) for row in rows}
    assert len(sizes) == 3 and any(row["kl"] > 0 for row in rows)


def test_fewer_samples_than_processes(world, run):
    few = (*COMMANDS["evaluate"], "--limit", "1", "--json")
    single = ("sweep", *MODEL, *SET, *ASK, "--drop", "1", "--max-new-tokens", "3", "--json")
    [(codes, _, err)] = run(1, (*few, "few1.json"), (*single, "single1.json"))
    assert codes == [0, 0], err
    processes = run(3, (*few, "few3.json"), (*single, "single3.json"))
    assert [codes for codes, _, _ in processes] == [[0, 0]] * 3, processes
    for name in ("few", "single"):
        one, three = (json.loads((world / f"{name}{n}.json").read_text()) for n in (1, 3))
        assert untimed(one) == untimed(three)


def test_a_sweep_goes_on_in_more_processes(world, run):
    answers = ("--measure", "measured", "--max-new-tokens", "4")
    sweep = ("sweep", *MODEL, "--criterion", "svl", *SET, *answers)
    begin = (*sweep, "--drop", "0-1", "--resume", "rows.json")
    assert run(1, begin)[0][0] == [0]
    begun = json.loads((world / "rows.json").read_text())["rows"]
    other = (*begin, "--max-new-tokens", "3")
    ends = [(*sweep, "--drop", "0-3", "--resume", "rows.json", "--csv", "rows.csv"), other]
    processes = run(2, *ends)
    assert [codes for codes, _, _ in processes] == [[0, 2]] * 2, processes
    assert processes[0][2].count("\n") == 1 and "settings" in processes[0][2]
    rows = json.loads((world / "rows.json").read_text())["rows"]
    assert rows[:2] == begun and [row["drop"] for row in rows] == [0, 1, 3, 2]  # ends first
    rows.sort(key=lambda row: row["drop"])
    assert (world / "rows.csv").read_text().count("\n") == 1 + 4
    whole = (*sweep, "--drop", "0-3", "--json", "whole.json")
    assert run(1, whole)[0][0] == [0]
    assert untimed(json.loads((world / "whole.json").read_text())["rows"]) == untimed(rows)


def test_wrong_input_is_told_once_and_ends_all(world, run):
    """Of five questions, one a batch, the fourth is the second process's."""
    bad = ("evaluate", *MODEL, "--data", "bad.jsonl", "--batch-size", "1", "--json", "bad.json")
    alike = [
        ("evaluate", "--no-such-option"),
        ("compare", *MODEL, *ASK, "--drop", "1"),
        ("prune", *MODEL, "--drop", "1", "--out", "out"),
        ("models",),
        ("ablate", *MODEL, "--device-map", "auto"),
    ]
    first, second = run(2, bad, *alike, ("--version",))
    assert first[0] == second[0] == [2] * 6 + [0] and second[1:] == ("", "")
    assert first[1].startswith("svl ") and first[1].count("\n") == 1
    said = first[2].splitlines()
    assert len(said) == 6 and all(line.startswith("svl: ") for line in said), said
    assert "no.png" in said[0] and "no-such-option" in said[1] and "--device-map" in said[5]
    assert all("2 processes" in line for line in said[2:])
    assert not (world / "bad.json").exists() and not (world / "out").exists()


def test_another_error_is_one_line_too(run):
    def fail_in_second(rank):
        if rank == 1:
            evaluation.answers_together = lambda *given: 1 / 0

    first, second = run(2, COMMANDS["evaluate"], before=fail_in_second)
    assert first[0] == second[0] == [1] and (first[1], second[1], second[2]) == ("", "", "")
    assert first[2] == "svl: Process 2 of 2 failed with ZeroDivisionError: division by zero\n"


def test_a_process_that_is_gone_leaves_none_waiting(run):
    def end_second(rank):
        if rank == 1:
            evaluation.answers_together = lambda *given: os._exit(9)

    first, second = run(2, COMMANDS["evaluate"], before=end_second)
    assert second[0] is None and first[0] == [1]
    assert first[2].startswith("svl: One of the 2 processes is gone")


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": (
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_under_a_launcher(world, alone, launcher):
    if launcher == "accelerate" and importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed")
    module, *options = LAUNCHERS[launcher]
    if launcher == "accelerate":
        options += ["--main_process_port", free_port()]
    command = [sys.executable, "-m", module, *options, "-m", "svl_core"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command, *COMMANDS["evaluate"], "--json", f"{launcher}.json"],
        cwd=world,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exact match") == 1
    assert json.loads((world / f"{launcher}.json").read_text()) == alone["evaluate"]
