"""Asks a saved model the same questions by lmms-eval and by `svl evaluate`, and compares them
answer by answer: `python tests/benchmarks/lmms_match.py FOLDER LIST.jsonl --python LMMS_PYTHON`.

FOLDER holds a LLaVA, such as `svl prune --out` writes. LIST.jsonl has {"image", "question",
"answer"} a line. LMMS_PYTHON is the interpreter of an environment with lmms-eval 0.7.3, decord and
a filelock below 3.21, whose newer ones it cannot use. lmms-eval ends with exit code 0 after an
error too: here a run without results fails with its last words.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TASK = Path(__file__).parent / "lmms_task"
NAME = "svl_local"


def by_lmms(folder: Path, rows: Sequence[dict], python: str) -> list[str]:
    """lmms-eval's answers, in order. Raises SystemExit where it gives none."""
    with tempfile.TemporaryDirectory() as place:
        task = Path(place) / "task"
        task.mkdir()
        listed = task / "questions.jsonl"
        listed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        for part in TASK.glob(f"{NAME}.*"):
            content = part.read_text(encoding="utf-8").replace(listed.name, str(listed))
            (task / part.name).write_text(content, encoding="utf-8")
        model = f"pretrained={folder},device=cpu,device_map=cpu,dtype=float32"
        command = [python, "-m", "lmms_eval", "--model", "llava_hf", "--model_args", model]
        command += ["--include_path", str(task), "--tasks", NAME, "--batch_size", "1"]
        command += ["--output_path", f"{place}/out", "--log_samples"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": f"{place}/home"}
        done = subprocess.run(
            command, env=os.environ | offline, cwd=place, capture_output=True, text=True
        )
        found = list(Path(place, "out").rglob(f"*samples_{NAME}.jsonl"))
        if done.returncode or not found:
            words = (done.stderr + done.stdout).strip().splitlines()[-3:]
            raise SystemExit(f"Found no answers of lmms-eval; it said: {' '.join(words)[-600:]}")
        return read_samples(found[0].read_text(encoding="utf-8"), len(rows))


def read_samples(text: str, count: int) -> list[str]:
    """The answers in a file of samples, in the order of the questions.

    Raises SystemExit where some are missing.
    """
    answers = {}
    for line in filter(str.strip, text.splitlines()):
        sample = json.loads(line)
        answers[int(sample["doc_id"])] = _first(sample["filtered_resps"]).strip()
    if sorted(answers) != list(range(count)):
        raise SystemExit(f"Found {len(answers)} answers of lmms-eval; expected {count}.")
    return [answers[number] for number in range(count)]


def _first(value) -> str:
    return value if isinstance(value, str) else _first(value[0])


def by_svl(folder: Path, listed: Path) -> list[str]:
    """The answers of `svl evaluate`, in order."""
    command = [sys.executable, "-m", "svl_core", "evaluate", "--model", str(folder)]
    command += ["--data", str(listed), "--batch-size", "1", "--dtype", "float32", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return [row["answer"].strip() for row in json.loads(done.stdout)["answers"]]


def differing(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    """The numbers of the questions that are answered differently."""
    pairs = enumerate(zip(theirs, ours, strict=True))
    return [number for number, (their, our) in pairs if their != our]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--python", required=True, help="with lmms-eval installed")
    args = parser.parse_args(argv)
    lines = args.list.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    for row in rows:
        row["image"] = str((args.list.parent / row["image"]).resolve())
    theirs = by_lmms(args.folder.resolve(), rows, args.python)
    ours = by_svl(args.folder, args.list)
    for number in differing(theirs, ours):
        print(f"{rows[number]['question']}: {theirs[number]!r} by lmms-eval, {ours[number]!r} here")
    right = [
        sum(a == row["answer"] for a, row in zip(answers, rows, strict=True))
        for answers in (theirs, ours)
    ]
    print(
        f"{len(rows)} questions, {len(differing(theirs, ours))} answered differently;"
        f" exactly right: {right[0]} by lmms-eval, {right[1]} here"
    )


if __name__ == "__main__":
    main()
