"""Figures and overlays: what is drawn where, on hand-made numbers."""

import json
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from svl_core import figures
from svl_core.comparison.ablation import AblationMap
from svl_core.comparison.sweep import SweepRow

MATRIX = np.array([[1.0, 0.9, 0.5], [0.9, 1.0, 0.7], [0.5, 0.7, 1.0]])


def as_json(figure):
    return json.loads(figure.to_json())


def test_runs():
    assert figures.runs_of([]) == []
    assert figures.runs_of([5, 2, 3]) == [(2, 3), (5, 5)]


def test_redundancy_marks_dropped_layers_on_the_lead_curve():
    figure = figures.redundancy_curve(
        {"important": [0.5, 0.9, 0.8], "all": [0.4, np.nan, 0.6]}, drop=[1], ids=[0, 4, 7]
    )
    assert [t.name for t in figure.data] == ["important tokens", "all tokens", "dropped"]
    assert list(figure.data[2].x) == [1] and list(figure.data[2].y) == [0.9]
    assert "layer 4" in figure.data[2].hovertemplate.replace(
        "%{customdata}", str(figure.data[2].customdata[0])
    )
    assert len({t.line.dash for t in figure.data[:2]}) == 2  # never told by colour alone
    assert "layer" in figure.layout.xaxis.title.text and "cosine" in figure.layout.yaxis.title.text


def test_layers_outside_the_focus_do_not_flatten_the_others():
    figure = figures.redundancy_curve({"important": [0.1, 0.9, 0.95]}, focus=[1, 2])
    assert 0.85 < figure.layout.yaxis.range[0] < 0.9
    arrow = figure.data[-1]
    assert (
        list(arrow.x) == [0]
        and arrow.marker.symbol == "triangle-down"
        and arrow.customdata[0][2] == 0.1
    )


def test_heatmap_scale_leaves_out_the_diagonal_and_frames_runs():
    figure = figures.similarity_heatmap(MATRIX, drop=[1])
    assert figure.data[0].zmin == 0.5 and figure.data[0].zmax == 1.0
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1) == (0.5, 2.5)  # H[1] to H[2]
    assert [note.text for note in figure.layout.annotations] == ["cosine"] and not figure.data[
        0
    ].colorbar.title.text  # see `drawn`
    assert as_json(figures.similarity_heatmap(MATRIX, ids=[0, 2]))["data"][0]["meta"]["y"] == [
        "input",
        "0",
        "2",
    ]  # the table's rows
    figures.similarity_heatmap(np.ones((1, 1)))


def test_block_heatmap_draws_allowed_blocks_only():
    figure = figures.block_heatmap(MATRIX, allowed=[1], chosen=[1])
    z = np.array(figure.data[0].z, dtype=float)
    assert z.shape == (1, 2) and np.isnan(z[0, 0]) and z[0, 1] == 0.7
    assert len(figure.layout.shapes) == 1


def test_gap_curve_shows_dropped_bars_and_run_gaps():
    figure = figures.gap_curve([0.1, 0.2, 0.3], drop=[1, 2], run_gaps={(1, 2): 0.45})
    assert list(figure.data[0].marker.pattern.shape) == ["", "/", "/"]
    assert figure.layout.yaxis.range[1] > 0.45
    assert figures.gap_curve([0.0, 0.0]).layout.yaxis.range[1] == 1


def test_pca_joins_each_token():
    before, target = np.zeros((2, 2)), np.ones((2, 2))
    figure = figures.pca_scatter(before, target, None, [0.6, 0.2])
    assert len(figure.data) == 3 and "60 %" in figure.layout.xaxis.title.text
    after = figures.pca_scatter(before, target, target)
    assert len(after.data) == 4 and len({t.marker.symbol for t in after.data[1:]}) == 3


def test_bars_and_token_curve():
    bars = figures.importance_bars(["a", " ", "<b>"], [0.1, 0.2, 0.3], [True, False, True])
    assert list(bars.data[0].marker.pattern.shape) == ["", "/", ""]
    assert figures.token_curve([0.1, 0.2], "‘cat’").layout.yaxis.title.text.endswith("‘cat’")


NAMES, ROWS = (
    list("abc"),
    [
        SweepRow(
            "svl",
            "none",
            drop,
            tuple(range(drop)),
            kl,
            1 - kl,
            1.0,
            None,
            1 + drop / 10,
            1.0,
            1.0,
            5,
        )
        for drop, kl in enumerate((0.0, 0.1, 0.6))
    ],
)


@pytest.mark.parametrize(
    "figure",
    [
        figures.redundancy_curve({"important": [0.5]}),
        figures.redundancy_curve(
            {"important": [0.5, -1, 0.6], "own": [0.4, 0.4, 0.5]}, [1], focus=[0, 2]
        ),
        figures.similarity_heatmap(MATRIX, [0]),
        figures.block_heatmap(MATRIX, [0, 1], [0]),
        figures.gap_curve([0.1]),
        figures.gap_curve([0.1, 0.2], [1], {(1, 1): 0.2}),
        figures.pca_scatter(np.zeros((1, 2)), np.ones((1, 2)), np.ones((1, 2)), [0.5, 0.1]),
        figures.importance_bars([], []),
        figures.importance_bars(NAMES, [1, 2, 3], [True, False, True]),
        figures.token_curve([0.1], "a"),
        figures.stability_curve(
            np.array([0.9, 0.8]),
            np.array([[0.8, 1], [0.7, 0.9]]),
            np.array([1, 0.2]),
            [0],
            np.array([0.5, 0.6]),
            ids=[3, 5],
        ),
        figures.overlap_figure(np.array([1, 0, 0.5, 1]), 3, 2),
        figures.sweep_curves(
            {("svl", "none"): [replace(row, spread={"agreement": 0.1}) for row in ROWS]},
            {("svl", "none"): 2},
        ),
        figures.pareto_figure(ROWS, ROWS[1:]),
        figures.ablation_map(
            AblationMap("m", 3, 4, ((1,), (1, 2)), {"kl": ("a", "b")}, {"kl": np.ones((2, 2))}),
            "kl",
            1,
            [1],
            ids=[0, 1, 2],
        ),
        figures.skipped_heatmap({"a": [0.1, 0.2]}, 2),
        figures.kept_curves({"a": [1, 0.9]}, drops=[0, 3]),
    ],
    ids=range(17),
)
def test_plotly_takes_every_figure_and_the_page_shows_through(figure):
    """Figures are drawn without plotly's own checks, so they are checked here: an unknown name or
    value raises. What the page is sent is what plotly would write.
    """
    assert as_json(figure) == as_json(figure.figure)
    checked = go.Figure(as_json(figure))
    assert checked.layout.paper_bgcolor == "rgba(0,0,0,0)" and len(checked.data) == len(figure.data)


def square(n=2):
    return np.array([[c / n, r / n, (c + 1) / n, (r + 1) / n] for r in range(n) for c in range(n)])


def test_overlay_opacity_zero_is_the_image():
    image = Image.new("RGB", (64, 64), (200, 10, 10))
    out = figures.overlay(image, square(), [0, 1, 2, 3], opacity=0, width=64)
    assert np.array_equal(np.array(out), np.array(image))


def test_overlay_orders_colours_and_outlines_selection():
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    out = np.array(
        figures.overlay(
            image, square(), [0, 1, 2, 3], [False, False, False, True], opacity=1, width=320
        )
    ).astype(int)
    assert out.shape == (160, 320, 3)
    light = [out[y, x].sum() for y in (40, 120) for x in (80, 240)]
    assert light == sorted(light)  # Cividis brightens with importance
    assert tuple(out[159, 240]) == (255, 255, 255) and tuple(out[159, 80]) != (255, 255, 255)


def test_overlay_skips_patches_without_a_place_and_keeps_one_scale():
    rects = square()
    rects[3] = np.nan
    image = Image.new("RGB", (32, 32), (1, 2, 3))
    out = np.array(figures.overlay(image, rects, [0, 0, 0, 9], opacity=1, width=32))
    assert tuple(out[24, 24]) == (1, 2, 3)
    full = np.array(
        figures.overlay(image, square(), [1, 1, 1, 1], opacity=1, width=32, scale=(0, 1))
    )
    assert tuple(full[5, 5]) == tuple(full[20, 20]) and full[5, 5].sum() > 400
    with pytest.raises(ValueError, match="expected"):
        figures.overlay(image, square(), [1, 2])


def test_a_diverging_overlay_shows_sides_and_signs():
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    out = np.array(
        figures.overlay(
            image, square(), [1, -1, 0.1, 0], opacity=1, width=320, scale=(-1, 1), diverging=True
        )
    ).astype(int)
    plus, minus, faint = out[:80, :160], out[:80, 160:], out[80:, :160]
    assert tuple(plus[4, 4]) == (0, 114, 178) and tuple(minus[4, 4]) == (230, 159, 0)
    dark = lambda patch: patch.sum(axis=2) < 90  # noqa: E731
    assert (
        dark(plus).any(axis=1).sum() > 2 * dark(minus).any(axis=1).sum() > 0
        and dark(plus).any(axis=0).sum() == dark(minus).any(axis=0).sum()
    )  # a plus has the minus's width and is as high
    assert not dark(faint).any()


def test_what_many_samples_say_is_drawn_where_it_belongs():
    """A dropped layer is marked apart; points carry their recipe; the cliff stands at its row; NaN
    cells stay empty.
    """
    scores, interval = np.array([0.9, 0.8, 0.7]), np.array([[0.85, 0.95], [0.7, 0.85], [0.6, 0.8]])
    kept, gone, own = as_json(
        figures.stability_curve(
            scores,
            interval,
            np.array([1.0, 0.2, 0.0]),
            [0],
            np.array([0.5, 0.6, 0.7]),
            ids=[3, 5, 7],
        )
    )["data"]
    assert (
        gone["customdata"][0][0] == 3
        and [c[0] for c in kept["customdata"]] == [5, 7]
        and own["name"] == "this image"
    )
    overlap = as_json(figures.overlap_figure(np.array([1, 0, 0.5, 1]), 3, 2))["data"]
    assert [t["name"] for t in overlap] == ["image and set", "chance", "as many as you drop"]
    line, cliff = as_json(
        figures.sweep_curves({("<b>", "none"): ROWS}, {("<b>", "none"): 2}, "agreement")
    )["data"]
    assert (
        line["customdata"][1] == ["<b>", "none", 1]
        and line["name"] == "&lt;b&gt;"
        and cliff["x"] == [2]
    )
    front, points = as_json(figures.pareto_figure(ROWS, ROWS[1:], "kl"))["data"]
    assert len(points["x"]) == 3 and len(front["x"]) == 2
    named = as_json(
        figures.sweep_curves(
            {("svl", "scp"): ROWS}, {}, titles={"svl": "SVL (important tokens)", "scp": "<SCP>"}
        )
    )["data"][0]
    assert named["name"] == "SVL + &lt;SCP&gt;" and named["customdata"][1] == ["svl", "scp", 1]
    found = AblationMap(
        "m", 3, 4, ((1,), (1, 2)), {"kl": ("a", "<b>")}, {"kl": np.array([[0.5, 1.5], [2.0, 3.0]])}
    )
    drawn = figures.ablation_map(found, "kl", 1, [1], ids=[0, 1, 2])
    assert (
        np.isnan(drawn.data[0].z[:, 0]).all()
        and list(drawn.data[0].z[:, 1]) == [0.5, 1.5]
        and len(drawn.layout.shapes) == 1
        and list(drawn.data[0].y) == ["a", "&lt;b&gt;"]
    )


@pytest.mark.parametrize(
    "measure, values, base",
    [
        ("agreement", (1.0, 0.97, 0.93), 0.9),
        ("accuracy", (1.0, 1.0, 1.0), 0.9),
        ("exact", (1.0, 0.4, 0.9), None),
        ("kl", (0.9, 0.8, 0.7), None),
    ],
)
def test_the_axis_of_a_sweep_parts_lines_that_lie_close_together(measure, values, base):
    rows = [replace(row, **{measure: value}) for row, value in zip(ROWS, values, strict=True)]
    for figure in (
        figures.sweep_curves({("svl", "none"): rows}, {}, measure),
        figures.pareto_figure(rows, rows, measure),
    ):
        axis = figure.layout.yaxis
        assert axis.rangemode == ("tozero" if base is None else None) and (
            axis.range is None
            if base is None
            else axis.range[0] == pytest.approx(base) and axis.range[1] > 1
        )
