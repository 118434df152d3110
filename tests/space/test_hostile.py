"""Hostile input, short version of tests/benchmarks/fuzz.py: every outcome is a picture, an answer
or one sentence.
"""

import json
import socket
import threading

import numpy as np
import pytest
from hostile import DEEP, PATHS, PROMPTS, QUERIES, STRIPS, VALUES, damaged_pictures, whole_pictures
from tiny import LAYERS
from unserved import unserved
from visitor import Visitor

from svl_core.errors import InputError
from svl_core.lvlm.images import open_image
from svl_core.service.limits import PUBLIC
from svl_core.service.stores import Models
from svl_core.ui.errors import polite
from svl_core.ui.gradio_patches import inputs
from svl_core.ui.state import exports
from svl_core.ui.steps.head import open_address

LIMITS = {"max_pixels": PUBLIC.image_pixels, "max_bytes": PUBLIC.image_bytes}


def opened(content):
    """Size of the picture, or the sentence."""
    try:
        image = open_image(content, **LIMITS)
    except InputError as error:
        return str(error)
    assert image.mode == "RGB"
    return image.size


def test_damaged_pictures_open_or_say_why():
    outcomes = [opened(content) for _, content in damaged_pictures(320, seed=1)]
    sentences = [each for each in outcomes if isinstance(each, str)]
    assert len(sentences) < len(outcomes) and all(each.startswith("Found") for each in sentences)


def test_no_other_program_is_started_for_a_picture(monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    files = [
        content
        for name, content in [*damaged_pictures(12), *whole_pictures()]
        if name.split("/")[0].lower() in ("eps", "wmf", "pdf")
    ]
    assert files and all(
        opened(content).startswith("Found data that is not a readable image") for content in files
    )


def test_common_formats_open_whole():
    common = {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"}
    found = {
        name: opened(content)
        for name, content in whole_pictures()
        if name.split("/")[0] in common and name.split("/")[1] in ("L", "RGB")
    }
    assert {name.split("/")[0] for name in found} >= common - {"WEBP"} and set(found.values()) == {
        (31, 23)
    }, found


@pytest.mark.parametrize("name", [name for name in PROMPTS if name != "one megabyte"])
def test_prompts_never_become_marks(tiny, image, name):
    plain = tiny.encode(image, "what?")
    try:
        sample = tiny.encode(image, PROMPTS[name])
    except InputError:
        return
    assert np.array_equal(sample.visual, plain.visual)
    special = set(tiny.tokenizer.all_special_ids)
    assert sum(int(each) in special for each in sample.inputs["input_ids"][0]) == sum(
        int(each) in special for each in plain.inputs["input_ids"][0]
    )


@pytest.fixture
def listener():
    """(port, connections): nobody may call here."""
    server, calls = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        while True:
            try:
                calls.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], calls
    server.close()


def test_no_path_is_read_and_no_address_is_called(public_site, listener):
    port, calls = listener
    visitor = Visitor(public_site[0])
    for path in PATHS:
        said = visitor.ask(path.format(port=port), "what?")
        assert not said["ok"] and said["error"], path
    for address in (f"http://127.0.0.1:{port}/x", f"HTTP://127.0.0.1:{port}/x"):
        assert visitor.http.get(f"/gradio_api/file={address}").status_code == 403
        assert visitor.http.get(f"/gradio_api/proxy={address}").status_code == 403
    assert visitor.http.get("/gradio_api/file=/etc/passwd").status_code in (403, 404)
    assert not calls and b"root:" not in visitor.seen


def test_odd_values_are_answered_with_a_sentence(public_site, png):
    visitor = Visitor(public_site[0])
    path = visitor.upload(png)
    assert visitor.ask(path, "what?")["ok"]
    for value in VALUES:
        visitor.call("analyse", [value for _ in visitor.functions["analyse"]["inputs"]])
        said = visitor.ask(path, "what?", top_p=value)
        assert said["ok"] or said["error"], value
    for number in (
        "NaN",
        "Infinity",
        "1e999",
        "-1e999",
    ):  # as JSON that Python reads and browsers do not write
        body = json.dumps(
            {
                "data": visitor.data(
                    "analyse",
                    image={"path": path, "meta": {"_type": "gradio.FileData"}},
                    prompt="what?",
                    top_p="HERE",
                ),
                "fn_index": visitor.functions["analyse"]["id"],
                "session_hash": visitor.session,
            }
        ).replace('"HERE"', number)
        answer = visitor.http.post(
            "/gradio_api/queue/join", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (200, 400, 422)
        if answer.status_code == 200:
            said = visitor.listen(answer.json()["event_id"])
            assert not said["ok"] and said["error"], number
    for strip in STRIPS:
        said = visitor.call("compare", visitor.data("compare", strip=strip))
        assert said["ok"] or said["error"], strip
    assert visitor.compare(LAYERS, [1], answer_length=2)["ok"], "the page no longer works"


@pytest.mark.parametrize("text", QUERIES)
def test_queries_ask_for_nothing_that_is_not_on_offer(tiny, text):
    asked = exports.read_query(text.removeprefix("?"))
    assert set(asked) <= {"model", "prompt", "image", "drop", "settings"}
    from types import SimpleNamespace

    request = SimpleNamespace(query_params=text.removeprefix("?"))
    opened = open_address(unserved(Models(tiny)), request)
    assert "model" not in opened


def test_requests_beyond_the_limit_are_refused(public_site):
    visitor = Visitor(public_site[0])
    large = visitor.http.post(
        "/gradio_api/queue/join",
        content=b"[" + b"0," * PUBLIC.body_bytes + b"0]",
        headers={"content-type": "application/json"},
    )
    assert large.status_code == 413
    assert (
        visitor.http.post(
            "/gradio_api/upload", files={"files": ("x.png", bytes(PUBLIC.image_bytes + 200_000))}
        ).status_code
        == 413
    )
    assert visitor.http.get("/health").status_code == 200


def test_errors_are_shown_as_text():
    assert (
        polite(InputError("Found <script>alert(1)</script>")).message
        == "Found &lt;script&gt;alert(1)&lt;/script&gt;"
    )
    assert "secret" not in polite(RuntimeError("secret"), details=False).message
    with pytest.raises(Exception, match="nested"):
        inputs.check_harmless(DEEP)
