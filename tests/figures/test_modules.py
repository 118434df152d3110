"""Each module of figures by itself: axes, frames and values on a few hand-made numbers."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from svl_core.comparison.sweep import SweepRow
from svl_core.figures import curves, evidence, lesson, style
from svl_core.figures.overlay import overlay, sized

LEFT_AND_RIGHT = np.array([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])


def test_a_layer_axis_writes_at_most_so_many_ticks():
    """20 layers on 8 ticks: every third, by the original model's indices."""
    axis = style.layer_axis(range(100, 120), phone_ticks=8)
    assert axis["tickvals"] == [0, 3, 6, 9, 12, 15, 18]
    assert axis["ticktext"] == ["100", "103", "106", "109", "112", "115", "118"]
    assert axis["range"] == [-0.6, 19.6]
    assert style.layer_axis([4, 7])["ticktext"] == ["4", "7"]


def test_a_frame_is_orange():
    frame = style.frame(0.5, 2.5, -1, 1)
    assert (frame["x0"], frame["x1"], frame["y0"], frame["y1"]) == (0.5, 2.5, -1, 1)
    assert frame["line"]["color"] == style.DROPPED


def test_every_token_set_differs_in_colour_dash_and_symbol():
    looks = style.TOKEN_SETS.values()
    for part in ("label", "colour", "dash", "symbol"):
        assert len({look[part] for look in looks}) == len(looks)


def test_a_colour_bars_title_stands_above_the_figure():
    figure = style.drawn([], x="layer", y="share", height=100, colours="cosine")
    assert figure.layout.annotations[0].text == "cosine"
    assert style.drawn([], x="layer", y="share", height=100).layout.annotations == ()


def test_neighbours_make_a_run():
    assert curves.runs_of([7, 1, 2, 3]) == [(1, 3), (7, 7)]


def test_a_token_curve_names_original_layers():
    (line,) = curves.token_curve([0.25, 0.75], "<b>", ids=[3, 9]).data
    assert list(line.y) == [0.25, 0.75]
    assert list(line.customdata) == [3, 9]


def test_chance_is_the_share_of_the_droppable_layers():
    """Two of four droppable layers drawn at random agree by half."""
    figure = evidence.overlap_figure(np.array([1.0, 0.0, 0.5]), droppable=4, count=2)
    measured, chance, chosen = figure.data
    assert list(measured.y) == [0.0, 50.0]
    assert list(chance.y) == [25.0, 50.0]
    assert (list(chosen.x), list(chosen.y)) == ([2], [50.0])


def test_a_sweeps_point_stands_at_its_speed_up_and_measure():
    row = SweepRow("svl", "scp", 3, (1, 2, 4), 0.25, 0.75, 0.5, None, 1.5, 1.2, 1.6, 1000)
    _, points = evidence.pareto_figure([row], [row], "kl").data
    assert (list(points.x), list(points.y)) == ([1.5], [0.25])
    assert list(points.customdata[0]) == ["svl", "scp", 3]


def test_a_point_whose_time_is_noise_is_hollow_and_stands_where_expected():
    sure = SweepRow("svl", "scp", 2, (1, 2), 0.1, 0.9, 0.5, None, 1.1, 1.1, 1.1, 9, None, 1.2)
    loaded = replace(sure, drop=3, speedup=2.78, expected=1.45, noise="more than 1.45 times")
    line, points = evidence.pareto_figure([sure, loaded], [loaded], "kl").data
    assert (list(line.x), list(points.x)) == ([1.45], [1.1, 1.45])
    full, hollow = points.marker.symbol
    assert hollow == full + "-open"
    assert points.text == (
        "1.10× as fast (expected: 1.20×)",
        "1.45× as fast expected (measured: noise, more than 1.45 times)",
    )


def test_accuracies_are_shown_in_percent():
    (cells,) = lesson.skipped_heatmap({"colour": [1.0, 0.25], "where": [0.5, 0.0]}).data
    assert np.array(cells.z).tolist() == [[100.0, 25.0], [50.0, 0.0]]
    figure = lesson.kept_curves({"svl": [1.0, 0.9]}, drops=[0, 3])
    assert list(figure.data[0].y) == pytest.approx([100.0, 90.0])
    assert list(figure.data[0].x) == [0, 3]
    assert lesson.kept_curves({"svl": [1.0, 0.73]}).layout.yaxis.range[0] == 70


def test_an_overlay_of_colours_only_shows_the_ends_of_its_scale():
    """Two halves, scores 0 and 1: the first and the last colour of Cividis."""
    ground = Image.new("RGB", (20, 10), "red")
    picture = overlay(ground, LEFT_AND_RIGHT, [0.0, 1.0], opacity=1, width=20)
    assert picture.size == (20, 10)
    assert picture.getpixel((5, 5)) == pytest.approx((0, 34, 78), abs=1)
    assert picture.getpixel((15, 5)) == pytest.approx((254, 232, 56), abs=1)


def test_the_outline_s_teeth_point_at_what_counts():
    """The left half counts: its border with the right one has a tooth on the left alone, and the
    picture's edge has none.
    """
    ground = Image.new("RGB", (100, 100), (120, 120, 120))
    drawn = overlay(ground, LEFT_AND_RIGHT, [0.0, 1.0], [True, False], opacity=0, width=100)
    lines = np.asarray(drawn).astype(int) != 120
    across, _ = np.nonzero(lines.any(-1)[:, 40:44])
    assert set(across) - {0, 99} == {49, 50, 51}  # white between dark edges, at half the height
    assert not lines[10:90, 56:95].any() and not lines[10:90, 4:38].any()


def test_an_overlay_without_places_is_the_image():
    ground = Image.new("RGB", (20, 10), "red")
    nowhere = np.full((2, 4), np.nan)
    picture = overlay(ground, nowhere, [0.0, 1.0], opacity=1, width=20)
    assert picture.getcolors() == [(200, (255, 0, 0))]


def test_a_picture_of_the_width_that_is_asked_for_is_drawn_on_as_it_is():
    """Several overlays on one picture are resized once, and leave it alone."""
    ground = Image.effect_mandelbrot((40, 20), (-2, -1, 1, 1), 9).convert("RGB")
    base = sized(ground, 20)
    kept = base.copy()
    direct = overlay(ground, LEFT_AND_RIGHT, [0.0, 1.0], [True, False], opacity=0.5, width=20)
    again = overlay(base, LEFT_AND_RIGHT, [0.0, 1.0], [True, False], opacity=0.5, width=20)
    assert base.size == (20, 10) and again.tobytes() == direct.tobytes()
    assert base.tobytes() == kept.tobytes()
