"""The README's figures between a benchmark's marks, made anew."""

from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def rewrite(begin: str, end: str, figures: str, readme: Path = README) -> None:
    """Puts `figures` between the marks; leaves a README without them as it is."""
    text = readme.read_text(encoding="utf-8")
    if begin in text:
        before, rest = text.split(begin)
        readme.write_text(
            before + begin + "\n" + figures + "\n" + end + rest.split(end)[1], encoding="utf-8"
        )
