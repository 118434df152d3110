"""What each layer of the bundled model is for, as the page shows it at once: `python
tests/benchmarks/ablation_map.py [--limit 390]`.

Skips every layer and every block of two to four, asks fresh scene questions of every kind, and
writes assets/demo_lvlm/ablation.json with what it was made from. The page uses it only while the
weights' hash matches, and measures anew otherwise.
"""

import argparse
import json
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / "assets" / "demo_lvlm" / "ablation.json"

SEED = 5
"""Of the questions; no calibration or evaluation by default draws it."""


def show(share: float | None, what: str) -> None:
    """How far the map is, a line a step."""
    print(f"{share or 0:4.0%} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--limit",
        type=int,
        default=390,
        help="questions, of the thirteen kinds in turn (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="results file (default: the one beside the weights, which the page reads)",
    )
    options = parser.parse_args()

    import svl_core as svl
    from svl_core.comparison.ablation import SIZES, ablate_questions
    from svl_core.demo.evaluation import questions
    from svl_core.files import weights_hash
    from svl_core.progress import Run

    lvlm = svl.load("demo")
    ablation = ablate_questions(
        lvlm,
        questions("scenes", options.limit, SEED),
        data="scenes",
        sizes=SIZES,
        run=Run(show),
    )
    result = {
        "weights": weights_hash(RESULTS.parent),
        "data": "scenes",
        "seed": SEED,
        "sizes": list(SIZES),
        "versions": {"svl_core": svl.__version__},
        "made": date.today().isoformat(),
        "command": f"python tests/benchmarks/ablation_map.py --limit {options.limit}",
        **replace(ablation.map(), model="demo").to_json(),
    }
    text = json.dumps(result, separators=(",", ":"))
    options.out.write_text(text + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
