"""The layer strip's value: which layers there are, which go, and what the ranking says."""

from __future__ import annotations

from collections.abc import Sequence


def strip_value(
    ids: Sequence[int],
    ranking: Sequence[int],
    protected: Sequence[int],
    drop: Sequence[int],
    *,
    blocks: Sequence[Sequence[int]] | None = None,
    criterion: str = "manual",
    calibration: str = "auto",
    rounds: int | None = None,
) -> dict:
    """JSON value of the strip.

    ids: (L,) layer indices in the original model, 0-based.
    ranking: droppable positions, most redundant first.
    protected: positions that never go.
    drop: positions that go.
    blocks: those that go for each number of layers 0, 1, .., where whole blocks are chosen.
    criterion, calibration: the settings that the ranking was made with.
    rounds: of a greedy criterion, None for all.
    """
    whole = None if blocks is None else [sorted(map(int, block)) for block in blocks]
    return {
        "ids": [int(k) for k in ids],
        "ranking": [int(k) for k in ranking],
        "protected": [int(k) for k in protected],
        "drop": sorted({int(k) for k in drop}),
        "blocks": whole,
        "criterion": criterion,
        "calibration": calibration,
        "rounds": rounds,
    }


def follows_ranking(value: dict) -> bool:
    """Whether the dropped layers are just those that the ranking gives for their number."""
    count, blocks = len(value["drop"]), value.get("blocks")
    expected = sorted(value["ranking"][:count])
    if blocks and count < len(blocks):
        expected = blocks[count]
    return value["drop"] == expected


def droppable(value: dict) -> int:
    """The largest number of layers that can go."""
    return len(value["blocks"]) - 1 if value["blocks"] else len(value["ranking"])


def ranked_by(value: dict) -> str:
    """The criterion that the plan follows, "manual" for one's own choice."""
    return value.get("criterion", "manual") if follows_ranking(value) else "manual"


def in_words(value: dict) -> str:
    """The plan in one sentence, with the index convention."""
    gone = [value["ids"][k] for k in value["drop"]]
    if not gone:
        return f"Nothing dropped of layers 0 to {value['ids'][-1]}."
    way = "by the ranking" if follows_ranking(value) else "your own choice"
    return f"Dropped of layers 0 to {value['ids'][-1]}: {', '.join(map(str, gone))} ({way})."
