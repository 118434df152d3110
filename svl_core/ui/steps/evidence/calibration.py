"""Fold of step "evidence": the samples that rank the layers and that compensation is fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from svl_core.comparison.calibration import DEFAULT_PROMPT
from svl_core.recipe import AUTO, OWN
from svl_core.service import calibration
from svl_core.ui import headings
from svl_core.ui.controls import ALONE, RANKS_ANEW
from svl_core.ui.drawing import Update, View
from svl_core.ui.wiring import QUICK, Page, session_of
from svl_core.ui.work.answering import then_live
from svl_core.ui.work.ranking import start_ranking

FOLD = "Calibration set: what ranks the layers, what compensation is fitted on"
HEADING = "What ranks, and what is fitted on"
READING = (
    "<strong>Fit and measurement should not share samples.</strong> The note under the plan says"
    " what this page does now. Your own files may include one .jsonl of image and prompt."
)
WHY = (
    "A ranking from one image is quick and fits that image; a ranking from many is the one to prune"
    " a model by. Compensation fitted on the very sample that is then measured looks better than it"
    " is: with a set of its own, the sample shown above is new to it."
)


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    page.control("own", component=gr.State, moves=ALONE)
    with gr.Accordion(FOLD, open=False, elem_id="calibration-section"):
        headings.figure_head(HEADING, READING, "calibration", WHY)
        with gr.Row():
            with gr.Column(scale=5):
                _lay_out_choice(page)
            with gr.Column(scale=5):
                _lay_out_files(page)


def _lay_out_choice(page: Page) -> None:
    page.control(
        "calibration",
        component=gr.Radio,
        choices=list(calibration.SOURCES),
        label="Rank and fit on",
        info=(
            "Automatic: this image ranks the layers; compensation is fitted on the bundled set"
            " where the model knows its scenes, else on this image"
        ),
        moves=RANKS_ANEW,
        bounded=_bound_sources,
    )
    page.control(
        "calibration_size",
        label="Scenes of the bundled set",
        minimum=2,
        maximum=min(page.workspace.limits.calibration_samples, calibration.MOST_SCENES),
        moves=RANKS_ANEW,
    )


def _bound_sources(shown: View) -> object:
    """The sources that the model can have; one that it cannot have gives way to "auto"."""
    chosen = shown.settings.calibration
    choices = calibration.choices(shown.state["model"], shown.workspace.scene_models)
    has_it = chosen in (shown.sources.rank, AUTO)
    return gr.update(choices=choices, value=chosen if has_it else AUTO)


def _lay_out_files(page: Page) -> None:
    files = gr.File(
        file_count="multiple",
        file_types=["image", ".jsonl"],
        label=f"Your files: up to {page.workspace.limits.calibration_samples} images",
        height=150,
        elem_id="calibration-files",
    )
    page.add("calibration-files", files)
    label = "Prompt for images without one"
    prompt = gr.Textbox(DEFAULT_PROMPT, label=label, elem_id="calibration-prompt")
    page.add("calibration-prompt", prompt)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    inputs, outputs = ["calibration-files", "calibration-prompt"], ["own", "calibration"]
    for brings in (page["calibration-files"].change, page["calibration-prompt"].submit):
        event = page.on(brings, bring, inputs, outputs, **QUICK)
        then_live(page, start_ranking(page, event.success))


# -------------------------------------------------------------------------------- handlers
def bring(
    page: Page,
    paths: Sequence[str] | None,
    prompt: str,
    request: gr.Request | None = None,
) -> Update:
    """The visitor's files became a set, or went away.

    Their images are opened once the model reads them. Raises InputError.
    """
    if not paths:
        return {"own": "", "calibration": AUTO}
    workspace = page.workspace
    workspace.limits.check("prompt_chars", len(prompt or ""), "characters in the prompt")
    pairs = calibration.read_files(paths, prompt or "")
    workspace.limits.check("calibration_samples", len(pairs), "calibration samples")
    digest = calibration.digest(pairs)
    workspace.own_sets[digest] = pairs
    workspace.uploads.hold(session_of(request), digest)
    for path in paths:
        page.hold_upload(path, request)
    return {"own": digest, "calibration": OWN}
