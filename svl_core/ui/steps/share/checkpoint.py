"""Fold of step "share": the pruned model as a plain transformers checkpoint to take home, where the
operator allows it.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core.errors import InputError
from svl_core.ui import parts, views
from svl_core.ui.drawing import Update
from svl_core.ui.state.exports import plan_recipe
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.wiring import QUICK, STATUS, Page, address_in, session_of
from svl_core.ui.work.answering import NOT_ANALYSED, plan_of
from svl_core.ui.work.ranking import PLAN_IN

DISK_FACTOR = 2.2  # the folder, and its zip beside it
NOTE = "checkpoint-note"
SAID = "{}.zip holds weights, processor, card and plan. Unzipped, plain transformers loads it:"


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    allowed = page.workspace.limits.export
    title = "Download the pruned checkpoint (zip)"
    page.add("checkpoint", gr.Button(title, visible=allowed, elem_id="checkpoint"))
    page.add("packed", gr.State(None))
    page.add_file("checkpoint", "Checkpoint")
    page.add(NOTE, parts.view(NOTE))


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    # by way of a state: the button loses a file that a generator hands it before its last item
    asked = page.halt(page["checkpoint"].click).then
    options = {"trigger_mode": "multiple", **page.heavy}
    packed = page.on(asked, write, PLAN_IN, [STATUS, "packed", NOTE], **options)
    handed = page.on(packed.success, hand_over, ["packed"], ["checkpoint-file"], **QUICK)
    page.download(handed, "checkpoint-file")


# -------------------------------------------------------------------------------- handlers
def hand_over(page: Page, path: str | None) -> Update:
    return {"checkpoint-file": path}


def write(
    page: Page,
    state: dict | None,
    strip: dict | None,
    settings: Settings,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """The plan's model with its compensation as a zip: weights, processor and svl_plan.json.

    Raises a gradio error where that is not allowed.
    """

    def work(task) -> Update:
        workspace = page.workspace
        workspace.limits.check_export()
        if not state or not strip:
            raise InputError(NOT_ANALYSED)
        model, analysis = state["model"], workspace.analysis_of(state)
        lvlm = workspace.load_model(model, task)
        _check_plain(settings)
        plan = plan_of(strip, lvlm)
        recipe = plan_recipe(strip, settings.at(state), workspace.sources(model, settings))
        fit = page.workspace.fit_samples(analysis, settings, task) if settings.fits else ()
        folder = Path(get_upload_folder()) / secrets.token_hex(16)
        stem = name_of(model, ranked_by(strip), len(plan.drop))
        folder.mkdir(parents=True)
        try:
            _check_disk(folder, lvlm)
            saved = workspace.backend.save(model, plan, recipe, fit, folder / stem, task)
            task.report(None, "Packing …")
            packed = Path(shutil.make_archive(str(folder / stem), "zip", folder, stem))
            shutil.rmtree(saved)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        workspace.uploads.ledger.came(packed, address_in(request))
        workspace.uploads.hold(session_of(request), packed)
        note = views.code_line(SAID.format(stem), loading(stem, lvlm.supports_images))
        return {"packed": str(packed), NOTE: note}

    yield from page.run(work, request)


def name_of(model: str, criterion: str, count: int) -> str:
    """What a checkpoint's folder is called: after the model, what ranked its layers ("manual" for
    one's own choice), and how many are gone.
    """
    last = model.rstrip("/").split("/")[-1]
    plain = re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"
    return f"{plain}-{criterion}-{count}"


def loading(folder: str, images: bool) -> str:
    """The line of Python that loads a checkpoint. images: whether the model takes them."""
    kind = "AutoModelForImageTextToText" if images else "AutoModelForCausalLM"
    return f'transformers.{kind}.from_pretrained("{folder}")'


def _check_plain(settings: Settings) -> None:
    """Raises InputError for a compensation that is no edit of weights."""
    if settings.fits and not svl.COMPENSATIONS[settings.compensation].exportable:
        raise InputError(
            "Found a compensation that adds modules; expected a plain model, for a checkpoint"
            " cannot hold them; choose another compensation."
        )


def _check_disk(folder: Path, lvlm: svl.LVLM) -> None:
    """Raises InputError where the checkpoint would not fit on the disk."""
    weights = sum(part.numel() * part.element_size() for part in lvlm.model.parameters())
    needed = DISK_FACTOR * weights
    if shutil.disk_usage(folder).free < needed:
        raise InputError(
            "Found too little room on the server's disk for a checkpoint of this size; expected"
            f" {needed / 1e9:.1f} GB; take the plan or the code and run it on your own machine."
        )
