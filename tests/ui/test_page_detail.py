"""Visual detail on the page: what it chooses by itself and says, what a click gives, and that all
that is taken along follows.
"""

import base64
import io
import json

import builders
import pytest
from tiny import picture
from updates import LINK, last, page_of

from svl_core.lvlm import detail as levels
from svl_core.recipe import AUTO, BALANCED, DEMO, FULL, QUICK
from svl_core.ui import api
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import detail
from svl_core.ui.work.analysing import analyse

TOKENS = {FULL: 7 * 16, BALANCED: 5 * 16, QUICK: 16}  # of the picture, by the tiles of its size


@pytest.fixture(scope="module")
def page():
    lvlm = builders.build("smolvlm")
    return page_of(lvlm, {lvlm.name})


@pytest.fixture
def slow(monkeypatch):
    """Every pass takes too long here."""
    monkeypatch.setattr(levels, "FEW_SECONDS", 0.0)


@pytest.fixture
def photo(tmp_path):
    picture(240, 161).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def asked(page, photo, settings):
    name = page.workspace.models.first
    return last(analyse(page, name, photo, "what is it?", None, None, *LINK, settings))


def sample_of(page, update):
    return page.workspace.analysis_of(update["state"]).sample


@pytest.mark.parametrize("chosen", TOKENS)
def test_each_choice_reads_so_many_tokens(page, photo, chosen):
    update = asked(page, photo, Settings(detail=chosen))
    assert update["state"]["detail"] == chosen
    assert len(sample_of(page, update).visual) == TOKENS[chosen]
    control = update["detail"]
    assert control["info"] == "Visual tokens of this image: full 112, balanced 80, quick 16"
    assert control["interactive"] and "value" not in control
    assert update["detail-note"] == "" and update["full-detail"]["visible"] is False


def test_what_is_quick_anyway_is_read_in_full(page, photo):
    assert Settings().detail == AUTO
    update = asked(page, photo, Settings())
    assert update["state"]["detail"] == FULL and update["detail-note"] == ""


def test_the_page_chooses_says_why_and_one_click_gives_all(page, photo, slow):
    update = asked(page, photo, Settings())
    assert update["state"]["detail"] == QUICK
    assert len(sample_of(page, update).visual) == TOKENS[QUICK]
    assert "Quick detail was chosen. At full detail one pass would take" in update["detail-note"]
    assert update["full-detail"]["visible"] is True
    settings = Settings(**detail.full_detail(page))
    update = asked(page, photo, settings)
    assert len(sample_of(page, update).visual) == TOKENS[FULL] and update["detail-note"] == ""


def test_a_lent_gpu_is_not_judged_by_this_processor(page, photo, slow, monkeypatch):
    backend = page.workspace.backend
    monkeypatch.setattr(type(backend), "computes_here", lambda self, name: False)
    assert asked(page, photo, Settings())["state"]["detail"] == FULL


def test_one_size_is_said(tiny, photo, slow):
    page = page_of(tiny)
    update = asked(page, photo, Settings())
    assert update["state"]["detail"] == FULL and update["detail-note"] == ""
    control = update["detail"]
    assert control["info"] == "This model reads every image in one size: 36 visual tokens"
    assert control["interactive"] is False


def test_an_analysis_that_was_let_go_is_made_again_as_it_was(page, photo, slow):
    state = asked(page, photo, Settings())["state"]
    page.workspace.analyses.clear()
    analysis = page.workspace.analysis_of(state)
    assert analysis.sample.key == state["key"] and analysis.detail == QUICK


def test_sets_are_read_as_the_image_is(page, photo):
    for chosen in (FULL, QUICK):
        settings = Settings(detail=chosen, calibration=DEMO, calibration_size=2)
        update = asked(page, photo, settings)
        analysis = page.workspace.analysis_of(update["state"])
        name = update["state"]["model"]
        samples = page.workspace.samples(name, DEMO, analysis, settings)
        assert {sample.detail for sample in samples} == {chosen}
        ranked = page.workspace.ranking_analysis(update["state"], settings)
        assert ranked.detail == chosen and ranked.samples == samples


def test_all_that_is_taken_along_names_the_detail(page, photo, slow):
    update = asked(page, photo, Settings())
    plan = json.loads(update["code-plan"])
    assert plan["recipe"]["detail"] == QUICK
    assert "detail='quick')" in update["code-python"] and "auto" not in update["code-python"]
    read = exports.read_query(update["link"]["query"])
    assert read["settings"]["detail"] == QUICK
    settings, state, strip = Settings(), update["state"], update["strip"]
    assert exports.in_words(state, strip, settings, "")["Visual detail"] == QUICK
    update = asked(page, photo, Settings(detail=FULL))
    assert json.loads(update["code-plan"])["recipe"]["detail"] == FULL
    assert "detail" not in update["code-python"]
    assert exports.read_query(update["link"]["query"])["settings"]["detail"] == FULL


def test_endpoints_take_detail_and_a_limit(page):
    service = api.Service(page.workspace)
    buffer = io.BytesIO()
    picture(240, 161).save(buffer, "PNG")
    data = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    def tokens(**options):
        given = {"image": data, "prompt": "what?", "model": "", "criterion": "svl", "top_p": 0.5}
        given |= {"detail": FULL, "max_visual_tokens": None} | options
        found = list(service.analyse(given, None))[-1]
        return found["visual_tokens"], found["detail"]

    assert tokens() == (TOKENS[FULL], FULL)
    assert tokens(detail=QUICK) == (TOKENS[QUICK], QUICK)
    assert tokens(max_visual_tokens=100) == (TOKENS[BALANCED], FULL)
    with pytest.raises(Exception, match="limit of 15 visual tokens; expected at least 16"):
        tokens(max_visual_tokens=15)
