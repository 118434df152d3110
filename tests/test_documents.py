"""README and model card say what the results files hold, and their links and commands exist."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "tests" / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name, documents",
    [
        ("demo_model", ("README.md", "assets/demo_lvlm/README.md")),
        ("page", ("README.md",)),
        ("fuzz", ("README.md",)),
    ],
)
def test_figures_are_those_of_the_results_file(name, documents):
    made = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    for document in documents:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert script(name).with_figures(text, made) == text, (
            f"{document} is stale: run python tests/benchmarks/{name}.py"
        )


@pytest.mark.parametrize("name", ["arena", "visual_tokens", "load", "soak"])
def test_figures_of_the_long_runs(name):
    """Between the marks stands what the results file holds; before the first run there is neither."""
    text, made, file = (
        (ROOT / "README.md").read_text(encoding="utf-8"),
        script(name),
        BENCHMARKS / "results" / f"{name}.json",
    )
    if file.exists():
        assert made.with_figures(text, json.loads(file.read_text(encoding="utf-8"))) == text, (
            f"README.md is stale: run python tests/benchmarks/{name}.py"
        )
    else:
        assert made.BEGIN + "\n" + made.END in text


def test_relative_links_lead_somewhere():
    for document in (ROOT / "README.md", ROOT / "assets" / "demo_lvlm" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} points to {target}"


def test_bundled_model_is_small_enough_and_keeps_what_it_reached():
    """So that a worse model cannot land unseen: fresh scenes at 95 %, every kind at 90 %, easy-VQA
    at 98 %.
    """
    made = json.loads((BENCHMARKS / "results" / "demo_model.json").read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in (ROOT / "assets" / "demo_lvlm").iterdir()) <= 30e6
    assert (
        made["layers"] >= 16
        and made["full"]["scenes"]["n"] == 2000
        and made["full"]["easy-vqa"]["n"] == 9673
    )
    assert made["full"]["easy-vqa"]["accuracy"] >= 0.98
    assert (
        made["full"]["scenes"]["accuracy"] >= 0.95
        and min(tally["accuracy"] for tally in made["full"]["scenes"]["by_kind"].values()) >= 0.9
    )
