"""What the server answers and refuses before the page sees a request: `/health`, `/closed`, and the
gate that holds the limits on sizes and fetches nothing on a visitor's word.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svl_core.service.errors import DISK_FULL, disk_full
from svl_core.service.limits import Limits
from svl_core.service.logs import where

if TYPE_CHECKING:
    from svl_core.service.visits import Visits
    from svl_core.service.workspace import Workspace

LOG = logging.getLogger(__name__)
STARTED = round(time.time(), 3)  # which start of the server this is: an open page compares it

UploadFolder = Callable[[], str | Path]
Served = Callable[[Request], tuple["Workspace", "Visits"]]  # of the page that a request is for


class Gate:
    """ASGI middleware: no fetching on a visitor's word, no request bodies beyond the limits.

    upload_folder: where uploaded files lie.
    """

    def __init__(self, app, limits: Limits, upload_folder: UploadFolder) -> None:
        self.app, self.limits, self.upload_folder = app, limits, upload_folder

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                return await refusal(scope, receive, send)
            receive = self._bounded(scope, receive)
        try:
            await self.app(scope, receive, send)
        except OSError as error:  # an upload that finds no room
            if not disk_full(error) or scope["type"] != "http":
                raise
            LOG.error("disk full", extra={"fields": where(error)})
            await _refuse(507, DISK_FULL)(scope, receive, send)

    def _refusal(self, scope) -> JSONResponse | None:
        path = _path_of(scope)
        fetches = path.lower().startswith(("/file=http:", "/file=https:"))
        if path.startswith("/proxy=") or fetches:
            return _refuse(403, "This server fetches nothing from elsewhere.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most_bytes(path):
            return _refuse(413, "The request is larger than this server takes.")
        uploads = path.startswith("/upload") and scope["method"] == "POST"
        if uploads and self._stored() > self.limits.stored_bytes:
            return _refuse(507, DISK_FULL)
        return None

    def _most_bytes(self, path: str) -> int:
        return self.limits.upload_bytes if path.startswith("/upload") else self.limits.body_bytes

    def _stored(self) -> int:
        """Bytes of all files in the upload folder."""
        total = 0
        for folder, _, names in os.walk(self.upload_folder()):
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_size
                except OSError:  # gone meanwhile
                    continue
        return total

    def _bounded(self, scope, receive):
        """`receive` that ends a body sent without a length once it is too long."""
        most_bytes = self._most_bytes(_path_of(scope))
        received = 0

        async def counted():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > most_bytes else message

        return counted


def _path_of(scope) -> str:
    return scope["path"].removeprefix("/gradio_api")


def _refuse(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)


def health(workspace: Workspace) -> JSONResponse:
    """State of the service: 200 once the first model answers, 503 while it loads or where it
    failed.
    """
    models = workspace.models
    state = models.state(models.first)
    body = {
        "status": "ok" if state == "ready" else state,
        "model": {"name": models.first, "state": state},
        "arithmetic": models.arithmetic(models.first),
        "loaded": models.names(),
        "sessions": len(workspace.uploads),
        "analyses": len(workspace.analyses),
        "uptime_s": round(time.time() - STARTED),
        "started": STARTED,
    }
    return JSONResponse(body, 200 if state == "ready" else 503)


def app_options(limits: Limits, upload_folder: UploadFolder, served: Served) -> dict:
    """The gate, `/health` and `/closed`, as options of a starlette app.

    `/health?session=`: an open page tells of itself. `/closed?session=`: its page was closed.

    upload_folder: where uploaded files lie.
    served: the workspace and the visits of the page that a request is for.
    """

    def answer_health(request: Request) -> JSONResponse:
        workspace, visits = served(request)
        if "session" in request.query_params:
            visits.heard(request.query_params["session"])
        return health(workspace)

    def answer_closed(request: Request) -> Response:
        _, visits = served(request)
        visits.closed(request.query_params.get("session", ""))
        return Response(status_code=204)

    return {
        "middleware": [Middleware(Gate, limits=limits, upload_folder=upload_folder)],
        "routes": [
            Route("/health", answer_health),
            Route("/closed", answer_closed, methods=["POST"]),
        ],
    }
