"""Part of step "layers": which half of a layer is redundant, and what the model answers without
the halves that would go in the place of whole layers.

Nothing is measured before somebody opens this fold; while it is open, whatever is new is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gradio as gr

import svl_core as svl
from svl_core import figures
from svl_core.analysis import half_scores
from svl_core.errors import InputError
from svl_core.recipe import HALVES
from svl_core.service import workspace as lanes
from svl_core.service.halves import Halves
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update, View, figure
from svl_core.ui.figure import PLAN, Measured, Shown, plot, view
from svl_core.ui.state import commands
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Page
from svl_core.ui.work.answering import NOT_ANALYSED, finished
from svl_core.ui.work.ranking import PLAN_IN

FOLD = "Which half of a layer is redundant?"
NOTE = "halves-note"
ASK = "Ask without these halves"
WAIT = "Appears once the halves are measured."
LENT = (
    "This model borrows its GPU for a question at a time, so its halves are not measured here; the"
    " bundled model's are."
)
NOTHING = "No layer is dropped, so no half would go in its place."
NAMES = dict(zip(HALVES, half_scores.HALVES, strict=True))


# --------------------------------------------------------------------------------- figures
def halves_of(shown: View) -> Halves | None:
    """The halves of what is on the page; None before there is anything."""
    if not shown.state or not shown.strip:
        return None
    return Halves(
        shown.workspace,
        shown.analysis,
        shown.ranked,
        shown.settings,
        len(shown.strip["drop"]),
    )


def draw_sight(shown: View) -> str:
    """What there is to measure, by name; the browser asks for it while the fold is open."""
    asked = shown.state["model"], shown.state["key"]
    settings = shown.settings
    follows = settings.recipe, settings.own, settings.max_new_tokens
    return str(hash((asked, len(shown.strip["drop"]), follows)))


def draw_halves(shown: View) -> dict | None:
    """The cosine of each half, with the halves marked that would go."""
    halves = halves_of(shown)
    scores = halves.known_scores() if halves else None
    if halves is None or scores is None:
        return None
    plan, ids = halves.known_plan(), scores.layer_ids
    marked = {"drop": (), "attention": (), "mlp": ()}
    if plan is not None:
        chosen = plan.drop, plan.attention, plan.mlp
        marked = {
            name: [ids[layer] for layer in layers]
            for name, layers in zip(marked, chosen, strict=True)
        }
    drawn = figures.sublayer_curves(
        scores,
        marked["drop"],
        attention=marked["attention"],
        mlp=marked["mlp"],
    )
    more = scores.redundant_half.count("attention")
    alt = (
        f"Redundancy of the attention and of the MLP of {len(ids)} layers, on"
        f" {scores.tokens} tokens; of {more} layers the attention is the more redundant half."
    )
    return figure(drawn, alt)


def draw_said(shown: View) -> str:
    """Which halves would go, and the command that prunes them; or why none is marked."""
    halves = halves_of(shown)
    if halves is None or halves.known_scores() is None:
        return ""
    plan = halves.known_plan()
    if plan is None:
        return views.read(_unranked(halves))
    sentence = views.read(in_words(plan, shown.layer_ids))
    if not plan.changes:
        return sentence
    command = commands.prune_halves(
        shown.state,
        plan.halves,
        shown.settings,
        shown.sources.rank,
    )
    return sentence + views.code_line("To prune these halves:", command)


def in_words(
    plan: svl.DropPlan,
    ids: Sequence[int],
) -> str:
    """What goes, in a sentence. ids: (L,) the layers' indices in the original model."""
    if not plan.changes:
        return NOTHING
    gone = []
    if plan.drop:
        gone.append(f"both halves of {_layers(plan.drop, ids)}")
    for half, layers in plan.skipped.items():
        if layers:
            gone.append(f"the {NAMES[half]} of {_layers(layers, ids)}")
    *others, last = gone
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"{svl.CRITERIA[plan.criterion].title} would skip {plan.halves} halves: {listed}."


def _layers(
    layers: Sequence[int],
    ids: Sequence[int],
) -> str:
    numbers = ", ".join(str(ids[layer]) for layer in layers)
    return f"layer {numbers}" if len(layers) == 1 else f"layers {numbers}"


def _unranked(halves: Halves) -> str:
    """Why no half is marked, in a sentence."""
    criterion, refusal = halves.criterion, halves.refusal()
    if refusal:
        return refusal
    if not criterion.serves_halves:
        serving = [row.title for row in svl.CRITERIA.values() if row.serves_halves]
        return (
            f"{criterion.title} measures whole layers only, so no half is marked; of the criteria"
            f" these measure halves too: {', '.join(serving)}."
        )
    samples = len(halves.ranked.samples)
    on_what = "this question" if samples == 1 else f"{samples} samples"
    return (
        f"{criterion.title} runs the model on {on_what} to rank halves, so none is marked before"
        f" you press “{ASK}”."
    )


def draw_answers(shown: View) -> str:
    """Both answers side by side, and what separates them."""
    halves = halves_of(shown)
    comparison = halves.known_comparison() if halves else None
    plan = halves.known_plan() if halves else None
    if comparison is None or plan is None:
        return ""
    full, pruned = comparison.full, comparison.pruned
    spans = views.differing_words(full.text, pruned.text)
    titles = sides_of(plan)
    answers = [
        finished(title, side, answer, marks)
        for (title, side), answer, marks in zip(
            titles,
            (full, pruned),
            spans,
            strict=True,
        )
    ]
    return _beside(answers) + views.halves_metrics(comparison, plan)


def sides_of(plan: svl.DropPlan) -> tuple[tuple[str, str], tuple[str, str]]:
    """The title of each model, and what it is in a few words."""
    every = len(HALVES) * plan.num_layers
    kept = every - plan.halves
    return (
        ("Full model", f"{every} halves"),
        ("Without these halves", f"{kept} halves, no compensation"),
    )


def _beside(answers: Sequence[str]) -> str:
    return f'<div class="beside">{"".join(answers)}</div>'


SIGHT = Shown(
    name="halves-sight",
    make=parts.sight,
    draw=draw_sight,
    redrawn=(PLAN,),
)
CURVES = plot(
    "halves",
    wait=WAIT,
    heading="Redundancy of every attention and MLP",
    reading=(
        "<strong>Higher is more redundant</strong>: what enters the half points the same way as"
        " what leaves it. Marks show which halves your criterion would skip, as many as the"
        " dropped layers have."
    ),
    why=(
        "A layer adds to the residual stream twice, and each time the cosine of what enters and"
        " what leaves is averaged over the tokens of the criterion. A cross on both lines is a"
        " layer that would go whole. A half that is skipped is not computed, and its layer stays."
    ),
)
SAID = view("halves-said")
ANSWERS = view("halves-answers")
DRAWN = (CURVES.name, SAID.name, ANSWERS.name)


def drawn(shown: View) -> Update:
    """All that is known of the halves."""
    return {
        CURVES.name: draw_halves(shown),
        SAID.name: draw_said(shown),
        ANSWERS.name: draw_answers(shown),
    }


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    with page.add("halves", gr.Accordion(FOLD, open=False, elem_id="halves")):
        with gr.Column(elem_id="section-halves"):  # what the script looks at
            page.show(SIGHT)
            page.add(NOTE, parts.view(NOTE))
            page.show(CURVES)
            page.show(SAID)
            with gr.Row(elem_id="halves-go"):
                page.add("halves-run", gr.Button(ASK, elem_id="halves-run"))
                page.add("halves-stop", gr.Button("Stop", elem_id="halves-stop"))
            page.show(ANSWERS)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    opened = page["halves"].expand
    page.on(opened, open_fold, PLAN_IN, [SIGHT.name], **QUICK)
    outputs = [NOTE, *DRAWN]
    newer = page.halt(page[SIGHT.name].pick, lanes.HALVES, replaced=True)
    page.on(
        newer.then,
        measure,
        PLAN_IN,
        outputs,
        trigger_mode="multiple",
        **page.heavy,
    )
    asked = page.halt(page["halves-run"].click, lanes.HALVES, replaced=True)
    page.on(
        asked.then,
        ask,
        PLAN_IN,
        outputs,
        trigger_mode="multiple",
        **page.heavy,
    )
    page.halt(page["halves-stop"].click, lanes.HALVES)


# -------------------------------------------------------------------------------- handlers
def open_fold(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
) -> Update:
    """The fold was opened: what there is to measure, which the script then asks for."""
    if not state or not strip:
        return {}
    return {SIGHT.name: draw_sight(page.view(state, settings, strip))}


def measure(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """The fold is open and the question or the plan is new: one pass over the question, and the
    ranking where it costs no other.
    """
    if not state or not strip:
        yield {}  # a generator without values would empty what it writes
        return
    if not page.workspace.backend.computes_here(state["model"]):
        yield {NOTE: views.note(LENT)}
        return
    shown = page.view(state, settings, strip)

    def work(task) -> Update:
        halves = halves_of(shown)
        assert halves is not None, "the page has an analysis"
        if halves.known_scores() is None:
            task.emit(drawn(shown))  # nothing of another question stays
        try:
            halves.scores(task)
            if halves.criterion.serves_halves and halves.ranks_at_once:
                halves.plan(task)
            return {NOTE: "", **drawn(shown)}
        except (
            InputError
        ) as refusal:  # layers that cannot be taken apart, tokens that are not there
            nothing: Update = {CURVES.name: None, SAID.name: "", ANSWERS.name: ""}
            return {NOTE: views.note(str(refusal)), **nothing}

    yield {NOTE: views.progress("Measuring the halves of layers …", 0.0)}
    yield from page.run(
        work,
        request,
        lanes.HALVES,
        undone={NOTE: ""},
        place=NOTE,
    )


def ask(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """Both models answer the question, one of them without the halves that are marked, ranked
    where they are not yet.
    """
    page.workspace.checked_settings(settings)

    def work(task) -> Update:
        if not state or not strip:
            raise InputError(NOT_ANALYSED)
        if not strip["drop"]:
            raise InputError(NOTHING_TO_ASK)
        shown = page.view(state, settings, strip)
        halves = halves_of(shown)
        assert halves is not None, "the page has an analysis"
        halves.scores(task)
        titles = sides_of(halves.plan(task))

        def show(answers: Sequence, live: Sequence[int]) -> None:
            task.emit({ANSWERS.name: _growing(titles, answers, live)})

        halves.compare(task, show)
        return {NOTE: "", **drawn(shown)}

    yield {NOTE: views.progress("Asking both models …", 0.0)}
    yield from page.run(
        work,
        request,
        lanes.HALVES,
        undone={NOTE: ""},
        place=NOTE,
    )


NOTHING_TO_ASK = (
    "Found no dropped layer; expected at least one, for as many halves go as these have; drop one"
    " on the strip."
)


def _growing(
    titles: Sequence[tuple[str, str]],
    answers: Sequence,
    live: Sequence[int],
) -> str:
    """Both answers so far. live: 0 and 1 for the models that still write."""
    shown = []
    for number, (title, side) in enumerate(titles):
        answer = answers[number]
        shown.append(
            views.answer(
                title,
                side,
                answer.text if answer else "",
                growing=number in live,
            )
        )
    return _beside(shown)


# -------------------------------------------------------------------------------- the report
def measured(shown: View) -> list[Measured]:
    """The figure for the report, where the halves of this question were measured."""
    if not shown.workspace.backend.computes_here(shown.state["model"]):
        return []
    value = draw_halves(shown)
    halves = halves_of(shown)
    if value is None or halves is None or halves.refusal():
        return []
    plan = halves.known_plan()
    said = _unranked(halves) if plan is None else in_words(plan, shown.layer_ids)
    return [Measured(CURVES, value, said)]
