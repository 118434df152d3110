"""What the server answers and refuses before the page sees a request: `/health`, `/closed`, and the
gate that holds the limits on sizes and fetches nothing on a visitor's word.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svl_core.service.errors import DISK_FULL, disk_full
from svl_core.service.limits import Limits
from svl_core.service.logs import where
from svl_core.service.waiting import address_of

if TYPE_CHECKING:
    from svl_core.service.visits import Visits
    from svl_core.service.waiting import Listeners
    from svl_core.service.workspace import Workspace

LOG = logging.getLogger(__name__)
PAGE = "/heartbeat/"  # the connection of an open page, before its session
STARTED = round(time.time(), 3)  # which start of the server this is: an open page compares it

UploadFolder = Callable[[], str | Path]


@dataclass(frozen=True)
class Served:
    """What the gate must know of the page that it stands before."""

    workspace: Workspace
    visits: Visits
    listeners: Listeners


ServedBy = Callable[[object], Served]  # of an app


class Gate:
    """ASGI middleware: no fetching on a visitor's word, no request bodies beyond the limits.

    upload_folder: where uploaded files lie.
    served: the page that an app serves.
    """

    def __init__(
        self, app, limits: Limits, upload_folder: UploadFolder, served: ServedBy | None = None
    ) -> None:
        self.app, self.limits, self.upload_folder = app, limits, upload_folder
        self.served = served

    async def __call__(self, scope, receive, send) -> None:
        page, listens, opened = None, None, None
        if scope["type"] == "http":
            refusal = self._refusal(scope) or self._closed_door(scope)
            if refusal is not None:
                return await refusal(scope, receive, send)
            receive = self._bounded(scope, receive)
            page = self.served(scope["app"]) if self.served else None
            listens, opened = _listens_for(scope), _page_of(scope)
        try:
            if page and listens:
                page.listeners.began(listens)
            await self.app(scope, receive, send)
        except OSError as error:  # an upload that finds no room
            if not disk_full(error) or scope["type"] != "http":
                raise
            LOG.error("disk full", extra={"fields": where(error)})
            await _refuse(507, DISK_FULL)(scope, receive, send)
        finally:
            if page and listens:
                page.listeners.ended(listens)
            if page and opened:
                asyncio.get_running_loop().run_in_executor(None, page.visits.dropped, opened)

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

    def _closed_door(self, scope) -> JSONResponse | None:
        """A page connects, which the limit on open pages has no room for."""
        if self.served is None or _page_of(scope) is None:
            return None
        visits, client = self.served(scope["app"]).visits, scope.get("client")
        address = address_of(client[0] if client else None)
        if visits.opened(_page_of(scope), address):
            return None
        return _refuse(429, "Too many pages are open here, or from your address; close some.")

    def _most_bytes(self, path: str) -> int:
        return self.limits.upload_bytes if path.startswith("/upload") else self.limits.body_bytes

    def _stored(self) -> int:
        """Bytes of all files in the upload folder."""
        total = 0
        for path in Path(self.upload_folder()).rglob("*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
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


def _page_of(scope) -> str | None:
    """The session whose page connects with a request, None for another request."""
    path = _path_of(scope)
    connects = scope["method"] == "GET" and path.startswith(PAGE)
    return path.removeprefix(PAGE) if connects else None


def _listens_for(scope) -> str | None:
    """The session or the event whose results a request listens for, None for another request."""
    path = _path_of(scope)
    if scope["method"] != "GET":
        return None
    if path.startswith("/queue/data"):
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return query.get("session_hash", [None])[-1]
    return path.rsplit("/", 1)[-1] if path.startswith("/call/") else None


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
        "loaded": models.names(),
        "sessions": len(workspace.uploads),
        "analyses": len(workspace.analyses),
        "uptime_s": round(time.time() - STARTED),
        "started": STARTED,
    }
    return JSONResponse(body, 200 if state == "ready" else 503)


def app_options(limits: Limits, upload_folder: UploadFolder, served: ServedBy) -> dict:
    """The gate, `/health` and `/closed`, as options of a starlette app.

    `/health?session=`: an open page tells of itself. `/closed?session=`: its page was closed.

    upload_folder: where uploaded files lie.
    served: the page that an app serves.
    """
    gate = {"limits": limits, "upload_folder": upload_folder, "served": served}

    def answer_health(request: Request) -> JSONResponse:
        page = served(request.app)
        if "session" in request.query_params:
            page.visits.heard(request.query_params["session"])
        return health(page.workspace)

    def answer_closed(request: Request) -> Response:
        served(request.app).visits.closed(request.query_params.get("session", ""))
        return Response(status_code=204)

    return {
        "middleware": [Middleware(Gate, **gate)],
        "routes": [
            Route("/health", answer_health),
            Route("/closed", answer_closed, methods=["POST"]),
        ],
    }
