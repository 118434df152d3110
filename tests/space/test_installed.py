"""A wheel holds the whole product: used in an environment of its own, outside of any clone."""

import re
import shutil
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import installed
import pytest

from svl_core.demo.scenes import compose, render

ROOT = installed.ROOT
LEFT_OUT = ("assets/readme/",)  # pictures of the README


def built_here() -> bool:
    """Whether a wheel can be built with what is installed."""
    try:
        known = int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False
    return known and shutil.which("git") is not None and (ROOT / ".git").exists()


pytestmark = pytest.mark.skipif(
    not built_here(), reason="needs git, a clone, and setuptools 77 or newer (extra `test`)"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return installed.wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_its_assets(built):
    files = installed.files_of_the_project()
    package = [name for name in files if name.startswith("svl_core/") and (ROOT / name).is_file()]
    assets = [name for name in files if name.startswith("assets/")]
    wanted = {f"svl_core/{name}" for name in assets if not name.startswith(LEFT_OUT)}
    with zipfile.ZipFile(built) as archive:
        held = set(archive.namelist())
        metadata = next(name for name in held if name.endswith("/METADATA"))
        told = archive.read(metadata).decode()
    assert {*package, *wanted} <= held
    assert all(name.startswith(("svl_core/", "svl_explorer-")) for name in held)
    assert "Name: svl-explorer" in told and "Provides-Extra: mcp" in told


@pytest.mark.slow
def test_an_installed_wheel_answers_and_serves_the_page(built, tmp_path):
    programs = installed.environment(tmp_path / "venv", built)
    (tmp_path / "empty").mkdir()
    render(compose({0: "cat", 4: "apple"}, "noto")).save(tmp_path / "picture.png")
    found = installed.compared(programs, tmp_path / "empty", tmp_path / "picture.png")
    assert found["full"]["text"] == "top left" and len(found["plan"]["drop"]) == 2
    analysed = installed.page_answers(programs, tmp_path / "empty")
    assert analysed["model"] == "demo" and analysed["layers"] == 16
    assert list((tmp_path / "empty").iterdir()) == []


def test_advice_names_published_packages_alone():
    """This project is on no index: what is to be installed is named by itself, or from a clone."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    advice = re.compile(r"pip install[^\n]*")
    for path in [*sorted((ROOT / "svl_core").rglob("*.py")), ROOT / "README.md"]:
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        assert not [said for said in advice.findall(text) if name in said], path
    assert Path(ROOT / "svl_core" / "assets").resolve() == ROOT / "assets"
