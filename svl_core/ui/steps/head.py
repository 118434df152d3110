"""The head of the page: its title and the lesson; and what an address asks for."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from svl_core.ui import examples, parts, prepared, texts, views
from svl_core.ui.drawing import Update
from svl_core.ui.state import exports
from svl_core.ui.state.settings import ACCEPTED
from svl_core.ui.steps import lesson
from svl_core.ui.steps.ask import SCENE, scene_update
from svl_core.ui.wiring import QUICK, Page, session_of
from svl_core.ui.work.analysing import start_analysis

NOTE = "link-note"
MOST_REFUSED = 3  # sentences about an address that are shown


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    for name in ("status", "visit"):
        page.add(name, parts.view(name))
    page.add(NOTE, parts.view(NOTE))
    for name in (
        "state",
        "focus",
        "wanted",
    ):
        page.add(name, gr.State(None))
    with gr.Row(elem_id="head"):
        with gr.Column(scale=5, min_width=300):
            gr.HTML(
                views.header(texts.TITLE, texts.LEDE),
                elem_id="title",
                padding=False,
            )
        with gr.Column(scale=3, min_width=340):
            with gr.Row(elem_id="head-tools"):
                lesson.layout(page)
                parts.large_type("type")


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    outputs = [
        *SCENE,
        "model",
        "wanted",
        "visit",
        NOTE,
        *page.controls,
    ]
    opened = page.on(
        page.blocks.load,
        open_address,
        [],
        outputs,
        **QUICK,
    )
    start_analysis(page, opened.then)
    lesson.wire(page)


# -------------------------------------------------------------------------------- handlers
def open_address(
    page: Page,
    request: gr.Request | None = None,
) -> Update:
    """The state that the page's address asks for, if it asks for any; what cannot be had stays as
    the page begins, and one note says so.
    """
    query = str(
        getattr(
            request,
            "query_params",
            "",
        )
        or ""
    )
    asked, refused = exports.read_query(query), exports.refused_in(query)
    model = asked.get("model", prepared.MODEL)
    settings, out_of_bounds = _within_bounds(
        page,
        asked["settings"],
        model,
    )
    refused += out_of_bounds
    update: Update = dict(settings)
    update["visit"] = views.visit(session_of(request))
    if examples.from_origin(asked.get("image", "")):
        update |= scene_update(asked["image"])
    elif asked.get("image"):
        refused.append(
            str(
                exports.unknown(
                    "picture",
                    asked["image"],
                    PICTURES,
                )
            )
        )
    most = page.workspace.limits.prompt_chars
    if len(asked.get("prompt", "")) > most:
        refused.append(
            f"Found a prompt of {len(asked['prompt']):,} characters; expected at most {most:,};"
            " shorten it."
        )
    elif asked.get("prompt"):
        update["prompt"] = asked["prompt"]
    if asked.get("model") and _is_offered(page, asked["model"]):
        update["model"] = asked["model"]
    elif asked.get("model"):
        offered = [entry.id for entry in page.workspace.limits.offered()]
        refused.append(
            str(
                exports.unknown(
                    "model",
                    asked["model"],
                    offered,
                )
            )
        )
    if "drop" in asked:
        update["wanted"] = asked["drop"]
    if refused:
        update[NOTE] = views.note(REFUSED + " ".join(refused[:MOST_REFUSED]))
    return update


REFUSED = "This link asks for what the page does not have, so that is as usual. "
PICTURES = (
    "example:3",
    "draw:7",
    "compose:noto:0=cat",
)


def _within_bounds(
    page: Page,
    settings: Mapping[str, object],
    model: str,
) -> tuple[Update, list[str]]:
    """Those settings that the page's controls can show, and a sentence on each of the others."""
    shown: Update = {}
    refused = []
    for name, value in settings.items():
        if name not in page.controls:
            continue
        control = page.controls[name].component
        low, high = (
            getattr(
                control,
                "minimum",
                None,
            ),
            getattr(
                control,
                "maximum",
                None,
            ),
        )
        outside = isinstance(value, int | float) and None not in (low, high)
        outside = outside and not low <= value <= high
        if outside and name == "layer" and model != prepared.MODEL:
            shown[name] = gr.update(value=value, maximum=value)  # bounded once it is analysed
        elif outside:
            label = ACCEPTED[name].label.removeprefix("the ")
            refused.append(
                f"Found a {label} of {value:g}; expected {low:g} to {high:g}; change it."
            )
        else:
            shown[name] = value
    return shown, refused


def _is_offered(
    page: Page,
    model: str,
) -> bool:
    limits = page.workspace.limits
    return limits.any_model or model in {entry.id for entry in limits.offered()}
