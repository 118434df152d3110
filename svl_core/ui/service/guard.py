"""Between the visitor and the page: what is refused before gradio acts on it, `/health`, and errors
as harmless sentences.
"""

from __future__ import annotations

import errno
import gc
import html
import logging
import time
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from gradio_client.utils import is_http_url_like
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svl_core.errors import SVLError
from svl_core.ui.service.limits import Limits
from svl_core.ui.service.logs import where

LOG = logging.getLogger(__name__)
DEPTH = 32  # of lists and objects in a request
NO_MEMORY = (
    "The machine ran out of memory and everything stored was freed; ask again with a smaller image,"
    " a shorter answer or a smaller model."
)
DISK_FULL = (
    "The server's disk is full, so nothing can be stored right now; the bundled examples still"
    " work; try again later."
)
STARTED = round(time.time(), 3)  # which start of the server this is: an open page compares it


# ---------------------------------------------------------------------- errors
def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the machine or its GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, RuntimeError)
        and "allocate memory" in str(error)
    )


def free_memory() -> None:
    """Give back what nobody refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def polite(error: BaseException, details: bool = True) -> gr.Error:
    """The sentence that a visitor sees; gradio renders it as markup, so it is escaped here.
    details: whether an unexpected error's own words are shown.
    """
    if isinstance(error, gr.Error):
        error.print_exception = False
        error.message = _escaped(error.message)
        return error
    if isinstance(error, SVLError):
        text = str(error)
    elif out_of_memory(error):
        text = NO_MEMORY
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text = DISK_FULL
    else:
        LOG.error(
            "unexpected error", extra={"fields": where(error)}, exc_info=error if details else None
        )
        words = f"{type(error).__name__}: {error}" if details else type(error).__name__
        text = (
            f"Something went wrong ({words}). Nothing was lost; try again or choose another model."
        )
    return gr.Error(_escaped(text[:1000]), duration=12, print_exception=False)


def _escaped(text: str) -> str:
    return html.escape(html.unescape(str(text)), quote=False)


# ---------------------------------------------------------------------- requests
def guard_inputs(page: gr.Blocks) -> None:
    """Have the page refuse web addresses in the place of files, and values too deep to be its own,
    before gradio looks at them.

    (gradio fetches an address that a visitor gives as a file's path.) What a component refuses
    becomes a sentence, and nothing of it is printed.
    """
    inner = page.preprocess_data

    async def preprocess_data(block_fn, inputs, *rest, **more):
        try:
            _harmless(inputs, DEPTH)
            return await inner(block_fn, inputs, *rest, **more)
        except Exception as error:
            if isinstance(error, (gr.Error, SVLError)):
                raise polite(error) from None
            raise gr.Error(
                "Found a value that this page does not take; expected what its controls offer;"
                " reload the page.",
                print_exception=False,
            ) from None

    page.preprocess_data = preprocess_data


def _harmless(value: Any, depth: int) -> None:
    if depth < 0:
        raise gr.Error(
            "Found a value nested too deeply; expected what the page's controls send; reload the"
            " page.",
            print_exception=False,
        )
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and is_http_url_like(value["path"].strip()):
            raise gr.Error(
                "Found a web address; expected an image file; download the picture and upload it.",
                print_exception=False,
            )
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            _harmless(each, depth - 1)


class Gate:
    """ASGI middleware: no fetching on a visitor's word, no request bodies beyond the limits."""

    def __init__(self, app, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            refused = self._refused(scope)
            if refused:
                return await JSONResponse({"detail": refused[1]}, refused[0])(scope, receive, send)
            receive = self._bounded(scope, receive)
        try:
            await self.app(scope, receive, send)
        except OSError as error:  # an upload that finds no room
            if error.errno != errno.ENOSPC or scope["type"] != "http":
                raise
            LOG.error("disk full", extra={"fields": where(error)})
            await JSONResponse({"detail": DISK_FULL}, 507)(scope, receive, send)

    def _refused(self, scope) -> tuple[int, str] | None:
        path = scope["path"].removeprefix("/gradio_api")
        if path.startswith("/proxy=") or path.lower().startswith(("/file=http:", "/file=https:")):
            return 403, "This server fetches nothing from elsewhere."
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most(path):
            return 413, "The request is larger than this server takes."
        if (
            path.startswith("/upload")
            and scope["method"] == "POST"
            and self._stored() > self.limits.stored_bytes
        ):
            return 507, DISK_FULL
        return None

    def _most(self, path: str) -> int:
        return self.limits.upload_bytes if path.startswith("/upload") else self.limits.body_bytes

    def _stored(self) -> int:
        """Bytes of all files in the upload folder."""
        total = 0
        for path in Path(get_upload_folder()).rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except OSError:  # gone meanwhile
                continue
        return total

    def _bounded(self, scope, receive):
        """`receive` that ends a body sent without a length once it is too long."""
        most, seen = self._most(scope["path"].removeprefix("/gradio_api")), 0

        async def counted():
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > most else message

        return counted


def health(request) -> JSONResponse:
    """State of the service: 200 once the first model answers, 503 while it loads or where it
    failed. ?session=: an open page tells of itself.
    """
    desk = request.app.blocks.desk
    if "session" in request.query_params:
        request.app.blocks.visits.heard(request.query_params["session"])
    model = desk.models.state(desk.models.first)
    body = {
        "status": "ok" if model == "ready" else model,
        "model": {"name": desk.models.first, "state": model},
        "loaded": desk.models.names(),
        "sessions": len(desk.guests),
        "analyses": len(desk.analyses),
        "uptime_s": round(time.time() - STARTED),
        "started": STARTED,
    }
    return JSONResponse(body, 200 if model == "ready" else 503)


def closed(request) -> Response:
    """The page of ?session= was closed."""
    request.app.blocks.visits.closed(request.query_params.get("session", ""))
    return Response(status_code=204)


def app_options(limits: Limits) -> dict:
    """For `launch(app_kwargs=...)`: the gate, `/health` and `/closed`."""
    return {
        "middleware": [Middleware(Gate, limits=limits)],
        "routes": [Route("/health", health), Route("/closed", closed, methods=["POST"])],
    }
