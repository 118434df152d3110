"""Step "answers": the plan and its controls, and what both models answer."""

from __future__ import annotations

import gradio as gr

import svl_core as svl
from svl_core.recipe import TARGETS
from svl_core.service import calibration
from svl_core.ui import headings, parts, photo, views
from svl_core.ui.controls import PLANS, RANKS, RANKS_ANEW
from svl_core.ui.drawing import View, visual_kept
from svl_core.ui.figure import ANSWERS, PLAN, Shown, card, view
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.steps.answers import difference, presets, variants
from svl_core.ui.wiring import Page
from svl_core.ui.work.answering import finished, sides_of
from svl_core.ui.work.ranking import wire_controls

TITLE = "Drop layers, read both answers"
LEDE = (
    "The pruned model shares every untouched weight with the full one. Both write their answers at"
    " the same time."
)
WAIT = "Appears with the answers."


# --------------------------------------------------------------------------------- figures
def sources_in_words(shown: View) -> str:
    """What ranks the layers and what compensation is fitted on, in a sentence."""
    settings, own_sets = shown.settings, shown.workspace.own_sets
    counts = {
        calibration.DEMO: settings.calibration_size,
        calibration.OWN: len(own_sets.get(settings.own, ())),
        calibration.THIS: 1,
    }
    return calibration.describe_sources(
        shown.sources,
        counts.get,
        settings.compensation if shown.strip["drop"] else "none",
        ranked_by(shown.strip) != "manual",
        shown.workspace.fit_holds(shown.analysis, shown.settings),
    )


def draw_calibration_note(shown: View) -> str:
    flatters = shown.fits and shown.workspace.fit_holds(shown.analysis, shown.settings)
    return (views.note if flatters else views.read)(sources_in_words(shown))


def _sides(shown: View) -> tuple[str, str]:
    return sides_of(len(shown.strip["ids"]), len(shown.strip["drop"]), shown.settings)


def draw_full(shown: View) -> str:
    if shown.comparison is None:
        return views.answer("Full model", f"{len(shown.strip['ids'])} layers", "")
    full, pruned = shown.comparison.full, shown.comparison.pruned
    spans = views.differing_words(full.text, pruned.text)[0]
    return finished("Full model", _sides(shown)[0], full, spans)


def draw_pruned(shown: View) -> str:
    if shown.comparison is None:
        layers = len(shown.strip["ids"]) - len(shown.strip["drop"])
        return views.answer("Pruned model", f"{layers} layers", "")
    full, pruned = shown.comparison.full, shown.comparison.pruned
    spans = views.differing_words(full.text, pruned.text)[1]
    return finished("Pruned model", _sides(shown)[1], pruned, spans)


def draw_metrics(shown: View) -> str:
    if shown.comparison is None:
        return ""
    return views.metrics(
        shown.comparison,
        len(shown.strip["drop"]),
        len(shown.strip["ids"]),
        shown.correct,
        visual_kept(shown.analysis, shown.settings),
        photo.is_outside(shown.workspace, shown.state),
        asked={
            "origin": shown.state.get("origin") or "",
            "prompt": shown.state["prompt"],
            "drop": ",".join(map(str, shown.strip["drop"])),
            "compensation": shown.settings.compensation,
        },
    )


def draw_odds(shown: View) -> str:
    comparison = shown.comparison
    if comparison is None:
        return ""
    return views.odds(comparison.full.tokens, *comparison.token_probabilities)


def _empty_answer(title: str):
    def make(name: str) -> gr.HTML:
        return parts.view(name, views.answer(title, "", ""), classes="card")

    return make


CALIBRATION_NOTE = view(
    "calibration-note",
    draw=draw_calibration_note,
    redrawn=(PLAN, ANSWERS),  # once both models answered, the samples of the fit have been read
)
FULL = Shown(
    name="answer-full", make=_empty_answer("Full model"), draw=draw_full, redrawn=(ANSWERS,)
)
PRUNED = Shown(
    name="answer-pruned", make=_empty_answer("Pruned model"), draw=draw_pruned, redrawn=(ANSWERS,)
)
METRICS = view("metrics", classes="card", wait=WAIT, draw=draw_metrics, redrawn=(ANSWERS,))
ODDS = card(
    "odds",
    wait=WAIT,
    draw=draw_odds,
    redrawn=(ANSWERS,),
    heading="Probability of each token",
    reading=(
        "The full model's answer, token by token: <strong>blue</strong> is its own probability,"
        " <strong>hatched orange</strong> the pruned model's. Frames mark tokens that lost more"
        " than half."
    ),
    why=(
        "Both models read the full model's answer up to each token and predict that token. KL"
        " divergence and agreement in the table are averages over these predictions."
    ),
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    headings.step(5, TITLE, LEDE)
    with gr.Column(elem_id="settings"):
        _lay_out_settings(page)
    page.show(CALIBRATION_NOTE)
    with gr.Row(elem_classes="pair"):
        with gr.Column():
            page.show(FULL)
        with gr.Column():
            page.show(PRUNED)
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            page.show(METRICS)
        with gr.Column(scale=5):
            page.show(ODDS)
    difference.layout(page)
    variants.layout(page)


def _lay_out_settings(page: Page) -> None:
    presets.layout(page)
    with gr.Row(elem_id="plan-controls"):
        _lay_out_plan(page)
    live = gr.Checkbox(
        page.workspace.models.first == "demo",
        label="Answer again whenever the plan changes",
        elem_id="live",
    )
    page.add("live", live)
    with gr.Accordion("Method settings", open=False, elem_id="method"):
        _lay_out_method(page)


def _lay_out_plan(page: Page) -> None:
    page.control(
        "criterion",
        choices=[
            (criterion.title, name)
            for name, criterion in svl.CRITERIA.items()
            if criterion.needs != "layers"
        ],
        label="Criterion",
        info="What ranks the layers",
        min_width=220,
        moves=RANKS_ANEW,
    )
    page.control(
        "compensation",
        choices=[(row.title, name) for name, row in svl.COMPENSATIONS.items()],
        label="Compensation",
        info="What closes the gap",
        min_width=220,
        moves=PLANS,
    )
    page.control(
        "rank",
        label="Rank k",
        info="Directions that SCP amplifies",
        minimum=1,
        maximum=64,
        min_width=180,
        moves=PLANS,
        bounded=_bound_rank,
    )
    page.control(
        "strength",
        label="Strength",
        info="1 = as published",
        maximum=2,
        step=0.1,
        min_width=180,
        moves=PLANS,
    )
    page.control(
        "visual_share",
        label="Visual tokens",
        info="Share for the pruned model",
        minimum=0.1,
        min_width=180,
        moves=PLANS,
    )
    page.control(
        "visual_tokens",
        choices=[(row.title, name) for name, row in svl.SELECTORS.items()],
        label="Which visual tokens",
        info="What chooses those that stay, or how layers skip them",
        min_width=220,
        moves=PLANS,
    )
    page.control(
        "visual_from",
        label="From layer",
        info="There they leave or are skipped; 0: they leave at the input",
        maximum=63,
        min_width=180,
        moves=PLANS,
        bounded=_bound_from,
    )


def _bound_from(shown: View) -> object:
    return gr.update(maximum=int(max(shown.layer_ids)))


def _bound_rank(shown: View) -> object:
    return gr.update(maximum=min(64, shown.analysis.trace.hidden_size))


def _lay_out_method(page: Page) -> None:
    with gr.Row():
        page.control(
            "top_p_mode",
            choices=[("share of the tokens", "fraction"), ("share of the score", "mass")],
            label="Top-p counts a",
            elem_id="mode",
            min_width=240,
            moves=RANKS,
        )
        page.control("text_self", label="Text attention", min_width=240, moves=RANKS)
        page.control(
            "max_new_tokens",
            label="Answer length (tokens)",
            elem_id="answer-length",
            maximum=256,
            min_width=240,
            moves=PLANS,
        )
    with gr.Row():
        page.control(
            "causal_correction",
            label="Correct for causal masking",
            info="Divides by the number of queries that can see a key; off as published",
            elem_id="causal",
            moves=RANKS,
        )
        page.control(
            "protect_ends",
            label="Protect the first and the last layer",
            elem_id="protect",
            moves=RANKS,
        )
        page.control(
            "targets",
            component=gr.Checkbox,
            label="Compensate the attention output too",
            elem_id="attention-target",
            shows=lambda targets: "attention" in targets,
            reads=lambda ticked: TARGETS if ticked else TARGETS[:1],
            moves=PLANS,
        )
    with gr.Row():
        _lay_out_readings(page)


def _lay_out_readings(page: Page) -> None:
    """How SCP's feature difference is read, of which the paper's figure leaves much open."""
    page.control(
        "gap_rows",
        choices=[("the tokens", "tokens"), ("each sample's mean", "samples")],
        label="SCP: rows of the feature difference",
        min_width=240,
        moves=PLANS,
    )
    page.control(
        "gap_span",
        choices=[("the dropped run", "run"), ("its first layer", "layer")],
        label="SCP: difference across",
        min_width=240,
        moves=PLANS,
    )
    page.control(
        "gap_centred",
        label="SCP: take the mean out of the difference",
        info="Off: the difference as it is",
        min_width=240,
        moves=PLANS,
    )


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    wire_controls(page)
    presets.wire(page)
    difference.wire(page)
    variants.wire(page)
