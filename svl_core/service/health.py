"""What the server answers and refuses before the page sees a request: `/health`, `/closed`, and the
gate that holds the limits on sizes and fetches nothing on a visitor's word.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svl_core.service.errors import DISK_FULL, FULL_SHARE, disk_full
from svl_core.service.ledger import BRINGER, Bringer
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


@dataclass(frozen=True)
class Served:
    """What the gate must know of the page that it stands before."""

    workspace: Workspace
    visits: Visits
    listeners: Listeners


ServedBy = Callable[[object], Served]  # of an app


class Refused(Exception):
    """What a request's body does that is not taken: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


TOO_LARGE = "The request is larger than this server takes."
TOO_SLOW = "The request took longer to arrive than this server waits."


class Gate:
    """ASGI middleware: no fetching on a visitor's word, no request bodies beyond the limits.

    served: the page that an app serves.
    """

    def __init__(self, app, limits: Limits, served: ServedBy) -> None:
        self.app, self.limits, self.served = app, limits, served
        self._arriving: dict[str, list[int]] = {}  # bytes of each upload on its way, by address

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        page, address = self.served(scope["app"]), _address_in(scope)
        send = _Sender(send)
        refusal = self._refusal(scope, page, address) or self._closed_door(scope, page, address)
        if refusal is not None:
            return await refusal(scope, receive, send)
        with ExitStack() as ends:
            if _uploads(scope):
                ends.enter_context(self._arrival(scope, address))
            listens = _listens_for(scope)
            if listens:
                page.listeners.began(listens)
                ends.callback(page.listeners.ended, listens)
            if _page_of(scope) is not None:
                ends.callback(_in_background, page.visits.dropped, _page_of(scope))
            await self._answer(scope, self._bounded(scope, receive), send)

    async def _answer(self, scope, receive, send: _Sender) -> None:
        try:
            await self.app(scope, receive, send)
        except Refused as refused:
            answer = _refuse(refused.status, refused.sentence)
        except OSError as error:  # an upload that finds no room
            if not disk_full(error):
                raise
            LOG.error("disk full", extra={"fields": where(error)})
            answer = _refuse(507, DISK_FULL)
        else:
            return
        if not send.began:
            await answer(scope, receive, send)

    def _refusal(self, scope, page: Served, address: str) -> JSONResponse | None:
        path = _path_of(scope)
        fetches = path.lower().startswith(("/file=http:", "/file=https:"))
        if path.startswith("/proxy=") or fetches:
            return _refuse(403, "This server fetches nothing from elsewhere.")
        if path.startswith("/monitoring"):
            return _refuse(404, "Not found.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most_bytes(scope):
            return _refuse(413, TOO_LARGE)
        return self._no_room(page, address, int(length)) if _uploads(scope) else None

    def _no_room(self, page: Served, address: str, length: int) -> JSONResponse | None:
        """Why an upload of so many bytes does not begin, None where there is room."""
        limits, ledger = self.limits, page.workspace.uploads.ledger
        arriving = sum(map(sum, self._arriving.values()))
        mine = self._arriving.get(address, [])
        files, stored = ledger.of(address)
        if ledger.stored + arriving + length > limits.stored_bytes:
            return _refuse(507, DISK_FULL)
        if len(mine) >= limits.address_uploads:
            return _refuse(429, "Too many uploads at once; wait for one of them.")
        if files >= limits.address_files or stored + sum(mine) + length > limits.address_bytes:
            return _refuse(429, FULL_SHARE)
        return None

    @contextmanager
    def _arrival(self, scope, address: str) -> Iterator[None]:
        """An upload is on its way; what it began goes where it fails."""
        length = int(dict(scope["headers"]).get(b"content-length", self.limits.upload_bytes))
        bringer = Bringer(address, self.limits.upload_files)
        token = BRINGER.set(bringer)
        self._arriving.setdefault(address, []).append(length)
        try:
            yield
        finally:
            BRINGER.reset(token)
            self._arriving[address].remove(length)
            if not self._arriving[address]:
                del self._arriving[address]
            bringer.remove_begun()

    def _closed_door(self, scope, page: Served, address: str) -> JSONResponse | None:
        """A page connects, which the limit on open pages has no room for."""
        session = _page_of(scope)
        if session is None or page.visits.opened(session, address):
            return None
        return _refuse(429, "Too many pages are open here, or from your address; close some.")

    def _most_bytes(self, scope) -> int:
        return self.limits.upload_bytes if _uploads(scope) else self.limits.body_bytes

    def _bounded(self, scope, receive):
        """`receive` that ends a body that is too long or too slow."""
        most_bytes, received, arrived = self._most_bytes(scope), 0, False
        until = time.monotonic() + self.limits.upload_s

        async def counted():
            nonlocal received, arrived
            if arrived:  # all that may come is that the client leaves
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0, until - time.monotonic()))
            except TimeoutError:
                raise Refused(408, TOO_SLOW) from None
            received += len(message.get("body", b""))
            if received > most_bytes:
                raise Refused(413, TOO_LARGE)
            arrived = not message.get("more_body")
            return message

        return counted


HEADERS = {
    "content-security-policy": (
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space; object-src 'none';"
        " base-uri 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
}
"""Of every answer: who may frame the page (a Space is shown in a frame), and what browsers guess
and tell.
"""


class _Sender:
    """`send` that adds `HEADERS`, and knows whether an answer has begun."""

    def __init__(self, send) -> None:
        self._send, self.began = send, False

    async def __call__(self, message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = given + [each for each in more if each[0] not in names]
        await self._send(message)


def _in_background(work: Callable, *values: object) -> None:
    asyncio.get_running_loop().run_in_executor(None, work, *values)


def _uploads(scope) -> bool:
    """Whether a request brings files."""
    return scope["method"] == "POST" and _path_of(scope).rstrip("/") == "/upload"


def _address_in(scope) -> str:
    client = scope.get("client")
    return address_of(client[0] if client else None)


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
        "arithmetic": models.arithmetic(models.first),
        "loaded": models.names(),
        "sessions": len(workspace.uploads),
        "analyses": len(workspace.analyses),
        "uptime_s": round(time.time() - STARTED),
        "started": STARTED,
    }
    return JSONResponse(body, 200 if state == "ready" else 503)


NAMED_CALL = "/call/v2/"  # an endpoint called with its arguments by name


async def _answer_call(request: Request, error: Exception) -> Response:
    """A sentence where an endpoint is called by a name, or with arguments, that it does not have;
    any other error goes on.
    """
    if NAMED_CALL not in request.url.path:
        raise error
    if isinstance(error, KeyError):
        return _refuse(404, "Found no such endpoint; expected one that /gradio_api/info lists.")
    return _refuse(
        422,
        "Found arguments that this endpoint does not have, or without one that it needs; expected"
        " those that /gradio_api/info lists for it; correct them.",
    )


def app_options(limits: Limits, served: ServedBy) -> dict:
    """The gate, `/health` and `/closed`, as options of a starlette app.

    `/health?session=`: an open page tells of itself. `/closed?session=`: its page was closed.

    served: the page that an app serves.
    """

    def answer_health(request: Request) -> JSONResponse:
        page = served(request.app)
        if "session" in request.query_params:
            page.visits.heard(request.query_params["session"])
        return health(page.workspace)

    def answer_closed(request: Request) -> Response:
        served(request.app).visits.closed(request.query_params.get("session", ""))
        return Response(status_code=204)

    return {
        "middleware": [Middleware(Gate, limits=limits, served=served)],
        "exception_handlers": {TypeError: _answer_call, KeyError: _answer_call},
        "routes": [
            Route("/health", answer_health),
            Route("/closed", answer_closed, methods=["POST"]),
        ],
    }
