"""What the page does on each event: plain methods and generators from values to {component name: value}.

No maths and no layout here. Results that need the model come from `analyse` and `compare`; everything a slider
changes is derived from the stored trace.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core.errors import Cancelled, InputError
from svl_core.ui import drawing, examples, exports, guard, parts, tasks, texts, views
from svl_core.ui.bench import bench_for
from svl_core.ui.guests import Guests
from svl_core.ui.limits import Limits
from svl_core.ui.settings import Settings
from svl_core.ui.store import Analysis, Bounded, Models
from svl_core.ui.strip import follows_ranking, strip_value

TRACES, TRACE_BYTES = 48, 768 * 2**20  # analyses kept for all sessions together
DRAWS = 2**32  # seeds of scenes drawn at random
SHARE = 0.25  # of the droppable layers, dropped at first

Update = drawing.Update


class Desk:
    """All handlers, over the models and the store of analyses that sessions share by content."""

    def __init__(self, models: Models, world: frozenset[str] = frozenset({"demo"}), limits: Limits = Limits()) -> None:
        self.models, self.world = models, world  # world: models that know the bundled scenes, and are calibrated on them
        self.analyses, self.jobs = Bounded(TRACES, TRACE_BYTES), tasks.Jobs()
        self.bench = bench_for(models, world, limits)
        self.limits, self.guests = limits, Guests(self.analyses.drop, get_upload_folder)
        self.brought: Callable[[str], bool] = lambda path: False  # whether a file is a visitor's upload; the pictures that every page opens with are nobody's

    # ------------------------------------------------------------------ the model's work
    def _model(self, name: str, emit: tasks.Emit, cancel: threading.Event):
        self.limits.check_model(name, self.models.first)
        future = self.models.request(name)
        while not future.done():
            share, what = self.models.told.get(name, (None, ""))
            emit({"status": views.status(f"Loading {'the bundled model' if name == 'demo' else name} … {what}".rstrip(), share)})
            if cancel.wait(0.5):
                raise Cancelled("Stopped.")
        return future.result()

    def _analysis(self, name: str, path: str | None, prompt: str, emit: tasks.Emit, cancel: threading.Event) -> Analysis:
        """The stored analysis of an image and prompt, or a new one: one forward pass."""
        if not path:
            raise InputError("Found no image; expected one; upload, paste or photograph an image, or pick an example.")
        self.limits.check("prompt_chars", len(prompt or ""), "characters in the prompt")
        lvlm = self._model(name, emit, cancel)
        emit({"status": views.status("Reading the image …", 0.05)})
        sample = lvlm.encode(self._image(path), prompt or "")
        found = self.analyses.get((name, sample.key))
        if found is None:
            trace = self.bench.trace(name, sample, _telling(emit), cancel)
            found = Analysis(name, sample, trace, svl.importance(trace))
            self.analyses.put((name, sample.key), found, found.nbytes)
        return found

    def _image(self, path: str):
        return svl.open_image(path, max_pixels=self.limits.image_pixels, max_bytes=self.limits.image_bytes)

    def _settings(self, values) -> Settings:
        now = Settings.of(values)
        self.limits.check("new_tokens", now.max_new_tokens, "tokens as the answer's length")
        return now

    def analysis_of(self, state: dict) -> Analysis:
        """The session's analysis, computed anew where the store has dropped it."""
        found = self.analyses.get((state["model"], state["key"]))
        return found or self._analysis(state["model"], state["path"], state["prompt"], lambda item: None, tasks.Deadline(self.limits.request_s))

    def compared(self, state: dict | None, strip: dict | None, now: Settings):
        """The comparison that the page shows for this plan, None before the answers ran."""
        return self.analysis_of(state).memo.get(("comparison", tuple(strip["drop"]), now.key_prune)) if state and strip else None

    # ------------------------------------------------------------------ events that need the model
    def analyse(self, name: str, path: str | None, prompt: str, state: dict | None, drop: int | None, origin: str, wanted: list[int] | None, *settings, request: gr.Request | None = None) -> Iterator[Update]:
        """Image and prompt -> every figure. The drop count is kept for the same model; `wanted` layers of a link are dropped instead."""
        now = self._settings(settings)

        def work(emit, cancel):
            try:
                analysis = self._analysis((name or "").strip() or self.models.first, path, prompt, emit, cancel)
            except Exception:
                if state and name != state["model"] and not self.models.ready(name):
                    emit({"model": state["model"]})  # back to the model that works
                raise
            self.guests.hold(_session(request), (analysis.model, analysis.sample.key), *([Path(path)] if self.brought(path) else []))
            emit({"status": views.status("Drawing …", 0.95)})
            scores = drawing.scores_of(analysis, now)
            kept = drop if state and state["model"] == analysis.model and drop is not None else round(SHARE * len(scores.ranking))
            count = max(0, min(int(kept), len(scores.ranking)))
            layers = analysis.trace.num_layers
            chosen = scores.ranking[:count] if wanted is None else [k for k in wanted if k in scores.ranking]
            count = len(chosen)
            strip = strip_value(analysis.trace.layer_ids, scores.ranking, scores.protected, chosen)
            made = {"model": analysis.model, "key": analysis.sample.key, "path": path, "prompt": prompt, "origin": origin}
            return {
                "state": made, "strip": strip, "focus": None, "wanted": None,
                "drop": gr.update(maximum=max(1, len(scores.ranking)), value=count, interactive=True),
                "layer": gr.update(maximum=max(1, layers - 1), value=min(now.layer, layers - 1)),
                "rank": gr.update(maximum=min(64, analysis.trace.hidden_size)),
                "own-sample": "" if analysis.model in self.world else views.note(texts.OWN_SAMPLE_NOTE),
                "answer-full": views.answer("Full model", f"{layers} layers", ""), "answer-pruned": views.answer("Pruned model", f"{layers - count} layers", ""), "glance": "", "metrics": "", "odds": "", "difference": "",
                **drawing.look(analysis, now, None), **self._layers(analysis, now, strip, made),
            }

        yield from self._guard(work, request)

    def compare(self, state: dict | None, strip: dict | None, truth: dict | None, *settings, request: gr.Request | None = None) -> Iterator[Update]:
        """The plan of the strip -> both answers as they grow, then the table."""
        now = self._settings(settings)

        def work(emit, cancel):
            if not state or not strip:
                raise InputError("Found nothing analysed yet; expected an analysed image and prompt; press Analyze first.")
            emit({"status": views.status("Preparing the pruned model …")})
            analysis = self.analysis_of(state)
            lvlm = self._model(state["model"], emit, cancel)
            plan = svl.manual_plan(strip["drop"], lvlm.num_layers, strip["protected"])
            if follows_ranking(strip):
                plan = replace(plan, criterion=now.criterion)
            full_side, pruned_side = f"{lvlm.num_layers} layers", f"{len(plan.keep)} layers, {_compensation_title(now)}"

            def show(answers, live):
                emit({"status": views.status("Both models are answering …"), **_both(answers, full_side, pruned_side, live)})

            result, after = self.bench.compare(state["model"], analysis.sample, plan, now, _telling(emit), show, cancel)
            if after is not None:
                analysis.memo.put(("after", tuple(strip["drop"]), now.key_prune), after)
            analysis.memo.put(("comparison", tuple(strip["drop"]), now.key_prune), result)
            left, right = views.differing_words(result.full.text, result.pruned.text)
            correct = (truth or {}).get(state["prompt"].strip())
            return {
                "answer-full": views.answer("Full model", full_side, result.full.text, _timing(result.full), left),
                "answer-pruned": views.answer("Pruned model", pruned_side, result.pruned.text, _timing(result.pruned), right),
                "metrics": views.metrics(result, len(strip["drop"]), lvlm.num_layers, correct),
                "odds": views.odds(result.full.tokens, *result.token_probabilities),
                "glance": views.glance(result.full.text, result.pruned.text), "plot-pca": drawing.pca(analysis, now, strip), "difference": drawing.difference(analysis, now, strip),
            }

        yield from self._guard(work, request)

    def stop(self, request: gr.Request | None = None) -> Update:
        """End this session's work; what is on the page stays."""
        self.jobs.cancel(_session(request))
        return {"status": ""}

    def _guard(self, work: Callable, request: gr.Request | None) -> Iterator[Update]:
        """Run `work` off the page's thread; errors become one sentence, and the status pill always goes away."""
        try:
            for item in tasks.run(work, self.jobs, _session(request), self.limits.request_s):
                yield item or {}
            yield {"status": ""}
        except Cancelled:
            yield {"status": ""}
        except Exception as error:
            if guard.out_of_memory(error):
                error.__traceback__ = None  # its frames hold what filled the memory
                self.relieve()
            yield {"status": ""}
            raise guard.polite(error, self.limits.details) from None

    def relieve(self) -> None:
        """Forget everything that can be computed or loaded again."""
        self.analyses.clear()
        self.bench.relieve()
        guard.free_memory()

    def leave(self, request: gr.Request) -> None:
        """A session ended: its work stops, and its files and analyses go."""
        self.jobs.cancel(_session(request))
        self.guests.leave(_session(request))

    # ------------------------------------------------------------------ events that only redraw
    def look(self, state: dict | None, focus: dict | None, *settings) -> Update:
        """Layer, opacity or focus moved: the image and the words."""
        return drawing.look(self.analysis_of(state), Settings.of(settings), focus) if state else {}

    def look_at_layer(self, state: dict | None, focus: dict | None, *settings) -> Update:
        """The layer slider moved: that layer alone."""
        return {"all_layers": False, **drawing.look(self.analysis_of(state), replace(Settings.of(settings), all_layers=False), focus)} if state else {}

    def select(self, state: dict | None, strip: dict | None, focus: dict | None, *settings) -> Update:
        """Top-p, criterion or a method setting changed: other tokens count, so the ranking may change."""
        if not state:
            return {}
        analysis, now = self.analysis_of(state), Settings.of(settings)
        scores = drawing.scores_of(analysis, now)
        count = min(len(strip["drop"]), len(scores.ranking))
        new = strip_value(analysis.trace.layer_ids, scores.ranking, scores.protected, scores.ranking[:count])
        return {"strip": new, "drop": gr.update(maximum=max(1, len(scores.ranking)), value=count), **drawing.look(analysis, now, focus), **self._layers(analysis, now, new, state)}

    def plan_changed(self, state: dict | None, strip: dict | None, *settings) -> Update:
        """Layers were dropped or put back: the figures that show the plan."""
        if not state or not strip:
            return {}
        return {"drop": gr.update(value=len(strip["drop"])), **self._layers(self.analysis_of(state), Settings.of(settings), strip, state)}

    def heatmap(self, state: dict | None, strip: dict | None, *settings) -> Update:
        if not state:
            return {}
        analysis, now = self.analysis_of(state), Settings.of(settings)
        return {"plot-similarity": drawing.similarity(analysis, now, strip), "plot-blocks": drawing.blocks(analysis, now, strip)}

    def pick_block(self, strip: dict | None, event: dict) -> Update:
        """A cell of the block heatmap: x the first layer, y the number of layers."""
        if not strip:
            return {}
        block = [k for k in range(int(event["x"]), int(event["x"]) + int(event["y"])) if k in strip["ranking"]]
        return {"strip": {**strip, "drop": block}}

    def pick_patch(self, state: dict | None, event: dict) -> dict | None:
        """Where the image was clicked (0..1) -> the smallest patch there, as the focus."""
        if not state:
            return None
        rects = self.analysis_of(state).sample.geometry.rects
        inside = (rects[:, 0] <= event["x"]) & (event["x"] < rects[:, 2]) & (rects[:, 1] <= event["y"]) & (event["y"] < rects[:, 3])
        found = np.flatnonzero(inside)
        if not len(found):
            return None
        area = (rects[found, 2] - rects[found, 0]) * (rects[found, 3] - rects[found, 1])
        return {"kind": "patch", "index": int(found[np.argmin(area)])}

    # ------------------------------------------------------------------ drawing
    def _layers(self, analysis: Analysis, now: Settings, strip: dict, state: dict) -> Update:
        """The figures that show the plan, and what can be taken along of it."""
        return {
            **drawing.plan(analysis, now, strip),
            "link": {"query": exports.query(state, strip, now), "own": not state.get("origin")},
            "code-python": exports.snippet(state, strip, now, state["model"] in self.world),
            "code-plan": exports.plan_json(state, strip, now), "code-mergekit": exports.mergekit(state, strip),
        }

    # ------------------------------------------------------------------ links and reports
    def open(self, request: gr.Request | None = None) -> Update:
        """The state that the page's address asks for, if it asks for any."""
        asked = exports.read_query(str(getattr(request, "query_params", "") or ""))
        out: Update = dict(asked["settings"])
        if examples.from_origin(asked.get("image", "")):
            out |= self.scene(asked["image"])
        if asked.get("prompt"):
            out["prompt"] = asked["prompt"]
        if asked.get("model") and (self.limits.any_model or asked["model"] in {entry.id for entry in self.limits.offered()}):
            out["model"] = asked["model"]
        if "drop" in asked:
            out["wanted"] = asked["drop"]
        return out

    def report(self, state: dict | None, strip: dict | None, *settings, request: gr.Request | None = None) -> Update:
        """The analysis as one HTML file that needs no network."""
        if not state or not strip:
            raise gr.Error("Found nothing analysed yet; expected an analysed image and prompt; press Analyze first.", print_exception=False)
        analysis, now = self.analysis_of(state), Settings.of(settings)
        drawn = drawing.look(analysis, now, None) | self._layers(analysis, now, strip, state)
        shown = [(texts.FIGURES[key][0], texts.FIGURES[key][1].split(" Click")[0], drawn[f"plot-{key}"]) for key in ("redundancy", "similarity", "gap", "pca")]
        result = self.compared(state, strip, now)
        answers = ""
        if result:
            left, right = views.differing_words(result.full.text, result.pruned.text)
            cards = views.answer("Full model", f"{len(strip['ids'])} layers", result.full.text, _timing(result.full), left) + views.answer("Pruned model", f"{len(strip['ids']) - len(strip['drop'])} layers, {_compensation_title(now)}", result.pruned.text, _timing(result.pruned), right)
            answers = f'<div class="two">{cards}</div><section class="card">{views.metrics(result, len(strip["drop"]), len(strip["ids"]))}</section>'
        page = exports.report(texts.TITLE, state, strip, now, drawn["overlay"], shown, answers, parts.PLOTLY.read_text(encoding="utf-8"), (parts.STATIC / "report.css").read_text(encoding="utf-8"))
        path = Path(get_upload_folder()) / secrets.token_hex(16) / "short-lvlm-report.html"
        path.parent.mkdir(parents=True)
        path.write_text(page, encoding="utf-8")
        self.guests.hold(_session(request), path)
        return {"report-file": str(path)}

    # ------------------------------------------------------------------ images and scenes
    def scene(self, origin: str) -> Update:
        """A composed or drawn scene as the page's image, with questions that fit it and their answers."""
        scene, question, answer = examples.from_origin(origin)
        fitting = examples.questions_on(scene)
        truth = fitting | ({question: answer} if question else {})
        out: Update = {"image": examples.render(scene), "truth": truth, "chips": views.chips(list(fitting)), "photo-note": "", "origin": origin,
                       "composer": gr.update(value={"groups": examples.groups(), "places": list(examples.PLACES), "items": examples.items_of(scene)})}
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

    def uploaded(self, path: str | None, name: str, request: gr.Request | None = None) -> Update:
        """A new image of the user's own: checked at once; the bundled model's limits are said."""
        if not path:
            return {"photo-note": "", "chips": "", "truth": {}, "origin": ""}
        if self.brought(path):
            self.guests.hold(_session(request), Path(path))
        try:
            self._image(path)
        except InputError as error:
            raise guard.polite(error) from error
        return {"photo-note": views.note(texts.PHOTO_NOTE) if name in self.world else "", "truth": {}, "origin": "", "chips": views.chips(GENERIC_QUESTIONS)}


GENERIC_QUESTIONS = ("describe the picture.", "what is in the center?", "how many objects are there?")


def _session(request: gr.Request | None) -> str:
    return getattr(request, "session_hash", None) or f"once-{secrets.token_hex(8)}"  # a call without a session shares nothing


def _telling(emit: tasks.Emit) -> Callable[..., None]:
    return lambda text, share=None: emit({"status": views.status(text, share)})


def _both(answers, full_side: str, pruned_side: str, live: list[int]) -> Update:
    out = {}
    for side, (name, title, detail) in enumerate((("answer-full", "Full model", full_side), ("answer-pruned", "Pruned model", pruned_side))):
        if answers[side] is not None:
            out[name] = views.answer(title, detail, answers[side].text, _timing(answers[side]), growing=side in live)
    out["glance"] = views.glance(*(a.text if a else "" for a in answers))
    return out


def _timing(answer) -> str:
    later = f", then {views.milliseconds(answer.per_token_ms)} a token" if answer.per_token_ms is not None else ""
    cut = " Cut at the answer length." if answer.stopped == "length" else ""
    return f"{len(answer.token_ids)} tokens; first after {views.milliseconds(answer.prefill_ms)}{later}.{cut}"


def _compensation_title(now: Settings) -> str:
    return "no compensation" if now.compensation == "none" else svl.COMPENSATIONS[now.compensation].title
