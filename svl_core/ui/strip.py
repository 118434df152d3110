"""The layer strip's value: which layers there are, which go, and what the ranking says."""

from __future__ import annotations

from collections.abc import Sequence


def strip_value(ids: Sequence[int], ranking: Sequence[int], protected: Sequence[int], drop: Sequence[int]) -> dict:
    """JSON value of the strip.

    ids: (L,) layer indices in the original model, 0-based; ranking: droppable positions, most redundant first;
    protected: positions that never go; drop: positions that go now.
    """
    wanted = sorted(set(drop))
    return {"ids": [int(k) for k in ids], "ranking": [int(k) for k in ranking], "protected": [int(k) for k in protected], "drop": [int(k) for k in wanted]}


def follows_ranking(value: dict) -> bool:
    """Whether the dropped layers are just the first of the ranking."""
    return sorted(value["ranking"][: len(value["drop"])]) == value["drop"]


def in_words(value: dict) -> str:
    """The plan in one sentence, with the index convention."""
    gone = [value["ids"][k] for k in value["drop"]]
    if not gone:
        return f"Nothing dropped of layers 0 to {value['ids'][-1]}."
    way = "by the ranking" if follows_ranking(value) else "your own choice"
    return f"Dropped of layers 0 to {value['ids'][-1]}: {', '.join(map(str, gone))} ({way})."
