"""Runs the family suite and writes the support table of svl_core/SUPPORT.md from its results:
`python tests/families/support_table.py`.
"""

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "benchmarks"), str(HERE.parents[1])]

from marks import rewrite  # noqa: E402

PAGE = HERE.parents[1] / "svl_core" / "SUPPORT.md"
DETAIL_BEGIN, DETAIL_END = "<!-- visual detail: made with the table -->", "<!-- end of detail -->"
BEGIN, END = "<!-- support: tests/families/support_table.py -->", "<!-- end of support -->"
COLUMNS = {  # heading -> tests that must all pass for a tick
    "places": ("positions_and_places", "own_position_most"),
    "trace": ("layer_outputs_are_exact", "attention_statistics_equal_eager"),
    "pruning": ("pruning_equals_skipping", "the_full_model_is_as_before"),
    "generation": ("cached_equals_uncached",),
    "export": ("loads_plainly", "loads_again"),
}


def results(report: Path) -> dict[str, dict[str, list[str]]]:
    """family -> test -> outcomes ("passed", "failed", "skipped")."""
    found: dict[str, dict[str, list[str]]] = {}
    for case in xml.parse(report).iter("testcase"):
        match = re.fullmatch(r"(test_\w+)\[([\w.-]+?)(-\[\(.*\)\])?\]", case.get("name", ""))
        if match:
            outcome = (
                "failed"
                if case.find("failure") is not None or case.find("error") is not None
                else "skipped"
                if case.find("skipped") is not None
                else "passed"
            )
            found.setdefault(match[2], {}).setdefault(match[1], []).append(outcome)
    return found


def table(found: dict[str, dict[str, list[str]]]) -> str:
    import builders

    lines = [
        "| family (`model type` on `decoder`) | " + " | ".join(COLUMNS) + " | layers that stay |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for family, tests in found.items():
        if family not in builders.BUILDERS:  # a family of `unlisted`
            continue
        lvlm, cells = builders.build(family), []
        for parts in COLUMNS.values():
            outcomes = [
                outcome
                for name, listed in tests.items()
                if any(part in name for part in parts)
                for outcome in listed
            ]
            cells.append(
                "no"
                if "failed" in outcomes or "passed" not in outcomes
                else (
                    "yes"
                    if lvlm.family.in_sequence or parts != COLUMNS["places"]
                    else "none in the sequence"
                )
            )
        lines.append(
            f"| {lvlm.family.name} (`{lvlm.model.config.model_type}` on"
            f" `{lvlm.model.config.get_text_config().model_type}`) | "
            + " | ".join(cells)
            + f" | {'; '.join(dict.fromkeys(lvlm.protection.values())) or 'none'} |"
        )
    return "\n".join(lines)


def detail_table() -> str:
    """What each detail means, a row for the families of each rule."""
    from svl_core.lvlm.detail import RULES
    from svl_core.lvlm.families import FAMILIES

    rows: dict[tuple, list[str]] = {}
    for family in FAMILIES:
        rule = RULES.get(family.detail.rule)
        told = ("one size", "the same", "the same")
        if rule is not None:
            told = rule.own, *map(rule.said, (family.detail.balanced, family.detail.quick))
        rows.setdefault(told, []).append(family.name)
    lines = ["| families | full | balanced | quick |", "|---|---|---|---|"]
    lines += [f"| {', '.join(names)} | {' | '.join(told)} |" for told, names in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    rewrite(PAGE, DETAIL_BEGIN, DETAIL_END, detail_table())
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", str(HERE), f"--junitxml={report}"],
            cwd=HERE.parents[1],
            stdout=sys.stderr,
            check=False,
        )
        made = table(results(report))
    print(made)
    rewrite(PAGE, BEGIN, END, made)
