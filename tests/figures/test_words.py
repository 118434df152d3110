"""Figures of an answer's words, on hand-made numbers."""

import json
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from svl_core import figures
from svl_core.analysis.half_scores import HALVES, SublayerScores
from svl_core.analysis.lens import DecidedCurve, Lens
from svl_core.analysis.visual_lens import NamedPatches, VisualLens
from svl_core.analysis.word_attention import KINDS, WordAttention
from svl_core.figures import words
from svl_core.figures.still import still

SPACE = "{http://www.w3.org/2000/svg}"


def made(layer_ids, rank, probability, spelt, tokens=(" cat", "</s>")):
    rank = np.array(rank)
    numbers = np.array(probability, np.float32)
    return Lens(
        layer_ids=layer_ids,
        token_ids=tuple(range(len(tokens))),
        tokens=tokens,
        words=np.array(spelt, dtype=object)[:, :, None],
        shares=numbers[:, :, None],
        probability=numbers,
        rank=rank,
        entropy=numbers.copy(),
    )


FULL = made(
    (0, 1, 2),
    [[4, 9], [0, 3], [0, 0]],
    [[0.125, 0.0], [0.5, 0.25], [0.75, 1.0]],
    [[" dog", "<b>"], [" cat", " cat"], [" cat", "</s>"]],
)
PRUNED = made(
    (0, 2),
    [[4, 9], [1, 0]],
    [[0.125, 0.0], [0.25, 0.5]],
    [[" dog", "<b>"], [" dog", "</s>"]],
)


def drawn(figure):
    """What plotly would take, having checked it."""
    written = json.loads(figure.to_json())
    go.Figure(written)
    return figure.data


def test_a_cell_holds_the_word_and_the_probability_of_its_layer():
    cells, bars = drawn(figures.lens(FULL))
    assert np.array(cells.z).tolist() == FULL.probability.tolist()
    assert cells.text[0] == ["dog", "&lt;b&gt;"] and cells.text[2] == ["cat", "&lt;/s&gt;"]
    assert cells.customdata[1] == [1, 4]  # counted from one
    assert list(bars.x) == [-0.46, 0.46, None, 0.54, 1.46, None]
    assert list(bars.y) == [0.54, 0.54, None, 1.54, 1.54, None]  # decided at layers 1 and 2


def test_dropped_layers_are_blank_and_the_others_stand_beside_the_full_model_s():
    """Two columns, an empty one, two columns; layer 1 is gone on the right, where the first word
    is never decided.
    """
    figure = figures.lens(FULL, PRUNED)
    cells, bars = drawn(figure)
    z = np.array(cells.z, dtype=float)
    assert z.shape == (3, 5)
    assert np.isnan(z[:, 2]).all() and np.isnan(z[1, 3:]).all()
    assert z[[0, 2], 3].tolist() == [0.125, 0.25]
    assert [row[3] for row in cells.text] == ["dog", "", "dog"]
    assert list(bars.x)[6:] == [3.54, 4.46, None]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 3, 4]
    assert figure.layout.xaxis.title.text.endswith("full model left, pruned model right")


def test_words_are_written_while_there_is_room():
    wide = made((0,), [[0] * 30], [[1.0] * 30], [["w"] * 30], tokens=("w",) * 30)
    assert figures.lens(wide).data[0].texttemplate is None
    assert figures.lens(FULL).data[0].texttemplate == "%{text}"


def test_the_still_picture_writes_the_words_too():
    tree = ElementTree.fromstring(still(figures.lens(FULL, PRUNED).to_json(), "what it shows"))
    written = [node.text for node in tree.iter(SPACE + "text") if node.get("pointer-events")]
    assert sorted(written) == sorted(
        ["dog", "<b>", "cat", "cat", "cat", "</s>", "dog", "<b>", "dog", "</s>"]
    )
    told = [node.text for node in tree.iter(SPACE + "title")]
    assert "layer 1: ‘cat’; the word below is number 4 with a probability of 0.250" in told


def test_a_long_answer_s_lens_is_small_enough_to_be_sent():
    """32 layers, 64 tokens, both models: at most 300 kB."""
    spelt = [["character"] * 64] * 32
    long = made(
        tuple(range(32)),
        np.arange(2048).reshape(32, 64),
        np.random.default_rng(0).random((32, 64)),
        spelt,
        tokens=("character",) * 64,
    )
    assert len(figures.lens(long, long).to_json()) < 300_000


def test_what_speaks_for_a_word_is_blue_and_what_speaks_against_it_orange():
    rects = np.array([[k / 3, 0, (k + 1) / 3, 1] for k in range(3)])
    ground = Image.new("RGB", (90, 30), (9, 99, 9))
    picture = figures.relevance_overlay(ground, rects, [0.5, 0.0, -0.5], opacity=1, width=90)
    corners = [picture.getpixel((x, 2)) for x in (3, 33, 63)]
    assert corners[0] == (0, 114, 178) and corners[2] == (230, 159, 0)
    assert min(corners[1]) > 230  # neither
    faint = figures.relevance_overlay(ground, rects, [0.5, 0.0, -0.5], scale=5, opacity=1, width=90)
    assert min(faint.getpixel((3, 2))) > 200  # on the scale of a stronger map


def attention(layer_ids, share):
    """Heads that look at the image with `share` (L, H), and at the first token otherwise."""
    share = np.array(share, np.float32)
    rows = np.stack([1 - share, share, 0 * share], axis=2)
    return WordAttention(layer_ids, " <cat>", 0, 3, np.array([1]), rows)


def test_the_grid_shows_each_head_s_look_at_the_image_on_one_scale():
    full = attention((0, 1, 2), [[0.0, 0.25], [0.5, 0.125], [0.5, 0.25]])
    pruned = attention((0, 2), [[0.0, 0.25], [0.75, 1.0]])
    figure = figures.attention_grid(full, pruned)
    (cells,) = drawn(figure)
    z = np.array(cells.z, dtype=float)
    assert z[:, :2].tolist() == full.image_share.tolist()
    assert np.isnan(z[:, 2]).all() and np.isnan(z[1, 3:]).all()
    assert z[2, 3:].tolist() == [0.75, 1.0] and cells.zmax == 1.0
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "0", "1"]
    assert cells.customdata[2][4] == "layer 2, head 1"


def test_a_split_names_the_kinds_in_their_order():
    assert tuple(words.KIND_COLOURS) == KINDS
    bars = drawn(figures.attention_split(attention((0, 4), [[0.0, 0.5], [0.5, 1.0]])))
    image, prompt, answer, first = bars
    assert list(image.y) == [25, 75] and list(first.y) == [75, 25]
    assert list(prompt.y) == list(answer.y) == [0, 0] and list(image.x) == [0, 4]
    assert list(first.base) == [25, 75]  # the parts stand on each other


def test_a_split_fills_each_bar_and_shows_both_models_on_one_scale():
    """Four layers by hand, two of them gone; one looks nowhere, for it has no attention."""
    rows = np.array([[[0.125, 0.5, 0.25, 0.125]], [[0.5, 0.125, 0.125, 0.25]]], np.float32)
    none = np.full((1, 1, 4), np.nan, np.float32)
    visual = np.array([1])
    full = WordAttention((0, 1, 2), "cat", 1, 3, visual, np.concatenate([rows, none]))
    pruned = WordAttention((0, 2), "cat", 1, 3, visual, np.concatenate([rows[:1], none]))
    figure = figures.attention_split(full, pruned)
    bars = drawn(figure)
    heights = np.array([bar.y for bar in bars])
    feet = np.array([bar.base for bar in bars])
    assert heights[:, 0].tolist() == [50, 25, 12.5, 12.5]  # image, prompt, answer, first token
    assert feet[:, 1].tolist() == [0, 12.5, 25, 50]
    assert heights[:, [0, 1, 3]].sum(0).tolist() == [100] * 3
    assert np.isnan(heights[:, [2, 4]]).all()
    assert list(bars[0].x) == [0, 1, 2, 4, 6]  # the pruned model's to the right, without layer 1
    assert list(bars[0].customdata)[3:] == ["layer 0, pruned model", "layer 2, pruned model"]
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "2", "0", "2"]
    tree = ElementTree.fromstring(still(figure.to_json(), "what it shows"))
    told = [node.text for node in tree.iter(SPACE + "title")]
    assert "layer 1, full model: 12.5 %" in " ".join(told)
    drawn_bars = [
        [float(node.get(side)) for side in ("x", "y", "height")]
        for node in tree.iter(SPACE + "rect")
        if node.find(SPACE + "title") is not None
    ]
    left = min(bar[0] for bar in drawn_bars)
    first = sorted((y, y + height) for x, y, height in drawn_bars if x == left)
    tops, ends = [y for y, _ in first], [end for _, end in first]
    assert len(first) == 4 and tops[1:] == pytest.approx(ends[:-1], abs=0.2)  # without a gap


def test_the_halves_of_layers_are_told_apart_and_dropped_ones_marked():
    scores = SublayerScores(
        (0, 1, 3),
        np.array([[0.5, 0.75], [0.875, 0.25], [1.0, 0.125]]),
        np.array([[0.5, 0.25], [0.125, 1.0], [0.0, 2.0]]),
        "all",
        False,
    )
    assert tuple(words.HALF_LOOKS) == HALVES
    figure = figures.sublayer_curves(scores, drop=[1, 2])
    attention, mlp, crosses = drawn(figure)
    ElementTree.fromstring(still(figure.to_json(), "what it shows"))
    assert list(attention.y) == [0.5, 0.875, 1.0] and list(mlp.y) == [0.75, 0.25, 0.125]
    assert list(attention.x) == [0, 1, 3] and attention.line.dash != mlp.line.dash
    assert list(crosses.x) == [1, 1] and list(crosses.y) == [0.875, 0.25]
    assert list(mlp.customdata) == ["0.250", "1.000", "2.000"]
    assert len(figures.sublayer_curves(scores).data) == 2
    halved = figures.sublayer_curves(scores, [3], attention=[0], mlp=[0, 1, 2])
    *_, dropped, skipped = drawn(halved)
    assert list(dropped.x) == [3, 3] and list(dropped.y) == [1.0, 0.125]
    assert list(skipped.x) == [0, 0, 1] and list(skipped.y) == [0.5, 0.75, 0.25]
    assert skipped.name == "skipped" and skipped.marker.symbol != dropped.marker.symbol
    ElementTree.fromstring(still(halved.to_json(), "what it shows"))


def test_the_curve_of_decided_answers_marks_what_a_plan_drops():
    full = DecidedCurve((0, 1, 2, 3), np.array([0, 0.25, 0.5, 1]), np.ones(4), 8)
    pruned = DecidedCurve((0, 3), np.array([0, 0.75]), np.ones(2), 8)
    curves = {"full model": full, "pruned <b>": pruned}
    first, second, crosses = drawn(figures.decided_curve(curves, drop=[2, 1]))
    assert list(first.y) == [0, 25, 50, 100] and list(second.x) == [0, 3]
    assert second.name == "pruned &lt;b&gt;" and first.line.dash != second.line.dash
    assert list(crosses.x) == [1, 2] and list(crosses.y) == [25, 50]


SEEN = VisualLens(
    (0, 2),
    np.array([4, 7]),
    np.zeros((2, 2, 2), int),
    np.array([[["a", "b"], ["c", "d"]], [["e", "f"], [" cat", "<h>"]]], dtype=object),
    np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 8,
    np.zeros((2, 2), np.float32),
)


def test_a_patch_s_words_stand_layer_by_layer():
    figure = figures.patch_words(SEEN, 7)
    (cells,) = drawn(figure)
    assert cells.text == (["c", "d"], ["cat", "&lt;h&gt;"])
    assert np.array(cells.z).tolist() == [[0.25, 0.375], [0.75, 0.875]]
    assert list(figure.layout.yaxis.ticktext) == ["0", "2"]


def test_patches_that_name_an_object_are_tinted_the_brighter_the_earlier():
    """Three patches side by side: named behind the first layer, behind the last, never."""
    rects = np.array([[k / 3, 0, (k + 1) / 3, 1] for k in range(3)])
    named = NamedPatches(
        np.arange(3), ("cat",), (), np.array([0.0, 3.0, np.nan]), np.array([0, 0, -1])
    )
    ground = Image.new("RGB", (30, 10), (9, 99, 9))
    picture = figures.named_overlay(ground, rects, named, 4, opacity=1, width=30)
    first, last, never = [picture.getpixel((x, 5)) for x in (5, 15, 25)]
    assert sum(first) > sum(last)
    assert never == (9, 99, 9)
