"""What a visitor's request says: a recipe, and what the service must know beside it."""

from __future__ import annotations

from dataclasses import dataclass

from svl_core.recipe import OF_A_ROW, OPTIONS, Recipe

CHOOSES_LAYERS = (
    "criterion",
    "rounds",
    "protect_ends",
    "drop",
    "layers",
    "granularity",
    "drop_attention",
    "drop_mlp",
    "preset",
)
"""Fields of a recipe that change nothing in a pruned model whose layers are chosen."""


@dataclass(frozen=True)
class VisitorSettings(Recipe):
    """A recipe with what a visitor asks for beside it; the page's settings have all of it.

    max_new_tokens: of an answer, at most.
    own: digest of the visitor's own calibration set, "" without one.
    """

    max_new_tokens: int = 64
    own: str = ""

    @property
    def recipe(self) -> Recipe:
        """What of the settings makes a pruned model: all that a backend needs of them."""
        return Recipe(**self.values())

    @property
    def key_prune(self) -> tuple:
        """What a pruned model depends on, once its layers are chosen."""
        values = self.values()
        return *(values[name] for name in OPTIONS if name not in CHOOSES_LAYERS), self.own

    @property
    def key_sweep(self) -> tuple:
        """What all rows of a sweep share, beside its samples."""
        values = self.values()
        shared = (values[name] for name in OPTIONS if name not in OF_A_ROW)
        return *shared, self.max_new_tokens
