"""Fold of step "answers": pruned variants as cards, to be compared A, B, C.

Each holds plan, answer, fidelity and speed; they live as long as the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

import svl_core as svl
from svl_core.errors import InputError
from svl_core.ui import headings, parts, views
from svl_core.ui.drawing import Update
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import follows_ranking
from svl_core.ui.steps import snapshots
from svl_core.ui.wiring import QUICK, Page
from svl_core.ui.work.analysing import start_analysis
from svl_core.ui.work.answering import COMPARE_IN

HEADING = "Variants side by side"
READING = (
    "Keep a plan with its answers as a card, change something, keep that too."
    " <strong>Load</strong> brings a card's image, prompt, plan and settings back."
)
MOST = 6  # cards of a session
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Cards = Sequence[Mapping]


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.add("cards", gr.State([]))
    with gr.Column(elem_id="variants-section"):
        headings.figure_head(HEADING, READING)
        with gr.Row(elem_id="variants-tools"):
            keep = gr.Button("Keep this variant", elem_id="keep", scale=0, min_width=200)
            page.add("keep", keep)
        page.add("variants", parts.view("variants", cards_view([])))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    outputs = ["cards", "variants"]
    page.on(page["keep"].click, keep, ["cards", *COMPARE_IN], outputs, **QUICK)
    options = {"trigger_mode": "multiple", **QUICK}
    page.on(page["variants"].remove, remove, ["cards"], outputs, **options)
    restored = snapshots.restored(page)
    loaded = page.on(page["variants"].pick, load, ["cards", "state"], restored, **QUICK)
    start_analysis(page, page.halt(loaded.then).then)


# -------------------------------------------------------------------------------- handlers
def keep(
    page: Page,
    cards: Cards,
    state: Mapping | None,
    strip: Mapping | None,
    truth: Mapping | None,
    settings: Settings,
) -> Update:
    """The plan whose answers the page shows, as one more card.

    Raises InputError where it has no answers yet, or all places are taken.
    """
    comparison = None
    if state and strip:
        comparison = page.view(state, settings, strip).comparison
    if comparison is None:
        raise InputError(
            "Found no answers to this plan yet; expected both; press Compare answers first."
        )
    taken = snapshots.take(page, state, strip, settings)
    for card in cards:
        if card["taken"] == taken:
            gr.Info(f"This variant is kept already, as {card['letter']}.")
            return {}
    if len(cards) >= MOST:
        raise InputError(
            f"Found {MOST} kept variants; expected room for one more; remove one first."
        )
    correct = page.view(state, settings, truth=truth).correct
    card = {
        "letter": _free_letter(cards),
        "taken": taken,
        "strip": dict(strip),
        **_made_with(strip, settings),
        **_measured(comparison, correct),
    }
    return _shown([*cards, card])


def _free_letter(cards: Cards) -> str:
    used = {card["letter"] for card in cards}
    return next(letter for letter in LETTERS if letter not in used)


def _made_with(strip: Mapping, settings: Settings) -> dict[str, str]:
    """What chose the layers and what closes the gap, in words."""
    criterion, compensation = "own choice", "no compensation"
    if follows_ranking(strip):
        criterion = svl.CRITERIA[settings.criterion].title
    if settings.fits:
        compensation = svl.COMPENSATIONS[settings.compensation].title
    return {"criterion": criterion, "compensation": compensation}


def _measured(comparison: svl.Comparison, correct: str | None) -> dict[str, object]:
    """Both answers and what separates them. right: None where nobody knows."""
    pruned = comparison.pruned.text
    return {
        "full": comparison.full.text,
        "pruned": pruned,
        "kl": float(comparison.kl),
        "agreement": float(comparison.agreement),
        "prefill": comparison.speed_prefill,
        "decode": comparison.speed_decode,
        "saved": 1 - comparison.parameters_pruned / comparison.parameters_full,
        "right": None if correct is None else views.is_right(pruned, correct),
    }


def _shown(cards: Cards) -> Update:
    return {"cards": cards, "variants": cards_view(cards)}


def remove(page: Page, cards: Cards, event: gr.EventData) -> Update:
    return _shown([card for card in cards if card["letter"] != event.value])


def load(page: Page, cards: Cards, state: Mapping | None, event: gr.EventData) -> Update:
    """Puts a card's image, prompt, plan and settings back."""
    card = next((card for card in cards if card["letter"] == event.value), None)
    return snapshots.restore(page, card["taken"], state) if card else {}


# ---------------------------------------------------------------------------------- markup
def cards_view(cards: Cards) -> str:
    """The variants side by side; what is best among those of one question is said in words."""
    if not cards:
        return (
            '<p class="read">Nothing kept yet. Keep a plan once its answers are there, change the'
            " plan, keep that too, and read them side by side.</p>"
        )
    articles = [_card(card, _honours(card, cards), _buttons(card["letter"])) for card in cards]
    return f'<div class="variants">{"".join(articles)}</div>'


def section(cards: Cards) -> str:
    """The cards as a section of the report, empty without any."""
    if not cards:
        return ""
    articles = [_card(card, _honours(card, cards)) for card in cards]
    return (
        f'<section class="card"><h2>{HEADING}</h2>'
        f'<div class="variants">{"".join(articles)}</div></section>'
    )


def _buttons(letter: str) -> str:
    pick = f'data-pick="{letter}"'
    return (
        f'<div class="do"><button type="button" {pick} aria-label="Load variant {letter}">Load'
        f'</button><button type="button" data-event="remove" {pick}'
        f' aria-label="Remove variant {letter}">Remove</button></div>'
    )


def _honours(card: Mapping, cards: Cards) -> list[str]:
    """What a card is best in among those of the same question and model."""
    asked = card["taken"]["key"], card["taken"]["model"]
    rivals = [other for other in cards if (other["taken"]["key"], other["taken"]["model"]) == asked]
    if len(rivals) < 2:
        return []
    honours = []
    if card["kl"] == min(other["kl"] for other in rivals):
        honours.append("closest to the full model")
    if card["saved"] == max(other["saved"] for other in rivals):
        honours.append("smallest")
    return honours


def _card(card: Mapping, honours: Sequence[str], buttons: str = "") -> str:
    strip, letter = card["strip"], card["letter"]
    ids, drop = strip["ids"], strip["drop"]
    gone = [ids[layer] for layer in drop]
    said = f"drops {', '.join(map(str, gone))}" if gone else "drops nothing"
    how = "; ".join(views.esc(words) for words in (said, card["criterion"], card["compensation"]))
    spans = views.differing_words(card["full"], card["pruned"])[1]
    cells = views.layer_cells(len(ids), drop, strip["protected"])
    return (
        f'<article aria-label="Variant {letter}"><h4><b>{letter}</b><span>{len(gone)} of {len(ids)}'
        f' dropped</span></h4><div class="mini" role="img" aria-label="Variant {letter}'
        f' {said}">{cells}</div><p class="how">{how}</p><p'
        f' class="asked">{views.esc(card["taken"]["prompt"])}</p>'
        f"{views.answer_text(card['pruned'], spans)}"
        f'<p class="tags">{_tags(card, honours)}</p><dl>{_facts(card)}</dl>{buttons}</article>'
    )


def _tags(card: Mapping, honours: Sequence[str]) -> str:
    tags = [f'<span class="tag best">★ {honour}</span>' for honour in honours]
    if card["right"] is not None:
        tags.insert(0, f'<span class="tag">{"✓ right" if card["right"] else "✗ wrong"}</span>')
    return "".join(tags)


def _facts(card: Mapping) -> str:
    facts = [
        ("KL", f"{card['kl']:.3f}"),
        ("Agreement", f"{100 * card['agreement']:.0f} %"),
        ("First token", views.speed(card["prefill"])),
        ("Further tokens", views.speed(card["decode"])),
        ("Parameters", f"−{100 * card['saved']:.0f} %"),
    ]
    return "".join(
        f"<div><dt>{name}</dt><dd>{views.two_lines(value)}</dd></div>" for name, value in facts
    )
