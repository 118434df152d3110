"""Page section: the samples that rank the layers and that compensation is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from svl_core.comparison.calibration import DEFAULT_PROMPT
from svl_core.recipe import AUTO, OWN
from svl_core.service import calibration
from svl_core.ui import headings
from svl_core.ui.handlers import Desk, session_of
from svl_core.ui.state.settings import Settings
from svl_core.ui.wiring import QUICK, Wiring


def layout(c: dict, most: int) -> None:
    """most: samples of a set, at most."""
    default = Settings()
    c["own"] = gr.State("")
    with gr.Accordion(
        "Calibration set: what ranks the layers, what compensation is fitted on",
        open=False,
        elem_id="calibration-section",
    ):
        headings.figure_head("calibration")
        with gr.Row():
            with gr.Column(scale=5):
                c["calibration"] = gr.Radio(
                    list(calibration.SOURCES),
                    value=default.calibration,
                    label="Rank and fit on",
                    info=(
                        "Automatic: this image ranks the layers; compensation is fitted on the"
                        " bundled set where the model knows its scenes, else on this image"
                    ),
                    elem_id="calibration",
                )
                c["calibration_size"] = gr.Slider(
                    2,
                    min(most, calibration.MOST_SCENES),
                    default.calibration_size,
                    step=1,
                    label="Scenes of the bundled set",
                    elem_id="calibration-size",
                )
            with gr.Column(scale=5):
                c["calibration-files"] = gr.File(
                    file_count="multiple",
                    file_types=["image", ".jsonl"],
                    label=f"Your files: up to {most} images",
                    height=150,
                    elem_id="calibration-files",
                )
                c["calibration-prompt"] = gr.Textbox(
                    DEFAULT_PROMPT,
                    label="Prompt for images without one",
                    elem_id="calibration-prompt",
                )
        headings.why("calibration")


def wire(w: Wiring) -> None:
    c, desk = w.c, w.desk
    w.then_live(w.rank(w.halt_ranking(c["calibration"].input).then))
    w.then_live(w.rank(w.halt_ranking(c["bridge"].settle_calibration_size).then))
    w.then_live(
        w.rank(
            w.on(
                c["calibration-files"].change,
                lambda paths, prompt, request: brought(desk, paths, prompt, request),
                [c["calibration-files"], c["calibration-prompt"]],
                ["own", "calibration"],
                **QUICK,
            ).success
        )
    )
    w.then_live(
        w.rank(
            w.on(
                c["calibration-prompt"].submit,
                lambda paths, prompt, request: brought(desk, paths, prompt, request),
                [c["calibration-files"], c["calibration-prompt"]],
                ["own", "calibration"],
                **QUICK,
            ).success
        )
    )


def brought(
    desk: Desk, paths: Sequence[str] | None, prompt: str, request: gr.Request | None
) -> dict:
    """The visitor's files became a set, or went away.

    Their images are opened once the model reads them. Raises InputError.
    """
    if not paths:
        return {"own": "", "calibration": AUTO}
    desk.limits.check("prompt_chars", len(prompt or ""), "characters in the prompt")
    pairs = calibration.read_files(paths, prompt or "")
    desk.limits.check("calibration_samples", len(pairs), "calibration samples")
    mark = calibration.digest(pairs)
    desk.own_sets[mark] = pairs
    desk.uploads.hold(
        session_of(request), mark, *(Path(path) for path in paths if desk.uploads.brought(path))
    )
    return {"own": mark, "calibration": OWN}
