"""Which word of which answer is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    asked = _asked(shown, words)
    if asked is not None:
        return asked
    lenses = words.known_lenses()
    if lenses is None:
        return None
    full, _ = pieces_of(shown)
    place = telling(lenses, full)
    return Word(FULL, place)


def _asked(
    shown: View,
    words: Words,
) -> Word | None:
    """The word that was asked for, if its answer has it."""
    word = Word.of(shown.settings.word)
    if word is None:
        return None
    answer = _of_side(words.answers, word)
    return word if word.place < len(answer) else None


def word_of(shown: View) -> str:
    """The chosen word as its answer spells it; "" for none, and for the sign that ends it."""
    word = chosen(shown)
    if word is None:
        return ""
    pieces = _of_side(pieces_of(shown), word)
    piece = pieces[word.place]
    return piece.strip()


def _of_side(
    both: tuple[Sequence, Sequence],
    word: Word,
) -> Sequence:
    """Of what there is for the full model's answer and for the pruned one's, that of a word."""
    place = SIDES.index(word.side)
    return both[place]
