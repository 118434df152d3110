"""The gate, `/health` and `/closed` on a bare starlette app, without a page."""

import asyncio
import errno
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tiny import awaited

from svl_core.service import health
from svl_core.service.errors import DISK_FULL, FULL_SHARE
from svl_core.service.ledger import BRINGER
from svl_core.service.limits import PUBLIC
from svl_core.service.visits import Visits
from svl_core.service.waiting import Listeners

LIMITS = replace(
    PUBLIC,
    body_bytes=100,
    upload_bytes=1000,
    stored_bytes=5000,
    address_bytes=3000,
    address_files=4,
    upload_files=2,
    upload_s=0.5,
)


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def bring(request):
    """As gradio takes uploads: a file is begun, and gets its own name once all of it is there."""
    bringer = BRINGER.get()
    begun = Path(request.query_params["file"])
    begun.write_bytes(b"")
    bringer.begun.append(str(begun))
    await request.body()
    begun.rename(begun.with_suffix(".png"))
    return PlainTextResponse(f"{bringer.address} {bringer.most_files}")


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
    options = health.app_options(LIMITS, lambda app: served)
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
    assert said.json()["started"] == health.STARTED and said.json()["arithmetic"] == "float32"
    workspace.models.first = "absent"
    said = client.get("/health")
    assert said.status_code == 503 and said.json()["status"] == "not asked for"
    assert said.json()["arithmetic"] == ""


def test_pages_tell_that_they_are_open_and_closed(client, ended):
    for session in ("known", "stranger"):
        client.get("/health", params={"session": session})
        assert client.post("/closed", params={"session": session}).status_code == 204
    assert client.post("/closed").status_code == 204
    assert ended == ["known"]


def test_the_gate_holds_the_limits(client):
    for address in ("/file=http://x", "/gradio_api/file=HTTPS://x", "/gradio_api/proxy=http://x"):
        assert client.get(address).status_code == 403
    call, upload = "/gradio_api/call", "/gradio_api/upload"
    assert client.post(call, content=b"x" * 100).text == "100"
    assert client.post(call, content=b"x" * 101).status_code == 413
    assert client.post(upload, content=b"x" * 1000).text == "1000"
    assert client.post(upload, content=b"x" * 1001).status_code == 413
    assert client.post(call, headers={"content-length": "many"}).status_code == 413
    assert client.get("/monitoring").status_code == 404
    assert client.get("/monitoring/summary").status_code == 404


def stored(workspace, path, size, address):
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    workspace.uploads.ledger.came(path, address)


def test_uploads_are_counted_by_who_brought_them(client, workspace, tmp_path):
    call, upload = "/gradio_api/call", "/gradio_api/upload"
    stored(workspace, tmp_path / "a" / "x.png", 2500, "testclient")
    assert client.post(upload, content=b"x" * 500).status_code == 200
    refused = client.post(upload, content=b"x" * 501)
    assert refused.status_code == 429 and refused.json()["detail"] == FULL_SHARE
    stored(workspace, tmp_path / "b" / "x.png", 2001, "198.18.0.1")  # full share or not: no room
    refused = client.post(upload, content=b"x" * 500)
    assert refused.status_code == 507 and refused.json()["detail"] == DISK_FULL
    assert client.post(call, content=b"x").text == "1"


def test_many_small_files_are_bounded_too(client, workspace, tmp_path):
    for number in range(4):
        assert client.post("/gradio_api/upload", content=b"x").status_code == 200
        stored(workspace, tmp_path / str(number) / "x.png", 1, "testclient")
    assert client.post("/gradio_api/upload", content=b"x").status_code == 429


def test_what_a_failed_upload_began_is_removed(gated, tmp_path):
    """A body that is too long, one that is too slow, a visitor who leaves; and a whole one."""
    far_too_long = [body(b"x" * 600), body(b"x" * 600)]
    assert gated(far_too_long)["status"] == 413
    assert gated([body(b"x")], slow=True)["status"] == 408
    assert "status" not in gated([body(b"x"), {"type": "http.disconnect"}])
    assert not list(tmp_path.glob("begun*"))
    assert gated([body(b"x"), body(b"y", more=False)])["status"] == 200
    assert [path.name for path in tmp_path.glob("begun*")] == ["begun.png"]


def body(content, more=True):
    return {"type": "http.request", "body": content, "more_body": more}


@pytest.fixture
def gated(workspace, tmp_path):
    """gated(messages, slow) -> what the gate answers to an upload that sends these."""
    served = health.Served(workspace, Visits(print, bool, 60), Listeners())

    async def take(scope, receive, send):
        try:
            await bring(Request(scope, receive))
        except ClientDisconnect:
            return
        await PlainTextResponse("taken")(scope, receive, send)

    gate = health.Gate(take, LIMITS, lambda app: served)
    query = f"file={tmp_path / 'begun'}".encode()
    scope = {"type": "http", "method": "POST", "path": "/upload", "query_string": query}
    scope |= {"headers": [], "client": ("198.18.0.1", 1), "app": None}

    def ask(messages, slow=False):
        left, said = iter(messages), {}

        async def receive():
            message = next(left, None)
            if message is None and slow:
                await asyncio.sleep(60)
            return message or {"type": "http.disconnect"}

        async def send(message):
            said.setdefault("status", message.get("status"))

        awaited(gate(dict(scope), receive, send))
        assert not gate._arriving and BRINGER.get() is None
        return said

    return ask


def test_a_body_without_a_length_ends_where_it_is_too_long(client):
    assert client.post("/gradio_api/call", content=iter([b"x" * 50] * 2)).text == "100"
    assert client.post("/gradio_api/call", content=iter([b"x" * 60] * 2)).status_code == 413


def test_a_full_disk_is_named(client):
    refused = client.get("/full")
    assert refused.status_code == 507 and refused.json()["detail"] == DISK_FULL
