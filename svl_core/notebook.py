"""Values as a prompt and a notebook show them: one short line, and one small table.

The values between the steps hold features, attention and weights, whose numbers nobody reads; what
is shown of an array is its type and its shape.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import fields
from numbers import Number
from typing import Any

MOST_CHARACTERS = 60  # of a text
MOST_ENTRIES = 16  # of a list of numbers or names
MOST_ROWS = 16  # of a table


class Shown:
    """A dataclass whose `repr` is one short line, and which a notebook shows as a small table.

    The dataclass is made with `repr=False`, else its own would hide this one.
    """

    def brief(self) -> Mapping[str, Any]:
        """What is shown, by name."""
        named = fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in named if field.repr}

    def table(self) -> Sequence[Sequence[Any]]:
        """Rows that a notebook shows below, the first one a heading; none by default."""
        return ()

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={short(value)}" for name, value in self.brief().items())
        return f"{type(self).__name__}({told})"

    def _repr_html_(self) -> str:
        pairs = [[name, _words(value)] for name, value in self.brief().items()]
        told = _html(pairs, caption=type(self).__name__)
        rows = [[_words(cell) for cell in row] for row in self.table()]
        if not rows:
            return told
        shown = rows[: MOST_ROWS + 1]
        if len(rows) > len(shown):
            shown.append([f"and {len(rows) - len(shown)} more"])
        return told + _html(shown[1:], heading=shown[0])


def short(value: Any) -> str:
    """A value in a few characters; of a tensor or an array the type and the shape."""
    if isinstance(value, str):
        return repr(
            value if len(value) <= MOST_CHARACTERS else f"{value[: MOST_CHARACTERS - 3]}..."
        )
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, (Number, Shown)):
        return repr(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind}{list(value.shape)}"
    if isinstance(value, Mapping):
        return _collection("{}", [f"{key}: {short(part)}" for key, part in value.items()])
    if isinstance(value, (Sequence, Set)) and not isinstance(value, bytes):
        return _listed(value)
    if hasattr(value, "mode") and hasattr(value, "size"):  # a picture
        return f"{value.mode} {' x '.join(map(str, value.size))}"
    return type(value).__name__


def _listed(values: Collection[Any]) -> str:
    plain = all(part is None or isinstance(part, (Number, str)) for part in values)
    if plain or len(values) <= 2:
        return _collection("()", [short(part) for part in values])
    kinds = {type(part).__name__ for part in values}
    return f"{len(values)} of {kinds.pop() if len(kinds) == 1 else 'several kinds'}"


def _collection(brackets: str, parts: Sequence[str]) -> str:
    shown = list(parts[:MOST_ENTRIES])
    if len(parts) > len(shown):
        shown.append(f"... {len(parts)} in all")
    comma = "," if brackets == "()" and len(shown) == 1 else ""
    return brackets[0] + ", ".join(shown) + comma + brackets[1]


def _words(value: Any) -> str:
    """A value for a table, where texts need no marks."""
    return short(value)[1:-1] if isinstance(value, str) else short(value)


def _html(rows: Sequence[Sequence[str]], caption: str = "", heading: Sequence[str] = ()) -> str:
    """A table whose rows begin with what they are about."""
    lines = [f"<caption><b>{html.escape(caption)}</b></caption>"] if caption else []
    if heading:
        lines.append(_row("th", "th", heading))
    lines += [_row("th", "td", row) for row in rows]
    return f"<table>{''.join(lines)}</table>"


def _row(first: str, other: str, cells: Sequence[str]) -> str:
    kinds = [first, *[other] * (len(cells) - 1)]
    written = [
        f'<{kind} style="text-align:left">{html.escape(cell)}</{kind}>'
        for kind, cell in zip(kinds, cells, strict=True)
    ]
    return f"<tr>{''.join(written)}</tr>"
