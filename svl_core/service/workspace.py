"""`Workspace`: everything behind the page that works with models, for all its visitors.

It knows analyses, calibration sets and rankings by what they are made of, and computes each once.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

import svl_core as svl
from svl_core.comparison.jsonl import file_named
from svl_core.errors import InputError
from svl_core.lvlm.images import upright_size
from svl_core.progress import QUIET, Run
from svl_core.recipe import AUTO, DEMO, FULL, HALF, OWN, THIS
from svl_core.service import calibration, errors, presets, tasks
from svl_core.service.backend import Show, show_nothing
from svl_core.service.calibration import CalibrationSources, sources_for
from svl_core.service.deployment import choose_backend
from svl_core.service.derived import ranking_key, scores_of
from svl_core.service.limits import Limits
from svl_core.service.settings import VisitorSettings
from svl_core.service.stores import Analysis, BoundedStore, Models, PrunedTrace, set_key
from svl_core.service.uploads import Holdings

if TYPE_CHECKING:
    from svl_core.comparison.fidelity import Compared
    from svl_core.lvlm.features import KnownFeatures

ANALYSES, ANALYSIS_BYTES = 48, 768 * 2**20  # stored for all sessions together
SWEEPS = 16
SETS = 4  # calibration sets, as encoded and as traced
SKILLS = 64  # pruned models whose skills were measured
WORDS, WORD_BYTES = 256, 128 * 2**20  # things that were read of answers' words
RANKING, EVIDENCE, LESSON, READING = "/ranking", "/evidence", "/lesson", "/words"
HALVES = "/halves"
"""Lanes beside that of analysis and answers ("")."""
LANES = ("", RANKING, EVIDENCE, LESSON, READING, HALVES)
POLL_S = 0.5  # how often the share of a load is told
Settled = TypeVar("Settled", bound=VisitorSettings)
SHOWN_PIXELS = 640  # of a kept picture's longer side, as large as figures show it


class Workspace:
    """The models, the stores that sessions share by content, and the work of all visitors.

    models: those that are loaded, and the one that the page was started with.
    scene_models: names of the models that know the bundled scenes, and are calibrated on them.
    limits: what a visitor may ask for.
    upload_folder: where uploaded files lie; only files below it are ever deleted.
    """

    def __init__(
        self,
        models: Models,
        scene_models: frozenset[str],
        limits: Limits,
        upload_folder: Callable[[], str | Path],
    ) -> None:
        self.models, self.scene_models, self.limits = models, scene_models, limits
        self.backend = choose_backend(models, limits)
        self.jobs = tasks.Jobs()
        self.analyses = BoundedStore(ANALYSES, ANALYSIS_BYTES)
        self.features: KnownFeatures = weakref.WeakValueDictionary()
        """Of the images that analyses and sets hold, as long as they do."""
        self.sweeps = BoundedStore(SWEEPS)
        self.skills = BoundedStore(SKILLS)
        """Of the lesson, by model and layers: the same few plans for every visitor."""
        self.words = BoundedStore(WORDS, WORD_BYTES)
        """What was read of answers' words, see `service/words.py`."""
        self.traced_sets = BoundedStore(SETS, 4 * calibration.MOST_BYTES)
        self.encoded_sets = BoundedStore(SETS, 2 * calibration.MOST_BYTES)
        self.own_sets: dict[str, calibration.Pairs] = {}
        """The visitors' own sets by digest."""
        self.uploads = Holdings(self._forget, upload_folder)

    # ------------------------------------------------------------------ models and images
    def load_model(self, name: str, run: Run = QUIET) -> svl.LVLM:
        """A model on offer, once it is loaded. Raises InputError, Cancelled."""
        self.limits.check_model(name, self.models.first)
        future = self.models.request(name)
        title = "the bundled model" if name == "demo" else name
        while not future.done():
            share, what = self.models.loading.get(name, (None, ""))
            run.step(share, f"Loading {title} … {what}".rstrip())
            concurrent.futures.wait([future], POLL_S)
        run.check()
        return future.result()

    def open_image(self, path: str):
        """An image within the limits, as RGB. Raises InputError."""
        if not Path(path).is_file():
            raise InputError(
                "Found that this picture is not on the server any more, which keeps it for the"
                " visit only; expected one that is; choose it again."
            )
        return svl.open_image(
            path, max_pixels=self.limits.image_pixels, max_bytes=self.limits.image_bytes
        )

    # ------------------------------------------------------------------ analyses
    def settled(self, name: str, path: str | None, settings: Settled, run: Run = QUIET) -> Settled:
        """The settings with the detail that "auto" stands for, for this model and image.

        Raises InputError, Cancelled.
        """
        if settings.detail != AUTO:
            return settings
        lvlm, detail = self.load_model(name, run), FULL
        if path and not lvlm.reader.sizes.one and self.backend.computes_here(name):
            size = upright_size(path) or self.open_image(path)
            detail = lvlm.detail_for([size]).detail
        return settings.changed(detail=detail)

    def analyse(
        self,
        name: str,
        path: str | None,
        prompt: str,
        run: Run = QUIET,
        detail: str = FULL,
        max_visual_tokens: int | None = None,
    ) -> Analysis:
        """The stored analysis of an image and prompt, or a new one: one forward pass.

        path: of the image, None for a prompt alone.
        detail, max_visual_tokens: how closely the image is looked at, see `settled`.

        Raises InputError, Cancelled.
        """
        if not path and name in self.scene_models:
            raise InputError(
                "Found no image; expected one; upload, paste or photograph an image, or pick an"
                " example."
            )
        self.limits.check("prompt_chars", len(prompt or ""), "characters in the prompt")
        lvlm = self.load_model(name, run)
        run.report(0.05, "Reading the image …" if path else "Reading the prompt …")
        image = self.open_image(path) if path else None
        reading = lvlm.reading(detail, max_visual_tokens)
        sample = reading.encode(image, prompt or "")
        analysis = self.analyses.get((name, sample.key))
        if analysis is None:
            from svl_core.lvlm.vision import seen

            known = self.features.get((name, sample.image_key))
            sample = replace(seen(sample, known), images=_for_display(sample.images))
            trace = self.backend.trace(name, sample, run)
            read = trace.samples[0].sample
            if read.features is not None:
                self.features[name, sample.image_key] = read.features
            kind = lvlm.model.config.model_type
            analysis = Analysis(name, (read,), trace, svl.importance(trace), detail, kind)
            self.analyses.put((name, sample.key), analysis)
        return analysis

    def analysis_of(self, state: dict) -> Analysis:
        """The session's analysis, computed anew where the store has dropped it."""
        analysis = self.analyses.get((state["model"], state["key"]))
        if analysis is None:
            path, prompt, detail = state["path"], state["prompt"], state.get("detail", FULL)
            analysis = self.analyse(state["model"], path, prompt, self._unwatched(), detail)
        return analysis

    def _unwatched(self) -> Run:
        """Work that nobody watches, for as long as a request may take."""
        return Run(cancel=tasks.Deadline(self.limits.request_s))

    # ------------------------------------------------------------------ calibration sets
    def sources(self, name: str, settings: VisitorSettings) -> CalibrationSources:
        """What the settings rank and fit on for a model."""
        return sources_for(name, self.scene_models, settings)

    def samples(
        self,
        name: str,
        source: str,
        analysis: Analysis | None,
        settings: VisitorSettings,
        run: Run = QUIET,
    ) -> tuple[svl.Sample, ...]:
        """The samples of a calibration source (`THIS`, `DEMO` or `OWN`), encoded once.

        analysis: the session's, for `THIS`; the images are looked at as closely as its own.

        Raises InputError, Cancelled.
        """
        if source == THIS:
            if analysis is None:
                raise ValueError("Found no analysis for the source 'this'; expected the session's.")
            return analysis.samples
        key = _encoded_key(name, source, analysis, settings)
        samples = self.encoded_sets.get(key)
        if samples is None:
            if source == OWN:
                pairs = self._own_pairs(settings.own)
            else:
                pairs = self._scenes(settings.calibration_size, settings.seed)
            self.load_model(name, run)
            watched = tasks.in_percent(run, "Reading the samples")
            reading = _reading(analysis, settings)
            samples = self.backend.encode(name, pairs, self.features, watched, *reading)
            self.encoded_sets.put(key, samples)
        return samples

    def _scenes(self, count: int, seed: int) -> Sequence:
        """(image, prompt) of the bundled set."""
        from svl_core.demo.questions import calibration as scenes

        self.limits.check("calibration_samples", count, "calibration samples")
        return scenes(count, seed)

    def _own_pairs(self, digest: str) -> Sequence:
        """(image, prompt) of a visitor's own set. Raises InputError."""
        files = self.own_sets.get(digest, ())
        self.limits.check("calibration_samples", len(files), "calibration samples")
        if not files:
            raise InputError(
                "Found none of your files any more; expected the set that was uploaded; upload it"
                " again."
            )
        pairs, pixels = [], 0
        for path, prompt in files:
            what = "characters in a prompt of the set"
            self.limits.check("prompt_chars", len(prompt), what)
            image = self._image_of_set(path)
            pixels += image.width * image.height
            self.limits.check("set_pixels", pixels, "pixels or more in the images of the set")
            pairs.append((image, prompt))
        return pairs

    def _image_of_set(self, path: str):
        """`open_image`, whose error names the file."""
        try:
            return self.open_image(path)
        except InputError as error:
            raise file_named(path, error) from error

    def analysis_of_source(
        self,
        name: str,
        source: str,
        analysis: Analysis,
        settings: VisitorSettings,
        run: Run = QUIET,
    ) -> Analysis:
        """A calibration source, traced: the session's analysis itself, or that of a set."""
        if source == THIS:
            return analysis
        samples = self.samples(name, source, analysis, settings, run)
        key = set_key(name, samples)
        traced = self.traced_sets.get(key)
        if traced is None:
            needs_mlp = svl.COMPENSATIONS[settings.compensation].needs_mlp
            trace = self.backend.traced(name, samples, needs_mlp, run)
            traced = Analysis(name, samples, trace, svl.importance(trace), analysis.detail)
            self.traced_sets.put(key, traced)
        return traced

    def ranking_analysis(self, state: dict, settings: VisitorSettings) -> Analysis:
        """What the layers of the session's analysis are ranked on, computed anew where the store
        has dropped it.
        """
        name = state["model"]
        analysis = self.analysis_of(state)
        source = self.sources(name, settings).rank
        return self.analysis_of_source(name, source, analysis, settings, self._unwatched())

    def evidence_source(self, state: dict, settings: VisitorSettings) -> str:
        """The set that this image alone is compared with: the one that ranks, else the bundled one
        or the visitor's own. Raises InputError where there is none.
        """
        source = self.sources(state["model"], settings).rank
        if source != THIS:
            return source
        if state["model"] in self.scene_models:
            return DEMO
        if settings.own:
            return OWN
        raise InputError(
            "Found no calibration set for this model; expected at least two samples; bring files of"
            " your own under “Calibration set”."
        )

    # ------------------------------------------------------------------ rankings
    def rank(
        self,
        analysis: Analysis,
        settings: VisitorSettings,
        run: Run = QUIET,
        criterion: str | None = None,
        rounds: int | None = None,
        most: int | None = None,
    ) -> svl.LayerScores:
        """The ranking of the layers on `analysis`, running the model where the criterion needs it,
        once for each content.

        criterion: by default the settings'.
        rounds: of a greedy criterion, all by default; a ranking of all rounds serves for fewer.
        most: samples that a criterion which runs the model sees, all by default.
        """
        name = criterion or settings.criterion
        scores = self.cached_ranking(analysis, settings, name, rounds, most)
        if scores is None:
            self.load_model(analysis.model, run)
            recipe = settings.recipe.changed(criterion=name, rounds=rounds)
            samples = analysis.samples[:most]
            scores = self.backend.rank(analysis.model, samples, analysis.trace, recipe, run)
            analysis.memo.put(ranking_key(analysis, settings, name, rounds, most), scores)
        return scores

    def rank_halves(
        self,
        analysis: Analysis,
        settings: VisitorSettings,
        run: Run = QUIET,
        halves: svl.SublayerScores | None = None,
    ) -> svl.LayerScores:
        """The ranking of the halves of layers on `analysis` by the settings' criterion, once for
        each content. The model runs for each of them.

        halves: what is known of the halves of the one sample.
        """
        scores = self.cached_halves(analysis, settings)
        if scores is None:
            self.load_model(analysis.model, run)
            recipe = settings.recipe.changed(granularity=HALF)
            scores = self.backend.rank(
                analysis.model,
                analysis.samples,
                analysis.trace,
                recipe,
                run,
                halves,
            )
            analysis.memo.put(_halves_key(analysis, settings), scores)
        return scores

    def cached_halves(
        self,
        analysis: Analysis,
        settings: VisitorSettings,
    ) -> svl.LayerScores | None:
        """`rank_halves` where it is known already."""
        return analysis.memo.get(_halves_key(analysis, settings))

    def cached_ranking(
        self,
        analysis: Analysis,
        settings: VisitorSettings,
        criterion: str,
        rounds: int | None = None,
        most: int | None = None,
    ) -> svl.LayerScores | None:
        """`rank` where the model need not run for it: the ranking follows from the trace, or is
        stored, with as many rounds or with all of them. None where the model must run.
        """
        if svl.CRITERIA[criterion].needs != "model":
            return scores_of(analysis, settings, criterion)
        all_rounds = analysis.memo.get(ranking_key(analysis, settings, criterion, None, most))
        return all_rounds or analysis.memo.get(
            ranking_key(analysis, settings, criterion, rounds, most)
        )

    def contest(self, name: str, settings: VisitorSettings) -> svl.Preset | None:
        """The preset whose criteria competed, if the settings are its; None for other settings."""
        most = self.limits.calibration_samples
        return presets.contested_preset(name, self.scene_models, settings, most)

    def rank_for_count(
        self, analysis: Analysis, settings: VisitorSettings, count: int, run: Run = QUIET
    ) -> svl.LayerScores:
        """`rank`, as far as a plan of `count` layers needs it.

        Where the settings are a preset's whose criteria competed, a criterion that runs the model
        does so on as few samples, and for as few rounds, as it competed with.
        """
        preset = self.contest(analysis.model, settings)
        if preset is None:
            return self.rank(analysis, settings, run)
        return self.rank(analysis, settings, run, rounds=max(count, 1), most=preset.ranked_on)

    def competed(
        self,
        preset: svl.Preset,
        ranked: Analysis,
        settings: VisitorSettings,
        count: int,
        run: Run = QUIET,
    ) -> svl.LayerScores:
        """The ranking whose `count` layers leave the answers nearest once compensated.

        The preset's criterion and its rivals compete, fitted and tried on different samples of the
        set that `ranked` is of. Raises InputError for a set of one.
        """
        samples = ranked.samples
        if len(samples) < 2:
            raise InputError(
                f"Found {len(samples)} sample for the preset {preset.title!r}; expected at least"
                " two, some to fit on and others to try; bring files of your own as the"
                " calibration set below."
            )
        key = presets.contest_key(preset, count, settings)
        won = ranked.memo.get(key)
        if won is None:
            limited = {"rounds": max(count, 1), "most": preset.ranked_on}
            rankings = [
                self.rank(ranked, settings, run, criterion, **limited)
                for criterion in preset.criteria
            ]
            plans = [svl.plan(ranking, min(count, ranking.most)) for ranking in rankings]
            best = self.backend.choose(ranked.model, preset.name, samples, plans, run)
            won = rankings[plans.index(best)]
            ranked.memo.put(key, won)
        return won

    # ------------------------------------------------------------------ settings and results
    def checked_settings(self, settings: VisitorSettings) -> VisitorSettings:
        """The page's settings, if their answer length is within the limits. Raises InputError."""
        what = "tokens as the answer's length"
        self.limits.check("new_tokens", settings.max_new_tokens, what)
        return settings

    def comparison_of(
        self, analysis: Analysis, strip: dict, settings: VisitorSettings
    ) -> svl.Comparison | None:
        """The comparison that the page shows for this plan, None before the answers ran."""
        return analysis.memo.get(_comparison_key(strip, settings))

    def pruned_trace_of(
        self, analysis: Analysis, strip: dict, settings: VisitorSettings
    ) -> PrunedTrace | None:
        """What is kept of the pruned model's own trace, None before the answers ran or where
        nothing is dropped.
        """
        return analysis.memo.get(_pruned_trace_key(strip, settings))

    def fit_samples(
        self, analysis: Analysis, settings: VisitorSettings, run: Run = QUIET
    ) -> tuple[svl.Sample, ...]:
        """The samples that a compensation is fitted on."""
        source = self.sources(analysis.model, settings).fit
        return self.samples(analysis.model, source, analysis, settings, run)

    def fit_holds(self, analysis: Analysis, settings: VisitorSettings) -> bool | None:
        """Whether the analysed picture is among the samples that a compensation is fitted on; None
        as long as these have not been read.
        """
        source = self.sources(analysis.model, settings).fit
        if source == THIS:
            return True
        key = _encoded_key(analysis.model, source, analysis, settings)
        samples = self.encoded_sets.get(key)
        if samples is None:
            return None
        asked = analysis.sample
        return any(
            sample.image_key == asked.image_key if asked.images else sample.key == asked.key
            for sample in samples
        )

    def compare(
        self,
        analysis: Analysis,
        plan: svl.DropPlan,
        settings: VisitorSettings,
        run: Run = QUIET,
        show: Show = show_nothing,
    ) -> Compared:
        """Both models' answers to the analysed question, from what the analysis left behind. The
        full model's answer is kept for the next plan.

        show: shown the answers as they grow.
        """
        from svl_core.comparison.pair import Known

        samples = self.fit_samples(analysis, settings, run) if settings.fits else ()
        length, answer = analysis.full_answer or (None, None)
        if length != settings.max_new_tokens:
            answer = None
        compared = self.backend.compare(
            analysis.model,
            analysis.sample,
            plan,
            settings.recipe,
            samples,
            settings.max_new_tokens,
            run=run,
            show=show,
            known=Known(analysis.trace, answer),
            fitted=analysis.trace if samples is analysis.samples else None,
        )
        if compared.full_answer is not None:
            analysis.full_answer = settings.max_new_tokens, compared.full_answer
        return compared

    def keep_comparison(
        self,
        analysis: Analysis,
        strip: dict,
        settings: VisitorSettings,
        compared: Compared,
    ) -> None:
        """Stores what `compare` found for a plan, for `comparison_of` and `pruned_trace_of`."""
        if compared.pruned_trace is not None:
            kept = PrunedTrace.of(compared.pruned_trace, strip["drop"])
            analysis.memo.put(_pruned_trace_key(strip, settings), kept)
        comparison = compared.comparison
        analysis.memo.put(_comparison_key(strip, settings), comparison)  # the newest always stays

    # ------------------------------------------------------------------ sessions
    def work(
        self,
        work: Callable[[tasks.Task], object],
        session: str,
        lane: str = "",
        show: tasks.Show = tasks.as_data,
        pace_s: float = 0.0,
    ) -> Iterator[Any]:
        """`tasks.run` for a session, within the limit on a request's time.

        lane: work of different lanes may run at the same time; that of `LANES` ends with the
            session.
        """
        limit_s = self.limits.request_s
        return tasks.run(work, self.jobs, session + lane, limit_s, show, pace_s)

    def stop(self, session: str, lane: str = "", replaced: bool = False) -> None:
        """Ends a session's work of one lane; what is read of answers ends with the answers' own.

        replaced: other work of that lane follows at once.
        """
        self.jobs.cancel(session + lane, replaced)
        if not lane:
            self.jobs.cancel(session + READING)

    def stop_all(self, session: str) -> None:
        """Ends all of a session's work."""
        for lane in LANES:
            self.stop(session, lane)

    def leave(self, session: str) -> None:
        """A session ended: its work stops, and its files and analyses go."""
        self.stop_all(session)
        self.uploads.leave(session)

    def relieve(self) -> None:
        """Forgets everything that can be computed or loaded again."""
        for store in (self.analyses, self.traced_sets, self.encoded_sets, self.words):
            store.clear()
        self.backend.relieve()
        errors.free_memory()

    def _forget(self, key: Hashable) -> None:
        """What no session holds any more: an analysis, or a visitor's own set by its digest."""
        self.analyses.drop(key)
        self.sweeps.drop(key)
        if isinstance(key, tuple) and len(key) == 2:
            name, sample_key = key
            self.backend.set_traces.drop((name, (sample_key,)))
        if isinstance(key, str) and key in self.own_sets:
            del self.own_sets[key]
            for store in (self.encoded_sets, self.traced_sets, self.backend.set_traces):
                store.clear()  # small: what belongs to others is made again


def _encoded_key(
    name: str, source: str, analysis: Analysis | None, settings: VisitorSettings
) -> tuple:
    """Under which the samples of a set are stored, as the model reads them."""
    chosen = (settings.own,) if source == OWN else (settings.calibration_size, settings.seed)
    return name, source, *chosen, *_reading(analysis, settings)


def _reading(analysis: Analysis | None, settings: VisitorSettings) -> tuple[str, int | None]:
    """How closely the images of a set are looked at: as closely as those of the analysis."""
    detail = settings.detail if analysis is None else analysis.detail
    return detail, settings.max_visual_tokens


def _halves_key(analysis: Analysis, settings: VisitorSettings) -> tuple:
    ranking = ranking_key(analysis, settings, settings.criterion, settings.rounds, None)
    return (HALF, *ranking)


def _comparison_key(strip: dict, settings: VisitorSettings) -> tuple:
    return "comparison", tuple(strip["drop"]), settings.key_prune


def _pruned_trace_key(strip: dict, settings: VisitorSettings) -> tuple:
    return "after", tuple(strip["drop"]), settings.key_prune


def _for_display(images: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
    """Pictures no larger than figures show them: the model has read the whole ones."""
    return tuple(map(_reduced, images))


def _reduced(image: Image.Image) -> Image.Image:
    if max(image.size) <= SHOWN_PIXELS:
        return image
    smaller = image.copy()
    smaller.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    return smaller
