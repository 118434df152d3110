"""MCP tools with schemas of their own, real JSON as results, and each caller queues as itself.

What gradio does: it describes tools by its components, without bounds, without the defaults that
are 0 or false, and without what they return; it calls the page over the network as one client with
one session for all callers, and writes results in Python's notation.
Why not: a program reads JSON by a schema; one caller's waiting work counts against all the others,
and work goes on after its caller has left.
How: `App.setup_mcp_server` is wrapped, so that the server it makes is a subclass whose lists and
calls of tools are ours, for pages that `apply` was called with. A call joins the page's queue by
itself, with its caller's address and a session of its own.
Tested on gradio 6.31. Unnecessary once gradio takes schemas for tools, and calls them with the
session and the address of their callers.
"""

from __future__ import annotations

import asyncio
import html
import json
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import gradio as gr
from fastapi import HTTPException
from gradio import routes
from gradio.data_classes import PredictBodyInternal
from gradio.route_utils import API_PREFIX
from gradio.server_messages import ProcessCompletedMessage, ProcessGeneratingMessage
from starlette.requests import Request

TOOLS = "mcp_tools"  # attribute of the pages whose tools are ours
JOIN = f"{API_PREFIX}/queue/join"
WAIT_S = 10.0  # between two looks whether the server still runs

Tell = Callable[[str, float], Awaitable[None]]
"""Called with what is being done, and how much of it is done, 0..1."""

_SETUP = routes.App.setup_mcp_server


@dataclass(frozen=True)
class Tool:
    """An endpoint as a tool.

    arguments, result: JSON schemas of objects; the arguments' properties are in the endpoint's
        order, with their defaults.
    """

    arguments: Mapping[str, Any]
    result: Mapping[str, Any]


class ToolError(Exception):
    """Why a call gave no result, in a sentence."""


def apply(page: gr.Blocks, tools: Mapping[str, Tool]) -> None:
    """Has this page's endpoints be these tools, by their names, where it is served as MCP too."""
    setattr(page, TOOLS, tools)
    routes.App.setup_mcp_server = staticmethod(_set_up)


def _set_up(blocks: gr.Blocks, app_kwargs: dict, mcp_server: bool | None = None):
    if mcp_server and hasattr(blocks, TOOLS):
        import gradio.mcp

        gradio.mcp.GradioMCPServer = _with_tools(gradio.mcp.GradioMCPServer)
    return _SETUP(blocks, app_kwargs, mcp_server)


def _with_tools(kind: type) -> type:
    """gradio's MCP server, but for the lists and calls of tools."""
    if getattr(kind, TOOLS, False):
        return kind

    class ToolServer(kind):
        def create_mcp_server(self):
            server = super().create_mcp_server()
            tools = getattr(self.blocks, TOOLS, None)
            if tools is not None:
                _register(self, server, tools)
            return server

    setattr(ToolServer, TOOLS, True)
    return ToolServer


def _register(owner: Any, server: Any, tools: Mapping[str, Tool]) -> None:
    """Lists and calls of tools. owner: gradio's server, which knows names and descriptions."""
    types = owner.types

    @server.list_tools()
    async def listed():
        chosen = owner.get_selected_tools_from_request()
        made = []
        for name, endpoint in owner.tool_to_endpoint.items():
            if chosen is not None and name not in chosen:
                continue
            function = owner.get_block_fn_from_endpoint_name(endpoint)
            tool = tools[endpoint.lstrip("/")]
            made.append(
                types.Tool(
                    name=name,
                    description=owner.get_fn_description(function, name)[0],
                    inputSchema=dict(tool.arguments),
                    outputSchema=dict(tool.result),
                )
            )
        return made

    @server.call_tool(validate_input=False)  # a field's own sentence says more
    async def called(name: str, arguments: dict[str, Any]):
        context = server.request_context
        try:
            if name not in owner.tool_to_endpoint:
                raise ToolError(
                    f"Found the tool {name[:80]!r}; expected one of"
                    f" {', '.join(owner.tool_to_endpoint)}; choose one."
                )
            endpoint = owner.tool_to_endpoint[name]
            values = arranged(tools[endpoint.lstrip("/")], arguments)
            function = owner.get_block_fn_from_endpoint_name(endpoint)
            tell = _teller(context)
            found = finite(await call(owner.blocks, function, values, context.request, tell))
        except ToolError as error:
            said = types.TextContent(type="text", text=str(error))
            return types.CallToolResult(content=[said], isError=True)
        text = json.dumps(found, ensure_ascii=False)
        said = types.TextContent(type="text", text=text)
        return types.CallToolResult(content=[said], structuredContent=found)


def finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    lacking = isinstance(value, float) and not math.isfinite(value)
    return None if lacking else value


def arranged(tool: Tool, arguments: Mapping[str, Any]) -> list[Any]:
    """The arguments' values in the endpoint's order. Raises ToolError for one that is missing or
    unknown.
    """
    known = tool.arguments["properties"]
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise ToolError(
            f"Found the argument {unknown[0][:80]!r}; expected those of {', '.join(known)};"
            " correct or drop it."
        )
    missing = [name for name in tool.arguments.get("required", ()) if name not in arguments]
    if missing:
        raise ToolError(f"Found no {missing[0]}; expected a value for it; add one.")
    return [arguments.get(name, schema.get("default")) for name, schema in known.items()]


def _teller(context: Any) -> Tell:
    """Tells the caller how far its work is, where it asked to be told."""
    token = context.meta.progressToken if context.meta is not None else None

    async def tell(doing: str, share: float) -> None:
        if token is not None:
            await context.session.send_progress_notification(
                progress_token=token,
                progress=share,
                total=1.0,
                message=doing,
                related_request_id=str(context.request_id),
            )

    return tell


async def call(
    page: gr.Blocks, function: Any, values: list[Any], request: Request, tell: Tell
) -> dict[str, Any]:
    """What an endpoint yields last. Its work waits in the page's queue like anybody's, and ends
    where the caller leaves.

    Raises ToolError in the endpoint's or the queue's sentence.
    """
    queue = page._queue
    if queue.server_app is None:
        queue.set_server_app(page.app)
    asked = _as_join(request, page)
    session = f"mcp-{secrets.token_hex(8)}"
    body = PredictBodyInternal(
        session_hash=session,
        data=values,
        fn_index=function._id,
        simple_format=True,  # whole values, not what changed in them
        request=asked,
    )
    try:
        joined, event, _ = await queue.push(body=body, request=asked, username=None)
    except HTTPException as refused:
        raise ToolError(str(refused.detail)) from None
    if not joined:
        raise ToolError(str(event))
    page.listeners.began(event)
    try:
        return await _result(queue, session, tell)
    finally:
        page.listeners.ended(event)
        with anyio.CancelScope(shield=True):  # the caller may have left
            await queue.clean_events(event_id=event)
        queue.pending_event_ids_session.pop(session, None)
        queue.pending_messages_per_session.pop(session, None)


def _as_join(request: Request, page: gr.Blocks) -> Request:
    """The caller's request, as one that joins the queue: the same address and headers."""
    scope = {**request.scope, "path": JOIN, "raw_path": JOIN.encode(), "root_path": ""}
    return Request({**scope, "app": page.app})


async def _result(queue: Any, session: str, tell: Tell) -> dict[str, Any]:
    """The last value that comes for a session, which has one event alone."""
    messages = queue.pending_messages_per_session[session]
    found: dict[str, Any] = {}
    while not queue.stopped:
        try:
            message = await asyncio.wait_for(messages.get(), WAIT_S)
        except TimeoutError:
            continue
        if isinstance(message, ProcessGeneratingMessage) and message.success:
            found = message.output["data"][0]
            if "doing" in found:
                await tell(found["doing"], found["progress"])
        elif isinstance(message, ProcessCompletedMessage):
            if not message.success:
                said = str(message.output.get("error") or "The server could not do it.")
                raise ToolError(html.unescape(said))  # the page shows it as markup
            return found
    raise ToolError("The server is told to end; try again in a minute.")
