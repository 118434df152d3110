"""Publish the page as a Hugging Face Space: `python -m space_config.deploy USER/SPACE [--profile
cpu|zero-gpu] [--hardware NAME] [--dry-run]`.

Stages what the Space needs in a fresh folder, checks it, and uploads it. --dry-run ends before the
upload and keeps the folder. Profile "cpu": the bundled model at once, SmolVLM-256M already on the
disk. "zero-gpu": larger models too, on a GPU that is lent for each request.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CONTENTS = ("app.py", "svl_core", "assets", "LICENSE")
LEFT_OUT = (
    "svl_core/cli/",
    "svl_core/__main__.py",
    "svl_core/demo/train.py",
)  # of no use to the page
FROM_SPACE = ("gradio",)  # the builder installs it by `sdk_version`
MCP = "mcp"  # what makes the endpoints tools; gradio works with its version here
THUMBNAIL = "assets/readme/page.png"
CPU_TORCH = "--extra-index-url https://download.pytorch.org/whl/cpu"
PROFILES, ZERO_GPU = ("cpu", "zero-gpu"), "zero-a10g"
ON_ZERO_GPU = {
    "torch": "torch==2.11.0",
    "spaces": "spaces==0.51.3",
}  # the newest that its machines are made for, and what lends the GPU
SHORT, SPACE_MB, FILE_MB = 60, 200, 50
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SUFFIXES = {
    ".py",
    ".json",
    ".md",
    ".txt",
    ".css",
    ".js",
    ".png",
    ".jpg",
    ".webp",
    ".svg",
    ".safetensors",
    ".jinja",
    ".npz",
    ".zip",
    ".parquet",
    ".csv",
    ".typed",
    "",
}


class StageError(ValueError):
    """The staged folder is not fit to be uploaded; the message lists why."""


def hardware_names() -> list[str]:
    """What the Hub calls its machines."""
    from huggingface_hub import SpaceHardware

    return [each.value for each in SpaceHardware]


def hardware_of(profile: str, asked: str | None) -> str:
    """The machine: the profile's own unless another was asked for.

    Raises StageError for one that does not suit the profile.
    """
    own = _facts(profile)["suggested_hardware"]
    asked = asked or own
    if (asked == ZERO_GPU) != (profile == "zero-gpu"):
        raise StageError(
            f"the profile {profile} does not run on {asked}; choose {own}, or another profile"
        )
    return asked


def stage(folder: Path, profile: str = "cpu", hardware: str | None = None, space: str = "") -> Path:
    """Write into the empty `folder` what the Space needs: tracked files only, the card,
    requirements. Returns it.

    space: USER/SPACE, where its card is to show a picture.
    """
    hardware = hardware_of(profile, hardware)
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *CONTENTS], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if not name.startswith(LEFT_OUT) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "README.md").write_text(card(profile, hardware, space), encoding="utf-8")
    (folder / "requirements.txt").write_text(requirements(profile, hardware), encoding="utf-8")
    return folder


def _facts(profile: str) -> dict:
    listed = json.loads((ROOT / "space_config" / "space.json").read_text(encoding="utf-8"))
    return listed["both"] | listed[profile]


def card(profile: str, hardware: str, space: str = "") -> str:
    """The Space's README: front matter, then the project's, whose links to files that are not
    staged become plain words.
    """
    from huggingface_hub import SpaceCardData

    facts = _facts(profile) | {"sdk_version": version("gradio"), "suggested_hardware": hardware}
    if space:
        facts["thumbnail"] = f"https://huggingface.co/spaces/{space}/resolve/main/{THUMBNAIL}"
    text = re.sub(
        r"\[([^]]+)\]\(([^)]+)\)", _link, (ROOT / "README.md").read_text(encoding="utf-8")
    )
    return f"---\n{SpaceCardData(**facts)}\n---\n\n{text}"


def _link(match: re.Match) -> str:
    """A link as the Space shows it."""
    words, target = match.groups()
    staged = "://" in target or target.split("/")[0] in CONTENTS
    return match[0] if staged else f"{words} (`{target}` in the repository)"


def requirements(profile: str, hardware: str) -> str:
    """The project's dependencies without what the Space brings, in the versions that are installed
    here, which the tests ran with; CPU builds of torch where there is no GPU, ZeroGPU's own where
    one is lent.
    """
    names = [Requirement(line).name for line in _dependencies()] + [MCP]
    pinned = {name: _pinned(name) for name in names if name not in FROM_SPACE}
    if profile == "zero-gpu":
        pinned |= ON_ZERO_GPU
    kept = list(pinned.values())
    return "\n".join(([CPU_TORCH] if hardware.startswith("cpu") else []) + kept) + "\n"


def _pinned(name: str) -> str:
    """The installed version, without what says how it was built. Raises StageError."""
    try:
        return f"{name}=={Version(version(name)).public}"
    except PackageNotFoundError:
        raise StageError(
            f"{name} is not installed here, so its version is not known; install the extra mcp"
        ) from None


def _dependencies() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]


def check(folder: Path) -> dict:
    """Facts of a staged folder: {"files", "megabytes", "gradio", "hardware"}.

    Raises StageError with every fault found.
    """
    from huggingface_hub import SpaceCard

    from svl_core.lvlm.catalogue import catalogue

    faults = []
    data = SpaceCard.load(folder / "README.md").data.to_dict()
    if len(data["short_description"]) > SHORT:
        faults.append(
            f"short_description has {len(data['short_description'])} characters, at most {SHORT}"
            " are shown"
        )
    if data["sdk_version"] != version("gradio"):
        faults.append(
            f"sdk_version is {data['sdk_version']}, the gradio in use {version('gradio')}"
        )
    if not {data["colorFrom"], data["colorTo"]} <= COLOURS:
        faults.append(
            f"colours are {data['colorFrom']} and {data['colorTo']}, expected of"
            f" {', '.join(sorted(COLOURS))}"
        )
    if data["suggested_hardware"] not in hardware_names():
        faults.append(
            f"suggested_hardware is {data['suggested_hardware']}, expected one of"
            f" {', '.join(hardware_names())}"
        )
    for name in {*data["models"], *(line.split()[0] for line in data["preload_from_hub"])} - {
        entry.id for entry in catalogue()
    }:
        faults.append(f"the model {name} is not in the catalogue")
    if not (folder / data["app_file"]).is_file():
        faults.append(f"app_file {data['app_file']} is missing")
    faults += _faults_of_requirements(folder, data["suggested_hardware"])
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size / 1e6
        if size > FILE_MB:
            faults.append(f"{name} has {size:.0f} MB, at most {FILE_MB} are meant")
        if (
            name.split("/")[0] not in (*CONTENTS, "README.md", "requirements.txt")
            or path.suffix.lower() not in SUFFIXES
            or path.is_symlink()
            or "__pycache__" in name
        ):
            faults.append(f"{name} does not belong there")
        elif path.suffix == ".py" and not _parses(path):
            faults.append(f"{name} is no Python")
    if not (folder / "assets" / "demo_lvlm" / "model.safetensors").is_file():
        faults.append("the bundled model is missing")
    total = sum(path.stat().st_size for path in files) / 1e6
    if total > SPACE_MB:
        faults.append(f"all files have {total:.0f} MB, at most {SPACE_MB} are meant")
    if faults:
        raise StageError("; ".join(faults))
    return {
        "files": len(files),
        "megabytes": round(total, 1),
        "gradio": data["sdk_version"],
        "hardware": data["suggested_hardware"],
    }


def _faults_of_requirements(folder: Path, hardware: str) -> list[str]:
    faults = []
    listed = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in listed if not line.startswith("--")]
    loose = [line for line in wanted if "==" not in line]
    if loose:
        faults.append(f"requirements.txt does not pin {', '.join(loose)}")
    lends = any(line.startswith("spaces") for line in wanted)
    if lends != (hardware == ZERO_GPU):
        faults.append(f"requirements.txt and the hardware {hardware} do not go together")
    return faults


def _parses(path: Path) -> bool:
    try:
        ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return False
    return True


def upload(folder: Path, space: str, hardware: str) -> str:
    """Create the Space unless it is there, and make its files those of the folder; returns its
    address.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(
        space,
        repo_type="space",
        space_sdk="gradio",
        space_hardware=None if hardware == "cpu-basic" else hardware,
        exist_ok=True,
    )
    api.upload_folder(
        folder_path=folder,
        repo_id=space,
        repo_type="space",
        delete_patterns="*",
        commit_message="Short-LVLM Explorer",
    )
    return f"https://huggingface.co/spaces/{space}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m space_config.deploy",
        description="Publish the page as a Hugging Face Space.",
    )
    parser.add_argument("space", help="USER/SPACE; log in with `hf auth login` first")
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="cpu",
        help="what the Space offers (default: %(default)s)",
    )
    parser.add_argument(
        "--hardware",
        choices=hardware_names(),
        metavar="NAME",
        help="the Space's machine (default: the profile's own, both free)",
    )
    parser.add_argument("--dry-run", action="store_true", help="stage and check only")
    options = parser.parse_args(arguments)
    if options.space.count("/") != 1 or not all(options.space.split("/")):
        parser.error(f"Found the Space {options.space!r}; expected USER/SPACE; correct it.")
    folder = Path(tempfile.mkdtemp(prefix="svl-space-"))
    try:
        facts = check(stage(folder, options.profile, options.hardware, options.space))
        print(
            f"{folder}: {facts['files']} files, {facts['megabytes']} MB, gradio {facts['gradio']},"
            f" {facts['hardware']}"
        )
        if not options.dry_run:
            print(upload(folder, options.space, facts["hardware"]))
    except StageError as error:
        print(f"Not fit to be uploaded: {error}", file=sys.stderr)
        return 2
    finally:
        if not options.dry_run:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
