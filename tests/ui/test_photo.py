"""A picture of the visitor's own: what is said beside it, and what its verdict is."""

from dataclasses import replace

import pytest
from real_models import RELEASED
from updates import LINK, last, page_of

from svl_core.lvlm.families import FAMILIES
from svl_core.lvlm.forecast import pass_cost
from svl_core.lvlm.skeleton import empty
from svl_core.service import photo_model
from svl_core.service.limits import HOME, PUBLIC
from svl_core.ui import photo
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.ask import ask_photo_model, uploaded
from svl_core.ui.work.analysing import analyse, analyse_picture
from svl_core.ui.work.answering import compare


@pytest.fixture
def page(tiny):
    """Of a model that knows scenes alone."""
    return page_of(tiny, {"tiny"})


def analysed(page, path, origin):
    prompt = "what is it?"
    asked = (prompt, None, None, origin, None, Settings(calibration_size=2, max_new_tokens=4))
    return last(analyse(page, "tiny", path, *asked))


def test_the_note_has_one_button_with_the_size_and_then_the_seconds(page, path, monkeypatch):
    arrived = last(uploaded(page, path, "tiny", "where is the cat?", {"where is the cat?": "left"}))
    assert arrived["prompt"] == "describe the picture." and arrived["origin"] == ""
    assert "prompt" not in last(uploaded(page, path, "tiny", "mine?", {"where?": "left"}))
    assert arrived["photo-note"].count("<button") == 1
    assert "Ask SmolVLM-256M about this photo (514 MB to fetch once)" in arrived["photo-note"]
    asked = []
    monkeypatch.setattr(photo_model, "expected_seconds", lambda *size: asked.append(size) or 12.4)
    own = analysed(page, path, "")
    assert "514 MB to fetch once, then about 12 s on this machine" in own["photo-note"]
    assert asked == [page.workspace.open_image(path).size]
    monkeypatch.setattr(page.workspace.models, "ready", lambda name: True)
    assert "photo (then about 12 s" in photo.note(page.workspace, "tiny", path)
    assert photo.note(page.workspace, "another", path) == ""
    assert ask_photo_model(page) == {"model": photo_model.NAME}


def test_no_button_for_what_a_server_does_not_offer(page):
    for limits, buttons in ((HOME, 1), (PUBLIC, 1), (replace(PUBLIC, model_gb=0.1), 0)):
        page.workspace.limits = limits
        assert photo.note(page.workspace, "tiny").count("<button") == buttons


def test_no_verdict_on_guesses(page, path):
    """Nothing is said to be the same about a picture that the model does not know the like of."""
    for origin in ("", "draw:1"):
        found = analysed(page, path, origin)
        state, strip = found["state"], found["strip"]
        asked = Settings(calibration_size=2, max_new_tokens=4)
        said = last(compare(page, state, strip, {}, asked))
        for place in ("metrics", "hero-answers", "glance"):
            judged = "same answer" in said[place].lower() or "answers part" in said[place]
            assert ("guesses" in said[place]) == (not judged) == (origin == ""), place
        assert ("photo-note" in found) == (origin == "")


def test_only_a_picture_that_is_there_is_analysed(page):
    asked = ("what?", None, None, *LINK, Settings())
    assert list(analyse_picture(page, "tiny", None, *asked)) == [{}]


def test_the_expected_seconds_on_paper(monkeypatch):
    """One tile of 1,024 patches and 64 tokens, with 64 of words; 32 tokens of each answer."""
    monkeypatch.setattr(photo_model, "_speeds", lambda: (1e10, 1e9))
    cost = photo_model._cost()
    operations = 2 * cost.layers * 128 + cost.attention * 128**2 / 2
    operations += 2 * cost.vision * 1024 + cost.vision_attention * 1024**2
    expected = 2 * (operations / 1e10 + 32 * 0.257)
    assert photo_model.expected_seconds(4000, 3000) == pytest.approx(expected)
    monkeypatch.setattr(photo_model, "_speeds", lambda: (1e15, 1e9))  # 13 tiles in no time
    assert photo_model.expected_seconds(4000, 3000) == pytest.approx(2 * 32 * 0.257, rel=0.01)


def test_the_cost_is_that_of_the_released_shape():
    from transformers import SmolVLMForConditionalGeneration

    released = RELEASED["smolvlm"]
    config, _ = released.make(released.shape, "full")
    expected, found = pass_cost(empty(SmolVLMForConditionalGeneration, config)), photo_model._cost()
    assert found.layers == pytest.approx(expected.layers, rel=0.01)
    assert found.vision == pytest.approx(expected.vision, rel=0.03)
    assert found.attention == expected.attention
    assert (found.vision_attention, found.window) == (expected.vision_attention, expected.window)
    assert any(row.name == "SmolVLM" for row in FAMILIES)
