"""A visitor without a browser: speaks the page's own protocol and keeps every byte that comes back."""

import json
import secrets

import httpx


class Visitor:
    """One session. `seen` holds all bytes that the server sent to it."""

    def __init__(self, url: str, patience: float = 120):
        self.http = httpx.Client(base_url=url, timeout=patience)
        self.session, self.seen = secrets.token_hex(8), b""
        self.config = self.http.get("/config").json()
        self.ids = {part["props"].get("elem_id"): part["id"] for part in self.config["components"] if part["props"].get("elem_id")}
        self.values = {part["id"]: part["props"].get("value") for part in self.config["components"]}
        self.functions = {"analyse": self._function("model", "image", "prompt"), "compare": self._function(None, "strip", None, outputs=("metrics", "odds")), "uploaded": self._function("image", "model")}

    def _function(self, *first, outputs=()):
        """The dependency whose inputs begin with these parts (None: any without a name of its own)."""
        named = {number: name for name, number in self.ids.items()}
        for each in self.config["dependencies"]:
            starts = [named.get(number) for number in each["inputs"][: len(first)]]
            if starts == list(first) and each["backend_fn"] and all(self.ids[name] in each["outputs"] for name in outputs):
                return each
        raise LookupError(first)

    def upload(self, content: bytes, name: str = "picture.png") -> str:
        """The server's path of an uploaded file."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        self.seen += answer.content
        answer.raise_for_status()
        return answer.json()[0]

    def data(self, function: str, **changes) -> list:
        """The inputs of a function as the untouched page would send them, with some parts changed by element id."""
        changed = {self.ids[name.replace("_", "-")]: value for name, value in changes.items()}
        return [changed.get(number, self.values.get(number)) for number in self.functions[function]["inputs"]]

    def join(self, function: str, data: list) -> str:
        body = {"data": data, "fn_index": self.functions[function]["id"], "session_hash": self.session, "event_data": None, "trigger_id": None}
        answer = self.http.post("/gradio_api/queue/join", json=body)
        self.seen += answer.content
        answer.raise_for_status()
        return answer.json()["event_id"]

    def listen(self, event: str) -> dict:
        """Wait for an event's end: {"ok": bool, "error": text or None, "raw": all that was said on the way}."""
        raw = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                self.seen += line.encode()
                if not line.startswith("data:"):
                    continue
                raw.append(line)
                message = json.loads(line[5:])
                if message.get("event_id") == event and message["msg"] == "process_completed":
                    return {"ok": message["success"], "error": (message.get("output") or {}).get("error"), "raw": "\n".join(raw)}
                if message["msg"] in ("unexpected_error", "close_stream", "server_stopped"):
                    return {"ok": False, "error": message.get("message"), "raw": "\n".join(raw)}
        return {"ok": False, "error": "the stream ended", "raw": "\n".join(raw)}

    def call(self, function: str, data: list) -> dict:
        return self.listen(self.join(function, data))

    def example(self) -> str:
        """The server's path of the picture that every page opens with."""
        return self.values[self.ids["image"]]["path"]

    def ask(self, path: str | None, prompt: str, **changes) -> dict:
        """Analyse an uploaded image."""
        image = None if path is None else {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self.call("analyse", self.data("analyse", image=image, prompt=prompt, **changes))

    def compare(self, layers: int, drop: list[int], **changes) -> dict:
        """Drop layers and let both models answer."""
        strip = {"ids": list(range(layers)), "ranking": list(range(1, layers - 1)), "protected": [0, layers - 1], "drop": drop}
        return self.call("compare", self.data("compare", strip=strip, **changes))

    def leave(self):
        """Close the tab."""
        try:
            with self.http.stream("GET", f"/gradio_api/heartbeat/{self.session}") as beat:
                next(beat.iter_lines())
        finally:
            self.http.close()
