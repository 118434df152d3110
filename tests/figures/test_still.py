"""Figures without a script: what is drawn where, on hand-made numbers."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from test_figures import MATRIX, ROWS

from svl_core import figures
from svl_core.figures.still import CIVIDIS, WIDTH, Axis, colour_of, still

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(figure, alt="what it shows"):
    return ElementTree.fromstring(still(figure.to_json(), alt))


def rects(tree):
    return [
        {name: float(node.get(name)) for name in ("x", "y", "width", "height")}
        for node in tree.iter(SPACE + "rect")
        if node.get("fill", "").startswith("#")
    ]


def test_a_value_lies_where_its_share_of_the_axis_is():
    axis = Axis(first=2, last=6, start=100, end=300)
    assert [axis.at(value) for value in (2, 3, 6)] == [100, 150, 300]
    upside_down = Axis(first=4, last=0, start=0, end=80)
    assert upside_down.at(1) == 60


def test_colours_run_from_the_darkest_to_the_brightest():
    assert colour_of(0) == colour_of(-1) == CIVIDIS[0] and colour_of(1) == CIVIDIS[-1]
    assert colour_of(1 / 6) == CIVIDIS[1]
    between = colour_of(1 / 12)  # half of #00224e and #2a3f6d
    assert [int(between[k : k + 2], 16) for k in (1, 3, 5)] == [0x15, 0x30, 0x5E]


def test_bars_are_as_high_as_their_values():
    tree = parsed(figures.gap_curve([0.1, 0.2, 0.4], [1]))
    low, middle, high = rects(tree)
    assert high["height"] == pytest.approx(2 * middle["height"], abs=0.2)
    assert high["height"] == pytest.approx(4 * low["height"], abs=0.2)
    feet = {round(bar["y"] + bar["height"], 0) for bar in (low, middle, high)}
    assert len(feet) == 1 and low["x"] < middle["x"] < high["x"]
    hatched = [node for node in tree.iter(SPACE + "rect") if node.get("fill") == "url(#hatch)"]
    assert len(hatched) == 1  # the dropped layer


def test_cells_say_their_value_and_missing_ones_are_left_out():
    tree = parsed(figures.block_heatmap(MATRIX, [0, 1]))
    told = [node.text for node in tree.iter(SPACE + "title")]
    assert told == ["drop layer 0: 0.9000", "drop layer 1: 0.7000", "drop layers 0-1: 0.5000"]
    assert rects(tree)[0]["y"] > rects(tree)[2]["y"]  # blocks of one layer stand below


def test_a_line_breaks_where_a_value_is_missing():
    tree = parsed(figures.redundancy_curve({"own": [0.5, np.nan, 0.6, 0.7]}))
    (line,) = [n for n in tree.iter(SPACE + "path") if n.get("fill") == "none" and n.get("d")]
    assert [len(re.findall("[ML]", part)) for part in line.get("d").split("M")[1:]] == [0, 1]


def test_what_lies_beyond_the_axis_is_cut_off():
    """The first layer's value is far below the range, which an arrow at the foot says."""
    tree = parsed(figures.redundancy_curve({"own": [-5, 0.8, 0.9]}, focus=[1, 2]))
    clip = tree.find(SPACE + "clipPath")
    box = {name: float(clip[0].get(name)) for name in ("y", "height")}
    held = [g for g in tree.iter(SPACE + "g") if g.get("clip-path") == f"url(#{clip.get('id')})"]
    (line,) = [n for g in held for n in g.iter(SPACE + "path") if n.get("fill") == "none"]
    first = float(re.match(r"M\S+ (\S+?)L", line.get("d"))[1])
    assert first > box["y"] + box["height"]
    assert len(held) == 1  # the arrow is seen wherever it stands


@pytest.mark.parametrize(
    "figure",
    [
        figures.similarity_heatmap(MATRIX, [0]),
        figures.pca_scatter(np.zeros((1, 2)), np.ones((1, 2)), np.ones((1, 2)), [0.5, 0.1]),
        figures.importance_bars([], []),
        figures.importance_bars(["<b>", "&", "?"], [1, 2, 3], [True, False, True]),
        figures.token_curve([0.1], "‘<i>’"),
        figures.overlap_figure(np.array([1, 0, 0.5, 1]), 3, 2),
        figures.sweep_curves({("svl", "none"): ROWS}, {("svl", "none"): 2}),
        figures.pareto_figure(ROWS, ROWS[1:]),
    ],
    ids=range(8),
)
def test_every_figure_becomes_whole_markup_inside_its_frame(figure):
    tree = parsed(figure, 'what "it" <shows>')
    assert tree.get("aria-label") == 'what "it" <shows>'
    assert not list(tree.iter(SPACE + "script"))
    height = float(tree.get("viewBox").split()[3])
    for node in tree.iter(SPACE + "text"):
        assert 0 <= float(node.get("x")) <= WIDTH and 0 <= float(node.get("y")) <= height
    assert "nan" not in ElementTree.tostring(tree, encoding="unicode").replace("nance", "")
