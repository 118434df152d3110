"""The result as a picture: what is asked, the layers that go, both answers, and a line of figures.

It is drawn without a browser, 1200 x 630 pixels, as previews of links want it.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from svl_core.ui import texts, views
from svl_core.ui.theme import SANS_FILES

SIZE = (1200, 630)
MARGIN = 48
PICTURE = 300  # pixels of its longer side
RIGHT = 396  # where the answers begin
WORDS = 22  # of an answer that are shown
AHEAD = 5  # of them before the first that differs
NARROW = 20  # pixels of a layer that is too narrow for its number
MOST_QUESTION = 90  # characters
INK, SOFT, LINE, GROUND, CARD = "#161b24", "#4d5665", "#dfe3ea", "#f7f8fa", "#ffffff"
KEPT, GONE, FIXED = "#0072B2", "#E69F00", "#6a7484"


@dataclass(frozen=True, eq=False)
class Result:
    """What a card shows.

    picture: None for a prompt alone.
    question: what is asked.
    ids: (L,) indices of the layers in the original model.
    drop, protected: places among them, 0-based, of those that go and of those that always stay.
    full, pruned: the answers.
    line: what separates them, in figures.
    """

    picture: Image.Image | None
    question: str
    ids: Sequence[int]
    drop: Sequence[int]
    protected: Sequence[int]
    full: str
    pruned: str
    line: str


def png(result: Result) -> bytes:
    """The card as the bytes of a PNG."""
    content = io.BytesIO()
    drawn(result).save(
        content,
        "png",
        optimize=True,
    )
    return content.getvalue()


def drawn(result: Result) -> Image.Image:
    """The card, 1200 x 630 pixels."""
    card = Image.new(
        "RGB",
        SIZE,
        GROUND,
    )
    ink = ImageDraw.Draw(card)
    ink.text(
        (MARGIN, 30),
        texts.TITLE,
        SOFT,
        _font(24),
    )
    question = _cut(result.question.strip(), MOST_QUESTION)
    size = _fitting(
        question,
        SIZE[0] - 2 * MARGIN,
        42,
    )
    ink.text(
        (MARGIN, 62),
        question,
        INK,
        _font(size, bold=True),
    )
    _picture(card, result.picture)
    layers = len(result.ids)
    left = RIGHT if result.picture else MARGIN
    spans = views.differing_words(result.full, result.pruned)
    for top, title, text, marked, colour in (
        (
            136,
            f"Full model, {layers} layers",
            result.full,
            spans[0],
            KEPT,
        ),
        (
            294,
            f"Pruned model, {layers - len(result.drop)} layers",
            result.pruned,
            spans[1],
            GONE,
        ),
    ):
        _answer(
            ink,
            (left, top),
            title,
            text,
            marked,
            colour,
        )
    _layers(ink, result)
    line = _cut(result.line, 160)
    ink.text(
        (MARGIN, 568),
        line,
        INK,
        _font(
            _fitting(
                line,
                SIZE[0] - 2 * MARGIN,
                26,
            )
        ),
    )
    return card


# -------------------------------------------------------------------------------- the parts
@cache
def _font(
    size: float,
    bold: bool = False,
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The page's own font; Pillow's, where gradio does not hold it or Pillow cannot read it."""
    gradio = Path(importlib.util.find_spec("gradio").origin).parent
    file = gradio / "templates" / "frontend" / SANS_FILES[bold]
    try:
        return ImageFont.truetype(str(file), size)
    except OSError:
        return ImageFont.load_default(size)


def _fitting(
    text: str,
    width: float,
    size: float,
) -> float:
    """The size in which a text fits a width, at most `size`."""
    wide = _font(size, bold=True).getlength(text)
    return size if wide <= width else max(18, int(size * width / wide))


def _cut(
    text: str,
    most: int,
) -> str:
    return text if len(text) <= most else text[: most - 2].rstrip() + " …"


def _picture(
    card: Image.Image,
    picture: Image.Image | None,
) -> None:
    if picture is None:
        return
    shown = picture.convert("RGB")
    scale = PICTURE / max(shown.size)
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    shown = shown.resize(size, Image.Resampling.LANCZOS)
    card.paste(shown, (MARGIN + (PICTURE - size[0]) // 2, 136 + (PICTURE - size[1]) // 2))


def _answer(
    ink: ImageDraw.ImageDraw,
    at: tuple[float, float],
    title: str,
    text: str,
    spans: views.Spans,
    colour: str,
) -> None:
    """One answer in a box, with its words that differ marked."""
    left, top = at
    right, bottom = SIZE[0] - MARGIN, top + 142
    ink.rounded_rectangle(
        (
            left,
            top,
            right,
            bottom,
        ),
        12,
        CARD,
        LINE,
        2,
    )
    ink.rectangle(
        (
            left + 2,
            top,
            right - 2,
            top + 5,
        ),
        colour,
    )
    ink.text(
        (left + 20, top + 18),
        title,
        SOFT,
        _font(20),
    )
    words = around(text, spans)
    size = 44 if len(words) <= 4 else 30 if len(words) <= 12 else 24
    _words(
        ink,
        (left + 20, top + 48),
        right - 20,
        words,
        size,
    )


def around(
    text: str,
    spans: views.Spans,
) -> list[tuple[str, bool]]:
    """The words of an answer, each with whether it differs; of a long one those around the first
    that does, with a sign where others are left out.
    """
    places = views.word_spans(text)
    differs = {start for start, end, _ in spans if end > start}
    words = [(text[start:end], start in differs) for start, end in places]
    parting = next((start for start, _, tag in spans if tag == "mark"), None)
    if parting is not None and parting >= len(text):
        words.append(("(ends here)", True))
    first = 0
    if len(words) > WORDS:
        at = next((k for k, (_, marked) in enumerate(words) if marked), 0)
        first = max(0, min(at - AHEAD, len(words) - WORDS))
    shown = words[first : first + WORDS]
    before = [("…", False)] if first else []
    after = [("…", False)] if first + WORDS < len(words) else []
    return [
        *before,
        *shown,
        *after,
    ]


def _words(
    ink: ImageDraw.ImageDraw,
    at: tuple[float, float],
    right: float,
    words: Sequence[tuple[str, bool]],
    size: float,
) -> None:
    """Words on as many lines as fit below one another, the last one ends with a sign."""
    font, (left, top) = _font(size), at
    space, height = font.getlength(" "), size * 1.3
    lines = max(1, int(92 / height))
    across, line = left, 0
    for word, marked in words:
        word = _cut(word, 40)
        wide = font.getlength(word)
        if across > left and across + wide > right:
            if line + 1 == lines:
                ink.text(
                    (across, top + line * height),
                    "…",
                    SOFT,
                    font,
                )
                return
            across, line = left, line + 1
        up = top + line * height
        if marked:
            box = (
                across - 3,
                up,
                across + wide + 3,
                up + height - 4,
            )
            ink.rounded_rectangle(
                box,
                4,
                "#fbe9c6",
            )
            ink.rectangle(
                (
                    across - 3,
                    up + height - 6,
                    across + wide + 3,
                    up + height - 3,
                ),
                GONE,
            )
        ink.text(
            (across, up),
            word,
            INK,
            font,
        )
        across += wide + space


def _layers(
    ink: ImageDraw.ImageDraw,
    result: Result,
) -> None:
    """The decoder as a row of layers, those that go struck out."""
    left, right, top, bottom = MARGIN, SIZE[0] - MARGIN, 470, 540
    count = max(1, len(result.ids))
    wide = (right - left) / count
    gap = min(6, wide / 5)
    for place, name in enumerate(result.ids):
        box = (
            left + place * wide,
            top,
            left + (place + 1) * wide - gap,
            bottom,
        )
        gone = place in result.drop
        colour = FIXED if place in result.protected else KEPT
        if gone:
            ink.rounded_rectangle(
                box,
                8,
                CARD,
                GONE,
                3,
            )
            ink.line(
                (
                    box[0] + 6,
                    bottom - 6,
                    box[2] - 6,
                    top + 6,
                ),
                GONE,
                3,
            )
        else:
            ink.rounded_rectangle(
                box,
                8,
                colour,
            )
        if wide >= NARROW:
            middle = ((box[0] + box[2]) / 2, (top + bottom) / 2)
            size = min(22, int(0.48 * wide))
            ink.text(
                middle,
                str(name),
                INK if gone else CARD,
                _font(size, bold=True),
                anchor="mm",
            )
