"""The gate, `/health` and `/closed` on a bare starlette app, without a page."""

import errno
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from svl_core.service import health
from svl_core.service.errors import DISK_FULL
from svl_core.service.limits import PUBLIC
from svl_core.service.visits import Visits
from svl_core.service.waiting import Listeners

LIMITS = replace(PUBLIC, body_bytes=100, upload_bytes=1000, stored_bytes=50)


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


def full(request):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def ended():
    return []


@pytest.fixture
def client(workspace, tmp_path, ended):
    visits = Visits(ended.append, lambda session: session == "known", away_s=60)
    served = health.Served(workspace, visits, Listeners())
    for session in ("known", "stranger"):
        visits.opened(session, "198.18.0.1")
    folder = tmp_path / "uploads"
    folder.mkdir()
    options = health.app_options(LIMITS, lambda: folder, lambda app: served)
    routes = [
        Route("/gradio_api/upload", echo, methods=["POST"]),
        Route("/gradio_api/call", echo, methods=["POST"]),
        Route("/full", full),
        *options["routes"],
    ]
    return TestClient(Starlette(routes=routes, middleware=options["middleware"]))


def test_health_is_of_the_first_model(client, workspace):
    said = client.get("/health")
    assert said.status_code == 200 and said.json()["model"] == {"name": "tiny", "state": "ready"}
    assert said.json()["started"] == health.STARTED
    workspace.models.first = "absent"
    said = client.get("/health")
    assert said.status_code == 503 and said.json()["status"] == "not asked for"


def test_pages_tell_that_they_are_open_and_closed(client, ended):
    for session in ("known", "stranger"):
        client.get("/health", params={"session": session})
        assert client.post("/closed", params={"session": session}).status_code == 204
    assert client.post("/closed").status_code == 204
    assert ended == ["known"]


def test_the_gate_holds_the_limits(client, tmp_path):
    for address in ("/file=http://x", "/gradio_api/file=HTTPS://x", "/gradio_api/proxy=http://x"):
        assert client.get(address).status_code == 403
    call, upload = "/gradio_api/call", "/gradio_api/upload"
    assert client.post(call, content=b"x" * 100).text == "100"
    assert client.post(call, content=b"x" * 101).status_code == 413
    assert client.post(upload, content=b"x" * 1000).text == "1000"
    assert client.post(upload, content=b"x" * 1001).status_code == 413
    assert client.post(call, headers={"content-length": "many"}).status_code == 413
    (tmp_path / "uploads" / "a").mkdir()
    (tmp_path / "uploads" / "a" / "x.png").write_bytes(bytes(51))
    refused = client.post(upload, content=b"x")
    assert refused.status_code == 507 and refused.json()["detail"] == DISK_FULL
    assert client.post(call, content=b"x").text == "1"


def test_a_body_without_a_length_ends_where_it_is_too_long(client):
    from starlette.requests import ClientDisconnect

    assert client.post("/gradio_api/call", content=iter([b"x" * 50] * 2)).text == "100"
    with pytest.raises(ClientDisconnect):
        client.post("/gradio_api/call", content=iter([b"x" * 60] * 2))


def test_a_full_disk_is_named(client):
    refused = client.get("/full")
    assert refused.status_code == 507 and refused.json()["detail"] == DISK_FULL
