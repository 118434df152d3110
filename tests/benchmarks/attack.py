"""One stranger against the public page: `python tests/benchmarks/attack.py [--rounds 3]` ->
results/attack.json and results/public_server.md.

Starts `python app.py --public` on 127.0.0.1 and tries, a bounded number of times, each way of
locking its door that is known: jobs that nobody listens for, forged layer strips, masses of small
files, pictures that are huge once decoded, scenes drawn without end, invented sessions, odd values.
Beside it an honest visitor asks all the time. Measured are that visitor's answers, and memory,
threads, open files and stored uploads before and after.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE), str(HERE.parent / "space")]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from marks import PAGES, rewrite  # noqa: E402
from served import Server  # noqa: E402
from visitor import Visitor  # noqa: E402

RESULTS, PAGE = HERE / "results" / "attack.json", PAGES / "public_server.md"
BEGIN, END = "<!-- attack: tests/benchmarks/attack.py -->", "<!-- end of attack -->"
ADDRESS = "198.51.100.7"
LAYERS = 16  # of the bundled model
PROMPT = "what is in the top left?"
WIDE, HIGH = 2, 9_900_000  # px: 67 kB as a PNG
REST_S = 20.0  # for what ends by itself, before the last measure


def picture(width: int = 288, height: int = 288) -> bytes:
    """A PNG of one random colour."""
    from PIL import Image

    colour = tuple(secrets.token_bytes(3))
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


class Honest(threading.Thread):
    """A visitor who asks again and again, from an address of its own.

    seconds: each answer took. failed: what it was told instead of an answer.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.over = threading.Event()
        self.seconds: list[float] = []
        self.failed: list[str] = []

    def turn(self) -> None:
        visitor = None
        try:
            visitor = Visitor(self.url)
            began = time.monotonic()
            said = visitor.ask(visitor.upload(picture()), PROMPT)
            if said["ok"]:
                said = visitor.compare(LAYERS, [3, 4], answer_length=8)
            self.seconds.append(time.monotonic() - began)
            if not said["ok"]:
                self.failed.append(str(said["error"]))
        except (httpx.HTTPError, LookupError) as error:
            self.failed.append(repr(error))
        finally:
            if visitor:
                visitor.leave()

    def run(self) -> None:
        while not self.over.is_set():
            self.turn()
            self.over.wait(1.0)


def unheard_jobs(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Sixty-five evaluations that nobody waits for."""
    from svl_core.ui.api import ARGUMENTS

    values = {argument.name: argument.default for argument in ARGUMENTS["evaluate"]}
    codes = []
    for number in range(65):
        asked = {
            "data": list((values | {"questions": 1000}).values()),
            "session_hash": f"unheard-{number}-{secrets.token_hex(4)}",
        }
        codes.append(client.post("/gradio_api/call/evaluate", json=asked).status_code)
    return codes


def forged_strips(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Layer strips of twenty thousand layers, sent to the page's own handlers."""
    visitor.ask(visitor.upload(picture()), PROMPT)
    many = list(range(20_000))
    forged = {"ids": many, "ranking": many, "protected": [], "drop": many, "blocks": [many]}
    said = []
    for function in ("compare", "planned") * 4:
        data = visitor.data(function, strip=forged)
        said.append(400 if not visitor.call(function, data)["ok"] else 200)
    return said


def small_files(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Twenty requests of a thousand files of a few bytes each."""
    codes = []
    for _ in range(20):
        files = [("files", (f"{k}.png", secrets.token_bytes(5))) for k in range(1000)]
        codes.append(client.post("/gradio_api/upload", files=files).status_code)
    return codes


def huge_pictures(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Pictures of a few kilobytes that would be hundreds of megabytes once decoded."""
    codes = []
    content = picture(WIDE, HIGH)
    for _ in range(8):
        files = {"files": ("tall.png", content)}
        answer = client.post("/gradio_api/upload", files=files)
        codes.append(answer.status_code)
        if answer.status_code == 200:
            said = visitor.ask(answer.json()[0], PROMPT)
            codes.append(200 if said["ok"] else 400)
    return codes


def endless_scenes(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Two hundred scenes drawn by one session."""
    button = visitor.ids["new-scene"]
    drawing = next(
        each for each in visitor.config["dependencies"] if [button, "click"] in each["targets"]
    )
    visitor.functions["draw"] = drawing
    codes = []
    for _ in range(200):
        try:
            said = visitor.call("draw", visitor.data("draw"))
            codes.append(200 if said["ok"] else 400)
        except httpx.HTTPStatusError as error:
            codes.append(error.response.status_code)
    return codes


def invented_sessions(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Requests in the names of sessions that never opened the page."""
    clicks = visitor.functions["uploaded"]["id"]
    codes = []
    for number in range(260):
        body = {"data": [None, None], "fn_index": clicks, "session_hash": f"never-{number}"}
        codes.append(client.post("/gradio_api/queue/join", json=body).status_code)
    return codes


def odd_values(client: httpx.Client, visitor: Visitor) -> list[int]:
    """Values of a wrong type, or none, in every argument of every endpoint."""
    from svl_core.ui.api import ARGUMENTS

    codes = []
    for name, arguments in ARGUMENTS.items():
        defaults = [argument.default for argument in arguments]
        usual = [None if isinstance(value, type) else value for value in defaults]
        for place in range(len(usual)):
            for odd in (float("1e308"), "x", {"a": []}):
                data = usual[:place] + [odd] + usual[place + 1 :]
                answer = client.post(f"/gradio_api/call/{name}", json={"data": data})
                codes.append(answer.status_code)
        answer = client.post(f"/gradio_api/call/{name}", json={"data": []})
        codes.append(answer.status_code)
    return codes


ATTACKS = {
    "jobs that nobody listens for": unheard_jobs,
    "forged layer strips": forged_strips,
    "many small files": small_files,
    "huge pictures": huge_pictures,
    "endless scenes": endless_scenes,
    "invented sessions": invented_sessions,
    "odd values": odd_values,
}


def at_rest(server: Server) -> dict[str, float]:
    """The server's measures, once nothing waits and what ends by itself has ended."""
    time.sleep(REST_S)
    return server.measured()


def run(rounds: int) -> dict:
    """Before, after each round, and what the honest visitor met."""
    with tempfile.TemporaryDirectory(prefix="svl-attack-") as folder:
        with Server(Path(folder)) as server:
            honest = Honest(server.url)
            for _ in range(12):
                honest.turn()
            calm = honest.seconds[2:]
            measures = [at_rest(server)]
            honest = Honest(server.url)
            honest.start()
            counted: dict[str, dict[str, int]] = {}
            for number in range(rounds):
                for name, attack in ATTACKS.items():
                    for code, times in tried(server, attack).items():
                        of_attack = counted.setdefault(name, {})
                        of_attack[code] = of_attack.get(code, 0) + times
                    print(f"round {number + 1}: {name} {counted[name]}", flush=True)
                measures.append(at_rest(server))
                print(measures[-1], flush=True)
            honest.over.set()
            honest.join(120)
            measures.append(at_rest(server))
            alive = server.process.poll() is None
    return {
        "rounds": rounds,
        "attacks": counted,
        "measures": measures,
        "honest": {
            "turns": len(honest.seconds),
            "failed": honest.failed,
            "calm_median_s": round(statistics.median(calm), 2),
            "median_s": round(statistics.median(honest.seconds), 2),
            "slowest_s": round(max(honest.seconds), 2),
        },
        "alive": alive,
    }


def tried(server: Server, attack) -> dict[str, int]:
    """How often each status code was answered to one attack from one address."""
    headers = {"x-forwarded-for": ADDRESS}
    visitor = Visitor(server.url, address=ADDRESS)
    codes: dict[str, int] = {}
    try:
        with httpx.Client(base_url=server.url, timeout=120, headers=headers) as client:
            for code in attack(client, visitor):
                codes[str(code)] = codes.get(str(code), 0) + 1
    finally:
        visitor.leave()
    return codes


def sentence(found: dict) -> str:
    """What the page says of a run."""
    first, last = found["measures"][0], found["measures"][-1]
    honest = found["honest"]
    by_round = [f"{each['mb']:.0f}" for each in found["measures"][1:-1]]
    requests = sum(sum(codes.values()) for codes in found["attacks"].values())
    refused = sum(
        count
        for codes in found["attacks"].values()
        for code, count in codes.items()
        if code != "200"
    )
    return (
        f"{requests:,} hostile requests in {found['rounds']} rounds of {len(ATTACKS)} attacks from"
        f" one address ({', '.join(ATTACKS)}), {refused:,} of them refused at once. Meanwhile an"
        f" honest visitor took {honest['turns']} turns (upload, analysis and both answers),"
        f" {len(honest['failed'])} of them without an answer; median {honest['median_s']} s and at"
        f" most {honest['slowest_s']} s, against {honest['calm_median_s']} s before. Before and"
        f" after: memory {first['mb']:.0f} and {last['mb']:.0f} MB, threads {first['threads']} and"
        f" {last['threads']}, open files {first['files']} and {last['files']}, stored uploads"
        f" {first['uploads']} and {last['uploads']} (what no session claims goes after fifteen"
        f" minutes); memory after each round, MB: {', '.join(by_round)}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    found = run(parser.parse_args().rounds)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rewrite(PAGE, BEGIN, END, sentence(found))
    print(sentence(found))


if __name__ == "__main__":
    main()
