"""Visitors without a browser: they speak the page's own protocol and keep every byte that comes
back, or go through `gradio_client`.
"""

import html
import json
import re
import secrets

import httpx


class Page:
    """What a page's config says: parts by element id, their values at first, and the functions
    behind the buttons.
    """

    def read(self, config: dict) -> None:
        self.config = config
        self.ids = {
            part["props"].get("elem_id"): part["id"]
            for part in config["components"]
            if part["props"].get("elem_id")
        }
        self.values = {part["id"]: part["props"].get("value") for part in config["components"]}
        self.states = {part["id"] for part in config["components"] if part["type"] == "state"}
        self.without_value = self.states | {
            part["id"] for part in config["components"] if part.get("skip_api")
        }
        self.functions = {
            "analyse": self._function("model", "image", "prompt"),
            "compare": self._function(None, "strip", None, outputs=("metrics", "odds")),
            "uploaded": self._function("image", "model"),
            "planned": self._function(None, "strip", outputs=("drop",)),
        }

    def _function(self, *first, outputs=()):
        """The dependency whose inputs begin with these parts; None: any without a name."""
        named = {number: name for name, number in self.ids.items()}
        for each in self.config["dependencies"]:
            starts = [named.get(number) for number in each["inputs"][: len(first)]]
            if (
                starts == list(first)
                and each["backend_fn"]
                and all(self.ids[name] in each["outputs"] for name in outputs)
            ):
                return each
        raise LookupError(first)

    def data(self, function: str, **changes) -> list:
        """The inputs of a function as the untouched page would send them, with some parts changed
        by element id.
        """
        changed = {self.ids[name.replace("_", "-")]: value for name, value in changes.items()}
        return [
            changed.get(number, self.values.get(number))
            for number in self.functions[function]["inputs"]
        ]

    def example(self) -> str:
        """The server's path of the picture that every page opens with."""
        return self.values[self.ids["image"]]["path"]

    @staticmethod
    def strip(layers: int, drop: list[int]) -> dict:
        return {
            "ids": list(range(layers)),
            "ranking": list(range(1, layers - 1)),
            "protected": [0, layers - 1],
            "drop": drop,
        }


class Visitor(Page):
    """One session, from an address of its own. `seen` holds all bytes that the server sent to it.

    address: the client's, as a proxy on the server's machine would tell it; None for the true one.
    """

    def __init__(self, url: str, patience: float = 120, address: str | None = ""):
        told = f"198.18.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
        headers = {} if address is None else {"x-forwarded-for": address or told}
        self.http = httpx.Client(base_url=url, timeout=patience, headers=headers)
        self.session, self.seen = secrets.token_hex(8), b""
        self.beat = None
        self.read(self.http.get("/config").json())

    def upload(self, content: bytes, name: str = "picture.png") -> str:
        """The server's path of an uploaded file."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        self.seen += answer.content
        answer.raise_for_status()
        return answer.json()[0]

    def arrive(self):
        """Open the page's connection, which says that its session is open."""
        if self.beat is None:
            self.beat = self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}")
            self.beat.__enter__()

    def join(self, function: str, data: list) -> str:
        self.arrive()
        body = {
            "data": data,
            "fn_index": self.functions[function]["id"],
            "session_hash": self.session,
            "event_data": None,
            "trigger_id": None,
        }
        answer = self.http.post("/gradio_api/queue/join", json=body)
        self.seen += answer.content
        answer.raise_for_status()
        return answer.json()["event_id"]

    def listen(self, event: str) -> dict:
        """Wait for an event's end: {"ok": bool, "error": text or None, "raw": all that was said on
        the way}.
        """
        raw = []
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
        ) as answer:
            for line in answer.iter_lines():
                self.seen += line.encode()
                if not line.startswith("data:"):
                    continue
                raw.append(line)
                message = json.loads(line[5:])
                if message.get("event_id") == event and message["msg"] == "process_completed":
                    return {
                        "ok": message["success"],
                        "error": (message.get("output") or {}).get("error"),
                        "raw": "\n".join(raw),
                    }
                if message["msg"] in ("unexpected_error", "close_stream", "server_stopped"):
                    return {"ok": False, "error": message.get("message"), "raw": "\n".join(raw)}
        return {"ok": False, "error": "the stream ended", "raw": "\n".join(raw)}

    def call(self, function: str, data: list) -> dict:
        return self.listen(self.join(function, data))

    def ask(self, path: str | None, prompt: str, **changes) -> dict:
        """Analyse an uploaded image."""
        image = None if path is None else {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self.call("analyse", self.data("analyse", image=image, prompt=prompt, **changes))

    def compare(self, layers: int, drop: list[int], **changes) -> dict:
        """Drop layers and let both models answer."""
        return self.call("compare", self.data("compare", strip=self.strip(layers, drop), **changes))

    def leave(self):
        """Close the tab."""
        try:
            self.arrive()
            self.beat.__exit__(None, None, None)
        finally:
            self.beat = None
            self.http.close()


class Caller(Page):
    """A visitor through `gradio_client`, who presses the page's own buttons.

    Errors of the page are raised as the client does it.
    """

    def __init__(self, url: str):
        from gradio_client import Client

        self.client = Client(url, verbose=False, download_files=False, analytics_enabled=False)
        self.read(self.client.config)

    def call(self, function: str, **changes) -> dict:
        """{element id: last value}."""
        called = self.functions[function]
        endpoint = self.client.endpoints[called["id"]]
        endpoint.is_valid = True  # private to the page, whose visitor this is
        data = [
            value
            for number, value in zip(called["inputs"], self.data(function, **changes))
            if number not in self.states
        ]
        job = self.client.submit(*data, fn_index=called["id"])
        job.result()
        named, out = {number: name for name, number in self.ids.items()}, {}
        # The client leaves out what has no value of its own for programs: states and buttons.
        shown = [number for number in called["outputs"] if number not in self.without_value]
        for values in job.outputs():
            for number, value in zip(shown, values):
                if not (
                    isinstance(value, dict)
                    and value.get("__type__") == "update"
                    and "value" not in value
                ):
                    out[named.get(number)] = value
        return out

    def ask(self, path: str, prompt: str) -> dict:
        from gradio_client import handle_file

        return self.call("analyse", image=handle_file(path), prompt=prompt)

    def compare(self, layers: int, drop: list[int], **changes) -> dict:
        return self.call("compare", strip=self.strip(layers, drop), **changes)

    def leave(self):
        self.client.close()


def words(answer: str) -> str:
    """The text of an answer's markup."""
    found = re.search(r'<p class="text[^>]*>(.*?)</p>', answer, re.S)
    return html.unescape(re.sub(r"<[^>]+>", "", found[1])).strip() if found else ""
