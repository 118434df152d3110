"""Step "words" in Chromium: nothing is read before it is in sight; then by mouse, keyboard and
touch, wide and on a phone.
"""

import pytest
from test_page import idle

pytestmark = pytest.mark.slow


def in_sight(tab):
    """Scrolls there, which has both answers' words read."""
    section = tab.locator("#section-words")
    section.wait_for(state="attached")
    section.scroll_into_view_if_needed()
    tab.locator("#plot-lens .main-svg").first.wait_for()
    tab.locator("#head-map .pictures img").first.wait_for()


def test_words_are_read_in_sight_and_looked_at_by_mouse_and_keyboard(page, site):
    idle(page)
    kept = site[1].workspace.words
    kept.clear()  # what other visits read
    page.reload()
    page.locator("#metrics .facts").wait_for()
    idle(page)
    assert len(kept) == 0
    assert "Appears once both models have answered." in page.locator("#plot-lens").inner_text()
    in_sight(page)
    assert "has decided on its answer at layer" in page.locator("#decided .verdict").inner_text()

    # a word by keyboard: the head's map, the address and the link follow
    before = page.locator("#head-map .small-title").first.inner_text()
    other = page.locator("#answer-words button[aria-pressed=false]").first
    word = other.get_attribute("data-pick")
    other.focus()
    page.keyboard.press("Enter")
    page.locator(f"#answer-words button[data-pick={word}][aria-pressed=true]").wait_for()
    page.wait_for_function(
        "old => document.querySelector('#head-map .small-title').innerText !== old", arg=before
    )
    assert f"word={word}" in page.url
    assert f"word={word}" in page.locator("#link input").input_value()
    assert page.evaluate("document.activeElement.dataset.pick") == word

    # a cell of the grid by mouse
    page.locator("#plot-heads .nsewdrag").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('dock').style.position = 'static'")
    box = page.locator("#plot-heads .nsewdrag").bounding_box()
    at = box["x"] + 0.02 * box["width"], box["y"] + 0.98 * box["height"]
    page.mouse.move(at[0] + 3, at[1])
    page.mouse.move(*at)
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(
        "document.querySelector('#head-map .small-title').innerText.startsWith('Layer 0, head 0')"
    )

    # what the word depends on, asked for by its button
    assert page.locator("#dependence img").count() == 0
    page.locator("#dependence-run").click()
    page.locator("#dependence .pictures img").first.wait_for()
    assert "random ones" in page.locator("#dependence").inner_text()

    # a patch
    page.locator("#patch-names img").click(position={"x": 30, "y": 30})
    page.locator("#plot-patch-words .main-svg").first.wait_for()
    idle(page)


def test_a_phone_reads_words_by_touch(phone):
    idle(phone)
    in_sight(phone)
    other = phone.locator("#answer-words button[aria-pressed=false]").first
    word = other.get_attribute("data-pick")
    other.tap()
    phone.locator(f"#answer-words button[data-pick={word}][aria-pressed=true]").wait_for()
    phone.locator("#head-map .chips button").last.tap()
    phone.locator("#head-map .chips button[aria-pressed=true]").wait_for()
    idle(phone)
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
