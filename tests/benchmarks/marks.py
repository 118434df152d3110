"""Figures between two marks of a Markdown page, made anew from a results file."""

from pathlib import Path

PAGES = Path(__file__).resolve().parent / "results"
"""Where the pages with the benchmarks' figures lie, beside the results that they are made of."""


def between(text: str, begin: str, end: str, figures: str) -> str:
    """`text` with `figures` between the marks, in the place of what stands there.

    Raises ValueError where a mark is missing or stands twice.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"Found no single {begin} ... {end}; expected one pair of marks; add it.")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n{figures}\n{end}{after}"


def rewrite(page: Path, begin: str, end: str, figures: str) -> None:
    """Puts `figures` between the marks of a file."""
    text = page.read_text(encoding="utf-8")
    page.write_text(between(text, begin, end, figures), encoding="utf-8")
