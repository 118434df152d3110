"""Chats: turns of system, user and assistant, as trainers and other tools write them.

A turn is {"role": ..., "content": text or parts of text and image}, or {"from": ..., "value": ...}
with <image> in the text, as LLaVA's data has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svl_core.errors import InputError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    SYSTEM: SYSTEM,
    USER: USER,
    "human": USER,
    ASSISTANT: ASSISTANT,
    "gpt": ASSISTANT,
    "model": ASSISTANT,
}
"""The roles under every name that they have."""

CHAT_KEYS = ("messages", "conversations")
IMAGE_MARK = re.compile(r"\s*<image>\s*")  # where the image stands in a text of LLaVA's data
SOURCE_KEYS = ("image", "path", "url", "image_url", "base64", "data")
IMAGE_PARTS = ("image", "image_url", "input_image")
VIDEO_PARTS = ("video", "video_url", "input_video")
VIDEO_REMEDY = "expected pictures; take some of its frames as pictures and give these in order"


@dataclass(frozen=True)
class Turn:
    """What one side says.

    role: "system", "user" or "assistant".
    images: how many pictures it shows ahead of its words.
    """

    role: str
    text: str
    images: int = 0


@dataclass(frozen=True)
class Chat:
    """A question with all that goes before it: perhaps a system turn, then the user and the
    assistant in turns, the user last.
    """

    turns: tuple[Turn, ...]

    def __len__(self) -> int:
        """Characters, as of a prompt that is a text."""
        return sum(len(turn.text) for turn in self.turns)

    @property
    def question(self) -> str:
        """The last turn's words."""
        return self.turns[-1].text

    @property
    def alone(self) -> bool:
        """Whether it is one question with nothing before it."""
        return len(self.turns) == 1

    @property
    def images(self) -> int:
        """How many pictures its turns show."""
        return sum(turn.images for turn in self.turns)

    def showing(self, images: int) -> Chat:
        """The same with so many pictures: as its turns show them, else all in the user's first.

        Raises InputError where its turns show another number.
        """
        if self.images == images:
            return self
        if self.images:
            raise InputError(
                f"Found {images} images for a chat that shows {self.images}; expected as many; give"
                " each of them once."
            )
        first = next(place for place, turn in enumerate(self.turns) if turn.role == USER)
        shown = Turn(USER, self.turns[first].text, images)
        return Chat((*self.turns[:first], shown, *self.turns[first + 1 :]))

    def without_system(self) -> Chat:
        """The same from the user's first turn on."""
        return Chat(self.turns[self.turns[0].role == SYSTEM :])

    def in_words(self) -> str:
        """What it consists of, for an error."""
        parts = [f"{len(self.turns)} turns"] if len(self.turns) > 1 else ["one question"]
        if self.turns[0].role == SYSTEM:
            parts.append("the first of them the system's")
        if self.images:
            parts.append(f"with {self.images} image{'s' * (self.images > 1)}")
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class ReadChat:
    """A chat as it was written.

    sources: of the pictures that its turns bring along, in order; none where they only say that
        there is one.
    answer: the assistant's last turn, where the chat ends with it; "" where it ends with a
        question.
    """

    chat: Chat
    sources: tuple[Any, ...]
    answer: str


def read_chat(turns: Any, where: str) -> ReadChat:
    """Reads a list of turns.

    where: it stands, for the error, such as "line 3 of x.jsonl".

    Raises InputError for what is no such list, turns out of order, a role or a part of another
    kind, and a turn without words.
    """
    is_list = isinstance(turns, Sequence) and not isinstance(turns, str)
    if not is_list or not all(isinstance(turn, Mapping) for turn in turns):
        raise InputError(
            f"Found a chat in {where} that is no list of turns; expected"
            ' [{"role": "user", "content": text}, ...]; mend it.'
        )
    read: list[Turn] = []
    sources: list[Any] = []
    for turn in turns:
        role = _role(turn, read[-1].role if read else "", where)
        text, images = _read_turn(turn.get("content", turn.get("value")), where)
        if images and role != USER:
            raise InputError(
                f"Found an image in a turn of {role!r} in {where}; expected the user to show it;"
                " move it to a turn of 'user'."
            )
        sources += [image for image in images if image is not None]
        read.append(Turn(role, text, len(images)))
    answer = read.pop().text if read and read[-1].role == ASSISTANT else ""
    if not read or read[-1].role != USER:
        raise InputError(f"Found a chat without a question in {where}; expected one; mend it.")
    chat = Chat(tuple(read))
    if sources and len(sources) != chat.images:
        raise InputError(
            f"Found {len(sources)} of {chat.images} images in the chat in {where}; expected all of"
            " them there, or all beside it; mend it."
        )
    return ReadChat(chat, tuple(sources), answer)


def _role(
    turn: Mapping[str, Any],
    last: str,
    where: str,
) -> str:
    """Whose turn it is. last: whose the one before was, "" for the first.

    Raises InputError for another's than was due.
    """
    written = turn.get("role", turn.get("from"))
    role = ROLES.get(written) if isinstance(written, str) else None
    if role is None:
        raise InputError(
            f"Found a turn of {str(written)[:40]!r} in {where}; expected one of"
            f" {', '.join(ROLES)}; mend it."
        )
    due = {"": (SYSTEM, USER), SYSTEM: (USER,), USER: (ASSISTANT,), ASSISTANT: (USER,)}[last]
    if role not in due:
        raise InputError(
            f"Found a turn of {written!r} in {where} where {' or '.join(due)} was due; expected at"
            " most one of system, then user and assistant in turns; mend it."
        )
    return role


def _read_turn(content: Any, where: str) -> tuple[str, list[Any]]:
    """(text, images) of a turn; an image that lies elsewhere is None."""
    if isinstance(content, str):
        return plain_text(content, "content", where), [None] * content.count("<image>")
    texts: list[str] = []
    images: list[Any] = []
    for part in content if isinstance(content, Sequence) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text"):
            texts.append(str(part.get("text", "")))
        elif kind in IMAGE_PARTS:
            shown = next((part[key] for key in SOURCE_KEYS if part.get(key) is not None), None)
            images.append(shown.get("url") if isinstance(shown, Mapping) else shown)
        elif kind in VIDEO_PARTS:
            raise InputError(f"Found a video in {where}; {VIDEO_REMEDY}.")
        else:
            raise InputError(
                f"Found a part of a turn in {where} of the type {str(kind)[:40]!r}; expected"
                " text or image; mend it."
            )
    text = " ".join(texts)
    if not images:
        images = [None] * text.count("<image>")
    return plain_text(text, "content", where), images


def plain_text(
    value: Any,
    key: str,
    where: str,
) -> str:
    """A text that is not blank, without the marks where LLaVA's data has images.

    key: under which it stands. Raises InputError.
    """
    if not isinstance(value, str) or not IMAGE_MARK.sub(" ", value).strip():
        raise InputError(
            f'Found no text under "{key}" in {where}; expected a text with words; mend it.'
        )
    return IMAGE_MARK.sub(" ", value).strip() if "<image>" in value else value
