"""The page's own head is in the first answer, small, and is not sent again where nothing changed.

What gradio does: it puts `head` into its config and adds it to the document when its own script
runs, seconds later; it sends the page (400 kB) uncompressed and without a tag to ask by; its
hashed files are asked for anew on each visit; the streams of its events, which carry every figure,
are sent uncompressed; its `og:` tags are gradio's.
Why not: the first screen is drawn from that head, before gradio has drawn anything.
How: an ASGI middleware that changes the answer to "/" before it leaves.
Tested on gradio 6.31. Unnecessary once templates/frontend/index.html takes `head`, and gradio
compresses it, and its streams of events.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import os
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

HASHED = re.compile(r"^/assets/.+-[\w-]{8}\.(js|css)$")
"""gradio's files whose names change with their content."""
STATIC = re.compile(r"^(/static/|/theme\.css|/assets/|/gradio_api/file=.*plotly\.min\.js$)")
PREVIEWS = "/preview/"
STREAM = "/gradio_api/queue/data"
FOREVER = b"public, max-age=31536000, immutable"
A_DAY = b"public, max-age=86400"
ASK_AGAIN = b"no-cache"  # it may be kept, but is asked for by its tag
META = re.compile(r'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*?/>', re.DOTALL)
KEPT = 4  # compressed pages; they differ by how the page is asked for
LEVEL = 6


def apply(
    options: dict,
    head: Callable,
    card: Callable[[Any, str], str],
    picture: Callable[[str], bytes | None] = lambda name: None,
) -> None:
    """Adds the middleware to the options of a starlette app; see `FrontPage`."""
    options["middleware"].append(Middleware(FrontPage, head=head, card=card, picture=picture))


class FrontPage:
    """ASGI middleware: see above.

    head: of an app, markup for the end of the document's head; asked for once.
    card: of an app and the address that is asked for, the tags of a link's preview.
    picture: a preview's picture, a PNG, by its name; None for a name of none.
    """

    def __init__(
        self,
        app,
        head: Callable,
        card: Callable[[Any, str], str],
        picture: Callable[[str], bytes | None] = lambda name: None,
    ) -> None:
        self.app, self.head, self.card, self.picture = app, head, card, picture
        self._head: str | None = None
        self._compressed: OrderedDict[str, bytes] = OrderedDict()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path == "/" and scope["method"] == "GET":
            return await self._page(scope, receive, send)
        if path.startswith(PREVIEWS):
            return await self._send_picture(scope, send, path.removeprefix(PREVIEWS))
        if path == STREAM and b"gzip" in dict(scope["headers"]).get(b"accept-encoding", b""):
            send = _compressed(send)
        if STATIC.match(path):
            send = _kept_for(send, FOREVER if HASHED.match(path) else A_DAY)
        await self.app(scope, receive, send)

    async def _page(self, scope, receive, send) -> None:
        start, body = {}, bytearray()

        async def gather(message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            if start["status"] == 200 and _is_html(start["headers"]):
                await self._send_page(scope, send, start, bytes(body))
            else:
                await send(start)
                await send({"type": "http.response.body", "body": bytes(body)})

        await self.app(scope, receive, gather)

    async def _send_page(self, scope, send, start, body: bytes) -> None:
        asked = dict(scope["headers"])
        if self._head is None:
            self._head = self.head(scope["app"])
        card = self.card(scope["app"], _asked_address(scope))
        page = self.changed(body.decode("utf-8"), card).encode()
        tag = hashlib.sha256(page).hexdigest()[:32]
        headers = [
            (name, value)
            for name, value in start["headers"]
            if name.lower() not in (b"content-length", b"cache-control", b"etag")
        ]
        etag = f'W/"{tag}"'.encode()
        headers += [(b"etag", etag), (b"cache-control", ASK_AGAIN), (b"vary", b"accept-encoding")]
        if etag in asked.get(b"if-none-match", b""):
            unsaid = [pair for pair in headers if pair[0].lower() != b"content-type"]
            await send({**start, "status": 304, "headers": unsaid})
            return await send({"type": "http.response.body", "body": b""})
        if b"gzip" in asked.get(b"accept-encoding", b""):
            page = self._small(tag, page)
            headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", str(len(page)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": page})

    async def _send_picture(self, scope, send, name: str) -> None:
        content = await run_in_threadpool(self.picture, name)
        found = (b"image/png", A_DAY) if content else (b"text/plain", ASK_AGAIN)
        body = content or b"Found no such picture.\n"
        headers = [
            (b"content-type", found[0]),
            (b"cache-control", found[1]),
            (b"content-length", str(len(body)).encode()),
        ]
        status = 200 if content else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        shown = body if scope["method"] == "GET" else b""
        await send({"type": "http.response.body", "body": shown})

    def changed(self, page: str, card: str) -> str:
        """gradio's document with this page's head and card."""
        page = META.sub("", page)
        before, end, after = page.partition("</head>")
        return before + card + (self._head or "") + end + after

    def _small(self, tag: str, page: bytes) -> bytes:
        if tag not in self._compressed:
            self._compressed[tag] = gzip.compress(page, LEVEL, mtime=0)
            while len(self._compressed) > KEPT:
                self._compressed.popitem(last=False)
        return self._compressed[tag]


def card_tags(title: str, description: str, image: str | None, address: str, alt: str = "") -> str:
    """The tags of a link's preview. image, address: absolute addresses, "" where they are not
    known. alt: what the image shows.
    """
    pictured = {"og:image": image, "og:image:type": "image/png", "og:image:alt": alt}
    size = {"og:image:width": "1200", "og:image:height": "630"}
    tags = {
        "og:type": "website",
        "og:title": title,
        "og:description": description,
        **({"og:url": address} if address else {}),
        "twitter:card": "summary_large_image" if image else "summary",
        **(pictured | size if image else {}),
    }
    return f'<meta name="description" content="{html.escape(description)}">' + "".join(
        f'<meta property="{name}" content="{html.escape(value, quote=True)}">'
        for name, value in tags.items()
    )


def _kept_for(send, how_long: bytes):
    """`send` that lets browsers keep what was found."""

    async def marked(message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            headers = [pair for pair in message["headers"] if pair[0].lower() != b"cache-control"]
            message = {**message, "headers": [*headers, (b"cache-control", how_long)]}
        await send(message)

    return marked


GZIP = 16 + zlib.MAX_WBITS


def _compressed(send):
    """`send` of a stream of events, each of which leaves at once and compressed."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)

    async def packed(message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"content-encoding", b"gzip")]
            return await send({**message, "headers": headers})
        body = packer.compress(message.get("body", b""))
        more = message.get("more_body", False)
        body += packer.flush(zlib.Z_SYNC_FLUSH if more else zlib.Z_FINISH)
        await send({**message, "body": body})

    return packed


def _is_html(headers) -> bool:
    found = {name.lower(): value for name, value in headers}
    return found.get(b"content-type", b"").startswith(b"text/html")


def address_of(scope) -> str:
    """The page's address as the visitor's browser has it, behind a proxy too; "" where a request
    does not say it, and the page is on no Space.
    """
    asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
    scheme = asked.get(b"x-forwarded-proto", scope.get("scheme", "http")).split(",")[0].strip()
    host = asked.get(b"x-forwarded-host", asked.get(b"host", "")).split(",")[0].strip()
    if not re.fullmatch(r"[\w.\-:\[\]]{1,255}", host) or scheme not in ("http", "https"):
        host, scheme = os.environ.get("SPACE_HOST", ""), "https"
    if not host:
        return ""
    return f"{scheme}://{host}{scope.get('root_path', '')}/"


def _asked_address(scope) -> str:
    """The page's address with the query that it was asked for by."""
    query = scope.get("query_string", b"").decode("latin-1")
    address = address_of(scope)
    return f"{address}?{query}" if address and query else address
