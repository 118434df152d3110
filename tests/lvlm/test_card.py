"""The card beside a saved model, read as the Hub reads it; and pushing, with a stand-in for the
Hub's client.
"""

import dataclasses
import json

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm import card, hub

THEIRS = """---
license: other
license_name: tiny-licence
license_link: LICENSE
language: [en, de]
tags: [theirs]
---
# Tiny
"""
EVALUATED = {
    "data": "some/where/asked.jsonl",
    "n": 10,
    "accuracy": 0.8,
    "interval": [0.5, 0.95],
    "full": {"accuracy": 0.9, "interval": [0.6, 0.99]},
    "accuracy_kept": 8 / 9,
}
COMPARED = {"kl": 0.0123, "agreement": 0.75}


@pytest.fixture(scope="module")
def pruned(tiny, tmp_path_factory):
    """The tiny model as one of the Hub's, without two of its layers."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "README.md").write_text(THEIRS, encoding="utf-8")
    (folder / "LICENSE").write_text("Do as you like.", encoding="utf-8")
    theirs = dataclasses.replace(tiny, name="someone/tiny-vl", folder=folder)
    return svl.prune(theirs, svl.manual_plan([1, 3], tiny.num_layers))


def described(lvlm, figures=()):
    return ModelCard(card.card_of(lvlm, figures))


def test_what_the_hub_reads(pruned):
    data = described(pruned).data
    assert (data["base_model"], data["library_name"]) == ("someone/tiny-vl", "transformers")
    assert (data.license, data.license_name, data.license_link) == (
        "other",
        "tiny-licence",
        "LICENSE",
    )
    assert data.language == ["en", "de"] and data.pipeline_tag == "image-text-to-text"
    assert "layer-pruning" in data.tags and "theirs" not in data.tags


def test_what_a_person_reads(pruned, tiny):
    text = described(pruned).text
    assert text.lstrip().startswith("# tiny-vl without 2 of its 6 decoder layers")
    assert "| layers dropped (0-based, of the unpruned model) | 1, 3 |" in text
    assert f"| parameters | {pruned.num_parameters:,} of {tiny.num_parameters:,} |" in text
    assert "[someone/tiny-vl](https://huggingface.co/someone/tiny-vl): tiny-licence." in text
    assert card.NO_FIGURES in text


def test_a_second_pruning_counts_from_the_first(pruned, tiny):
    """Layers go by their numbers in the unpruned model: 0 2 4 5 without the second is 0 4 5."""
    again = svl.prune(pruned, svl.manual_plan([1], 4))
    text = described(again).text
    assert "without 3 of its 6 decoder layers" in text and "| 1, 2, 3 |" in text
    assert f"of {tiny.num_parameters:,} |" in text


def test_figures_by_hand(pruned):
    text = described(pruned, [EVALUATED, COMPARED]).text
    assert (
        "| exact answers, asked.jsonl, 10 questions | 80.0% (50.0% to 95.0%) |"
        " 90.0% (60.0% to 99.0%) |" in text
    )
    assert "| accuracy kept | 88.9% |  |" in text
    assert "| KL from the full model, nats a token, one question | 0.0123 |  |" in text
    assert "| top-1 agreement along the full model's answer | 75.0% |  |" in text
    mine = {"plan": {"drop": [1, 3], "compensation": "none"}, **COMPARED}
    assert described(pruned, [mine]).text == described(pruned, [COMPARED]).text


def test_figures_of_something_else_are_refused(pruned, tmp_path):
    other = {"plan": {"drop": [2], "compensation": "scp"}, **COMPARED}
    with pytest.raises(InputError, match=r"without layers \[2\] \(compensation scp\)"):
        pruned.save(tmp_path / "out", figures=[other])
    with pytest.raises(InputError, match="neither an accuracy nor a KL"):
        pruned.save(tmp_path / "out", figures=[{"rows": []}])
    assert not any(tmp_path.iterdir())


def test_a_saved_model_has_it_and_the_notices(pruned, tmp_path):
    folder = pruned.save(tmp_path / "out")
    assert ModelCard.load(folder / "README.md").content == card.card_of(pruned)
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "Do as you like."
    again = svl.load(folder)  # what is made of it names the first source and its licence
    assert card.metadata_of(again) == card.metadata_of(pruned)


def test_an_unpruned_model_keeps_its_own(pruned, tiny, tmp_path):
    whole = dataclasses.replace(tiny, folder=pruned.folder)
    saved = whole.save(tmp_path / "out")
    assert (saved / "README.md").read_text(encoding="utf-8") == THEIRS


def test_a_source_without_a_card_or_an_address(pruned, tmp_path):
    """No licence is made up, and a folder or the bundled model is no place on the Hub."""
    bare = dataclasses.replace(pruned, folder=None)
    assert described(bare).data.license is None
    assert "Its card was not at hand" in described(bare).text
    for source in (str(tmp_path), "demo"):
        local = dataclasses.replace(bare, provenance={**pruned.provenance, "source": source})
        assert described(local).data.base_model is None
    strange = tmp_path / "README.md"
    strange.write_text("---\n- a list\n---\n", encoding="utf-8")
    assert card.metadata_of(dataclasses.replace(bare, folder=tmp_path))["tags"] == card.TAGS


# Pushing


class Response:
    def __init__(self, status):
        self.status_code, self.headers, self.request = status, {}, None


class Api:
    """The Hub's client: says who is there, and keeps what it is handed."""

    def __init__(self, error=None, at=""):
        self.error, self.at, self.calls = error, at, []

    def _call(self, name, result, **what):
        self.calls.append(name)
        if self.error is not None and self.at == name:
            raise self.error
        return result

    def whoami(self):
        return self._call("whoami", {"name": "me", "orgs": [{"name": "us"}]})

    def create_repo(self, repository, *, private, exist_ok):
        return self._call(f"create_repo {private}", f"https://hub/{repository}")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        from pathlib import Path

        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return self._call("upload_folder", None)


@pytest.fixture
def api(monkeypatch):
    def made(error=None, at="whoami"):
        client = Api(error, at)
        monkeypatch.setattr(hub, "hub_api", lambda: client)
        return client

    return made


def test_a_model_is_pushed_whole(pruned, api):
    client = api()
    address = pruned.push_to_hub("us/tiny-4", private=True, figures=[COMPARED])
    assert address == "https://hub/us/tiny-4"
    assert client.calls == ["whoami", "create_repo True", "upload_folder"]
    assert {"config.json", "model.safetensors", "README.md", "svl_plan.json"} <= set(client.files)
    assert client.files["README.md"].decode() == card.card_of(pruned, [COMPARED])
    assert json.loads(client.files["svl_plan.json"])["dropped"] == [1, 3]


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "me/ti ny", "me/..", "/tmp", ""])
def test_a_name_that_is_none(pruned, api, name):
    client = api()
    with pytest.raises(InputError, match="expected USER/NAME"):
        pruned.push_to_hub(name)
    assert not client.calls


@pytest.mark.parametrize(
    "error, at, sentence",
    [
        (LocalTokenNotFoundError("none"), "whoami", "Found no login for the Hub"),
        (HfHubHTTPError("x", response=Response(401)), "whoami", "Found no login that it takes"),
        (HfHubHTTPError("x", response=Response(403)), "create_repo False", "may not write me/x"),
        (HfHubHTTPError("boom", response=Response(500)), "upload_folder", r"refuses me/x \(boom"),
        (ConnectionError("no route"), "whoami", r"cannot be reached for me/x \(no route\)"),
    ],
)
def test_failures_are_one_sentence(pruned, api, error, at, sentence):
    client = api(error, at)
    with pytest.raises(InputError, match=sentence):
        pruned.push_to_hub("me/x")
    assert client.calls[-1] == at  # nothing is done after it


def test_another_users_place(pruned, api):
    client = api()
    with pytest.raises(InputError, match="expected one of me, us before the '/'"):
        pruned.push_to_hub("them/x")
    assert client.calls == ["whoami"]
