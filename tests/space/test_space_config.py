"""The Space: staged exactly, refused where something is wrong, and started as a Space would start
it.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from visitor import Visitor

from space_config.deploy import (
    PROFILES,
    ROOT,
    StageError,
    _dependencies,
    check,
    hardware_names,
    hardware_of,
    main,
    requirements,
    stage,
)
from svl_core.lvlm.catalogue import catalogue
from svl_core.service.limits import from_environment

git = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None,
    reason="staging reads git's list of files",
)
STAND_IN = Path(__file__).with_name("stand_in")


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Folder by profile."""
    return {profile: stage(tmp_path_factory.mktemp("space"), profile) for profile in PROFILES}


@git
@pytest.mark.parametrize("profile", PROFILES)
def test_staged_folder_passes_and_holds_no_tests(staged, profile):
    facts = check(staged[profile])
    assert facts["files"] > 50 and {path.name for path in staged[profile].iterdir()} == {
        "app.py",
        "svl_core",
        "assets",
        "LICENSE",
        "README.md",
        "requirements.txt",
    }
    assert facts["hardware"] == {"cpu": "cpu-basic", "zero-gpu": "zero-a10g"}[profile]


@git
def test_the_card_links_to_staged_files_alone(staged):
    folder = staged["cpu"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    near = [target for target in targets if "://" not in target]
    assert near and all((folder / target).exists() for target in near)
    assert "CONTRIBUTING (`.github/CONTRIBUTING.md` in the repository)" in text


@git
@pytest.mark.parametrize(
    "fault, spoil",
    [
        (
            "short_description",
            lambda f: (f / "README.md").write_text(
                (f / "README.md")
                .read_text()
                .replace("short_description: ", "short_description: " + "x" * 60)
            ),
        ),
        (
            "sdk_version",
            lambda f: (f / "README.md").write_text(
                (f / "README.md").read_text().replace("sdk_version: ", "sdk_version: 9")
            ),
        ),
        (
            "colours",
            lambda f: (f / "README.md").write_text(
                (f / "README.md").read_text().replace("colorTo: yellow", "colorTo: teal")
            ),
        ),
        (
            "suggested_hardware",
            lambda f: (f / "README.md").write_text(
                (f / "README.md")
                .read_text()
                .replace("suggested_hardware: cpu-basic", "suggested_hardware: abacus")
            ),
        ),
        (
            "someone/else is not in the catalogue",
            lambda f: (f / "README.md").write_text(
                (f / "README.md")
                .read_text()
                .replace("- HuggingFaceTB/SmolVLM-256M-Instruct config", "- someone/else config")
            ),
        ),
        ("do not go together", lambda f: (f / "requirements.txt").write_text("torch\nspaces\n")),
        ("does not belong", lambda f: (f / "notes.txt").write_text("x")),
        ("does not belong", lambda f: (f / "svl_core" / "token.pem").write_text("x")),
        ("does not belong", lambda f: (f / "svl_core" / "link.py").symlink_to("/etc/hosts")),
        ("is no Python", lambda f: (f / "svl_core" / "errors.py").write_text("class :")),
        ("app_file", lambda f: (f / "app.py").unlink()),
        ("bundled model", lambda f: (f / "assets" / "demo_lvlm" / "model.safetensors").unlink()),
        ("at most", lambda f: (f / "assets" / "large.png").write_bytes(bytes(51_000_000))),
    ],
)
def test_each_fault_is_found(staged, tmp_path, fault, spoil):
    copy = Path(shutil.copytree(staged["cpu"], tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(StageError, match=fault):
        check(copy)


def test_requirements_follow_the_project():
    names = [line.split(">")[0] for line in _dependencies() if not line.startswith("gradio")]
    for hardware in hardware_names():
        profile = "zero-gpu" if hardware == "zero-a10g" else "cpu"
        lines = requirements(profile, hardware).splitlines()
        assert lines[0].startswith("--extra-index-url") == hardware.startswith("cpu")
        kept = [line for line in lines if not line.startswith("--")]
        if profile == "cpu":
            assert kept == [line for line in _dependencies() if not line.startswith("gradio")]
        else:
            assert {line.split(">")[0] for line in kept} == {
                *names,
                "spaces",
            } and "torch>=2.8,<2.12" in kept


def test_a_profile_runs_on_its_machines_only():
    assert hardware_of("cpu", "t4-small") == "t4-small"
    for profile, wrong in (("cpu", "zero-a10g"), ("zero-gpu", "cpu-basic")):
        with pytest.raises(StageError, match="does not run on"):
            hardware_of(profile, wrong)


def test_a_lent_gpu_offers_larger_models():
    free, lent = from_environment(True, {}), from_environment(True, {"SPACES_ZERO_GPU": "true"})
    large = {entry.id for entry in lent.offered()} - {entry.id for entry in free.offered()}
    assert (
        "llava-hf/llava-1.5-7b-hf" in large
        and not lent.any_model
        and not any(entry.gated for entry in catalogue() if entry.id in large)
    )


def test_wrong_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["nobody", "--dry-run"])
    assert "USER/SPACE" in capsys.readouterr().err
    assert (
        main(["some/one", "--profile", "zero-gpu", "--hardware", "t4-small"]) == 2
        and "does not run on t4-small" in capsys.readouterr().err
    )


def test_container_runs_as_a_user_and_checks_its_health():
    text = (ROOT / "space_config" / "Dockerfile").read_text()
    assert (
        text.index("USER svl") < text.index('CMD ["python", "app.py"]')
        and "/health" in text
        and "HF_HUB_OFFLINE" in text
    )


@git
@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_staged_folder_starts_as_a_space_would(staged, profile):
    """In its own folder, with a bare environment and nothing but the staged code; a ZeroGPU Space
    lends its GPU through a stand-in.
    """
    folder = staged[profile]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "SPACE_ID": "someone/space",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if profile == "zero-gpu":
        env |= {"SPACES_ZERO_GPU": "true", "PYTHONPATH": str(STAND_IN)}
    found = subprocess.run(
        [sys.executable, "-c", "import svl_core; print(svl_core.__file__)"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(folder)
    server = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until = time.monotonic() + 300
        said = None
        while said is None and time.monotonic() < until and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    said = json.load(answer)
            except OSError:  # not up yet, or still loading
                time.sleep(0.5)
        assert said and said["model"] == {"name": "demo", "state": "ready"}, server.poll()
        visitor = Visitor(f"http://127.0.0.1:{port}")
        answer = visitor.ask(visitor.example(), "how many objects are there?")
        assert answer["ok"], answer["error"]
        assert visitor.compare(16, [5, 6], answer_length=4)["ok"]
    finally:
        server.terminate()
        printed, _ = server.communicate(timeout=60)
    assert (
        "any_model: no" in printed
        and f"model_gb: {18.0 if profile == 'zero-gpu' else 5.0}" in printed
    )
    check(folder)  # nothing was written into it
