"""Step "ask": the model, the image, the prompt, and scenes to begin with."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping

import gradio as gr

from svl_core.demo.scenes import PLACES
from svl_core.errors import InputError
from svl_core.service import photo_model
from svl_core.service.stores import picker
from svl_core.ui import examples, headings, parts, photo, texts, views
from svl_core.ui.drawing import Update, View
from svl_core.ui.errors import polite
from svl_core.ui.figure import ANALYSED, view
from svl_core.ui.steps import detail
from svl_core.ui.wiring import QUICK, Page, picked
from svl_core.ui.work.analysing import start_analysis
from svl_core.ui.work.ranking import LATEST

TITLE = "Ask about an image of your own"
LEDE = (
    "Bring an image, compose a scene, or change the question: one forward pass is all the figures"
    " below need."
)

SCENE = ["image", "prompt", "truth", "chips", "composer", "photo-note", "origin"]
"""What a scene writes."""
DRAWS = 2**32  # seeds of scenes drawn at random
STYLES = [("Noto", "noto"), ("Twemoji", "twemoji")]
GENERIC_QUESTIONS = (
    "describe the picture.",
    "what is in the center?",
    "how many objects are there?",
)

# Taking an image away raises `input` with the image that was there; a moment later the page asks
# for another, or does not.
SHOWN = (
    "async (image, ...others) => { await new Promise(done => setTimeout(done, 100)); return"
    " [document.querySelector('#image button[aria-dropeffect]:not(.hidden)') ? null : image,"
    " ...others]; }"
)
ANY_MODEL = "Or type a Hugging Face id or a local folder"


# --------------------------------------------------------------------------------- drawing
def draw_arithmetic(shown: View) -> str:
    """What the model computes in, and why."""
    arithmetic = shown.workspace.models.arithmetic(shown.state["model"])
    return views.read(f"Computes in {arithmetic}." if arithmetic else "")


ARITHMETIC = view("arithmetic", draw=draw_arithmetic, redrawn=(ANALYSED,))


# ---------------------------------------------------------------------------------- layout
def layout(page: Page) -> None:
    opening = examples.SHIPPED[0]
    scene, *_ = examples.from_origin(opening.origin)
    question, fitting = opening.question, examples.questions_on(scene)
    page.add("truth", gr.State(fitting | {question: opening.truth}))
    page.add("origin", gr.State(opening.origin))
    headings.step(1, TITLE, LEDE)
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=4):
            _lay_out_image(page, examples.items_of(scene))
        with gr.Column(scale=5):
            _lay_out_prompt(page, question, list(fitting))


def _lay_out_image(page: Page, items: dict[str, str]) -> None:
    image = gr.Image(
        examples.picture_of(examples.SHIPPED[0].origin),
        type="filepath",
        format="png",  # a scene is read as it was drawn, which prepared answers count on
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        label="Image",
        alt_text="The image you ask about",
        height=360,
        elem_id="image",
        elem_classes="card",
    )
    page.add("image", image)
    page.add("photo-note", parts.view("photo-note"))
    page.add("new-scene", gr.Button("Draw a new scene at random", elem_id="new-scene"))
    fold = "Compose a scene: pick objects and places"
    with gr.Accordion(fold, open=False, elem_id="compose"):
        composer = parts.composer("composer", examples.groups(), list(PLACES), items)
        page.add("composer", composer)
        style = gr.Radio(STYLES, value="noto", label="Drawing style", elem_id="style")
        page.add("style", style)


def _lay_out_model(page: Page) -> None:
    first, limits = page.workspace.models.first, page.workspace.limits
    model = gr.Dropdown(
        picker(first, limits),
        value=first,
        label="Model",
        info=ANY_MODEL if limits.any_model else None,
        allow_custom_value=limits.any_model,
        elem_id="model",
    )
    page.add("model", model)
    page.show(ARITHMETIC)


def _lay_out_prompt(page: Page, question: str, questions: list[str]) -> None:
    _lay_out_model(page)
    prompt = gr.Textbox(
        question,
        label="Prompt",
        placeholder="Ask about the image, for example: where is the cat?",
        lines=2,
        max_lines=6,
        elem_id="prompt",
        submit_btn=False,
    )
    page.add("prompt", prompt)
    page.add("chips", parts.view("chips", views.chips(questions)))
    detail.layout(page)
    page.add("analyze", gr.Button("Analyze", variant="primary", elem_id="analyze"))
    parts.stale("stale", texts.STALE)


# ---------------------------------------------------------------------------------- events
def wire(page: Page) -> None:
    for asked in (page["analyze"].click, page["prompt"].submit, page["model"].input):
        start_analysis(page, page.halt(asked).then)
    detail.wire(page)

    start_analysis(page, page.on(page["new-scene"].click, new_scene, [], SCENE, **QUICK).then)
    page.on(page["composer"].compose, compose, ["style"], SCENE, **LATEST)
    page.on(page["style"].input, restyle, ["style", "composer"], SCENE, **QUICK)
    arrived = page.on(
        page["image"].input,
        uploaded,
        ["image", "model", "prompt", "truth"],
        ["image", "photo-note", "truth", "chips", "origin", "prompt"],
        js=SHOWN,
        trigger_mode="multiple",
        **QUICK,
    )
    start_analysis(page, page.halt(arrived.success).then, picture=True)
    asked = page.on(page["photo-note"].pick, ask_photo_model, [], ["model"], **QUICK)
    start_analysis(page, page.halt(asked.then).then)
    question = page.on(page["chips"].pick, picked(pick_question, str), [], ["prompt"], **QUICK)
    start_analysis(page, question.then)


# -------------------------------------------------------------------------------- handlers
def scene_update(origin: str) -> Update:
    """A scene as the page's image, with questions that fit it and their answers."""
    scene, question, answer = examples.from_origin(origin)
    fitting = examples.questions_on(scene)
    board = {
        "groups": examples.groups(),
        "places": list(PLACES),
        "items": examples.items_of(scene),
    }
    update: Update = {
        "image": examples.render(scene),
        "truth": fitting | ({question: answer} if question else {}),
        "chips": views.chips(list(fitting)),
        "photo-note": "",
        "origin": origin,
        "composer": gr.update(value=board),
    }
    return update | {"prompt": question} if question else update


def photo_update(page: Page, model: str, prompt: str, truth: Mapping | None) -> Update:
    """What stands beside an image of the visitor's own; a question about the scene before gives way
    to a general one.
    """
    update: Update = {
        "photo-note": photo.note(page.workspace, model),
        "truth": {},
        "origin": "",
        "chips": views.chips(GENERIC_QUESTIONS),
    }
    return update | general_question(prompt, truth)


def general_question(prompt: str, truth: Mapping | None) -> Update:
    """Another prompt in the place of a question about a scene that is gone."""
    return {"prompt": GENERIC_QUESTIONS[0]} if prompt.strip() in (truth or {}) else {}


def ask_photo_model(page: Page) -> Update:
    """One tap beside a photo."""
    return {"model": photo_model.NAME}


def pick_question(page: Page, text: str) -> Update:
    return {"prompt": text}


def new_scene(page: Page) -> Update:
    return scene_update(f"draw:{secrets.randbelow(DRAWS)}")


def compose(page: Page, style: str, event: gr.EventData) -> Update:
    """The composer's places -> a scene."""
    return composed(event.items, style)


def restyle(page: Page, style: str, board: Mapping) -> Update:
    """The composer's places in another drawing style."""
    return composed(board["items"], style)


def composed(items: Mapping[str, str], style: str) -> Update:
    """The composer's places as a scene; an empty board leaves the page as it is."""
    if len(items) > len(PLACES) or not set(items) <= set(map(str, range(len(PLACES)))):
        raise InputError(
            f"Found places that a scene does not have; expected 0 to {len(PLACES) - 1}; pick the"
            " objects again."
        )
    chosen = {int(place): name for place, name in items.items() if name}
    if not chosen:
        return {}
    update = scene_update(examples.origin_of(chosen, style))
    update.pop("composer")
    return update


def uploaded(
    page: Page,
    path: str | None,
    model: str,
    prompt: str = "",
    truth: Mapping | None = None,
    request: gr.Request | None = None,
) -> Iterator[Update]:
    """A new image of the visitor's own: checked at once, and taken away where it is none; the
    bundled model's limits are said.

    prompt, truth: what was asked about the image before, and the right answers about it.
    """
    nothing: Update = {"photo-note": "", "chips": "", "truth": {}, "origin": ""}
    if not path:
        yield nothing | general_question(prompt, truth)
        return
    page.hold_upload(path, request)
    try:
        page.workspace.open_image(path)
    except InputError as error:
        yield nothing | {"image": None}
        raise polite(error) from error
    yield photo_update(page, model, prompt, truth)
