"""The two worlds that scenes and questions are drawn from.

`GRID` is the world of the shipped model: an object nearly fills its ninth of the picture. `FREE` is
the world of the next one: small and large objects anywhere in their ninth, on grounds from plain to
busy, so that most visual tokens show background, as in a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """How scenes are drawn, and which questions are asked of them.

    side: px of the picture that the model of this world takes.
    counts: share of the scenes with one, two, three, ... objects.
    free: objects lie anywhere in their ninth and vary in size; else they nearly fill it.
    kinds: of questions, in the order in which `questions.labelled` asks them.
    later_kinds: those whose wordings the tokenizer was not made from.
    system: the model has learnt to read past a system turn.
    training_styles: of the drawings of a training scene with turns and contours, each as likely.
    """

    side: int
    counts: tuple[float, ...]
    free: bool
    kinds: tuple[str, ...]
    later_kinds: tuple[str, ...] = ()
    system: bool = False
    training_styles: tuple[str, ...] = ("noto", "twemoji")

    @property
    def visual_tokens(self) -> int:
        """Of a picture."""
        return (self.side // PATCH) ** 2


PATCH = 24
"""Side of a visual token in px, in both worlds."""

_KINDS = (
    "what-at",
    "where",
    "is-at",
    "which",
    "exists-object",
    "exists-category",
    "count-all",
    "count-category",
    "count-object",
    "relation",
    "side",
    "colour",
    "caption",
)

GRID = World(
    side=144,
    counts=(0.1, 0.2, 0.25, 0.25, 0.2),
    free=False,
    kinds=_KINDS,
    # Left out of the tokenizer's words, so that weights from before these kinds fit.
    later_kinds=("is-at", "side"),
)

FREE = World(
    side=288,
    counts=(0.1, 0.15, 0.2, 0.2, 0.2, 0.15),
    free=True,
    kinds=(*_KINDS, "where-category", "next", "which-next", "compare"),
    system=True,
    # About half of them in the styles of the page's pictures; the others teach how styles differ.
    training_styles=(
        *("noto", "twemoji") * 3,
        *("outlined", "fluent", "blob", "emojione", "firefox"),
        *("streamline",) * 2,
    ),
)

SHIPPED = GRID
"""The world of the bundled model, which everything is drawn from where no other is named."""

WORLDS = {"grid": GRID, "free": FREE}
"""By the names that commands take."""
