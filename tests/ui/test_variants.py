"""Kept variants, the restored state, and the importance of full minus pruned, on the tiny model."""

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from updates import last, settings

from svl_core.errors import InputError
from svl_core.ui import drawing
from svl_core.ui.sections import snapshots, variants
from svl_core.ui.state.settings import Settings

DEFAULT, SHORT = settings(), settings(max_new_tokens=4)


def kept_twice(desk, analysed):
    state, kept = analysed["state"], []
    for drop in ([2], [2, 3]):
        strip = {**analysed["strip"], "drop": drop}
        last(desk.compare(state, strip, None, *SHORT))
        kept = variants.keep(
            desk, kept, state, strip, {state["prompt"]: "<b>"}, Settings.of(SHORT)
        )["kept"]
    return kept


def test_cards_are_kept_named_loaded_and_removed(desk, analysed, monkeypatch):
    with pytest.raises(InputError, match="press Compare"):
        variants.keep(desk, [], analysed["state"], analysed["strip"], None, Settings.of(SHORT))
    kept = kept_twice(desk, analysed)
    assert (
        [card["letter"] for card in kept] == ["A", "B"]
        and [card["taken"]["drop"] for card in kept] == [[2], [2, 3]]
        and kept[0]["right"] is False
    )
    markup = variants.cards(kept)
    assert (
        markup.count("closest to the full model") == 1 + (kept[0]["kl"] == kept[1]["kl"])
        and markup.count("★ smallest") == 1
    )
    assert variants.load(desk, kept, analysed["state"], "B")["wanted"] == [2, 3]
    report = Path(
        desk.report(analysed["state"], analysed["strip"], *SHORT, variants=variants.section(kept))[
            "report-file"
        ]
    ).read_text(encoding="utf-8")
    body = report[: report.index("<script>")]
    assert (
        body.count('<article aria-label="Variant ') == 2
        and "<button" not in body
        and variants.section([]) == ""
    )  # nothing to press in a file
    left = variants.remove(kept, "A")
    assert [card["letter"] for card in left["kept"]] == ["B"] and "Variant A" not in left[
        "variants"
    ]
    said = []
    monkeypatch.setattr(gr, "Info", said.append)
    strip = {**analysed["strip"], "drop": [2, 3]}
    assert (
        variants.keep(desk, left["kept"], analysed["state"], strip, None, Settings.of(SHORT)) == {}
        and "as B" in said[0]
    )
    with pytest.raises(InputError, match="remove one"):
        variants.keep(
            desk,
            [{**kept[0], "letter": letter} for letter in "ABCDEF"],
            analysed["state"],
            strip,
            None,
            Settings.of(SHORT),
        )


def test_a_card_shows_no_markup_of_the_visitor(desk, analysed):
    card = kept_twice(desk, analysed)[0]
    evil = "<img src=x onerror=alert(1)>"
    assert "<img" not in variants.cards(
        [{**card, "pruned": evil, "taken": {**card["taken"], "prompt": evil}}]
    )


def test_restoring_brings_back_what_the_page_does_not_show(desk, analysed):
    state, strip, now = (
        analysed["state"],
        {**analysed["strip"], "drop": [3]},
        Settings(top_p=0.3, compensation="none"),
    )
    taken = snapshots.take(state, strip, now)
    same = snapshots.restore(desk, taken, state)
    assert (
        "image" not in same
        and same["wanted"] == [3]
        and same["top_p"] == 0.3
        and same["compensation"] == "none"
    )
    assert snapshots.restore(desk, taken, {**state, "key": "another"})["image"] == state["path"]
    scene = snapshots.restore(desk, {**taken, "origin": "draw:7", "prompt": "mine?"}, state)
    assert (
        scene["image"].size == desk.scene("draw:7")["image"].size
        and scene["prompt"] == "mine?"
        and scene["truth"]
    )
    assert set(same) | set(scene) <= set(snapshots.RESTORED)


def test_difference_of_the_importance(desk, analysed):
    state, strip = analysed["state"], {**analysed["strip"], "drop": [2]}
    out = last(desk.compare(state, strip, None, *SHORT))["difference"]
    assert out.count("<img") == 3 and out.count("<tr>") == 1 + 36  # a row for each patch
    analysis = desk.analysis_of(state)
    assert "is dropped" in drawing.difference(
        analysis, Settings.of(settings(all_layers=False, layer=2, max_new_tokens=4)), strip
    )
    alone = drawing.difference(
        analysis, Settings.of(settings(all_layers=False, layer=0, max_new_tokens=4)), strip
    )
    assert "<strong>0.0 %</strong>" in alone  # before the dropped layer both models are the same
    assert (
        drawing.difference(analysis, Settings.of(DEFAULT), {**strip, "drop": [4]}) == ""
    )  # no answers to that plan yet


def test_share_that_moved():
    assert "50.0 %" in drawing.moved_share(
        np.array([1.0, 1.0]), np.array([4.0, 0.0])
    )  # half of the second map's weight sits elsewhere
    assert "0.0 %" in drawing.moved_share(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
