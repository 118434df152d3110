"""How the code reads: no line over 100 columns, docstrings included, and few things a line."""

from pathlib import Path

import density
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "svl_core").rglob("*.py"))
SOURCES = [ROOT / "app.py", *PACKAGE, *sorted((ROOT / "space_config").glob("*.py"))]
MOST = 4.5  # names, calls and operators a line; codebases of the field: 3.1 to 4.7


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_over_100_columns(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    wide = [number for number, line in enumerate(lines, start=1) if len(line) > density.WIDTH]
    assert not wide, f"{path.name} is too wide on lines {wide}: wrap them"


def test_the_package_is_no_denser_than_codebases_of_the_field():
    found = density.measure(PACKAGE)
    assert found.mean <= MOST, f"Found {found}; expected a mean of at most {MOST}; name the parts."


def test_what_counts_as_one_thing():
    """Two names, a call, an operator; keywords, brackets, dots and comments are none."""
    counts = density.counts_of("if a:  # b\n    c = d(1).e\n\n")
    assert counts == {1: 1, 2: 3 + 1 + 1}
