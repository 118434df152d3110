"""What was computed beforehand of the shipped examples, so that the page shows it at once.

`python -m svl_core.ui.steps.prepare` makes the file beside the weights; it is used for these
weights only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svl_core.files import stored_beside
from svl_core.lvlm.catalogue import demo_folder, demo_weights
from svl_core.ui import card, examples, views
from svl_core.ui.state import seal
from svl_core.ui.state.settings import DEFAULTS, Settings

NAME = "prepared.json"
MODEL = "demo"  # the model that all of it was computed with


@dataclass(frozen=True)
class Prepared:
    """An example with everything that its first screen shows.

    asked: importance of patches and words, see `hero.draw_asked`.
    layers: change and cosines of every layer, see `hero.draw_layers`.
    strip: the layers and their ranking, see `strip.strip_value`.
    gaps: of the plan's runs, for each number of dropped layers.
    full: the full model's answer.
    pruned: the pruned model's answer for each number of dropped layers.
    saved: share of the parameters that is saved, for each number of dropped layers.
    """

    example: examples.Shipped
    asked: Mapping[str, Any]
    layers: Mapping[str, Any]
    strip: Mapping[str, Any]
    gaps: tuple[tuple[float, ...], ...]
    full: str
    pruned: tuple[str, ...]
    saved: tuple[float, ...]

    @property
    def picture(self) -> str:
        return views.data_url(examples.picture_of(self.example.origin), small=True)

    def asked_value(self) -> dict:
        """The value of the hero's picture and question."""
        return {"src": self.picture, "alt": "The image that is asked about", **self.asked}

    def layers_value(self) -> dict:
        """The value of the hero's decoder at the example's own count."""
        drop = list(self.strip["drop"])
        return {**self.layers, "drop": drop, "gaps": list(self.gaps[self.example.count])}

    def strip_value(self) -> dict:
        """The value of the layer strip at the example's own count."""
        return seal.sealed(self.strip)

    def answers(self, count: int) -> str:
        """The hero's answers with so many layers dropped, as markup."""
        layers = len(self.strip["ids"])
        answer = self.pruned[count]
        return views.hero_answers(
            self.full, answer, layers, count, self.saved[count], self.example.truth
        )

    def glance(self, count: int) -> str:
        """The dock's line with so many layers dropped, as markup."""
        return views.glance(self.full, self.pruned[count], len(self.strip["ids"]), count)

    def plan(self, count: int) -> list[int]:
        """The layers that go where so many do, ascending."""
        return sorted(self.strip["ranking"][:count])

    def verdict(self, count: int) -> str:
        """What separates both answers with so many layers dropped."""
        layers = len(self.strip["ids"])
        return views.verdict_of(self.full, self.pruned[count], layers, count, self.saved[count])

    def card(self, count: int) -> bytes:
        """The result with so many layers dropped as a picture, a PNG."""
        return card.png(
            card.Result(
                examples.picture_of(self.example.origin),
                self.example.question,
                self.strip["ids"],
                self.plan(count),
                self.strip["protected"],
                self.full,
                self.pruned[count],
                self.verdict(count),
            )
        )

    def at_once(self, count: int) -> dict[str, str]:
        """What the hero and the dock show of both answers, by the names of the components."""
        return {"hero-answers": self.answers(count), "glance": self.glance(count)}

    def for_browser(self, head: str) -> dict:
        """What the browser draws the first screen from. head: markup of the page's head."""
        counts = range(len(self.pruned))
        return {
            "head": head,
            "asked": self.asked_value(),
            "layers": self.layers_value(),
            "strip": dict(self.strip),
            "gaps": [list(gaps) for gaps in self.gaps],
            "answers": [self.answers(count) for count in counts],
            "glances": [self.glance(count) for count in counts],
            "count": self.example.count,
            "address": {
                "model": MODEL,
                "image": self.example.origin,
                "prompt": self.example.question,
                "weights": demo_weights(),
            },
        }


@functools.cache
def prepared() -> dict[str, Prepared]:
    """{origin: example} of the file; empty where it is missing, or of other weights or examples."""
    stored = stored_beside(demo_folder(), NAME)
    if stored is None:
        return {}
    try:
        known = {example.origin: example for example in examples.SHIPPED}
        return {
            row["origin"]: _read(known[row["origin"]], row)
            for row in stored["examples"]
            if row["origin"] in known and _is_of(known[row["origin"]], row)
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _is_of(example: examples.Shipped, row: Mapping) -> bool:
    return (row["question"], row["count"]) == (example.question, example.count)


def _read(example: examples.Shipped, row: Mapping) -> Prepared:
    return Prepared(
        example=example,
        asked=row["asked"],
        layers=row["layers"],
        strip=row["strip"],
        gaps=tuple(map(tuple, row["gaps"])),
        full=row["full"],
        pruned=tuple(row["pruned"]),
        saved=tuple(row["saved"]),
    )


def known(state: Mapping, strip: Mapping, settings: Settings) -> Prepared | None:
    """What was prepared of just this question, plan and settings; None where nothing was."""
    found = prepared().get(state.get("origin") or "")
    if found is None or state["model"] != MODEL or state["prompt"] != found.example.question:
        return None
    usual = settings.recipe == DEFAULTS.recipe
    usual = usual and settings.max_new_tokens == DEFAULTS.max_new_tokens
    planned = found.plan(len(strip["drop"]))
    return found if usual and list(strip["drop"]) == planned else None


def opening() -> Prepared | None:
    """The example that the page opens on."""
    return prepared().get(examples.SHIPPED[0].origin)
