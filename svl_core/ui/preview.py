"""What a link looks like where it is posted: a picture, a title and a sentence, made of what was
prepared. No model runs for it, and nothing of a visitor's is in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from svl_core.ui import examples, prepared, texts
from svl_core.ui.prepared import Prepared
from svl_core.ui.state import exports

KEPT = 32  # pictures that are kept, of 70 kB
NAME = re.compile(r"([0-9]{1,3})-([0-9]{1,3})\.png")


@dataclass(frozen=True)
class Preview:
    """The preview of a link.

    picture: its name, for `picture`; "" where nothing was prepared.
    title, description, alt: in words; alt of the picture.
    """

    picture: str
    title: str
    description: str
    alt: str = ""


PLAIN = Preview("", texts.TITLE, texts.LEDE)
"""Of a page whose model nothing was prepared with."""


def preview_of(query: str) -> Preview:
    """The preview of the page's address with this query: the prepared result that it asks for, else
    the one that the page opens on.
    """
    ready = prepared.prepared()
    asked = exports.read_query(query)
    count = _count_of(asked, ready)
    if count is not None:
        shown = ready[asked["image"]]
        title = f"“{shown.example.question}” {shown.verdict(count)}"
    else:
        shown, title = prepared.opening(), texts.TITLE
        if shown is None:
            return PLAIN
        count = shown.example.count
    return Preview(_name(shown, count), title, texts.LEDE, _alt(shown, count))


def _count_of(
    asked: Mapping,
    ready: Mapping[str, Prepared],
) -> int | None:
    """How many layers a link drops of an example that was prepared; None for any other link: of
    another model, question, setting or plan.
    """
    shown = ready.get(asked.get("image", ""))
    if shown is None or asked["settings"]:
        return None
    if asked.get("model", prepared.MODEL) != prepared.MODEL:
        return None
    if asked.get("prompt", shown.example.question) != shown.example.question:
        return None
    drop = sorted(asked.get("drop", shown.plan(shown.example.count)))
    count = len(drop)
    return count if count < len(shown.pruned) and drop == shown.plan(count) else None


def _name(
    shown: Prepared,
    count: int,
) -> str:
    return f"{examples.SHIPPED.index(shown.example)}-{count}.png"


def _alt(
    shown: Prepared,
    count: int,
) -> str:
    return (
        f"{shown.example.question} Full model: {shown.full}. Pruned model: {shown.pruned[count]}."
        f" {shown.verdict(count)}"
    )


@lru_cache(maxsize=KEPT)
def picture(name: str) -> bytes | None:
    """The PNG of a preview by its name; None for what is none."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    place, count = map(int, found.groups())
    if place >= len(examples.SHIPPED):
        return None
    shown = prepared.prepared().get(examples.SHIPPED[place].origin)
    if shown is None or count >= len(shown.pruned):
        return None
    return shown.card(count)
