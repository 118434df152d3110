"""What is read of the words of both answers to a question: when they are decided, where the models
look while they write them, which patches they depend on, and what the patches read as.

Each is read once for all sessions, from what the analysis and the answers left behind: the full
model's pass over the prompt is never repeated but for an answer's first word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

import svl_core as svl
from svl_core.errors import InputError
from svl_core.progress import QUIET, Run
from svl_core.service.backend import Both
from svl_core.service.settings import VisitorSettings
from svl_core.service.stores import Analysis
from svl_core.service.workspace import Workspace

FULL, PRUNED = SIDES = ("full", "pruned")
WRITTEN = re.compile(r"(full|pruned)-(\d{1,4})")
TOP = 3  # likeliest words kept of each layer and place
QUICK_OPERATIONS = 2e10  # a head that reads all patches with fewer does so unasked
Found = TypeVar("Found")


class Word(NamedTuple):
    """A token of one of the two answers.

    side: whose answer, "full" or "pruned".
    place: which token of it, from 0.
    """

    side: str
    place: int

    def __str__(self) -> str:
        return f"{self.side}-{self.place}"

    @classmethod
    def of(cls, text: str) -> Word | None:
        """The inverse of `str`; None for what is none."""
        read = WRITTEN.fullmatch(text)
        return cls(read[1], int(read[2])) if read else None


class Lenses(NamedTuple):
    """What each layer of both models would say in the places of the full model's answer.

    pruned: None where nothing is pruned.
    """

    full: svl.Lens
    pruned: svl.Lens | None


class Looks(NamedTuple):
    """Where both models look while they predict one word, behind the same words.

    pruned: None where nothing is pruned.
    places: of the patches that each model reads, as a sample's geometry.
    """

    full: svl.WordAttention
    pruned: svl.WordAttention | None
    places: tuple[svl.PatchGeometry, svl.PatchGeometry]


class Dependence(NamedTuple):
    """Which patches one model's word depends on, and what covering them does."""

    relevance: svl.Relevance
    check: svl.Occlusion


class Dependences(NamedTuple):
    """Of both models; pruned: None where nothing is pruned."""

    full: Dependence
    pruned: Dependence | None


class Patches(NamedTuple):
    """What the patches read as in the full model.

    named: the first layer behind which each names an object; None where only some were read, and
        where no name is known to the model.
    """

    seen: svl.VisualLens
    named: svl.NamedPatches | None


@dataclass(frozen=True, eq=False)
class Words:
    """The words of both answers to one question, under one plan.

    workspace: where the models are, and what was read.
    analysis: of the question.
    plan: which layers go.
    settings: how the pruned model is made.
    answers: the token ids of the full model's answer, and of the pruned one's.
    """

    workspace: Workspace
    analysis: Analysis
    plan: svl.DropPlan
    settings: VisitorSettings
    answers: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def key(self) -> tuple:
        """Of these words; what is read of the same ones is the same."""
        question = self.analysis.model, self.analysis.sample.key
        return *question, self.plan.key, self.settings.key_prune, self.answers

    @property
    def thins_within(self) -> bool:
        """Whether visual tokens leave the pruned model within its layers, or are skipped there:
        what its layers hand on has no common length then, so that it is not read.
        """
        row = svl.SELECTORS[self.settings.visual_tokens]
        within = bool(row.parts) or row.choose is not None
        return row.acts(self.settings) and (within or self.settings.visual_from > 0)

    def said(self, word: Word) -> tuple[int, ...]:
        """The answer that a word is of. Raises InputError for a word that it lacks."""
        if word.side not in SIDES:
            raise InputError(
                f"Found the answer {str(word.side)[:20]!r}; expected one of {', '.join(SIDES)};"
                " choose one."
            )
        answer = self.answers[SIDES.index(word.side)]
        if not 0 <= word.place < len(answer):
            raise InputError(
                f"Found word {word.place} of the {word.side} model's answer, which has"
                f" {len(answer)}; expected 0 to {len(answer) - 1}; choose one of them."
            )
        return answer

    # ------------------------------------------------------------------ what is known already
    def known_lenses(self) -> Lenses | None:
        return self._known("lens")

    def known_looks(self, word: Word) -> Looks | None:
        return self._known("looks", word)

    def known_dependences(self, word: Word) -> Dependences | None:
        return self._known("dependences", word)

    def known_patches(self) -> Patches | None:
        """All patches, where they were read."""
        return self.workspace.words.get(self._patch_key(None))

    def known_patch(self, patch: int) -> Patches | None:
        """One of them."""
        return self.known_patches() or self.workspace.words.get(self._patch_key(patch))

    # ------------------------------------------------------------------ what is read
    def lenses(self, run: Run = QUIET) -> Lenses:
        """Raises InputError for an empty answer; Cancelled."""
        return self._kept(
            self._lenses,
            run,
            "lens",
        )

    def looks(
        self,
        word: Word,
        run: Run = QUIET,
    ) -> Looks:
        """Raises InputError for a word that its answer lacks; Cancelled."""
        self.said(word)
        return self._kept(
            self._looks,
            run,
            "looks",
            word,
        )

    def dependences(
        self,
        word: Word,
        run: Run = QUIET,
    ) -> Dependences:
        """One backward pass and 22 forward ones of each model; both read all visual tokens.

        Raises InputError as `relevance` does; Cancelled.
        """
        self.said(word)
        return self._kept(
            self._dependences,
            run,
            "dependences",
            word,
        )

    def reads_patches_unasked(self, lvlm: svl.LVLM) -> bool:
        """Whether all patches are read in a moment."""
        patches = lvlm.num_layers * len(self.analysis.sample.visual)
        vocabulary = len(lvlm.tokenizer)
        return 0 < patches * 2 * lvlm.hidden_size * vocabulary <= QUICK_OPERATIONS

    def patches(self, run: Run = QUIET) -> Patches:
        """All of them. Raises InputError for a sample without; Cancelled."""
        return self._patches(None, run)

    def patch(
        self,
        patch: int,
        run: Run = QUIET,
    ) -> Patches:
        """One of them, or all where they were read already. Raises InputError; Cancelled."""
        return self.known_patches() or self._patches(patch, run)

    # ------------------------------------------------------------------ the parts
    def _known(self, *what: object) -> Any:
        return self.workspace.words.get((*self.key, *what))

    def _kept(
        self,
        read: Callable[..., Found],
        run: Run,
        *what: object,
    ) -> Found:
        """What was read, or is read now, of these answers."""
        found = self._known(*what)
        if found is None:
            found = self._read(
                read,
                run,
                *what[1:],
            )
            self.workspace.words.put((*self.key, *what), found)
        return found

    def _read(
        self,
        read: Callable[..., Found],
        run: Run,
        *of: object,
    ) -> Found:
        """`read(both, run, *of)` with the two models."""
        workspace, analysis, settings = self.workspace, self.analysis, self.settings
        workspace.load_model(analysis.model, run)
        samples: Sequence[svl.Sample] = ()
        if settings.fits and self.plan.drop:
            samples = workspace.fit_samples(
                analysis,
                settings,
                run,
            )
        own = samples is analysis.samples
        return workspace.backend.read_words(
            analysis.model,
            analysis.sample,
            self.plan,
            settings.recipe,
            samples,
            lambda both, watched: read(
                both,
                watched,
                *of,
            ),
            run=run,
            traced=analysis.trace,
            fitted=analysis.trace if own else None,
        )

    def _lenses(
        self,
        both: Both,
        run: Run,
    ) -> Lenses:
        answer = self.answers[0]
        full = svl.lens(
            both.full,
            both.sample,
            answer,
            traced=self.analysis.trace,
            top=TOP,
            run=run.part(0, 0.4),
        )
        if both.pruned is None:
            return Lenses(full, None)
        pruned = svl.lens(
            both.pruned,
            both.pruned_sample,
            answer,
            top=TOP,
            run=run.part(0.4),
        )
        return Lenses(full, pruned)

    def _looks(
        self,
        both: Both,
        run: Run,
        word: Word,
    ) -> Looks:
        answer = self.said(word)
        full = svl.word_attention(
            both.full,
            both.sample,
            answer,
            word.place,
            traced=self.analysis.trace,
            run=run,
        )
        places = both.sample.geometry, both.pruned_sample.geometry
        if both.pruned is None:
            return Looks(
                full,
                None,
                places,
            )
        pruned = svl.word_attention(
            both.pruned,
            both.pruned_sample,
            answer,
            word.place,
            run=run,
        )
        return Looks(
            full,
            pruned,
            places,
        )

    def _dependences(
        self,
        both: Both,
        run: Run,
        word: Word,
    ) -> Dependences:
        first = run if both.pruned is None else run.part(0, 0.5)
        full = self._dependence(
            both.full,
            both.sample,
            word,
            first,
        )
        if both.pruned is None:
            return Dependences(full, None)
        pruned = self._dependence(
            both.pruned,
            both.sample,
            word,
            run.part(0.5),
        )
        return Dependences(full, pruned)

    def _dependence(
        self,
        lvlm: svl.LVLM,
        sample: svl.Sample,
        word: Word,
        run: Run,
    ) -> Dependence:
        answer = self.said(word)
        run.step(0.0, "one step backwards")
        found = svl.relevance(
            lvlm,
            sample,
            answer,
            word.place,
            run=run,
        )
        check = svl.occlusion(
            lvlm,
            sample,
            answer,
            found,
            run=run,
        )
        return Dependence(found, check)

    def _patch_key(self, patch: int | None) -> tuple:
        """Patches are read of the full model alone, whatever the plan."""
        return self.analysis.model, self.analysis.sample.key, "patch", patch

    def _patches(
        self,
        patch: int | None,
        run: Run,
    ) -> Patches:
        key = self._patch_key(patch)
        found = self.workspace.words.get(key)
        if found is None:
            found = self.workspace.backend.read_words(
                self.analysis.model,
                self.analysis.sample,
                None,
                self.settings.recipe,
                (),
                lambda both, watched: self._seen(
                    both,
                    watched,
                    patch,
                ),
                run=run,
                traced=self.analysis.trace,
            )
            self.workspace.words.put(key, found)
        return found

    def _seen(
        self,
        both: Both,
        run: Run,
        patch: int | None,
    ) -> Patches:
        seen = svl.visual_lens(
            both.full,
            both.sample,
            None if patch is None else [patch],
            traced=self.analysis.trace,
            top=TOP,
            run=run,
        )
        names = self._names(both.full)
        if patch is not None or not names:
            return Patches(seen, None)
        try:
            return Patches(
                seen,
                svl.named_patches(
                    both.full,
                    seen,
                    names,
                ),
            )
        except InputError:  # no token of this model begins one of the names
            return Patches(seen, None)

    def _names(self, lvlm: svl.LVLM) -> list[str]:
        """Of objects: those of the bundled world, else the words of the question and the answer."""
        if self.analysis.model in self.workspace.scene_models:
            from svl_core.demo.art import objects
            from svl_core.demo.scenes import SHAPES

            return [*(kind.name for kind in objects()), *SHAPES]
        asked = self.analysis.sample.prompt
        said = lvlm.tokenizer.decode(self.answers[0], skip_special_tokens=True)
        spelt = re.findall(r"[^\W\d_]{3,}", f"{asked} {said}")
        return list(dict.fromkeys(spelt))


def strongest(attention: svl.WordAttention) -> tuple[int, int]:
    """Layer, by its number in the original model, and head that looks at the image most."""
    shares = np.nan_to_num(attention.image_share)
    row, head = np.unravel_index(int(shares.argmax()), shares.shape)
    return attention.layer_ids[int(row)], int(head)


def telling(lenses: Lenses, answer: Sequence[str]) -> int:
    """Which word of the full model's answer says most of a plan: the first one that the pruned
    model does not put first in the end, else the one that the full model decides last.

    answer: the tokens as pieces of its text, "" for those that are no part of it.
    """
    places = [place for place, piece in enumerate(answer) if piece.strip()]
    if not places:
        return 0
    lost = lenses.pruned.decided if lenses.pruned else ()
    for place in places[: len(lost)]:
        if lost[place] is None:
            return place
    decided = lenses.full.decided
    never = len(lenses.full.layer_ids)
    order = [never if decided[place] is None else decided[place] for place in places]
    return places[int(np.argmax(order))]
