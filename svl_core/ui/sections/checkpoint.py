"""Page section: the pruned model as a plain transformers checkpoint to take home, where the
operator allows it.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core.errors import InputError
from svl_core.ui import views
from svl_core.ui.handlers import Desk, session_of
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import ranked_by
from svl_core.ui.wiring import QUICK, Wiring

CLICK = (
    "() => { setTimeout(() => (document.querySelector('#checkpoint-file a') ??"
    " document.querySelector('#checkpoint-file')).click(), 300) }"
)


def layout(c: dict, allowed: bool) -> None:
    c["checkpoint"] = gr.Button(
        "Download the pruned checkpoint (zip)", visible=allowed, elem_id="checkpoint"
    )
    c["packed"] = gr.State(None)
    c["checkpoint-file"] = gr.DownloadButton(
        "Checkpoint", visible="hidden", elem_id="checkpoint-file"
    )


def wire(w: Wiring) -> None:
    def writing(*values, request: gr.Request | None = None):
        yield from write(w.desk, *values, request=request)

    # by way of a state: the button loses a file that a generator hands it before its last item
    packed = w.on(
        w.halt(w.c["checkpoint"].click).then,
        writing,
        w.plan_in,
        ["status", "packed"],
        trigger_mode="multiple",
        **w.heavy,
    )
    w.on(
        packed.success,
        lambda path: {"checkpoint-file": path},
        [w.c["packed"]],
        ["checkpoint-file"],
        **QUICK,
    ).success(None, js=CLICK, show_progress="hidden", api_visibility="private")


def write(
    desk: Desk, state: dict | None, strip: dict | None, *settings, request: gr.Request | None = None
) -> Iterator[dict]:
    """The plan's model with its compensation as a zip: weights, processor and svl_plan.json.

    Raises a gradio error where that is not allowed.
    """
    now = Settings.of(settings)

    def work(task):
        desk.limits.check_export()
        if not state or not strip:
            raise InputError(
                "Found nothing analysed yet; expected an analysed image and prompt; press Analyze"
                " first."
            )
        name, analysis = state["model"], desk.analysis_of(state)
        lvlm = desk.load_model(name, task)
        if now.compensation != "none" and not svl.COMPENSATIONS[now.compensation].exportable:
            raise InputError(
                "Found a compensation that adds modules; expected a plain model, for a checkpoint"
                " cannot hold them; choose another compensation."
            )
        plan = replace(
            svl.manual_plan(strip["drop"], lvlm.num_layers, strip["protected"]),
            criterion=ranked_by(strip),
        )
        fit = (
            desk.samples(name, desk.sources(name, now).fit, analysis, now, task)
            if now.compensation != "none"
            else ()
        )
        folder = Path(get_upload_folder()) / secrets.token_hex(16)
        stem = f"{name.rstrip('/').split('/')[-1]}-svl-{len(plan.drop)}"
        need = 2.2 * sum(
            p.numel() * p.element_size() for p in lvlm.model.parameters()
        )  # the folder, and its zip beside it
        folder.mkdir(parents=True)
        try:
            if shutil.disk_usage(folder).free < need:
                raise InputError(
                    "Found too little room on the server's disk for a checkpoint of this size;"
                    f" expected {need / 1e9:.1f} GB; take the plan or the code and run it on your"
                    " own machine."
                )
            saved = desk.backend.save(name, plan, now, fit, folder / stem, task)
            task.emit({"status": views.status("Packing …")})
            made = Path(shutil.make_archive(str(folder / stem), "zip", folder, stem))
            shutil.rmtree(saved)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        desk.uploads.hold(session_of(request), made)
        return {"packed": str(made)}

    yield from desk._guard(work, request)
