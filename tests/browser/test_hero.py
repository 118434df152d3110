"""The first screen: drawn before anything is loaded, taken over without a jump, and played once."""

import pytest
from traffic import Traffic

pytestmark = pytest.mark.slow

TAKEN = "document.documentElement.classList.contains('svl-taken')"
PLACES = """root => Object.fromEntries(
  ['.hero-picture', '.hero-stack', '.hero-answer'].map(name => {
    const box = document.querySelector(`${root} ${name}`).getBoundingClientRect();
    return [name, [box.x, box.y, box.width, box.height]];
  })
)"""
SAID = "root => document.querySelector(root).innerText.replace(/\\s+/g, ' ').trim()"
FIRST_ANSWERS, ANSWERS = "#svl-first .hero-row > .svl-view", "#hero-answers .svl-view"
WATCH = """() => {
  window.seen = [];
  new MutationObserver(() => {
    const text = document.querySelector('#hero-answers .hero-verdict')?.innerText;
    if (text && window.seen.at(-1) !== text) window.seen.push(text);
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
}"""


@pytest.fixture
def visit(browser, site):
    """A function that opens the page and returns it before anything but its document is there."""
    if site[1].opening is None:
        pytest.skip("Nothing was prepared for these weights; run svl_core.ui.steps.prepare.")
    opened = []

    def open_page(motion="reduce", size=(1440, 900), query=""):
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, reduced_motion=motion
        )
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(site[0] + query, wait_until="commit")
        return page

    yield open_page
    for context in opened:
        context.close()


@pytest.mark.parametrize("size", [(1440, 900), (1280, 720)])
def test_the_first_screen_is_there_before_the_page_and_stays_where_it_is(visit, size):
    page = visit(size=size)
    page.locator("#svl-first .hero-layer").first.wait_for()
    page.evaluate("document.fonts.ready.then(() => null)")
    before, said = page.evaluate(PLACES, "#svl-first"), page.evaluate(SAID, FIRST_ANSWERS)
    assert "right" in said and "wrong" in said and "layers gone" in said  # they part
    assert page.locator(f"{FIRST_ANSWERS} mark").count() == 2
    assert all(box[1] + box[3] < size[1] for box in before.values())
    page.wait_for_function(TAKEN)
    page.wait_for_timeout(300)
    assert page.locator("#svl-first").count() == 0
    after = page.evaluate(PLACES, "#hero")
    for name, box in before.items():
        assert max(abs(a - b) for a, b in zip(box, after[name])) <= 6, (name, box, after[name])
    assert page.evaluate(SAID, ANSWERS) == said
    dock = page.locator("#dock").bounding_box()
    assert dock["y"] + dock["height"] < size[1]  # the slider is on the first screen as well
    page.locator("#metrics .facts").wait_for()  # the live model's answers are the same
    page.wait_for_timeout(300)
    assert page.evaluate(SAID, ANSWERS) == said
    assert page.locator("#hero .hero-layer.gone").count() == 4


def test_the_first_screen_s_fonts_come_with_the_document(visit):
    page = visit()
    page.wait_for_function(TAKEN)
    asked = page.evaluate(
        "performance.getEntriesByType('resource').filter(entry => entry.name.includes('woff2'))"
        ".map(entry => [entry.initiatorType, entry.name.split('/').at(-1)])"
    )
    early = {name for kind, name in asked if kind == "link"}
    assert early == {"IBMPlexSans-Regular.woff2", "IBMPlexSans-Bold.woff2"}, asked
    late = [name for kind, name in asked if kind != "link"]
    assert not early.intersection(late)  # none of them is fetched twice


def test_the_slider_of_the_first_screen_works_and_is_taken_over(visit):
    page = visit()
    page.locator("#svl-first .hero-layer").first.wait_for()
    page.evaluate(
        "() => { const knob = document.querySelector('#svl-first input'); knob.value = 0;"
        " knob.dispatchEvent(new Event('input')); }"
    )
    assert "Nothing is dropped" in page.evaluate(SAID, FIRST_ANSWERS)
    assert page.locator("#svl-first .hero-layer.gone").count() == 0
    page.wait_for_function(TAKEN)
    page.wait_for_function("document.querySelector('#drop input[type=range]').value === '0'")
    page.wait_for_function(
        "document.querySelector('#metrics .verdict')?.innerText.includes('Nothing is dropped')"
    )
    assert page.locator("#hero .hero-layer.gone").count() == 0


def test_it_moves_the_slider_once_by_itself_and_a_touch_ends_that(visit, site, monkeypatch):
    monkeypatch.setattr(site[1].workspace, "analyse", lambda *given, **more: 1 / 0)  # not yet there
    page = visit(motion="no-preference")
    page.wait_for_function(TAKEN)
    page.evaluate(WATCH)
    page.wait_for_function("document.querySelector('#drop input[type=range]').value === '0'")
    page.wait_for_function("document.documentElement.dataset.svlPlayed === '1'")
    seen = page.evaluate("window.seen")
    assert any("Nothing is dropped" in text for text in seen) and "layers gone" in seen[-1]
    assert page.locator("#drop input[type=range]").input_value() == "4"
    assert page.locator("#hero .hero-layer.gone").count() == 4
    page.wait_for_timeout(1500)
    assert page.evaluate("window.seen") == seen  # once
    other = visit(motion="no-preference")
    other.wait_for_function(TAKEN)
    other.mouse.move(700, 300)
    other.mouse.down()
    other.mouse.up()
    assert other.evaluate("document.documentElement.dataset.svlPlayed") == "1"
    assert other.locator("#drop input[type=range]").input_value() == "4"


def test_a_link_with_a_question_of_its_own_opens_on_that(visit):
    page = visit(query="?image=example:0&prompt=where+is+the+cat%3F")
    page.locator("#hero .hero-words").wait_for(state="attached")
    assert not page.locator("#hero .hero-words", has_text="penguins").is_visible()
    page.wait_for_function("document.querySelector('.hero-words').innerText.includes('cat')")
    assert page.locator("#svl-first").count() == 0


def test_an_address_of_the_example_itself_opens_at_once_on_its_plan(visit):
    asked = "model=demo&prompt=how+many+penguins+are+there%3F&image=example%3A4&drop=none"
    page = visit(query=f"?{asked}")
    page.locator("#svl-first .hero-layer").first.wait_for()
    assert "Nothing is dropped" in page.evaluate(SAID, FIRST_ANSWERS)
    page.wait_for_function(TAKEN)
    page.wait_for_function("document.querySelector('#drop input[type=range]').value === '0'")


def test_a_second_visit_costs_little(visit):
    page = visit()
    address = page.url  # later it holds what is shown, which is another document
    page.locator("#metrics .facts").wait_for()
    again = page.context.new_page()
    again.set_default_timeout(120_000)
    traffic = Traffic(again)
    again.goto(address, wait_until="commit")
    again.locator("#metrics .facts").wait_for()
    again.wait_for_timeout(1000)
    assert 0 < traffic.requests < 60
    # A tenth of the first visit's: what is analysed comes anew, with a message each half a second.
    assert traffic.bytes < 220_000


LABELS = """count => {
  const box = document.createElement('div');
  box.className = 'svl-decoder';
  document.querySelector('#hero .hero-stack').parentElement.after(box);
  const ids = [...Array(count).keys()];
  const plan = { ids, ranking: ids, drop: [count - 3, count - 2], protected: [0], blocks: null };
  svl.parts.decoder(box, { value: null }, () => {}, () => plan)();
  const found = [...box.querySelectorAll('.hero-layer')].map(layer => {
    const label = layer.querySelector('b').getBoundingClientRect();
    const outer = layer.getBoundingClientRect();
    return [label.width, label.left - outer.left, outer.right - label.right];
  });
  box.remove();
  return found;
}"""


@pytest.mark.parametrize("size", ["page", "phone"])
def test_the_numbers_of_many_layers_are_whole_or_not_there(request, size):
    page = request.getfixturevalue(size)
    for count in (16, 24, 30, 36, 80):
        labels = page.evaluate(LABELS, count)
        assert len(labels) == count
        kept = labels[1 : count - 3]  # dropped ones lean
        for width, left, right in kept:
            assert width == 0 or (left > -1 and right > -1), (count, width, left, right)
        shown = [width > 0 for width, _, _ in kept]
        assert all(shown) == any(shown)
        if size == "page":
            assert all(shown) == (count < 40)
