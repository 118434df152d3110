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
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from visitor import Visitor

from space_config import container
from space_config.deploy import (
    PROFILES,
    ROOT,
    StageError,
    _dependencies,
    card,
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
        ("not go together", lambda f: (f / "requirements.txt").write_text("spaces==1\n")),
        ("does not pin torch>=2", lambda f: (f / "requirements.txt").write_text("torch>=2\n")),
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


def test_requirements_follow_the_project_and_are_pinned():
    bounds = {needed.name: needed.specifier for needed in map(Requirement, _dependencies())}
    bounds.pop("gradio")  # by the card's `sdk_version`
    names = {*bounds, "mcp"}
    for hardware in hardware_names():
        profile = "zero-gpu" if hardware == "zero-a10g" else "cpu"
        lines = requirements(profile, hardware).splitlines()
        assert lines[0].startswith("--extra-index-url") == hardware.startswith("cpu")
        kept = [line for line in lines if not line.startswith("--")]
        versions = dict(line.split("==") for line in kept)
        assert set(versions) == (names if profile == "cpu" else names | {"spaces"})
        for name, bound in bounds.items():
            assert bound.contains(versions[name]) and "+" not in versions[name], name
    assert version("transformers") in requirements("cpu", "cpu-basic")


def test_the_card_shows_a_picture_of_the_page_and_is_found_by_its_tags():
    from huggingface_hub import SpaceCard

    facts = SpaceCard(card("cpu", "cpu-basic", "some/one")).data.to_dict()
    there = "https://huggingface.co/spaces/some/one/resolve/main/"
    assert facts["thumbnail"].startswith(there)
    assert (ROOT / facts["thumbnail"].removeprefix(there)).is_file()
    assert {"mcp-server", "layer-pruning", "vision-language-models"} <= set(facts["tags"])
    assert "thumbnail" not in SpaceCard(card("cpu", "cpu-basic")).data.to_dict()


def test_the_container_gets_what_its_file_copies_and_nothing_else():
    """`.dockerignore` lets exactly that through."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    dockerfile = (ROOT / "space_config" / "Dockerfile").read_text(encoding="utf-8")
    copied = [line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == {name for names in copied for name in names}
    assert all((ROOT / name).exists() for name in let_in) and "[mcp]" in dockerfile


def test_without_docker_the_script_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert container.main([]) == 2
    assert "Found no docker; expected one that runs" in capsys.readouterr().err
    silent = tmp_path / "docker"
    silent.write_text("#!/bin/sh\necho 'no daemon' >&2; exit 1\n")
    silent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert container.main([]) == 2
    assert "does not answer (no daemon)" in capsys.readouterr().err


def test_the_script_builds_with_what_was_asked():
    command = container.build_command("mine", "some/model", True)
    assert command[-1] == str(ROOT) and "mine" in command
    assert "PRELOAD=some/model" in command and "OFFLINE=1" in command
    assert not [word for word in container.build_command("mine", "", False) if "--build" in word]


def docker_runs() -> bool:
    try:
        container.check_docker()
    except container.ContainerError:
        return False
    return True


@pytest.mark.slow
def test_the_container_becomes_healthy_and_serves_tools():
    if not docker_runs():
        pytest.skip("docker does not run here")
    assert container.main(["--tag", "svl-test"]) == 0


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
