"""Handlers on the tiny model: what each event changes, what it never recomputes, what bad input
says.
"""

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from updates import LINK, event, last

import svl_core as svl
from svl_core.errors import Cancelled
from svl_core.pruning.mergekit import REFUSAL
from svl_core.service.stores import BoundedStore
from svl_core.service.workspace import RANKING
from svl_core.ui import texts
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps.ask import composed, new_scene, scene_update, uploaded
from svl_core.ui.steps.head import open_address
from svl_core.ui.steps.hero import pick_example
from svl_core.ui.steps.layers import pick_block, redraw_heatmaps
from svl_core.ui.steps.look import look_at_layer, pick_patch
from svl_core.ui.steps.share import report as report_step
from svl_core.ui.wiring import stop
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.answering import compare
from svl_core.ui.work.ranking import look, plan_changed, select

DEFAULT = Settings()


def test_analysis_fills_every_figure(analysed):
    for name in ("plot-redundancy", "plot-similarity", "plot-gap", "plot-pca", "plot-blocks"):
        assert json.loads(analysed[name]["figure"])["data"] and analysed[name]["alt"]
    assert analysed["overlay"]["src"].startswith("data:image/jpeg") and analysed["status"] == ""
    assert len(analysed["strip"]["drop"]) == 1 and analysed["strip"]["protected"] == [0, 5]
    assert "Computes in float32." in analysed["arithmetic"]


def test_sliders_never_run_the_model(page, analysed, monkeypatch):
    monkeypatch.setattr(svl, "trace", lambda *a, **k: pytest.fail("a forward pass"))
    state, strip = analysed["state"], analysed["strip"]
    wide = last(select(page, state, strip, None, Settings(top_p=1.0)))
    assert wide["tokens"].count('class="out') == 0 and wide["tokens"] != analysed["tokens"]
    assert (
        look(page, state, None, Settings(all_layers=False, layer=3))["overlay"]["src"]
        != analysed["overlay"]["src"]
    )
    assert plan_changed(page, state, {**strip, "drop": [1, 2]}, DEFAULT)["drop"]["value"] == 2
    assert set(redraw_heatmaps(page, state, strip, Settings(token_set="last"))) == {
        "plot-similarity",
        "plot-blocks",
    }
    assert (
        last(select(page, state, {**strip, "drop": [2, 3]}, None, Settings(protect_ends=False)))[
            "strip"
        ]["protected"]
        == []
    )


def test_an_evicted_analysis_is_made_again(page, analysed):
    page.workspace.analyses = BoundedStore(2)
    assert look(page, analysed["state"], None, DEFAULT)["tokens"] == analysed["tokens"]


def test_answers_outlive_an_analysis_that_others_pushed_out_meanwhile(page, analysed, monkeypatch):
    """Both models ran: the visitor sees it, though the store has dropped the analysis."""
    ask = page.workspace.backend.compare

    def pushed_out(*values, **options):
        compared = ask(*values, **options)
        page.workspace.analyses.clear()
        return compared

    monkeypatch.setattr(page.workspace.backend, "compare", pushed_out)
    strip = {**analysed["strip"], "drop": [2, 3]}
    out = last(compare(page, analysed["state"], strip, None, Settings(max_new_tokens=4)))
    assert "2 of 6 layers gone" in out["metrics"] and out["odds"] and out["glance"]
    assert "tokens; first after" in out["answer-full"]
    assert "tokens; first after" in out["answer-pruned"]


def test_both_answers_and_the_table(page, analysed):
    for compensation in svl.COMPENSATIONS:
        out = last(
            compare(
                page,
                analysed["state"],
                {**analysed["strip"], "drop": [2, 3]},
                {"what is in the top left?": "a cat"},
                Settings(compensation=compensation, max_new_tokens=4),
            )
        )
        assert (
            "4 layers" in out["answer-pruned"]
            and "2 of 6 layers gone" in out["metrics"]
            and "Correct answer" in out["metrics"]
        )
        assert len(json.loads(out["plot-pca"]["figure"])["data"]) == (
            3 if compensation == "none" else 4
        )


def test_dropping_nothing_gives_the_same_answer(page, analysed):
    out = last(
        compare(
            page,
            analysed["state"],
            {**analysed["strip"], "drop": []},
            None,
            Settings(max_new_tokens=4),
        )
    )
    assert "both are the same model" in out["metrics"] and out["plot-pca"] is None


@pytest.mark.parametrize(
    "image_path, prompt, says",
    [
        (None, "what?", "Found no image"),
        ("missing.png", "what?", "expected"),
        ("", "what?", "Found no image"),
    ],
)
def test_bad_input_is_one_sentence(page, image_path, prompt, says):
    page.workspace.scene_models, updates = (
        {page.workspace.models.first},
        [],
    )  # a model of pictures only
    with pytest.raises(gr.Error, match=says):
        for update in analyse(
            page, page.workspace.models.first, image_path, prompt, None, None, *LINK, DEFAULT
        ):
            updates.append(update)
    assert updates[-1] == {"status": ""}


def test_without_an_image(page, tiny, path, tmp_path):
    """A vision-language model that allows it, and a plain causal model, which takes none."""
    text = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=5,
            num_attention_heads=2,
            vocab_size=len(tiny.tokenizer),
            max_position_embeddings=64,
        )
    )
    text.save_pretrained(tmp_path / "text")
    tiny.tokenizer.save_pretrained(tmp_path / "text")
    for name in (page.workspace.models.first, str(tmp_path / "text")):
        found = last(analyse(page, name, None, "what is it?", None, None, *LINK, DEFAULT))
        assert (
            found["overlay"] is None
            and "words alone" in found["overlay-note"]
            and json.loads(found["plot-redundancy"]["figure"])["data"]
            and "svl.load" in found["code-python"]
        )
        out = last(
            compare(
                page,
                found["state"],
                {**found["strip"], "drop": [2]},
                None,
                Settings(compensation="lstsq", max_new_tokens=3),
            )
        )
        assert (
            f"1 of {len(found['strip']['ids'])} layers gone" in out["metrics"]
            and look(page, found["state"], {"kind": "word", "index": 1}, DEFAULT)["token-curve"]
        )
        assert pick_patch(page, found["state"], event(x=0.5, y=0.5))["focus"] is None
    with pytest.raises(gr.Error, match="text-only model"):
        last(analyse(page, str(tmp_path / "text"), path, "what is it?", None, None, *LINK, DEFAULT))


def test_empty_prompt(page, path):
    with pytest.raises(gr.Error, match="prompt"):
        last(analyse(page, page.workspace.models.first, path, "  ", None, None, *LINK, DEFAULT))


def test_an_unknown_model_goes_back_to_the_last_one(page, path, analysed):
    def refuse(name):
        raise svl.InputError("Found no such model; expected one; choose another.")

    page.workspace.models._load = refuse
    updates = []
    with pytest.raises(gr.Error, match="choose another"):
        for update in analyse(
            page, "nobody/nothing", path, "what?", analysed["state"], 1, *LINK, DEFAULT
        ):
            updates.append(update)
    assert {"model": page.workspace.models.first} in updates


def test_comparing_before_analysing(page):
    with pytest.raises(gr.Error, match="Analyze"):
        last(compare(page, None, None, None, DEFAULT))


def test_a_click_finds_its_patch(page, analysed):
    focus = pick_patch(page, analysed["state"], event(x=0.01, y=0.01))["focus"]
    assert focus == {"kind": "patch", "index": 0}
    curve = look(page, analysed["state"], focus, DEFAULT)["token-curve"]
    assert len(json.loads(curve["figure"])["data"]) == 1 and "patch 0" in curve["alt"]
    assert pick_patch(page, analysed["state"], event(x=1.5, y=0.5))["focus"] is None


def test_a_block_skips_protected_layers(page, analysed):
    assert pick_block(page, analysed["strip"], event(x=3, y=3))["strip"]["drop"] == [3, 4]


def test_the_map_says_what_was_taken_out_and_who_uses_other_scores(page, analysed):
    def seen(**settings):
        return look(page, analysed["state"], {"kind": "patch", "index": 2}, Settings(**settings))

    corrected, published = seen(), seen(map="published")
    assert corrected["overlay"]["src"] != published["overlay"]["src"]
    assert "corrected for position" in corrected["overlay"]["alt"]
    assert "corrected" not in published["overlay"]["alt"]
    assert "0 is what the attention mask alone gives" in corrected["map-note"]
    assert "ranking of the layers use other scores, as published" in corrected["map-note"]
    assert "ranking of the layers use these scores, as published" in published["map-note"]
    assert "outline uses other scores" in seen(criterion="shortgpt")["map-note"]
    assert "divided by the number of queries" in seen(causal_correction=True)["map-note"]
    assert corrected["scale"].count("-") == 1 + published["scale"].count("-")  # below 0 too
    curves = [json.loads(view["token-curve"]["figure"]) for view in (corrected, published)]
    assert curves[0]["data"][0]["y"] != curves[1]["data"][0]["y"]
    assert corrected["tokens"] == published["tokens"]


def test_scenes_come_with_true_answers(page):
    out = pick_example(page, page.workspace.models.first, event(value="0"))
    assert out["truth"][out["prompt"]] == "3"
    drawn = new_scene(page)
    assert drawn["truth"][drawn["prompt"]]
    assert (
        composed({"0": "cat"}, "noto")["image"].size
        == composed({"0": "cat", "8": "red circle"}, "twemoji")["image"].size
    )
    assert composed({"0": ""}, "noto") == {}


def test_a_bad_upload_is_named(page, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(gr.Error, match="expected"):
        for update in uploaded(page, str(tmp_path / "x.png"), "demo"):
            assert update["image"] is None
    assert last(uploaded(page, None, "demo"))["photo-note"] == ""


def test_the_page_hides_its_handlers(tiny):
    from svl_core.ui import build

    page = build(tiny, knows_scenes=True)
    from svl_core.ui.api import NAMES

    assert {fn.api_name for fn in page.fns.values() if fn.api_visibility != "private"} == set(NAMES)


def test_a_link_carries_the_state(page, path):
    made = last(
        analyse(
            page,
            page.workspace.models.first,
            path,
            "where & <what>?",
            None,
            None,
            "draw:7",
            [2, 4, 99],
            Settings(criterion="shortgpt", top_p=0.3),
        )
    )
    assert made["strip"]["drop"] == [2, 4]  # a layer that is not there is left out
    query = made["link"]["query"]
    opened = open_address(page, SimpleNamespace(query_params=query))
    assert (
        opened["prompt"] == "where & <what>?"
        and opened["wanted"] == [2, 4]
        and opened["criterion"] == "shortgpt"
        and opened["top_p"] == 0.3
    )
    assert (
        opened["image"].size == scene_update("draw:7")["image"].size
        and opened["model"] == page.workspace.models.first
    )
    assert set(open_address(page, SimpleNamespace(query_params=""))) == {"visit"}
    for rank in ("x", "auto"):  # no slider shows a word
        wrong = exports.read_query(f"top_p=9&rank={rank}&criterion=evil&drop=a,1&image=example:99")
        assert wrong["settings"] == {} and wrong["drop"] == [1]
    assert "image" not in open_address(page, SimpleNamespace(query_params="image=example:99"))
    assert "image" not in open_address(
        page, SimpleNamespace(query_params="image=compose:noto:0=dragon")
    )


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("strength=nan", "a strength of"),
        ("rank=0", "a rank of"),
        ("rank=500", "a rank of 500; expected 1 to 64"),
        ("layer=-3", "a layer of"),
        ("layer=99", "a layer of 99; expected 0 to 15"),
        ("image=example:99", "the picture"),
        ("image=draw:" + "9" * 5000, "the picture"),
        ("drop=x", "to drop"),
        ("criterion=magic", "the criterion"),
        ("prompt=" + "9" * 20_001, "20,001 characters"),
    ],
)
def test_a_link_with_an_odd_value_opens_the_page_as_usual_with_one_note(page, query, says):
    opened = open_address(page, SimpleNamespace(query_params=query + "&top_p=0.3"))
    assert set(opened) == {"visit", "link-note", "top_p"}
    note = opened["link-note"]
    assert says in html.unescape(note) and note.count('class="note"') == 1 and len(note) < 500


def test_a_link_to_no_layer_of_the_model_drops_as_many_as_usual(page, path):
    first = page.workspace.models.first
    asked = first, path, "what is in the top left?", None, None, ""
    usual, odd, none = (
        last(analyse(page, *asked, wanted, Settings()))["strip"]["drop"]
        for wanted in (None, [98, 99], [])
    )
    assert usual == odd != none == []


def test_exports_repeat_the_plan(page, analysed):
    strip = {**analysed["strip"], "drop": [2, 3]}
    out = plan_changed(page, analysed["state"], strip, DEFAULT)
    compile(out["code-python"], "snippet", "exec")
    assert "manual_plan([2, 3]" in out["code-python"]
    assert json.loads(out["code-plan"])["keep"] == [0, 1, 4, 5]
    # a LLaVA, of which mergekit makes nothing that loads
    assert out["code-mergekit"] == REFUSAL


@pytest.mark.parametrize("replaced", [True, False])
def test_a_ranking_that_is_stopped_turns_the_controls_back_unless_a_newer_choice_follows(
    page, analysed, monkeypatch, replaced
):
    asked, updates = SimpleNamespace(session_hash="one"), []

    def until_stopped(ground, now, count, task):
        task.emit({"status": "ranking"})
        assert task.cancel.wait(20)
        raise Cancelled("Stopped.")

    monkeypatch.setattr(page.workspace, "rank_for_count", until_stopped)
    for update in select(
        page, analysed["state"], analysed["strip"], None, Settings(criterion="sleb"), request=asked
    ):
        updates.append(update)
        if update.get("status") == "ranking":
            stop(page, asked, lane=RANKING, replaced=replaced)
    assert any(update.get("criterion") == "svl" for update in updates) is not replaced


def test_a_plan_of_ones_own_is_not_called_ranked(page, analysed):
    strip = {**analysed["strip"], "drop": [2, 3]}
    if strip["drop"] == sorted(strip["ranking"][:2]):
        strip["drop"] = [1, 4]
    said = plan_changed(page, analysed["state"], strip, Settings())["calibration-note"]
    assert "your own choice" in said and "ranked" not in said
    text = Path(
        report_step.write(page, [], None, analysed["state"], strip, Settings())["report-file"]
    ).read_text(encoding="utf-8")
    assert "chosen by hand" in text and "Layers are ranked" not in text


def test_looking_around_keeps_rankings_and_draws_what_is_asked(page, analysed):
    """A ranking that took passes outlives any number of overlays; each asks for its own picture,
    and the same one again is the same.
    """
    analysis = page.workspace.analysis_of(analysed["state"])
    analysis.memo.put("a ranking", "kept")
    seen = [
        look_at_layer(
            page, analysed["state"], None, Settings(layer=number % 3, opacity=number / 120)
        )["overlay"]["src"]
        for number in range(120)
    ]
    again = look_at_layer(
        page, analysed["state"], None, Settings(layer=119 % 3, opacity=119 / 120)
    )["overlay"]["src"]
    assert analysis.memo.get("a ranking") == "kept" and again == seen[-1] and len(set(seen)) > 60


def test_the_report_stands_alone(page, analysed):
    last(compare(page, analysed["state"], analysed["strip"], None, Settings(max_new_tokens=4)))
    text = Path(
        report_step.write(
            page,
            [],
            {analysed["state"]["prompt"]: "<seven>"},
            analysed["state"],
            analysed["strip"],
            Settings(max_new_tokens=4),
        )["report-file"]
    ).read_text(encoding="utf-8")
    assert "Correct answer: <strong>&lt;seven&gt;</strong> (full ✗ wrong" in text
    assert "Pruned model" in text and len(text) < 2_000_000
    plots = [shown for shown in report_step.reported(page) if shown.name.startswith("plot-")]
    assert text.count('<svg class="still"') == len(plots) > 2
    assert "<script" not in text and "src=" in text  # pictures are in it
    outside = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', text)
    assert outside == [at for _, at in texts.SOURCES]  # links to follow; nothing is fetched
    assert (
        "Layers are ranked on this very image" in text
        and svl.CRITERIA["svl"].title in text
        and "text self" not in text
    )


def test_a_report_links_to_the_page_where_a_link_can_carry_it(page, analysed):
    scope = {"headers": [(b"host", b"a.example"), (b"x-forwarded-proto", b"https")]}
    request = SimpleNamespace(request=SimpleNamespace(scope=scope))
    for origin, known in (("draw:7", True), ("", False)):
        view = page.view({**analysed["state"], "origin": origin}, DEFAULT, analysed["strip"])
        found = dict(report_step.links(view, request))
        assert ("This page" in found) == known
        assert not known or found["This page"].startswith("https://a.example/?model=")
    assert report_step.links(view, None) == [*texts.SOURCES]
