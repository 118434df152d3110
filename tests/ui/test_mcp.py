"""The endpoints as MCP tools, asked for by MCP's own client; skipped where gradio's extra `mcp` is
not installed.
"""

import ast
import asyncio

import pytest
from tiny import awaited

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")


def asked(url: str, drop: int):
    """(tools by name, the result of a comparison that drops `drop` layers)."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def session():
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as client,
        ):
            await client.initialize()
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            return tools, await client.call_tool(
                "compare",
                {
                    "image": "example:0",
                    "prompt": "what is in the center?",
                    "drop": drop,
                    "max_new_tokens": 2,
                },
            )

    return awaited(asyncio.wait_for(session(), 120))


def test_the_page_serves_its_endpoints_as_typed_tools_and_a_call_works(tiny):
    from svl_core.ui import build, launch_options
    from svl_core.ui.api import NAMES

    page = build(tiny, knows_scenes=True)
    try:
        _, url, _ = page.launch(
            prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options()
        )
        tools, called = asked(url, drop=2)
    finally:
        page.close()
    assert sorted(tools) == sorted(NAMES)  # and none of the page's own handlers
    for tool in tools.values():
        assert len(tool.description) > 40
        given = tool.inputSchema["properties"]
        assert all(
            {"type", "anyOf", "oneOf", "enum"} & set(each) and each["description"]
            for each in given.values()
        ), tool.name
    compare = tools["compare"].inputSchema
    assert (
        compare["properties"]["drop"]["type"] == "integer"
        and compare["properties"]["strength"]["type"] == "number"
        and "request" not in compare["properties"]
    )
    assert not called.isError
    found = ast.literal_eval(called.content[-1].text)  # gradio writes Python's own notation
    assert len(found["plan"]["drop"]) == 2 and len(found["plan"]["keep"]) == tiny.num_layers - 2
