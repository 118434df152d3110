"""Presets, calibration sets and what many samples say, in Chromium: few visits, several things in each."""

from test_page import answered, dropped, idle, slide

from tiny import picture


def unfold(page, elem_id):
    page.locator(f"#{elem_id} > button").click()


def said(page, elem_id, words):
    page.wait_for_function("([id, words]) => document.getElementById(id).innerText.includes(words)", arg=[elem_id, words])


def choose(page, elem_id, words):
    page.locator(f"#{elem_id} label", has_text=words).locator("input").click()


def test_calibration_sets_presets_and_visual_tokens(page, tmp_path):
    idle(page)
    assert page.locator("#preset input:checked").get_attribute("value") == "as-published"
    unfold(page, "calibration-section")
    page.locator("#calibration-size input[type=number]").fill("4")
    page.locator("#calibration-size input[type=number]").press("Tab")
    said(page, "calibration-note", "bundled set (4 scenes)")
    choose(page, "calibration", "Bundled set")
    said(page, "calibration-note", "ranked on the bundled set (4 scenes)")
    for k in range(3):
        picture(seed=k).save(tmp_path / f"own{k}.png")
    page.locator("#calibration-files input[type=file]").set_input_files([tmp_path / f"own{k}.png" for k in range(3)])
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
    choose(page, "preset", "Best found")
    said(page, "preset-note", "winner")
    idle(page)
    assert page.locator("#compensation input").input_value().startswith("refit") and page.locator("#preset input:checked").get_attribute("value") == "best"
    slide(page, "visual-share", -10)
    said(page, "metrics", "visual tokens read")
    idle(page)
    assert page.locator("#preset input:checked").get_attribute("value") == "custom"
    choose(page, "preset", "SVL as published")
    page.wait_for_function("document.querySelector('#compensation input').value.startsWith('SCP')")
    idle(page)
