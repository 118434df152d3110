"""Markup: escaping, word differences, verdicts and the strip's value."""

import base64
import io
import re
from types import SimpleNamespace

import pytest
from PIL import Image

from svl_core.comparison.speed import Speed
from svl_core.errors import InputError
from svl_core.ui import texts, views
from svl_core.ui.state.settings import ACCEPTED, Settings
from svl_core.ui.state.strip import follows_ranking, in_words, strip_value

EVIL = "<img src=x onerror=alert(1)>\"'&"


@pytest.mark.parametrize(
    "markup",
    [
        views.answer("Full", EVIL, EVIL, EVIL, [(0, 4, "mark")]),
        views.words([EVIL], [1.0], [True], [True]),
        views.chips([EVIL]),
        views.note(EVIL),
        views.status(EVIL),
        views.glance(EVIL, EVIL, 6, 2),
        views.glance(f"a b c d e {EVIL}", EVIL, 6, 2),
        views.hero_answers(EVIL, f"{EVIL} x", 6, 2, 0.1, EVIL),
        views.odds([EVIL], [0.5], [0.1]),
        views.examples([("data:,", EVIL, EVIL)]),
        views.plan_line(EVIL),
        views.criteria([("a", EVIL, EVIL, [1])], 3, [0], "a", [1]),
    ],
)
def test_text_never_becomes_markup(markup):
    assert "<img src=x" not in markup and "onerror=alert(1)>" not in markup


def test_differing_words_mark_the_first_and_underline_the_rest():
    left, right = views.differing_words("a cat and a bus", "a dog and a car")
    assert left == [(2, 5, "mark"), (12, 15, "differs")]
    assert right == [(2, 5, "mark"), (12, 15, "differs")]
    assert views.differing_words("same words", "same words") == ([], [])
    left, right = views.differing_words("a cat", "a cat sleeps")
    assert left == [(5, 5, "mark")] and right == [(6, 12, "mark")]
    assert "(ends here)" in views.answer("Full", "", "a cat", "", left)
    left, right = views.differing_words("a coat left, a coat 5", "a coat 5")
    assert left == [(7, 12, "mark"), (13, 14, "differs"), (15, 19, "differs")] and right == [
        (7, 8, "mark")
    ]  # not the first "a coat", which both have


SURE = Speed(1.25, 1.3)


def fake(full, pruned, prefill=SURE):
    def side(text):
        return SimpleNamespace(text=text, prefill_ms=20.0, per_token_ms=None, shared_ms=None)

    return SimpleNamespace(
        full=side(full),
        pruned=side(pruned),
        kl=0.5,
        agreement=0.75,
        parameters_full=1000,
        parameters_pruned=800,
        speed_prefill=prefill,
        speed_decode=Speed(None, 1.4),
    )


def test_verdict_and_table():
    assert (
        views.verdict(fake("yes", "yes"), 2, 8)
        == "Same answer with 2 of 8 layers gone, 20 % fewer parameters."
    )
    assert "word 2" in views.verdict(fake("a cat", "a dog"), 2, 8)
    assert "same model" in views.verdict(fake("a", "a"), 0, 8)
    table = views.metrics(fake("a cat", "a dog"), 2, 8, correct="a cat")
    same = views.metrics(fake("a", "a"), 0, 8)
    assert "1.25×" not in same and "same model" in same  # times of one model differ by chance
    assert (
        "full ✓ right, pruned ✗ wrong" in table
        and "1.25×" in table
        and "–" in table
        and "-20.0 %" in table
    )


def test_expected_speed_stands_beside_the_measured_one():
    sure = views.metrics(fake("a", "b"), 2, 8)
    assert "1.25×<small>expected 1.30×</small>" in sure and "noise" not in sure and "median" in sure
    assert "–<small>expected 1.40×</small>" in sure
    seen = fake("a", "b", Speed(2.78, 1.45, "more than the 1.45 times that the work left allows"))
    loaded = views.metrics(seen, 5, 16)
    assert "<td>noise<small>expected 1.45×</small>" in loaded
    assert (
        "First token: measured 2.78× is noise, more than the 1.45 times that the work left allows"
        in loaded
    )
    assert "noise" not in views.metrics(seen, 0, 16)  # one model beside itself


@pytest.mark.parametrize(
    "number, text",
    [(0, "0"), (999, "999"), (1500, "1.5 k"), (5_500_000, "5.5 M"), (7.06e9, "7.06 B")],
)
def test_counts(number, text):
    assert views.count(number) == text


def test_strip_value_and_words():
    value = strip_value([0, 2, 5, 7], [1, 2], [0, 3], [2])
    assert not follows_ranking(value) and "5 (your own choice)" in in_words(value)
    value = strip_value([0, 2, 5, 7], [1, 2], [0, 3], [1])
    assert follows_ranking(value) and "2 (by the ranking)" in in_words(value)
    assert "Nothing dropped" in in_words(strip_value([0, 1], [], [0, 1], []))


def test_settings_are_checked():
    assert Settings.of(**dict.fromkeys(ACCEPTED)) == Settings()
    moved = Settings.of(
        all_layers=False, layer=3.0, top_p_mode="mass", protect_ends=0, rank=8.0, strength=2
    )
    assert moved.rank == 8 and moved.layer == 3 and moved.protect_ends is False
    with pytest.raises(InputError, match="top-p"):
        Settings(top_p=0)
    with pytest.raises(InputError, match="answer length"):
        Settings(max_new_tokens=0)
    with pytest.raises(InputError, match="correct it"):
        Settings.of(mode="mass")


def test_thousands_of_tokens_are_shown_by_their_importance():
    scores = [k / 3000 for k in range(3000)]
    shown = views.words(["x"] * 3000, scores, [True] * 3000, [k < 5 for k in range(3000)], focus=40)
    picked = [int(k) for k in re.findall(r'data-pick="(\d+)"', shown)]
    assert (
        picked == [*range(5), 40, *range(3000 - views.WORDS + 6, 3000)]
        and shown.count("…") == 2
        and len(shown) < 300_000
    )


def test_a_picture_in_an_address_is_the_picture():
    """As a JPEG, or smaller as a WebP; a colour comes back within what compression changes."""
    picture = Image.new("RGB", (32, 16), (200, 40, 90))
    for small, kind in ((False, "jpeg"), (True, "webp")):
        head, _, body = views.data_url(picture, small).partition(",")
        assert head == f"data:image/{kind};base64"
        back = Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")
        assert back.size == (32, 16)
        assert back.getpixel((8, 8)) == pytest.approx((200, 40, 90), abs=6)


def test_the_glossary_has_the_words_that_the_page_uses_and_says_where_the_method_comes_from():
    terms = " ".join(term for term, _ in texts.GLOSSARY)
    words = ["Hidden state", "KV cache", *"SVL Token Patch Attention Cosine Prefill SCP".split()]
    assert [word for word in words if word not in terms] == []
    meanings = views.glossary(texts.GLOSSARY)
    assert meanings.count("<dt>") == len(texts.GLOSSARY) and "`" not in meanings
    links = views.sources(texts.SOURCES)
    assert 'href="https://arxiv.org/abs/2507.23362"' in links and "ASGO-MM/Short-LVLM" in links
