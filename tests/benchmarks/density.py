"""How dense the code is: `python tests/benchmarks/density.py [FOLDER ...]` (default: svl_core).

Counts what a reader takes in on a line of code: its names (keywords apart), its calls and its
operators (brackets, commas, colons, dots and semicolons apart). Lines without any are left out.
"""

from __future__ import annotations

import ast
import io
import keyword
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "svl_core"
PUNCTUATION = "()[]{},:.;"
WIDTH = 100


@dataclass(frozen=True)
class Density:
    """What is counted over some files.

    lines: those that are not blank, comments and docstrings too. wide: those of more than 100
        columns. longest: columns. mean, percentile_95: names, calls and operators a line of code.
    """

    lines: int
    wide: int
    longest: int
    mean: float
    percentile_95: int

    def __str__(self) -> str:
        return (
            f"{self.lines} lines, {self.wide} over {WIDTH} columns, longest {self.longest}; names,"
            f" calls and operators a line: mean {self.mean:.2f}, 95th percentile"
            f" {self.percentile_95}"
        )


def counts_of(source: str) -> Counter[int]:
    """Names, calls and operators on each line of code, by line number."""
    counts: Counter[int] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        is_operator = token.type == tokenize.OP and token.string not in PUNCTUATION
        counts[token.start[0]] += is_name or is_operator
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            counts[node.lineno] += 1
    return +counts


def measure(files: Iterable[Path]) -> Density:
    """The density of some Python files taken together."""
    columns, counts = [], []
    for file in files:
        source = file.read_text(encoding="utf-8")
        columns += [len(line) for line in source.splitlines() if line.strip()]
        counts += counts_of(source).values()
    return Density(
        lines=len(columns),
        wide=sum(length > WIDTH for length in columns),
        longest=max(columns),
        mean=statistics.mean(counts),
        percentile_95=sorted(counts)[int(0.95 * len(counts))],
    )


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:] or [PACKAGE]):
        print(f"{folder}: {measure(sorted(folder.rglob('*.py')))}")
