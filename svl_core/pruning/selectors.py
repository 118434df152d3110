"""Selectors: what decides which visual tokens the pruned model's layers read, as a registry.

Of two kinds: tokens leave, at the input or from a layer on, by a score of each; or tokens stay in
the sequence and some layers do not update them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from svl_core.errors import InputError

if TYPE_CHECKING:
    from svl_core.lvlm.model import LVLM
    from svl_core.lvlm.sample import Sample
    from svl_core.recipe import Recipe

LEAVING = ("visual_share", "visual_from")
"""Settings of every selector by which tokens leave."""

SKIPPING = ("visual_from", "visual_layers")
"""Settings of every selector by which layers skip tokens."""


@dataclass(frozen=True)
class Question:
    """What a score before the pass is made of.

    lvlm: the full model.
    sample: its image seen.
    count: how many of its V visual tokens stay.
    seed: of random draws.
    """

    lvlm: LVLM
    sample: Sample
    count: int
    seed: int


Score = Callable[[Question], np.ndarray]
"""Gives (V,) scores, of which the highest stay."""

Choose = Callable[[Any], Any]
"""A choice within the pass, see `thinning.Choose`."""


@dataclass(frozen=True)
class Selector:
    """One way to choose visual tokens.

    formula, source: which stay, or what is skipped, and where it comes from.
    settings: the recipe's fields that it reads; others do not change it.
    cost: what choosing takes beside the pruned model's own pass.
    ranks: whether the full model reads the prompt first; that pass is counted in the speed-up.
    score: what is known before the pass.
    choose: what the pass itself knows where tokens leave.
    parts: what layers leave out of their work on visual tokens; () where tokens leave.
    """

    name: str
    title: str
    source: str
    formula: str
    settings: tuple[str, ...]
    cost: str = "nothing"
    ranks: bool = False
    score: Score | None = field(default=None, repr=False)
    choose: Choose | None = field(default=None, repr=False)
    parts: tuple[str, ...] = ()

    def acts(self, recipe: Recipe) -> bool:
        """Whether the pruned model reads otherwise than the full one."""
        return bool(self.parts) or recipe.visual_share < 1


def _by_importance(question: Question) -> np.ndarray:
    from svl_core.analysis.importance import importance
    from svl_core.analysis.trace import trace

    traced = trace(question.lvlm, question.sample)
    visual, _ = importance(traced).averaged(0)
    return visual


def _drawn(question: Question) -> np.ndarray:
    """Another draw for each sample, the same for the same one."""
    digest = hashlib.sha256(question.sample.key.encode()).digest()
    draw = np.random.default_rng([question.seed, *digest])
    return draw.random(len(question.sample.visual))


def _evenly(question: Question) -> np.ndarray:
    count = len(question.sample.visual)
    chosen = np.arange(question.count) * (count // question.count)
    scores = np.zeros(count)
    scores[chosen] = 1.0
    return scores


def _within(name: str) -> Choose:
    """A choice by its name in `thin_pass`, which brings torch: the registry is read without it."""

    def choose(seen: Any) -> Any:
        from svl_core.lvlm import thin_pass

        return getattr(thin_pass, name)(seen)

    return choose


_ROWS = (
    Selector(
        "tis",
        "importance (TIS)",
        "Short-LVLM, arXiv 2507.23362",
        "the highest token importance stay, mean over layers",
        settings=LEAVING,
        cost="a pass of the full model",
        ranks=True,
        score=_by_importance,
    ),
    Selector(
        "random",
        "random",
        "-",
        "drawn without replacement, by seed and sample",
        settings=(*LEAVING, "seed"),
        score=_drawn,
    ),
    Selector(
        "fastv",
        "attention of the last token (FastV)",
        "FastV, arXiv 2403.06764",
        "the highest attention of the last token stay, mean of the heads of the layer before",
        settings=LEAVING,
        cost="one row of attention",
        choose=_within("attention_of_last"),
    ),
    Selector(
        "vitcop",
        "norm of the keys (ViTCoP's last stage)",
        "ViTCoP, arXiv 2601.17818",
        "the smallest |mean of the heads' keys| of the layer before stay",
        settings=LEAVING,
        cost="one norm a token",
        choose=_within("key_norms"),
    ),
    Selector(
        "cluster",
        "evenly spaced (LVLM_CSP's uniform clusters)",
        "LVLM_CSP, arXiv 2504.10854",
        "tokens i floor(V / n) stay, i = 0 .. n - 1",
        settings=LEAVING,
        score=_evenly,
    ),
    Selector(
        "shortv",
        "frozen in layers (ShortV)",
        "ShortV, arXiv 2504.00502",
        "H[l+1] = H[l] for visual tokens; text looks at their keys and values of H[l]",
        settings=SKIPPING,
        parts=("attention", "mlp"),
    ),
    Selector(
        "skip-attention",
        "without attention in layers (V-Skip)",
        "after V-Skip, arXiv 2606.08511",
        "H[l+1] = H[l] + MLP(H[l]) for visual tokens; text looks at them as before",
        settings=SKIPPING,
        parts=("attention",),
    ),
    Selector(
        "skip-mlp",
        "without MLP in layers",
        "after RedundancyLens, arXiv 2501.19036, all of the MLP in the place of most of it",
        "H[l+1] = H[l] + attention(H[l]) for visual tokens",
        settings=SKIPPING,
        parts=("mlp",),
    ),
)
SELECTORS: Mapping[str, Selector] = MappingProxyType({row.name: row for row in _ROWS})


def selector_of(name: str) -> Selector:
    """The registry's entry. Raises InputError for an unknown name, naming the valid ones."""
    if name not in SELECTORS:
        raise InputError(
            f"Found the token selector {name!r}; expected one of {', '.join(SELECTORS)}; choose"
            " one."
        )
    return SELECTORS[name]


def acts(recipe: Recipe) -> bool:
    """Whether a recipe thins visual tokens. Raises InputError for an unknown selector."""
    return selector_of(recipe.visual_tokens).acts(recipe)


def in_words(recipe: Recipe) -> str:
    """What a recipe does with visual tokens, "" where nothing."""
    row = selector_of(recipe.visual_tokens)
    if not row.acts(recipe):
        return ""
    if row.parts:
        where = f"from layer {recipe.visual_from} on"
        if recipe.visual_layers is not None:
            where = f"in layers {', '.join(map(str, recipe.visual_layers))}"
        return f"visual tokens {row.title}, {where}"
    kept = f"{recipe.visual_share:.0%} of the visual tokens"
    if row.name != "tis":
        kept += f", chosen by {row.title}"
    return f"{kept}, from layer {recipe.visual_from} on" if recipe.visual_from else kept
