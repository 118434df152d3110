"""Variants, the lesson, large type and links, through the real page by mouse, keyboard and touch."""

import json

from test_page import dropped, idle


def test_variants_links_and_large_type(page, second, site):
    idle(page)
    page.evaluate("document.getElementById('dock').style.position = 'static'")
    page.locator("#choose > button").click()  # a fold opened late shows its figure at once
    page.locator("#plot-blocks .main-svg").first.wait_for()
    assert page.locator("#difference img").count() == 3 and all(page.locator("#difference img").nth(k).get_attribute("alt") for k in range(3))
    mine = dropped(page)
    page.locator("#keep").click()
    page.locator("#variants article").wait_for()
    page.locator("#strip button.kept").nth(2).click()
    idle(page)
    other = dropped(page)
    page.locator("#keep").click()
    page.locator("#variants article").nth(1).wait_for()
    page.locator("#variants [data-pick=A]:not([data-event])").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("n => document.querySelectorAll('#strip .gone').length === n", arg=len(mine))
    idle(page)
    assert dropped(page) == mine != other
    page.locator("#variants [data-event=remove]").first.click()
    page.wait_for_function("document.querySelectorAll('#variants article').length === 1")
    # large type: a click on a figure still lands, and the link carries it
    before = page.locator("#title h1").bounding_box()["height"]
    page.locator("#type button").click()
    page.wait_for_function("document.querySelector('#type button').getAttribute('aria-pressed') === 'true'")
    assert page.locator("#title h1").bounding_box()["height"] > 1.2 * before
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    area, layers = page.locator("#plot-blocks .nsewdrag").first, page.locator("#strip .cells button").count()
    area.scroll_into_view_if_needed()
    page.wait_for_timeout(700)  # the figure is drawn anew in its larger size
    box = area.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 1.6 / layers, box["y"] + box["height"] * (1 - 1.5 / (layers - 2)))
    page.wait_for_function("[...document.querySelectorAll('#strip .gone')].map(e => e.innerText).join() === '1,2'")
    idle(page)
    link = page.locator("#link input").input_value()
    assert "type=large" in link
    second.goto(link)
    second.locator("#metrics .facts").wait_for()
    idle(second)
    assert dropped(second) == [1, 2]
    assert second.locator("#link input").input_value() == link and second.evaluate("document.documentElement.classList.contains('svl-large')")


def test_lesson_and_touch_on_a_phone(phone, site):
    idle(phone)
    before = (dropped(phone), phone.locator("#prompt textarea").input_value())
    phone.locator("#overlay img").scroll_into_view_if_needed()
    phone.locator("#overlay img").tap(position={"x": 30, "y": 30})
    phone.locator("#token-curve .main-svg").first.wait_for()
    assert phone.locator("#plot-redundancy .svl-canvas").bounding_box()["width"] > 300
    phone.locator("#lesson .svl-start").tap()
    title = phone.locator(".svl-panel h2")
    title.wait_for()
    idle(phone)
    assert dropped(phone) == [] and phone.evaluate("document.activeElement.tagName") == "H2"
    for cell in phone.locator(".svl-guess button:enabled").all()[:4]:
        cell.tap()
    phone.locator(".svl-panel .svl-look").tap()
    assert "You found" in phone.locator(".svl-said").inner_text()
    phone.wait_for_function("document.querySelectorAll('#strip .gone').length === 4")
    for step in range(2, 7):
        phone.locator(".svl-next").focus()
        phone.keyboard.press("Enter")
        phone.wait_for_function("n => document.querySelector('.svl-panel h2 small').innerText.includes(`step ${n} of 6`)", arg=step)
        idle(phone)
        assert phone.locator(".svl-after").count() == 0  # nothing is told before it is asked
        phone.locator(".svl-options button").first.tap()
        idle(phone)
        if step == 5:
            phone.locator(".svl-options button").nth(1).tap()
            phone.wait_for_function("[...document.querySelectorAll('.svl-log td')].length === 4 && ![...document.querySelectorAll('.svl-log td')].some(c => c.innerText === '…')")
            phone.locator(".svl-panel .svl-look").tap()
        phone.locator(".svl-after").wait_for()
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert "lesson=6" in phone.url
    title.focus()
    phone.keyboard.press("Escape")
    phone.wait_for_function("prompt => document.querySelector('#prompt textarea').value === prompt", arg=before[1])
    phone.wait_for_function("n => document.querySelectorAll('#strip .gone').length === n", arg=len(before[0]))
    idle(phone)
    assert dropped(phone) == before[0] and "lesson" not in phone.url and phone.locator(".svl-panel").is_hidden()
    assert json.loads(phone.evaluate("JSON.stringify(svl.plan.drop)")) == before[0]
