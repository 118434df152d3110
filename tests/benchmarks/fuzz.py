"""Hostile input, long version: `python tests/benchmarks/fuzz.py [--pictures 3000] [--seed 0]` ->
results/fuzz.json and results/public_server.md.

Damaged pictures of every format that Pillow writes, and files that begin like those it only reads,
go through the project's only way of opening one; prompts go through the bundled model's encoder.
Each must end as a picture (a sample) or as one sentence; lists of messages and addresses of the
page likewise. The short version, with the page's requests, is tests/space/test_hostile.py.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[k]) for k in (1, 2)] + [
    str(Path(__file__).resolve().parents[1] / "space")
]

from hostile import PROMPTS, chats, damaged_pictures, links  # noqa: E402
from marks import PAGES, between  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "fuzz.json"
CHATS, LINKS = 1000, 2000
HANG_S = 20.0  # of processor time for one file
PAGE = PAGES / "public_server.md"
BEGIN, END = "<!-- fuzz: tests/benchmarks/fuzz.py -->", "<!-- end of fuzz -->"


def measure(pictures: int, seed: int) -> dict:
    """Counts of outcomes; `failures` names everything that was neither opened nor refused in a
    sentence, or hung.
    """
    import svl_core as svl
    from svl_core.errors import InputError
    from svl_core.service.limits import PUBLIC
    from svl_core.ui.state.exports import read_query, refused_in

    outcomes, formats, failures, slowest = Counter(), set(), [], 0.0
    for name, content in damaged_pictures(pictures, seed):
        formats.add(name.split("/")[0]) if "/" in name else None
        start = time.process_time()
        try:
            image = svl.open_image(
                content, max_pixels=PUBLIC.image_pixels, max_bytes=PUBLIC.image_bytes
            )
            outcomes["opened"] += 1
            assert image.mode == "RGB"
        except InputError:
            outcomes["refused"] += 1
        except BaseException as error:
            failures.append(f"{name}: {type(error).__name__}")
        slowest = max(slowest, time.process_time() - start)
        if time.process_time() - start > HANG_S:
            failures.append(f"{name}: {HANG_S} s")
    lvlm = svl.load("demo")
    white = svl.open_image(
        next(content for name, content in damaged_pictures(500) if name == "PNG/RGB")
    )
    plain = lvlm.encode(white, "what?")
    special = set(lvlm.tokenizer.all_special_ids)
    marks = sum(int(each) in special for each in plain.inputs["input_ids"][0])

    def tried(name: str, kind: str, work: Callable[[], object]) -> object:
        """What the work gives, None where it was refused or failed; counts which of them."""
        try:
            found = work()
            outcomes[f"{kind} read"] += 1
            return found
        except InputError:
            outcomes[f"{kind} refused"] += 1
        except BaseException as error:
            failures.append(f"{kind} {name}: {type(error).__name__}")
        return None

    for name, prompt in PROMPTS.items():
        sample = tried(name, "prompts", partial(lvlm.encode, white, prompt))
        if sample is not None and (
            sample.visual.tolist() != plain.visual.tolist()
            or sum(int(each) in special for each in sample.inputs["input_ids"][0]) != marks
        ):
            failures.append(f"prompt {name}: became a mark")
    for messages in chats(CHATS, seed):
        tried(f"{messages!r:.80}", "chats", partial(lvlm.encode, white, messages))
    for query in links(LINKS, seed):
        tried(query[:80], "links", lambda query=query: (read_query(query), refused_in(query)))
    return {
        "pictures": pictures,
        "formats": sorted(formats),
        "seed": seed,
        **{key.replace(" ", "_"): count for key, count in sorted(outcomes.items())},
        "slowest_s": round(slowest, 2),
        "failures": failures,
    }


def with_figures(text: str, made: dict) -> str:
    """`text` with its fuzz sentence made anew."""
    line = (
        f"{made['pictures']:,} damaged pictures of {len(made['formats'])} formats:"
        f" {made['opened']:,} opened, {made['refused']:,} refused in a sentence, slowest"
        f" {made['slowest_s']} s; {made['prompts_read'] + made['prompts_refused']} hostile prompts;"
        f" {made['chats_read'] + made['chats_refused']:,} lists of messages, of which"
        f" {made['chats_read']} are chats; {made['links_read']:,} odd addresses;"
        f" {len(made['failures'])} crashes, hangs or marks let through."
    )
    return between(text, BEGIN, END, line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = measure(options.pictures, options.seed)
    print(json.dumps({**made, "formats": len(made["formats"])}, indent=1))
    if (options.pictures, options.seed) == (3000, 0):
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
