"""One client tries to lock the door to all others: each attack is bounded, on this machine alone,
and leaves the server as it was.
"""

import time
from dataclasses import replace

import httpx
import pytest
from tiny import LAYERS
from visitor import Visitor

from svl_core.service.limits import PUBLIC

pytestmark = pytest.mark.slow

ADDRESS = "/gradio_api/call/evaluate"
SOON_S = 60  # on a machine that is busy with other things


@pytest.fixture(scope="module")
def site(tiny, tmp_path_factory):
    """(address, gr.Blocks) of a public page that does not wait long for a listener."""
    import os

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
