"""Pruned variants kept as cards, to be compared A, B, C: plan, answer, fidelity and speed of each;
they live as long as the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gradio as gr

import svl_core as svl
from svl_core.errors import InputError
from svl_core.ui import headings, parts, views
from svl_core.ui.handlers import Desk
from svl_core.ui.sections import snapshots
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import follows_ranking
from svl_core.ui.wiring import QUICK, Wiring

MOST = 6  # cards a session keeps
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def layout(c: dict) -> None:
    c["kept"] = gr.State([])
    with gr.Column(elem_id="variants-section"):
        headings.figure_head("variants")
        with gr.Row(elem_id="variants-tools"):
            c["keep"] = gr.Button("Keep this variant", elem_id="keep", scale=0, min_width=200)
        c["variants"] = parts.view("variants", cards([]))


def wire(w: Wiring) -> None:
    c, desk = w.c, w.desk
    w.on(
        c["keep"].click,
        lambda kept, state, strip, truth, *settings: keep(
            desk, kept, state, strip, truth, Settings.of(settings)
        ),
        [c["kept"], *w.compare_in],
        ["kept", "variants"],
        **QUICK,
    )
    w.on(
        c["variants"].remove,
        lambda kept, event: remove(kept, event["value"]),
        [c["kept"]],
        ["kept", "variants"],
        trigger_mode="multiple",
        **QUICK,
    )
    w.both(
        w.halt(
            w.on(
                c["variants"].pick,
                lambda kept, state, event: load(desk, kept, state, event["value"]),
                [c["kept"], c["state"]],
                snapshots.RESTORED,
                **QUICK,
            ).then
        ).then
    )


def keep(
    desk: Desk,
    kept: Sequence[Mapping],
    state: Mapping | None,
    strip: Mapping | None,
    truth: Mapping | None,
    now: Settings,
) -> dict:
    """The plan whose answers the page shows, as one more card.

    Raises InputError where it has no answers yet, or all places are taken.
    """
    result = desk.compared(state, strip, now)
    if result is None:
        raise InputError(
            "Found no answers to this plan yet; expected both; press Compare answers first."
        )
    taken = snapshots.take(state, strip, now)
    for card in kept:
        if card["taken"] == taken:
            gr.Info(f"This variant is kept already, as {card['letter']}.")
            return {}
    if len(kept) >= MOST:
        raise InputError(
            f"Found {MOST} kept variants; expected room for one more; remove one first."
        )
    free = next(letter for letter in LETTERS if letter not in {card["letter"] for card in kept})
    correct = (truth or {}).get(state["prompt"].strip())
    card = {
        "letter": free,
        "taken": taken,
        "strip": dict(strip),
        "criterion": svl.CRITERIA[now.criterion].title if follows_ranking(strip) else "own choice",
        "compensation": (
            "no compensation"
            if now.compensation == "none"
            else svl.COMPENSATIONS[now.compensation].title
        ),
        "full": result.full.text,
        "pruned": result.pruned.text,
        "kl": float(result.kl),
        "agreement": float(result.agreement),
        "prefill": result.speedup_prefill,
        "decode": result.speedup_decode,
        "saved": 1 - result.parameters_pruned / result.parameters_full,
        "right": (
            None
            if correct is None
            else result.pruned.text.strip().lower().rstrip(".") == correct.lower()
        ),
    }
    new = [*kept, card]
    return {"kept": new, "variants": cards(new)}


def remove(kept: Sequence[Mapping], letter: str) -> dict:
    left = [card for card in kept if card["letter"] != letter]
    return {"kept": left, "variants": cards(left)}


def load(desk: Desk, kept: Sequence[Mapping], state: Mapping | None, letter: str) -> dict:
    """Puts a card's image, prompt, plan and settings back."""
    card = next((card for card in kept if card["letter"] == letter), None)
    return snapshots.restore(desk, card["taken"], state) if card else {}


# ---------------------------------------------------------------------- markup
def cards(kept: Sequence[Mapping]) -> str:
    """The kept variants side by side; what is best among those of one question is said in words."""
    if not kept:
        return (
            '<p class="read">Nothing kept yet. Keep a plan once its answers are there, change the'
            " plan, keep that too, and read them side by side.</p>"
        )
    return (
        "<div"
        f' class="variants">{"".join(_card(card, _honours(card, kept), _buttons(card["letter"])) for card in kept)}</div>'
    )


def section(kept: Sequence[Mapping]) -> str:
    """The cards as a section of the report, empty without any."""
    return (
        '<section class="card"><h2>Variants side by side</h2><div'
        f' class="variants">{"".join(_card(card, _honours(card, kept)) for card in kept)}</div></section>'
        if kept
        else ""
    )


def _buttons(letter: str) -> str:
    return (
        f'<div class="do"><button type="button" data-pick="{letter}" aria-label="Load variant'
        f' {letter}">Load</button><button type="button" data-event="remove" data-pick="{letter}"'
        f' aria-label="Remove variant {letter}">Remove</button></div>'
    )


def _honours(card: Mapping, kept: Sequence[Mapping]) -> list[str]:
    rivals = [
        other
        for other in kept
        if (other["taken"]["key"], other["taken"]["model"])
        == (card["taken"]["key"], card["taken"]["model"])
    ]
    if len(rivals) < 2:
        return []
    out = (
        ["closest to the full model"] if card["kl"] == min(other["kl"] for other in rivals) else []
    )
    return out + (["smallest"] if card["saved"] == max(other["saved"] for other in rivals) else [])


def _card(card: Mapping, honours: Sequence[str], buttons: str = "") -> str:
    strip, letter = card["strip"], card["letter"]
    ids, gone = strip["ids"], [strip["ids"][k] for k in strip["drop"]]
    cells = "".join(
        f'<i class="{"o" if k in strip["drop"] else "f" if k in strip["protected"] else ""}"></i>'
        for k in range(len(ids))
    )
    said = f"drops {', '.join(map(str, gone))}" if gone else "drops nothing"
    mark = (
        ""
        if card["right"] is None
        else f'<span class="tag">{"✓ right" if card["right"] else "✗ wrong"}</span>'
    )
    tags = mark + "".join(f'<span class="tag best">★ {text}</span>' for text in honours)
    facts = [
        ("KL", f"{card['kl']:.3f}"),
        ("Agreement", f"{100 * card['agreement']:.0f} %"),
        ("First token", views.times(card["prefill"])),
        ("Further tokens", views.times(card["decode"])),
        ("Parameters", f"−{100 * card['saved']:.0f} %"),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return (
        f'<article aria-label="Variant {letter}"><h4><b>{letter}</b><span>{len(gone)} of {len(ids)}'
        f' dropped</span></h4><div class="mini" role="img" aria-label="Variant {letter}'
        f' {said}">{cells}</div><p class="how">{views.esc(said)}; {views.esc(card["criterion"])};'
        f" {views.esc(card['compensation'])}</p><p"
        f' class="asked">{views.esc(card["taken"]["prompt"])}</p>{views.answer_text(card["pruned"], views.differing_words(card["full"], card["pruned"])[1])}<p'
        f' class="tags">{tags}</p><dl>{rows}</dl>{buttons}</article>'
    )
