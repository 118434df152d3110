"""The main job in Chromium: from the first sight of the page to both answers, by mouse, keyboard
and touch.
"""

import io
import json
import threading
import time
import zipfile

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

PLOTS = ("plot-redundancy", "plot-similarity", "plot-gap", "plot-pca")
IDS = (
    "model image prompt examples new-scene analyze drop strip criterion compensation run stop"
    " answer-full answer-pruned metrics overlay tokens layer top-p plot-redundancy plot-similarity"
    " plot-gap plot-pca"
).split()


def dropped(page):
    return [int(t) for t in page.locator("#strip button.gone").all_inner_texts()]


def dropped_behind(page):
    """The same where the strip itself is not shown."""
    return [int(text) for text in page.locator("#strip button.gone").all_text_contents()]


def idle(page):
    """Wait until nothing runs: no status pill for a second (a slider counts as set after a quarter
    of one).
    """
    calm = 0
    for _ in range(600):
        calm = calm + 1 if page.locator("#status .pill").count() == 0 else 0
        if calm >= 10:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the page did not come to rest")


def slide(page, elem_id, steps):
    knob = page.locator(f"#{elem_id} input[type=range]")
    knob.focus()
    wanted = str(int(knob.input_value()) + steps) if knob.get_attribute("step") == "1" else None
    for _ in range(abs(steps)):
        knob.press("ArrowRight" if steps > 0 else "ArrowLeft")
    if wanted and knob.input_value() != wanted:  # a figure drawn at that moment may swallow a key
        knob.fill(wanted)


def answered(page, count):
    """Wait for the answers to a plan that drops `count` layers."""
    said = f"{count} of " if count else "same model"
    page.wait_for_function(
        "said => document.querySelector('#metrics .verdict')?.innerText.includes(said)", arg=said
    )
    idle(page)


def test_everything_is_there_at_once(page):
    for name in IDS:
        assert page.locator(f"#{name}").count() == 1, name
    for name in PLOTS:
        page.locator(f"#{name} .js-plotly-plot .main-svg").first.wait_for()
    assert page.locator("#overlay img").get_attribute("alt")
    assert page.locator("#tokens button").count() > 3
    assert page.locator("#metrics .verdict").inner_text()


def test_drop_slider_moves_the_strip_and_both_answers_follow(page):
    idle(page)
    before = dropped(page)
    slide(page, "drop", 1)
    page.wait_for_function(
        "n => document.querySelectorAll('#strip button.gone').length === n", arg=len(before) + 1
    )
    after = dropped(page)
    assert set(before) < set(after)  # nested in the number of layers
    answered(page, len(after))
    assert page.locator("#answer-pruned .meta").inner_text()
    page.locator("#drop input[type=range]").press("Home")
    answered(page, 0)
    assert dropped(page) == []
    page.locator("#drop input[type=number]").fill("-3")
    assert dropped(page) == []
    assert (
        page.locator("#answer-full .text").inner_text()
        == page.locator("#answer-pruned .text").inner_text()
    )


SEEN = """() => new MutationObserver((_, watch) => {
  if (document.querySelector('#status .pill')) { window.seen = true; watch.disconnect(); }
}).observe(document.querySelector('#status'), { childList: true, subtree: true })"""


def test_run_button(page):
    idle(page)
    page.evaluate(SEEN)  # an answer of one word may be there before one looks
    page.locator("#run").click()
    page.wait_for_function("window.seen")
    idle(page)
    assert page.locator("#metrics .facts tbody tr").count() >= 5


def test_strip_by_mouse_and_keyboard(page):
    idle(page)
    cell = page.locator("#strip button.kept").first
    layer = int(cell.inner_text())
    count = len(dropped(page))
    cell.click()
    answered(page, count + 1)
    assert layer in dropped(page)
    assert int(page.locator("#drop input[type=number]").input_value()) == len(dropped(page))
    page.locator("#strip button").nth(layer).focus()
    page.keyboard.press("Space")
    answered(page, count)
    assert layer not in dropped(page)
    page.locator("#strip [data-tool=undo]").click()
    answered(page, count + 1)
    assert layer in dropped(page)
    page.locator("#strip [data-tool=redo]").click()
    answered(page, count)
    page.locator("#strip [data-tool=undo]").click()
    answered(page, count + 1)
    page.locator("#strip [data-tool=ranking]").click()
    page.wait_for_function(
        "document.querySelector('#plan-line').innerText.includes('by the ranking')"
    )
    fixed = page.locator("#strip button.fixed").first
    assert fixed.get_attribute("aria-disabled") == "true"
    fixed.click(force=True)
    assert int(fixed.inner_text()) not in dropped(page)


def test_importance_controls(page):
    idle(page)
    first = page.locator("#overlay img").get_attribute("src")
    slide(page, "layer", 2)
    page.wait_for_function("old => document.querySelector('#overlay img').src !== old", arg=first)
    assert not page.locator("#all-layers input").is_checked()
    outlined = page.locator("#tokens button:not(.out)").count()
    slide(page, "top-p", 9)
    page.wait_for_function(
        "n => document.querySelectorAll('#tokens button:not(.out)').length > n", arg=outlined
    )


def test_patch_and_token_curves(page):
    idle(page)
    page.locator("#overlay img").click(position={"x": 40, "y": 40})
    page.locator("#token-curve .main-svg").first.wait_for()
    page.locator("#tokens button").nth(1).click()
    page.wait_for_function("document.querySelector('#tokens button[aria-pressed=true]') !== null")


def test_examples_scenes_and_questions(page):
    idle(page)
    page.locator("#examples button").nth(2).click()
    page.wait_for_function(
        "document.querySelector('#prompt textarea').value.includes('flashlight')"
    )
    page.wait_for_function(
        "document.querySelector('#metrics').innerText.includes('Correct answer: yes')"
    )
    page.locator("#new-scene").click()
    page.wait_for_function(
        "!document.querySelector('#prompt textarea').value.includes('flashlight below the hammer')"
    )
    idle(page)
    chip = page.locator("#chips button").first
    question = chip.inner_text()
    chip.click()
    page.wait_for_function(
        "q => document.querySelector('#prompt textarea').value === q", arg=question
    )
    idle(page)


def test_blocks_and_criteria_choose_a_plan(page):
    idle(page)
    page.locator("#choose > button").click()
    rows = page.locator("#criteria button")
    rows.nth(1).wait_for()
    name = rows.nth(2).get_attribute("data-pick")
    rows.nth(2).click()
    page.wait_for_function(
        "name => document.querySelector(`#criteria"
        " button[data-pick=${name}]`)?.getAttribute('aria-pressed') === 'true'",
        arg=name,
    )
    idle(page)
    area = page.locator("#plot-blocks .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    # the block of two layers from layer 1 on: second column, second row from below
    layers = page.locator("#strip .cells button").count()
    x = box["x"] + box["width"] * (1 + 0.6) / layers
    page.evaluate(
        "document.getElementById('dock').style.position = 'static'"
    )  # it would cover the figure
    box = area.bounding_box()
    y = box["y"] + box["height"] * (1 - 1.5 / (layers - 2))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(
        "[...document.querySelectorAll('#strip .gone')].map(e => e.innerText).join() === '1,2'"
    )
    answered(page, 2)


def test_what_is_taken_along(page):
    idle(page)
    gone = dropped(page)
    for button, name in (
        ("card", "short-lvlm-result.png"),
        ("report", "short-lvlm-report.html"),
        ("checkpoint", f"-svl-{len(gone)}.zip"),
    ):
        with page.expect_download() as taken:
            page.locator(f"#{button}").click()
        assert taken.value.suggested_filename.endswith(name)
    with zipfile.ZipFile(taken.value.path()) as packed:
        plan = json.loads(
            packed.read(next(each for each in packed.namelist() if each.endswith("svl_plan.json")))
        )
    assert gone and plan["dropped"] == gone


def test_composer(page):
    idle(page)
    page.locator("#compose > button").click()
    before = page.locator("#image img").get_attribute("src")
    page.locator("#composer select").first.select_option("owl")
    page.wait_for_function(
        "old => document.querySelector('#image img')?.src && document.querySelector('#image"
        " img').src !== old",
        arg=before,
    )


@pytest.mark.parametrize(
    "name, content",
    [("broken.png", b"\x89PNG\r\n\x1a\n then nothing"), ("notes.jpg", b"these are words")],
)
def test_a_bad_file_is_named_and_nothing_is_lost(page, tmp_path, name, content):
    idle(page)
    verdict = page.locator("#metrics .verdict").inner_text()
    (tmp_path / name).write_bytes(content)
    clear = page.locator(
        "#image button[aria-label*=lear], #image button[title*=lear], #image"
        " button[aria-label*=emove]"
    )
    if clear.count():
        clear.first.click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / name)
    toast = page.locator(".toast-body").first
    toast.wait_for()
    assert "Found" in toast.inner_text() and "expected" in toast.inner_text()
    assert page.locator("#metrics .verdict").inner_text() == verdict
    page.wait_for_function(
        "!document.querySelector('#image img') && document.querySelector('#image input[type=file]')"
    )  # no picture that is none, and room for another


def test_an_empty_prompt_is_named(page):
    idle(page)
    page.locator("#prompt textarea").fill("")
    page.locator("#analyze").click()
    toast = page.locator(".toast-body").first
    toast.wait_for()
    assert "expected" in toast.inner_text()
    assert page.locator("#status .pill").count() == 0
    assert page.locator("#metrics .facts").count() == 1


def test_own_photo_is_analysed_when_it_arrives(page, tmp_path, monkeypatch, site):
    """The old answers are marked old, the new ones are called guesses; one tap asks another model,
    which cannot be had: one sentence, once, and the page stays with its own.
    """
    from svl_core.errors import Unreachable

    def refuse(name):
        raise Unreachable("Found it nowhere; expected it somewhere; go there.", name)

    idle(page)
    buffer = io.BytesIO()
    Image.effect_noise((200, 120), 60).convert("RGB").save(buffer, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(buffer.getvalue())
    clear = page.locator(
        "#image button[aria-label*=lear], #image button[title*=lear], #image"
        " button[aria-label*=emove]"
    )
    if clear.count():
        clear.first.click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "photo.jpg")
    page.locator("body[data-old]").wait_for()  # the answers are still the first picture's
    assert "before" in page.evaluate(
        "getComputedStyle(document.querySelector('#answer-full h3'), '::after').content"
    )
    page.locator("#photo-note .offer", has_text="on this machine").wait_for()  # analysed by itself
    page.locator("#metrics .verdict", has_text="guesses").wait_for()
    idle(page)
    assert page.locator("body[data-old]").count() == 0
    assert "SmolVLM-256M" in page.locator("#photo-note .offer").inner_text()
    assert page.locator("#stale").inner_text() == ""
    monkeypatch.setattr(site[1].workspace.models, "_load", refuse)
    page.locator("#photo-note .offer").click()
    page.locator(".toast-body").first.wait_for()
    idle(page)
    (said,) = page.locator(".toast-body").all_inner_texts()
    assert "SmolVLM-256M-Instruct is not on this machine" in said and "Found" not in said
    assert "Bundled" in page.locator("#model input").input_value()
    assert page.locator("#photo-note .offer").count() == 1
    asked = page.locator("#prompt textarea").input_value()
    page.locator("#prompt textarea").fill(asked + "?")
    page.locator("#stale", has_text="Press Analyze").wait_for()
    page.locator("#prompt textarea").fill(asked)
    assert page.locator("#stale").inner_text() == ""
    page.locator("#image button[aria-label*=emove]").click()
    page.wait_for_function("document.querySelector('#photo-note').innerText === ''")
    assert page.locator("#stale").inner_text()


def test_an_unknown_model_leaves_the_page_as_it_was(page, monkeypatch, site):
    idle(page)
    from svl_core.errors import InputError

    def refuse(name):
        raise InputError(
            f"Found no model '{name}'; expected a Hugging Face id; check the spelling."
        )

    monkeypatch.setattr(site[1].workspace.models, "_load", refuse)
    box = page.locator("#model input")
    was = box.input_value()
    box.fill("nobody/nothing")
    box.press("Enter")
    toast = page.locator(".toast-body").first
    toast.wait_for()
    assert "check the spelling" in toast.inner_text()
    page.wait_for_function("was => document.querySelector('#model input').value === was", arg=was)
    assert page.locator("#metrics .facts").count() == 1


def test_text_is_escaped(page):
    idle(page)
    page.locator("#prompt textarea").fill("<img src=x onerror=window.hacked=1> {{value}} ${1+1}")
    page.locator("#analyze").click()
    page.locator("#status .pill").wait_for()
    idle(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#tokens img").count() == 0


def test_stop_ends_the_work_within_a_second(page, monkeypatch):
    from svl_core.comparison import pair

    idle(page)
    started = threading.Event()
    real = pair.grow

    def slow(*args, **options):
        for grown in real(*args, **options):
            yield grown
        while True:  # an answer without end
            started.set()
            time.sleep(0.05)
            yield grown

    monkeypatch.setattr(pair, "grow", slow)
    page.locator("#run").click()
    page.locator("#status .pill").wait_for()
    assert started.wait(60)
    page.wait_for_timeout(300)
    begin = time.time()
    page.locator("#stop").click()
    page.locator("#status .pill").wait_for(state="detached")
    assert time.time() - begin < 2.5  # a second, and what a busy machine adds
    assert page.locator("#answer-full .text").inner_text().strip()
    monkeypatch.undo()
    page.locator("#run").click()
    page.locator("#metrics .facts").wait_for()
    idle(page)


BELOW_TICKS = """id => {
  const of = name => [...document.querySelectorAll(`#${id} ${name}`)]
    .map(node => node.getBoundingClientRect());
  const title = Math.min(...of('.xtitle').map(box => box.top));
  return title - Math.max(...of('.xaxislayer-above .xtick text').map(box => box.bottom));
}"""
BEHIND_NAME = """() => {
  const input = document.querySelector('#model input');
  const style = getComputedStyle(input);
  const pen = document.createElement('canvas').getContext('2d');
  pen.font = style.font;
  const icon = document.querySelector('#model .icon-wrap').getBoundingClientRect();
  const room = input.clientWidth - parseFloat(style.paddingRight);
  const written = Math.min(pen.measureText(input.value).width, room);
  return icon.left - input.getBoundingClientRect().left - written;
}"""


def test_phone_has_no_sideways_scroll_and_takes_touches(phone):
    idle(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert all(
        4 < phone.evaluate(BELOW_TICKS, name) < 12 for name in PLOTS[:3]
    )  # axis titles keep off their ticks, under a colour bar too
    assert phone.evaluate(BEHIND_NAME) > 1  # the model's name ends before the arrow
    phone.locator("#sheet button").tap()
    assert (
        len(
            {
                phone.locator(f"#{name}").bounding_box()["width"]
                for name in ("criterion", "rank", "strength", "visual-share")
            }
        )
        == 1
    )  # a control a line, so that its note has room
    phone.locator("#sheet button").tap()
    phone.set_viewport_size({"width": 360, "height": 740})
    phone.wait_for_timeout(500)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    cell = phone.locator("#hero .hero-layer.kept").first
    layer = int(cell.get_attribute("data-layer"))
    before = phone.locator("#glance").inner_text()
    cell.tap()
    phone.wait_for_function(
        "layer => document.querySelector(`#hero .hero-layer[data-layer='${layer}']`).classList"
        ".contains('gone')",
        arg=layer,
    )
    phone.wait_for_function(
        "was => document.querySelector('#glance').innerText !== was", arg=before
    )
    idle(phone)
    assert layer in dropped_behind(phone)
    for share in (0, 0.5, 1):  # slider, answers and verdict are in view wherever one reads
        phone.evaluate("share => scrollTo(0, share * document.body.scrollHeight)", share)
        phone.wait_for_timeout(300)
        for name in ("#drop input[type=range]", "#glance .glance span", "#glance em"):
            box = phone.locator(name).first.bounding_box()
            assert 0 <= box["y"] and box["y"] + box["height"] <= 740, (name, share)
    assert not phone.locator("#criterion").is_visible()
    phone.locator("#sheet button").tap()  # the settings are behind one button
    assert phone.locator("#criterion").is_visible()
    phone.locator("#method > button").tap()
    phone.locator("#attention-target").wait_for()
    assert phone.evaluate(
        "[...document.querySelectorAll('#method label')].every(e => e.getBoundingClientRect().right"
        " <= document.querySelector('#method').getBoundingClientRect().right)"
    )
    phone.locator("#sheet button").tap()
    phone.locator("#choose > button").tap()  # a block of the heatmap, by touch
    area, layers = (
        phone.locator("#plot-blocks .nsewdrag").first,
        phone.locator("#strip .cells button").count(),
    )
    area.evaluate("node => node.scrollIntoView({ block: 'center' })")  # not under the bar
    idle(phone)
    box = area.bounding_box()
    phone.touchscreen.tap(
        box["x"] + box["width"] * 1.6 / layers, box["y"] + box["height"] * (1 - 1.5 / (layers - 2))
    )
    phone.wait_for_function(
        "[...document.querySelectorAll('#strip .gone')].map(e => e.innerText).join() === '1,2'"
    )


def test_two_visitors_do_not_mix(page, second):
    idle(page)
    mine = dropped(page)
    idle(second)
    second.locator("#strip button.kept").first.click()
    idle(second)
    assert dropped(page) == mine and dropped(second) != mine


def test_a_server_that_comes_back_opens_the_page_again(page):
    page.evaluate("window.before = 1")
    page.locator("#prompt textarea").fill("how many objects are there?")
    page.route("**/health*", lambda route: route.abort())
    for _ in range(2):
        with page.expect_event("requestfailed", lambda request: "/health" in request.url):
            page.evaluate("window.dispatchEvent(new Event('online'))")
    page.locator("#svl-away", has_text="The server is away").wait_for(state="visible")
    page.unroute("**/health*")
    page.route(
        "**/health*", lambda route: route.fulfill(json={"started": 1.0})
    )  # another server than before
    page.evaluate("window.dispatchEvent(new Event('online'))")
    page.wait_for_function("window.before === undefined")
    page.unroute("**/health*")
    page.wait_for_function(
        "document.querySelector('#prompt textarea')?.value === 'how many objects are there?'"
    )
    page.locator("#metrics .facts").wait_for()
    assert page.locator("#svl-away").is_hidden()


def test_a_full_queue_is_waited_for(page):
    """Refused because others wait: it joins when there is room, and no error is shown."""
    idle(page)
    before, refused = dropped(page), []

    def full(route):
        if len(refused) < 2:
            refused.append(route.request.url)
            sentence = "Found 64 requests that wait already; expected fewer; try again in a minute."
            route.fulfill(status=503 - 74 * (len(refused) % 2), json={"detail": sentence})
        else:
            route.continue_()

    page.route("**/queue/join*", full)
    page.locator("#strip button.kept").first.click()
    for _ in range(200):
        page.wait_for_timeout(100)
        if len(refused) == 2 and dropped(page) != before:
            break
    idle(page)
    page.unroute("**/queue/join*")
    assert len(refused) == 2 and len(dropped(page)) == len(before) + 1
    assert not page.locator(".toast-body").count()


def test_one_who_waits_already_is_told_at_once(page):
    idle(page)
    asked = []
    sentence = "Found 8 requests of yours that wait already; expected fewer at a time."

    def own(route):
        asked.append(route.request.url)
        route.fulfill(status=429, json={"detail": sentence})

    page.route("**/queue/join*", own)
    page.locator("#strip button.kept").first.click()
    page.locator(".toast-body").first.wait_for()
    told_after = len(asked)
    page.wait_for_timeout(2500)  # longer than the first pause of one that waits
    page.unroute("**/queue/join*")
    assert told_after and len(asked) == told_after


def test_the_slider_is_a_few_stops_of_the_tab_key_away(page):
    stops = []
    while "range" not in stops[-1:] and len(stops) < 12:
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate("document.activeElement.type || document.activeElement.className")
        )
    assert stops[0] == "svl-skip" and stops[-1] == "range"
    assert page.evaluate("!!document.activeElement.closest('#drop')")
    page.locator(".svl-skip").focus()
    assert page.locator(".svl-skip").bounding_box()["y"] >= 0  # seen once it has the focus
    page.evaluate("document.querySelector('#drop input[type=number]').focus()")
    page.locator(".svl-skip").press("Enter")
    assert page.evaluate("document.activeElement.matches('#drop input[type=range]')")


def test_share_copies_the_link_to_what_is_shown(page):
    idle(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#hero-answers .svl-share").click()
    page.locator(".svl-toast", has_text="Link copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert f"drop={'%2C'.join(map(str, dropped(page)))}" in page.url


def test_tab_leaves_a_list_closed_and_shows_where_it_went(page):
    page.locator("#criterion input").focus()
    page.locator("[role=option]", has_text="ShortV").wait_for()
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.closest('#compensation')")
    page.wait_for_function(
        "![...document.querySelectorAll('#criterion-options, [role=option]')].some(e =>"
        " e.innerText.includes('ShortV') || e.innerText.includes('SVL (important'))"
    )
    page.locator("#drop input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
