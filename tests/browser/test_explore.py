"""Variants, the lesson, large type, links and accessibility, through the real page by mouse,
keyboard and touch.
"""

import json
import shutil
import subprocess
import tarfile

import pytest
from test_page import dropped, idle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """axe-core's script, from npm's package into a temporary folder; skips where npm or its
    registry is not there.
    """
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not there")
    try:
        packed = subprocess.run(
            [npm, "pack", "axe-core@4", "--silent"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    files = list(folder.glob("axe-core-*.tgz"))
    if packed.returncode or not files:
        pytest.skip("npm cannot fetch axe-core")
    with tarfile.open(files[0]) as archive:
        return archive.extractfile("package/axe.min.js").read().decode("utf-8")


def findings(page, axe):
    """What axe calls serious or critical: (rule, the first places).

    Figures are left out: plotly's drawing stands behind one label each, checked apart.
    """
    page.wait_for_timeout(500)  # colours move to a new theme's in a moment
    page.evaluate(axe)
    found = page.evaluate(
        "async () => (await axe.run({exclude: ['.js-plotly-plot']}, {resultTypes:"
        " ['violations']})).violations.map(v => [v.impact, v.id, v.nodes.slice(0, 4).map(n =>"
        " n.html.slice(0, 160))])"
    )
    return [each for each in found if each[0] in ("serious", "critical")]


def test_axe_finds_nothing_serious_on_the_unfolded_page_light_dark_wide_and_narrow(page, axe):
    idle(page)
    page.locator("#keep").click()
    page.locator("#variants article").wait_for()
    page.evaluate("document.getElementById('dock').style.position = 'static'")
    page.evaluate(
        "document.querySelectorAll('button.label-wrap:not(.open)').forEach(fold => fold.click())"
    )
    page.locator("#plot-ablation .js-plotly-plot").wait_for()
    idle(page)
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    drawn = page.locator(".svl-plot .svl-canvas.js-plotly-plot:visible").all()
    assert len(drawn) > 5
    for canvas in drawn:
        assert (
            len(canvas.get_attribute("aria-label")) > 20
            and canvas.locator("xpath=..").locator(".svl-numbers tr").count() >= 2
        )
    assert page.locator("img:not([alt])").count() == 0
    assert findings(page, axe) == []
    ink = "document.querySelector('#plot-redundancy .xtick text').style.fill"
    light = page.evaluate(ink)
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_function(f"light => {ink} !== light", arg=light)  # figures follow the theme
    assert findings(page, axe) == []
    for width in (390, 360):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 390, "height": 844})
    assert findings(page, axe) == []
    page.evaluate("document.body.classList.remove('dark')")
    assert findings(page, axe) == []
    page.locator("#lesson .svl-start").click()
    page.locator(".svl-panel .svl-terms button").first.wait_for()
    assert findings(page, axe) == []
    at_step(page, 2)
    page.locator(".svl-panel .svl-guess button").first.wait_for()
    assert findings(page, axe) == []
    at_step(page, 3)
    page.locator(".svl-panel .svl-options button").first.click()
    page.locator(".svl-tail .js-plotly-plot").wait_for()
    idle(page)
    assert findings(page, axe) == []


def chosen_from_list(page, name, option):
    """Opens a dropdown, checks that its list lies at its field and as wide, and takes the option of
    that number; the option's words.
    """
    field = page.locator(f"#{name} .wrap-inner")
    page.locator(f"#{name} input").click()
    page.locator(f"#{name} .option-list [role=option]").nth(option).wait_for()
    shown, there = page.locator(f"#{name} .option-list").bounding_box(), field.bounding_box()
    gap = min(
        abs(shown["y"] - there["y"] - there["height"]),
        abs(there["y"] - shown["y"] - shown["height"]),
    )  # below the field, or above it
    assert (
        gap < 6 and abs(shown["x"] - there["x"]) < 4 and abs(shown["width"] - there["width"]) < 6
    ), (shown, there)
    words = (
        page.locator(f"#{name} .option-list [role=option]").nth(option).inner_text().strip("✓ \n")
    )
    page.locator(f"#{name} .option-list [role=option]").nth(option).click()
    page.wait_for_function(
        "([name, words]) => document.querySelector(`#${name} input`).value === words",
        arg=[name, words],
    )
    idle(page)
    return words


def test_variants_links_and_large_type(page, second, site):
    idle(page)
    page.evaluate("document.getElementById('dock').style.position = 'static'")
    page.locator("#choose > button").click()  # a fold opened late shows its figure at once
    page.locator("#plot-blocks .main-svg").first.wait_for()
    assert page.locator("#difference img").count() == 3 and all(
        page.locator("#difference img").nth(k).get_attribute("alt") for k in range(3)
    )
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
    page.wait_for_function(
        "n => document.querySelectorAll('#strip .gone').length === n", arg=len(mine)
    )
    idle(page)
    assert dropped(page) == mine != other
    page.locator("#variants [data-event=remove]").first.click()
    page.wait_for_function("document.querySelectorAll('#variants article').length === 1")
    chosen_from_list(page, "token-set", 1)
    # large type: lists lie at their fields, a click on a figure still lands, and the link carries
    # it
    before = page.locator("#title h1").bounding_box()["height"]
    page.locator("#type button").click()
    page.wait_for_function(
        "document.querySelector('#type button').getAttribute('aria-pressed') === 'true'"
    )
    assert page.locator("#title h1").bounding_box()["height"] > 1.2 * before
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    chosen_from_list(page, "token-set", 0)
    chosen_from_list(page, "compensation", 0)
    area, layers = (
        page.locator("#plot-blocks .nsewdrag").first,
        page.locator("#strip .cells button").count(),
    )
    area.scroll_into_view_if_needed()
    page.wait_for_timeout(700)  # the figure is drawn anew in its larger size
    box = area.bounding_box()
    page.mouse.click(
        box["x"] + box["width"] * 1.6 / layers, box["y"] + box["height"] * (1 - 1.5 / (layers - 2))
    )
    page.wait_for_function(
        "[...document.querySelectorAll('#strip .gone')].map(e => e.innerText).join() === '1,2'"
    )
    idle(page)
    link = page.locator("#link input").input_value()
    assert "type=large" in link
    second.goto(link)
    second.locator("#metrics .facts").wait_for()
    idle(second)
    assert dropped(second) == [1, 2]
    assert second.locator("#link input").input_value() == link and second.evaluate(
        "document.documentElement.classList.contains('svl-large')"
    )


def at_step(page, number):
    """Goes on to the lesson's next step, by the keyboard, and waits until the page rests."""
    page.locator(".svl-next").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "n => document.querySelector('.svl-panel h2 small').innerText.includes(`step ${n} of 8`)",
        arg=number,
    )
    idle(page)


GUESS_STEP, REPAIR_STEP, LAST_STEP = 2, 7, 8


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
    phone.locator(".svl-terms button").nth(2).tap()
    assert phone.locator(".svl-drawing .lit").count() >= 1
    for step in range(2, LAST_STEP + 1):
        at_step(phone, step)
        assert phone.locator(".svl-after").count() == 0  # nothing is told before it is asked
        if step == GUESS_STEP:
            figure = phone.locator("#plot-redundancy")
            assert figure.is_hidden() and figure.evaluate("node => node.inert")
            for cell in phone.locator(".svl-guess button:enabled").all()[:4]:
                cell.tap()
            phone.locator(".svl-main > .svl-look").tap()
            assert "You found" in phone.locator(".svl-said").inner_text()
            phone.wait_for_function("document.querySelectorAll('#strip .gone').length === 4")
            assert figure.is_visible() and not figure.evaluate("node => node.inert")
        elif phone.locator(".svl-log").count():
            phone.locator(".svl-options button").first.tap()
            phone.wait_for_function(
                "[...document.querySelectorAll('.svl-log td')].every(c => c.innerText !== '…')"
            )
            phone.locator(".svl-main > .svl-look").tap()
        else:
            phone.locator(".svl-main > .svl-options button").first.tap()
        phone.locator(".svl-after").wait_for()
        idle(phone)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert "lesson=8" in phone.url
    title.focus()
    phone.keyboard.press("Escape")
    phone.wait_for_function(
        "prompt => document.querySelector('#prompt textarea').value === prompt", arg=before[1]
    )
    phone.wait_for_function(
        "n => document.querySelectorAll('#strip .gone').length === n", arg=len(before[0])
    )
    idle(phone)
    assert (
        dropped(phone) == before[0]
        and "lesson" not in phone.url
        and phone.locator(".svl-panel").is_hidden()
    )
    assert json.loads(phone.evaluate("JSON.stringify(svl.plan.drop)")) == before[0]


LOGGED = """() => Object.fromEntries([...document.querySelectorAll('.svl-log tbody tr')].map(
    row => [row.dataset.name, row.children[2].innerText]))"""
COVERED = """() => { const box = document.querySelector('.svl-pointed').getBoundingClientRect();
    const dock = document.getElementById('dock').getBoundingClientRect();
    const panel = document.querySelector('.svl-panel').getBoundingClientRect();
    const middle = document.elementFromPoint(box.x + box.width / 2, box.y + Math.min(box.height / 2,
        150));
    return [dock.height, panel.height, !!middle?.closest('.svl-pointed')]; }"""


def test_the_lesson_s_numbers_are_their_own_and_its_presenter_mode_leaves_the_figure(page, site):
    idle(page)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.locator("#lesson .svl-start").click()
    page.locator(".svl-terms button").first.wait_for()
    for step in range(2, REPAIR_STEP + 1):
        at_step(page, step)
    # clicks that come faster than answers: each row gets the numbers of its own compensation
    for button in page.locator(".svl-main > .svl-options button").all():
        button.click()
    page.wait_for_function(
        "() => { const cells = [...document.querySelectorAll('.svl-log td')];"
        " return cells.length === 8 && cells.every(c => c.innerText !== '…') }"
    )
    idle(page)
    logged = page.evaluate(LOGGED)
    assert len(logged) == 4 and "–" not in logged.values()
    assert len(set(logged.values())) >= 3
    page.locator(".svl-main > .svl-options button").nth(1).click()
    page.wait_for_function(
        "document.querySelector('#metrics .facts')?.dataset.compensation === 'scp'"
    )
    idle(page)
    alone = page.evaluate("(+document.querySelector('#metrics .facts').dataset.kl).toFixed(3)")
    assert page.evaluate(LOGGED)["scp"] == alone == logged["scp"]
    # the skills of the plan that stands, asked live, move with the slider
    at_step(page, LAST_STEP)
    asked = "document.querySelectorAll('.svl-skills .skill:not(.old)').length === 4"
    page.wait_for_function(asked)
    first = page.locator(".svl-skills").inner_text()
    slider = page.locator("#drop input[type=range]")
    slider.focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "first => { const part = document.querySelector('.svl-skills'); return"
        " !part.querySelector('.old') && part.innerText !== first }",
        arg=first,
    )
    idle(page)
    # presenter mode: the lesson and the dock one line each, the figure free between them
    page.locator(".svl-hall").click()
    page.wait_for_function("document.documentElement.classList.contains('svl-large')")
    for _ in range(3):  # back to the gap's step
        page.keyboard.press("PageUp")
    page.wait_for_function(
        "document.querySelector('.svl-panel small').innerText.includes('step 5 of 8')"
    )
    idle(page)
    page.keyboard.press("PageDown")  # reveals
    page.locator(".svl-panel.told").wait_for()
    page.wait_for_timeout(300)
    dock, panel, free = page.evaluate(COVERED)
    assert free and dock < 90 and panel < 90, (dock, panel, free)
    assert "present=1" in page.url
    page.keyboard.press("PageDown")  # goes on
    page.wait_for_function(
        "document.querySelector('.svl-panel small').innerText.includes('step 6 of 8')"
    )
    idle(page)
    page.keyboard.press("Escape")
    page.wait_for_function("!document.documentElement.classList.contains('svl-large')")
    assert "present" not in page.url and page.locator(".svl-panel").is_hidden()
    idle(page)
