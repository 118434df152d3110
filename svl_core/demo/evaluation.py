"""The labelled data sets of `svl evaluate`: fresh scenes, scenes in a style never trained on, and
easy-VQA's test set.
"""

from __future__ import annotations

from svl_core.demo import easy_vqa
from svl_core.demo.questions import Labelled, labelled
from svl_core.errors import InputError

# For each data set the number of questions asked by default.
DATA = {
    "scenes": 2000,
    "openmoji": 2000,
    "easy-vqa": 9673,
}


def easy_vqa_kind(question: str, answer: str) -> str:
    """Kind of an easy-VQA question: yes/no, colour or shape."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "colour" if "color" in question else "shape"


def questions(data: str, limit: int | None = None, seed: int = 0) -> list[Labelled]:
    """The first `limit` questions of a data set (default: its usual number).

    Raises InputError for an unknown name or a limit below 1.
    """
    if data not in DATA:
        raise InputError(
            f"Found the data set '{data}'; expected one of {', '.join(DATA)} or a .jsonl file;"
            " choose one."
        )
    if limit is not None and limit < 1:
        raise InputError(f"Found a limit of {limit} questions; expected at least 1; raise it.")
    if data != "easy-vqa":
        return labelled(
            limit or DATA[data],
            seed,
            "openmoji" if data == "openmoji" else None,
        )
    pairs = [
        Labelled(image, question, answer, easy_vqa_kind(question, answer))
        for image, asked in easy_vqa.grouped("test")
        for question, answer in asked
    ]
    return pairs[:limit]
