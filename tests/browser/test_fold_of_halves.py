"""Fold "Which half of a layer is redundant?" in Chromium: nothing is measured before it is opened;
then its marks follow the plan, and both models answer side by side.
"""

import pytest
from test_page import idle, slide

pytestmark = pytest.mark.slow


def said(page, words):
    page.wait_for_function(
        "words => document.getElementById('halves-said')?.innerText.includes(words)", arg=words
    )


def test_halves_are_measured_marked_and_asked_without(page):
    idle(page)
    assert page.locator("#plot-halves .main-svg").count() == 0
    page.locator("#halves > button").click()
    page.locator("#plot-halves .main-svg").first.wait_for()
    layers = int(page.locator("#drop input[type=number]").input_value())
    said(page, f"would skip {2 * layers} halves")
    assert f"--granularity half --drop {2 * layers}" in page.locator("#halves-said").inner_text()

    page.locator("#halves-run").click()
    page.locator("#halves-answers .facts").wait_for()
    assert page.locator("#halves-answers .answer").count() == 2
    assert "KL divergence" in page.locator("#halves-answers").inner_text()

    # another plan: the marks follow, and answers of the plan before go
    page.locator("#halves-answers").scroll_into_view_if_needed()
    slide(page, "drop", 1)
    said(page, f"would skip {2 * layers + 2} halves")
    page.wait_for_function("!document.querySelector('#halves-answers .facts')")
    idle(page)
    assert page.locator("#plot-halves details").count() == 1  # its numbers
