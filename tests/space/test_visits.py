"""When a session ends: a closed page at once, a dropped connection once its page has been silent
for a while, a program with its connection.
"""

import io
import time
from pathlib import Path

import httpx
from visitor import Visitor


def test_a_connection_that_drops_takes_nothing_from_an_open_page(public_site, image):
    (url, page), own = (
        public_site,
        io.BytesIO(),
    )  # a picture that no other visitor of this page has brought
    image.resize((61, 67)).save(own, "PNG")
    visitor = Visitor(url)
    path = visitor.upload(own.getvalue())
    assert visitor.ask(path, "a cat")["ok"]
    assert visitor.http.get("/health", params={"session": visitor.session}).status_code == 200
    visitor.leave()
    visitor.http = httpx.Client(base_url=url, timeout=60)
    until = time.monotonic() + 20
    while visitor.session not in page.visits._dropped and time.monotonic() < until:
        time.sleep(0.05)
    assert visitor.session in page.visits._dropped and Path(path).is_file()
    assert visitor.ask(path, "a cat")["ok"]
    assert page.state_holder.session_data[visitor.session].is_closed
    visitor.http.get("/health", params={"session": visitor.session})
    assert not page.state_holder.session_data[visitor.session].is_closed
    assert visitor.http.post("/closed", params={"session": visitor.session}).status_code == 204
    assert not Path(path).exists() and visitor.session not in page.state_holder.session_data
    again = Visitor(url).ask(path, "a cat")
    assert not again["ok"] and "choose it again" in again["error"] and "/" not in again["error"]
