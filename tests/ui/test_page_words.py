"""Step "words": what is read of both answers' words, that nothing is read twice or unasked, and
what it costs.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from updates import LINK, event, last

import svl_core as svl
from svl_core.errors import InputError
from svl_core.service.words import Word, telling
from svl_core.service.workspace import READING
from svl_core.ui.state import exports
from svl_core.ui.state.settings import Settings
from svl_core.ui.steps import words
from svl_core.ui.steps.share import report
from svl_core.ui.steps.words import dependence, heads, patches
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.answering import compare, plan_of

BYTES = 300_000  # of all figures that one event sends to the browser
PLAIN = Settings(compensation="none")


@pytest.fixture
def asked(page, path):
    """(state, strip) of a page whose models both answered, two layers gone."""
    name = page.workspace.models.first
    update = last(analyse(page, name, path, "what is it?", None, None, *LINK, PLAIN))
    state, strip = update["state"], {**update["strip"], "drop": [2, 3]}
    compared = last(compare(page, state, strip, None, PLAIN))
    assert compared["words-sight"] and not compared["decided"]
    return state, strip


def read(page, asked, settings=PLAIN, picked=None):
    return last(words.read(page, *asked, picked, settings))


def shown_figure(value):
    return json.loads(value["figure"])


def sent(update):
    """Bytes of an update as the browser gets it."""
    return sum(len(json.dumps(value)) for value in update.values() if value is not None)


def test_nothing_is_read_before_somebody_looks(page, asked):
    assert len(page.workspace.words) == 0


def test_what_is_read_is_the_library_s(page, asked, tiny):
    """Both models on the full model's answer, the pruned one's dropped rows blank; the attention of
    the chosen word; all patches.
    """
    state, strip = asked
    update = read(page, asked)
    shown = page.view(state, PLAIN, strip)
    answer = shown.comparison.full.token_ids
    sample = shown.analysis.sample
    pruned = svl.prune(tiny, plan_of(strip, tiny))
    true = [svl.lens(lvlm, sample, answer) for lvlm in (tiny, pruned)]
    cells = shown_figure(update["plot-lens"])["data"][0]
    seen = shown.words.known_lenses()
    for found, wanted in zip(seen, true, strict=True):
        assert np.allclose(found.probability, wanted.probability, atol=1e-5)
        assert found.decided == wanted.decided
    text = np.array(cells["text"])
    count = len(answer)
    assert text.shape == (6, 2 * count + 1)
    assert set(text[2:4, count:].ravel()) == {""} and "" not in text[4, :count]
    place = Word.of(
        update["answer-words"].split('aria-pressed="true"')[0][-12:].split('"')[1]
    ).place
    looks = shown.words.known_looks(Word("full", place))
    for found, lvlm in ((looks.full, tiny), (looks.pruned, pruned)):
        wanted = svl.word_attention(lvlm, sample, answer, place)
        assert np.allclose(found.rows, wanted.rows, atol=1e-5)
    assert len(shown.words.known_patches().seen.patches) == len(sample.visual)
    assert update["patch-names"]["src"].startswith("data:image/jpeg")


def test_the_same_words_are_read_once(page, asked, monkeypatch):
    first = read(page, asked)
    monkeypatch.setattr(page.workspace.backend, "read_words", lambda *a, **k: pytest.fail("read"))
    assert read(page, asked) == first
    again = last(compare_drawn(page, asked))
    assert again["plot-lens"] == first["plot-lens"] and again["decided"] == first["decided"]


def compare_drawn(page, asked):
    """What an event draws that changes nothing."""
    from svl_core.ui.figure import ANSWERS

    yield page.redraw(ANSWERS, page.view(asked[0], PLAIN, asked[1]))


def test_a_pruned_view_is_made_once_for_all_words(page, asked, monkeypatch):
    made = []
    real = svl.prune

    def counted(*values, **options):
        made.append(values)
        return real(*values, **options)

    monkeypatch.setattr(svl, "prune", counted)
    read(page, asked)
    for word in ("full-0", "full-1", "pruned-1"):
        last(words.look(page, *asked, None, PLAIN.changed(word=word)))
    assert len(made) == 1


def test_a_click_on_a_word_shows_where_both_models_look(page, asked):
    read(page, asked)
    chosen = words.pick_word(page, *asked, None, PLAIN, event(value="pruned-1"))
    assert chosen["word"] == "pruned-1"
    assert 'data-pick="pruned-1" aria-pressed="true"' in chosen["answer-words"]
    assert chosen["answer-words"].count('aria-pressed="true"') == 1
    assert exports.read_query(chosen["link"]["query"])["settings"]["word"] == "pruned-1"
    settings = PLAIN.changed(word=chosen["word"])
    update = last(words.look(page, *asked, None, settings))
    state, strip = asked
    shown = page.view(state, settings, strip)
    looks = shown.words.known_looks(Word("pruned", 1))
    assert looks.full.place == looks.pruned.place == 1
    grid = shown_figure(update["plot-heads"])["data"][0]
    assert grid["zmax"] == pytest.approx(
        max(np.nanmax(side.image_share) for side in (looks.full, looks.pruned)), rel=1e-5
    )
    assert looks.pruned.layer_ids == (0, 1, 4, 5)
    assert update["head-map"].count("<img") == 2


def test_columns_stand_for_words_of_the_full_model_s_answer(page, asked):
    read(page, asked)
    shown = page.view(asked[0], PLAIN, asked[1])
    count = len(shown.words.answers[0])
    for column, word in ((0, "full-0"), (count - 1, f"full-{count - 1}"), (count + 1, "full-0")):
        chosen = words.pick_column(page, *asked, None, PLAIN, event(x=column, y=0))
        assert chosen["word"] == word


def test_a_cell_shows_its_head_on_both_models(page, asked, tiny):
    read(page, asked)
    shown = page.view(asked[0], PLAIN, asked[1])
    count = tiny.text_config.num_attention_heads
    update = heads.pick_cell(page, *asked, None, PLAIN, event(x=count + 1 + 1, y=4))
    assert update["words-picked"] == {"head": [4, 1]}
    assert "Layer 4, head 1" in update["head-map"] and update["head-map"].count("<img") == 2
    gone = heads.pick_cell(page, *asked, None, PLAIN, event(x=0, y=2))["head-map"]
    assert gone.count("<img") == 1 and "The pruned model has no layer 2." in gone
    button = heads.pick_button(page, *asked, {"patch": 3}, PLAIN, event(value="5-0"))
    assert button["words-picked"] == {"patch": 3, "head": [5, 0]}
    assert heads.pick_button(page, *asked, None, PLAIN, event(value="<b>")) == {}
    looks = heads.known(shown)
    assert heads.picked_head(None, looks)[0] in looks.pruned.layer_ids
    assert heads.picked_head({"head": [99, 0]}, looks) == heads.picked_head(None, looks)
    page.workspace.words.clear()
    with pytest.raises(InputError, match="not kept any more.*click its word again"):
        heads.pick_cell(page, *asked, None, PLAIN, event(x=0, y=0))


def test_relevance_comes_with_its_check_and_is_the_library_s(page, asked, tiny):
    state, strip = asked
    settings = PLAIN.changed(word="full-0")
    update = last(dependence.run(page, state, strip, settings))
    found = page.view(state, settings, strip).words.known_dependences(Word("full", 0))
    shown = page.view(state, settings, strip)
    pruned = svl.prune(tiny, plan_of(strip, tiny))
    answer = shown.comparison.full.token_ids
    for side, lvlm in ((found.full, tiny), (found.pruned, pruned)):
        wanted = svl.relevance(lvlm, shown.analysis.sample, answer, 0)
        assert np.allclose(side.relevance.values, wanted.values, atol=1e-6)
        assert side.check.in_words().split(" covered")[0] in update["dependence"]
    assert update["dependence"].count("<img") == 3 and update["dependence-status"] == ""
    not_holding = sum(not side.check.holds for side in found)
    assert update["dependence"].count("do not rely on this map") == not_holding


def test_relevance_is_cancelled_like_other_work(page, asked, monkeypatch):
    state, strip = asked
    real = svl.relevance
    stopped = []

    def slow(*values, run, **options):
        page.workspace.jobs.cancel(next(iter(page.workspace.jobs._deadlines)))
        stopped.append(run.cancelled)
        return real(*values, run=run, **options)

    monkeypatch.setattr(svl, "relevance", slow)
    update = last(dependence.run(page, state, strip, PLAIN))
    assert stopped == [True] and update == {"dependence-status": ""}
    free = page.workspace.models.busy.acquire(timeout=5)
    assert free and not page.workspace.jobs._deadlines
    page.workspace.models.busy.release()


def test_new_answers_end_what_is_read_of_old_ones(page, asked, monkeypatch):
    ended = []
    monkeypatch.setattr(page.workspace, "stop", lambda *a, **k: ended.append((a[1], k)))
    last(compare(page, *asked, None, PLAIN))
    assert ended == [(READING, {"replaced": True})]


def test_what_is_read_of_answers_ends_with_their_own_work(page):
    """A new analysis, or Stop, need not wait for what is read of the answers before."""
    jobs = page.workspace.jobs
    reading, ranking = jobs.open("visitor" + READING), jobs.open("visitor/ranking")
    other = jobs.open("another" + READING)
    page.workspace.stop("visitor")
    assert reading.is_set() and not ranking.is_set() and not other.is_set()


def test_a_patch_is_read_without_a_pass(page, asked, monkeypatch):
    read(page, asked)
    monkeypatch.setattr(page.workspace.backend, "read_words", lambda *a, **k: pytest.fail("read"))
    picked = patches.pick_patch(page, *asked, {"head": [1, 0]}, PLAIN, event(x=0.99, y=0.99))
    last_patch = len(page.workspace.analysis_of(asked[0]).sample.visual) - 1
    assert picked["words-picked"] == {"head": [1, 0], "patch": last_patch}
    update = last(patches.read_patch(page, *asked, picked["words-picked"], PLAIN))
    assert f"patch {last_patch} reads as in 6 layers" in update["plot-patch-words"]["alt"]


def test_a_large_model_s_patches_are_read_one_by_one_until_all_are_asked_for(
    page, asked, monkeypatch
):
    monkeypatch.setattr("svl_core.service.words.QUICK_OPERATIONS", 0)
    update = read(page, asked)
    assert update["patches-run"]["visible"] is True and update["patch-note"] == ""
    assert update["patch-names"]["src"] and update["plot-patch-words"] is None
    shown = page.view(asked[0], PLAIN, asked[1])
    update = last(patches.read_patch(page, *asked, {"patch": 5}, PLAIN))
    assert update["plot-patch-words"] and shown.words.known_patches() is None
    assert shown.words.known_patch(5) and shown.words.known_patch(6) is None
    update = last(patches.read_all(page, *asked, {"patch": 6}, PLAIN))
    assert update["patches-run"]["visible"] is False and shown.words.known_patches()


def test_a_word_alone_needs_no_image(page):
    """A prompt without a picture: the words are decided somewhere, but there is nothing to see."""
    name = page.workspace.models.first
    update = last(analyse(page, name, None, "what is it?", None, None, *LINK, PLAIN))
    asked = update["state"], update["strip"]
    last(compare(page, *asked, None, PLAIN))
    found = read(page, asked)
    assert found["plot-lens"] and found["patch-names"] is None
    assert "No image" in found["head-map"]
    with pytest.raises(Exception, match="Found no visual positions"):
        last(dependence.run(page, *asked, PLAIN))


def test_without_a_drop_one_model_stands_alone(page, asked):
    state, strip = asked[0], {**asked[1], "drop": []}
    last(compare(page, state, strip, None, PLAIN))
    found = read(page, (state, strip))
    assert "full model left" not in found["plot-lens"]["figure"]
    bars = shown_figure(found["plot-split"])["data"][0]
    assert len(bars["customdata"]) == 6 and "pruned" not in found["decided"]


def test_figures_stay_small_on_large_models():
    """48 layers of 40 heads and an answer of 512 tokens: so many words are drawn as fit."""
    from svl_core import figures
    from svl_core.analysis.lens import Lens
    from svl_core.analysis.word_attention import WordAttention
    from svl_core.ui.drawing import figure

    layers, tokens = 48, 512
    numbers = np.random.default_rng(0).random((layers, tokens)).astype(np.float32)
    spelt = np.full((layers, tokens, 1), " elephants", dtype=object)
    lens = Lens(
        layer_ids=tuple(range(layers)),
        token_ids=tuple(range(tokens)),
        tokens=(" elephants",) * tokens,
        words=spelt,
        shares=numbers[:, :, None],
        probability=numbers,
        rank=np.full((layers, tokens), 12_345),
        entropy=numbers.copy(),
    )
    count = words.MOST_CELLS // (2 * layers)
    cut = words._first(lens, count)
    assert sent({"lens": figure(figures.lens(cut, cut), "x")}) <= BYTES
    rows = np.full((layers, 40, 100), 0.01, np.float32)
    attention = WordAttention(
        layer_ids=tuple(range(layers)),
        token="x",
        place=0,
        length=100,
        visual=np.arange(1, 50),
        rows=rows,
    )
    assert sent({"grid": figure(figures.attention_grid(attention, attention), "x")}) <= BYTES


def test_what_is_sent_is_small(page, asked):
    """All figures of an event together."""
    update = read(page, asked)
    assert 10_000 < sent(update) <= BYTES
    assert sent(last(words.look(page, *asked, None, PLAIN.changed(word="pruned-1")))) <= BYTES
    assert sent(last(dependence.run(page, *asked, PLAIN))) <= BYTES


def test_the_sentence_says_where_it_is_decided(page, asked):
    read(page, asked)
    state, strip = asked
    shown = page.view(state, PLAIN, strip)
    lenses = shown.words.known_lenses()
    pieces = shown.comparison.full.tokens
    content = [place for place, piece in enumerate(pieces) if piece.strip()]
    latest = max(lenses.full.decided[place] for place in content)
    said = words.decided_in_words(shown)
    assert said.startswith(f"The full model has decided on its answer at layer {latest}")
    behind = sum(layer > latest for layer in strip["drop"])
    assert f"{behind or 'None'} of the 2 dropped layers" in said
    undecided = [place for place in content if lenses.pruned.decided[place] is None]
    assert ("never does" in said) == bool(undecided)
    expected = undecided[0] if undecided else None
    if expected is not None:
        assert telling(lenses, pieces) == expected


def test_a_link_opens_the_word(page, asked):
    state, strip = asked
    settings = PLAIN.changed(word="full-1")
    query = exports.query(state, strip, settings)
    assert "word=full-1" in query
    assert exports.read_query(query)["settings"]["word"] == "full-1"
    for wrong in ("full-", "nobody-1", "full-123456", "<b>"):
        assert "word" not in exports.read_query(f"word={wrong}")["settings"]
        [sentence] = exports.refused_in(f"word={wrong}")
        assert sentence.startswith("Found the word") and "such as full-0 or pruned-2" in sentence
    beyond = page.view(state, PLAIN.changed(word="full-9999"), strip)
    read(page, asked)
    assert words.chosen(beyond).place < len(beyond.words.answers[0])
    assert "word" not in PLAIN.changed(word="full-1").recipe.values()


def test_the_report_has_what_was_looked_at(page, asked):
    state, strip = asked

    def headings():
        written = report.write(page, [], None, state, strip, PLAIN)["report-file"]
        text = Path(written).read_text(encoding="utf-8")
        return re.findall(r"<h2>(.*?)</h2>", text), text

    assert "What each layer would say" not in headings()[0]
    read(page, asked)
    last(dependence.run(page, state, strip, PLAIN))
    found, text = headings()
    for part in (words.LENS, heads.GRID, heads.HEAD, heads.SPLIT, patches.NAMES):
        assert part.heading in found
    assert dependence.DEPENDENCE.heading in found and "Click a column" not in text
    assert words.decided_in_words(page.view(state, PLAIN, strip)) in text
    assert "<script" not in text and "http://127" not in text


def test_a_borrowed_gpu_is_not_asked(page, asked, monkeypatch):
    monkeypatch.setattr(page.workspace.backend, "computes_here", lambda name: False, raising=False)
    update = read(page, asked)
    assert set(update) == {"words-note"} and "borrows its GPU" in update["words-note"]


@pytest.mark.parametrize(
    "values, within",
    [
        ({}, False),
        ({"visual_share": 0.5}, False),
        ({"visual_share": 0.5, "visual_from": 2}, True),
        ({"visual_from": 2}, False),
    ],
)
def test_tokens_that_leave_within_the_layers_are_told(page, asked, values, within):
    state, strip = asked
    settings = PLAIN.changed(**values)
    last(compare(page, state, strip, None, settings))
    update = read(page, asked, settings)
    assert ("within its layers" in update["words-note"]) == within
    assert bool(update.get("plot-lens")) != within


def test_before_there_is_anything_nothing_happens(page, analysed):
    state, strip = analysed["state"], analysed["strip"]
    for asked in ((None, None), (state, strip)):
        assert last(words.read(page, *asked, None, PLAIN)) == {}
        assert last(words.look(page, *asked, None, PLAIN)) == {}
        assert last(patches.read_all(page, *asked, None, PLAIN)) == {}
        assert last(patches.read_patch(page, *asked, None, PLAIN)) == {}
        assert words.pick_column(page, *asked, None, PLAIN, event(x=0, y=0)) == {}
    with pytest.raises(Exception, match="Found no answers to this plan yet"):
        last(dependence.run(page, state, strip, PLAIN))


def test_what_runs_a_model_waits_in_the_queue_of_all_such_work(page):
    """What tells how far it is runs one; a click on a head runs none and waits for nobody."""
    told = {page[name] for name in (words.NOTE, dependence.STATUS, patches.STATUS)}
    quick = {page[name] for name in ("words-picked",)}
    events = page.blocks.fns.values()
    heavy = [event for event in events if told & set(event.outputs)]
    assert len(heavy) == 6 and {event.concurrency_id for event in heavy} == {"model"}
    light = [event for event in events if quick & set(event.outputs)]
    assert len(light) == 3 and "model" not in {event.concurrency_id for event in light}
