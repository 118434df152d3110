"""The page's public endpoints: the same analysis, comparison, sweep and evaluation for programs,
within the same limits.

Usable with `gradio_client`, and as MCP tools where gradio's extra `mcp` is installed. Every
endpoint yields {"doing", "progress", "left_s"} while it works and its result last, so that a client
sees progress, can cancel, and keeps what came.
"""

from __future__ import annotations

import base64
import binascii
import functools
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import gradio as gr
from gradio.utils import get_upload_folder

import svl_core as svl
from svl_core.comparison.methods import methods
from svl_core.comparison.presets import preset_of
from svl_core.errors import Cancelled, InputError
from svl_core.recipe import DEMO, HALF, HALVES, OPTIONS, THINNING
from svl_core.service import tasks
from svl_core.service.derived import importance_of, scores_of
from svl_core.service.errors import out_of_memory
from svl_core.service.presets import preset_values
from svl_core.service.stores import Analysis
from svl_core.service.words import Dependence, Word, Words, strongest
from svl_core.service.workspace import Workspace
from svl_core.ui import arguments, examples, results
from svl_core.ui.arguments import FITS, IN_SWEEPS, LOOKS, RANKS, UNITS, Argument, more, of_recipe
from svl_core.ui.drawing import matrix_of
from svl_core.ui.errors import polite
from svl_core.ui.gradio_patches import mcp_tools
from svl_core.ui.state.settings import DEFAULTS, PLAN, Settings
from svl_core.ui.wiring import session_of

SCENES_SEED = 20_000  # of `evaluate`: a stream that nothing is fitted on
RANKING_SET = "how many layers to drop, the most redundant over the bundled calibration set first"

PICTURE = Argument(
    "image",
    str | dict,
    "a picture: a data address (data:image/png;base64,...), a scene of the bundled world"
    ' ("example:0" to "example:5", "draw:SEED", "compose:noto:0=cat,4=red circle"), or an upload:'
    " the path or the address that POST /gradio_api/upload gave, or gradio_client.handle_file",
)
PROMPT = Argument("prompt", str, "the question about the picture")
MODEL = Argument("model", str, "name of a model on the page's list; empty: the page's own", "")
BRIEF = Argument(
    "brief",
    bool,
    "leave out what is long: matrices, tokens, settings, what each kind reached",
    False,
)
LENGTH = Argument("max_new_tokens", int, "longest answer, in tokens", DEFAULTS.max_new_tokens)

CRITERIA = arguments.NAMES["criterion"]
COMPENSATIONS = arguments.NAMES["compensation"]
REGISTRIES: Mapping[str, Collection[str]] = {
    **arguments.NAMES,
    "criterion": svl.CRITERIA,  # one that ranks nothing has a sentence of its own
}
"""Where the names of a recipe's fields are looked up."""

OF_TWO_MODELS = more(
    [
        PICTURE,
        PROMPT,
        of_recipe("drop", 4, "how many layers to drop, the most redundant first"),
        of_recipe("layers", None, "these layers instead (0-based)"),
        MODEL,
        of_recipe("criterion"),
        of_recipe("compensation", "none", "what repairs the gap"),
        of_recipe("rank"),
        of_recipe("strength"),
        LENGTH,
    ],
    *RANKS,
    *FITS,
    "visual_share",
    *LOOKS,
    of_recipe("preset", None),
    BRIEF,
    *THINNING[1:],
    *UNITS,
)
"""Of what asks a full and a pruned model the same."""
WHOSE = Argument("answer", Literal["full", "pruned"], "whose answer the word is of", "full")
PLACE = Argument("place", int, "which of its tokens, from 0", 0)
DEPENDS = Argument(
    "relevance",
    bool,
    "which patches the word depends on too, with its check: a backward pass and 22 passes a model",
    False,
)

# Those of the first version come first, in its order: programs may pass them by place.
ARGUMENTS: Mapping[str, list[Argument]] = {
    "analyse": more(
        [PICTURE, PROMPT, MODEL, of_recipe("criterion"), of_recipe("top_p")], *RANKS, *LOOKS, BRIEF
    ),
    "compare": OF_TWO_MODELS,
    "sweep": more(
        [
            PICTURE,
            PROMPT,
            Argument(
                "criteria",
                list[Literal[tuple(CRITERIA)]],
                "what ranks the layers, one or several",
                ["svl"],
            ),
            Argument(
                "compensations",
                list[Literal[tuple(COMPENSATIONS)]],
                "what repairs the gap, one or several",
                ["none"],
            ),
            Argument(
                "drops",
                list[int] | None,
                "numbers of layers to drop; empty: from 0 to all that can go",
                None,
            ),
            MODEL,
            Argument("max_new_tokens", int, LENGTH.help, 32),
        ],
        *(name for name in (*RANKS, *FITS, *LOOKS) if name not in IN_SWEEPS),
        BRIEF,
        *THINNING,
        UNITS[0],
    ),
    "evaluate": more(
        [
            of_recipe("drop", 0, f"{RANKING_SET}; 0: the full model alone"),
            Argument("questions", int, "how many to ask, thirteen kinds in turn", 100),
            of_recipe("seed", 0, "of the questions; same seed, same questions"),
            MODEL,
            of_recipe("criterion"),
            of_recipe("compensation", "none", "what repairs the gap"),
        ],
        *RANKS,
        *(name for name in FITS if name != "calibration"),
        "visual_share",
        *LOOKS,
        of_recipe("preset", None),
        of_recipe("layers", None, "these layers instead (0-based)"),
        BRIEF,
        *THINNING[1:],
        *UNITS,
    ),
    "lens": OF_TWO_MODELS,
    "word": [*OF_TWO_MODELS[:2], WHOSE, PLACE, *OF_TWO_MODELS[2:], DEPENDS],
    "models": [BRIEF],
}
NAMES = tuple(ARGUMENTS)
UPLOADED = "/gradio_api/file="  # before the path, in the address of an uploaded file
MOST_ADDRESS = 4096  # characters of a path, or of such an address


class Service:
    """The endpoints over one page's workspace; `given` are an endpoint's arguments by name."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    # ------------------------------------------------------------------ endpoints
    def analyse(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """Which decoder layers of a vision-language model are redundant for an image and a prompt,
        from one forward pass.

        Returns:
            model, layers, visual_tokens, text_tokens, detail, grid, criterion, ranking (0-based
            layers, most redundant first), protected, redundancy (cosine of every layer by
            criterion), similarity ((L+1) x (L+1)), importance (visual, text), tokens
        """
        settings = self._settings(given, "analyse")

        def work(task: tasks.Task) -> dict:
            analysis = self._analysis(given, settings, request, task)
            sample = analysis.sample
            ranking = self._ranking(analysis, settings, given, task)
            visual, text = importance_of(analysis, settings).averaged(0)
            redundancy = {
                name: _floats(scores_of(analysis, settings, name).scores)
                for name, row in svl.CRITERIA.items()
                if row.needs == "trace"
            }
            matrix = matrix_of(analysis, settings, "important")
            return {
                "model": analysis.model,
                "layers": analysis.trace.num_layers,
                "visual_tokens": len(sample.visual),
                "text_tokens": len(sample.textual),
                "detail": analysis.detail,
                "grid": sample.geometry.grid and list(sample.geometry.grid),
                "criterion": settings.criterion,
                "ranking": [int(layer) for layer in ranking.ranking],
                "protected": [int(layer) for layer in ranking.protected],
                "redundancy": redundancy | {settings.criterion: _floats(ranking.scores)},
                "similarity": [_floats(row) for row in matrix],
                "importance": {"visual": _floats(visual), "text": _floats(text)},
                "tokens": list(sample.tokens),
            }

        yield from self._run(work, request)

    def compare(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """Drops decoder layers and lets the full and the pruned model answer: both texts, how far
        apart they are, size and speed.

        Returns:
            plan (drop, keep, where halves of layers are skipped attention and mlp, criterion,
            compensation), full and pruned (text, tokens, times in ms),
            kl (nats per token), agreement (0 to 1), exact, first_divergence, token_probabilities,
            parameters, speedup (prefill and decode, measured; expected of the work left; noise: why
            a measured one says nothing, or null)
        """
        settings = self._settings(given, "compare")

        def work(task: tasks.Task) -> dict:
            analysis = self._analysis(given, settings, request, task)
            plan = self._plan(analysis, settings, given, task)
            compared = self.workspace.compare(analysis, plan, settings, task)
            plan_json = _plan_json(plan, settings)
            compared_json = compared.comparison.to_json()
            return {"model": analysis.model, "plan": plan_json, **compared_json}

        yield from self._run(work, request)

    def sweep(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """Fidelity and speed at every number of dropped layers, for each criterion with each
        compensation, on one image and prompt.

        Returns:
            rows (criterion, compensation, drop, layers, kl, agreement, exact, speedup, expected,
            noise: why the measured speedup says nothing, or null), cliffs, pareto; while it runs,
            the rows so far
        """
        settings = self._settings(given, "sweep")

        def work(task: tasks.Task) -> dict:
            criteria, compensations = tuple(given["criteria"]), tuple(given["compensations"])
            drops = tuple(given["drops"] or ())
            for name in criteria:
                _check_name("criterion", name)
            for name in compensations:
                _check_name("compensation", name)
            analysis = self._analysis(given, settings, request, task)
            counts = len(drops) or analysis.trace.num_layers
            recipe = settings.recipe.changed(granularity=given["granularity"])
            if recipe.granularity == HALF and not drops:
                counts *= len(HALVES)
            points = len(criteria) * len(compensations) * counts
            self.workspace.limits.check("sweep_points", points, "pruned models in the sweep")
            fit = self.workspace.fit_samples(analysis, settings, task)
            options = {
                "criteria": criteria,
                "compensations": compensations,
                "drops": drops or None,
                "max_new_tokens": settings.max_new_tokens,
                "allow_shared": len(fit) == 1,
            }

            def show(swept) -> None:
                task.emit({"rows": [row.to_json() for row in swept.rows]})

            swept = self.workspace.backend.sweep(
                analysis.model, analysis.samples, fit, recipe, options, show, task
            )
            return swept.to_json()

        yield from self._run(work, request)

    def evaluate(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """Share of right answers to labelled questions about fresh scenes of the bundled world, of
        the full model and of a pruned one.

        Returns:
            data, n, accuracy, interval (95 %), by_kind; with layers dropped also full,
            accuracy_kept, lost, gained
        """
        drop, questions = given["drop"], given["questions"]
        settings = self._settings({**given, "seed": DEFAULTS.seed}, "evaluate")

        def work(task: tasks.Task) -> dict:
            self.workspace.limits.check("questions", questions, "questions")
            if questions < 1 or drop < 0:
                raise InputError(
                    f"Found {questions} questions and {drop} layers to drop; expected at least 1"
                    " and 0; change them."
                )
            from svl_core.demo.questions import labelled

            name = self._name(given)
            lvlm = self.workspace.load_model(name, task)
            plan, fit = _named_plan(given, lvlm.num_layers), ()
            ranks = not _names_what_goes(given) and drop > 0
            if ranks or (plan.drop and settings.fits):
                ranked = self._scenes(name, settings, task)
                fit = ranked.samples
            if ranks:
                plan = svl.plan(self._ranked(ranked, settings, given, task), drop)
            evaluation = self.workspace.backend.evaluate(
                name,
                labelled(questions, SCENES_SEED + given["seed"]),
                plan,
                settings.recipe,
                fit,
                settings.max_new_tokens,
                task,
            )
            return {"model": name, "plan": _plan_json(plan, settings), **evaluation.to_json()}

        yield from self._run(work, request)

    def lens(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """When an answer is decided: what each layer of the full and of the pruned model would say
        in the place of each token of the full model's answer.

        Returns:
            model, plan, answer (the full model's text), full and pruned (null where nothing is
            dropped), each with layer_ids (0-based, of the original model), tokens, decided (layer
            from which on each token stays first, null for never), words and shares (layers x tokens
            x 3, the likeliest), probability and rank (layers x tokens, of the token), entropy
            (nats)
        """
        settings = self._settings(given, "lens")

        def work(task: tasks.Task) -> dict:
            words, told = self._words(given, settings, request, task)
            found = words.lenses(task)
            return {
                **told,
                "full": found.full.to_json(),
                "pruned": found.pruned and found.pruned.to_json(),
            }

        yield from self._run(work, request)

    def word(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """Where the full and the pruned model look while they predict one word of an answer, and
        which patches of the image it depends on.

        Returns:
            model, plan, answer (the full model's text), word, place, kinds, full and pruned (null
            where nothing is dropped), each with layer_ids, shares (layers x heads x 4, of the
            attention on each of the kinds), strongest (the head that looks at the image most:
            layer, head, patches) and relevance (null where it is not asked for: values of the
            patches, covered, whole, without_relevant, without_random: probabilities of the word
            with patches covered, holds, place_bias)
        """
        settings = self._settings(given, "word")

        def work(task: tasks.Task) -> dict:
            from svl_core.analysis.word_attention import KINDS

            words, told = self._words(given, settings, request, task)
            word = Word(given["answer"], given["place"])
            looks = words.looks(word, task)
            depends = words.dependences(word, task) if given["relevance"] else (None, None)
            return {
                **told,
                "word": looks.full.token,
                "place": looks.full.place,
                "kinds": list(KINDS),
                "full": _word_json(looks.full, depends[0]),
                "pruned": looks.pruned and _word_json(looks.pruned, depends[1]),
            }

        yield from self._run(work, request)

    def models(self, given: dict, request: gr.Request | None) -> Iterator[dict]:
        """Which models this page offers, and the criteria, compensations, selectors of visual
        tokens and presets by name, with their sources.

        Returns:
            first (the page's own model), any (whether other ids of the Hub are taken too), models
            (id, size, licence, what they are good for), loaded, criteria, compensations, selectors
            (of visual tokens), presets
        """
        models, limits = self.workspace.models, self.workspace.limits
        listed = [asdict(entry) for entry in limits.offered()]
        if models.first not in {entry["id"] for entry in listed}:
            listed.insert(0, {"id": models.first})
        yield {
            "first": models.first,
            "any": limits.any_model,
            "models": listed,
            "loaded": models.names(),
            **methods(),
        }

    # ------------------------------------------------------------------ the parts
    def _settings(self, given: Mapping[str, Any], endpoint: str) -> Settings:
        """The arguments that are settings, on the preset if one is named.

        Raises gr.Error for what is not accepted.
        """
        values = {name: given[name] for name in OPTIONS if name in given and name not in PLAN}
        length = min(DEFAULTS.max_new_tokens, self.workspace.limits.new_tokens)
        try:
            for what in REGISTRIES:
                if what in values:
                    _check_name(what, values[what])
            values["max_new_tokens"] = given.get("max_new_tokens", length)
            settings = self._on_preset(Settings.of(**values), given, endpoint)
            return self.workspace.checked_settings(settings)
        except InputError as error:
            raise self._polite(error) from None
        except (TypeError, ValueError):
            raise self._polite(
                InputError(
                    f"Found {values}; expected numbers and names; see the endpoint's description."
                )
            ) from None

    def _on_preset(self, settings: Settings, given: Mapping[str, Any], endpoint: str) -> Settings:
        """The settings with what the named preset sets, but for arguments that say otherwise.

        Raises InputError for an unknown preset.
        """
        if given.get("preset") is None:
            return settings
        workspace = self.workspace
        most = workspace.limits.calibration_samples
        preset = preset_of(given["preset"])
        name = self._name(given)
        values = preset_values(preset, name, workspace.scene_models, settings, most)
        usual = {argument.name: argument.default for argument in ARGUMENTS[endpoint]}
        usual = {field: OPTIONS[field].checked(usual[field]) for field in values if field in usual}
        said = [field for field, value in usual.items() if given[field] != value]
        return settings.changed(**{k: v for k, v in values.items() if k not in said})

    def _name(self, given: Mapping[str, Any]) -> str:
        return (given["model"] or "").strip() or self.workspace.models.first

    def _analysis(
        self,
        given: Mapping[str, Any],
        settings: Settings,
        request: gr.Request | None,
        task: tasks.Task,
    ) -> Analysis:
        with tempfile.TemporaryDirectory(prefix="svl-") as folder:
            most_bytes = self.workspace.limits.image_bytes
            path = _path(given["image"], Path(folder), most_bytes)
            name, most = self._name(given), settings.max_visual_tokens
            detail = self.workspace.settled(name, path, settings, task).detail
            analysis = self.workspace.analyse(name, path, given["prompt"], task, detail, most)
        key = analysis.model, analysis.sample.key
        self.workspace.uploads.hold(session_of(request), key)
        return analysis

    def _ranking(
        self, analysis: Analysis, settings: Settings, given: Mapping[str, Any], task: tasks.Task
    ) -> svl.LayerScores:
        workspace, model = self.workspace, analysis.model
        source = workspace.sources(model, settings).rank
        ranked = workspace.analysis_of_source(model, source, analysis, settings, task)
        return self._ranked(ranked, settings, given, task)

    def _ranked(
        self, ranked: Analysis, settings: Settings, given: Mapping[str, Any], task: tasks.Task
    ) -> svl.LayerScores:
        """The layers, or their halves, ranked on an analysis; where a preset's criteria compete for
        layers, by the one that wins.
        """
        if given.get("granularity") == HALF:
            return self.workspace.rank_halves(ranked, settings, task)
        preset = svl.PRESETS.get(given.get("preset"))
        if preset and preset.rivals and settings.criterion == preset.recipe.criterion:
            return self.workspace.competed(preset, ranked, settings, given["drop"], task)
        return self.workspace.rank(ranked, settings, task, rounds=settings.rounds)

    def _scenes(self, name: str, settings: Settings, task: tasks.Task) -> Analysis:
        """The bundled set as the model reads it, traced."""
        workspace = self.workspace
        samples = workspace.samples(name, DEMO, None, settings, task)
        needs_mlp = svl.COMPENSATIONS[settings.compensation].needs_mlp
        trace = workspace.backend.traced(name, samples, needs_mlp, task)
        return Analysis(name, samples, trace, svl.importance(trace))

    def _plan(
        self,
        analysis: Analysis,
        settings: Settings,
        given: Mapping[str, Any],
        task: tasks.Task,
    ) -> svl.DropPlan:
        if _names_what_goes(given):
            return _named_plan(given, analysis.trace.num_layers)
        return svl.plan(self._ranking(analysis, settings, given, task), given["drop"])

    def _words(
        self,
        given: Mapping[str, Any],
        settings: Settings,
        request: gr.Request | None,
        task: tasks.Task,
    ) -> tuple[Words, dict]:
        """Both answers' words, once both models gave them, and what they are of."""
        analysis = self._analysis(given, settings, request, task)
        plan = self._plan(analysis, settings, given, task)
        found = self.workspace.compare(analysis, plan, settings, task).comparison
        answers = found.full.token_ids, found.pruned.token_ids
        told = {
            "model": analysis.model,
            "plan": _plan_json(plan, settings),
            "answer": found.full.text,
        }
        return Words(self.workspace, analysis, plan, settings, answers), told

    def _run(self, work: Callable, request: gr.Request | None) -> Iterator[dict]:
        """Progress while `work` runs, its result last; errors as one sentence."""
        workspace, pace = self.workspace, tasks.Pace()
        progress = {"doing": "Starting", "progress": 0.0, "left_s": None}
        lane = f"/api-{secrets.token_hex(4)}"  # a program may ask for several things at once
        result: dict | None = None
        try:
            for update in workspace.work(work, session_of(request), lane):
                if update is not None and "doing" not in update:
                    result = update
                progress = _progress(update, progress, pace)
                if result is None:
                    yield progress
                elif "rows" in result and "model" not in result:  # a sweep's rows so far
                    yield {**progress, **result}
            yield result
        except Cancelled as error:
            raise self._polite(InputError(str(error))) from None
        except Exception as error:
            if out_of_memory(error):
                error.__traceback__ = None
                workspace.relieve()
            raise self._polite(error) from None

    def _polite(self, error: Exception) -> gr.Error:
        return polite(error, self.workspace.limits.details)


def publish(blocks: gr.Blocks, workspace: Workspace) -> None:
    """Declares the endpoints, and as what MCP serves them; call inside the page's Blocks.

    What runs a model shares the heavy work's queue with the page.
    """
    service, tools = Service(workspace), {}
    heavy = {"concurrency_id": "model", "concurrency_limit": workspace.limits.heavy_jobs}
    for name, general in ARGUMENTS.items():
        accepted = [_offered(argument, workspace) for argument in general]
        work = shortened(getattr(service, name), results.BRIEF[name])
        lane = {} if name == "models" else heavy
        gr.api(arguments.endpoint(work, accepted), api_name=name, **lane)
        tools[name] = mcp_tools.Tool(arguments.schema(accepted), results.RESULTS[name])
    mcp_tools.apply(blocks, tools)


def _offered(argument: Argument, workspace: Workspace) -> Argument:
    """The argument with the page's own models, where it names one."""
    if argument is not MODEL:
        return argument
    limits, first = workspace.limits, workspace.models.first
    names = dict.fromkeys([first, *(entry.id for entry in limits.offered())])
    listed: Any = Literal[tuple(names)]
    return replace(argument, kind=listed | str if limits.any_model else listed, default=first)


def shortened(work: Callable, shorten: Callable[[dict], dict]) -> Callable:
    """`work`, whose last value is made brief where that is asked for."""

    @functools.wraps(work)
    def worked(given: dict, request: gr.Request | None) -> Iterator[dict]:
        asked = {name: value for name, value in given.items() if name != BRIEF.name}
        for found in work(asked, request):
            unfinished = "doing" in found
            yield found if unfinished or not given[BRIEF.name] else shorten(found)

    return worked


# ---------------------------------------------------------------------- values
def _check_name(what: str, name: object) -> None:
    """Raises InputError for a name that its registry does not hold."""
    registry = REGISTRIES[what]
    if name not in registry:
        title = OPTIONS[what].label
        raise InputError(
            f"Found the {title} {name!r}; expected one of {', '.join(registry)}; choose one."
        )


def _path(image: object, folder: Path, most: int) -> str:
    """A file of the picture: an upload where it lies, anything else written into `folder`.

    Raises InputError; reads nothing outside the upload folder.
    """
    if isinstance(image, dict):
        return _uploaded(str(image.get("path") or ""))
    text = str(image or "").strip()
    if text.startswith("/") or UPLOADED in text[:MOST_ADDRESS]:
        return _uploaded(unquote(text.rpartition(UPLOADED)[2]))
    if text.startswith(("http://", "https://")):
        raise InputError(
            "Found a web address, and nothing is fetched here; expected the picture itself;"
            " download it, and send it as a data address or to /gradio_api/upload."
        )
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


def _uploaded(name: str) -> str:
    """An uploaded file's path. Raises InputError for a path that is none."""
    path, uploads = Path(name[:MOST_ADDRESS]).resolve(), Path(get_upload_folder()).resolve()
    if uploads not in path.parents:
        raise InputError(
            "Found a file outside the upload folder; expected an uploaded picture; send it to"
            " /gradio_api/upload, or pass it through gradio_client.handle_file."
        )
    if not path.is_file():
        raise InputError(
            "Found an upload that is no longer here; expected one of the last minutes; send it"
            " again."
        )
    return str(path)


def _progress(update: dict | None, before: dict, pace: tasks.Pace) -> dict:
    """What a task reports as {"doing", "progress", "left_s"}: 0..1, and seconds left by the pace so
    far.
    """
    if "doing" not in (update or {}):
        return before
    text, share = update["doing"]
    left_s = pace.left(share)
    return {
        "doing": text,
        "progress": before["progress"] if share is None else round(share, 3),
        "left_s": None if left_s is None else round(left_s, 1),
    }


def _floats(values) -> list:
    return [None if value != value else round(float(value), 6) for value in values]


def _word_json(attention: svl.WordAttention, depends: Dependence | None) -> dict:
    """What one model looks at while it predicts a word, and what the word depends on."""
    layer, head = strongest(attention)
    found = {
        "layer_ids": list(attention.layer_ids),
        "shares": [[_floats(head) for head in heads] for heads in attention.shares],
        "strongest": {
            "layer": layer,
            "head": head,
            "patches": _floats(attention.on_image(layer, head)),
        },
        "relevance": None,
    }
    if depends is not None:
        check, relevance = depends.check, depends.relevance
        found["relevance"] = {
            "values": _floats(relevance.values),
            "place_bias": _floats([relevance.place_bias])[0],
            "covered": check.covered,
            "whole": check.whole,
            "without_relevant": check.without_relevant,
            "without_random": _floats(check.without_random),
            "holds": check.holds,
        }
    return found


NAMING = ("layers", "drop_attention", "drop_mlp")
"""Arguments that name what goes."""


def _names_what_goes(given: Mapping[str, Any]) -> bool:
    """Whether layers or halves are named, so that none are ranked."""
    return any(given[name] is not None for name in NAMING)


def _named_plan(given: Mapping[str, Any], num_layers: int) -> svl.DropPlan:
    """The plan of the layers and halves that are named; nothing goes where none are."""
    layers, attention, mlp = (given[name] or () for name in NAMING)
    return svl.manual_plan(layers, num_layers, attention=attention, mlp=mlp)


def _plan_json(plan: svl.DropPlan, settings: Settings) -> dict:
    return {
        "drop": [int(layer) for layer in plan.drop],
        "keep": [int(layer) for layer in plan.keep],
        **{half: list(layers) for half, layers in plan.skipped.items()},
        "criterion": plan.criterion,
        "compensation": settings.compensation,
    }
