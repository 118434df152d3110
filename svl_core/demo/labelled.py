"""A labelled question of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Labelled:
    """One labelled question of a data set; `image` is drawn or opened when asked for, so thousands
    cost no memory. Taken apart, it is an (image, question) pair.
    """

    open: Callable[[], Image.Image]
    question: str
    answer: str
    kind: str

    @property
    def image(self) -> Image.Image:
        return self.open()

    def __iter__(self) -> Iterator:
        return iter((self.image, self.question))
