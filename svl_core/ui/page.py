"""The page: layout and wiring.

What happens on an event is in `handlers`; how things look is in `theme` and `static`.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version

import gradio as gr
from gradio.utils import get_upload_folder
from packaging.requirements import Requirement

import svl_core as svl
from svl_core.demo.scenes import PLACES
from svl_core.service import health
from svl_core.service.deployment import models_for
from svl_core.service.limits import Limits, on_zero_gpu
from svl_core.service.start import libraries
from svl_core.service.stores import Models, picker
from svl_core.service.visits import Visits
from svl_core.ui import api, examples, headings, parts, texts, views
from svl_core.ui.gradio_patches import (
    environment,
    inputs,
    sessions,
    skipped_outputs,
    undecoded_images,
    upload_sets,
)
from svl_core.ui.handlers import Desk, session_of
from svl_core.ui.sections import (
    ablations,
    calibration,
    checkpoint,
    difference,
    lesson,
    presets,
    stability,
    sweeps,
    variants,
)
from svl_core.ui.state.settings import Settings
from svl_core.ui.theme import theme
from svl_core.ui.wiring import CONTROLS, QUICK, Wiring, picked

# Taking an image away raises `input` with the image that was there; a moment later the page asks
# for another, or does not.
SHOWN = (
    "async (image, model) => { await new Promise(done => setTimeout(done, 100)); return"
    " [document.querySelector('#image button[aria-dropeffect]:not(.hidden)') ? null : image,"
    " model]; }"
)
# The strip follows the slider in the browser, without a round trip.
FROM_RANKING = "(count, strip) => strip ? svl.dropping(strip, svl.chosen(strip, count)) : strip"


def launch_options(limits: Limits = Limits()) -> dict:
    """What `launch` needs for this page: its look, `/health`, the endpoints as MCP tools where that
    extra is installed, and nothing fetched from elsewhere.
    """
    return {
        "theme": theme(),
        "css": parts.css(),
        "head": parts.head(health.STARTED),
        "footer_links": ["api"],
        "mcp_server": _speaks_mcp(),
        "run_history": False,
        "ssr_mode": False,
        "max_file_size": limits.image_bytes,
        "state_session_capacity": 200,
        "show_error": limits.details,
        "app_kwargs": health.app_options(limits, get_upload_folder, _served),
        "_frontend": False,  # else gradio gives up where the page answers itself too slowly
    }


def _served(request):
    """The workspace and the visits of the page that a request is for."""
    page = request.app.blocks
    return page.workspace, page.visits


def _speaks_mcp() -> bool:
    """Whether gradio's extra `mcp` is installed, in a version that this gradio works with."""
    wanted = next(
        (found for found in map(Requirement, requires("gradio") or ()) if found.name == "mcp"), None
    )
    try:
        return wanted is not None and wanted.specifier.contains(version("mcp"))
    except PackageNotFoundError:
        return False


def build(
    model: object = "demo", *, world: bool | None = None, limits: Limits = Limits()
) -> gr.Blocks:
    """The page as gr.Blocks, its first model loading in the background.

    model: "demo", a Hub id, a local folder, or a ready LVLM. world: whether that model knows the
    bundled scenes, so that compensation is fitted on them (default: only "demo" does). limits: what
    a visitor may ask for.
    """
    if not isinstance(model, str) or on_zero_gpu():
        libraries()
    environment.apply()
    undecoded_images.apply()
    models = models_for(model, limits)
    knows = model == "demo" if world is None else world
    desk = Desk(models, frozenset({"demo", models.first} if knows else {"demo"}), limits)
    with gr.Blocks(
        title=texts.TITLE,
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(min(limits.keep_s, 600), limits.keep_s),
    ) as page:
        c = _layout(models, limits)
        _wire(page, c, desk)
        api.publish(desk)

        def end(session: str) -> None:
            desk.leave(session)
            sessions.forget(page, session)

        page.visits = Visits(end, partial(sessions.keep_open, page), limits.away_s)

        def dropped(request: gr.Request) -> None:
            desk.stop_all(request)
            page.visits.dropped(session_of(request))

        page.unload(dropped)
    page.desk, page.workspace = desk, desk.workspace
    desk.uploads.brought = partial(upload_sets.is_upload, page, c["image"])
    desk.uploads.deleted = upload_sets.apply(page, desk.uploads.arrived)
    inputs.apply(page)
    page.queue(max_size=limits.queue, default_concurrency_limit=8)
    sessions.apply(page)
    skipped_outputs.apply(page)
    models.request(
        models.first
    )  # last: its thread imports torch and transformers, which nothing above needs
    return page


# ---------------------------------------------------------------------- layout
def _layout(models: Models, limits: Limits) -> dict:
    """All components by their stable ids; the settings' controls under their field names too."""
    c: dict = {}
    default = Settings()
    scene, question, answer = examples.example(0)
    fitting = examples.questions_on(scene)
    names = picker(models.first, limits)
    c["status"], c["visit"] = parts.view("status"), parts.view("visit")
    c["state"], c["truth"], c["focus"] = (
        gr.State(None),
        gr.State(fitting | {question: answer}),
        gr.State(None),
    )
    c["origin"], c["wanted"] = gr.State("example:0"), gr.State(None)
    with gr.Row(elem_id="head"):
        with gr.Column(scale=5, min_width=300):
            gr.HTML(views.header(texts.TITLE, texts.LEDE), elem_id="title", padding=False)
            with gr.Row(elem_id="head-tools"):
                lesson.layout(c)
                parts.large_type("type")
        with gr.Column(scale=3, min_width=280):
            c["model"] = gr.Dropdown(
                names,
                value=models.first,
                label="Model",
                info="Or type a Hugging Face id or a local folder" if limits.any_model else None,
                allow_custom_value=limits.any_model,
                elem_id="model",
            )

    headings.step(1, "ask")
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=4):
            c["image"] = gr.Image(
                examples.example_image(0),
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard", "webcam"],
                label="Image",
                alt_text="The image you ask about",
                height=360,
                elem_id="image",
                elem_classes="card",
            )
            c["photo-note"] = parts.view("photo-note")
            c["new-scene"] = gr.Button("Draw a new scene at random", elem_id="new-scene")
            with gr.Accordion(
                "Compose a scene: pick objects and places", open=False, elem_id="compose"
            ):
                c["composer"] = parts.composer(
                    "composer", examples.groups(), list(PLACES), examples.items_of(scene)
                )
                c["style"] = gr.Radio(
                    [("Noto", "noto"), ("Twemoji", "twemoji")],
                    value="noto",
                    label="Drawing style",
                    elem_id="style",
                )
        with gr.Column(scale=5):
            c["prompt"] = gr.Textbox(
                question,
                label="Prompt",
                placeholder="Ask about the image, for example: where is the cat?",
                lines=2,
                max_lines=6,
                elem_id="prompt",
                submit_btn=False,
            )
            c["chips"] = parts.view("chips", views.chips(list(fitting)))
            c["analyze"] = gr.Button("Analyze", variant="primary", elem_id="analyze")
            parts.stale("stale", texts.STALE)
            shown = [
                (
                    views.data_url(examples.example_image(k).resize((160, 160))),
                    examples.example(k)[1],
                )
                for k in range(len(examples.EXAMPLES))
            ]
            c["examples"] = parts.view("examples", views.examples(shown))

    headings.step(2, "look")
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=4):
            headings.figure_head("overlay")
            c["overlay"] = parts.picture("overlay")
            c["scale"] = parts.view("scale")
            c["overlay-note"] = parts.view("overlay-note")
            headings.why("overlay")
        with gr.Column(scale=5):
            headings.figure_head("tokens")
            c["tokens"] = parts.view("tokens", classes="card", wait="Appears after the analysis.")
            headings.why("tokens")
            with gr.Group():
                c["all_layers"] = gr.Checkbox(
                    default.all_layers, label="All layers (average)", elem_id="all-layers"
                )
                c["layer"] = gr.Slider(
                    0,
                    15,
                    default.layer,
                    step=1,
                    label="Layer",
                    info="Moving it shows one layer alone, all layers on one colour scale",
                    elem_id="layer",
                )
                c["top_p"] = gr.Slider(
                    0.05,
                    1,
                    default.top_p,
                    step=0.05,
                    label="Top-p",
                    info="Share of the patches, and of the words, that count",
                    elem_id="top-p",
                )
                c["opacity"] = gr.Slider(
                    0, 1, default.opacity, step=0.05, label="Overlay opacity", elem_id="opacity"
                )
            c["token-curve"] = parts.plot(
                "token-curve", "Click a patch or a token for its importance layer by layer."
            )

    headings.step(3, "layers")
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            headings.plot("redundancy", c)
        with gr.Column(scale=4):
            headings.plot("similarity", c)
            c["token_set"] = gr.Dropdown(
                list(texts.TOKEN_SETS),
                value=default.token_set,
                label="Tokens of the heatmaps",
                elem_id="token-set",
            )
    with gr.Accordion(
        "Choose otherwise: whole blocks, other criteria", open=False, elem_id="choose"
    ) as c["choose"]:
        with gr.Row(elem_classes="pair"):
            with gr.Column(scale=5):
                headings.plot("blocks", c)
            with gr.Column(scale=5):
                headings.figure_head("criteria")
                c["criteria"] = parts.view(
                    "criteria", classes="card", wait="Appears after the analysis."
                )
                headings.why("criteria")

    headings.step(4, "gap")
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            headings.plot("gap", c)
        with gr.Column(scale=4):
            headings.plot("pca", c, "Appears once the image is analyzed and a layer is dropped.")

    headings.step(5, "answers")
    with gr.Column(elem_id="dock"):
        with gr.Row():
            with gr.Column(scale=3, min_width=220):
                c["drop"] = gr.Slider(
                    0, 14, 0, step=1, label="Layers to drop", elem_id="drop", interactive=True
                )
            with gr.Column(scale=8, min_width=300):
                c["strip"] = parts.strip("strip")
                c["plan-line"] = parts.view("plan-line")
            with gr.Column(scale=3, min_width=200):
                with gr.Row(elem_classes="go"):
                    c["run"] = gr.Button(
                        "Compare answers", variant="primary", elem_id="run", min_width=0
                    )
                    c["stop"] = gr.Button("Stop", elem_id="stop", min_width=0)
        c["glance"] = parts.view("glance")
    presets.layout(c)
    with gr.Row(elem_id="plan-controls"):
        c["criterion"] = gr.Dropdown(
            [(each.title, name) for name, each in svl.CRITERIA.items() if each.needs != "layers"],
            value=default.criterion,
            label="Criterion",
            info="What ranks the layers",
            elem_id="criterion",
            min_width=220,
        )
        c["compensation"] = gr.Dropdown(
            [(each.title, name) for name, each in svl.COMPENSATIONS.items()],
            value=default.compensation,
            label="Compensation",
            info="What closes the gap",
            elem_id="compensation",
            min_width=220,
        )
        c["rank"] = gr.Slider(
            1,
            64,
            default.rank,
            step=1,
            label="Rank k",
            info="Directions that SCP amplifies",
            elem_id="rank",
            min_width=180,
        )
        c["strength"] = gr.Slider(
            0,
            2,
            default.strength,
            step=0.1,
            label="Strength",
            info="1 = as published",
            elem_id="strength",
            min_width=180,
        )
        c["visual_share"] = gr.Slider(
            0.1,
            1,
            default.visual_share,
            step=0.05,
            label="Visual tokens",
            info="Share for the pruned model",
            elem_id="visual-share",
            min_width=180,
        )
    c["live"] = gr.Checkbox(
        models.first == "demo" or not isinstance(models.first, str),
        label="Answer again whenever the plan changes",
        elem_id="live",
    )
    with gr.Accordion("Method settings", open=False, elem_id="method"):
        with gr.Row():
            c["mode"] = gr.Radio(
                [("share of the tokens", "fraction"), ("share of the score", "mass")],
                value=default.mode,
                label="Top-p counts a",
                elem_id="mode",
                min_width=240,
            )
            c["text_self"] = gr.Radio(
                [("received", "received"), ("given", "given")],
                value=default.text_self,
                label="Text attention",
                elem_id="text-self",
                min_width=240,
            )
            c["max_new_tokens"] = gr.Slider(
                1,
                256,
                default.max_new_tokens,
                step=1,
                label="Answer length (tokens)",
                elem_id="answer-length",
                min_width=240,
            )
        with gr.Row():
            c["causal_correction"] = gr.Checkbox(
                default.causal_correction,
                label="Correct for causal masking",
                info="Divides by the number of queries that can see a key; off as published",
                elem_id="causal",
            )
            c["protect_ends"] = gr.Checkbox(
                default.protect_ends,
                label="Protect the first and the last layer",
                elem_id="protect",
            )
            c["attention_target"] = gr.Checkbox(
                default.attention_target,
                label="Compensate the attention output too",
                elem_id="attention-target",
            )
    c["calibration-note"] = parts.view("calibration-note")
    with gr.Row(elem_classes="pair"):
        with gr.Column():
            c["answer-full"] = parts.view(
                "answer-full", views.answer("Full model", "", ""), classes="card"
            )
        with gr.Column():
            c["answer-pruned"] = parts.view(
                "answer-pruned", views.answer("Pruned model", "", ""), classes="card"
            )
    with gr.Row(elem_classes="pair"):
        with gr.Column(scale=5):
            c["metrics"] = parts.view("metrics", classes="card", wait="Appears with the answers.")
        with gr.Column(scale=5):
            headings.figure_head("odds")
            c["odds"] = parts.view("odds", classes="card", wait="Appears with the answers.")
            headings.why("odds")
    difference.layout(c)
    variants.layout(c)

    headings.step(6, "evidence")
    calibration.layout(c, limits.calibration_samples)
    stability.layout(c)
    sweeps.layout(c, limits.calibration_samples)
    ablations.layout(c)

    headings.step(7, "share")
    c["link"] = parts.link("link")
    with gr.Row(elem_id="take"):
        c["report"] = gr.Button("Download the report (HTML)", elem_id="report")
        c["report-file"] = gr.DownloadButton("Report", visible="hidden", elem_id="report-file")
        checkpoint.layout(c, limits.export)
    with gr.Accordion("Code and plan", open=False, elem_id="code"):
        c["code-python"] = gr.Code(
            label="Python",
            language="python",
            elem_id="code-python",
            interactive=False,
            wrap_lines=True,
        )
        c["code-plan"] = gr.Code(
            label="Plan (JSON), for svl prune --from plan.json",
            language="json",
            elem_id="code-plan",
            interactive=False,
            wrap_lines=True,
        )
        c["code-mergekit"] = gr.Code(
            label="mergekit (YAML)",
            language="yaml",
            elem_id="code-mergekit",
            interactive=False,
            wrap_lines=True,
        )
    with gr.Accordion("Glossary", open=False, elem_id="glossary"):
        gr.HTML(views.glossary(texts.GLOSSARY), padding=False)
    c["bridge"] = parts.bridge(
        ["drop", "top-p", "rank", "strength", "answer-length", "visual-share", "calibration-size"]
    )
    return c


# ---------------------------------------------------------------------- wiring
def _wire(page: gr.Blocks, c: dict, desk: Desk) -> None:
    w = Wiring(c, desk)
    on, both, halt, then_live = w.on, w.both, w.halt, w.then_live
    scene = ["image", "prompt", "truth", "chips", "composer", "photo-note", "origin"]
    both(
        on(page.load, desk.open, [], [*scene, "model", "wanted", "visit", *CONTROLS], **QUICK).then
    )
    both(halt(c["analyze"].click).then)
    both(halt(c["prompt"].submit).then)
    both(halt(c["model"].input).then)
    w.compare(halt(c["run"].click).then)
    on(c["stop"].click, desk.stop_all, [], ["status"], queue=False)

    # the image
    both(on(c["examples"].pick, picked(desk.pick_example, int), [], scene, **QUICK).then)
    both(on(c["new-scene"].click, desk.new_scene, [], scene, **QUICK).then)
    on(
        c["composer"].compose,
        lambda style, event: desk.compose(event["items"], style),
        [c["style"]],
        scene,
        trigger_mode="always_last",
        **QUICK,
    )
    on(
        c["style"].input,
        lambda style, value: desk.compose(value["items"], style),
        [c["style"], c["composer"]],
        scene,
        **QUICK,
    )
    on(
        c["image"].input,
        desk.uploaded,
        [c["image"], c["model"]],
        ["image", "photo-note", "truth", "chips", "origin"],
        js=SHOWN,
        trigger_mode="multiple",
        **QUICK,
    )
    both(
        on(
            c["chips"].pick, picked(lambda text: {"prompt": text}, str), [], ["prompt"], **QUICK
        ).then
    )

    # importance
    look_in, look = w.look_in, w.look
    on(
        c["layer"].input,
        desk.look_at_layer,
        look_in,
        [*look, "all_layers"],
        trigger_mode="always_last",
        **QUICK,
    )
    for moved in (c["all_layers"].input, c["opacity"].input):
        on(moved, desk.look, look_in, look, trigger_mode="always_last", **QUICK)
    on(
        on(
            c["overlay"].pick,
            lambda state, event: {"focus": desk.pick_patch(state, event)},
            [c["state"]],
            ["focus"],
            trigger_mode="always_last",
            **QUICK,
        ).then,
        desk.look,
        look_in,
        look,
        **QUICK,
    )
    on(
        on(
            c["tokens"].pick,
            picked(lambda k: {"focus": {"kind": "word", "index": k}}, int),
            [],
            ["focus"],
            trigger_mode="always_last",
            **QUICK,
        ).then,
        desk.look,
        look_in,
        look,
        **QUICK,
    )

    # the plan
    plan_in, figures = w.plan_in, w.figures
    c["drop"].input(
        None,
        [c["drop"], c["strip"]],
        c["strip"],
        js=FROM_RANKING,
        show_progress="hidden",
        api_visibility="private",
    )
    then_live(
        on(
            c["bridge"].settle_drop,
            desk.plan_changed,
            plan_in,
            figures,
            trigger_mode="always_last",
            **QUICK,
        )
    )
    then_live(
        on(
            c["strip"].toggle,
            desk.plan_changed,
            plan_in,
            ["drop", *figures],
            trigger_mode="always_last",
            **QUICK,
        )
    )
    for changed in (
        c["bridge"].settle_top_p,
        c["mode"].input,
        c["text_self"].input,
        c["causal_correction"].input,
        c["protect_ends"].input,
    ):
        then_live(w.rank(changed, trigger_mode="always_last"))
    then_live(w.rank(w.halt_ranking(c["criterion"].input).then))
    for changed in (
        c["compensation"].input,
        c["bridge"].settle_rank,
        c["bridge"].settle_strength,
        c["attention_target"].input,
        c["bridge"].settle_answer_length,
        c["bridge"].settle_visual_share,
    ):
        then_live(
            on(changed, desk.plan_changed, plan_in, figures, trigger_mode="always_last", **QUICK)
        )
    on(
        c["choose"].expand, desk.plan_changed, plan_in, ["plot-blocks", "criteria"], **QUICK
    )  # what a closed fold is sent, it loses
    on(c["token_set"].input, desk.heatmap, plan_in, ["plot-similarity", "plot-blocks"], **QUICK)
    then_live(
        on(
            on(c["plot-blocks"].pick, desk.pick_block, [c["strip"]], ["strip"], **QUICK).then,
            desk.plan_changed,
            plan_in,
            ["drop", *figures],
            **QUICK,
        )
    )
    then_live(
        w.rank(
            on(
                c["criteria"].pick,
                picked(lambda name: {"criterion": name}, str),
                [],
                ["criterion"],
                **QUICK,
            ).then
        )
    )

    for section in (
        presets,
        difference,
        variants,
        calibration,
        stability,
        sweeps,
        ablations,
        lesson,
        checkpoint,
    ):
        section.wire(w)
    on(
        c["report"].click,
        lambda kept, truth, *values, request: desk.report(
            *values, truth=truth, variants=variants.section(kept), request=request
        ),
        [c["kept"], c["truth"], c["state"], c["strip"], *w.controls],
        ["report-file"],
        **{**QUICK, "show_progress": "full"},
    ).success(
        None,
        js=(
            "() => { setTimeout(() => (document.querySelector('#report-file a') ??"
            " document.querySelector('#report-file')).click(), 300) }"
        ),
        show_progress="hidden",
        api_visibility="private",
    )
