"""What the page does on each event: plain methods and generators from values to {component name:
value}.

No maths and no layout here. Results that need the model come from `analyse` and `compare`;
everything a slider changes is derived from the stored trace.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core.demo.scenes import PLACES
from svl_core.errors import Cancelled, InputError
from svl_core.recipe import AUTO, DEMO, OWN, THIS
from svl_core.service import calibration
from svl_core.service.errors import out_of_memory
from svl_core.service.limits import HOME, Limits
from svl_core.service.stores import Analysis, Models
from svl_core.service.workspace import RANKING, Workspace
from svl_core.ui import drawing, examples, parts, texts, views
from svl_core.ui.errors import polite
from svl_core.ui.state import exports, recipes
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import droppable, ranked_by, strip_value

DRAWS = 2**32  # seeds of scenes drawn at random
SHARE = 0.25  # of the droppable layers, dropped at first

Update = drawing.Update


class Desk:
    """All handlers, over the workspace whose models and results they show."""

    def __init__(
        self,
        models: Models,
        scene_models: frozenset[str] = frozenset({"demo"}),
        limits: Limits = HOME,
    ) -> None:
        self.workspace = Workspace(models, scene_models, limits, get_upload_folder)

    def __getattr__(self, name: str):
        return getattr(self.workspace, name)

    # ------------------------------------------------------------------ events that need the model
    def analyse(
        self,
        name: str,
        path: str | None,
        prompt: str,
        state: dict | None,
        drop: int | None,
        origin: str,
        wanted: list[int] | None,
        *settings,
        request: gr.Request | None = None,
    ) -> Iterator[Update]:
        """Image and prompt -> every figure.

        The drop count is kept for the same model; `wanted` layers of a link are dropped instead.
        """
        now = self.checked_settings(Settings.of(settings))

        def work(task):
            try:
                analysis = self.workspace.analyse(
                    (name or "").strip() or self.models.first, path, prompt, task
                )
            except Exception:
                if state and name != state["model"] and not self.models.ready(name):
                    task.emit({"model": state["model"]})  # back to the model that works
                raise
            self.uploads.hold(
                session_of(request),
                (analysis.model, analysis.sample.key),
                *([Path(path)] if path and self.uploads.brought(path) else []),
            )
            task.emit({"status": views.status("Drawing …", 0.95)})
            used = self.sources(analysis.model, now)
            ground = self.analysis_of_source(analysis.model, used.rank, analysis, now, task)
            same = state and state["model"] == analysis.model and drop is not None
            scores = self.rank_for_count(
                ground,
                now,
                len(wanted) if wanted is not None else int(drop) if same else 1,
                task,
            )
            kept = drop if same else round(SHARE * len(scores.ranking))
            count = max(0, min(int(kept), scores.most))
            layers = analysis.trace.num_layers
            chosen = (
                scores.chosen(count)
                if wanted is None
                else [k for k in wanted if k in scores.ranking]
            )
            count = len(chosen)
            strip = self.strip(analysis, scores, chosen, now)
            preset = self.contest(analysis.model, now)
            won = ground.memo.get(recipes.contest_key(preset, count, now)) if preset else None
            if (
                won is not None
                and won.criterion == scores.criterion
                and sorted(won.chosen(count)) == strip["drop"]
            ):
                strip["preset"] = [preset.name, *strip["drop"]]
            made = {
                "model": analysis.model,
                "key": analysis.sample.key,
                "path": path,
                "prompt": prompt,
                "origin": origin,
            }
            task.emit(
                {
                    "state": made,
                    "strip": strip,
                    "focus": None,
                    "wanted": None,
                    "drop": gr.update(maximum=max(1, scores.most), value=count, interactive=True),
                    "sweep-most": gr.update(maximum=max(1, scores.most)),
                    "layer": gr.update(
                        maximum=max(1, layers - 1), value=min(now.layer, layers - 1)
                    ),
                    "rank": gr.update(maximum=min(64, analysis.trace.hidden_size)),
                    "calibration": gr.update(
                        choices=calibration.choices(analysis.model, self.scene_models),
                        value=(now.calibration if now.calibration in (used.rank, AUTO) else AUTO),
                    ),
                    "answer-full": views.answer("Full model", f"{layers} layers", ""),
                    "answer-pruned": views.answer("Pruned model", f"{layers - count} layers", ""),
                    "glance": "",
                    "metrics": "",
                    "odds": "",
                    "difference": "",
                    **drawing.look(analysis, now, None),
                    **self._layers(analysis, now, strip, made),
                }
            )
            return {
                "plot-pca": drawing.pca(analysis, now, strip)
            }  # last: the first one of the server waits for scikit-learn

        yield from self._guard(work, request)

    def compare(
        self,
        state: dict | None,
        strip: dict | None,
        truth: dict | None,
        *settings,
        request: gr.Request | None = None,
    ) -> Iterator[Update]:
        """The plan of the strip -> both answers as they grow, then the table."""
        now = self.checked_settings(Settings.of(settings))

        def work(task):
            if not state or not strip:
                raise InputError(
                    "Found nothing analysed yet; expected an analysed image and prompt; press"
                    " Analyze first."
                )
            task.emit({"status": views.status("Preparing the pruned model …")})
            analysis = self.analysis_of(state)
            lvlm = self.load_model(state["model"], task)
            plan = svl.manual_plan(strip["drop"], lvlm.num_layers, strip["protected"])
            plan = replace(plan, criterion=ranked_by(strip))
            full_side, pruned_side = (
                f"{lvlm.num_layers} layers",
                _pruned_side(len(plan.keep), len(plan.drop), now),
            )

            def show(answers, live):
                task.emit(
                    {
                        "status": views.status("Both models are answering …"),
                        **_both(answers, full_side, pruned_side, live),
                    }
                )

            fit = (
                self.samples(
                    state["model"], self.sources(state["model"], now).fit, analysis, now, task
                )
                if now.compensation != "none"
                else ()
            )
            result, after = self.backend.compare(
                state["model"], analysis.sample, plan, now, fit, now.max_new_tokens, show, task
            )
            self.keep_comparison(analysis, strip, now, result, after)
            left, right = views.differing_words(result.full.text, result.pruned.text)
            correct = (truth or {}).get(state["prompt"].strip())
            return {
                "answer-full": views.answer(
                    "Full model", full_side, result.full.text, _timing(result.full), left
                ),
                "answer-pruned": views.answer(
                    "Pruned model", pruned_side, result.pruned.text, _timing(result.pruned), right
                ),
                "metrics": views.metrics(
                    result,
                    len(strip["drop"]),
                    lvlm.num_layers,
                    correct,
                    drawing.visual_kept(analysis, now),
                ),
                "odds": views.odds(result.full.tokens, *result.token_probabilities),
                "glance": views.glance(result.full.text, result.pruned.text),
                "plot-pca": drawing.pca(analysis, now, strip),
                "difference": drawing.difference(analysis, now, strip),
            }

        yield from self._guard(work, request)

    def stop(
        self, request: gr.Request | None = None, lane: str = "", replaced: bool = False
    ) -> Update:
        """End this session's work of one lane; what is on the page stays. replaced: other work of
        that lane follows at once.
        """
        self.workspace.stop(session_of(request), lane, replaced)
        return {"status": ""}

    def stop_all(self, request: gr.Request | None = None) -> Update:
        """End all of this session's work."""
        self.workspace.stop_all(session_of(request))
        return {"status": ""}

    def _guard(
        self, work: Callable, request: gr.Request | None, lane: str = "", undone: Update = {}
    ) -> Iterator[Update]:
        """Run `work` off the page's thread; errors become one sentence, and the status pill always
        goes away. lane: what else may run at the same time.
        undone: what the page shows again where the work fails or is stopped, but not where newer
        work of its lane replaces it.
        """
        try:
            for item in self.work(work, session_of(request), lane, _as_status):
                yield item or {}
            yield {"status": ""}
        except Cancelled as stopped:
            yield {"status": "", **({} if stopped.replaced else undone)}
        except Exception as error:
            if out_of_memory(error):
                error.__traceback__ = None  # its frames hold what filled the memory
                self.relieve()
            yield {"status": "", **undone}
            raise polite(error, self.limits.details) from None

    # ------------------------------------------------------------------ events that only redraw
    def look(self, state: dict | None, focus: dict | None, *settings) -> Update:
        """Layer, opacity or focus moved: the image and the words."""
        return drawing.look(self.analysis_of(state), Settings.of(settings), focus) if state else {}

    def look_at_layer(self, state: dict | None, focus: dict | None, *settings) -> Update:
        """The layer slider moved: that layer alone."""
        return (
            {
                "all_layers": False,
                **drawing.look(
                    self.analysis_of(state), replace(Settings.of(settings), all_layers=False), focus
                ),
            }
            if state
            else {}
        )

    def select(
        self,
        state: dict | None,
        strip: dict | None,
        focus: dict | None,
        *settings,
        request: gr.Request | None = None,
    ) -> Iterator[Update]:
        """Top-p, criterion, calibration set or a method setting changed, so the ranking may change;
        only criteria that need it run the model.
        """
        if not state:
            return
        now = Settings.of(settings)

        def work(task):
            if now.calibration == OWN and not now.own:
                raise InputError(
                    "Found no files of yours; expected at least one image; bring some under"
                    " “Calibration set” first."
                )
            analysis = self.analysis_of(state)
            ground = self.analysis_of_source(
                state["model"], self.sources(state["model"], now).rank, analysis, now, task
            )
            scores = self.rank_for_count(ground, now, len(strip["drop"]), task)
            return self.redrawn(
                analysis,
                now,
                focus,
                self.strip(
                    analysis, scores, scores.chosen(min(len(strip["drop"]), scores.most)), now
                ),
                state,
            )

        yield from self._guard(
            work,
            request,
            RANKING,
            {name: strip[name] for name in ("criterion", "calibration") if name in strip},
        )  # what the strip still follows

    def plan_changed(self, state: dict | None, strip: dict | None, *settings) -> Update:
        """Layers were dropped or put back: the figures that show the plan."""
        if not state or not strip:
            return {}
        return {
            "drop": gr.update(value=len(strip["drop"])),
            **self._figures(self.analysis_of(state), Settings.of(settings), strip, state),
        }

    def heatmap(self, state: dict | None, strip: dict | None, *settings) -> Update:
        if not state:
            return {}
        analysis, now = self.analysis_of(state), Settings.of(settings)
        return {
            "plot-similarity": drawing.similarity(analysis, now, strip),
            "plot-blocks": drawing.blocks(analysis, now, strip),
        }

    def pick_block(self, strip: dict | None, event: dict) -> Update:
        """A cell of the block heatmap: x the first layer, y the number of layers."""
        if not strip:
            return {}
        block = [
            k
            for k in range(int(event["x"]), int(event["x"]) + int(event["y"]))
            if k in strip["ranking"]
        ]
        return {"strip": {**strip, "drop": block}}

    def pick_patch(self, state: dict | None, event: dict) -> dict | None:
        """Where the image was clicked (0..1) -> the smallest patch there, as the focus."""
        if not state:
            return None
        rects = self.analysis_of(state).sample.geometry.rects
        inside = (
            (rects[:, 0] <= event["x"])
            & (event["x"] < rects[:, 2])
            & (rects[:, 1] <= event["y"])
            & (event["y"] < rects[:, 3])
        )
        found = np.flatnonzero(inside)
        if not len(found):
            return None
        area = (rects[found, 2] - rects[found, 0]) * (rects[found, 3] - rects[found, 1])
        return {"kind": "patch", "index": int(found[np.argmin(area)])}

    # ------------------------------------------------------------------ drawing
    def strip(
        self, analysis: Analysis, scores: svl.LayerScores, drop: Sequence[int], now: Settings
    ) -> dict:
        """The strip's value for a ranking and the layers that go."""
        return strip_value(
            analysis.trace.layer_ids,
            scores.ranking,
            scores.protected,
            drop,
            blocks=scores.blocks,
            criterion=scores.criterion,
            calibration=now.calibration,
            rounds=scores.settings.get("rounds"),
        )

    def redrawn(
        self, analysis: Analysis, now: Settings, focus: dict | None, strip: dict, state: dict
    ) -> Update:
        """A new ranking, and all that follows from it."""
        return {
            "strip": strip,
            "drop": gr.update(maximum=max(1, droppable(strip)), value=len(strip["drop"])),
            **drawing.look(analysis, now, focus),
            **self._figures(analysis, now, strip, state),
        }

    def _figures(self, analysis: Analysis, now: Settings, strip: dict, state: dict) -> Update:
        """All figures that show the plan, and what can be taken along of it."""
        return {
            **self._layers(analysis, now, strip, state),
            "plot-pca": drawing.pca(analysis, now, strip),
        }

    def _basis_told(self, state: dict, strip: dict, now: Settings) -> str:
        """What ranks the layers and what compensation is fitted on, in a sentence."""
        counts = {
            DEMO: now.calibration_size,
            OWN: len(self.own_sets.get(now.own, ())),
            THIS: 1,
        }
        return calibration.describe_sources(
            self.sources(state["model"], now),
            counts.get,
            now.compensation if strip["drop"] else "none",
            ranked_by(strip) != "manual",
        )

    def _layers(self, analysis: Analysis, now: Settings, strip: dict, state: dict) -> Update:
        """`_figures` without the principal components."""
        used, fits = (
            self.sources(state["model"], now),
            now.compensation != "none" and bool(strip["drop"]),
        )
        preset = recipes.current(
            state["model"], self.scene_models, now, strip, self.limits.calibration_samples
        )
        return {
            "preset": preset,
            "preset-note": views.read(recipes.told(preset, strip)),
            **drawing.plan(analysis, self.ranking_analysis(state, now), now, strip),
            "calibration-note": (views.note if used.fit == THIS and fits else views.read)(
                self._basis_told(state, strip, now)
            ),
            "link": {
                "query": exports.query(state, strip, now),
                "own": not state.get("origin"),
                "path": state["path"],
            },
            "code-python": exports.snippet(state, strip, now, used),
            "code-plan": exports.plan_json(state, strip, now),
            "code-mergekit": exports.mergekit(state, strip),
        }

    # ------------------------------------------------------------------ links and reports
    def open(self, request: gr.Request | None = None) -> Update:
        """The state that the page's address asks for, if it asks for any."""
        asked = exports.read_query(str(getattr(request, "query_params", "") or ""))
        out: Update = dict(asked["settings"]) | {"visit": views.visit(session_of(request))}
        if examples.from_origin(asked.get("image", "")):
            out |= self.scene(asked["image"])
        if asked.get("prompt"):
            out["prompt"] = asked["prompt"]
        if asked.get("model") and (
            self.limits.any_model or asked["model"] in {entry.id for entry in self.limits.offered()}
        ):
            out["model"] = asked["model"]
        if "drop" in asked:
            out["wanted"] = asked["drop"]
        return out

    def report(
        self,
        state: dict | None,
        strip: dict | None,
        *settings,
        truth: dict | None = None,
        variants: str = "",
        request: gr.Request | None = None,
    ) -> Update:
        """The analysis as one HTML file that needs no network. truth: right answers by question;
        variants: markup of the kept ones.
        """
        if not state or not strip:
            raise gr.Error(
                "Found nothing analysed yet; expected an analysed image and prompt; press Analyze"
                " first.",
                print_exception=False,
            )
        analysis, now = self.analysis_of(state), Settings.of(settings)
        drawn = drawing.look(analysis, now, None) | self._figures(analysis, now, strip, state)
        tokens = next(title for title, value in texts.TOKEN_SETS if value == now.token_set)
        head = {
            key: {
                "heading": texts.FIGURES[key][0],
                "reading": texts.FIGURES[key][1].split(" Click")[0],
            }
            for key in ("overlay", "redundancy", "similarity", "gap", "pca")
        }
        head["similarity"]["heading"] += f": {tokens}"
        picture = drawn["overlay"] and {
            **drawn["overlay"],
            **head["overlay"],
            "scale": drawn["scale"],
        }
        shown = [
            (each["heading"], each["reading"], drawn[f"plot-{key}"])
            for key, each in head.items()
            if key != "overlay"
        ]
        result = self.comparison_of(state, strip, now)
        answers = ""
        if result:
            left, right = views.differing_words(result.full.text, result.pruned.text)
            cards = views.answer(
                "Full model",
                f"{len(strip['ids'])} layers",
                result.full.text,
                _timing(result.full),
                left,
            ) + views.answer(
                "Pruned model",
                _pruned_side(len(strip["ids"]) - len(strip["drop"]), len(strip["drop"]), now),
                result.pruned.text,
                _timing(result.pruned),
                right,
            )
            answers = (
                f'<div class="two">{cards}</div><section'
                f' class="card">{views.metrics(result, len(strip["drop"]), len(strip["ids"]), (truth or {}).get(state["prompt"].strip()), drawing.visual_kept(analysis, now))}</section>'
            )
        page = exports.report(
            texts.TITLE,
            exports.in_words(state, strip, now, self._basis_told(state, strip, now)),
            picture,
            shown,
            answers + variants,
            parts.PLOTLY.read_text(encoding="utf-8"),
            (parts.STATIC / "report.css").read_text(encoding="utf-8"),
        )
        path = Path(get_upload_folder()) / secrets.token_hex(16) / "short-lvlm-report.html"
        path.parent.mkdir(parents=True)
        path.write_text(page, encoding="utf-8")
        self.uploads.hold(session_of(request), path)
        return {"report-file": str(path)}

    # ------------------------------------------------------------------ images and scenes
    def scene(self, origin: str) -> Update:
        """A composed or drawn scene as the page's image, with questions that fit it and their
        answers.
        """
        scene, question, answer = examples.from_origin(origin)
        fitting = examples.questions_on(scene)
        truth = fitting | ({question: answer} if question else {})
        out: Update = {
            "image": examples.render(scene),
            "truth": truth,
            "chips": views.chips(list(fitting)),
            "photo-note": "",
            "origin": origin,
            "composer": gr.update(
                value={
                    "groups": examples.groups(),
                    "places": list(PLACES),
                    "items": examples.items_of(scene),
                }
            ),
        }
        if question:
            out["prompt"] = question
        return out

    def pick_example(self, index: int) -> Update:
        return self.scene(f"example:{index}")

    def new_scene(self) -> Update:
        return self.scene(f"draw:{secrets.randbelow(DRAWS)}")

    def compose(self, items: dict, style: str) -> Update:
        """The composer's places -> a scene; an empty board leaves the page as it is."""
        chosen = {int(k): v for k, v in items.items() if v}
        if not chosen:
            return {}
        update = self.scene(examples.origin_of(chosen, style))
        update.pop("composer")
        return update

    def uploaded(
        self, path: str | None, name: str, request: gr.Request | None = None
    ) -> Iterator[Update]:
        """A new image of the user's own: checked at once, and taken away where it is none; the
        bundled model's limits are said.
        """
        nothing: Update = {"photo-note": "", "chips": "", "truth": {}, "origin": ""}
        if not path:
            yield nothing
            return
        if self.uploads.brought(path):
            self.uploads.hold(session_of(request), Path(path))
        try:
            self.open_image(path)
        except InputError as error:
            yield nothing | {"image": None}
            raise polite(error) from error
        yield {
            "photo-note": views.note(texts.PHOTO_NOTE) if name in self.scene_models else "",
            "truth": {},
            "origin": "",
            "chips": views.chips(GENERIC_QUESTIONS),
        }


def _as_status(text: str, share: float | None) -> Update:
    """What a task reports, as the pill; and as data for a section that shows it otherwise."""
    return {"status": views.status(text, share), "doing": (text, share)}


GENERIC_QUESTIONS = (
    "describe the picture.",
    "what is in the center?",
    "how many objects are there?",
)


def session_of(request: gr.Request | None) -> str:
    """The key of a visitor's session."""
    return (
        getattr(request, "session_hash", None) or f"once-{secrets.token_hex(8)}"
    )  # a call without a session shares nothing


def _both(answers, full_side: str, pruned_side: str, live: list[int]) -> Update:
    out = {}
    for side, (name, title, detail) in enumerate(
        (("answer-full", "Full model", full_side), ("answer-pruned", "Pruned model", pruned_side))
    ):
        if answers[side] is not None:
            out[name] = views.answer(
                title, detail, answers[side].text, _timing(answers[side]), growing=side in live
            )
    out["glance"] = views.glance(*(a.text if a else "" for a in answers))
    return out


def _timing(answer) -> str:
    later = (
        f", then {views.milliseconds(answer.per_token_ms)} a token"
        if answer.per_token_ms is not None
        else ""
    )
    cut = " Cut at the answer length." if answer.stopped == "length" else ""
    return (
        f"{len(answer.token_ids)} tokens; first after"
        f" {views.milliseconds(answer.prefill_ms)}{later}.{cut}"
    )


def _pruned_side(kept: int, dropped: int, now: Settings) -> str:
    """How many layers the pruned model has, and what closes its gap."""
    return f"{kept} layers" + (
        f", {'no compensation' if now.compensation == 'none' else svl.COMPENSATIONS[now.compensation].title}"
        if dropped
        else ""
    )
