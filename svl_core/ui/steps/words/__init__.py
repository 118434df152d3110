"""Step "words": when each word of an answer is decided, and where the models look while they write
it. Each kind of look is a file here.

Nothing is read before somebody sees this section; then the answers' words are, whenever there are
new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.service.words import FULL, PRUNED, SIDES, Word
from svl_core.service.workspace import READING
from svl_core.ui import headings, parts, views
from svl_core.ui.controls import ALONE
from svl_core.ui.drawing import Update, View, figure
from svl_core.ui.figure import ANSWERS, Figure, Measured, Shown, plot, view
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.words import dependence, heads, patches
from svl_core.ui.steps.words.chosen import chosen, pieces_of, words_of
from svl_core.ui.wiring import SETTINGS, Page, session_of
from svl_core.ui.work.ranking import LATEST

TITLE = "When is it decided, and where did the answer look?"
LEDE = (
    "Every layer's output can be read as if it were the last one's. So one sees from which layer on"
    " the answer stands, where the model looks while it writes a word, and what a drop changes."
)
WAIT = "Appears once both models have answered."
NOTE = "words-note"
PICKED = "words-picked"
WORDS_IN = ["state", "strip", PICKED, SETTINGS]
END = "(end)"  # the sign that ends an answer, as a word to choose
MOST_CELLS = 5_000  # of the figure of layers and words
WITHIN = (
    "Visual tokens leave the pruned model within its layers, so what these hand on has no common"
    " length, and its words are not read; keep all visual tokens, or let them leave at the input."
)
LENT = (
    "This model borrows its GPU for a question at a time, so its words are not read here; the"
    " bundled model's are."
)


# --------------------------------------------------------------------------------- figures
def draw_sight(shown: View) -> str:
    """What there is to read, by name; the browser asks for it when this section is in sight."""
    words = shown.words
    return "" if words is None else str(hash(words.key))


def draw_decided(shown: View) -> str:
    said = decided_in_words(shown)
    return f'<p class="verdict" role="status">{views.esc(said)}</p>' if said else ""


def decided_in_words(shown: View) -> str:
    """From which layer on the answer stands, in a sentence for each model; "" before it is read."""
    words = shown.words
    lenses = words.known_lenses() if words else None
    if words is None or lenses is None:
        return ""
    pieces = pieces_of(shown)[0]
    layer, place = _last_decided(lenses.full, pieces)
    if layer is None or place is None:
        return ""
    content = [piece for piece in pieces if piece.strip()]
    last = f", with “{pieces[place].strip()}” as its last word" if len(content) > 1 else ""
    sentences = [f"The full model has decided on its answer at layer {layer}{last}."]
    if lenses.pruned is not None:
        sentences.append(_of_pruned(lenses.pruned, pieces))
    gone = [shown.layer_ids[dropped] for dropped in shown.strip["drop"]]
    if gone:
        behind = sum(dropped > layer for dropped in gone)
        counted = behind or "None"
        lie = "lie" if behind > 1 else "lies"
        sentences.append(f"{counted} of the {len(gone)} dropped layers {lie} behind that.")
    return " ".join(sentences)


def _of_pruned(found: svl.Lens, pieces: Sequence[str]) -> str:
    """When the pruned model decides on the full model's answer, if it does."""
    layer, place = _last_decided(found, pieces)
    if layer is not None or place is None:
        return f"The pruned model has decided on the same words at layer {layer}."
    word = pieces[place].strip()
    instead = str(found.words[-1, place, 0]).strip()
    return f"The pruned model never does: in the place of “{word}” it ends on “{instead}”."


def _last_decided(
    found: svl.Lens,
    pieces: Sequence[str],
) -> tuple[int | None, int | None]:
    """The layer at which the last of the answer's words is decided, and the place of that word;
    None and the place of the first word that never is; None and None for an answer without words.
    """
    latest, at = None, None
    for place, piece in enumerate(pieces):
        layer = found.decided[place]
        if not piece.strip():
            continue
        if layer is None:
            return None, place
        if latest is None or layer > latest:
            latest, at = layer, place
    return latest, at


def draw_lens(shown: View) -> dict | None:
    words = shown.words
    lenses = words.known_lenses() if words else None
    if lenses is None:
        return None
    count = _columns(shown)
    full = _first(lenses.full, count)
    pruned = None if lenses.pruned is None else _first(lenses.pruned, count)
    cut = "" if count >= len(lenses.full.tokens) else f", the first {count} words"
    both = "" if pruned is None else " and of the pruned model to its right"
    alt = (
        f"What each of {len(shown.layer_ids)} layers of the full model{both} would say in the"
        f" place of each word of the full model's answer{cut}."
    )
    return figure(figures.lens(full, pruned), alt)


def _columns(shown: View) -> int:
    """How many words of the full model's answer are drawn."""
    return max(1, MOST_CELLS // (2 * len(shown.layer_ids)))


def _first(found: svl.Lens, count: int) -> svl.Lens:
    """The first words of an answer alone."""
    return replace(
        found,
        token_ids=found.token_ids[:count],
        tokens=found.tokens[:count],
        words=found.words[:, :count],
        shares=found.shares[:, :count],
        probability=found.probability[:, :count],
        rank=found.rank[:, :count],
        entropy=found.entropy[:, :count],
    )


def draw_chips(shown: View) -> str:
    """Both answers, word by word, as buttons."""
    word = chosen(shown)
    if word is None:
        return ""
    titles = {FULL: "Full model", PRUNED: "Pruned model"}
    sides = []
    for side, pieces in zip(
        SIDES,
        pieces_of(shown),
        strict=True,
    ):
        last = len(pieces) - 1
        buttons = [
            (
                str(Word(side, place)),
                piece.strip() or END,
                f"{titles[side]}: {piece.strip() or END}",
            )
            for place, piece in enumerate(pieces)
            if piece.strip() or place == last
        ]
        sides.append(
            views.choices(
                titles[side],
                buttons,
                str(word),
            )
        )
    return "".join(sides)


SIGHT = Shown(
    name="words-sight",
    make=parts.sight,
    draw=draw_sight,
    redrawn=(ANSWERS,),
)
DECIDED = view(
    "decided",
    draw=draw_decided,
    redrawn=(ANSWERS,),
)
LENS = plot(
    "lens",
    wait=WAIT,
    draw=draw_lens,
    redrawn=(ANSWERS,),
    heading="What each layer would say",
    reading=(
        "Each column is a word of the full model's answer, each row a layer, the first one at the"
        " foot. <strong>Bright</strong>: sure of the word below the column. <strong>Orange"
        " bar</strong>: from here up that word stays first. Rows of dropped layers are blank. Click"
        " a column to choose its word."
    ),
    why=(
        "The model's own last norm and head read what each layer hands on, in the place where the"
        " word is predicted (the logit lens). At the last layer that is what the model says. Both"
        " models are asked about the full model's words, so a bar that stands higher on the right"
        " is a word that the drop delays, and a missing bar one that it destroys. Early layers were"
        " never trained to be read so: a word that does not come first there may be there in"
        " another form."
    ),
)
CHIPS = view(
    "answer-words",
    wait=WAIT,
    draw=draw_chips,
    redrawn=(ANSWERS,),
)
SHOWN: tuple[Shown, ...] = (
    DECIDED,
    LENS,
    CHIPS,
    *heads.SHOWN,
    *dependence.SHOWN,
    *patches.SHOWN,
)


def drawn(shown: View) -> Update:
    """All that is known of the answers' words."""
    return {part.name: part.draw(shown) for part in SHOWN if part.draw}


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    headings.step(
        6,
        TITLE,
        LEDE,
    )
    page.show(SIGHT)
    page.control(
        "word",
        component=gr.State,
        moves=ALONE,
    )
    page.add(PICKED, gr.State(None))
    page.add(NOTE, parts.view(NOTE))
    page.show(DECIDED)
    page.show(LENS)
    with gr.Column(elem_id="choose-word"):
        headings.figure_head("Choose a word of either answer", CHOOSE)
        page.show(CHIPS)
    heads.layout(page)
    dependence.layout(page)
    patches.layout(page)


CHOOSE = (
    "What follows is about <strong>one word</strong>. Both models read the same words before it,"
    " those of the answer that it is chosen from."
)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    outputs = [NOTE, *(part.name for part in SHOWN)]
    options = {"trigger_mode": "always_last", **page.heavy}
    page.on(
        page[SIGHT.name].pick,
        read,
        WORDS_IN,
        outputs,
        **options,
    )
    choosing = ["word", CHIPS.name, "link"]
    for picked, handler in ((CHIPS, pick_word), (LENS, pick_column)):
        event = page.on(
            page[picked.name].pick,
            handler,
            WORDS_IN,
            choosing,
            **LATEST,
        )
        options = {"trigger_mode": "multiple", **page.heavy}
        about_word = [NOTE, *(part.name for part in (*heads.SHOWN, *dependence.SHOWN))]
        page.on(
            event.success,
            look,
            WORDS_IN,
            about_word,
            **options,
        )
    heads.wire(page)
    dependence.wire(page)
    patches.wire(page)


# -------------------------------------------------------------------------------- handlers
def read(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """New answers are in sight: what each layer says of them, where the models look while they
    write the chosen word, and, where that is quick, what the patches read as.
    """
    shown, words = words_of(page, state, strip, picked, settings)
    if shown is None or words is None:
        yield {}  # a generator without values would empty what it writes
        return
    if not page.workspace.backend.computes_here(state["model"]):
        yield {NOTE: views.note(LENT)}
        return
    if words.thins_within:
        yield {NOTE: views.note(WITHIN)}
        return

    def work(task) -> Update:
        lvlm = page.workspace.load_model(state["model"], task)
        words.lenses(task.part(0, 0.5))
        early = {part.name: part.draw(shown) for part in (DECIDED, LENS, CHIPS)}
        task.emit(early)
        words.looks(chosen(shown), task.part(0.5, 0.8))
        if words.reads_patches_unasked(lvlm):
            words.patches(task.part(0.8))
        rest = drawn(shown)
        return {NOTE: "", **{name: rest[name] for name in rest if name not in early}}

    yield from page.run(
        work,
        request,
        READING,
        undone={NOTE: ""},
        place=NOTE,
    )


def look(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """Another word was chosen: where both models look while they write it."""
    shown, words = words_of(page, state, strip, picked, settings)
    word = chosen(shown) if words else None
    if shown is None or words is None or word is None:
        yield {}
        return

    def work(task) -> Update:
        words.looks(word, task)
        about_word = (*heads.SHOWN, *dependence.SHOWN)
        return {NOTE: "", **{part.name: part.draw(shown) for part in about_word if part.draw}}

    yield from page.run(
        work,
        request,
        READING,
        undone={NOTE: ""},
        place=NOTE,
    )


def pick_word(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    event: gr.EventData,
    request: gr.Request | None = None,
) -> Update:
    """A word of an answer was clicked."""
    return _choose(
        page,
        state,
        strip,
        settings,
        Word.of(str(event.value)),
        request,
    )


def pick_column(
    page: Page,
    state: dict | None,
    strip: dict | None,
    picked: dict | None,
    settings: Settings,
    event: gr.EventData,
    request: gr.Request | None = None,
) -> Update:
    """A column of the figure was clicked: a word of the full model's answer, whichever model's
    column it is.
    """
    if not state or not strip:
        return {}
    shown = page.view(
        state,
        settings,
        strip,
    )
    if shown.words is None:
        return {}
    count = min(_columns(shown), len(shown.words.answers[0]))
    place = int(event.x) % (count + 1)  # one column is empty between both models
    return _choose(
        page,
        state,
        strip,
        settings,
        Word(FULL, place),
        request,
    )


def _choose(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    word: Word | None,
    request: gr.Request | None,
) -> Update:
    """Shows which word is chosen, at once; what is still read of another one ends."""
    if not state or not strip or word is None:
        return {}
    page.workspace.stop(
        session_of(request),
        READING,
        replaced=True,
    )
    shown = page.view(
        state,
        settings.changed(word=str(word)),
        strip,
    )
    link = page.shown["link"].draw
    assert link is not None, "the step that shares declares how its link is drawn"
    return {"word": str(word), CHIPS.name: draw_chips(shown), "link": link(shown)}


# -------------------------------------------------------------------------------- the report
def measured(shown: View) -> list[Measured]:
    """What was read of this plan's answers, figure by figure, for the report."""
    found = []
    for part in SHOWN:
        value = part.draw(shown) if isinstance(part, Figure) and part.draw else None
        if value:
            said = REPORTED.get(part.name, _nothing)(shown)
            found.append(
                Measured(
                    part,
                    _as_section(value),
                    said,
                )
            )
    return found


def _nothing(shown: View) -> str:
    return ""


REPORTED = {
    LENS.name: decided_in_words,
    heads.GRID.name: heads.said,
    patches.NAMES.name: patches.said,
}
"""What the report says of a figure beside how it is read."""


def _as_section(value: dict | str) -> dict:
    """A figure's value as the report takes it."""
    return {"markup": value} if isinstance(value, str) else value
