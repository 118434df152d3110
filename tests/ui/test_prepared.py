"""What is shown before the model is there is what the model says, on the weights that ship."""

import json

import pytest

from svl_core.files import weights_hash
from svl_core.service.tasks import Task
from svl_core.ui import examples, prepared, views
from svl_core.ui.state.settings import DEFAULTS
from svl_core.ui.steps import prepare
from svl_core.ui.work.answering import plan_of

needs_weights = pytest.mark.skipif(
    not (prepared.demo_folder() / "model.safetensors").exists(), reason="no bundled weights here"
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the prepared file that is read anew, beside weights of a few bytes."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    stored = json.loads((prepared.demo_folder() / prepared.NAME).read_text("utf-8"))
    monkeypatch.setattr(prepared, "demo_folder", lambda: tmp_path)

    def write(**changed):
        text = json.dumps({**stored, "weights": weights_hash(tmp_path), **changed})
        (tmp_path / prepared.NAME).write_text(text, "utf-8")
        prepared.prepared.cache_clear()
        return prepared.prepared()

    yield write
    prepared.prepared.cache_clear()


@needs_weights
def test_every_shipped_example_was_prepared_with_the_weights_that_ship():
    ready = prepared.prepared()
    assert list(ready) == [example.origin for example in examples.SHIPPED]
    for one in ready.values():
        assert one.full == one.pruned[0] == one.example.truth  # the full model is right
        assert len(one.gaps) == len(one.pruned) == len(one.saved) == 15
        assert one.saved[0] == 0 and list(one.saved) == sorted(one.saved)
        assert one.strip["drop"] == sorted(one.strip["ranking"][: one.example.count])


@needs_weights
def test_captions_say_what_happens():
    said = {
        origin: (one.full, one.pruned[one.example.count], one.example.caption)
        for origin, one in prepared.prepared().items()
    }
    for origin, count in (("example:4", "3"), ("draw:7", "1")):
        full, pruned, caption = said[origin]
        assert full == count and pruned == "2" and caption.endswith("it counts 2")
    full, pruned, caption = said["draw:1"]
    assert pruned == full.replace("an axe", "a clock") and "the axe is a clock" in caption
    full, pruned, caption = said["draw:19"]
    assert (full, pruned) == ("yes", "no") and caption.endswith("it says no")
    full, pruned, caption = said["draw:41"]
    assert "an egg" in full and "egg" not in pruned and "the egg is gone" in caption
    full, pruned, caption = said["example:0"]
    assert full == pruned and "not a word is lost" in caption
    for one in prepared.prepared().values():
        assert f"without {one.example.count} layers" in one.example.caption


@needs_weights
@pytest.mark.slow
def test_the_live_model_says_the_same(tmp_path):
    space = prepare.workspace()
    for origin, one in prepared.prepared().items():
        path = tmp_path / "image.png"
        examples.picture_of(origin).save(path)
        analysis = space.analyse("demo", str(path), one.example.question, Task())
        plan = plan_of(dict(one.strip), space.load_model("demo"))
        compared = space.compare(analysis, plan, DEFAULTS, Task()).comparison
        found = compared.full.text, compared.pruned.text
        assert found == (one.full, one.pruned[one.example.count]), origin
        scores = space.rank_for_count(analysis, DEFAULTS, one.example.count, Task())
        assert list(scores.ranking) == list(one.strip["ranking"])
        assert one.layers["cosines"] == pytest.approx(list(scores.scores), abs=2e-4)


def test_what_is_of_other_weights_or_examples_is_not_shown(file):
    assert len(file()) == len(examples.SHIPPED)
    assert file(weights="of others") == {}
    assert file(examples=[{"origin": "draw:1"}]) == {}
    assert file(examples="no list") == {}


@needs_weights
def test_the_browser_gets_markup_that_words_cannot_break():
    evil = "</script><script>alert(1)</script>"
    text = views.hero_answers(evil, "a", 16, 4, 0.2)
    assert "<script" not in text
    from svl_core.ui import parts

    head = parts.head(0.0, {"head": evil})
    assert head.count("</script>") == head.count("<script")
