"""Puts each kind of decoder without images, the controls, into a state, and writes the table into
svl_core/SUPPORT.md: `python tests/families/control_table.py [KIND ...]`.

Results are kept beside this file, so that single kinds can be run anew; `test_controls.py` runs the
whole line on each and holds the table against it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "benchmarks"), str(HERE.parents[1])]

import controls  # noqa: E402
from marks import rewrite  # noqa: E402

import svl_core as svl  # noqa: E402
from svl_core.errors import InputError  # noqa: E402
from svl_core.pruning.report import Findings, findings_of  # noqa: E402

PAGE = HERE.parents[1] / "svl_core" / "SUPPORT.md"
RESULTS = HERE / "controls.json"
BEGIN, END = "<!-- controls: tests/families/control_table.py -->", "<!-- end of controls -->"
FULL, PARTLY, REFUSED = "full", "partly", "refused"


def state(found: Findings) -> tuple[str, str]:
    """(state, why or how) of a control that loads."""
    stays = "; ".join(dict.fromkeys(found.protected.values()))
    notes = [f"stays: {stays}"] if stays else []
    reasons: dict[str, list[str]] = {}
    for name, why in found.compensations.items():
        if why is not None:
            reasons.setdefault(_said(why), []).append(name)
    for why, names in reasons.items():
        notes.append(f"not {', '.join(names)}: {why}")
    return (PARTLY if reasons else FULL), "; ".join(notes) or "every compensation"


def refusal(error: InputError) -> tuple[str, str]:
    """(state, why) of a control that does not load: what its probe said."""
    said = str(error)
    return REFUSED, _said(said[said.find("(") + 1 : said.rfind(");")])


def _said(sentence: str) -> str:
    """What a sentence says was found."""
    found = sentence.split("; expected")[0]
    return found.replace("Found that ", "").replace("Found ", "")


def run(kind: str) -> tuple[str, str]:
    """(state, why or how) of one kind."""
    with tempfile.TemporaryDirectory() as folder:
        saved = controls.saved(kind, Path(folder) / "model")
        try:
            lvlm = svl.load(saved, text_only=True, dtype="float32")
        except InputError as error:
            return refusal(error)
        return state(findings_of(lvlm))


def table(results: dict) -> str:
    """The rows, in the order of `controls.SETTINGS`."""
    lines = ["| decoder | state | how, or why |", "|---|---|---|"]
    for kind in controls.SETTINGS:
        found, why = results[kind]
        lines.append(f"| `{kind}` | {found} | {why.replace('|', '/')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="run these alone (default: all)")
    asked = parser.parse_args().kinds
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for kind in asked or controls.SETTINGS:
        results[kind] = list(run(kind))
        print(kind, *results[kind], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    rewrite(PAGE, BEGIN, END, table(results))


if __name__ == "__main__":
    main()
