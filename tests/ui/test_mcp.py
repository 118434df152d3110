"""The endpoints as MCP tools, asked for by MCP's own client; skipped where gradio's extra `mcp` is
not installed.
"""

import asyncio
import base64
import io
import json
import threading
import time

import httpx
import pytest
from tiny import awaited

from svl_core.recipe import OPTIONS
from svl_core.service.limits import Limits
from svl_core.service.waiting import Waiting

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

QUESTION = {"image": "example:0", "prompt": "what is in the center?", "max_new_tokens": 2}

SWEEP = QUESTION | {"drops": [0, 1], "calibration_size": 2}


def session(url: str, asked):
    """What `asked(client)` gives, with MCP's client of the page at `url`."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def opened():
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as client,
        ):
            await client.initialize()
            return await asked(client)

    return awaited(asyncio.wait_for(opened(), 300))


def posted(url: str, name: str, arguments: dict, headers: dict, timeout: float):
    """A tool called without a client, by one request."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    body["params"] = {"name": name, "arguments": arguments}
    accepted = {"accept": "application/json, text/event-stream"}
    address = f"{url}gradio_api/mcp/"
    return httpx.post(address, json=body, headers=headers | accepted, timeout=timeout)


@pytest.fixture(scope="module")
def served(tiny):
    """(address, page) of a page that offers listed models alone."""
    from svl_core.ui import build, launch_options

    page = build(tiny, knows_scenes=True, limits=Limits(any_model=False, prompt_chars=100))
    _, url, _ = page.launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options()
    )
    yield url, page
    page.close()


@pytest.fixture(scope="module")
def picture(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def calls(served, picture):
    """(tools by name, results by what was asked), all of one client's session.

    MCP's client holds each result against its tool's schema, and raises where they differ.
    """
    url, _ = served
    sent = httpx.post(f"{url}gradio_api/upload", files={"files": ("picture.png", picture)}).json()
    data = "data:image/png;base64," + base64.b64encode(picture).decode()
    asked = {
        "example": ("compare", QUESTION | {"drop": 2}),
        "brief": ("compare", QUESTION | {"drop": 2, "brief": True}),
        "path": ("compare", QUESTION | {"image": sent[0], "drop": 1}),
        "address": ("compare", QUESTION | {"image": f"{url}gradio_api/file={sent[0]}", "drop": 1}),
        "file": ("compare", QUESTION | {"image": {"path": sent[0]}, "drop": 1}),
        "data": ("compare", QUESTION | {"image": data, "drop": 1}),
        "analyse": ("analyse", {"image": data, "prompt": "where?"}),
        "analyse, brief": ("analyse", {"image": data, "prompt": "where?", "brief": True}),
        "sweep": ("sweep", SWEEP),
        "sweep, brief": ("sweep", SWEEP | {"brief": True}),
        "evaluate": ("evaluate", {"questions": 13, "drop": 1, "calibration_size": 2}),
        "evaluate, brief": ("evaluate", {"questions": 13, "layers": [2], "brief": True}),
        "lens": ("lens", QUESTION | {"drop": 2}),
        "lens, brief": ("lens", QUESTION | {"drop": 2, "brief": True}),
        "word": ("word", QUESTION | {"layers": [2], "place": 1, "relevance": True}),
        "word, brief": ("word", QUESTION | {"layers": [2], "place": 1, "brief": True}),
        "one model": ("word", QUESTION | {"drop": 0}),
        "models": ("models", {}),
        "models, brief": ("models", {"brief": True}),
        "unknown": ("compare", QUESTION | {"colour": "red"}),
        "missing": ("compare", {"image": "example:0"}),
        "no tool": ("nothing", {}),
        "web": ("compare", QUESTION | {"image": "https://example.org/a.png"}),
        "outside": ("compare", QUESTION | {"image": "/etc/hosts"}),
        "gone": ("compare", QUESTION | {"image": sent[0] + ".old"}),
        "bounds": ("compare", QUESTION | {"top_p": 2}),
        "criterion": ("compare", QUESTION | {"criterion": "magic"}),
        "model": ("compare", QUESTION | {"model": "nobody/nothing"}),
        "long": ("compare", QUESTION | {"prompt": "x" * 101}),
        "preset": ("compare", QUESTION | {"preset": "magic"}),
        "mark": ("compare", QUESTION | {"brief": 1}),
        "side": ("word", QUESTION | {"answer": "nobody"}),
        "place": ("word", QUESTION | {"place": 99}),
    }
    told = []

    async def note(share, total, message):
        told.append((share, total, message))

    async def all_of_them(client):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        results = {}
        for what, (name, arguments) in asked.items():
            heard = note if what == "sweep" else None
            results[what] = await client.call_tool(name, arguments, progress_callback=heard)
        return tools, results

    return *session(url, all_of_them), told


def test_tools_are_typed_bounded_and_described(calls):
    from svl_core.ui.api import NAMES

    tools, _, _ = calls
    assert sorted(tools) == sorted(NAMES)  # and none of the page's own handlers
    for tool in tools.values():
        assert len(tool.description) > 40
        given = tool.inputSchema["properties"]
        assert all(
            {"type", "anyOf", "oneOf", "enum"} & set(each) and each["description"]
            for each in given.values()
        ), tool.name
        assert "request" not in given and tool.outputSchema["required"]
    compare = tools["compare"].inputSchema
    given = compare["properties"]
    assert compare["required"] == ["image", "prompt"]
    assert "shortgpt" in given["criterion"]["enum"] and "scp" in given["compensation"]["enum"]
    assert given["model"]["enum"][0] == "tiny" == given["model"]["default"]
    assert "HuggingFaceTB/SmolVLM-256M-Instruct" in given["model"]["enum"]
    assert given["drop"]["type"] == "integer" and given["drop"]["default"] == 4
    assert given["strength"]["minimum"] == 0 and given["strength"]["maximum"] == 100
    assert given["top_p"]["exclusiveMinimum"] == 0 and given["top_p"]["maximum"] == 1
    assert given["causal_correction"]["default"] is False
    assert {"enum": ["as-published", "best"]} in given["preset"]["oneOf"]
    assert set(OPTIONS) <= set(given)  # the whole recipe


def test_results_are_json_that_the_schema_describes_whole(calls):
    tools, results, _ = calls
    names = {"example": "compare", "analyse": "analyse", "sweep": "sweep", "models": "models"}
    names |= {"lens": "lens", "word": "word", "one model": "word"}
    names |= {"evaluate": "evaluate", "evaluate, brief": "evaluate", "brief": "compare"}
    for what, name in names.items():
        found = results[what].structuredContent
        assert json.loads(results[what].content[0].text) == found, what
        assert set(found) <= set(tools[name].outputSchema["properties"]), what
    found = results["example"].structuredContent
    assert len(found["plan"]["drop"]) == 2 and len(found["plan"]["keep"]) == 4
    assert results["analyse"].structuredContent["layers"] == 6
    assert results["evaluate, brief"].structuredContent["plan"]["drop"] == [2]


def test_brief_results_are_the_same_and_shorter(calls):
    _, results, _ = calls

    def length(what):
        return len(results[what].content[0].text)

    for what in ("analyse", "sweep", "evaluate", "lens", "word", "models"):
        assert length(f"{what}, brief") < 0.6 * length(what), what
    short, whole = results["brief"].structuredContent, results["example"].structuredContent
    assert "token_probabilities" not in short and "tokens" not in short["full"]
    assert short["kl"] == whole["kl"] and short["full"]["text"] == whole["full"]["text"]
    ranking = results["analyse, brief"].structuredContent["ranking"]
    assert ranking == results["analyse"].structuredContent["ranking"]


def test_an_answer_s_words_are_read_of_both_models(calls):
    """Layers by their numbers in the original model, attention that adds up, a map with a check."""
    _, results, _ = calls
    lens = results["lens"].structuredContent
    assert lens["full"]["layer_ids"] == [0, 1, 2, 3, 4, 5]
    assert lens["pruned"]["layer_ids"] == lens["plan"]["keep"]
    assert lens["pruned"]["token_ids"] == lens["full"]["token_ids"]
    assert all(rank == 0 for rank in lens["full"]["rank"][-1])  # of its own greedy answer
    assert set(results["lens, brief"].structuredContent["full"]) == {
        *("layer_ids", "tokens", "decided")
    }
    word = results["word"].structuredContent
    assert word["kinds"] == ["image", "prompt", "earlier answer", "first token"]
    assert word["place"] == 1 and word["pruned"]["layer_ids"] == [0, 1, 3, 4, 5]
    for side in ("full", "pruned"):
        sums = [sum(head) for layer in word[side]["shares"] for head in layer]
        assert sums == pytest.approx([1.0] * len(sums), abs=1e-4)
        relevance = word[side]["relevance"]
        assert len(relevance["values"]) == len(word[side]["strongest"]["patches"]) == 36
        assert len(relevance["without_random"]) == 20 and relevance["covered"] == 4
    alone = results["one model"].structuredContent
    assert alone["pruned"] is None and alone["full"]["relevance"] is None


def test_a_picture_comes_by_any_way(calls):
    """The same picture, uploaded or sent along, gives the same answers."""
    _, results, _ = calls
    ways = [results[way].structuredContent for way in ("path", "address", "file", "data")]
    assert all(found["kl"] == ways[0]["kl"] and found["plan"] == ways[0]["plan"] for found in ways)
    assert results["example"].structuredContent["kl"] != ways[0]["kl"]


def test_what_is_offered_is_listed(calls):
    _, results, _ = calls
    found = results["models"].structuredContent
    assert found["first"] == "tiny" and not found["any"] and found["loaded"] == ["tiny"]
    assert found["models"][0] == {"id": "tiny"} and found["models"][1]["id"] == "demo"
    assert "svl" in [row["name"] for row in found["criteria"]]
    assert [row["name"] for row in found["presets"]] == ["as-published", "best"]


@pytest.mark.parametrize(
    "what, says",
    [
        ("unknown", "Found the argument 'colour'; expected those of image, prompt"),
        ("missing", "Found no prompt; expected a value for it"),
        ("no tool", "Found the tool 'nothing'; expected one of analyse, compare"),
        ("web", "Found a web address, and nothing is fetched here"),
        ("outside", "Found a file outside the upload folder"),
        ("gone", "Found an upload that is no longer here"),
        ("bounds", "Found a top-p of 2; expected a number above 0 and at most 1"),
        ("criterion", "Found the criterion 'magic'; expected one of"),
        ("model", "not on this page's list"),
        ("long", "at most 100"),
        ("preset", "Found the preset 'magic'; expected one of as-published, best"),
        ("mark", "Found brief = 1; expected true or false"),
        ("side", "Found the answer 'nobody'; expected one of full, pruned"),
        ("place", "Found word 99 of the full model's answer, which has"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(calls, what, says):
    result = calls[1][what]
    assert result.isError and says in result.content[0].text
    assert "Traceback" not in result.content[0].text and "&" not in result.content[0].text


def test_who_asks_is_told_how_far_the_work_is(calls):
    told = calls[2]
    assert told and all(0 <= share <= total == 1 and message for share, total, message in told)


def test_a_caller_waits_as_its_own_address_and_ends_with_its_call(served, calls, monkeypatch):
    """Each call has a session and the caller's address; nothing of it stays behind."""
    from svl_core.ui.gradio_patches import waiting_room

    url, page = served
    seen: list[Waiting] = []
    refusal = waiting_room.refusal

    def watched(limits, new, others):
        seen.append(new)
        return refusal(limits, new, others)

    monkeypatch.setattr(waiting_room, "refusal", watched)
    headers = {"x-forwarded-for": "203.0.113.7"}

    async def twice(client):
        for _ in range(2):
            await client.call_tool("compare", QUESTION | {"drop": 2})

    session(url, twice)
    posted(url, "compare", QUESTION | {"drop": 2}, headers, timeout=60)
    assert [each.address for each in seen] == ["127.0.0.1", "127.0.0.1", "203.0.113.7"]
    assert len({each.session for each in seen}) == 3 and all(each.heavy for each in seen)
    queue, until = page._queue, time.monotonic() + 10
    while queue.event_ids_to_events and time.monotonic() < until:
        time.sleep(0.05)  # the queue clears up a moment after its caller has the answer
    left = {*queue.pending_messages_per_session, *queue.pending_event_ids_session}
    assert not {each.session for each in seen} & left and not queue.event_ids_to_events


def test_work_ends_where_its_caller_leaves(served, calls, tiny):
    url, page = served
    slow = [layer.register_forward_pre_hook(lambda *_: time.sleep(0.05)) for layer in tiny.layers]
    arguments = SWEEP | {"prompt": "how many ?", "drops": [0, 1, 2, 3], "max_new_tokens": 32}

    def ask_and_leave():
        with pytest.raises(httpx.ReadTimeout):
            posted(url, "sweep", arguments, {}, 3)

    caller = threading.Thread(target=ask_and_leave)
    try:
        caller.start()
        told, until = [], time.monotonic() + 30
        while not told and time.monotonic() < until:
            told = [event for held in page.workspace.jobs._deadlines.values() for event in held]
            time.sleep(0.01)
        assert len(told) == 1 and not told[0].is_set()
        caller.join()
        assert told[0].wait(30)  # its work is told to end
    finally:
        for hook in slow:
            hook.remove()
        caller.join()


def test_numbers_that_json_lacks_are_left_out():
    from svl_core.ui.gradio_patches.mcp_tools import finite

    rows = [{"kl": float("nan"), "n": 3}, {"kl": 0.5, "text": "inf"}]
    assert finite({"rows": rows, "most": float("inf")}) == {
        "rows": [{"kl": None, "n": 3}, {"kl": 0.5, "text": "inf"}],
        "most": None,
    }
