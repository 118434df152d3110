"""Which word of which answer is looked at."""

from __future__ import annotations

from collections.abc import Mapping

from svl_core.service.words import FULL, SIDES, Word, Words, telling
from svl_core.ui.drawing import View
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import Page


def words_of(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: Mapping | None,
    settings: Settings,
) -> tuple[View | None, Words | None]:
    """What is shown, and what can be read of its answers' words; None before an analysis, and
    where there are no answers.
    """
    if not state or not strip:
        return None, None
    shown = page.view(
        state,
        settings,
        strip,
        picked=picked,
    )
    return shown, shown.words


def pieces_of(shown: View) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both answers' tokens as pieces of their texts, "" for those that are no part of it; empty
    before there are answers.
    """
    comparison = shown.comparison
    if comparison is None:
        return (), ()
    return comparison.full.tokens, comparison.pruned.tokens


def chosen(shown: View) -> Word | None:
    """The word that was clicked or that a link names, else the one that says most of the plan;
    None as long as nothing is read.
    """
    words = shown.words
    if words is None:
        return None
    asked = Word.of(shown.settings.word)
    if asked is not None:
        answer = words.answers[SIDES.index(asked.side)]
        if asked.place < len(answer):
            return asked
    lenses = words.known_lenses()
    if lenses is None:
        return None
    pieces, _ = pieces_of(shown)
    place = telling(lenses, pieces)
    return Word(FULL, place)


def word_of(shown: View) -> str:
    """The chosen word as its answer spells it; "" for none, and for the sign that ends it."""
    word = chosen(shown)
    if word is None:
        return ""
    pieces = pieces_of(shown)[SIDES.index(word.side)]
    return pieces[word.place].strip()
