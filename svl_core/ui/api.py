"""The page's public endpoints: the same analysis, comparison, sweep and evaluation for programs,
within the same limits.

Usable with `gradio_client`, and as MCP tools where gradio's extra `mcp` is installed. Every
endpoint yields {"doing", "progress", "left_s"} while it works and its result last, so that a client
sees progress, can cancel, and keeps what came. Annotations must be real types here, for gradio
reads them.
"""

import base64
import binascii
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core.errors import Cancelled, InputError
from svl_core.service import tasks
from svl_core.service.errors import out_of_memory
from svl_core.service.stores import Analysis
from svl_core.ui import drawing, examples
from svl_core.ui.errors import polite
from svl_core.ui.handlers import Desk, session_of
from svl_core.ui.state.settings import Settings

NAMES = ("analyse", "compare", "sweep", "evaluate")
SCENES_SEED = 20_000  # of `evaluate`: a stream that nothing is fitted on


class Service:
    """The endpoints over one page's desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    # ------------------------------------------------------------------ endpoints
    def analyse(
        self,
        image: str | dict,
        prompt: str,
        model: str = "",
        criterion: str = "svl",
        top_p: float = 0.5,
        request: gr.Request | None = None,
    ) -> dict:
        """Which decoder layers of a vision-language model are redundant for an image and a prompt,
        from one forward pass.

        Parameters:
            image: a picture: a data address (data:image/png;base64,...), a scene of the bundled
                world ("example:0" to "example:5", "draw:SEED", "compose:noto:0=cat,4=red circle"),
                or an upload (gradio_client.handle_file)
            prompt: the question about the picture
            model: name of a model on the page's list; empty: the page's own
            criterion: what ranks the layers, such as svl, shortgpt or svl-textual
            top_p: share of the tokens, above 0 and at most 1, that count as important
        Returns:
            model, layers, visual_tokens, text_tokens, grid, criterion, ranking (0-based layers,
            most redundant first), protected, redundancy (cosine of every layer by criterion),
            similarity ((L+1) x (L+1)), importance (visual, text), tokens
        """
        now = self._settings(criterion=criterion, top_p=top_p)

        def work(task):
            analysis = self._analysis(image, prompt, model, request, task)
            importance, sample = drawing.importance_of(analysis, now), analysis.sample
            chosen = self._scores(analysis, now, task)
            visual, text = importance.averaged(0)
            names = [name for name, each in svl.CRITERIA.items() if each.needs == "trace"]
            return {
                "model": analysis.model,
                "layers": analysis.trace.num_layers,
                "visual_tokens": len(sample.visual),
                "text_tokens": len(sample.textual),
                "grid": sample.geometry.grid and list(sample.geometry.grid),
                "criterion": criterion,
                "ranking": [int(k) for k in chosen.ranking],
                "protected": [int(k) for k in chosen.protected],
                "redundancy": (
                    {name: _floats(drawing.scores_of(analysis, now, name).scores) for name in names}
                    | {criterion: _floats(chosen.scores)}
                ),
                "similarity": [
                    _floats(row) for row in drawing.matrix_of(analysis, now, "important")
                ],
                "importance": {"visual": _floats(visual), "text": _floats(text)},
                "tokens": list(sample.tokens),
            }

        yield from self._run(work, request)

    def compare(
        self,
        image: str | dict,
        prompt: str,
        drop: int = 4,
        layers: list[int] | None = None,
        model: str = "",
        criterion: str = "svl",
        compensation: str = "none",
        rank: int = 4,
        strength: float = 1.0,
        max_new_tokens: int = 64,
        request: gr.Request | None = None,
    ) -> dict:
        """Drops decoder layers and lets the full and the pruned model answer: both texts, how far
        apart they are, size and speed.

        Parameters:
            image: a picture, as for analyse
            prompt: the question about the picture
            drop: how many layers to drop, the most redundant first
            layers: these layers instead (0-based)
            model: name of a model on the page's list; empty: the page's own
            criterion: what ranks the layers
            compensation: what repairs the gap: none, scp, lstsq, bridge or refit
            rank: directions that scp amplifies
            strength: of scp, 1 as published
            max_new_tokens: longest answer
        Returns:
            plan (drop, keep, criterion, compensation), full and pruned (text, tokens, times in ms),
            kl (nats per token), agreement (0 to 1), exact, first_divergence, token_probabilities,
            parameters, speedup
        """
        now = self._settings(
            criterion=criterion,
            compensation=compensation,
            rank=rank,
            strength=strength,
            max_new_tokens=max_new_tokens,
        )

        def work(task):
            analysis = self._analysis(image, prompt, model, request, task)
            plan = self._plan(analysis, now, drop, layers, task)
            result, _ = self.desk.backend.compare(
                analysis.model,
                analysis.sample,
                plan,
                now,
                self._fit(analysis, now, task),
                now.max_new_tokens,
                run=task,
            )
            return {"model": analysis.model, "plan": _plan_json(plan, now), **result.to_json()}

        yield from self._run(work, request)

    def sweep(
        self,
        image: str | dict,
        prompt: str,
        criteria: list[str] = ["svl"],
        compensations: list[str] = ["none"],
        drops: list[int] | None = None,
        model: str = "",
        max_new_tokens: int = 32,
        request: gr.Request | None = None,
    ) -> dict:  # noqa: B006 (gradio shows the default)
        """Fidelity and speed at every number of dropped layers, for each criterion with each
        compensation, on one image and prompt.

        Parameters:
            image: a picture, as for analyse
            prompt: the question about the picture
            criteria: what ranks the layers, one or several
            compensations: what repairs the gap, one or several
            drops: numbers of layers to drop; empty: from 0 to all that can go
            model: name of a model on the page's list; empty: the page's own
            max_new_tokens: longest answer
        Returns:
            rows (criterion, compensation, drop, layers, kl, agreement, exact, speedup), cliffs,
            pareto; while it runs, the rows so far
        """
        now = self._settings(max_new_tokens=max_new_tokens)

        def work(task):
            for what, names, known in (
                ("criterion", criteria, svl.CRITERIA),
                ("compensation", compensations, svl.COMPENSATIONS),
            ):
                for name in names:
                    _known(what, name, known)
            analysis = self._analysis(image, prompt, model, request, task)
            counts = list(drops) if drops else list(range(analysis.trace.num_layers))
            self.desk.limits.check(
                "sweep_points",
                len(criteria) * len(compensations) * len(counts),
                "pruned models in the sweep",
            )
            fit = self._fit(analysis, replace(now, compensation="scp"), task)
            options = {
                "criteria": tuple(criteria),
                "compensations": tuple(compensations),
                "drops": tuple(drops) if drops else None,
                "max_new_tokens": max_new_tokens,
                "allow_shared": len(fit) == 1,
            }
            made = self.desk.backend.sweep(
                analysis.model,
                analysis.samples,
                fit,
                replace(now, compensation="none"),
                options,
                lambda so_far: task.emit({"rows": [row.to_json() for row in so_far.rows]}),
                task,
            )
            return made.to_json()

        yield from self._run(work, request)

    def evaluate(
        self,
        drop: int = 0,
        questions: int = 100,
        seed: int = 0,
        model: str = "",
        criterion: str = "svl",
        compensation: str = "none",
        request: gr.Request | None = None,
    ) -> dict:
        """Share of right answers to labelled questions about fresh scenes of the bundled world, of
        the full model and of a pruned one.

        Parameters:
            drop: how many layers to drop, the most redundant over the bundled calibration set
                first; 0: the full model alone
            questions: how many to ask, thirteen kinds in turn
            seed: of the questions; same seed, same questions
            model: name of a model on the page's list; empty: the page's own
            criterion: what ranks the layers
            compensation: what repairs the gap
        Returns:
            data, n, accuracy, interval (95 %), by_kind; with layers dropped also full,
            accuracy_kept, lost, gained
        """
        now = self._settings(criterion=criterion, compensation=compensation)

        def work(task):
            self.desk.limits.check("questions", questions, "questions")
            if questions < 1 or drop < 0:
                raise InputError(
                    f"Found {questions} questions and {drop} layers to drop; expected at least 1"
                    " and 0; change them."
                )
            from svl_core.demo.questions import calibration, labelled

            name = self._name(model)
            lvlm = self.desk.load_model(name, task)
            plan, fit = svl.manual_plan([], lvlm.num_layers), ()
            if drop:
                fit = tuple(lvlm.encode(*pair) for pair in calibration(now.calibration_size))
                trace = self.desk.backend.traced(
                    name,
                    fit,
                    svl.COMPENSATIONS[compensation].needs_mlp,
                    task,
                )
                plan = svl.plan(
                    self.desk.rank(Analysis(name, fit, trace, svl.importance(trace)), now, task),
                    drop,
                )
            found = self.desk.backend.evaluate(
                name,
                labelled(questions, SCENES_SEED + seed),
                plan,
                now,
                fit,
                now.max_new_tokens,
                task,
            )
            return {"model": name, "plan": _plan_json(plan, now), **found.to_json()}

        yield from self._run(work, request)

    # ------------------------------------------------------------------ the parts
    def _settings(self, **given) -> Settings:
        try:
            for what, known in (("criterion", svl.CRITERIA), ("compensation", svl.COMPENSATIONS)):
                _known(what, given.get(what), known)
            now = Settings(
                **{
                    "max_new_tokens": min(Settings.max_new_tokens, self.desk.limits.new_tokens),
                    **given,
                }
            )
            self.desk.limits.check(
                "new_tokens", now.max_new_tokens, "tokens as the answer's length"
            )
            return now
        except (InputError, TypeError, ValueError) as error:
            raise self._polite(
                error
                if isinstance(error, InputError)
                else InputError(
                    f"Found {given}; expected numbers and names; see the endpoint's description."
                )
            ) from None

    def _name(self, model: str) -> str:
        return (model or "").strip() or self.desk.models.first

    def _analysis(
        self,
        image: object,
        prompt: str,
        model: str,
        request: gr.Request | None,
        task: tasks.Task,
    ) -> Analysis:
        with tempfile.TemporaryDirectory(prefix="svl-") as folder:
            found = self.desk.workspace.analyse(
                self._name(model),
                _path(image, Path(folder), self.desk.limits.image_bytes),
                prompt,
                task,
            )
        self.desk.uploads.hold(session_of(request), (found.model, found.sample.key))
        return found

    def _scores(self, analysis: Analysis, now: Settings, task: tasks.Task):
        used = self.desk.sources(analysis.model, now)
        return self.desk.rank(
            self.desk.analysis_of_source(analysis.model, used.rank, analysis, now, task),
            now,
            task,
        )

    def _plan(
        self,
        analysis: Analysis,
        now: Settings,
        drop: int,
        layers: list[int] | None,
        task: tasks.Task,
    ):
        if layers is not None:
            return svl.manual_plan(layers, analysis.trace.num_layers)
        return svl.plan(self._scores(analysis, now, task), drop)

    def _fit(self, analysis: Analysis, now: Settings, task: tasks.Task) -> tuple:
        """What compensation is fitted on: the bundled set where the model knows it, else the sample
        itself.
        """
        return (
            ()
            if now.compensation == "none"
            else self.desk.samples(
                analysis.model,
                self.desk.sources(analysis.model, now).fit,
                analysis,
                now,
                task,
            )
        )

    def _run(self, work: Callable, request: gr.Request | None):
        """Progress while `work` runs, its result last; errors as one sentence."""
        desk, pace, now = (
            self.desk,
            tasks.Pace(),
            {"doing": "Starting", "progress": 0.0, "left_s": None},
        )
        lane = f"/api-{secrets.token_hex(4)}"  # a program may ask for several things at once
        try:
            result = None
            for item in desk.work(work, session_of(request), lane):
                if item is not None and "doing" not in item:
                    result = item
                now = _told(item, now, pace)
                if (
                    result is not None and "rows" in result and "model" not in result
                ):  # a sweep's rows so far
                    yield {**now, **result}
                elif result is None:
                    yield now
            yield result
        except Cancelled as error:
            raise self._polite(InputError(str(error))) from None
        except Exception as error:
            if out_of_memory(error):
                error.__traceback__ = None
                desk.relieve()
            raise self._polite(error) from None

    def _polite(self, error: Exception) -> gr.Error:
        return polite(error, self.desk.limits.details)


def publish(desk: Desk) -> None:
    """Declare the endpoints; call inside the page's Blocks.

    They share the heavy work's queue with the page.
    """
    service = Service(desk)
    for name in NAMES:
        gr.api(
            getattr(service, name),
            api_name=name,
            concurrency_id="model",
            concurrency_limit=desk.limits.heavy_jobs,
        )


# ---------------------------------------------------------------------- values
def _known(what: str, name: str | None, known) -> None:
    if name is not None and name not in known:
        raise InputError(
            f"Found the {what} {name!r}; expected one of {', '.join(known)}; choose one."
        )


def _path(image: object, folder: Path, most: int) -> str:
    """A file of the picture: an upload where it lies, anything else written into `folder`.

    Raises InputError; reads nothing outside the upload folder.
    """
    if isinstance(image, dict):
        path, uploads = (
            Path(str(image.get("path") or "")).resolve(),
            Path(get_upload_folder()).resolve(),
        )
        if uploads not in path.parents:
            raise InputError(
                "Found a file outside the upload folder; expected an uploaded picture; pass it"
                " through gradio_client.handle_file."
            )
        return str(path)
    text = str(image or "").strip()
    if text.startswith("data:"):
        head, _, body = text.partition(",")
        if ";base64" not in head or len(body) > 2 * most:
            raise InputError(
                "Found a data address that is no base64 or too long; expected a picture of at most"
                f" {most:,} bytes; send a smaller one."
            )
        try:
            content = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise InputError(
                "Found a data address that is no base64; expected data:image/png;base64, and the"
                " picture's bytes; encode it again."
            ) from None
        file = folder / "picture"
        file.write_bytes(content)
        return str(file)
    scene = examples.from_origin(text)
    if scene is None:
        raise InputError(
            "Found no picture; expected a data address, an upload, or a scene such as example:0,"
            " draw:7 or compose:noto:0=cat; see the endpoint's description."
        )
    file = folder / "scene.png"
    examples.render(scene[0]).save(file)
    return str(file)


def _told(item: dict | None, before: dict, pace: tasks.Pace) -> dict:
    """What a task reports as {"doing", "progress", "left_s"}: 0..1, and seconds left by the pace so
    far.
    """
    if "doing" not in (item or {}):
        return before
    text, share = item["doing"]
    left = pace.left(share)
    return {
        "doing": text,
        "progress": before["progress"] if share is None else share,
        "left_s": None if left is None else round(left, 1),
    }


def _floats(values) -> list:
    return [None if value != value else round(float(value), 6) for value in values]


def _plan_json(plan: "svl.DropPlan", now: Settings) -> dict:
    return {
        "drop": [int(k) for k in plan.drop],
        "keep": [int(k) for k in plan.keep],
        "criterion": plan.criterion,
        "compensation": now.compensation,
    }
