"""What a page in Chromium asks its server for, as the browser itself counts it."""


class Traffic:
    """Counts from when it is made; `page` is a tab that has not been sent anywhere yet."""

    def __init__(self, page):
        self._asked: dict[str, str] = {}
        self._cached: set[str] = set()
        self._size: dict[str, float] = {}
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        network.on("Network.requestWillBeSent", self._ask)
        network.on("Network.requestServedFromCache", lambda e: self._cached.add(e["requestId"]))
        network.on("Network.responseReceived", self._receive)
        network.on("Network.loadingFinished", self._finish)

    def _ask(self, event):
        self._asked[event["requestId"]] = event["request"]["url"]

    def _receive(self, event):
        if event["response"].get("fromDiskCache"):
            self._cached.add(event["requestId"])

    def _finish(self, event):
        self._size[event["requestId"]] = event["encodedDataLength"]

    @property
    def _sent(self):
        """Requests that reached the server."""
        return [
            one
            for one, url in self._asked.items()
            if one not in self._cached and url.startswith("http")
        ]

    @property
    def requests(self) -> int:
        return len(self._sent)

    @property
    def bytes(self) -> float:
        """Of their answers, as they came over the network."""
        return sum(self._size.get(one, 0) for one in self._sent)
