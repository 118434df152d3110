"""The arena's figures as Markdown, made of its results alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BEGIN, END = "<!-- arena: tests/benchmarks/arena.py -->", "<!-- end of arena -->"

PRESET = "preset"

AIMS = {0.20: 0.995, 0.30: 0.99, 0.40: 0.985, 0.50: 0.96}
"""Share dropped -> accuracy kept that the preset `best` is to reach."""

PAPER = {0.20: 0.990, 0.30: 0.976, 0.40: 0.964}
"""Share dropped -> the paper's best figure on 7B and 13B models."""

NAMES = {"scenes": "scenes", "easy-vqa": "easy-VQA"}


def figures(made: dict) -> str:
    """All tables. made: what `arena.summary` returns."""
    parts = [
        _introduction(made),
        _presets(made),
        _published(made),
        _folded("All criteria, without compensation", _criteria(made)),
        _folded("All compensations", _compensations(made)),
    ]
    return "\n\n".join(parts)


def _introduction(made: dict) -> str:
    settings = made["settings"]
    full = ", ".join(
        f"{NAMES[name]} {each['accuracy']:.1%} of {each['n']:,}"
        for name, each in made["full"].items()
    )
    lines = [
        f"{made['layers']} layers, {len(settings['seeds'])} calibration seeds,"
        f" {made['models']:,} different pruned models, weights `{settings['weights']}`, question"
        f" seed {settings['question_seed']}. The full model's exact answers: {full}. Every cell is"
        " accuracy kept against it, the mean of both data sets and all seeds, unless it says"
        " otherwise; in brackets the 95 % interval over seeds and questions together"
        " (bootstrap of both), and *least to most* of the seeds.",
    ]
    if not made["complete"]:
        asked = [found["n"] for row in made["rows"] for found in row["data"].values()]
        lines.append(
            f"Not all rows have answered all questions yet: {min(asked):,} to {max(asked):,} of"
            " each data set, and rows are compared on those that both answered."
        )
    return "\n\n".join(lines)


def _counts(made: dict) -> list[int]:
    return sorted({row["drop"] for row in made["rows"]})


def _heading(first: Sequence[str], counts: Sequence[int], made: dict) -> list[str]:
    shares = [f"{drop} ({made['shares'][str(drop)]:.0%})" for drop in counts]
    cells = [*first, *shares]
    return [f"| {' | '.join(cells)} |", f"|{' --- |' * len(cells)}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows_by_drop(made: dict, *key: str | int) -> dict[int, dict]:
    """A line's rows by the number of dropped layers. key: criterion, compensation, size."""
    return {
        row["drop"]: row
        for row in made["rows"]
        if (row["criterion"], row["compensation"], row["size"]) == key
    }


def _lines_of(made: dict, wanted: Callable[[dict], bool]) -> list[tuple[str, str, int]]:
    """(criterion, compensation, size) of the lines that are wanted, in the results' order."""
    keys = [
        (row["criterion"], row["compensation"], row["size"]) for row in made["rows"] if wanted(row)
    ]
    return list(dict.fromkeys(keys))


def _whole(row: dict) -> str:
    """Accuracy kept with its interval and the seeds' range."""
    low, high = row["interval"]
    least, most = min(row["by_seed"]), max(row["by_seed"])
    return (
        f"{row['kept']:.1%} ({100 * low:.1f} to {100 * high:.1f};"
        f" *{100 * least:.1f} to {100 * most:.1f}*)"
    )


def _presets(made: dict) -> str:
    """Every preset: both data sets together and each alone, and what it is to reach."""
    counts = _counts(made)
    lines = _heading(["preset", "measured on"], counts, made)
    for key in _lines_of(made, lambda row: row["criterion"] == PRESET):
        rows = _rows_by_drop(made, *key)
        lines.append(
            _line(
                [key[1], "both", *(_whole(rows[drop]) if drop in rows else "-" for drop in counts)]
            )
        )
        for data, name in NAMES.items():
            cells = [_of_data(rows.get(drop), data) for drop in counts]
            lines.append(_line(["", name, *cells]))
    for title, goals in (("*aim of `best`*", AIMS), ("*the paper's best*", PAPER)):
        cells = [_goal(goals.get(made["shares"][str(drop)])) for drop in counts]
        lines.append(_line([title, "", *cells]))
    return "\n".join(lines)


def _goal(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _of_data(row: dict | None, data: str) -> str:
    """Accuracy kept on one data set with its interval."""
    if row is None or data not in row["data"]:
        return "-"
    found = row["data"][data]["kept"]
    low, high = found["interval"]
    return f"{found['value']:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def _published(made: dict) -> str:
    """SVL as published against uncompensated criteria: the best of all, and the best that is not
    SVL's own.
    """
    lines = [
        "SVL as published (`svl` + `scp`, the preset) minus uncompensated baselines, in points of"
        " accuracy, the mean of both data sets (positive: SVL is better). The baseline is the one"
        " that does best on these very questions, which favours it. `svl-all` and `shortgpt` are"
        " the same measure.",
        "",
        "| dropped | best of all baselines | difference | best that is not SVL | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for drop in _counts(made):
        against = [row for row in made["published"] if row["drop"] == drop]
        if not against:
            continue
        others = [row for row in against if not row["svl"]]
        cells = [str(drop)]
        for group in (against, others):
            best = min(group, key=lambda row: row["value"])
            low, high = best["interval"]
            cells.append(best["baseline"])
            cells.append(f"{100 * best['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
        lines.append(_line(cells))
    return "\n".join(lines)


def _criteria(made: dict) -> str:
    """Every criterion: both data sets, and behind a slash each alone."""
    counts = _counts(made)
    lines = [
        "In per cent: both data sets (scenes / easy-VQA; *least to most of the seeds* where they"
        " differ).",
        "",
        *_heading(["criterion"], counts, made),
    ]
    best = _best(made, lambda row: row["compensation"] == "none")
    for key in _lines_of(made, lambda row: row["compensation"] == "none"):
        rows = _rows_by_drop(made, *key)
        cells = [_with_data(rows.get(drop), best.get(drop)) for drop in counts]
        lines.append(_line([key[0], *cells]))
    return "\n".join(lines)


def _compensations(made: dict) -> str:
    """Every compensation on few samples and at its best calibration."""
    counts = _counts(made)

    def wanted(row: dict) -> bool:
        return row["criterion"] != PRESET and row["compensation"] != "none"

    lines = [
        "In per cent: both data sets (scenes / easy-VQA; *seeds*). ↑ or ↓: clearly more or less"
        " than without compensation on the same layers and questions (95 % interval of the"
        " difference). Where they are fitted on many samples, `lstsq` and `bridge` see all tokens"
        " and the model's own answers.",
        "",
        *_heading(["layers of", "compensation", "samples"], counts, made),
    ]
    best = _best(made, wanted)
    for key in _lines_of(made, wanted):
        rows = _rows_by_drop(made, *key)
        cells = [_with_data(rows.get(drop), best.get(drop)) for drop in counts]
        lines.append(_line([key[0], key[1], str(key[2]), *cells]))
    return "\n".join(lines)


def _best(made: dict, wanted: Callable[[dict], bool]) -> dict[int, float]:
    """The highest accuracy kept at each count among the rows that are wanted."""
    best: dict[int, float] = {}
    for row in filter(wanted, made["rows"]):
        best[row["drop"]] = max(best.get(row["drop"], 0.0), row["kept"])
    return best


def _with_data(row: dict | None, best: float | None) -> str:
    """Both data sets together and each alone; the best of its column in bold."""
    if row is None:
        return "-"
    whole = f"{100 * row['kept']:.1f}"
    if row["kept"] == best:
        whole = f"**{whole}**"
    if brings := row.get("brings"):
        low, high = brings["interval"]
        whole += " ↑" * (low > 0) + " ↓" * (high < 0)
    each = " / ".join(f"{100 * found['kept']['value']:.1f}" for found in row["data"].values())
    least, most = min(row["by_seed"]), max(row["by_seed"])
    spread = f"; *{100 * least:.1f}-{100 * most:.1f}*" if most - least >= 0.0005 else ""
    return f"{whole} ({each}{spread})"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
