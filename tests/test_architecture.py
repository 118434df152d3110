"""Import rules: rooms depend on each other one way only, only the page imports gradio, and `import
svl_core` stays light.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "svl_core"
BASE = {"errors", "files", "notebook", "progress", "recipe"}  # what every room may name
LINE = BASE | {"lvlm", "analysis", "pruning", "comparison"}
LIBRARY = LINE | {"figures", "demo"}
MAY_IMPORT = {  # room -> the other rooms it may name
    "errors": set(),
    "files": {"errors"},
    "notebook": set(),
    "progress": {"errors"},
    "recipe": {"errors", "notebook"},
    "lvlm": BASE,
    "analysis": BASE | {"lvlm"},
    "pruning": BASE | {"lvlm", "analysis"},
    "comparison": BASE | {"lvlm", "analysis", "pruning"},
    "figures": LINE,
    "demo": BASE | {"lvlm"},
    "service": LIBRARY,
    "ui": LIBRARY | {"service"},
    "page": {"ui"},  # what `svl page` and app.py start
    "cli": LIBRARY | {"page"},
    "__main__": LIBRARY | {"cli"},
    "__init__": LINE,
}


def imports(path: Path) -> set[str]:
    """Dotted names of every module that the file imports, at any depth of its code; relative names
    made absolute.
    """
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names.add(module)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


SOURCES = sorted(p for p in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_its_row_names(path):
    room = room_of(path)
    assert room in MAY_IMPORT, (
        f"{room} is not a room of svl_core; expected one of {sorted(MAY_IMPORT)}"
    )
    named = {name.split(".")[1] for name in imports(path) if name.startswith("svl_core.")}
    others = named & set(MAY_IMPORT)
    assert others - {room} <= MAY_IMPORT[room], (
        f"{room} may not import {sorted(others - {room} - MAY_IMPORT[room])}"
    )


def test_no_two_files_import_each_other_in_a_circle():
    """Imports inside functions count too: a circle that is only put off is still one."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in SOURCES}
    named = {module: imports(path) & set(modules) - {module} for module, path in modules.items()}
    assert sum(map(len, named.values())) > len(modules)  # imports are seen at all
    while leaves := [module for module in named if not named[module] & set(named)]:
        for module in leaves:
            del named[module]
    circles = {module: sorted(named[module] & set(named)) for module in named}
    assert not circles, f"these files import each other in a circle, or what does: {circles}"


def test_only_one_file_registers_forward_hooks():
    users = [p for p in SOURCES if "register_forward" in p.read_text(encoding="utf-8")]
    assert users == [PACKAGE / "lvlm" / "hooks.py"]


PAGE = {  # part of the page -> the other parts it may name; what lies in no folder is "look"
    "state": set(),
    "errors": set(),
    "gradio_patches": {"errors"},
    "look": {"state", "errors", "gradio_patches"},
    "work": {"state", "errors", "gradio_patches", "look"},
    "steps": {"state", "errors", "gradio_patches", "look", "work"},
}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "ui").rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE / "ui"))
)
def test_the_page_is_layered_too(path):
    inside = path.relative_to(PACKAGE / "ui").parts
    part = inside[0].removesuffix(".py")
    part = part if part in PAGE or len(inside) > 1 else "look"
    named = {name.split(".")[2] for name in imports(path) if name.startswith("svl_core.ui.")}
    others = {name if name in PAGE else "look" for name in named} - {part}
    if inside not in (("__init__.py",), ("page.py",)):  # these two put it together
        assert others <= PAGE[part], f"{part} may not import {sorted(others - PAGE[part])}"


def test_only_the_page_imports_gradio():
    gradios = {"gradio", "gradio_client"}
    users = [p for p in SOURCES if {name.split(".")[0] for name in imports(p)} & gradios]
    assert all(room_of(p) == "ui" for p in users), users


def test_figures_hold_no_torch():
    users = [
        p
        for p in SOURCES
        if room_of(p) == "figures" and any(name.split(".")[0] == "torch" for name in imports(p))
    ]
    assert not users, users


def test_app_imports_only_the_page():
    app = ROOT / "app.py"
    if not app.exists():
        pytest.skip("app.py is not written yet")
    rooms = {name.split(".")[1] for name in imports(app) if name.startswith("svl_core.")}
    assert rooms == {"page"}, rooms


HEAVY = {"torch", "transformers", "gradio", "plotly", "sklearn"}


@pytest.mark.parametrize(
    "code, allowed",
    [
        ("import svl_core.errors, svl_core.__main__, svl_core.page", set()),
        ("import svl_core as svl; svl.CRITERIA, svl.COMPENSATIONS, svl.catalogue()", set()),
        ("import svl_core.ui", {"gradio", "plotly"}),
    ],
    ids=["the command", "the registries", "the page"],
)
def test_import_is_light(code, allowed):
    """Heavy packages load when a name is used, not on import; the page is there before torch."""
    code = f"import sys; {code}; print(sorted({HEAVY - allowed} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_public_names_of_the_line_exist():
    import svl_core

    for name in ("load", "trace", "importance", "redundancy", "plan", "prune", "answer", "compare"):
        assert callable(getattr(svl_core, name))
    with pytest.raises(AttributeError):
        _ = svl_core.no_such_name


def test_no_two_test_files_share_a_name():
    """Pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
