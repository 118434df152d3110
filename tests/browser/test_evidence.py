"""Presets, calibration sets and what many samples say, in Chromium: few visits, several things in
each.
"""

import pytest
from test_page import answered, dropped, idle, slide
from tiny import picture

import svl_core as svl

pytestmark = pytest.mark.slow


def unfold(page, elem_id):
    page.locator(f"#{elem_id} > button").click()


def said(page, elem_id, words):
    page.wait_for_function(
        "([id, words]) => document.getElementById(id).innerText.includes(words)",
        arg=[elem_id, words],
    )


def choose(page, elem_id, words):
    page.locator(f"#{elem_id} label", has_text=words).locator("input").click()


def four_scenes(page):
    """The size of the bundled set, typed as soon as its fold has opened."""
    unfold(page, "calibration-section")
    size = page.locator("#calibration-size input[type=number]")
    size.fill("4")
    size.press("Tab")
    said(page, "calibration-note", "bundled set (4 scenes)")


def test_calibration_sets_presets_and_visual_tokens(page, tmp_path):
    idle(page)
    assert page.locator("#preset input:checked").get_attribute("value") == "as-published"
    four_scenes(page)
    choose(page, "calibration", "Bundled set")
    said(page, "calibration-note", "ranked on the bundled set (4 scenes)")
    for k in range(3):
        picture(seed=k).save(tmp_path / f"own{k}.png")
    page.locator("#calibration-files input[type=file]").set_input_files(
        [tmp_path / f"own{k}.png" for k in range(3)]
    )
    said(page, "calibration-note", "ranked on your set (3 samples)")
    idle(page)
    choose(page, "calibration", "This image")
    said(page, "calibration-note", "share the sample")
    assert "calibration=this" in page.locator("#link input").input_value()
    choose(page, "calibration", "Bundled set")
    said(page, "calibration-note", "ranked on the bundled set (4 scenes)")
    idle(page)
    slide(page, "drop", 1 - len(dropped(page)))
    answered(page, 1)
    choose(
        page, "calibration", "Your files"
    )  # few samples: of the bundled world the preset takes 256
    said(page, "calibration-note", "ranked on your set (3 samples)")
    idle(page)
    choose(page, "preset", "Best found")
    said(page, "preset-note", "winner")
    idle(page)
    assert (
        page.locator("#compensation input").input_value().startswith("refit")
        and page.locator("#preset input:checked").get_attribute("value") == "best"
    )
    slide(page, "visual-share", -10)
    said(page, "metrics", "visual tokens read")
    idle(page)
    assert page.locator("#preset input:checked").get_attribute("value") == "custom"
    choose(page, "preset", "SVL as published")
    page.wait_for_function("document.querySelector('#compensation input').value.startsWith('SCP')")
    idle(page)


def few(page):
    """A calibration set of four scenes, so that many samples are few."""
    idle(page)
    page.evaluate(
        "document.getElementById('dock').style.position = 'static'"
    )  # it would cover the figures
    four_scenes(page)
    idle(page)


def press(page, mark):
    """Click the middle of a figure's mark."""
    mark.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 9, box["y"] + box["height"] / 2 + 9)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()


def test_stability_sweep_and_ablation(page):
    few(page)
    unfold(page, "stability")
    page.locator("#plot-stability .main-svg").first.wait_for()
    said(page, "stability-note", "1,000 resamples of the bundled set (4 scenes)")
    assert page.locator("#plot-overlap .svl-canvas").get_attribute("aria-label")

    unfold(page, "sweep")
    for name, value in (("sweep-most", "3"), ("sweep-size", "4")):
        page.locator(f"#{name} input[type=number]").fill(value)
        page.locator(f"#{name} input[type=number]").press("Tab")
    page.locator("#sweep-criteria label", has_text="Random").locator("input").click()
    page.locator("#sweep-run").click()
    page.locator("#sweep-status progress").wait_for()
    page.locator("#plot-sweep .points path").first.wait_for()
    page.locator("#sweep-stop").click()
    said(page, "sweep-status", "Stopped after")
    page.locator("#sweep-run").click()
    said(
        page,
        "sweep-status",
        "16 pruned models measured. Ranked and fitted on the bundled set (4 scenes), measured on 4"
        " other scenes.",
    )
    page.wait_for_function(
        "document.querySelector('#plot-pareto .svl-canvas').ariaLabel.includes('beaten by none')"
    )
    with page.expect_download() as taken:
        page.locator("#sweep-csv").click()
    assert (
        taken.value.suggested_filename == "short-lvlm-sweep.csv"
        and len(open(taken.value.path()).readlines()) == 17
    )
    last = page.evaluate(
        "document.querySelector('#plot-sweep .svl-canvas').data.findIndex(t =>"
        " t.mode.startsWith('lines') && String(t.customdata[0]).startsWith('shortgpt,scp'))"
    )
    press(
        page,
        page.locator("#plot-sweep .scatterlayer .trace").nth(last).locator(".points path").nth(2),
    )
    criterion, compensation, _ = page.evaluate(
        "document.querySelector('#plot-sweep .svl-canvas')._hoverdata[0].customdata"
    )  # points may lie on each other
    said(page, "calibration-note", "ranked on the bundled set (4 scenes)")
    assert (
        page.locator("#criterion input").input_value() == svl.CRITERIA[criterion].title
        and page.locator("#compensation input").input_value()
        == svl.COMPENSATIONS[compensation].title
    )
    assert (
        len(dropped(page)) == 2
        and page.locator("#drop input[type=number]").input_value() == "2"
        and "by the ranking" in page.locator("#plan-line").inner_text()
    )
    answered(page, 2)
    idle(page)
    slide(page, "drop", 1)
    answered(page, 3)
    said(page, "plan-line", "by the ranking")
    assert page.locator("#criterion input").input_value() == svl.CRITERIA[criterion].title

    unfold(page, "ablation")
    choose(page, "ablation-source", "This image")
    said(page, "ablation-status", "Measure the map")
    page.locator("#ablation-run").click()
    page.locator("#plot-ablation .main-svg").first.wait_for()
    said(
        page,
        "ablation-status",
        (
            "58 blocks"
            if page.locator("#strip .cells button").count() == 16
            else "blocks of one to four layers"
        ),
    )
    choose(page, "ablation-block", "2")
    area = page.locator("#plot-ablation .nsewdrag").first
    area.scroll_into_view_if_needed()
    page.wait_for_function(
        "document.querySelector('#plot-ablation .svl-canvas').ariaLabel.includes('block of 2')"
    )
    page.wait_for_timeout(500)
    box, layers = area.bounding_box(), page.locator("#strip .cells button").count()
    expected = ",".join(map(str, sorted({*dropped(page), 2, 3})))
    page.mouse.move(box["x"] + box["width"] * 2.5 / (layers - 1), box["y"] + 20)
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(
        "expected => [...document.querySelectorAll('#strip .gone')].map(e => e.innerText).join()"
        " === expected",
        arg=expected,
    )
    idle(page)
