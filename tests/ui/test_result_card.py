"""The result as a picture, and what a posted link shows: nothing is computed for it."""

import io
from types import SimpleNamespace

import pytest
from PIL import Image, ImageColor
from tiny import awaited
from updates import last

from svl_core.errors import InputError
from svl_core.ui import card, prepared, preview, serving, views
from svl_core.ui.gradio_patches import front_page
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.share import card as step
from svl_core.ui.work.answering import compare


def result(full="a cat", pruned="a dog", ids=range(8), **changes):
    picture = Image.new("RGB", (80, 40), "#123456")
    shown = {"drop": [2], "protected": [0, 7], "line": "one of 8 layers gone", **changes}
    return card.Result(picture, "what is it?", list(ids), full=full, pruned=pruned, **shown)


def test_a_long_answer_is_shown_around_its_first_difference():
    common, tail = [f"w{k}" for k in range(40)], [f"t{k}" for k in range(40)]
    full, pruned = " ".join([*common, "cat", *tail]), " ".join([*common, "dog", *tail])
    spans = views.differing_words(full, pruned)
    ours, theirs = card.around(full, spans[0]), card.around(pruned, spans[1])
    words = [word for word, _ in ours]
    assert words[0] == words[-1] == "…" and len(words) == card.WORDS + 2
    assert words[1 : card.AHEAD + 2] == [*common[-card.AHEAD :], "cat"]
    assert [word for word, marked in ours if marked] == ["cat"]
    assert [word for word, marked in theirs if marked] == ["dog"]


def test_a_short_answer_is_whole_and_says_where_it_ends():
    spans = views.differing_words("a cat here", "a cat")
    assert card.around("a cat here", spans[0]) == [("a", False), ("cat", False), ("here", True)]
    assert card.around("a cat", spans[1])[-1] == ("(ends here)", True)
    assert card.around("", []) == []


def test_the_card_strikes_the_layers_that_go():
    made = Image.open(io.BytesIO(card.png(result())))
    assert made.size == (1200, 630) and made.format == "PNG"
    wide = (1200 - 2 * card.MARGIN) / 8
    above = [made.getpixel((int(card.MARGIN + (k + 0.3) * wide), 480)) for k in range(8)]
    kept, fixed, ground = map(ImageColor.getrgb, (card.KEPT, card.FIXED, card.CARD))
    assert above == [fixed, kept, ground, kept, kept, kept, kept, fixed]
    assert made.getpixel((card.MARGIN + 150, 286)) == (0x12, 0x34, 0x56)  # the picture, as it is


@pytest.mark.parametrize("layers", [1, 96])
def test_any_model_has_a_card(layers):
    shown = result("", "", range(layers), drop=[], protected=[])
    assert card.drawn(shown).size == (1200, 630)


def test_the_page_hands_over_its_result_once_there_is_one(page, analysed):
    state, strip = analysed["state"], {**analysed["strip"], "drop": [2, 3]}
    settings = Settings(max_new_tokens=4)
    with pytest.raises(InputError, match="press Compare answers"):
        step.write(page, state, strip, settings)
    last(compare(page, state, strip, None, settings))
    shown = step.result_of(page.view(state, settings, strip))
    comparison = page.view(state, settings, strip).comparison
    assert (shown.full, shown.pruned) == (comparison.full.text, comparison.pruned.text)
    assert shown.drop == [2, 3] and f"KL {comparison.kl:.3f}" in shown.line
    assert step.write(page, state, strip, settings)["card-file"].endswith(".png")


@pytest.fixture
def opening():
    shown = prepared.opening()
    if shown is None:
        pytest.skip("Nothing was prepared for these weights; run svl_core.ui.steps.prepare.")
    return shown


def app_of(opening):
    return SimpleNamespace(blocks=SimpleNamespace(opening=opening))


def test_a_page_of_another_model_shows_nothing_of_the_bundled_one():
    tags = serving._card(app_of(None), "https://a.example/?image=example:4")
    assert "og:image" not in tags and 'content="https://a.example/?image=example:4"' in tags


def test_a_link_to_a_prepared_result_shows_it(opening):
    origin, question = opening.example.origin, opening.example.question.replace(" ", "+")
    count = opening.example.count
    for drop in (opening.plan(count), opening.plan(1)):
        query = f"image={origin}&prompt={question}&drop={','.join(map(str, drop))}&model=demo"
        found = preview.preview_of(query)
        assert found.picture == f"0-{len(drop)}.png" and opening.example.question in found.title
        assert opening.pruned[len(drop)] in found.alt
    assert Image.open(io.BytesIO(preview.picture(found.picture))).size == (1200, 630)


@pytest.mark.parametrize(
    "more", ["&prompt=secret+words", "&drop=1,2,3", "&model=other", "&rank=3", "&image=draw:5", ""]
)
def test_any_other_link_shows_what_the_page_opens_on(opening, more):
    image = "" if not more or "image" in more else f"image={opening.example.origin}"
    found = preview.preview_of(image + more)
    assert found.picture == f"0-{opening.example.count}.png"
    assert "secret" not in found.title + found.alt + found.description
    tags = serving._card(app_of(opening), f"https://a.example/sub/?{image}{more}")
    assert f'content="https://a.example/sub/preview/{found.picture}"' in tags
    assert 'property="og:image:alt"' in tags


def test_where_the_address_is_not_known_no_tag_names_one(opening):
    tags = serving._card(app_of(opening), "")
    assert "og:url" not in tags and "og:image" not in tags and "og:title" in tags


@pytest.mark.parametrize("name", ["", "0-99.png", "99-1.png", "0-1.jpg", "../0-1.png", "٣-1.png"])
def test_a_name_of_no_preview_is_none(name):
    assert preview.picture(name) is None


def asked(picture, path, method="GET"):
    """What the middleware answers, [start, body], and what it hands on."""
    sent, passed = [], []

    async def app(scope, receive, send):
        passed.append(scope["path"])

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    middleware = front_page.FrontPage(app, lambda app: "", lambda app, address: "", picture)
    awaited(middleware(scope, None, send))
    return sent, passed


def test_previews_are_served_under_their_names_alone():
    def picture(name):
        return {"0-4.png": b"png"}.get(name)

    (start, body), passed = asked(picture, "/preview/0-4.png")
    headers = dict(start["headers"])
    assert (start["status"], body["body"], passed) == (200, b"png", [])
    assert headers[b"content-type"] == b"image/png" and b"max-age" in headers[b"cache-control"]
    (start, body), _ = asked(picture, "/preview/0-4.png", "HEAD")
    assert (start["status"], body["body"]) == (200, b"")
    (start, body), _ = asked(picture, "/preview/../etc/passwd")
    assert start["status"] == 404 and b"passwd" not in body["body"]
    assert asked(picture, "/previews", "POST") == ([], ["/previews"])
    assert asked(picture, "/preview/0-4.png", "POST") == ([], ["/preview/0-4.png"])


def test_the_address_of_the_page_behind_a_proxy(monkeypatch):
    def address(headers, **more):
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        return front_page.address_of({"headers": pairs, "scheme": "http", **more})

    assert address({"host": "a.example:7860"}) == "http://a.example:7860/"
    assert address({"host": "a.example"}, root_path="/sub") == "http://a.example/sub/"
    proxied = {"host": "10.0.0.1", "x-forwarded-host": "b.example, c", "x-forwarded-proto": "https"}
    assert address(proxied) == "https://b.example/"
    assert address({"host": 'x"><script>'}) == address({}) == ""
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    assert address({}) == address({"host": "a b"}) == "https://a-b.hf.space/"
