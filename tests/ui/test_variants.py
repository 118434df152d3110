"""Kept variants, the restored state, and the importance of full minus pruned, on the tiny model."""

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from updates import event, last

from svl_core.errors import InputError
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import snapshots
from svl_core.ui.steps.answers import difference, variants
from svl_core.ui.steps.ask import scene_update
from svl_core.ui.steps.share import report as report_step
from svl_core.ui.work.answering import compare

DEFAULT, SHORT = Settings(), Settings(max_new_tokens=4)


def kept_twice(page, analysed):
    state, kept = analysed["state"], []
    for drop in ([2], [2, 3]):
        strip = {**analysed["strip"], "drop": drop}
        last(compare(page, state, strip, None, SHORT))
        kept = variants.keep(page, kept, state, strip, {state["prompt"]: "<b>"}, SHORT)["cards"]
    return kept


def test_cards_are_kept_named_loaded_and_removed(page, analysed, monkeypatch):
    with pytest.raises(InputError, match="press Compare"):
        variants.keep(page, [], analysed["state"], analysed["strip"], None, SHORT)
    kept = kept_twice(page, analysed)
    assert (
        [card["letter"] for card in kept] == ["A", "B"]
        and [card["taken"]["drop"] for card in kept] == [[2], [2, 3]]
        and kept[0]["right"] is False
    )
    markup = variants.cards_view(kept)
    assert (
        markup.count("closest to the full model") == 1 + (kept[0]["kl"] == kept[1]["kl"])
        and markup.count("★ smallest") == 1
    )
    assert variants.load(page, kept, analysed["state"], event(value="B"))["wanted"] == [2, 3]
    report = Path(
        report_step.write(page, kept, None, analysed["state"], analysed["strip"], SHORT)[
            "report-file"
        ]
    ).read_text(encoding="utf-8")
    body = report[: report.index('<svg class="still"')]
    assert (
        body.count('<article aria-label="Variant ') == 2
        and "<button" not in body
        and variants.section([]) == ""
    )  # nothing to press in a file
    left = variants.remove(page, kept, event(value="A"))
    assert [card["letter"] for card in left["cards"]] == ["B"] and "Variant A" not in left[
        "variants"
    ]
    said = []
    monkeypatch.setattr(gr, "Info", said.append)
    strip = {**analysed["strip"], "drop": [2, 3]}
    assert (
        variants.keep(page, left["cards"], analysed["state"], strip, None, SHORT) == {}
        and "as B" in said[0]
    )
    with pytest.raises(InputError, match="remove one"):
        variants.keep(
            page,
            [{**kept[0], "letter": letter} for letter in "ABCDEF"],
            analysed["state"],
            strip,
            None,
            SHORT,
        )


def test_a_card_shows_no_markup_of_the_visitor(page, analysed):
    card = kept_twice(page, analysed)[0]
    evil = "<img src=x onerror=alert(1)>"
    assert "<img" not in variants.cards_view(
        [{**card, "pruned": evil, "taken": {**card["taken"], "prompt": evil}}]
    )


def test_restoring_brings_back_what_the_page_does_not_show(page, analysed):
    state, strip, now = (
        analysed["state"],
        {**analysed["strip"], "drop": [3]},
        Settings(top_p=0.3, compensation="none"),
    )
    taken = snapshots.take(page, state, strip, now)
    same = snapshots.restore(page, taken, state)
    assert (
        "image" not in same
        and same["wanted"] == [3]
        and same["top_p"] == 0.3
        and same["compensation"] == "none"
    )
    assert snapshots.restore(page, taken, {**state, "key": "another"})["image"] == state["path"]
    scene = snapshots.restore(page, {**taken, "origin": "draw:7", "prompt": "mine?"}, state)
    assert (
        scene["image"].size == scene_update("draw:7")["image"].size
        and scene["prompt"] == "mine?"
        and scene["truth"]
    )
    assert set(same) | set(scene) <= set(snapshots.restored(page))


def test_difference_of_the_importance(page, analysed):
    state, strip = analysed["state"], {**analysed["strip"], "drop": [2]}
    out = last(compare(page, state, strip, None, SHORT))["difference"]
    assert out.count("<img") == 3 and out.count("<tr>") == 1 + 36  # a row for each patch

    def drawn(drop, **changes):
        changed = Settings(**{"max_new_tokens": 4, **changes})
        return difference.draw_difference(page.view(state, changed, {**strip, "drop": drop}))

    assert "is dropped" in drawn([2], all_layers=False, layer=2)
    # before the dropped layer both models are the same
    assert "<strong>0.0 %</strong>" in drawn([2], all_layers=False, layer=0)
    assert drawn([4], max_new_tokens=64) == ""  # no answers to that plan yet


def test_share_that_moved():
    assert "50.0 %" in difference.moved_share(
        np.array([1.0, 1.0]), np.array([4.0, 0.0])
    )  # half of the second map's weight sits elsewhere
    assert "0.0 %" in difference.moved_share(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
