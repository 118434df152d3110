"""Limits: values, their sentences, and that the public page holds each of them."""

import time
from dataclasses import replace

import pytest
from tiny import LAYERS
from visitor import Visitor

import svl_core as svl
from svl_core.service.limits import PUBLIC


@pytest.mark.parametrize(
    "changes, prompt, sentence",
    [
        ({"answer_length": 65}, "what is this?", "tokens as the answer"),
        ({}, "x" * 2001, "characters in the prompt"),
        ({}, "x" * 1_000_000, "characters in the prompt"),
        ({"model": "someone/else"}, "what is this?", "not in the list"),
    ],
)
def test_the_page_says_which_limit_was_hit(public_site, png, changes, prompt, sentence):
    visitor = Visitor(public_site[0])
    said = visitor.ask(visitor.upload(png), prompt, **changes)
    assert not said["ok"] and sentence in said["error"]


def test_a_request_that_takes_too_long_is_stopped(public_site, tiny, png, monkeypatch):
    """The sentence comes, and the model really rests: in the middle of an answer."""
    workspace, passes = public_site[1].workspace, []
    visitor = Visitor(public_site[0])
    assert visitor.ask(visitor.upload(png), "what is slow?")["ok"]

    def slow(module, args):
        passes.append(time.monotonic())
        time.sleep(0.1)

    monkeypatch.setattr(workspace, "limits", replace(PUBLIC, request_s=1.5, new_tokens=64))
    handle = tiny.layers[1].register_forward_pre_hook(slow)
    try:
        said = visitor.compare(LAYERS, [3], answer_length=60, compensation="none")
        assert not said["ok"] and "longer than 2 s" in said["error"] and 3 < len(passes) < 60
        time.sleep(0.5)
        before = len(passes)
        time.sleep(0.5)
        assert len(passes) == before
    finally:
        handle.remove()
    monkeypatch.undo()
    assert visitor.compare(LAYERS, [3], answer_length=2)["ok"]


def test_out_of_memory_frees_everything_and_the_page_stays(public_site, png, monkeypatch):

    workspace, visitor = public_site[1].workspace, Visitor(public_site[0])
    path = visitor.upload(png)
    assert visitor.ask(path, "before")["ok"] and len(workspace.analyses)

    def full(*args, **options):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(svl, "trace", full)
        said = visitor.ask(path, "during")
    assert "memory" in said["error"] and not len(workspace.analyses)
    assert visitor.ask(path, "after")["ok"]


def test_health_tells_the_model_and_nothing_of_visitors(public_site):
    said = Visitor(public_site[0]).http.get("/health")
    assert said.status_code == 200 and said.json()["model"] == {"name": "tiny", "state": "ready"}
    assert set(said.json()) == {
        "status",
        "model",
        "loaded",
        "arithmetic",
        "sessions",
        "analyses",
        "uptime_s",
        "started",
    }
