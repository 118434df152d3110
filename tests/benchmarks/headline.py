"""The README's headline figures, read off the results files: `python tests/benchmarks/headline.py`.

Measures nothing: it is run after a benchmark that the table names.
"""

from __future__ import annotations

import json
from pathlib import Path

from marks import PAGES, between, rewrite

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- headline: tests/benchmarks/headline.py -->", "<!-- end of headline -->"
DROPS = (3, 5, 6, 8)  # of the bundled model's layers: about 20, 30, 40 and 50 %


def results() -> dict[str, dict]:
    """What each results file holds that the table reads, by its name."""
    names = (
        "demo_model",
        "arena",
        "readings",
        "page",
        "first_screen",
        "analysis_pass",
        "interactivity",
    )
    return {
        name: json.loads((PAGES / f"{name}.json").read_text(encoding="utf-8")) for name in names
    }


def accuracy(full: dict) -> str:
    """The full model's exact answers on each data set."""
    names = {"scenes": "fresh scenes", "openmoji": "unseen art", "easy-vqa": "easy-VQA"}
    return ", ".join(f"{full[data]['accuracy']:.1%} {name}" for data, name in names.items())


def kept(arena: dict, preset: str) -> str:
    """Accuracy that a preset keeps at each of `DROPS`."""
    rows = {
        row["drop"]: row["kept"]
        for row in arena["rows"]
        if (row["criterion"], row["compensation"]) == ("preset", preset)
    }
    return ", ".join(f"{rows[drop]:.1%}" for drop in DROPS)


def counted_ends(readings: dict) -> str:
    """How often the first and the last text token count, by the default reading of TIS."""
    ends = readings["ends"]["received"]
    return f"{ends['first']:.0%} and {ends['last']:.0%} of {readings['prompts']} prompts"


def pass_ratio(rows: list[dict]) -> str:
    """The analysis over a plain pass at the longest prompt, on the wide and the narrow decoder."""
    longest = max(row["positions"] for row in rows)
    ratios = {row["shape"]: row["time_ratio"] for row in rows if row["positions"] == longest}
    wide, narrow = ratios["4 layers x 2,048"], ratios["12 layers x 768"]
    return f"{wide:.2f}x a plain pass at {longest:,} positions (a narrow decoder: {narrow:.2f}x)"


def table(made: dict[str, dict]) -> str:
    """The headline figures as Markdown, each with the command that measures it."""
    demo, arena, page = made["demo_model"], made["arena"], made["page"]
    counts = ", ".join(map(str, DROPS))
    pruned = f"accuracy kept without {counts} of {arena['layers']} layers"
    slider = made["interactivity"]["bundled_ms"]["drop slider"]["median"]
    usable = f"{page['usable_s']:.0f} s after the command"
    answers = f"{page['slider_move_with_answers_s']:.1f} s"
    first = made["first_screen"]["pages"]["now"]["cold"]
    opened = f"{first['content_s']:.1f} s, {first['kB'] / 1000:.1f} MB"
    analysis = pass_ratio(made["analysis_pass"]["rows"])
    rows = (
        ("bundled model, exact answers", accuracy(demo["full"]), "demo_model"),
        (f"{pruned}, preset `as-published`", kept(arena, "as-published"), "arena"),
        (f"{pruned}, preset `best`", kept(arena, "best"), "arena"),
        (
            "first and last text token among the important ones, TIS by default",
            counted_ends(made["readings"]),
            "readings",
        ),
        ("page of a running server, first screen with both answers", opened, "first_screen"),
        ("page usable, first analysis drawn", usable, "page"),
        ("slider moved, figures redrawn (server time)", f"{slider:.0f} ms", "interactivity"),
        ("slider moved, both new answers", answers, "page"),
        ("analysis, decoder as wide as a 1B model", analysis, "analysis_pass"),
    )
    lines = ["| what | measured | by `python tests/benchmarks/...` |", "| --- | --- | --- |"]
    lines += [f"| {what} | {measured} | `{script}.py` |" for what, measured, script in rows]
    return "\n".join(lines)


def with_figures(text: str, made: dict[str, dict]) -> str:
    """`text` with the part between the marks replaced."""
    return between(text, BEGIN, END, table(made))


if __name__ == "__main__":
    rewrite(README, BEGIN, END, table(results()))
