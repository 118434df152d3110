"""Publish the page as a Hugging Face Space: `python -m space_config.deploy USER/SPACE [--dry-run] [--hardware cpu-basic]`.

Stages what the Space needs in a fresh folder, checks it, and uploads it. --dry-run ends before the upload and keeps the folder.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTENTS = ("app.py", "svl_core", "assets", "LICENSE")
LEFT_OUT = ("svl_core/cli.py", "svl_core/__main__.py", "svl_core/demo/train.py")  # of no use to the page
FROM_SPACE = ("gradio",)  # the builder installs it by `sdk_version`
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"
SHORT, SPACE_MB, FILE_MB = 60, 200, 50
SUFFIXES = {".py", ".json", ".md", ".txt", ".css", ".js", ".png", ".jpg", ".webp", ".svg", ".safetensors", ".jinja", ".npz", ".zip", ".parquet", ".csv", ""}
HARDWARE = ("cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "l4x1", "a10g-small", "a10g-large", "l40sx1", "a100-large", "h200")


class StageError(ValueError):
    """The staged folder is not fit to be uploaded; the message lists why."""


def stage(folder: Path, hardware: str = "cpu-basic") -> Path:
    """Write into the empty `folder` what the Space needs: tracked files only, the card, requirements. Returns it."""
    tracked = subprocess.run(["git", "ls-files", "-z", *CONTENTS], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, tracked):
        if name not in LEFT_OUT and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "README.md").write_text(card(hardware), encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(hardware), encoding="utf-8")
    return folder


def card(hardware: str) -> str:
    """The Space's README: front matter, then the project's."""
    from huggingface_hub import SpaceCardData

    facts = json.loads((ROOT / "space_config" / "space.json").read_text(encoding="utf-8"))
    facts |= {"sdk_version": version("gradio"), "suggested_hardware": hardware}
    return f"---\n{SpaceCardData(**facts)}\n---\n\n{(ROOT / 'README.md').read_text(encoding='utf-8')}"


def requirements(hardware: str) -> str:
    """The project's dependencies without what the Space brings; CPU builds of torch where there is no GPU."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    kept = [line for line in listed if not line.startswith(FROM_SPACE)]
    return "\n".join(([CPU_TORCH] if hardware.startswith("cpu") else []) + kept) + "\n"


def check(folder: Path) -> dict:
    """Facts of a staged folder: {"files", "megabytes", "gradio"}. Raises StageError with every fault found."""
    from huggingface_hub import SpaceCard

    faults = []
    data = SpaceCard.load(folder / "README.md").data.to_dict()
    if len(data["short_description"]) > SHORT:
        faults.append(f"short_description has {len(data['short_description'])} characters, at most {SHORT} are shown")
    if data["sdk_version"] != version("gradio"):
        faults.append(f"sdk_version is {data['sdk_version']}, the gradio in use {version('gradio')}")
    if not (folder / data["app_file"]).is_file():
        faults.append(f"app_file {data['app_file']} is missing")
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size / 1e6
        if size > FILE_MB:
            faults.append(f"{name} has {size:.0f} MB, at most {FILE_MB} are meant")
        if name.split("/")[0] not in (*CONTENTS, "README.md", "requirements.txt") or path.suffix.lower() not in SUFFIXES or path.is_symlink() or "__pycache__" in name:
            faults.append(f"{name} does not belong there")
        if path.suffix == ".py":
            ast.parse(path.read_text(encoding="utf-8"), name)
    if not (folder / "assets" / "demo_lvlm" / "model.safetensors").is_file():
        faults.append("the bundled model is missing")
    total = sum(path.stat().st_size for path in files) / 1e6
    if total > SPACE_MB:
        faults.append(f"all files have {total:.0f} MB, at most {SPACE_MB} are meant")
    if faults:
        raise StageError("; ".join(faults))
    return {"files": len(files), "megabytes": round(total, 1), "gradio": data["sdk_version"]}


def upload(folder: Path, space: str, hardware: str) -> str:
    """Create the Space unless it is there, and make its files those of the folder; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(space, repo_type="space", space_sdk="gradio", space_hardware=None if hardware == "cpu-basic" else hardware, exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id=space, repo_type="space", delete_patterns="*", commit_message="Short-LVLM Explorer")
    return f"https://huggingface.co/spaces/{space}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m space_config.deploy", description="Publish the page as a Hugging Face Space.")
    parser.add_argument("space", help="USER/SPACE; log in with `hf auth login` first")
    parser.add_argument("--dry-run", action="store_true", help="stage and check only")
    parser.add_argument("--hardware", choices=HARDWARE, default="cpu-basic", help="the Space's machine (default: %(default)s, free)")
    options = parser.parse_args(arguments)
    if options.space.count("/") != 1 or not all(options.space.split("/")):
        parser.error(f"Found the Space {options.space!r}; expected USER/SPACE; correct it.")
    folder = Path(tempfile.mkdtemp(prefix="svl-space-"))
    try:
        facts = check(stage(folder, options.hardware))
        print(f"{folder}: {facts['files']} files, {facts['megabytes']} MB, gradio {facts['gradio']}")
        if not options.dry_run:
            print(upload(folder, options.space, options.hardware))
    except StageError as error:
        print(f"Not fit to be uploaded: {error}", file=sys.stderr)
        return 2
    finally:
        if not options.dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
