"""One client tries to lock the door to all others: each attack is bounded, on this machine alone,
and leaves the server as it was.
"""

import errno
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tiny import LAYERS
from visitor import Visitor

from svl_core.service.errors import DISK_FULL, FULL_SHARE
from svl_core.service.limits import PUBLIC

pytestmark = pytest.mark.slow

ADDRESS = "/gradio_api/call/evaluate"
SOON_S = 60  # on a machine that is busy with other things


@pytest.fixture(scope="module")
def site(tiny, tmp_path_factory):
    """(address, gr.Blocks) of a public page that does not wait long for a listener."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("doors"))
    from svl_core.ui import build, launch_options

    limits = replace(PUBLIC, new_tokens=64, unheard_s=3.0, **SMALL)
    page = build(tiny, limits=limits)
    _, url, _ = page.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options(limits)
    )
    yield url, page
    page.close()
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


SMALL: dict = {}
"""Limits that are tried at a size of their own."""


def eventually(true) -> bool:
    until = time.monotonic() + SOON_S
    while not true() and time.monotonic() < until:
        time.sleep(0.1)
    return bool(true())


def kept(page) -> dict:
    """What waits, runs or is kept of visits: nothing, at rest."""
    queue, workspace = page._queue, page.workspace
    parts = {
        "events": queue.event_ids_to_events,
        "unfetched": queue.pending_event_ids_session,
        "messages": queue.pending_messages_per_session,
        "jobs": workspace.jobs._deadlines,
        "sessions": page.state_holder.session_data,
        "holders": workspace.uploads._held,
        "pages": page.visits._open,
    }
    return {name: list(part) for name, part in parts.items() if part}


def rests(page) -> bool:
    """Whether the server is soon as it was before."""
    assert eventually(lambda: not kept(page)), kept(page)
    return True


def evaluation() -> dict:
    """What asks for an evaluation of the full model, as long as the limits allow."""
    from svl_core.ui.api import ARGUMENTS

    values = {argument.name: argument.default for argument in ARGUMENTS["evaluate"]}
    return {"data": list((values | {"questions": PUBLIC.questions}).values())}


def uploading(client, count: int, content: bytes = b"12345") -> httpx.Response:
    """One request that brings so many different files."""
    files = [("files", (f"{k}.png", content + str(k).encode())) for k in range(count)]
    return client.post("/gradio_api/upload", files=files)


def attacker(url) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=60, headers={"x-forwarded-for": "198.51.100.7"})


def test_jobs_that_nobody_listens_for_lock_nobody_out(site, png):
    url, page = site
    visitor, most = Visitor(url), page.workspace.limits.address_queue
    asked = evaluation()
    with attacker(url) as client:
        codes = [
            client.post(ADDRESS, json=asked | {"session_hash": f"invented-{number}"}).status_code
            for number in range(65)
        ]
    assert codes[:2] == [200, 200] and set(codes) == {200, 429} and codes.count(200) <= most + 4
    said = visitor.ask(visitor.upload(png), "what is this?")  # one turn later than otherwise
    assert said["ok"], said
    assert visitor.compare(LAYERS, [1], answer_length=2)["ok"]
    visitor.leave()
    assert rests(page)


def test_an_api_job_ends_when_its_listener_leaves(site):
    url, page = site
    jobs = page.workspace.jobs
    with attacker(url) as client:
        event = client.post(ADDRESS, json=evaluation()).json()["event_id"]
        with client.stream("GET", f"{ADDRESS}/{event}") as answer:
            next(answer.iter_lines())
            assert eventually(lambda: jobs._deadlines)
    assert eventually(lambda: not jobs._deadlines)
    assert rests(page)


def test_clicks_are_answered_while_long_work_waits(site, png):
    url, page = site
    visitor = Visitor(url)
    path = visitor.upload(png)
    with attacker(url) as client:
        for _ in range(16):
            client.post(ADDRESS, json=evaluation())
        said = visitor.call(
            "uploaded",
            visitor.data("uploaded", image={"path": path, "meta": {"_type": "gradio.FileData"}}),
        )
    assert said["ok"], said
    visitor.leave()
    assert rests(page)


def test_invented_sessions_cost_nobody_what_the_page_shows(site, png):
    url, page = site
    visitor = Visitor(url)
    assert visitor.ask(visitor.upload(png), "what is this?")["ok"]
    held = page.state_holder.session_data[visitor.session]
    clicks = visitor.functions["uploaded"]["id"]
    with attacker(url) as client:
        for number in range(260):
            body = {"data": [None, None], "fn_index": clicks, "session_hash": f"x{number}"}
            client.post("/gradio_api/queue/join", json=body)
            client.get("/health", params={"session": f"x{number}"})
    assert page.state_holder.session_data[visitor.session] is held
    assert visitor.compare(LAYERS, [1], answer_length=2)["ok"]
    assert not any(page.visits.is_open(f"x{number}") for number in range(260))
    visitor.leave()
    assert rests(page)


def test_pages_from_one_address_are_bounded(site):
    url, page = site
    most = page.workspace.limits.address_sessions
    open_pages, codes = [], []
    limits = httpx.Limits(max_connections=most + 10)
    with httpx.Client(base_url=url, timeout=60, limits=limits) as client:
        for number in range(most + 3):
            stream = client.stream("GET", f"/gradio_api/heartbeat/many-{number}")
            codes.append(stream.__enter__().status_code)
            open_pages.append(stream)
        other = Visitor(url)
        other.arrive()
        assert page.visits.is_open(other.session)
        for stream in open_pages:
            stream.__exit__(None, None, None)
    other.leave()
    assert codes == [200] * most + [429] * 3
    assert eventually(lambda: not page.visits._open)


def test_many_small_files_are_refused_and_the_page_goes_on(site, png):
    url, page = site
    limits, ledger = page.workspace.limits, page.workspace.uploads.ledger
    with attacker(url) as client:
        begun = time.process_time()
        codes = [uploading(client, 1000).status_code for _ in range(20)]
        busy_s = time.process_time() - begun
        assert set(codes) == {400}
        for _ in range(5):  # equal files are stored once
            last = uploading(client, limits.upload_files, secrets.token_bytes(5))
        assert last.status_code == 429 and last.json()["detail"] == FULL_SHARE
    assert ledger.of("198.51.100.7")[0] <= limits.address_files + limits.upload_files
    visitor = Visitor(url)
    assert visitor.ask(visitor.upload(png), "what is this?")["ok"]
    visitor.leave()
    assert busy_s < SOON_S and rests(page)


def test_scenes_count_and_go_with_their_session(site):
    url, page = site
    workspace, visitor = page.workspace, Visitor(url)
    ledger, before = workspace.uploads.ledger, page.workspace.uploads.ledger.stored
    button = visitor.ids["new-scene"]
    drawing = next(
        each for each in visitor.config["dependencies"] if [button, "click"] in each["targets"]
    )
    visitor.functions["draw"] = drawing
    for _ in range(workspace.limits.session_files + 3):
        said = visitor.call("draw", visitor.data("draw"))
        assert said["ok"]
    held = [thing for thing in workspace.uploads._held[visitor.session]]
    assert len(held) == workspace.limits.session_files
    assert ledger.stored - before == sum(path.stat().st_size for path in held)
    visitor.leave()
    assert rests(page)
    assert ledger.stored == before and not any(path.exists() for path in held)


def test_a_full_disk_is_said_in_words_and_leaves_nothing(site, monkeypatch):
    url, page = site
    visitor = Visitor(url)
    button = visitor.ids["new-scene"]
    visitor.functions["draw"] = next(
        each for each in visitor.config["dependencies"] if [button, "click"] in each["targets"]
    )

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = set(folder.rglob("*"))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", full)
        said = visitor.call("draw", visitor.data("draw"))
    assert not said["ok"] and said["error"] == DISK_FULL
    assert set(folder.rglob("*")) == before
    assert visitor.call("draw", visitor.data("draw"))["ok"]
    visitor.leave()
    assert rests(page)


def test_answers_carry_the_headers_that_browsers_heed(site):
    url, _ = site
    for path in ("/", "/config", "/health", "/monitoring", "/gradio_api/file=/etc/passwd"):
        headers = httpx.get(url.rstrip("/") + path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert (
            headers["referrer-policy"]
            and "frame-ancestors 'self'" in (headers["content-security-policy"])
        )


def test_a_forged_strip_costs_nothing(site, png):
    url, page = site
    visitor = Visitor(url)
    assert visitor.ask(visitor.upload(png), "what is this?")["ok"]
    many = list(range(20_000))
    begun = time.process_time()
    forged = {"ids": many, "ranking": many, "protected": [], "drop": many, "blocks": [many]}
    for function in ("compare", "planned"):
        said = visitor.call(function, visitor.data(function, strip=forged))
        assert not said["ok"] and "list of at most" in said["error"], (function, said)
        taken = visitor.call(function, visitor.data(function, strip={**forged, "drop": [1]}))
        assert taken["ok"], (function, taken)
    assert time.process_time() - begun < SOON_S / 2
    visitor.leave()
    assert rests(page)


def test_a_server_that_is_told_to_end_leaves_no_uploads(tmp_path):
    root = Path(__file__).resolve().parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    env |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    command = [sys.executable, "app.py", "--public", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/health", timeout=5).status_code in (200, 503)
            except httpx.HTTPError:
                return False

        assert eventually(answers)
        assert uploading(httpx.Client(base_url=url, timeout=60), 1).status_code == 200
        assert list(tmp_path.glob("svl-uploads-*"))
        server.terminate()
        assert server.wait(SOON_S) == 0
        assert not list(tmp_path.glob("svl-uploads-*"))
    finally:
        server.kill()
        server.wait()
